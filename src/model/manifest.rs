//! What a base and a suspended branch consist of. Kept in the store as JSON compressed with zstd
//! (`store::document`), immutable once written.

use super::{BaseId, BranchId, FileId, MaskingSeal, ProjectName, Role, UnixMs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A database of a cluster: one row of `pg_database`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Database {
    pub name: String,
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    pub allow_connections: bool,
    pub is_template: bool,
}

/// What is known of the Postgres cluster inside a data directory, read from its own catalogs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Major version, 14 to 18.
    pub major: u32,
    /// `server_version` of the server that the base was brought to consistency with.
    pub server_version: String,
    /// The bootstrap superuser (role with OID 10): the role Offshoot itself connects as.
    pub superuser: String,
    pub databases: Vec<Database>,
    pub roles: Vec<Role>,
    /// Settings of the source that live outside its data directory (Debian keeps `postgresql.conf` in `/etc`).
    pub settings: BTreeMap<String, String>,
}

/// The pages of a WAL segment that a start reads: the segment's first, whose header names it, and after a clean stop those of the
/// shutdown checkpoint's record, otherwise all from the last checkpoint on. Kept one after another as the pages of [`FileId::WAL`]; the
/// rest of the segment is zeros.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalSegment {
    /// File name, 24 hexadecimal digits.
    pub name: String,
    /// The segment's size in bytes (`wal_segment_size`, 16 MiB by default).
    pub size: u64,
    /// Which pages are kept, ascending.
    pub pages: Vec<u32>,
}

/// One pack of a base: key `v1/project/<project>/base/<base-id>/pack/<number>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackRef {
    pub number: u32,
    pub bytes: u64,
}

/// `v1/project/<project>/base/<base-id>/manifest`: create-only. The base exists once the project's head lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseManifest {
    pub format: u32,
    pub project: ProjectName,
    pub id: BaseId,
    pub created_at_ms: UnixMs,
    /// Where the data came from, without credentials.
    pub source: String,
    pub cluster: Cluster,
    /// One segment, or two where the last record begins in one and ends in the next. A single one is written in no list, as format 1 has it.
    #[serde(with = "one_or_more")]
    pub wal: Vec<WalSegment>,
    pub packs: Vec<PackRef>,
    /// Bytes of the `index` object.
    pub index_bytes: u64,
    /// Highest [`FileId`] in use; branches number their own files from the next.
    pub last_file_id: u64,
    pub files: u64,
    /// Bytes of all files together.
    pub logical_bytes: u64,
    /// Bytes of packs and index in the store.
    pub stored_bytes: u64,
    /// Of a masked base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masking: Option<MaskingSeal>,
}

impl BaseManifest {
    /// The newest format there is: 2 may have two WAL segments, of which a reader of format 1 knows nothing.
    pub const FORMAT: u32 = 2;

    /// The oldest format that can hold a manifest with these segments.
    pub fn format_with(wal: &[WalSegment]) -> u32 {
        if wal.len() > 1 { 2 } else { 1 }
    }
}

mod one_or_more {
    use super::WalSegment;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(wal: &[WalSegment], serializer: S) -> Result<S::Ok, S::Error> {
        match wal {
            [segment] => segment.serialize(serializer),
            segments => segments.serialize(serializer),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<WalSegment>, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wal {
            One(WalSegment),
            More(Vec<WalSegment>),
        }
        Ok(match Wal::deserialize(deserializer)? {
            Wal::One(segment) => vec![segment],
            Wal::More(segments) => segments,
        })
    }
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    File,
    Directory,
    Symlink,
}

/// A file, directory or symlink that a branch created or whose name, size or mode it changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub id: FileId,
    pub parent: FileId,
    pub name: String,
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Bytes; 0 for anything but a file.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// For a file of the base: where its unchanged pages are, so that a wake need not look it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// A file's record in its base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    pub parent: FileId,
    pub name: String,
    /// Place of its first frame in the base's frame table.
    pub first_frame: u64,
    /// Bytes of the file in the base.
    pub size: u64,
}

/// A name of the base that the branch removed or renamed away.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tombstone {
    pub parent: FileId,
    pub name: String,
}

/// A branch's names, sizes and modes as a difference to its base.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeDiff {
    pub entries: Vec<Entry>,
    pub removed: Vec<Tombstone>,
    /// The next [`FileId`] to give out.
    pub next_id: u64,
}

/// One layer of a branch, oldest first in its manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRef {
    /// Full object key.
    pub key: String,
    pub bytes: u64,
    pub pages: u64,
}

/// What a branch that rewrote most of its base reads in the base's stead: a whole data directory with an index of its own. Frames that the branch
/// left alone stay in the packs where they were, the base's among them, so that nothing is copied and all that share them go on doing so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Full key of its index.
    pub index: String,
    /// Bytes of that object.
    pub index_bytes: u64,
    /// In the order in which its frames count them.
    pub packs: Vec<ImagePack>,
    /// Highest [`FileId`] in use; the branch goes on with the next.
    pub last_file_id: u64,
    pub files: u64,
    /// Bytes of all files together.
    pub logical_bytes: u64,
}

impl Image {
    /// What its index and its own frames are summed with.
    pub fn owner(&self) -> &str {
        Image::owner_of(&self.index)
    }

    /// The same, of the image with this index. It does not look like a key: a pack that a later image keeps would keep the index for the collector.
    pub fn owner_of(index: &str) -> &str {
        index.strip_prefix("v1/").unwrap_or(index)
    }

    /// Keys of its index and its packs, a base's among them.
    pub fn objects(&self) -> impl Iterator<Item = &str> {
        self.packs.iter().map(|pack| pack.key.as_str()).chain([self.index.as_str()])
    }
}

/// One pack that an image needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePack {
    /// Full object key.
    pub key: String,
    /// What its frames are summed with: a base's id, or an image's [`Image::owner`].
    pub owner: String,
    pub bytes: u64,
}

/// `v1/branch/<branch-id>/manifest/<epoch>-<seq>-<nonce>`: all a wake needs beside the base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchManifest {
    pub format: u32,
    pub branch: BranchId,
    pub base: BaseId,
    /// What its layers lie over, where that is not the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
    /// Flat and complete, oldest first: a read never walks ancestors.
    pub layers: Vec<LayerRef>,
    pub tree: TreeDiff,
    /// As a base's after a clean stop; from the last checkpoint on where the branch was uploaded while it was awake.
    pub wal: Vec<WalSegment>,
    pub databases: Vec<Database>,
    pub roles: Vec<Role>,
}

impl BranchManifest {
    /// The newest format there is: 2 has an image, which a reader of format 1 would pass over.
    pub const FORMAT: u32 = 2;

    /// Keys of what it lists: layers, and the index and packs of its image, a base's packs among them.
    pub fn objects(&self) -> impl Iterator<Item = &str> {
        self.layers.iter().map(|layer| layer.key.as_str()).chain(self.image.iter().flat_map(Image::objects))
    }

    /// The oldest format that can hold a manifest with, or without, an image.
    pub fn format_with(image: Option<&Image>) -> u32 {
        if image.is_some() { 2 } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(wal: Vec<WalSegment>) -> BaseManifest {
        BaseManifest {
            format: BaseManifest::format_with(&wal),
            project: "shop".parse().unwrap(),
            id: BaseId::from("b"),
            created_at_ms: 1,
            source: String::new(),
            cluster: Cluster {
                major: 18,
                server_version: String::new(),
                superuser: String::new(),
                databases: Vec::new(),
                roles: Vec::new(),
                settings: BTreeMap::new(),
            },
            wal,
            packs: Vec::new(),
            index_bytes: 0,
            last_file_id: 0,
            files: 0,
            logical_bytes: 0,
            stored_bytes: 0,
            masking: None,
        }
    }

    #[test]
    fn a_base_with_one_wal_segment_is_of_the_format_that_older_programs_read() {
        let segment =
            |number: u8| WalSegment { name: format!("{number:024X}"), size: 16 << 20, pages: vec![0, number.into()] };
        for (segments, format) in [(1, 1), (2, 2)] {
            let manifest = with((1..=segments).map(segment).collect());
            let written = serde_json::to_value(&manifest).unwrap();
            assert_eq!(written["format"], format);
            assert_eq!(written["wal"].is_object(), format == 1, "{written}");
            assert_eq!(serde_json::from_value::<BaseManifest>(written).unwrap(), manifest);
        }
        // As format 2 was written at first.
        let mut written = serde_json::to_value(with(vec![segment(1)])).unwrap();
        written["wal"] = serde_json::json!([written["wal"]]);
        assert_eq!(serde_json::from_value::<BaseManifest>(written).unwrap().wal, [segment(1)]);
    }
}
