//! fsck: reads everything that the heads of a store reach, checks every sum and every reference, and names what is damaged and whom it touches.
//!
//! ```text
//! heads     projects' and branches' heads, branches' manifests                      heads.rs
//! bases     manifest, index, and every frame of every pack                          base.rs, frames.rs
//! images    what stands in a base's stead: index, and every frame of every pack     base.rs
//! trees     each branch's names and files against its base or image                 tree.rs
//! layers    footer, index, and every frame of every layer, once however many list it  layer.rs
//! ```
//!
//! It reads the store itself, never a node's cache, and with the formats' own decoders. Memory is bounded by the number of files of one base and one branch, by the store's number of
//! objects, and by [`frames::FRAMES_IN_MEMORY`]; objects are read in ranges of 8 MiB. Nothing is written. A branch that is being used meanwhile is no damage: what it is going to refer to is not reachable yet, and what
//! its former head referred to outlives this by the collector's grace.
//!
//! One object has at most one finding. What could not be read is not damage ([`Report::unread`]).

mod base;
mod boot;
mod frames;
mod heads;
mod layer;
mod report;
mod tree;

pub use report::{Finding, Report, Unread};

use crate::model::{BranchId, BranchRef};
use crate::store::{Catalog, Store, StoreError, keys};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// Bytes read at once.
const READ: u64 = 8 << 20;

/// Told how far a check is.
pub trait Watch: Sync {
    /// So many bytes are to be read.
    fn begin(&self, total: u64);
    fn advance(&self, bytes: u64);
}

/// Why an object did not pass.
#[derive(Debug)]
enum Trouble {
    Damaged(String),
    Unread(String),
}

impl Trouble {
    fn damaged(what: impl Into<String>) -> Trouble {
        Trouble::Damaged(what.into())
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Trouble {
        match error {
            StoreError::Missing { .. } => Trouble::damaged("it is missing"),
            StoreError::Damaged { what, .. } => Trouble::Damaged(what),
            other => Trouble::Unread(other.to_string()),
        }
    }
}

/// The state of one check.
struct Fsck<'a> {
    catalog: &'a Catalog,
    watch: &'a dyn Watch,
    /// Length of each object of bases and branches, as listed.
    listed: HashMap<String, u64>,
    /// What the newest objects of each branch are.
    latest: HashMap<BranchId, heads::Latest>,
    /// Packs of images that were counted.
    counted: HashSet<String>,
    report: Report,
}

/// Checks the whole store, or `only` one branch and what it needs. An error when not even its objects can be listed.
pub async fn fsck(catalog: &Catalog, only: Option<&BranchRef>, watch: &dyn Watch) -> Result<Report, StoreError> {
    let mut listed = HashMap::new();
    for folder in [keys::PROJECTS, keys::BRANCHES] {
        let objects = catalog.store().list_objects(folder).await?;
        listed.extend(objects.into_iter().map(|object| (object.key, object.bytes)));
    }
    let mut fsck =
        Fsck { catalog, watch, listed, latest: HashMap::new(), counted: HashSet::new(), report: Report::default() };
    let reached = fsck.check_heads(only).await?;
    watch.begin(fsck.bytes_of(&reached));
    for base in &reached.bases {
        let files = fsck.check_base(base).await;
        for branch in reached.branches.iter().filter(|branch| branch.base == base.id && branch.image.is_none()) {
            fsck.check_tree(branch, files.as_ref()).await;
        }
    }
    // Pages of WAL that each sound image has, by its index.
    let mut image_wal = HashMap::new();
    for (branch, image) in reached.branches.iter().filter_map(|branch| Some((branch, branch.image.as_ref()?))) {
        let files = fsck.check_image(image).await;
        image_wal.extend(files.iter().map(|files| (image.index.as_str(), files.wal_pages())));
        fsck.check_tree(branch, files.as_ref()).await;
    }
    fsck.check_layers(&reached, &image_wal).await;
    fsck.report.touch(&reached);
    Ok(fsck.report)
}

impl Fsck<'_> {
    fn store(&self) -> &Store {
        self.catalog.store()
    }

    /// Whether an object is there, and as long as what refers to it says.
    async fn check_length(&self, key: &str, expected: u64) -> Result<(), Trouble> {
        let length = match self.listed.get(key) {
            Some(length) => Some(*length),
            // It may have come since everything was listed.
            None => self.store().length(key).await?,
        };
        match length {
            None => Err(Trouble::damaged("it is missing")),
            Some(length) if length != expected => {
                Err(Trouble::Damaged(format!("it has {length} bytes, where what refers to it says {expected}")))
            }
            Some(_) => Ok(()),
        }
    }

    async fn read(&self, key: &str, range: Range<u64>) -> Result<Bytes, Trouble> {
        let bytes = self.store().get_range(key, range).await?;
        self.watch.advance(bytes.len() as u64);
        Ok(bytes)
    }

    fn note(&mut self, key: &str, trouble: Trouble) {
        self.report.note(key, trouble);
    }
}
