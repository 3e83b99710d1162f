//! What a cleanly stopped branch needs of its WAL: almost nothing.
//!
//! A start after a clean stop reads one record, the shutdown checkpoint, whose page the reader only trusts after the header of the
//! segment's first page (`XLogReaderValidatePageHeader`, xlogreader.c), and goes on writing behind it. Those two or three pages
//! are kept. Everything else in the segment is zeros or, in a recycled segment, old WAL that nobody may need and nobody should keep.

use super::error::LifecycleError;
use crate::compute::ControlFile;
use crate::model::{FileId, PAGE_SIZE, PageNo, WalSegment};
use crate::pageserver::Volume;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a page header inside a record that crosses pages (`SizeOfXLogShortPHD`, xlog_internal.h).
const PAGE_HEADER: u64 = 24;

/// Reads `global/pg_control` through the volume, without the mount.
pub(super) async fn control_file(volume: &Volume) -> Result<ControlFile, LifecycleError> {
    let bytes = read_file(volume, ["global", "pg_control"], 0, PAGE_SIZE).await?;
    ControlFile::from_bytes(&bytes)
        .ok_or_else(|| LifecycleError::Other("global/pg_control has an unknown format".to_owned()))
}

/// What a start of the volume's own `pg_wal` needs, for a cluster that was stopped cleanly.
pub(crate) async fn segment_of_volume(volume: &Volume) -> Result<WalSegment, LifecycleError> {
    let control = control_file(volume).await?;
    let name = control.checkpoint_wal_file();
    let bytes = read_file(volume, ["pg_wal", &name], control.redo_offset(), 4).await?;
    let length = bytes.first_chunk().map(|length| u32::from_ne_bytes(*length));
    let length = length.ok_or_else(|| LifecycleError::Other("the last checkpoint's WAL is cut short".to_owned()))?;
    segment(&control, length)
}

/// What a start of the local folder `wal` needs, for a cluster that was stopped cleanly. Blocking.
pub(super) fn segment_of_folder(control: &ControlFile, wal: &Path) -> Result<WalSegment, LifecycleError> {
    let path = wal.join(control.checkpoint_wal_file());
    let failed = || LifecycleError::io(format!("cannot read {}", path.display()));
    let file = File::open(&path).map_err(failed())?;
    // `xl_tot_len`, the first field of a record (`XLogRecord`, xlogrecord.h).
    let mut length = [0; 4];
    file.read_exact_at(&mut length, control.redo_offset()).map_err(failed())?;
    segment(control, u32::from_ne_bytes(length))
}

/// The segment whose last record, at the redo point, is `length` bytes long.
fn segment(control: &ControlFile, length: u32) -> Result<WalSegment, LifecycleError> {
    let start = control.redo_offset();
    let crosses_page = start % PAGE_SIZE as u64 + u64::from(length) > PAGE_SIZE as u64;
    let end = start + u64::from(length) + if crosses_page { PAGE_HEADER } else { 0 };
    // A checkpoint's record is about a hundred bytes.
    if length == 0 || length as usize > PAGE_SIZE || end > control.wal_segment_size {
        return Err(LifecycleError::Other(format!(
            "the last checkpoint's record in {} is {length} bytes long, which none is",
            control.checkpoint_wal_file()
        )));
    }
    let mut pages = vec![0];
    pages.extend(PageNo::containing(start).0..=PageNo::containing(end - 1).0);
    pages.dedup();
    Ok(WalSegment { name: control.checkpoint_wal_file(), size: control.wal_segment_size, pages })
}

async fn read_file(volume: &Volume, path: [&str; 2], offset: u64, length: usize) -> Result<Vec<u8>, LifecycleError> {
    let mut id = FileId::ROOT;
    for name in path {
        let listing = volume.listing(id).await?;
        id = volume.peek(id, name, &listing)?;
    }
    Ok(volume.read(&*volume.file(id)?, offset, length).await?)
}
