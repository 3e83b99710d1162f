//! Newtypes for ids, page numbers and sizes, so that one cannot be passed for another.

use super::Entropy;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Bytes in a page: one Postgres block (`BLCKSZ`), at an offset that is a multiple of it.
pub const PAGE_SIZE: usize = 8192;

/// Longest symlink target that is kept, in bytes (`PATH_MAX` of Linux).
pub const SYMLINK_TARGET_MAX: usize = 4096;

/// A file or directory of one branch's data directory.
///
/// The root directory is [`FileId::ROOT`]. A base numbers its files from there; what a branch creates
/// is numbered above its base's [`crate::model::BaseManifest::last_file_id`]. Never reused within a branch,
/// and at the same time the inode number that the kernel sees.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileId(pub u64);

impl FileId {
    /// The data directory itself; FUSE's root inode (`FUSE_ROOT_ID`) is 1 as well.
    pub const ROOT: FileId = FileId(1);
    /// The one WAL segment that a base or a suspended branch carries. It is no file of the
    /// mount: its pages are written to the branch's local WAL directory before a start.
    pub const WAL: FileId = FileId(2);
    /// The first id for a file of the tree.
    pub const FIRST: FileId = FileId(16);
}

impl fmt::Debug for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file#{}", self.0)
    }
}

/// A page of one file: byte offset divided by [`PAGE_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNo(pub u32);

impl PageNo {
    /// The page that holds the byte at `offset`.
    pub fn containing(offset: u64) -> PageNo {
        PageNo((offset / PAGE_SIZE as u64) as u32)
    }

    /// The first page wholly at or after `offset`: how many pages `offset` bytes fill, rounded up.
    pub fn count_for(bytes: u64) -> u32 {
        bytes.div_ceil(PAGE_SIZE as u64) as u32
    }

    /// Byte offset of the page's first byte.
    pub fn offset(self) -> u64 {
        u64::from(self.0) * PAGE_SIZE as u64
    }
}

/// 128 random bits as 26 characters of Crockford's base 32, so that keys are short and hold no `/`.
fn random_name(entropy: &Entropy) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut bits = entropy.bits();
    (0..26)
        .map(|_| {
            let digit = ALPHABET[(bits & 31) as usize] as char;
            bits >>= 5;
            digit
        })
        .collect()
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// A new id that nobody else has.
            pub fn random(entropy: &Entropy) -> Self {
                Self(random_name(entropy))
            }

            /// The id as it stands in object keys and paths.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

random_id! {
    /// One life of a branch: a branch deleted and made again under the same name has another id.
    BranchId
}
random_id! {
    /// One base of a project.
    BaseId
}
random_id! {
    /// One node: a data directory that `offshoot serve` runs on.
    NodeId
}
random_id! {
    /// Tells one attempt at a conditional put from any other, to resolve an ambiguous answer.
    Nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_distinct_and_fit_into_a_path_component() {
        let entropy = Entropy::seeded(1);
        let a = BranchId::random(&entropy);
        let b = BranchId::random(&entropy);
        assert_ne!(a, b);
        assert_eq!(a.as_str().len(), 26);
        assert!(a.as_str().bytes().all(|c| c.is_ascii_alphanumeric()));
    }

    #[test]
    fn a_partial_last_page_counts() {
        assert_eq!(PageNo::count_for(0), 0);
        assert_eq!(PageNo::count_for(1), 1);
        assert_eq!(PageNo::count_for(8192), 1);
        assert_eq!(PageNo::count_for(8193), 2);
    }
}
