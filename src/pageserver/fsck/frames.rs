//! Checks frames of one object: read in order, in large ranges, opened on a blocking thread while the next range is read.

use super::{Fsck, READ, Trouble};
use crate::model::FileId;
use crate::pageserver::frame::{FrameRef, Identity};
use bytes::Bytes;
use futures::StreamExt;
use std::ops::Range;
use std::sync::Arc;

/// Frames of a base that are sorted at once: 128 MiB of memory, 256 GiB of data.
pub(super) const FRAMES_IN_MEMORY: usize = 4 << 20;
/// Ranges read or opened at once.
const RANGES: usize = 4;

/// A frame that an index points to, and what must be in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    pub frame: FrameRef,
    pub file: FileId,
    pub number: u32,
    /// Bytes of content.
    pub length: u32,
}

impl Fsck<'_> {
    /// Checks `frames` of the object at `key`, whose sums have `owner` in front. They lie within its length.
    pub(super) async fn check_frames(&self, key: &str, owner: &str, mut frames: Vec<Expected>) -> Result<(), Trouble> {
        frames.retain(|expected| !expected.frame.is_zero());
        frames.sort_unstable_by_key(|expected| expected.frame.offset);
        let owner: Arc<str> = owner.into();
        let mut checks = futures::stream::iter(ranges(&frames))
            .map(|(range, within)| {
                let (owner, frames) = (owner.clone(), frames[within].to_vec());
                async move {
                    let start = range.start;
                    let bytes = self.read(key, range).await?;
                    let opened = tokio::task::spawn_blocking(move || open(&owner, &frames, start, &bytes)).await;
                    opened.map_err(|e| Trouble::Unread(e.to_string()))
                }
            })
            .buffered(RANGES);
        let (mut damaged, mut first) = (0, None);
        while let Some(check) = checks.next().await {
            let (count, what) = check?;
            damaged += count;
            first = first.or(what);
        }
        match (damaged, first) {
            (0, _) | (_, None) => Ok(()),
            (1, Some(what)) => Err(Trouble::Damaged(what)),
            (damaged, Some(what)) => Err(Trouble::Damaged(format!("{damaged} frames; the first: {what}"))),
        }
    }
}

/// Opens frames of a range that begins at byte `start` of its object. How many are damaged, and what is wrong with the first.
fn open(owner: &str, frames: &[Expected], start: u64, bytes: &Bytes) -> (usize, Option<String>) {
    let (mut damaged, mut first) = (0, None);
    for expected in frames {
        let range = expected.frame.range();
        let stored = &bytes[(range.start - start) as usize..(range.end - start) as usize];
        let identity = Identity { owner, file: expected.file, number: expected.number };
        if expected.frame.open(identity, stored, expected.length as usize).is_err() {
            damaged += 1;
            first.get_or_insert_with(|| {
                format!("frame {} of {:?}, at byte {}", expected.number, expected.file, range.start)
            });
        }
    }
    (damaged, first)
}

/// Ranges of about [`READ`] bytes that hold whole frames, each with which frames these are.
fn ranges(frames: &[Expected]) -> Vec<(Range<u64>, Range<usize>)> {
    let mut ranges: Vec<(Range<u64>, Range<usize>)> = Vec::new();
    for (at, expected) in frames.iter().enumerate() {
        let range = expected.frame.range();
        match ranges.last_mut() {
            Some((bytes, within)) if range.end.saturating_sub(bytes.start) <= READ => {
                bytes.end = bytes.end.max(range.end);
                within.end = at + 1;
            }
            _ => ranges.push((range, at..at + 1)),
        }
    }
    ranges
}
