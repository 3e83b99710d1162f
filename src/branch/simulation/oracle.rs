//! What must hold, told from outside: every version of every head, what each upload held, and which objects must be there.

use crate::model::{BranchHead, BranchId, BranchRef, NodeId};
use crate::pageserver::tests::model::Model;
use crate::store::keys;
use crate::store::simulated::SimulatedStore;
use std::collections::{BTreeMap, BTreeSet};

/// What a manifest stands for.
pub(super) struct Upload {
    pub by: (BranchId, u64, NodeId),
    pub model: Model,
    pub wal: Vec<u8>,
    /// The manifest and every layer that it lists.
    pub objects: Vec<String>,
    /// How much had been written in the epoch.
    pub changes: u64,
}

/// How an epoch ended.
enum End {
    Suspended { manifest: Option<String> },
    Released,
}

type Epoch = (BranchId, u64);

pub(super) struct Oracle {
    seed: u64,
    uploads: BTreeMap<String, Upload>,
    /// The newest version of each name's head, and how many there were.
    heads: BTreeMap<BranchRef, (BranchHead, usize)>,
    ids: BTreeSet<BranchId>,
    deleted: BTreeSet<BranchId>,
    begun: BTreeSet<Epoch>,
    ends: BTreeMap<Epoch, End>,
    /// Epochs that an operator has tried to end.
    releases: BTreeSet<Epoch>,
}

impl Oracle {
    pub(super) fn new(seed: u64) -> Oracle {
        Oracle {
            seed,
            uploads: BTreeMap::new(),
            heads: BTreeMap::new(),
            ids: BTreeSet::new(),
            deleted: BTreeSet::new(),
            begun: BTreeSet::new(),
            ends: BTreeMap::new(),
            releases: BTreeSet::new(),
        }
    }

    pub(super) fn note_upload(&mut self, key: &str, upload: Upload) {
        self.uploads.insert(key.to_owned(), upload);
    }

    /// The upload that a head names.
    pub(super) fn upload(&self, head: &BranchHead) -> &Upload {
        let reference = head.manifest.as_ref().expect("it has one");
        self.uploads.get(&reference.key).unwrap_or_else(|| panic!("seed {}: nobody put {}", self.seed, reference.key))
    }

    pub(super) fn note_begun(&mut self, head: &BranchHead) {
        self.begun.insert((head.id.clone(), head.epoch));
    }

    pub(super) fn note_release(&mut self, head: &BranchHead) {
        self.releases.insert((head.id.clone(), head.epoch));
    }

    /// A node that has nothing of what its head says it has: then it never told anyone that the branch is up.
    pub(super) fn check_nothing_was_begun(&self, head: &BranchHead) {
        let begun = self.begun.contains(&(head.id.clone(), head.epoch));
        assert!(!begun, "seed {}: epoch {} of {} was begun and its place is gone", self.seed, head.epoch, head.name);
    }

    /// A node gives up what it has of an epoch: either all of it was uploaded, or an operator gave it up.
    pub(super) fn check_end(&self, (id, epoch): (&BranchId, u64), changes: u64) {
        let ended = (id.clone(), epoch);
        let uploaded = match self.ends.get(&ended) {
            Some(End::Released) => return,
            Some(End::Suspended { manifest: Some(key) }) => self.uploads[key].changes,
            Some(End::Suspended { manifest: None }) => 0,
            None => panic!("seed {}: epoch {epoch} of {id} goes on, and its node gives it up", self.seed),
        };
        assert_eq!(uploaded, changes, "seed {}: epoch {epoch} of {id} ended without what was written in it", self.seed);
    }

    /// The head as it was at the last [`Oracle::look`].
    pub(super) fn head(&self, branch: &BranchRef) -> Option<&BranchHead> {
        self.heads.get(branch).map(|(head, _)| head).filter(|head| !self.deleted.contains(&head.id))
    }

    /// Whether this node may write this epoch of the branch.
    pub(super) fn holds(&self, held: &BranchHead, branch: &BranchRef) -> bool {
        self.head(branch).is_some_and(|now| now.id == held.id && now.epoch == held.epoch && now.holder.is_some())
    }

    /// Checks each version that was put of a head since the last look; whether there was one.
    pub(super) fn look(&mut self, store: &SimulatedStore, branch: &BranchRef) -> bool {
        let seen = self.heads.get(branch).map_or(0, |(_, seen)| *seen);
        let fresh = store.heads(&keys::branch_head(branch), seen);
        for (number, head) in fresh.iter().enumerate() {
            let former = self.heads.remove(branch).map(|(head, _)| head);
            self.check_step(former.as_ref(), head);
            self.heads.insert(branch.clone(), (head.clone(), seen + number + 1));
        }
        !fresh.is_empty()
    }

    fn check_step(&mut self, former: Option<&BranchHead>, head: &BranchHead) {
        let wrong = |what: &str| panic!("seed {}: {what}:\n{former:#?}\n{head:#?}", self.seed);
        if self.deleted.contains(&head.id) {
            wrong("a branch that was deleted lives");
        }
        match former {
            Some(former) if former.id == head.id => {
                if former.is_tombstone() {
                    wrong("a tombstone was changed");
                }
                if head.seq != former.seq + 1 {
                    wrong("a version of a head was lost");
                }
                self.check_change(former, head);
            }
            former => {
                if former.is_some_and(|former| !self.deleted.contains(&former.id)) {
                    wrong("a branch was replaced by another");
                }
                if self.ids.contains(&head.id) {
                    wrong("an id was used twice");
                }
                if former.is_some_and(|former| former.is_tombstone() && head.epoch != former.epoch + 1) {
                    wrong("an epoch was skipped or used twice");
                }
            }
        }
        self.ids.insert(head.id.clone());
        if head.is_tombstone() {
            self.deleted.insert(head.id.clone());
        }
    }

    fn check_change(&mut self, former: &BranchHead, head: &BranchHead) {
        let (holder, former_holder) = (node(head), node(former));
        let wrong = |what: &str| panic!("seed {}: {what}:\n{former:#?}\n{head:#?}", self.seed);
        if head.manifest != former.manifest {
            let by = &self.upload(head).by;
            if (&by.0, by.1, Some(&by.2)) != (&former.id, former.epoch, former_holder) {
                wrong("a node that does not hold the epoch changed what the branch holds");
            }
        }
        let epoch = (former.id.clone(), former.epoch);
        match (head.epoch - former.epoch, former_holder, holder) {
            (0, Some(former), Some(holder)) if former == holder => {}
            (0, Some(_), None) => {
                let manifest = head.manifest.as_ref().map(|manifest| manifest.key.clone());
                self.ends.insert(epoch, End::Suspended { manifest });
            }
            (0, None, None) if head.is_tombstone() => {}
            (1, None, Some(_)) if !former.dirty => {}
            (1, Some(_), None) if self.releases.contains(&epoch) => {
                self.ends.insert(epoch, End::Released);
            }
            _ => wrong("an epoch has two holders, or ended without reason"),
        }
    }

    /// The planted bug took the object away.
    pub(super) fn note_removed(&mut self, branch: &BranchRef) {
        let (head, _) = self.heads.get(branch).expect("it was there");
        self.deleted.insert(head.id.clone());
    }

    /// Everything that a head refers to is there.
    pub(super) async fn check_reachable(&self, store: &SimulatedStore) {
        let living = self.heads.values().map(|(head, _)| head).filter(|head| !self.deleted.contains(&head.id));
        for head in living {
            let start = head.epoch_start.as_ref().and_then(|start| start.manifest.as_ref());
            for reference in head.manifest.iter().chain(start) {
                for key in &self.uploads[&reference.key].objects {
                    assert!(store.has(key).await, "seed {}: {key} is lost, which {} needs", self.seed, head.name);
                }
            }
        }
    }
}

fn node(head: &BranchHead) -> Option<&NodeId> {
    head.holder.as_ref().map(|holder| &holder.node)
}
