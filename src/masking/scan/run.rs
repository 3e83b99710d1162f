//! Reads a folder's files on several threads and searches them.
//!
//! Memory does not depend on the files' sizes: a thread holds a piece of a file, and of the value that it decompresses. Files are read once, WAL
//! segments twice. The first error ends the scan: nothing is proven then.

use super::pages::{PAGE, Page, PageState};
use super::patterns::Patterns;
use super::result::{Finding, HeapFaults, Place, ScanError, ScanResult};
use super::sieve::PADDING;
use super::tail::Tail;
use super::toast::{ToastJoiner, Unpacked};
use super::wal::{WalJoiner, unpack_whole};
use super::walk::{self, DataFile, Task};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that are read at once: a multiple of a page.
const PIECE: u64 = 1 << 20;

/// What to search for, and how.
#[derive(Clone, Debug)]
pub struct Scan {
    pub patterns: Arc<Patterns>,
    /// 0 is 1.
    pub threads: usize,
}

impl Scan {
    /// Searches every regular file below `folder`, the data directory of a server that is stopped. `is_user_heap` tells by a file's path relative to
    /// it whether it is of a heap, or its TOAST relation, that must hold nothing but what was copied into it.
    ///
    /// Errors: a file that cannot be read, or that has another size than when it was listed. Blocks the thread that calls it.
    pub fn run(&self, folder: &Path, is_user_heap: &dyn Fn(&Path) -> bool) -> Result<ScanResult, ScanError> {
        let listing = walk::list(folder)?;
        let heaps =
            listing.files.iter().map(|file| &file.relative).filter(|file| is_user_heap(file)).cloned().collect();
        let tasks = walk::plan(&listing.files)?;
        let shared = Shared {
            patterns: &self.patterns,
            heaps,
            tasks: &tasks,
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            result: Mutex::default(),
        };
        let outcomes: Vec<Result<(), ScanError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads.max(1)).map(|_| scope.spawn(|| shared.work())).collect();
            threads.into_iter().map(|thread| thread.join().expect("a scanning thread does not panic")).collect()
        });
        outcomes.into_iter().collect::<Result<(), ScanError>>()?;
        let mut result = shared.result.into_inner().unwrap_or_else(PoisonError::into_inner);
        result.files = listing.files.len() as u64;
        result.patterns = self.patterns.count() as u64;
        result.links = listing.links;
        Ok(result)
    }
}

/// What the threads have in common.
struct Shared<'a> {
    patterns: &'a Arc<Patterns>,
    heaps: BTreeSet<PathBuf>,
    tasks: &'a [Task],
    /// The task that nobody has taken yet.
    next: AtomicUsize,
    /// A thread failed.
    stop: AtomicBool,
    result: Mutex<ScanResult>,
}

impl Shared<'_> {
    fn work(&self) -> Result<(), ScanError> {
        while let Some(task) = self.tasks.get(self.next.fetch_add(1, Ordering::Relaxed))
            && !self.stop.load(Ordering::Relaxed)
        {
            let mut part = Part { shared: self, result: ScanResult::default(), unpacked: None };
            let done = part.run(task);
            self.stop.fetch_or(done.is_err(), Ordering::Relaxed);
            done?;
            self.result.lock().unwrap_or_else(PoisonError::into_inner).merge(part.result);
        }
        Ok(())
    }
}

/// One task under way.
struct Part<'a> {
    shared: &'a Shared<'a>,
    result: ScanResult,
    unpacked: Option<Unpacked>,
}

impl Part<'_> {
    fn run(&mut self, task: &Task) -> Result<(), ScanError> {
        match task {
            Task::Plain { file, share } => self.read(file, share.clone(), &mut |_, _, _| {}),
            Task::Pages { file, share } => {
                let is_heap = self.shared.heaps.contains(&file.relative);
                self.read(file, share.clone(), &mut |part, page, offset| part.page(file, is_heap, page, offset, None))
            }
            Task::Toast { segments } => self.toast(segments),
            Task::Wal { segments } => self.wal(segments),
        }
    }

    /// Searches a share of a file plain, and gives `each` the pieces of [`PAGE`] bytes (the last may have fewer) with their offsets.
    fn read(
        &mut self,
        file: &DataFile,
        share: Range<u64>,
        each: &mut dyn FnMut(&mut Self, &[u8], u64),
    ) -> Result<(), ScanError> {
        let patterns = Arc::clone(self.shared.patterns);
        // What lies across the border of two shares is the later one's.
        let start = share.start.saturating_sub(patterns.overlap().next_multiple_of(PAGE) as u64);
        let mut tail = Tail::starting_at(start, (share.start - start) as usize);
        let mut reader = Reader::open(file, start, share.end)?;
        while reader.append(&mut tail.bytes)? {
            let fresh = tail.bytes.len() - reader.appended;
            for (number, page) in tail.bytes[fresh..].chunks(PAGE).enumerate() {
                let offset = reader.offset - reader.appended as u64 + (number * PAGE) as u64;
                if offset >= share.start {
                    each(self, page, offset);
                }
            }
            let result = &mut self.result;
            tail.search(&patterns, 0, &mut |hit, offset| {
                let (file, place) = (file.relative.clone(), Place::Plain);
                result.add_finding(Finding { file, offset, label: hit.label, encoding: hit.encoding, place });
            });
        }
        self.result.bytes += share.end - share.start;
        Ok(())
    }

    /// What only a page's structure shows.
    fn page(&mut self, file: &DataFile, is_heap: bool, bytes: &[u8], offset: u64, joiner: Option<&mut ToastJoiner>) {
        let page = match Page::parse(bytes) {
            PageState::Page(page) => page,
            PageState::New => return,
            PageState::Other if is_heap => {
                let faults = HeapFaults { unreadable_pages: 1, ..HeapFaults::default() };
                return self.result.add_faults(&file.relative, faults);
            }
            PageState::Other => return,
        };
        if is_heap {
            self.result.add_faults(&file.relative, page.heap_faults());
        }
        for (at, value) in page.compressed_values() {
            let (result, file) = (&mut self.result, &file.relative);
            let bytes = unpack_whole(value, &mut self.unpacked, self.shared.patterns, |hit| {
                let (file, offset, place) = (file.clone(), offset + at as u64, Place::Compressed);
                result.add_finding(Finding { file, offset, label: hit.label, encoding: hit.encoding, place });
            });
            self.result.decompressed_bytes += bytes;
        }
        if let (Some(joiner), Some(chunks)) = (joiner, page.chunks()) {
            for chunk in chunks {
                joiner.take(chunk, &file.relative, offset + chunk.offset as u64, &mut self.result);
            }
        }
    }

    fn toast(&mut self, segments: &[DataFile]) -> Result<(), ScanError> {
        let mut joiner = ToastJoiner::new(Arc::clone(self.shared.patterns));
        for file in segments {
            let is_heap = self.shared.heaps.contains(&file.relative);
            self.read(file, 0..file.bytes, &mut |part, page, offset| {
                part.page(file, is_heap, page, offset, Some(&mut joiner));
            })?;
        }
        joiner.finish(&mut self.result);
        Ok(())
    }

    fn wal(&mut self, segments: &[DataFile]) -> Result<(), ScanError> {
        let mut joiner = WalJoiner::new(Arc::clone(self.shared.patterns));
        for file in segments {
            let mut reader = Reader::open(file, 0, file.bytes)?;
            let mut bytes = Vec::new();
            while reader.append(&mut bytes)? {
                for (number, page) in bytes.chunks(PAGE).enumerate() {
                    let offset = reader.offset - reader.appended as u64 + (number * PAGE) as u64;
                    joiner.take(page, &file.relative, offset, &mut self.result);
                }
                bytes.clear();
            }
        }
        if let Some(file) = segments.last() {
            joiner.finish(&file.relative, file.bytes, &mut self.result);
        }
        Ok(())
    }
}

/// Reads a range of a file in pieces.
struct Reader<'a> {
    file: &'a DataFile,
    open: File,
    /// Of the next byte to read.
    offset: u64,
    end: u64,
    /// Bytes that were read last.
    appended: usize,
}

impl<'a> Reader<'a> {
    fn open(file: &'a DataFile, start: u64, end: u64) -> Result<Reader<'a>, ScanError> {
        let failed = |source| ScanError::Read { path: file.path.clone(), source };
        let mut open = File::open(&file.path).map_err(failed)?;
        if open.metadata().map_err(failed)?.len() != file.bytes {
            return Err(ScanError::Changed { path: file.path.clone() });
        }
        open.seek(SeekFrom::Start(start)).map_err(failed)?;
        Ok(Reader { file, open, offset: start, end, appended: 0 })
    }

    /// Appends the next piece to `bytes`. False at the end.
    fn append(&mut self, bytes: &mut Vec<u8>) -> Result<bool, ScanError> {
        let wanted = PIECE.min(self.end - self.offset);
        let failed = |source| ScanError::Read { path: self.file.path.clone(), source };
        bytes.reserve(wanted as usize + PADDING);
        self.appended = (&mut self.open).take(wanted).read_to_end(bytes).map_err(failed)?;
        if self.appended as u64 != wanted {
            return Err(ScanError::Changed { path: self.file.path.clone() });
        }
        self.offset += wanted;
        Ok(wanted > 0)
    }
}

#[cfg(test)]
mod tests;
