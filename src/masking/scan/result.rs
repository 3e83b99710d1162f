//! What a scan says: where a raw value is left, and what a heap holds that was not only filled. Never a value.

use super::encodings::Encoding;
use super::patterns::LabelId;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Findings that are listed; all are counted.
pub(super) const LISTED: usize = 1000;

/// A raw value that is left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Relative to the folder.
    pub file: PathBuf,
    /// In bytes: of the match; of the value it is in where that is compressed; of the value's first chunk where chunks were joined; of the page
    /// in which the joined part ends in WAL.
    pub offset: u64,
    pub label: LabelId,
    pub encoding: Encoding,
    pub place: Place,
}

/// How it lies there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// In the file as it is.
    Plain,
    /// In a compressed value.
    Compressed,
    /// Across the border of TOAST chunks or WAL pages.
    Joined,
    /// In a compressed value of several TOAST chunks.
    JoinedCompressed,
}

/// What a heap (or TOAST) relation that was only filled, and is read for the first time, does not have. Counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeapFaults {
    /// Pages with other bytes than zeros between `pd_lower` and `pd_upper`.
    pub nonzero_holes: u64,
    /// Line pointers that are dead or lead to another (`LP_DEAD`, `LP_REDIRECT`).
    pub dead_items: u64,
    /// Tuples with `HEAP_UPDATED`, or with an `xmax` that is not known to be invalid.
    pub updated_or_deleted_tuples: u64,
    /// Pages that are neither zeros nor have a page header: searched plain only.
    pub unreadable_pages: u64,
}

impl HeapFaults {
    pub(super) fn add(&mut self, other: HeapFaults) {
        self.nonzero_holes += other.nonzero_holes;
        self.dead_items += other.dead_items;
        self.updated_or_deleted_tuples += other.updated_or_deleted_tuples;
        self.unreadable_pages += other.unreadable_pages;
    }
}

/// What a scan found.
#[derive(Clone, Debug, Default)]
pub struct ScanResult {
    /// The first 1000 that were met, by file and offset.
    pub findings: Vec<Finding>,
    /// All findings.
    pub found: u64,
    /// What all findings are of.
    pub labels: BTreeSet<LabelId>,
    pub files: u64,
    /// Bytes read and searched plain.
    pub bytes: u64,
    /// Bytes that came out of compressed values.
    pub decompressed_bytes: u64,
    /// Patterns searched for.
    pub patterns: u64,
    /// TOAST chunks whose predecessor was not met before them: what lies across such a border, or compressed behind it, was not searched.
    pub detached_chunks: u64,
    /// Links, relative to the folder, that were not followed.
    pub links: Vec<PathBuf>,
    /// User heaps with faults, by file relative to the folder.
    pub heap: BTreeMap<PathBuf, HeapFaults>,
}

impl ScanResult {
    pub(super) fn add_finding(&mut self, finding: Finding) {
        self.found += 1;
        self.labels.insert(finding.label);
        if self.findings.len() < LISTED {
            self.findings.push(finding);
        }
    }

    pub(super) fn add_faults(&mut self, file: &Path, faults: HeapFaults) {
        if faults != HeapFaults::default() {
            self.heap.entry(file.to_owned()).or_default().add(faults);
        }
    }

    /// Adds what a part of the scan found.
    pub(super) fn merge(&mut self, part: ScanResult) {
        self.found += part.found;
        self.labels.extend(part.labels);
        self.findings.extend(part.findings);
        self.findings.sort();
        self.findings.truncate(LISTED);
        self.bytes += part.bytes;
        self.decompressed_bytes += part.decompressed_bytes;
        self.detached_chunks += part.detached_chunks;
        for (file, faults) in part.heap {
            self.add_faults(&file, faults);
        }
    }
}

/// Why a folder could not be scanned. Nothing is proven then.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    #[error("cannot read {path}: {source}; scan the data directory again when it can be read")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} changed while it was scanned: stop the server first")]
    Changed { path: PathBuf },
}
