//! Heads and branches' manifests: what there is to check.

use super::{Fsck, Trouble};
use crate::model::{BaseId, BranchId, BranchRef, Image, LayerRef, ManifestRef, ProjectName};
use crate::store::StoreError;
use crate::store::keys::{self, BranchObject, Key};
use std::collections::{BTreeSet, HashMap};

/// A base that a project's head lists, or a branch needs.
pub(super) struct ReachedBase {
    pub project: ProjectName,
    pub id: BaseId,
    /// `None` where no head that could be read says.
    pub version: Option<u64>,
}

/// A branch, as far as the check needs it at once.
pub(super) struct ReachedBranch {
    pub name: BranchRef,
    pub base: BaseId,
    pub manifest: Option<ManifestRef>,
    /// What it has in its base's stead.
    pub image: Option<Image>,
    pub layers: Vec<LayerRef>,
    /// Pages of WAL that some layer must have.
    pub wal_pages: u32,
}

impl ReachedBranch {
    /// Keys of its layers and of its image, packs of a base among them.
    pub(super) fn objects(&self) -> impl Iterator<Item = &str> {
        self.layers.iter().map(|layer| layer.key.as_str()).chain(self.image.iter().flat_map(Image::objects))
    }
}

/// What the heads reach.
#[derive(Default)]
pub(super) struct Reached {
    pub bases: Vec<ReachedBase>,
    /// Those whose heads could be read.
    pub branches: Vec<ReachedBranch>,
    /// All that have a head, readable or not, without tombstones.
    pub names: Vec<BranchRef>,
}

impl Reached {
    fn need_base(&mut self, project: &ProjectName, id: &BaseId, version: Option<u64>) {
        match self.bases.iter_mut().find(|known| known.id == *id) {
            Some(known) => known.version = known.version.or(version),
            None => self.bases.push(ReachedBase { project: project.clone(), id: id.clone(), version }),
        }
    }
}

impl Fsck<'_> {
    pub(super) async fn check_heads(&mut self, only: Option<&BranchRef>) -> Result<Reached, StoreError> {
        let mut reached = Reached::default();
        self.latest = latest(self.listed.keys());
        let projects = match only {
            Some(branch) => vec![branch.project.clone()],
            None => self.projects().into_iter().collect(),
        };
        for project in projects {
            let branches = match only {
                Some(branch) => vec![branch.clone()],
                None => self.catalog.branch_names(&project).await?,
            };
            let listed = self.check_project(&project, !branches.is_empty(), only.is_none(), &mut reached).await;
            for branch in branches {
                self.check_branch(branch, listed.as_ref(), &mut reached).await;
            }
        }
        Ok(reached)
    }

    /// Projects that have anything in the store.
    fn projects(&self) -> BTreeSet<ProjectName> {
        let project = |key: &String| match Key::parse(key) {
            Key::ProjectHead(project) | Key::BaseObject { project, .. } => Some(project),
            Key::BranchHead(branch) => Some(branch.project),
            _ => None,
        };
        self.listed.keys().filter_map(project).collect()
    }

    /// The bases that the project's head lists; `None` where it does not say.
    async fn check_project(
        &mut self,
        project: &ProjectName,
        is_needed: bool,
        all_bases: bool,
        reached: &mut Reached,
    ) -> Option<Vec<BaseId>> {
        let key = keys::project_head(project);
        let head = match self.catalog.project_head(project).await {
            Ok(Some(head)) => head,
            // The first import may be under way.
            Ok(None) if !is_needed => return None,
            Ok(None) => {
                self.note(&key, Trouble::damaged("it is missing, though the project has branches"));
                return None;
            }
            Err(e) => {
                self.note(&key, e.into());
                return None;
            }
        };
        self.report.count(self.listed.get(&key).copied().unwrap_or(0));
        let is_ascending = head.bases.is_sorted_by(|a, b| a.version < b.version);
        if head.bases.is_empty() || !is_ascending {
            self.note(&key, Trouble::damaged("it lists no base, or bases out of order"));
        }
        for sealed in head.bases.iter().filter(|_| all_bases) {
            reached.need_base(project, &sealed.id, Some(sealed.version));
        }
        Some(head.bases.into_iter().map(|sealed| sealed.id).collect())
    }

    async fn check_branch(&mut self, name: BranchRef, listed: Option<&Vec<BaseId>>, reached: &mut Reached) {
        let key = keys::branch_head(&name);
        let head = match self.catalog.head_or_tombstone(&name).await {
            Ok(Some(held)) => held.head,
            Ok(None) => {
                reached.names.push(name);
                return self.note(&key, Trouble::damaged("it is missing"));
            }
            Err(e) => {
                reached.names.push(name);
                return self.note(&key, e.into());
            }
        };
        self.report.count(self.listed.get(&key).copied().unwrap_or(0));
        if head.project != name.project || head.name != name.branch {
            reached.names.push(name);
            return self.note(&key, Trouble::Damaged(format!("it is the head of {}@{}", head.project, head.name)));
        }
        if head.is_tombstone() {
            self.report.tombstones += 1;
            return;
        }
        self.report.branches += 1;
        reached.names.push(name.clone());
        reached.need_base(&name.project, &head.base, Some(head.base_version));
        if let Some(later) = self.later_than(&head.id, head.epoch, head.seq, head.holder.is_some()) {
            self.note(&key, Trouble::Damaged(format!("it is older than {later}, which was written after it")));
        }
        if listed.is_some_and(|listed| !listed.contains(&head.base)) {
            let what = format!("it does not list base {}, {}, which {name} has", head.base_version, head.base);
            self.note(&keys::project_head(&name.project), Trouble::Damaged(what));
        }
        // What its holder's delta is a difference to: its layers are the present manifest's, too.
        if let Some(start) = head.epoch_start.and_then(|start| start.manifest) {
            match self.catalog.branch_manifest(&start).await {
                Ok(_) => self.report.count(self.listed.get(&start.key).copied().unwrap_or(0)),
                Err(e) => self.note(&start.key, e.into()),
            }
        }
        let mut branch = ReachedBranch {
            name,
            base: head.base,
            manifest: head.manifest,
            image: None,
            layers: Vec::new(),
            wal_pages: 0,
        };
        if let Some(reference) = branch.manifest.clone() {
            match self.catalog.branch_manifest(&reference).await {
                Ok(manifest) => {
                    self.report.count(self.listed.get(&reference.key).copied().unwrap_or(0));
                    if manifest.base != branch.base {
                        let what = format!("it is of base {}, the branch's head of {}", manifest.base, branch.base);
                        self.note(&reference.key, Trouble::Damaged(what));
                    }
                    self.check_boot(&keys::boot_of(&reference.key), &reference.key).await;
                    branch.wal_pages = manifest.wal.iter().map(|segment| segment.pages.len() as u32).sum();
                    (branch.layers, branch.image) = (manifest.layers, manifest.image);
                }
                Err(e) => self.note(&reference.key, e.into()),
            }
        }
        reached.branches.push(branch);
    }

    /// An object that only a later head can have been the ground of. Epochs are taken before anything is uploaded in them, and a manifest's sequence is its head's.
    fn later_than(&self, id: &BranchId, epoch: u64, seq: u64, is_held: bool) -> Option<&str> {
        let latest = self.latest.get(id)?;
        let of_later_epoch = latest.any.as_ref().filter(|(written, _)| *written > epoch).map(|(_, key)| key.as_str());
        let is_later = |at: (u64, u64)| at > (epoch, seq) && (at.0 > epoch || !is_held);
        let manifest = latest.manifest.as_ref().filter(|(at, _)| is_later(*at)).map(|(_, key)| key.as_str());
        manifest.or(of_later_epoch)
    }

    /// Bytes that a check of all this reads.
    pub(super) fn bytes_of(&self, reached: &Reached) -> u64 {
        let own: BTreeSet<&str> = reached.branches.iter().flat_map(ReachedBranch::objects).collect();
        let of_base = |base: &ReachedBase| -> u64 {
            let folder = keys::base(&base.project, &base.id) + "/";
            self.listed.iter().filter(|(key, _)| key.starts_with(&folder)).map(|(_, bytes)| bytes).sum()
        };
        let own_bytes: u64 = own.iter().filter_map(|key| self.listed.get(*key)).sum();
        own_bytes + reached.bases.iter().map(of_base).sum::<u64>()
    }
}

/// The latest that is there of a branch's own objects.
#[derive(Default)]
pub(super) struct Latest {
    /// Of any kind, by epoch.
    any: Option<(u64, String)>,
    /// Manifest, by epoch and sequence.
    manifest: Option<((u64, u64), String)>,
}

fn latest<'a>(listed: impl Iterator<Item = &'a String>) -> HashMap<BranchId, Latest> {
    let mut all: HashMap<BranchId, Latest> = HashMap::new();
    for key in listed {
        let Key::BranchObject { branch, kind, epoch, seq, .. } = Key::parse(key) else { continue };
        let latest = all.entry(branch).or_default();
        if latest.any.as_ref().is_none_or(|(known, _)| *known < epoch) {
            latest.any = Some((epoch, key.clone()));
        }
        if kind == BranchObject::Manifest && latest.manifest.as_ref().is_none_or(|(known, _)| *known < (epoch, seq)) {
            latest.manifest = Some(((epoch, seq), key.clone()));
        }
    }
    all
}
