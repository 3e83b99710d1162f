//! The delta's journal: names, sizes, modes and pages present, in the order in which they came to be.
//!
//! A page written to an overlay file exists for nobody until a journal frame says so; the frame is written after the page is
//! durable. All records go through one buffer, so that any commit makes every earlier change durable too, as a journaling file system does.
//!
//! ```text
//! header  u64 MAGIC, u16 length, delta name          (whose delta it is)
//! frame   u32 length, u32 crc, u64 sequence, records (crc: CRC32C over sequence and records)
//! ```
//!
//! Replay stops at the first frame that is short, does not sum up or is out of sequence: what follows was never acknowledged. A frame that is none of these and holds what
//! this version does not know is an error: it may have been.
//! Commits share their fsync: whoever gets the file writes everything that was appended until then.

use super::PageError;
use super::codec::{Reader, put_text};
use super::disk::{Disk, DiskFile};
use crate::model::fault::{self, FaultPoint};
use crate::model::{FileId, FileKind, PageNo};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const MAGIC: u64 = u64::from_le_bytes(*b"OFFJRN01");
const FRAME_HEADER: usize = 16;
/// Bytes of the largest file that may be. Postgres cuts its own at 1 GiB; one of this size would cost the daemon 32 MiB of page sets.
pub(super) const LARGEST_FILE: u64 = 1 << 40;
/// Records in the buffer that are written without waiting for a commit, in bytes.
const SPILL: usize = 1 << 20;

/// One change of the delta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Create {
        id: FileId,
        parent: FileId,
        name: String,
        kind: FileKind,
        mode: u32,
        target: Option<String>,
    },
    /// The first change to a file of the base: where its record is.
    Adopt {
        id: FileId,
        parent: FileId,
        name: String,
    },
    Remove {
        parent: FileId,
        name: String,
    },
    Rename {
        parent: FileId,
        name: String,
        new_parent: FileId,
        new_name: String,
    },
    Mode {
        id: FileId,
        mode: u32,
    },
    /// Cut to `size`: nothing beyond comes from below or from the overlay again.
    Truncate {
        id: FileId,
        size: u64,
    },
    /// Grown to `size`.
    Grow {
        id: FileId,
        size: u64,
    },
    /// These pages are in the overlay file.
    Pages {
        id: FileId,
        runs: Vec<Range<u32>>,
    },
}

/// An open journal.
pub struct Journal {
    path: PathBuf,
    buffer: Mutex<Buffer>,
    file: Mutex<Output>,
}

#[derive(Default)]
struct Buffer {
    records: Vec<u8>,
    /// Counts appended changes.
    appended: u64,
}

struct Output {
    file: Arc<dyn DiskFile>,
    disk: Arc<dyn Disk>,
    /// The file's own name is durable.
    named: bool,
    /// Where the next frame goes.
    end: u64,
    sequence: u64,
    /// Changes up to here are durable.
    durable: u64,
    /// After a failed write or fsync nothing can be promised any more.
    failed: bool,
}

impl Journal {
    /// The journal's file on its disk.
    pub const NAME: &str = "journal";

    /// Opens the journal of the delta `name` on `disk` and replays it; a journal of another delta is started anew.
    pub fn open(disk: Arc<dyn Disk>, name: &str) -> Result<(Journal, Vec<Change>), PageError> {
        let path = disk.folder().join(Self::NAME);
        let local = |e| PageError::local(&path, e);
        let file = disk.open(Self::NAME).map_err(local)?;
        let mut bytes = vec![0; file.len().map_err(local)? as usize];
        let length = file.read_at(&mut bytes, 0).map_err(local)?;
        bytes.truncate(length);
        let header = header(name);
        let (changes, good, sequence) = match bytes.strip_prefix(header.as_slice()) {
            Some(frames) => replay(frames).map_err(|number| PageError::Damaged {
                object: path.display().to_string(),
                what: format!("frame {number} is whole and cannot be understood; was it written by a newer version?"),
            })?,
            None => (Vec::new(), 0, 0),
        };
        let end = (header.len() + good) as u64;
        let goes_on = bytes.starts_with(&header);
        if bytes.len() as u64 > end || !goes_on {
            file.set_len(if goes_on { end } else { 0 }).map_err(local)?;
            if !bytes.is_empty() {
                // What is cut off must not come back behind what is written from here on.
                file.sync().map_err(local)?;
            }
        }
        if !goes_on {
            file.write_all_at(&header, 0).map_err(local)?;
        }
        let output = Output { file, disk, named: false, end, sequence, durable: 0, failed: false };
        let journal = Journal { path, buffer: Mutex::default(), file: Mutex::new(output) };
        Ok((journal, changes))
    }

    /// Adds a change. It becomes durable with the next [`Journal::commit`].
    pub fn append(&self, change: &Change) {
        let spill = {
            let mut buffer = lock(&self.buffer);
            encode(change, &mut buffer.records);
            buffer.appended += 1;
            buffer.records.len() > SPILL
        };
        // Not yet promised to anyone: a failure shows at the commit. Where a commit is under way, the next one takes these along.
        if spill && let Ok(mut output) = self.file.try_lock() {
            let _ = self.write(&mut output, false);
        }
    }

    /// Makes every change appended so far durable.
    pub fn commit(&self) -> Result<(), PageError> {
        let wanted = lock(&self.buffer).appended;
        let mut output = lock(&self.file);
        if output.durable >= wanted && !output.failed {
            return Ok(());
        }
        self.write(&mut output, true)
    }

    fn write(&self, output: &mut Output, durable: bool) -> Result<(), PageError> {
        if output.failed {
            return Err(PageError::Poisoned(self.path.display().to_string()));
        }
        let (records, appended) = {
            let mut buffer = lock(&self.buffer);
            (std::mem::take(&mut buffer.records), buffer.appended)
        };
        let written = write_frame(output, &records).and_then(|()| if durable { sync(output) } else { Ok(()) });
        match written {
            Ok(()) if durable => {
                fault::pass(FaultPoint::JournalSynced);
                output.durable = appended;
            }
            Ok(()) => {}
            Err(e) => {
                output.failed = true;
                return Err(PageError::local(&self.path, e));
            }
        }
        Ok(())
    }
}

fn sync(output: &mut Output) -> std::io::Result<()> {
    output.file.sync()?;
    if !output.named {
        output.disk.sync_names()?;
        output.named = true;
    }
    Ok(())
}

fn write_frame(output: &mut Output, records: &[u8]) -> std::io::Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    output.sequence += 1;
    let frame = frame(output.sequence, records);
    output.file.write_all_at(&frame, output.end)?;
    output.end += frame.len() as u64;
    Ok(())
}

pub(super) fn frame(sequence: u64, records: &[u8]) -> Vec<u8> {
    let sequence = sequence.to_le_bytes();
    let mut frame = Vec::with_capacity(FRAME_HEADER + records.len());
    frame.extend_from_slice(&(records.len() as u32).to_le_bytes());
    frame.extend_from_slice(&sum(&sequence, records).to_le_bytes());
    frame.extend_from_slice(&sequence);
    frame.extend_from_slice(records);
    frame
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn header(name: &str) -> Vec<u8> {
    let mut header = MAGIC.to_le_bytes().to_vec();
    put_text(&mut header, name);
    header
}

fn sum(sequence: &[u8; 8], records: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(sequence), records)
}

/// The changes of all good frames, how many bytes these take, and the last one's sequence. An error is the sequence of a frame that is good but for what it
/// says: it was acknowledged, so it is no end.
pub(super) fn replay(frames: &[u8]) -> Result<(Vec<Change>, usize, u64), u64> {
    let (mut changes, mut good, mut sequence) = (Vec::new(), 0, 0);
    while let Some(records) = good_frame(&frames[good..], sequence + 1) {
        sequence += 1;
        let mut reader = Reader::new(records);
        while !reader.is_empty() {
            changes.push(decode(&mut reader).ok_or(sequence)?);
        }
        good += FRAME_HEADER + records.len();
    }
    Ok((changes, good, sequence))
}

/// The records of the first frame, if it is whole, sums up, and is the one that is expected.
fn good_frame(bytes: &[u8], expected: u64) -> Option<&[u8]> {
    let mut reader = Reader::new(bytes);
    let (length, crc, sequence) = (reader.u32()? as usize, reader.u32()?, reader.u64()?);
    let records = bytes.get(FRAME_HEADER..FRAME_HEADER.checked_add(length)?)?;
    (sequence == expected && sum(&sequence.to_le_bytes(), records) == crc).then_some(records)
}

pub(super) fn encode(change: &Change, out: &mut Vec<u8>) {
    let number = |out: &mut Vec<u8>, value: u64| out.extend_from_slice(&value.to_le_bytes());
    match change {
        Change::Create { id, parent, name, kind, mode, target } => {
            out.extend_from_slice(&[1, *kind as u8]);
            number(out, id.0);
            number(out, parent.0);
            number(out, u64::from(*mode));
            put_text(out, name);
            put_text(out, target.as_deref().unwrap_or(""));
        }
        Change::Adopt { id, parent, name } => {
            out.push(2);
            number(out, id.0);
            number(out, parent.0);
            put_text(out, name);
        }
        Change::Remove { parent, name } => {
            out.push(3);
            number(out, parent.0);
            put_text(out, name);
        }
        Change::Rename { parent, name, new_parent, new_name } => {
            out.push(4);
            number(out, parent.0);
            put_text(out, name);
            number(out, new_parent.0);
            put_text(out, new_name);
        }
        Change::Mode { id, mode } => {
            out.push(5);
            number(out, id.0);
            number(out, u64::from(*mode));
        }
        Change::Truncate { id, size } => {
            out.push(6);
            number(out, id.0);
            number(out, *size);
        }
        Change::Grow { id, size } => {
            out.push(7);
            number(out, id.0);
            number(out, *size);
        }
        Change::Pages { id, runs } => {
            out.push(8);
            number(out, id.0);
            number(out, runs.len() as u64);
            for run in runs {
                out.extend_from_slice(&run.start.to_le_bytes());
                out.extend_from_slice(&run.end.to_le_bytes());
            }
        }
    }
}

fn decode(reader: &mut Reader<'_>) -> Option<Change> {
    let mode = |mode: u64| u32::try_from(mode).ok();
    let size = |size: u64| (size <= LARGEST_FILE).then_some(size);
    Some(match reader.u8()? {
        1 => {
            let kind = reader.kind()?;
            let (id, parent, mode) = (FileId(reader.u64()?), FileId(reader.u64()?), mode(reader.u64()?)?);
            let name = reader.text()?.to_owned();
            let target = Some(reader.text()?.to_owned()).filter(|target| !target.is_empty());
            Change::Create { id, parent, name, kind, mode, target }
        }
        2 => {
            Change::Adopt { id: FileId(reader.u64()?), parent: FileId(reader.u64()?), name: reader.text()?.to_owned() }
        }
        3 => Change::Remove { parent: FileId(reader.u64()?), name: reader.text()?.to_owned() },
        4 => Change::Rename {
            parent: FileId(reader.u64()?),
            name: reader.text()?.to_owned(),
            new_parent: FileId(reader.u64()?),
            new_name: reader.text()?.to_owned(),
        },
        5 => Change::Mode { id: FileId(reader.u64()?), mode: mode(reader.u64()?)? },
        6 => Change::Truncate { id: FileId(reader.u64()?), size: size(reader.u64()?)? },
        7 => Change::Grow { id: FileId(reader.u64()?), size: size(reader.u64()?)? },
        8 => {
            let id = FileId(reader.u64()?);
            let mut runs = Vec::new();
            for _ in 0..reader.u64()? {
                let (start, end) = (reader.u32()?, reader.u32()?);
                (start < end && end <= PageNo::count_for(LARGEST_FILE)).then(|| runs.push(start..end))?;
            }
            Change::Pages { id, runs }
        }
        _ => return None,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pageserver::LocalDisk;

    pub(in crate::pageserver) fn changes() -> Vec<Change> {
        let (id, parent, name) = (FileId(20), FileId::ROOT, "base".to_owned());
        vec![
            Change::Create {
                id,
                parent,
                name: name.clone(),
                kind: FileKind::Symlink,
                mode: 0o600,
                target: Some("t".into()),
            },
            Change::Adopt { id, parent, name: name.clone() },
            Change::Rename { parent, name: name.clone(), new_parent: id, new_name: "b".into() },
            Change::Remove { parent, name },
            Change::Mode { id, mode: 0o700 },
            Change::Truncate { id, size: 1 << 33 },
            Change::Grow { id, size: 1 << 34 },
            Change::Pages { id, runs: vec![0..3, 7..131072] },
        ]
    }

    #[test]
    fn committed_changes_come_back_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = |name: &str| Journal::open(Arc::new(LocalDisk::open(folder.path()).expect("a folder")), name);
        for round in 0..3 {
            let (journal, replayed) = open("d1").expect("opens");
            assert_eq!(replayed.len(), round * changes().len());
            for change in changes() {
                journal.append(&change);
                journal.commit().expect("commits");
            }
        }
        let (_, replayed) = open("d1").expect("opens");
        assert_eq!(replayed[8..16], changes());
        let (_, replayed) = open("d2").expect("opens");
        assert!(replayed.is_empty(), "another delta's journal was replayed");
    }

    #[test]
    fn an_uncommitted_change_is_not_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = |name: &str| Journal::open(Arc::new(LocalDisk::open(folder.path()).expect("a folder")), name);
        let (journal, _) = open("d").expect("opens");
        journal.append(&changes()[0]);
        drop(journal);
        assert!(open("d").expect("opens").1.is_empty());
    }

    /// What was acknowledged is not cut off because a later version wrote it.
    #[test]
    fn a_whole_frame_that_is_not_understood_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = |name: &str| Journal::open(Arc::new(LocalDisk::open(folder.path()).expect("a folder")), name);
        let newer = [header("d"), frame(1, &[9, 1, 2, 3])].concat();
        std::fs::write(folder.path().join(Journal::NAME), &newer).expect("writes");
        assert!(matches!(open("d").map(|_| ()), Err(PageError::Damaged { .. })));
        assert_eq!(std::fs::read(folder.path().join(Journal::NAME)).expect("reads"), newer, "nothing is cut off");
    }

    /// Whatever happens to the tail, replay yields a prefix, and the journal goes on from there.
    #[test]
    fn a_torn_or_flipped_tail_ends_the_replay() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = |name: &str| Journal::open(Arc::new(LocalDisk::open(folder.path()).expect("a folder")), name);
        let (journal, _) = open("d").expect("opens");
        for change in changes() {
            journal.append(&change);
            journal.commit().expect("commits");
        }
        let whole = std::fs::read(folder.path().join(Journal::NAME)).expect("reads");
        for cut in header("d").len()..whole.len() {
            for flip in [false, true] {
                let mut bytes = whole.clone();
                if flip {
                    bytes[cut] ^= 0x10;
                } else {
                    bytes.truncate(cut);
                }
                std::fs::write(folder.path().join(Journal::NAME), &bytes).expect("writes");
                let (journal, replayed) = open("d").expect("opens");
                assert_eq!(replayed, changes()[..replayed.len()], "at byte {cut}");
                assert!(replayed.len() < changes().len(), "the damage at byte {cut} went unnoticed");
                journal.append(&changes()[7]);
                journal.commit().expect("commits");
                let (_, again) = open("d").expect("opens");
                assert_eq!(again.len(), replayed.len() + 1);
            }
        }
    }
}
