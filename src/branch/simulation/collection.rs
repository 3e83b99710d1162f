//! A simulated collector: one run cut into its steps, any of which may fail or be the process's last.

use super::node::Around;
use super::planted::Planted;
use super::world::block_on;
use crate::model::{Clock, Entropy, UnixMs};
use crate::store::collect::{CollectError, Collector, Condemned, LEAST_GRACE, Progress, Review, Sentence, Survey};
use crate::store::simulated::SimulatedStore;
use crate::store::{Catalog, Store, StoreError};
use tokio::runtime::Runtime;

/// Objects deleted between two steps.
const BATCH: usize = 3;
const GRACE_MS: UnixMs = LEAST_GRACE.as_millis() as UnixMs;

enum Stage {
    Idle,
    Surveyed { review: Box<Review>, survey: Box<Survey>, sentence: Option<Sentence> },
    Condemned(Condemned),
}

pub(super) struct SimulatedCollector {
    pub door: SimulatedStore,
    collector: Collector,
    planted: Planted,
    stage: Stage,
    clock: Clock,
    /// With the planted bug: what was read before the last list was put, and when that was.
    before: Option<(UnixMs, Box<Survey>)>,
}

impl SimulatedCollector {
    pub(super) fn new(door: SimulatedStore, clock: Clock, seed: u64, planted: Planted) -> Self {
        let entropy = Entropy::seeded(seed);
        let catalog = Catalog::new(Store::simulated(&door, &entropy), entropy);
        let collector = Collector::new(catalog, clock.clone(), LEAST_GRACE).expect("it is the least");
        SimulatedCollector { door, collector, planted, stage: Stage::Idle, clock, before: None }
    }

    /// Whether it has found `key` to be garbage, and not yet told anybody.
    pub(super) fn is_about_to_condemn(&self, key: &str) -> bool {
        matches!(&self.stage, Stage::Surveyed { survey, .. } if survey.garbage.contains_key(key))
    }

    /// The process dies: what it had read is gone.
    pub(super) fn die(&mut self) {
        self.stage = Stage::Idle;
    }

    pub(super) fn step(&mut self, runtime: &Runtime, around: &mut Around) {
        let stage = std::mem::replace(&mut self.stage, Stage::Idle);
        match block_on(runtime, self.next(stage, around)) {
            Ok(stage) => self.stage = stage,
            Err(CollectError::Unsound(all)) => {
                all.iter().for_each(|error| self.check(error, around));
                around.tell("  the collector cannot read everything".to_owned());
            }
            Err(CollectError::Store(error)) => {
                self.check(&error, around);
                around.tell("  the collector meets an error".to_owned());
            }
            Err(error) => panic!("seed {}: {error}", around.seed),
        }
    }

    /// What it needs can fail to be had, or be taken by another collector, but never be missing or damaged.
    fn check(&self, error: &StoreError, around: &Around) {
        let is_race = matches!(error, StoreError::Conflict { .. });
        let is_failure = matches!(error, StoreError::Unavailable { .. }) && self.door.is_failing();
        assert!(is_race || is_failure, "seed {}: a collector finds: {error}", around.seed);
    }

    async fn next(&mut self, stage: Stage, around: &mut Around) -> Result<Stage, CollectError> {
        let collector = &self.collector;
        Ok(match stage {
            Stage::Idle if self.before.as_ref().is_some_and(|(put_ms, _)| self.clock.now() < put_ms + GRACE_MS) => {
                Stage::Idle
            }
            Stage::Idle => {
                let review = Box::new(collector.review(collector.store_time().await?).await?);
                let survey = match self.before.take() {
                    // The bug: what was read before the list was put still counts.
                    Some((_, before)) => before,
                    None => Box::new(collector.survey(&review).await?),
                };
                around.tell(format!("  {} pieces of garbage", survey.garbage.len()));
                let sentence = Some(collector.sentence(&review, &survey));
                Stage::Surveyed { review, survey, sentence }
            }
            Stage::Surveyed { review, survey, sentence: Some(mut sentence) } => {
                match collector.delete(&mut sentence, BATCH).await? {
                    Progress::More => Stage::Surveyed { review, survey, sentence: Some(sentence) },
                    Progress::OutOfTime => Stage::Idle,
                    Progress::Done => {
                        collector.close(&review, &survey, &sentence).await?;
                        Stage::Surveyed { review, survey, sentence: None }
                    }
                }
            }
            Stage::Surveyed { review, survey, sentence: None } => {
                let condemned = collector.condemn(&review, &survey).await?;
                if self.planted == Planted::PinsBeforeCondemning && condemned.is_some() {
                    self.before = Some((self.clock.now(), survey));
                    return Ok(Stage::Idle);
                }
                condemned.map_or(Stage::Idle, Stage::Condemned)
            }
            Stage::Condemned(condemned) => {
                collector.spare_pinned(condemned).await?;
                Stage::Idle
            }
        })
    }
}
