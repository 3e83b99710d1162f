//! A store that misbehaves on purpose, for tests: objects in memory, seeded faults, time by `tokio::time` alone.
//!
//! Under `tokio::time::pause` and with one seed the same calls in the same order get the same answers after the same delays, so a failing run
//! replays. Every node of a simulation opens its own [`Store`] on one shared [`SimulatedStore`].
//!
//! *Faults*, drawn anew for each request: an error before the effect, an error after it (the reply that is lost), an error while a put is still
//! under way (it takes effect at a [`SimulatedStore::land`], or never), a delay; and the store can be [`SimulatedStore::set_away`]. Each [`SimulatedStore::door`] has faults of its own. *Damage*, done by the test: bits flipped, objects cut short, removed, swapped, heads rolled back to an earlier
//! version. Every version of every object is remembered for that, so keep objects small.
//! A fault before the effect may also be a 409, as S3 sends it when two conditional puts meet.

use super::wire::Refusal;
use super::{Inner, Store, document};
use crate::model::{BranchHead, Clock, Entropy, UnixMs};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path as ObjectPath;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How a simulated store fails. Shares are of all requests, from 0 to 1.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Requests refused, with no effect.
    pub before: f64,
    /// Requests carried out whose answer is an error.
    pub after: f64,
    /// Puts whose answer is an error and which are still under way. Other requests are answered.
    pub late: f64,
    /// How long requests take.
    pub delay: Delay,
}

/// How long a simulated request takes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Delay {
    #[default]
    None,
    Constant(Duration),
    /// Log-normal, with a tail: the S3 of FACTS.md.
    Measured,
    /// It never answers.
    Forever,
}

/// FACTS.md, "Object stores": GET p50 22 ms, p90 42 ms, 0.5 % in 200–800 ms.
const MEDIAN_MS: f64 = 22.0;
const P90_MS: f64 = 42.0;
const TAIL_SHARE: f64 = 0.005;
const TAIL_MS: (f64, f64) = (200.0, 800.0);
/// The 90th percentile of the standard normal distribution.
const Z90: f64 = 1.2816;

/// One shared store, as it is reached through one door. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SimulatedStore(Arc<Door>);

/// One way to the store, with faults of its own: a node's network.
struct Door {
    shared: Arc<Shared>,
    entropy: Entropy,
    faults: Mutex<Faults>,
    away: AtomicBool,
    requests: AtomicU64,
}

struct Shared {
    objects: InMemory,
    /// The store's own, where a test has one for it.
    clock: Option<Clock>,
    /// When each object was last put, by that clock.
    modified: Mutex<HashMap<ObjectPath, UnixMs>>,
    /// Every version that was put, by path, oldest first.
    history: Mutex<HashMap<ObjectPath, Vec<Bytes>>>,
    /// Puts under way, oldest first.
    late: Mutex<Vec<Put>>,
}

struct Put {
    location: ObjectPath,
    payload: PutPayload,
    options: PutOptions,
    sent_ms: UnixMs,
}

/// How late a put may arrive and still take effect: S3 and Azure refuse a request whose signature is older.
const LATEST_MS: u64 = 15 * 60 * 1000;

/// What becomes of a request that arrived.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    AnswerLost,
    Late,
}

impl SimulatedStore {
    /// An empty store without faults.
    pub(crate) fn new(seed: u64) -> SimulatedStore {
        SimulatedStore::on(Arc::new(Shared::new(None)), seed)
    }

    /// The same, which says of each object that it was put when `clock` said so.
    pub(crate) fn with_clock(seed: u64, clock: Clock) -> SimulatedStore {
        SimulatedStore::on(Arc::new(Shared::new(Some(clock))), seed)
    }

    /// The same store with faults of its own, none at first.
    pub(crate) fn door(&self, seed: u64) -> SimulatedStore {
        SimulatedStore::on(self.0.shared.clone(), seed)
    }

    fn on(shared: Arc<Shared>, seed: u64) -> SimulatedStore {
        SimulatedStore(Arc::new(Door {
            shared,
            entropy: Entropy::seeded(seed),
            faults: Mutex::default(),
            away: AtomicBool::new(false),
            requests: AtomicU64::new(0),
        }))
    }

    pub(crate) fn faults(&self) -> Faults {
        *self.0.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether requests through this door may fail.
    pub(crate) fn is_failing(&self) -> bool {
        let faults = self.faults();
        self.0.away.load(Ordering::Relaxed) || faults.before + faults.after + faults.late > 0.0
    }

    /// One of the puts that are under way arrives, whoever sent it, if its precondition holds now. Its key and whether it took effect.
    pub(crate) async fn land(&self, which: usize) -> Option<(String, bool)> {
        let put = {
            let mut late = self.0.shared.late.lock().unwrap_or_else(PoisonError::into_inner);
            if late.is_empty() {
                return None;
            }
            let which = which % late.len();
            late.remove(which)
        };
        let key = put.location.to_string();
        if self.0.shared.now_ms().saturating_sub(put.sent_ms) > LATEST_MS {
            return Some((key, false));
        }
        Some((key, self.0.shared.put(&put.location, put.payload, put.options).await.is_ok()))
    }

    /// Whether an object is there, beside all faults.
    pub(crate) async fn has(&self, key: &str) -> bool {
        self.0.shared.objects.head(&ObjectPath::from(key)).await.is_ok()
    }

    /// The versions of a branch's head from the `first` on, oldest first.
    pub(crate) fn heads(&self, key: &str, first: usize) -> Vec<BranchHead> {
        let history = self.0.shared.history.lock().unwrap_or_else(PoisonError::into_inner);
        let versions = history.get(&ObjectPath::from(key)).map_or(&[][..], Vec::as_slice);
        let decode = |bytes: &Bytes| document::decode_head(key, bytes).expect("a node put it");
        versions[first.min(versions.len())..].iter().map(decode).collect()
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        *self.0.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// While away, every request fails at once, without effect.
    pub(crate) fn set_away(&self, away: bool) {
        self.0.away.store(away, Ordering::Relaxed);
    }

    /// Requests that reached it, those that failed included.
    pub(crate) fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// The object's bytes, beside all faults; `None` where there is none.
    pub(crate) async fn peek(&self, key: &str) -> Option<Bytes> {
        self.0.shared.objects.get(&ObjectPath::from(key)).await.ok()?.bytes().await.ok()
    }

    /// Replaces the object, beside all faults and preconditions.
    pub(crate) async fn plant(&self, key: &str, bytes: Bytes) {
        self.0.shared.objects.put(&ObjectPath::from(key), bytes.into()).await.expect("memory takes it");
    }

    /// Flips one bit; `bit` counts from the object's first and wraps around its end.
    pub(crate) async fn flip_bit(&self, key: &str, bit: usize) {
        let mut bytes = self.known(key).await.to_vec();
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        self.plant(key, bytes.into()).await;
    }

    /// Cuts the object to `length` bytes.
    pub(crate) async fn truncate(&self, key: &str, length: usize) {
        let bytes = self.known(key).await.slice(..length);
        self.plant(key, bytes).await;
    }

    pub(crate) async fn remove(&self, key: &str) {
        self.0.shared.objects.delete(&ObjectPath::from(key)).await.expect("the object is there");
    }

    /// Gives each of two objects the other's bytes.
    pub(crate) async fn swap(&self, one: &str, other: &str) {
        let (first, second) = (self.known(one).await, self.known(other).await);
        self.plant(one, second).await;
        self.plant(other, first).await;
    }

    /// Puts back what the object was `steps` puts ago; false where it is not that old.
    pub(crate) async fn roll_back(&self, key: &str, steps: usize) -> bool {
        let old = {
            let history = self.0.shared.history.lock().unwrap_or_else(PoisonError::into_inner);
            let versions = history.get(&ObjectPath::from(key)).map_or(&[][..], Vec::as_slice);
            versions.len().checked_sub(steps + 1).map(|at| versions[at].clone())
        };
        match old {
            Some(bytes) => self.plant(key, bytes).await,
            None => return false,
        }
        true
    }

    async fn known(&self, key: &str) -> Bytes {
        self.peek(key).await.unwrap_or_else(|| panic!("the test damages {key}, which is not there"))
    }

    /// A number in 0..1.
    fn draw(&self) -> f64 {
        (self.0.entropy.bits() >> 75) as f64 / (1u64 << 53) as f64
    }

    /// Waits as long as this request takes, then fails if it is to have no effect; what becomes of it otherwise.
    async fn arrive(&self) -> Result<Fate> {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        let faults = *self.0.faults.lock().unwrap_or_else(PoisonError::into_inner);
        // Always as many draws, so that another share of faults does not change the delays.
        let (fate, tail, spread) = (self.draw(), self.draw(), (self.draw(), self.draw()));
        match faults.delay {
            Delay::None => {}
            Delay::Constant(delay) => tokio::time::sleep(delay).await,
            Delay::Measured => tokio::time::sleep(measured_delay(tail, spread)).await,
            Delay::Forever => std::future::pending().await,
        }
        if self.0.away.load(Ordering::Relaxed) {
            return Err(refusal(503, "away"));
        }
        match fate {
            fate if fate < faults.before => Err(refusal([503, 500, 429, 409][(fate * 1e9) as usize % 4], "before")),
            fate if fate < faults.before + faults.after => Ok(Fate::AnswerLost),
            fate if fate < faults.before + faults.after + faults.late => Ok(Fate::Late),
            _ => Ok(Fate::Answered),
        }
    }
}

impl SimulatedStore {
    /// As [`SimulatedStore::arrive`], for what is no put: none is late.
    async fn arrive_in_time(&self) -> Result<Fate> {
        match self.arrive().await? {
            Fate::Late => Ok(Fate::Answered),
            fate => Ok(fate),
        }
    }
}

fn measured_delay(tail: f64, spread: (f64, f64)) -> Duration {
    let ms = if tail < TAIL_SHARE {
        TAIL_MS.0 + (TAIL_MS.1 - TAIL_MS.0) * spread.0
    } else {
        // Box and Muller's normal distribution out of two even ones.
        let normal = (-2.0 * (1.0 - spread.0).ln()).sqrt() * (std::f64::consts::TAU * spread.1).cos();
        MEDIAN_MS * ((P90_MS / MEDIAN_MS).ln() / Z90 * normal).exp()
    };
    Duration::from_secs_f64(ms / 1000.0)
}

fn refusal(status: u16, when: &str) -> object_store::Error {
    let source = Box::new(Refusal { status, text: format!("simulated, {when} the effect") });
    match status {
        409 => object_store::Error::AlreadyExists { path: String::new(), source: "simulated conflict".into() },
        _ => object_store::Error::Generic { store: "simulated", source },
    }
}

fn lose<T>(fate: Fate, answer: Result<T>) -> Result<T> {
    if fate == Fate::Answered { answer } else { Err(refusal(500, "after")) }
}

impl Shared {
    fn new(clock: Option<Clock>) -> Shared {
        Shared {
            objects: InMemory::new(),
            clock,
            modified: Mutex::default(),
            history: Mutex::default(),
            late: Mutex::default(),
        }
    }

    async fn put(&self, location: &ObjectPath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let answer = self.objects.put_opts(location, payload.clone(), options).await?;
        if let Some(clock) = &self.clock {
            let mut modified = self.modified.lock().unwrap_or_else(PoisonError::into_inner);
            modified.insert(location.clone(), clock.now());
        }
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.entry(location.clone()).or_default().push(payload.into());
        Ok(answer)
    }

    /// 0 where it has no clock.
    fn now_ms(&self) -> UnixMs {
        self.clock.as_ref().map_or(0, Clock::now)
    }

    /// What a listing says, by the store's clock where it has one.
    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let put = self.modified.lock().unwrap_or_else(PoisonError::into_inner).get(&meta.location).copied();
        if self.clock.is_some() {
            let listed = Duration::from_millis(meta.last_modified.timestamp_millis() as u64);
            // What was planted was always there.
            meta.last_modified = meta.last_modified - listed + Duration::from_millis(put.unwrap_or(0));
        }
        meta
    }
}

impl Store {
    /// A store on `simulated`, as one node opens it: its retries and hedges are its own, seeded by `entropy`.
    pub(crate) fn simulated(simulated: &SimulatedStore, entropy: &Entropy) -> Store {
        let backend = Arc::new(simulated.clone());
        Store(Arc::new(Inner::new(backend, ObjectPath::default(), "simulated://", entropy)))
    }
}

impl fmt::Display for SimulatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated store")
    }
}

impl fmt::Debug for SimulatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimulatedStore")
    }
}

#[async_trait]
impl ObjectStore for SimulatedStore {
    async fn put_opts(&self, location: &ObjectPath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let fate = self.arrive().await?;
        let shared = &self.0.shared;
        if fate == Fate::Late {
            let put = Put { location: location.clone(), payload, options, sent_ms: shared.now_ms() };
            let mut late = shared.late.lock().unwrap_or_else(PoisonError::into_inner);
            // An attempt that repeats another changes nothing that the other does not.
            let is_known = |other: &Put| {
                other.location == put.location && Bytes::from(other.payload.clone()) == Bytes::from(put.payload.clone())
            };
            if !late.iter().any(is_known) {
                late.push(put);
            }
            return Err(refusal(503, "before"));
        }
        lose(fate, shared.put(location, payload, options).await)
    }

    async fn put_multipart_opts(&self, _: &ObjectPath, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(object_store::Error::NotImplemented {
            operation: "multipart upload".to_owned(),
            implementer: self.to_string(),
        })
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        let fate = self.arrive_in_time().await?;
        let answer = self.0.shared.objects.get_opts(location, options).await;
        // Memory has an error of its own for a range that begins after the end, where a server answers 416.
        let answer = answer.map_err(|error| match error {
            object_store::Error::Generic { .. } => refusal(416, "instead of"),
            other => other,
        });
        lose(fate, answer)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        let store = self.clone();
        let delete = move |location: Result<ObjectPath>| {
            let store = store.clone();
            async move {
                let (location, fate) = (location?, store.arrive_in_time().await?);
                lose(fate, store.0.shared.objects.delete(&location).await.map(|()| location))
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let all = async move {
            let fate = store.arrive_in_time().await?;
            let found: Vec<_> = store.0.shared.objects.list(prefix.as_ref()).try_collect().await?;
            let dated: Vec<_> = found.into_iter().map(|meta| Ok(store.0.shared.dated(meta))).collect();
            lose(fate, Ok(stream::iter(dated)))
        };
        stream::once(all).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        let fate = self.arrive_in_time().await?;
        lose(fate, self.0.shared.objects.list_with_delimiter(prefix).await)
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        let fate = self.arrive_in_time().await?;
        lose(fate, self.0.shared.objects.copy_opts(from, to, options).await)
    }
}
