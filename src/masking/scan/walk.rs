//! The files of a data directory, and the tasks that reading them is divided into.
//!
//! Every regular file is in one task or in several that share its bytes. What depends on order is one task: a TOAST relation with all its segments,
//! and, besides their plain search, all WAL segments.

use super::pages::{PAGE, Page, PageState};
use super::result::ScanError;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Bytes of a file that one thread reads.
const SHARE: u64 = 128 << 20;

/// A regular file.
#[derive(Clone, Debug)]
pub(super) struct DataFile {
    /// To the scanned folder.
    pub relative: PathBuf,
    pub path: PathBuf,
    pub bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Listing {
    pub files: Vec<DataFile>,
    /// Links that are not followed, relative to the folder.
    pub links: Vec<PathBuf>,
}

/// What one thread does in one go.
#[derive(Debug)]
pub(super) enum Task {
    /// Any file.
    Plain { file: DataFile, share: Range<u64> },
    /// Part of a relation's segment: plain, and page by page.
    Pages { file: DataFile, share: Range<u64> },
    /// A TOAST relation: plain, page by page, and joined.
    Toast { segments: Vec<DataFile> },
    /// All of WAL, joined only.
    Wal { segments: Vec<DataFile> },
}

impl Task {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Task::Plain { share, .. } | Task::Pages { share, .. } => share.end - share.start,
            Task::Toast { segments } | Task::Wal { segments } => segments.iter().map(|file| file.bytes).sum(),
        }
    }
}

/// Lists the regular files below `folder`, in order. Of the links in `folder` only `pg_wal` is followed.
pub(super) fn list(folder: &Path) -> Result<Listing, ScanError> {
    let mut listing = Listing::default();
    list_into(folder, Path::new(""), &mut listing)?;
    listing.files.sort_by(|a, b| a.relative.cmp(&b.relative));
    listing.links.sort();
    Ok(listing)
}

fn list_into(folder: &Path, relative: &Path, listing: &mut Listing) -> Result<(), ScanError> {
    let read = |source| ScanError::Read { path: folder.to_owned(), source };
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let entry = entry.map_err(read)?;
        let (path, relative) = (entry.path(), relative.join(entry.file_name()));
        let failed = |source| ScanError::Read { path: path.clone(), source };
        let kind = entry.file_type().map_err(failed)?;
        if kind.is_symlink() && relative != Path::new("pg_wal") {
            listing.links.push(relative);
        } else if kind.is_dir() || kind.is_symlink() {
            list_into(&path, &relative, listing)?;
        } else if kind.is_file() {
            let bytes = entry.metadata().map_err(failed)?.len();
            listing.files.push(DataFile { relative, path, bytes });
        }
    }
    Ok(())
}

/// Divides the work, the largest first.
pub(super) fn plan(files: &[DataFile]) -> Result<Vec<Task>, ScanError> {
    let mut tasks = Vec::new();
    let mut relations: BTreeMap<PathBuf, Vec<DataFile>> = BTreeMap::new();
    let mut wal = Vec::new();
    for file in files {
        match relation(&file.relative).filter(|_| file.bytes.is_multiple_of(PAGE as u64)) {
            Some(name) => relations.entry(name).or_default().push(file.clone()),
            None => shares(file).for_each(|share| tasks.push(Task::Plain { file: file.clone(), share })),
        }
        if is_wal(&file.relative) {
            wal.push(file.clone());
        }
    }
    for (_, mut segments) in relations {
        segments.sort_by_key(|file| segment_number(&file.relative));
        if is_toast(&segments)? {
            tasks.push(Task::Toast { segments });
            continue;
        }
        for file in segments {
            shares(&file).for_each(|share| tasks.push(Task::Pages { file: file.clone(), share }));
        }
    }
    tasks.push(Task::Wal { segments: wal });
    tasks.sort_by_key(|task| std::cmp::Reverse(task.bytes()));
    Ok(tasks)
}

fn shares(file: &DataFile) -> impl Iterator<Item = Range<u64>> {
    let bytes = file.bytes;
    (0..bytes.div_ceil(SHARE)).map(move |share| share * SHARE..bytes.min((share + 1) * SHARE))
}

/// The file's name without its segment's number (`16384.1`, `16384_vm`), if it is a relation's by its name and place.
fn relation(relative: &Path) -> Option<PathBuf> {
    let top = relative.components().next()?.as_os_str();
    let name = relative.file_name()?.to_str()?;
    let whole = name.split_once('.').map_or(name, |(whole, _)| whole);
    let is_relation = ["base", "global", "pg_tblspc"].iter().any(|folder| top == *folder);
    // Temporary relations are `t3_16384`; numbers are all that other files lack.
    let numbered = whole.trim_start_matches('t').starts_with(|c: char| c.is_ascii_digit());
    (is_relation && numbered).then(|| relative.with_file_name(whole))
}

fn segment_number(relative: &Path) -> u32 {
    relative.extension().and_then(|number| number.to_str()?.parse().ok()).unwrap_or(0)
}

/// A segment or partial segment: 24 hex digits, in `pg_wal` itself.
fn is_wal(relative: &Path) -> bool {
    let name = relative.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let named = name.len() >= 24 && name.bytes().take(24).all(|byte| byte.is_ascii_hexdigit());
    relative.parent() == Some(Path::new("pg_wal")) && named
}

/// Whether the first page with tuples holds chunks.
fn is_toast(segments: &[DataFile]) -> Result<bool, ScanError> {
    for file in segments {
        let failed = |source| ScanError::Read { path: file.path.clone(), source };
        let mut open = File::open(&file.path).map_err(failed)?;
        let mut bytes = [0; PAGE];
        for _ in 0..file.bytes / PAGE as u64 {
            open.read_exact(&mut bytes).map_err(failed)?;
            match Page::parse(&bytes) {
                PageState::Page(page) if page.has_tuples() => return Ok(page.chunks().is_some()),
                _ => {}
            }
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_known_by_name_and_place() {
        let of = |path: &str| relation(Path::new(path));
        assert_eq!(of("base/5/16384.12"), Some("base/5/16384".into()));
        assert_eq!(of("base/5/16384_vm"), Some("base/5/16384_vm".into()));
        assert_eq!(of("base/5/t3_16384"), Some("base/5/t3_16384".into()));
        for none in ["base/5/PG_VERSION", "pg_xact/0000", "base/5/pg_filenode.map"] {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(segment_number(Path::new("base/5/16384.12")), 12);
        assert!(is_wal(Path::new("pg_wal/00000001000000000000002A")));
        assert!(!is_wal(Path::new("pg_wal/archive_status/00000001000000000000002A.done")));
    }

    #[test]
    fn links_are_told_and_only_that_of_wal_is_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (data, elsewhere) = (folder.path().join("data"), folder.path().join("elsewhere"));
        std::fs::create_dir_all(data.join("pg_tblspc")).expect("made");
        std::fs::create_dir(&elsewhere).expect("made");
        std::fs::write(elsewhere.join("000000010000000000000001"), "wal").expect("written");
        std::os::unix::fs::symlink(&elsewhere, data.join("pg_wal")).expect("linked");
        std::os::unix::fs::symlink(&elsewhere, data.join("pg_tblspc/16400")).expect("linked");
        let listing = list(&data).expect("listed");
        let names: Vec<&Path> = listing.files.iter().map(|file| file.relative.as_path()).collect();
        assert_eq!(names, [Path::new("pg_wal/000000010000000000000001")]);
        assert_eq!(listing.links, [Path::new("pg_tblspc/16400")]);
    }
}
