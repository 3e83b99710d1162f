//! A store in memory under a simulated clock: every request waits for its turn, so that whoever polls the actors decides how they
//! interleave; some requests fail, before or after they took effect.

use crate::model::Entropy;
use crate::model::UnixMs;
use crate::store::{Inner, Store};
use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

#[derive(Clone)]
pub(super) struct SimulatedStore(Arc<Shared>);

struct Shared {
    objects: Arc<InMemory>,
    modified: Mutex<HashMap<Path, UnixMs>>,
    clock: Arc<AtomicU64>,
    random: Mutex<StdRng>,
    /// Of a thousand requests, so many fail.
    failing: AtomicU64,
    waits: bool,
    changes: Arc<AtomicU64>,
}

impl SimulatedStore {
    pub(super) fn new(clock: Arc<AtomicU64>, seed: u64) -> Self {
        Self(Arc::new(Shared {
            objects: Arc::default(),
            modified: Mutex::default(),
            clock,
            random: Mutex::new(StdRng::seed_from_u64(seed)),
            failing: AtomicU64::new(0),
            waits: true,
            changes: Arc::default(),
        }))
    }

    /// The same objects, at once and without failures, for an observer.
    pub(super) fn observed(&self) -> Store {
        let shared = &self.0;
        let twin = SimulatedStore(Arc::new(Shared {
            objects: shared.objects.clone(),
            modified: Mutex::default(),
            clock: shared.clock.clone(),
            random: Mutex::new(StdRng::seed_from_u64(0)),
            failing: AtomicU64::new(0),
            waits: false,
            changes: Arc::default(),
        }));
        twin.store()
    }

    pub(super) fn store(&self) -> Store {
        let backend: Arc<dyn ObjectStore> = Arc::new(self.clone());
        Store(Arc::new(Inner::new(backend, Path::default(), "simulated://", &Entropy::seeded(0))))
    }

    pub(super) fn fail(&self, of_a_thousand: u64) {
        self.0.failing.store(of_a_thousand, Ordering::Relaxed);
    }

    /// Grows with every put of a head and every delete of what heads refer to.
    pub(super) fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Relaxed)
    }

    async fn turn(&self) -> Result<()> {
        if self.0.waits {
            Turn(false).await;
        }
        self.chance()
    }

    fn chance(&self) -> Result<()> {
        let failing = self.0.failing.load(Ordering::Relaxed);
        match failing > 0 && self.0.random.lock().expect("no panic").random_range(0..1000) < failing {
            true => Err(object_store::Error::Generic { store: "simulated", source: "a failure".into() }),
            false => Ok(()),
        }
    }

    fn note(&self, location: &Path) {
        if location.as_ref().ends_with("/head") {
            self.0.changes.fetch_add(1, Ordering::Relaxed);
        }
        self.0.modified.lock().expect("no panic").insert(location.clone(), self.0.clock.load(Ordering::Relaxed));
    }

    fn dated(&self, mut meta: ObjectMeta) -> ObjectMeta {
        let now = Duration::from_millis(meta.last_modified.timestamp_millis() as u64);
        // An observer's twin does not know, and does not ask.
        let modified = self.0.modified.lock().expect("no panic").get(&meta.location).copied().unwrap_or(0);
        meta.last_modified = meta.last_modified - now + Duration::from_millis(modified);
        meta
    }
}

/// Ready when it is polled for the second time.
struct Turn(bool);

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl fmt::Debug for SimulatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated")
    }
}

impl fmt::Display for SimulatedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated")
    }
}

#[async_trait]
impl ObjectStore for SimulatedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.turn().await?;
        let put = self.0.objects.put_opts(location, payload, options).await?;
        self.note(location);
        self.chance()?;
        Ok(put)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(object_store::Error::NotImplemented { operation: "multipart".into(), implementer: "simulated".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.turn().await?;
        self.0.objects.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |location: Result<Path>| {
            let store = store.clone();
            async move {
                let location = location?;
                store.turn().await?;
                let _ = store.0.objects.delete(&location).await;
                if ["v1/branch", "v1/project"].iter().any(|folder| location.as_ref().starts_with(folder)) {
                    store.0.changes.fetch_add(1, Ordering::Relaxed);
                }
                store.chance()?;
                Ok(location)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.cloned());
        let listed = async move {
            if let Err(e) = store.turn().await {
                return futures::stream::iter(vec![Err(e)]);
            }
            let found: Vec<_> = store.0.objects.list(prefix.as_ref()).collect().await;
            futures::stream::iter(found.into_iter().map(|meta| meta.map(|meta| store.dated(meta))).collect::<Vec<_>>())
        };
        futures::stream::once(listed).flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.turn().await?;
        self.0.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(object_store::Error::NotImplemented { operation: "copy".into(), implementer: "simulated".into() })
    }
}
