//! What a cleanly stopped branch needs of its WAL: almost nothing.
//!
//! A start after a clean stop reads one record, the shutdown checkpoint, whose page the reader only trusts after the header of the
//! segment's first page (`XLogReaderValidatePageHeader`, xlogreader.c), and goes on writing behind it. Those two or three pages
//! are kept, the last of them in the next segment where the record began in the last bytes of one. Everything else in the segment is zeros or, in a recycled segment, old WAL that nobody may need and nobody should keep.

use super::error::LifecycleError;
use crate::compute::ControlFile;
use crate::model::{FileId, PAGE_SIZE, PageNo, WalSegment};
use crate::pageserver::Volume;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes of a page header inside a record that crosses pages (`SizeOfXLogShortPHD`, xlog_internal.h), and of a segment's first.
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;

/// Reads `global/pg_control` through the volume, without the mount.
pub(super) async fn control_file(volume: &Volume) -> Result<ControlFile, LifecycleError> {
    let bytes = read_file(volume, ["global", "pg_control"], 0, PAGE_SIZE).await?;
    ControlFile::from_bytes(&bytes)
        .ok_or_else(|| LifecycleError::Other("global/pg_control has an unknown format".to_owned()))
}

/// The file that [`control_file_near`] reads.
pub(super) async fn control_file_id(volume: &Volume) -> Result<FileId, LifecycleError> {
    find(volume, ["global", "pg_control"]).await
}

/// As [`control_file`], of a running server that has just written it: the page is the branch's own.
pub(super) fn control_file_near(volume: &Volume, id: FileId) -> Result<ControlFile, LifecycleError> {
    let mut bytes = Vec::new();
    let near = volume.read_near(&*volume.file(id)?, 0, PAGE_SIZE, &mut bytes)?;
    near.then(|| ControlFile::from_bytes(&bytes))
        .flatten()
        .ok_or_else(|| LifecycleError::Other("global/pg_control cannot be read".to_owned()))
}

/// What a start of the volume's own `pg_wal` needs, for a cluster that was stopped cleanly.
pub(crate) async fn segments_of_volume(volume: &Volume) -> Result<Vec<WalSegment>, LifecycleError> {
    let control = control_file(volume).await?;
    let name = control.checkpoint_wal_file();
    let bytes = read_file(volume, ["pg_wal", &name], control.redo_offset(), 4).await?;
    let length = bytes.first_chunk().map(|length| u32::from_ne_bytes(*length));
    let length = length.ok_or_else(|| LifecycleError::Other("the last checkpoint's WAL is cut short".to_owned()))?;
    segments(&control, length)
}

/// What a start of the local folder `wal` needs, for a cluster that was stopped cleanly. Blocking.
pub(super) fn segments_of_folder(control: &ControlFile, wal: &Path) -> Result<Vec<WalSegment>, LifecycleError> {
    let path = wal.join(control.checkpoint_wal_file());
    let failed = || LifecycleError::io(format!("cannot read {}", path.display()));
    let file = File::open(&path).map_err(failed())?;
    // `xl_tot_len`, the first field of a record (`XLogRecord`, xlogrecord.h).
    let mut length = [0; 4];
    file.read_exact_at(&mut length, control.redo_offset()).map_err(failed())?;
    segments(control, u32::from_ne_bytes(length))
}

/// Bytes of WAL that an upload of an awake branch takes. A checkpoint comes right before it.
const MOST_WAL: usize = 256 << 20;
/// `xlp_pageaddr` in a WAL page's header (`XLogPageHeaderData`, xlog_internal.h): where the page stands in the whole WAL.
const PAGE_ADDRESS: std::ops::Range<usize> = 8..16;

/// What a start of a copy of a running cluster needs: of each segment its first page, and every page from the last checkpoint's redo point up to
/// where the server has written. A page that carries another address is a recycled segment's: the WAL ends before it. Blocking.
pub(super) fn since_checkpoint(
    control: &ControlFile,
    folder: &Path,
) -> Result<(Vec<WalSegment>, Vec<u8>), LifecycleError> {
    let size = control.wal_segment_size;
    let (mut segments, mut content) = (Vec::new(), Vec::new());
    let mut first = PageNo::containing(control.redo_offset()).0;
    for number in control.redo() / size.. {
        let name = control.wal_file(number);
        let path = folder.join(&name);
        let failed = || LifecycleError::io(format!("cannot read {}", path.display()));
        let file = match File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !segments.is_empty() => break,
            file => file.map_err(failed())?,
        };
        let (mut segment, mut page) = (WalSegment { name, size, pages: Vec::new() }, vec![0; PAGE_SIZE]);
        for place in std::iter::once(0).chain(first.max(1)..PageNo::count_for(size)) {
            file.read_exact_at(&mut page, PageNo(place).offset()).map_err(failed())?;
            let address = u64::from_ne_bytes(page[PAGE_ADDRESS].try_into().expect("eight bytes"));
            if address != number * size + PageNo(place).offset() {
                break;
            }
            segment.pages.push(place);
            content.extend_from_slice(&page);
        }
        if content.len() > MOST_WAL {
            return Err(LifecycleError::Other("too much was written since its last checkpoint".to_owned()));
        }
        let ended = segment.pages.last().is_none_or(|last| *last + 1 < PageNo::count_for(size));
        if !segment.pages.is_empty() {
            segments.push(segment);
        }
        if ended {
            break;
        }
        first = 0;
    }
    if segments.is_empty() {
        return Err(LifecycleError::Other("the WAL of its last checkpoint is not there".to_owned()));
    }
    Ok((segments, content))
}

/// How many pages [`read_pages`] has.
pub(super) fn kept_pages(segments: &[WalSegment]) -> usize {
    segments.iter().map(|segment| segment.pages.len()).sum()
}

/// The kept pages of `segments`, one after another. Blocking.
pub(super) fn read_pages(folder: &Path, segments: &[WalSegment]) -> Result<Vec<u8>, LifecycleError> {
    let mut content = Vec::new();
    for segment in segments {
        let path = folder.join(&segment.name);
        let failed = || LifecycleError::io(format!("cannot read {}", path.display()));
        let file = File::open(&path).map_err(failed())?;
        for page in &segment.pages {
            let start = content.len();
            content.resize(start + PAGE_SIZE, 0);
            file.read_exact_at(&mut content[start..], PageNo(*page).offset()).map_err(failed())?;
        }
    }
    Ok(content)
}

/// The segments with the last record, at the redo point and `length` bytes long: one, or two where it crosses into the next.
pub(super) fn segments(control: &ControlFile, length: u32) -> Result<Vec<WalSegment>, LifecycleError> {
    let (start, size) = (control.redo_offset(), control.wal_segment_size);
    // A checkpoint's record is about a hundred bytes.
    if length == 0 || length as usize > PAGE_SIZE || size < 2 * PAGE_SIZE as u64 {
        return Err(LifecycleError::Other(format!(
            "the last checkpoint's record in {} is {length} bytes long, which none is",
            control.checkpoint_wal_file()
        )));
    }
    let crosses_page = start % PAGE_SIZE as u64 + u64::from(length) > PAGE_SIZE as u64;
    let end = start + u64::from(length) + if crosses_page { PAGE_HEADER } else { 0 };
    let kept = |number: u64, last: std::ops::Range<u64>| {
        let mut pages = vec![0];
        pages.extend(PageNo::containing(last.start).0..=PageNo::containing(last.end - 1).0);
        pages.dedup();
        WalSegment { name: control.wal_file(number), size, pages }
    };
    let number = control.redo() / size;
    let mut segments = vec![kept(number, start..end.min(size))];
    // A record that ends right at its segment's end crosses no page, and what is behind it begins the next file anew.
    if crosses_page && end > size {
        let beyond = start + u64::from(length) - size;
        segments.push(kept(number + 1, 0..beyond + SEGMENT_HEADER));
    }
    Ok(segments)
}

async fn read_file(volume: &Volume, path: [&str; 2], offset: u64, length: usize) -> Result<Vec<u8>, LifecycleError> {
    let id = find(volume, path).await?;
    Ok(volume.read(&*volume.file(id)?, offset, length).await?)
}

async fn find(volume: &Volume, path: [&str; 2]) -> Result<FileId, LifecycleError> {
    let mut id = FileId::ROOT;
    for name in path {
        let listing = volume.listing(id).await?;
        id = volume.peek(id, name, &listing)?;
    }
    Ok(id)
}
