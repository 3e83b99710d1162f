//! Misses: what is wanted of an object, fetched once however many want it, checked, then kept.
//!
//! A miss joins the requests that are under way for its extents and starts one for each run of those that nobody fetches. A
//! [`Fetch`] is driven by whoever waits for it: a waiter that is dropped leaves it to the others, the last one ends it. It stays listed until its
//! waiters have checked and kept what they wanted, so that nobody asks the store in between.
//!
//! What does not pass its check is fetched once more, from the store alone, before it is an error: a cached byte may have rotted, been torn by a crash
//! or been punched out under the reader, and a store may answer wrongly once.

use super::figures::{Counters, count};
use super::object::{EXTENT, Object, Place, extents_of};
use super::{CachedObject, PageCache};
use crate::pageserver::PageError;
use crate::store::{Store, StoreError};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, join_all};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The most that one request asks for: at 80 MB/s a connection 1 MiB takes 13 ms beside the 22 that every request costs, and what is
/// longer comes faster over several connections.
const REQUEST: u32 = (1 << 20) / EXTENT as u32;

/// One range request, shared by all who wait for some of its extents.
pub(super) struct Fetch {
    extents: Range<u32>,
    start: u64,
    outcome: Shared<BoxFuture<'static, Result<Bytes, Arc<StoreError>>>>,
    /// Changed under the lock of `in_flight`.
    waiters: AtomicU32,
}

/// Whose misses they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Demand,
    ReadAhead,
}

/// The fetches that one miss waits for; leaves them when dropped.
struct Waiting {
    object: Arc<Object>,
    fetches: Vec<Arc<Fetch>>,
}

/// Why a piece is not to be had this time.
enum Lack {
    Again,
    Store(Arc<StoreError>),
}

impl PageCache {
    /// `pieces` of an object, each as what `check` makes of its bytes; an error of `check` stands for bytes that are not what they
    /// should be. Cancel safe.
    pub(super) async fn load<T>(
        &self,
        object: &CachedObject,
        pieces: &[Range<u64>],
        purpose: Purpose,
        check: impl Fn(usize, &[u8]) -> Result<T, PageError>,
    ) -> Vec<Result<T, PageError>> {
        let object = object.inner();
        if let Place::Store(path) = &object.place {
            let mut bytes = Vec::new();
            let read = |(number, piece)| {
                self.read_in_place(object, path, piece, &mut bytes).and_then(|()| check(number, &bytes))
            };
            return pieces.iter().enumerate().map(read).collect();
        }
        let outside = |piece: &Range<u64>| piece.end > object.bytes || piece.start > piece.end;
        let mut outcomes: Vec<Option<Result<T, PageError>>> = pieces
            .iter()
            .map(|piece| outside(piece).then(|| Err(object.damaged("what is wanted lies behind its end"))))
            .collect();
        for last in [false, true] {
            let left: Vec<usize> = (0..pieces.len()).filter(|number| outcomes[*number].is_none()).collect();
            if left.is_empty() {
                break;
            }
            let waiting = self.join(object, left.iter().map(|number| &pieces[*number]), last, purpose);
            join_all(waiting.fetches.iter().map(|fetch| fetch.outcome.clone())).await;
            for number in left {
                let piece = &pieces[number];
                let checked = match self.gather(&waiting, piece) {
                    Ok(bytes) => check(number, &bytes),
                    Err(Lack::Store(error)) => Err(error.into()),
                    Err(Lack::Again) => Err(object.damaged("its bytes cannot be read back")),
                };
                outcomes[number] = match checked {
                    Ok(content) => {
                        self.keep_fetched(&waiting, piece);
                        Some(Ok(content))
                    }
                    Err(error) => {
                        let bad = is_bad_content(&error);
                        self.discard(&waiting, piece, bad);
                        (last || !bad).then_some(Err(object.name_in(error)))
                    }
                };
            }
        }
        let missing = || Err(object.damaged("it was not fetched"));
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing)).collect()
    }

    /// Joins or starts what is needed for `pieces`; with `anew`, what is on local disk does not count.
    fn join<'p>(
        &self,
        object: &Arc<Object>,
        pieces: impl Iterator<Item = &'p Range<u64>>,
        anew: bool,
        purpose: Purpose,
    ) -> Waiting {
        let mut wanted: Vec<u32> = pieces.flat_map(extents_of).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut waiting = Waiting { object: object.clone(), fetches: Vec::new() };
        let mut in_flight = object.lock_in_flight();
        let mut runs: Vec<Range<u32>> = Vec::new();
        for extent in wanted {
            // In this order: what is kept meanwhile is still listed, and joining it costs nothing.
            if !anew && object.has(extent) {
                continue;
            }
            if let Some(fetch) = in_flight.get(&extent) {
                waiting.add(fetch);
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end == extent && run.end - run.start < REQUEST => run.end += 1,
                _ => runs.push(extent..extent + 1),
            }
        }
        for run in runs {
            let fetch = Arc::new(self.start(object, run.clone()));
            waiting.add(&fetch);
            for extent in run {
                in_flight.insert(extent, fetch.clone());
                if purpose == Purpose::ReadAhead {
                    object.note_ahead(extent);
                    count(&self.0.counters.read_ahead_issued, 1);
                }
            }
        }
        drop(in_flight);
        waiting
    }

    fn start(&self, object: &Object, extents: Range<u32>) -> Fetch {
        let range = object.extent_range(extents.start).start..object.extent_range(extents.end - 1).end;
        let request = request(self.0.store.clone(), self.0.counters.clone(), object.key.clone(), range.clone());
        Fetch { extents, start: range.start, outcome: request.boxed().shared(), waiters: AtomicU32::new(0) }
    }

    /// The bytes of a piece, from what was fetched and what is on local disk.
    fn gather(&self, waiting: &Waiting, piece: &Range<u64>) -> Result<Bytes, Lack> {
        if let Some(fetch) = waiting.fetches.iter().find(|fetch| fetch.covers(piece)) {
            return fetch.slice(piece);
        }
        let mut bytes = vec![0; (piece.end - piece.start) as usize];
        for extent in extents_of(piece) {
            let whole = waiting.object.extent_range(extent);
            let part = whole.start.max(piece.start)..whole.end.min(piece.end);
            let Some(target) =
                bytes.get_mut((part.start - piece.start) as usize..(part.end.max(part.start) - piece.start) as usize)
            else {
                return Err(Lack::Again);
            };
            match waiting.fetch_of(extent) {
                Some(fetch) => target.copy_from_slice(&fetch.slice(&part)?),
                None => self.read_cached(&waiting.object, &part, target).map_err(|_| Lack::Again)?,
            }
        }
        Ok(bytes.into())
    }

    /// Keeps what a checked piece lies in.
    fn keep_fetched(&self, waiting: &Waiting, piece: &Range<u64>) {
        for extent in extents_of(piece) {
            if let Some(fetch) = waiting.fetch_of(extent)
                && let Ok(bytes) = fetch.slice(&waiting.object.extent_range(extent))
            {
                self.keep(&waiting.object, extent, &bytes);
            }
        }
    }

    /// Forgets the requests that a piece was made of and, where its content is bad, what was on disk of it.
    fn discard(&self, waiting: &Waiting, piece: &Range<u64>, bad: bool) {
        for extent in extents_of(piece) {
            match waiting.fetch_of(extent) {
                Some(fetch) => {
                    let mut in_flight = waiting.object.lock_in_flight();
                    if in_flight.get(&extent).is_some_and(|listed| Arc::ptr_eq(listed, fetch)) {
                        in_flight.remove(&extent);
                    }
                }
                None if bad => self.forget(&waiting.object, &waiting.object.extent_range(extent)),
                None => {}
            }
        }
    }
}

async fn request(
    store: Store,
    counters: Arc<Counters>,
    key: String,
    range: Range<u64>,
) -> Result<Bytes, Arc<StoreError>> {
    count(&counters.requests, 1);
    let bytes = store.get_range(&key, range).await.map_err(Arc::new)?;
    count(&counters.fetched_bytes, bytes.len() as u64);
    Ok(bytes)
}

/// Whether fetching again may help: not against a store that is away, which has had its retries.
fn is_bad_content(error: &PageError) -> bool {
    match error {
        PageError::Damaged { .. } => true,
        PageError::Store(error) => matches!(**error, StoreError::Damaged { .. }),
        _ => false,
    }
}

impl Fetch {
    fn covers(&self, piece: &Range<u64>) -> bool {
        let extents = extents_of(piece);
        self.extents.start <= extents.start && extents.end <= self.extents.end
    }

    /// Part of what came; only after the outcome was awaited.
    fn slice(&self, range: &Range<u64>) -> Result<Bytes, Lack> {
        match self.outcome.peek() {
            Some(Ok(bytes)) => {
                let (start, end) = ((range.start - self.start) as usize, (range.end - self.start) as usize);
                if end <= bytes.len() { Ok(bytes.slice(start..end)) } else { Err(Lack::Again) }
            }
            Some(Err(error)) => Err(Lack::Store(error.clone())),
            None => Err(Lack::Again),
        }
    }
}

impl Waiting {
    /// Under the lock of `in_flight`.
    fn add(&mut self, fetch: &Arc<Fetch>) {
        if !self.fetches.iter().any(|known| Arc::ptr_eq(known, fetch)) {
            fetch.waiters.fetch_add(1, Ordering::Relaxed);
            self.fetches.push(fetch.clone());
        }
    }

    fn fetch_of(&self, extent: u32) -> Option<&Arc<Fetch>> {
        self.fetches.iter().find(|fetch| fetch.extents.contains(&extent))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut in_flight = self.object.lock_in_flight();
        for fetch in &self.fetches {
            if fetch.waiters.fetch_sub(1, Ordering::Relaxed) == 1 {
                for extent in fetch.extents.clone() {
                    if in_flight.get(&extent).is_some_and(|listed| Arc::ptr_eq(listed, fetch)) {
                        in_flight.remove(&extent);
                    }
                }
            }
        }
    }
}
