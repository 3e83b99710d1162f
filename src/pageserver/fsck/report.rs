//! What a check found: damaged objects with the branches they touch, objects that could not be read, and how much was checked.

use super::Trouble;
use super::heads::Reached;
use crate::store::keys::{self, Key};
use serde::Serialize;
use std::collections::BTreeMap;

/// A damaged object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its key.
    pub object: String,
    pub what: String,
    /// `base 2 of shop`, where all of its branches are touched.
    pub base: Option<String>,
    /// The branches that need it, `shop@pr-1`.
    pub branches: Vec<String>,
}

/// An object that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unread {
    pub object: String,
    pub why: String,
}

/// What was checked, and what is wrong with it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub findings: Vec<Finding>,
    pub unread: Vec<Unread>,
    /// Objects that were checked.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    pub bases: u64,
    pub branches: u64,
    /// Heads that say that their branch is deleted.
    pub tombstones: u64,
}

impl Report {
    /// Whether everything was read and is sound.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.unread.is_empty()
    }

    /// One more object was checked.
    pub(super) fn count(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }

    pub(super) fn note(&mut self, object: &str, trouble: Trouble) {
        if self.findings.iter().any(|finding| finding.object == object) {
            return;
        }
        match trouble {
            Trouble::Damaged(what) => {
                let finding = Finding { object: object.to_owned(), what, base: None, branches: Vec::new() };
                self.findings.push(finding);
            }
            Trouble::Unread(why) => self.unread.push(Unread { object: object.to_owned(), why }),
        }
    }

    /// Says of each finding whom it touches.
    pub(super) fn touch(&mut self, reached: &Reached) {
        let mut by_object: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for branch in &reached.branches {
            for key in branch.objects().chain(branch.manifest.as_ref().map(|manifest| manifest.key.as_str())) {
                by_object.entry(key).or_default().push(branch.name.to_string());
            }
        }
        for finding in &mut self.findings {
            (finding.base, finding.branches) = match Key::parse(&finding.object) {
                Key::BaseObject { project, base, .. } => {
                    let version = reached.bases.iter().find(|known| known.id == base).and_then(|known| known.version);
                    let said = version.map(|version| format!("base {version} of {project}"));
                    let touched = reached.branches.iter().filter(|branch| branch.base == base);
                    (said, touched.map(|branch| branch.name.to_string()).collect())
                }
                Key::ProjectHead(project) => (
                    None,
                    reached.names.iter().filter(|name| name.project == project).map(ToString::to_string).collect(),
                ),
                Key::BranchHead(branch) => (None, vec![branch.to_string()]),
                _ => (None, by_object.get(finding.object.as_str()).cloned().unwrap_or_default()),
            };
            finding.branches.sort();
        }
        self.findings.sort_by(|a, b| a.object.cmp(&b.object));
        debug_assert!(self.findings.iter().all(|finding| finding.object.starts_with(keys::PROJECTS) || finding.object.starts_with(keys::BRANCHES)));
    }
}
