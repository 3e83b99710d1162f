//! The page server: every page of a branch's data directory, from wherever it is.
//!
//! ```text
//!   Volume ─ tree      names: the base's with the branch's over them
//!     │   └─ DataFile  pages: overlay file → layers → base → zeros
//!     │        ├─ Journal    makes names, sizes and own pages durable
//!     │        ├─ LayerSet   what earlier wakes uploaded
//!     │        └─ Base       Index (paged) + packs, shared by all branches
//!     └─ PageCache           local copies of packs and layers, decompressed frames
//! ```
//!
//! Writing bases: [`BaseWriter`] takes a data directory as it comes, [`seal`] turns it, once it is consistent, into what can be branched.
//! Formats are documented byte by byte in `frame`, `index`, `layer` and `journal`.

mod base;
mod base_writer;
mod boot;
mod cache;
mod codec;
mod disk;
mod driver;
mod error;
mod file;
mod frame;
pub mod fsck;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod image;
mod index;
mod journal;
mod layer;
mod page_set;
mod seal;
mod transient;
mod tree;
mod upload;
mod volume;

#[cfg(test)]
pub(crate) mod tests;

pub use base::Base;
pub use base_writer::{BaseWriter, StagedBase, WriteError};
pub use boot::{BootSet, BootWriter};
pub use cache::{CacheFigures, CachedObject, PageCache};
#[cfg(test)]
pub(crate) use disk::simulated::SimulatedDisk;
pub use disk::{Disk, LocalDisk};
pub use driver::Driver;
pub use error::{NameProblem, PageError};
pub use file::DataFile;
pub use image::{BuiltImage, ImageNames, build_image, wants_image};
pub use index::Listing;
pub use layer::boot_ranges;
pub use seal::{LINKED_FOLDERS, SealedParts, seal};
pub use tree::Attributes;
pub use upload::{PutLayer, Selection, Upload, build_snapshot_upload, build_upload};
pub use volume::{Recorded, Snapshot, StoredRange, Volume, VolumeSource};
