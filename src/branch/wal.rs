//! How much of the last WAL segment a cleanly stopped branch needs.
//!
//! A start after a clean stop reads one record, the shutdown checkpoint, and goes on writing behind it. What follows in the segment is
//! zeros or, in a recycled segment, old WAL that nobody may need and nobody should keep: it is cut off at the record's page.

use super::error::LifecycleError;
use crate::compute::ControlFile;
use crate::model::{FileId, PAGE_SIZE, WalSegment};
use crate::pageserver::Volume;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of the largest page header in a segment (`SizeOfXLogLongPHD`, xlog_internal.h).
const PAGE_HEADER: u64 = 40;

/// Reads `global/pg_control` through the volume, without the mount.
pub(super) async fn control_file(volume: &Volume) -> Result<ControlFile, LifecycleError> {
    let mut id = FileId::ROOT;
    for name in ["global", "pg_control"] {
        let listing = volume.listing(id).await?;
        id = volume.peek(id, name, &listing)?;
    }
    let bytes = volume.read(&*volume.file(id)?, 0, PAGE_SIZE).await?;
    ControlFile::from_bytes(&bytes).ok_or_else(|| LifecycleError::Other("global/pg_control has an unknown format".to_owned()))
}

/// The segment that a start of the volume's own `pg_wal` needs, for a cluster that was stopped cleanly.
pub(crate) async fn segment_of_volume(volume: &Volume) -> Result<WalSegment, LifecycleError> {
    let control = control_file(volume).await?;
    let mut id = FileId::ROOT;
    for name in ["pg_wal", &control.checkpoint_wal_file()] {
        let listing = volume.listing(id).await?;
        id = volume.peek(id, name, &listing)?;
    }
    let bytes = volume.read(&*volume.file(id)?, control.redo_offset(), 4).await?;
    let length = bytes.first_chunk().map(|length| u32::from_ne_bytes(*length));
    let length = length.ok_or_else(|| LifecycleError::Other("the last checkpoint's WAL is cut short".to_owned()))?;
    Ok(last_segment(&control, length))
}

/// The segment and how much of it counts, for a cluster that was stopped cleanly.
fn last_segment(control: &ControlFile, record_length: u32) -> WalSegment {
    // A record that crosses a page boundary has a header in between; records of a checkpoint are far below a page.
    let end = control.redo_offset() + u64::from(record_length) + PAGE_HEADER;
    let used = end.next_multiple_of(PAGE_SIZE as u64).min(control.wal_segment_size);
    WalSegment { name: control.checkpoint_wal_file(), size: control.wal_segment_size, used }
}

/// Finds the end of WAL in the local folder `wal` and zeroes what follows it on its page. Blocking.
pub(super) fn trim(control: &ControlFile, wal: &Path) -> Result<WalSegment, LifecycleError> {
    let path = wal.join(control.checkpoint_wal_file());
    let failed = || LifecycleError::io(format!("cannot read {}", path.display()));
    let file = OpenOptions::new().read(true).write(true).open(&path).map_err(failed())?;
    let length = record_length(&file, control.redo_offset()).map_err(failed())?;
    let segment = last_segment(control, length);
    let end = (control.redo_offset() + u64::from(length)).next_multiple_of(8);
    if same_page(control.redo_offset(), end) {
        let rest = vec![0; (segment.used - end) as usize];
        file.write_all_at(&rest, end).map_err(failed())?;
    }
    Ok(segment)
}

/// `xl_tot_len`, the first field of a record (`XLogRecord`, xlogrecord.h).
fn record_length(file: &File, at: u64) -> std::io::Result<u32> {
    let mut length = [0; 4];
    file.read_exact_at(&mut length, at)?;
    Ok(u32::from_ne_bytes(length))
}

fn same_page(start: u64, end: u64) -> bool {
    start / PAGE_SIZE as u64 == (end - 1) / PAGE_SIZE as u64
}
