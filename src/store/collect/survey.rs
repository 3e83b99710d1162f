//! The mark: what every head, manifest and young pin reaches, and what of the store is garbage.
//!
//! Order matters: pins are listed before heads, since a child puts its head before it removes its pin. Everything here only reads.

use super::references::references;
use super::{CollectError, Collector, Review};
use crate::model::{BaseId, BranchHead, BranchId, ManifestRef, ProjectHead};
use crate::store::document::{self, Document};
use crate::store::keys::{self, BranchObject, Key};
use crate::store::pins::Pin;
use crate::store::{Listed, StoreError};
use futures::StreamExt;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Heads and manifests read at once.
const READ_CONCURRENCY: usize = 16;

/// What kind of object is garbage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Base,
    StagedIndex,
    Manifest,
    Layer,
    Image,
    Boot,
    Pin,
    Scratch,
}

/// Why it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// Of an import that was killed.
    BaseNotListed,
    BaseSealed,
    BranchGone,
    NoManifestListsIt,
    ChildHadItsTime,
    LeftByProbe,
}

/// An object that nothing refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbage {
    pub kind: Kind,
    pub why: Why,
    pub bytes: u64,
}

/// What one look at the whole store found.
#[derive(Debug, Default)]
pub struct Survey {
    /// May be condemned, and deleted where it was.
    pub garbage: BTreeMap<String, Garbage>,
    /// May be deleted without: pins that are over, and what a probe left.
    pub over: BTreeMap<String, Garbage>,
    /// Unreachable, but young, or perhaps of an upload under way.
    pub waiting: Vec<Garbage>,
    /// Objects and bytes that are reachable, heads included.
    pub in_use: (u64, u64),
    /// Condemned objects that are there.
    pub(super) condemned_present: HashSet<String>,
}

/// What is reachable.
#[derive(Default)]
struct Reachable {
    keys: HashSet<String>,
    bases: HashSet<BaseId>,
    branches: HashMap<BranchId, Life>,
}

/// A branch whose head is no tombstone.
struct Life {
    epoch: u64,
    is_held: bool,
    /// Epoch and sequence of the manifest it has.
    published: Option<(u64, u64)>,
}

impl Life {
    /// Whether an object of this branch may be of an upload that is not published yet (`collect`).
    fn may_publish(&self, epoch: u64, seq: u64) -> bool {
        // Of a later epoch: the head is older than what was written after it. Nothing of that may go.
        epoch > self.epoch
            || epoch == self.epoch
                && self.is_held
                && self.published.is_none_or(|published| published.0 != epoch || seq >= published.1)
    }
}

/// What a survey must know of a manifest; its layers are found by their looks.
#[derive(Deserialize)]
struct ManifestGist {
    format: u32,
    base: BaseId,
}

impl Collector {
    /// Looks at the whole store. `review` was made before.
    pub async fn survey(&self, review: &Review) -> Result<Survey, CollectError> {
        let store = self.catalog.store();
        let pins = store.list_objects(keys::PINS).await?;
        let branch_objects = store.list_objects(keys::BRANCHES).await?;
        let project_objects = store.list_objects(keys::PROJECTS).await?;
        let (young_pins, over): (Vec<&Listed>, Vec<&Listed>) =
            pins.iter().partition(|pin| review.age(pin) < review.grace_ms);

        let mut unsound = Vec::new();
        let mut reachable = Reachable::default();
        let mut manifests = self.mark_heads(&project_objects, &mut reachable, &mut unsound).await;
        for pin in self.read_pins(young_pins.into_iter().map(|pin| pin.key.clone()).collect(), &mut unsound).await {
            manifests.entry(pin.manifest.key.clone()).or_insert((pin.manifest, false));
        }
        self.mark_manifests(manifests, &mut reachable, &mut unsound).await;
        if !unsound.is_empty() {
            return Err(CollectError::Unsound(unsound));
        }

        let mut sorting = Sorting::new(review, &reachable, &project_objects, self.listed_keys(review));
        project_objects.iter().chain(&branch_objects).for_each(|object| sorting.sort(object));
        let mut survey = sorting.survey;
        for pin in over {
            let garbage = Garbage { kind: Kind::Pin, why: Why::ChildHadItsTime, bytes: pin.bytes };
            survey.over.insert(pin.key.clone(), garbage);
        }
        for folder in [keys::PROBES, keys::CLOCKS] {
            for object in store.list_objects(folder).await? {
                if review.age(&object) >= review.grace_ms {
                    let garbage = Garbage { kind: Kind::Scratch, why: Why::LeftByProbe, bytes: object.bytes };
                    survey.over.insert(object.key, garbage);
                }
            }
        }
        Ok(survey)
    }

    /// Reads every head. Gives the manifests they name, each with whether it must be there.
    async fn mark_heads(
        &self,
        listed: &[Listed],
        reachable: &mut Reachable,
        unsound: &mut Vec<StoreError>,
    ) -> HashMap<String, (ManifestRef, bool)> {
        let mut manifests = HashMap::new();
        let mut reads = futures::stream::iter(listed.iter().filter_map(|object| {
            let key = Key::parse(&object.key);
            let is_head = matches!(key, Key::ProjectHead(_) | Key::BranchHead(_) | Key::Unknown);
            // A file store's heads are first written beside themselves.
            (is_head && !object.key.ends_with(".new")).then(|| (key, object.key.clone()))
        }))
        .map(|(kind, key)| async move {
            let read = match kind {
                Key::Unknown => Err(unknown(&key)),
                _ => self.catalog.store().get(&key).await.and_then(|found| found.ok_or(missing(&key))),
            };
            (kind, key, read)
        })
        .buffer_unordered(READ_CONCURRENCY);
        while let Some((kind, key, read)) = reads.next().await {
            let marked = read.and_then(|object| match kind {
                Key::ProjectHead(_) => mark_project(&key, &object.bytes, reachable),
                _ => mark_branch(&key, &object.bytes, reachable, &mut manifests),
            });
            unsound.extend(marked.err());
        }
        manifests
    }

    /// Reads the pins of these keys; those that are gone meanwhile are no matter.
    async fn read_pins(&self, keys: Vec<String>, unsound: &mut Vec<StoreError>) -> Vec<Pin> {
        let mut reads = futures::stream::iter(keys)
            .map(|key| async move { self.catalog.read_document::<Pin>(&key).await })
            .buffer_unordered(READ_CONCURRENCY);
        let mut pins = Vec::new();
        while let Some(read) = reads.next().await {
            match read {
                Ok(found) => pins.extend(found),
                Err(e) => unsound.push(e),
            }
        }
        pins
    }

    async fn mark_manifests(
        &self,
        manifests: HashMap<String, (ManifestRef, bool)>,
        reachable: &mut Reachable,
        unsound: &mut Vec<StoreError>,
    ) {
        let mut reads = futures::stream::iter(manifests.into_values())
            .map(|(reference, must_be_there)| async move {
                let read = self.catalog.manifest_object(&reference).await;
                let gist = read.and_then(|object| gist(&reference.key, &object));
                (reference.key, must_be_there, gist)
            })
            .buffer_unordered(READ_CONCURRENCY);
        while let Some((key, must_be_there, gist)) = reads.next().await {
            match gist {
                Ok((base, keys)) => {
                    reachable.bases.insert(base);
                    reachable.keys.extend(keys);
                    // What a wake reads beside a manifest has its name.
                    reachable.keys.insert(key.replacen("/manifest/", "/boot/", 1));
                    reachable.keys.insert(key);
                }
                // A child that pinned what was gone already finds out by itself (`pins`).
                Err(StoreError::Missing { .. }) if !must_be_there => {}
                Err(e) => unsound.push(e),
            }
        }
    }

    /// Every key that a pin reaches, whatever its age.
    pub(super) async fn reached_by_pins(&self) -> Result<HashSet<String>, StoreError> {
        let keys = self.catalog.store().list(keys::PINS).await?;
        let (mut unsound, mut reachable) = (Vec::new(), Reachable::default());
        let pins = self.read_pins(keys, &mut unsound).await;
        let manifests = pins.into_iter().map(|pin| (pin.manifest.key.clone(), (pin.manifest, false))).collect();
        self.mark_manifests(manifests, &mut reachable, &mut unsound).await;
        unsound.pop().map_or(Ok(reachable.keys), Err)
    }
}

impl Review {
    fn age(&self, object: &Listed) -> u64 {
        self.now_ms.saturating_sub(object.modified_ms)
    }
}

fn unknown(key: &str) -> StoreError {
    let what = "this version of offshoot does not know what it is; a newer one may".into();
    StoreError::Damaged { key: key.to_owned(), what }
}

fn missing(key: &str) -> StoreError {
    StoreError::Missing { key: key.to_owned() }
}

fn mark_project(key: &str, bytes: &[u8], reachable: &mut Reachable) -> Result<(), StoreError> {
    let head: ProjectHead = document::decode_head(key, bytes)?;
    reachable.bases.extend(head.bases.into_iter().map(|sealed| sealed.id));
    reachable.keys.extend(references(bytes).unwrap_or_default());
    Ok(())
}

fn mark_branch(
    key: &str,
    bytes: &[u8],
    reachable: &mut Reachable,
    manifests: &mut HashMap<String, (ManifestRef, bool)>,
) -> Result<(), StoreError> {
    let head: BranchHead = document::decode_head(key, bytes)?;
    if head.is_tombstone() {
        return Ok(());
    }
    reachable.keys.extend(references(bytes).unwrap_or_default());
    reachable.bases.insert(head.base);
    let published = head.manifest.as_ref().and_then(|manifest| match Key::parse(&manifest.key) {
        Key::BranchObject { branch, epoch, seq, .. } if branch == head.id => Some((epoch, seq)),
        _ => None,
    });
    let life = Life { epoch: head.epoch, is_held: head.holder.is_some() || head.dirty, published };
    reachable.branches.insert(head.id, life);
    if let Some(reference) = head.manifest {
        manifests.insert(reference.key.clone(), (reference, true));
    }
    Ok(())
}

/// Base and references of a manifest.
fn gist(key: &str, object: &[u8]) -> Result<(BaseId, Vec<String>), StoreError> {
    let json = document::decompress(key, object)?;
    let damaged = |what: String| StoreError::Damaged { key: key.to_owned(), what };
    let gist = serde_json::from_slice::<ManifestGist>(&json);
    let format = gist.as_ref().map(|gist| gist.format).ok().or_else(|| document::format_of(&json));
    if let Some(format) = format.filter(|format| *format > crate::model::BranchManifest::NEWEST) {
        return Err(StoreError::Newer { key: key.to_owned(), format });
    }
    let gist = gist.map_err(|e| damaged(e.to_string()))?;
    Ok((gist.base, references(&json).ok_or_else(|| damaged("it is no JSON".into()))?))
}

/// Divides what is listed.
struct Sorting<'a> {
    review: &'a Review,
    reachable: &'a Reachable,
    /// Bases that no head lists, each with the age of its youngest object.
    unlisted: HashMap<BaseId, u64>,
    condemned: HashSet<&'a str>,
    survey: Survey,
}

impl<'a> Sorting<'a> {
    fn new(review: &'a Review, reachable: &'a Reachable, listed: &[Listed], condemned: HashSet<&'a str>) -> Self {
        let mut unlisted = HashMap::new();
        for object in listed {
            if let Key::BaseObject { base, .. } = Key::parse(&object.key)
                && !reachable.bases.contains(&base)
            {
                let youngest = unlisted.entry(base).or_insert(u64::MAX);
                *youngest = review.age(object).min(*youngest);
            }
        }
        Sorting { review, reachable, unlisted, condemned, survey: Survey::default() }
    }

    fn sort(&mut self, object: &Listed) {
        if self.condemned.contains(object.key.as_str()) {
            self.survey.condemned_present.insert(object.key.clone());
        }
        let Some((garbage, age, may_publish)) = self.judge(object) else {
            self.survey.in_use.0 += 1;
            self.survey.in_use.1 += object.bytes;
            return;
        };
        if may_publish || age < self.review.grace_ms {
            self.survey.waiting.push(garbage);
        } else {
            self.survey.garbage.insert(object.key.clone(), garbage);
        }
    }

    /// What it is if nothing reaches it, its age, and whether it may yet be published. `None` for what is in use or unknown.
    fn judge(&self, object: &Listed) -> Option<(Garbage, u64, bool)> {
        let age = self.review.age(object);
        let garbage = |kind, why| Garbage { kind, why, bytes: object.bytes };
        match Key::parse(&object.key) {
            _ if self.reachable.keys.contains(&object.key) => None,
            Key::BaseObject { base, part, .. } => match self.unlisted.get(&base) {
                Some(youngest) => Some((garbage(Kind::Base, Why::BaseNotListed), *youngest, false)),
                None if part == "staged-index" => Some((garbage(Kind::StagedIndex, Why::BaseSealed), age, false)),
                None => None,
            },
            Key::BranchObject { branch, kind, epoch, seq, .. } => {
                let life = self.reachable.branches.get(&branch);
                let why = if life.is_some() { Why::NoManifestListsIt } else { Why::BranchGone };
                let kind = match kind {
                    BranchObject::Manifest => Kind::Manifest,
                    BranchObject::Layer => Kind::Layer,
                    BranchObject::ImageIndex | BranchObject::ImagePack => Kind::Image,
                    BranchObject::Boot => Kind::Boot,
                };
                let may_publish = life.is_some_and(|life| life.may_publish(epoch, seq));
                Some((garbage(kind, why), age, may_publish))
            }
            _ => None,
        }
    }
}
