//! The collector: removes what nothing refers to any more (DESIGN.md, "GC").
//!
//! One run is a row of steps, each of which leaves the store sound wherever it is cut off, and whoever else is in the middle of another run:
//!
//! ```text
//! review    reads the condemn lists that earlier runs left
//! survey    lists pins, then objects, then heads; reads every head and manifest: what is reachable, and what is garbage
//! delete    what a list of at least a grace ago condemns and this survey found garbage again
//! close     removes the lists that are used up, retires those that are not
//! condemn   puts a list of the garbage that is in none yet, then reads the pins, and replaces the list if one names anything of it
//! ```
//!
//! **Garbage** is what no head, manifest or young pin reaches, is older than the grace by the store's clock, and can never be published:
//!
//! - A head that cannot be read, is damaged or of a newer format, or whose manifest is, ends the run: nothing is collected, and the error names them all. The same for an object among the
//!   heads of a kind that is unknown here: a newer version may refer to anything from there.
//! - References are found in a head or manifest by their looks: every text in it that begins like a key is one ([`references`]). A field that this version does not know keeps what it names.
//! - *Uploads under way* need no clock. A branch's objects carry the epoch in which their node held it, and are published by replacing a version of the head of that epoch. So
//!   nothing of a former epoch, or of a branch that nobody holds, can ever be published; what is of a held branch's present epoch is left alone, however old, but for what lies
//!   before the last manifest published in it: uploads of one branch are one after another, and their keys begin at the sequence the head had when they began.
//! - *A base that no head lists* is an import under way or a killed one: it counts as young as long as its youngest object, and whoever seals it looks for condemn lists last
//!   ([`super::Catalog::publish_base`]). Of a listed base nothing is removed but a staged index.
//! - *Children under way* are `pins`' matter.
//! - Tombstones of heads stay (`catalog`), and reach nothing.
//!
//! **Life of a condemn list**, create-only, its number never used twice: younger than a grace, it warns children only. Then every run acts on it. It is removed when all it names is
//! gone: keys are never used again, so a slower collector that still means to delete them does no harm. If something of it is in use again, it cannot be used up, and its removal would let a child
//! take what a slower collector is about to delete. So it is *retired* first, by a mark beside it: no run that begins later acts on it, those that began before end their deletions within half a grace of their review,
//! and a grace after the mark it goes.
//!
//! What a run needs: one listing, one GET for each head and each reachable manifest, one DELETE for each object; about 200 bytes of memory for each object of the store.

mod lists;
mod references;
mod report;
mod survey;
#[cfg(test)]
mod tests;

pub(super) use lists::condemned_keys;
pub use lists::{Condemned, Review};
#[cfg(any(test, fuzzing))]
pub(super) use references::references;
pub use report::{Fate, Report, Row, Tally};
pub use survey::{Garbage, Kind, Survey, Why};

use super::{Catalog, StoreError, keys};
use crate::model::fault::{self, FaultPoint};
use crate::model::{Clock, Nonce, UnixMs};
use futures::StreamExt;
use std::collections::HashSet;
use std::time::Duration;

/// Between the two passes that must find an object unreachable.
pub const GRACE: Duration = Duration::from_secs(24 * 3600);
/// The least: what children and deletions under way rely on is measured in parts of it.
pub const LEAST_GRACE: Duration = Duration::from_secs(3600);
/// Deletions under way at once.
const DELETE_CONCURRENCY: usize = 16;
/// Objects deleted between two looks at the clock.
const BATCH: usize = 256;
/// Objects that one list condemns; the rest waits for the next run.
const MOST_CONDEMNED: usize = 200_000;

/// Why nothing was collected, or not all.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "nothing is collected, since what is reachable cannot be told: {}; `offshoot fsck` says more",
        .0.iter().map(StoreError::to_string).collect::<Vec<_>>().join("; ")
    )]
    Unsound(Vec<StoreError>),
    #[error("a grace of {0:?} is too short: children and collectors under way rely on at least an hour")]
    Grace(Duration),
}

/// Collects one store. Several may run at once, on any node.
#[derive(Clone)]
pub struct Collector {
    catalog: Catalog,
    clock: Clock,
    grace_ms: u64,
}

/// What one run is to delete.
#[derive(Debug)]
pub struct Sentence {
    keys: Vec<String>,
    done: HashSet<String>,
    /// By this machine's clock.
    until_ms: UnixMs,
}

impl Sentence {
    /// What is still to be deleted.
    pub fn remaining(&self) -> usize {
        self.keys.len()
    }
}

/// How a batch of deletions ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    More,
    Done,
    /// What the survey said is too old to act on. The next run goes on.
    OutOfTime,
}

impl Collector {
    pub fn new(catalog: Catalog, clock: Clock, grace: Duration) -> Result<Collector, CollectError> {
        if grace < LEAST_GRACE {
            return Err(CollectError::Grace(grace));
        }
        Ok(Collector { catalog, clock, grace_ms: grace.as_millis() as u64 })
    }

    /// All steps.
    pub async fn run(&self) -> Result<Report, CollectError> {
        let review = self.review(self.store_time().await?).await?;
        let survey = self.survey(&review).await?;
        let mut report = Report::of(&review, &survey);
        let mut sentence = self.sentence(&review, &survey);
        let end = loop {
            match self.delete(&mut sentence, BATCH).await? {
                Progress::More => {}
                end => break end,
            }
        };
        if end == Progress::OutOfTime {
            report.left = sentence.remaining();
            return Ok(report);
        }
        self.close(&review, &survey, &sentence).await?;
        if let Some(condemned) = self.condemn(&review, &survey).await? {
            self.spare_pinned(condemned).await?;
        }
        Ok(report)
    }

    /// What [`Collector::run`] would do. Writes nothing; ages are by this machine's clock.
    pub async fn dry_run(&self) -> Result<Report, CollectError> {
        let review = self.review(self.clock.now()).await?;
        let survey = self.survey(&review).await?;
        Ok(Report::of(&review, &survey))
    }

    /// The store's time: what it says of an object that is put now.
    pub async fn store_time(&self) -> Result<UnixMs, StoreError> {
        let key = keys::clock(&Nonce::random(&self.catalog.entropy));
        let store = self.catalog.store();
        store.create(&key, self.clock.now().to_string().into_bytes()).await?;
        let listed = store.list_objects(keys::CLOCKS).await;
        store.delete(&key).await?;
        let found = listed?.into_iter().find(|object| object.key == key);
        found.map(|object| object.modified_ms).ok_or(StoreError::Missing { key })
    }

    /// What to delete: condemned at least a grace ago, found garbage again, and what needs no condemning.
    pub fn sentence(&self, review: &Review, survey: &Survey) -> Sentence {
        let doomed = survey.garbage.keys().filter(|key| review.dooms(key)).cloned();
        let keys = doomed.chain(survey.over.keys().cloned()).collect();
        Sentence { keys, done: HashSet::new(), until_ms: review.began_ms + self.grace_ms / 2 }
    }

    /// Deletes at most `count` objects. One that is gone already is no error.
    pub async fn delete(&self, sentence: &mut Sentence, count: usize) -> Result<Progress, StoreError> {
        if sentence.keys.is_empty() {
            return Ok(Progress::Done);
        }
        if self.clock.now() >= sentence.until_ms {
            return Ok(Progress::OutOfTime);
        }
        let batch = sentence.keys.split_off(sentence.keys.len().saturating_sub(count));
        let mut deletions = futures::stream::iter(batch)
            .map(|key| async move {
                let deleted = self.catalog.store().delete(&key).await;
                fault::pass(FaultPoint::GarbageDeleted);
                deleted.map(|()| key)
            })
            .buffer_unordered(DELETE_CONCURRENCY);
        while let Some(deleted) = deletions.next().await {
            sentence.done.insert(deleted?);
        }
        Ok(if sentence.keys.is_empty() { Progress::Done } else { Progress::More })
    }
}
