//! Which misses of a branch are one reader going through a file, and how much is fetched before it asks.
//!
//! A miss that begins right behind the last one, or behind what was read ahead for it, doubles the window: 1, 2, 4 … extents up to [`LARGEST`].
//! One within the second half of the window caught up with its requests and asks for the next one already, so that a fast reader waits for
//! the store's throughput and not for its latency. Any other miss begins anew, with nothing read ahead.
//!
//! Right behind is told in extents, not in frames: a miss brings whole extents, and with them the next frames of the file.

use crate::model::FileId;
use crate::pageserver::cache::EXTENT;
use crate::pageserver::frame::FrameRef;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The largest window, in extents: 4 MiB. A request costs 22 ms, in which one connection brings 1.8 MB (FACTS.md): twice that keeps
/// the store busy while the reader goes through what came before.
const LARGEST: u32 = (4 << 20) / EXTENT as u32;
/// Streams remembered for each branch. Beyond it all are forgotten, which costs each a few misses.
const STREAMS: usize = 256;

/// Where a stream goes: a file in one pack of the base or in one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    Pack(FileId, u32),
    Layer(FileId, u32),
}

/// The frames of one miss in one lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Missed {
    object: u32,
    /// First extent, and the one behind the last.
    start: u32,
    end: u32,
    /// The frame behind the last.
    next_number: u32,
}

impl Missed {
    /// Adds a frame. Frames of another object than the first one's are another miss, which is left alone.
    pub(super) fn with(missed: Option<Missed>, frame: FrameRef, number: u32) -> Missed {
        let extents = extents_of(frame);
        match missed {
            Some(missed) if missed.object != frame.object => missed,
            Some(missed) => Missed {
                object: missed.object,
                start: missed.start.min(extents.start),
                end: missed.end.max(extents.end),
                next_number: missed.next_number.max(number + 1),
            },
            None => Missed { object: frame.object, start: extents.start, end: extents.end, next_number: number + 1 },
        }
    }

    pub(super) fn object(&self) -> u32 {
        self.object
    }
}

/// What one reader has had so far.
#[derive(Clone, Copy, Debug)]
struct Stream {
    /// The last window, or the last miss: its first extent and the one behind it.
    start: u32,
    end: u32,
    /// The first frame that was not read ahead.
    next_number: u32,
    /// Extents of the last window.
    window: u32,
}

/// What is to be read ahead.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    lane: Lane,
    stream: Stream,
    limit: u32,
}

/// The streams of one branch.
#[derive(Default)]
pub(super) struct Streams(Mutex<HashMap<Lane, Stream>>);

impl Streams {
    /// Notes a miss; says what to read ahead, where it is part of a stream.
    pub(super) fn note(&self, lane: Lane, missed: Missed) -> Option<Window> {
        let mut streams = self.lock();
        if streams.len() >= STREAMS && !streams.contains_key(&lane) {
            streams.clear();
        }
        let fresh = Stream { start: missed.start, end: missed.end, next_number: missed.next_number, window: 0 };
        let Some(stream) = streams.get_mut(&lane) else {
            streams.insert(lane, fresh);
            return None;
        };
        // The last extent may hold the first half of the missed frame.
        let is_behind = missed.start == stream.end || missed.start + 1 == stream.end && missed.end > stream.end;
        let is_inside = stream.window > 0 && stream.start <= missed.start && missed.start < stream.end;
        let middle = stream.start + (stream.end - stream.start) / 2;
        if is_behind || is_inside && missed.end > middle {
            let window = (stream.window * 2).clamp(1, LARGEST);
            let start = stream.end.max(missed.end);
            let next_number = stream.next_number.max(missed.next_number);
            *stream = Stream { start, end: start, next_number, window };
            return Some(Window { lane, stream: *stream, limit: start + window });
        }
        if !is_inside {
            *stream = fresh;
        }
        None
    }

    /// The window as it was filled.
    pub(super) fn advance(&self, window: &Window) {
        self.lock().insert(window.lane, window.stream);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Lane, Stream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    /// The first frame to read ahead.
    pub(super) fn first_number(&self) -> u32 {
        self.stream.next_number
    }

    /// Whether the frame is part of it, which it then ends behind.
    pub(super) fn takes(&mut self, frame: FrameRef, number: u32) -> bool {
        let extents = extents_of(frame);
        // Frames that recovery rewrote lie elsewhere in a pack.
        let is_part = extents.end <= self.limit && extents.start + 1 >= self.stream.start;
        if is_part {
            self.stream.end = self.stream.end.max(extents.end);
            self.stream.next_number = number + 1;
        }
        is_part
    }
}

fn extents_of(frame: FrameRef) -> std::ops::Range<u32> {
    let range = frame.range();
    (range.start / EXTENT) as u32..range.end.div_ceil(EXTENT) as u32
}
