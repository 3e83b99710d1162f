//! Condemn lists: put, read, retired and removed. Their life is told in `collect`.
//!
//! `v1/gc/condemn/<n>`: JSON compressed with zstd ([`CondemnList`]), create-only. `v1/gc/retired/<n>`: empty but for the time. `n` is the store's time in milliseconds when
//! the list was put, or the next number after all there are: never used twice, so that a slow collector cannot take one list for another.

use super::survey::Survey;
use super::{Collector, MOST_CONDEMNED, Sentence};
use crate::model::UnixMs;
use crate::model::fault::{self, FaultPoint};
use crate::store::document::{self, Document};
use crate::store::{Expect, Store, StoreError, keys};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap, HashSet};

/// How often a list is numbered anew when another collector is as fast.
const PUT_ATTEMPTS: u64 = 16;

/// What one run condemned.
#[derive(Serialize, Deserialize)]
struct CondemnList {
    format: u32,
    keys: Vec<String>,
}

impl CondemnList {
    const FORMAT: u32 = 1;
}

impl Document for CondemnList {
    const NEWEST: u32 = CondemnList::FORMAT;
    fn format(&self) -> u32 {
        self.format
    }
}

/// The keys that the list at `key` condemns; `None` where it is gone.
pub(in crate::store) async fn condemned_keys(store: &Store, key: &str) -> Result<Option<Vec<String>>, StoreError> {
    let Some(object) = store.get(key).await? else { return Ok(None) };
    Ok(Some(document::decode::<CondemnList>(key, &object.bytes)?.keys))
}

/// Where a list stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Younger than a grace.
    Warning,
    Acting,
    Retired,
    /// Retired for a grace.
    Over,
}

#[derive(Debug)]
struct List {
    number: u64,
    stage: Stage,
    keys: Vec<String>,
}

/// The condemn lists as they were before a survey.
#[derive(Debug)]
pub struct Review {
    /// The store's time.
    pub now_ms: UnixMs,
    /// This machine's time.
    pub(super) began_ms: UnixMs,
    pub(super) grace_ms: u64,
    lists: Vec<List>,
    /// Marks whose lists are gone.
    stray_marks: Vec<u64>,
    /// Each condemned key, and the stage of the list that condemns it; the most dangerous counts.
    condemned: HashMap<String, bool>,
}

impl Review {
    /// Whether a list of at least a grace ago condemns `key`.
    pub(super) fn dooms(&self, key: &str) -> bool {
        self.condemned.get(key) == Some(&true)
    }

    /// Whether any list that is or will be acted on condemns `key`.
    pub(super) fn names(&self, key: &str) -> bool {
        self.condemned.contains_key(key)
    }
}

/// A list that was just put.
#[derive(Debug)]
pub struct Condemned {
    number: u64,
    keys: BTreeSet<String>,
    /// By this machine's clock, before it was put.
    put_ms: UnixMs,
}

impl Collector {
    /// Reads the condemn lists. `now_ms` is the store's time.
    pub async fn review(&self, now_ms: UnixMs) -> Result<Review, StoreError> {
        let store = self.catalog.store();
        let began_ms = self.clock.now();
        let listed = store.list_objects(keys::CONDEMNED).await?;
        // After the lists: a mark is put later than its list.
        let marks = store.list_objects(keys::RETIRED).await?;
        let age = |modified_ms: UnixMs| now_ms.saturating_sub(modified_ms);
        let mut retired: HashMap<u64, u64> =
            marks.iter().filter_map(|mark| Some((keys::condemn_number(&mark.key)?, age(mark.modified_ms)))).collect();
        let mut review = Review {
            now_ms,
            began_ms,
            grace_ms: self.grace_ms,
            lists: Vec::new(),
            stray_marks: Vec::new(),
            condemned: HashMap::new(),
        };
        for object in listed {
            let Some(number) = keys::condemn_number(&object.key) else { continue };
            let stage = match retired.remove(&number) {
                Some(retired) if retired >= self.grace_ms => Stage::Over,
                Some(_) => Stage::Retired,
                None if age(object.modified_ms) >= self.grace_ms => Stage::Acting,
                None => Stage::Warning,
            };
            let Some(keys) = condemned_keys(store, &object.key).await? else { continue };
            if matches!(stage, Stage::Acting | Stage::Warning) {
                for key in &keys {
                    *review.condemned.entry(key.clone()).or_default() |= stage == Stage::Acting;
                }
            }
            review.lists.push(List { number, stage, keys });
        }
        review.stray_marks = retired.into_keys().collect();
        Ok(review)
    }

    /// Puts a list of the garbage that no list condemns yet; `None` where there is none.
    pub async fn condemn(&self, review: &Review, survey: &Survey) -> Result<Option<Condemned>, StoreError> {
        let fresh = survey.garbage.keys().filter(|key| !review.names(key)).take(MOST_CONDEMNED).cloned();
        let keys: BTreeSet<String> = fresh.collect();
        if keys.is_empty() { Ok(None) } else { self.put_list(review.now_ms, keys).await.map(Some) }
    }

    async fn put_list(&self, at_least: u64, keys: BTreeSet<String>) -> Result<Condemned, StoreError> {
        let store = self.catalog.store();
        let list = CondemnList { format: CondemnList::FORMAT, keys: keys.iter().cloned().collect() };
        let bytes = document::encode(&list);
        let put_ms = self.clock.now();
        let there = store.list(keys::CONDEMNED).await?.into_iter().chain(store.list(keys::RETIRED).await?);
        let first = there.filter_map(|key| keys::condemn_number(&key)).map(|number| number + 1).max();
        let first = first.map_or(at_least, |first| first.max(at_least));
        for number in first..first + PUT_ATTEMPTS {
            let key = keys::condemned(number);
            // Not `create`, which takes an equal list of another collector for our own.
            match store.put_if(&key, bytes.clone(), Expect::Absent).await {
                Ok(_) => {
                    fault::pass(FaultPoint::CondemnPut);
                    return Ok(Condemned { number, keys, put_ms });
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Err(StoreError::Conflict { key: keys::condemned(first) })
    }

    /// Reads the pins after a list was put, and replaces it if they reach anything of it. Gives what is condemned in the end.
    pub async fn spare_pinned(&self, condemned: Condemned) -> Result<Condemned, StoreError> {
        let reached = self.reached_by_pins().await?;
        let spared: HashSet<&String> = condemned.keys.iter().filter(|key| reached.contains(*key)).collect();
        // A list that others may act on by now is not ours to take back; they will spare what is pinned.
        let is_young = self.clock.now().saturating_sub(condemned.put_ms) < self.grace_ms / 2;
        if spared.is_empty() || !is_young {
            return Ok(condemned);
        }
        let rest: BTreeSet<String> = condemned.keys.iter().filter(|key| !spared.contains(key)).cloned().collect();
        let replacement = if rest.is_empty() {
            Condemned { number: condemned.number, keys: rest, put_ms: condemned.put_ms }
        } else {
            self.put_list(condemned.number + 1, rest).await?
        };
        self.remove_list(condemned.number).await?;
        Ok(replacement)
    }

    /// Removes the lists that are used up or long retired; retires those that cannot be used up.
    pub async fn close(&self, review: &Review, survey: &Survey, sentence: &Sentence) -> Result<(), StoreError> {
        let store = self.catalog.store();
        for list in &review.lists {
            let is_there = |key: &&String| survey.condemned_present.contains(*key) && !sentence.done.contains(*key);
            let used_up = list.keys.iter().filter(is_there).count() == 0;
            match list.stage {
                Stage::Over => self.remove_list(list.number).await?,
                _ if used_up => self.remove_list(list.number).await?,
                Stage::Acting => {
                    let mark = keys::retired(list.number);
                    match store.put_if(&mark, review.now_ms.to_string().into(), Expect::Absent).await {
                        Ok(_) | Err(StoreError::Conflict { .. }) => fault::pass(FaultPoint::CondemnRetired),
                        Err(e) => return Err(e),
                    }
                }
                Stage::Warning | Stage::Retired => {}
            }
        }
        for number in &review.stray_marks {
            store.delete(&keys::retired(*number)).await?;
        }
        Ok(())
    }

    async fn remove_list(&self, number: u64) -> Result<(), StoreError> {
        let store = self.catalog.store();
        store.delete(&keys::condemned(number)).await?;
        fault::pass(FaultPoint::CondemnRemoved);
        // After its list: a list without its mark would be acted on again.
        store.delete(&keys::retired(number)).await
    }

    /// Every key that any list names, for a survey to look for.
    pub(super) fn listed_keys<'a>(&self, review: &'a Review) -> HashSet<&'a str> {
        review.lists.iter().flat_map(|list| list.keys.iter().map(String::as_str)).collect()
    }
}
