//! An object store in memory that counts range requests and misbehaves when told to; and objects of frames to read from it.

use crate::model::FileId;
use crate::pageserver::cache::{CachedObject, PageCache, Wanted};
use crate::pageserver::frame::{FRAME_SIZE, FrameEncoder, FrameRef, Identity};
use crate::settings::CacheSettings;
use crate::store::Store;
use bytes::Bytes;
use bytesize::ByteSize;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

#[derive(Clone, Debug, Default)]
pub struct CountedStore(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    memory: InMemory,
    requests: AtomicU64,
    bytes: AtomicU64,
    delay_ms: AtomicU64,
    /// Answers that will have a wrong byte.
    bad_answers: AtomicU64,
    away: AtomicBool,
}

impl CountedStore {
    pub fn store(&self) -> Store {
        self.store_at("memory://a")
    }

    pub fn store_at(&self, url: &str) -> Store {
        Store::on(Arc::new(self.clone()), url)
    }

    /// Gets since the last call.
    pub fn requests(&self) -> u64 {
        self.0.requests.swap(0, Ordering::Relaxed)
    }

    /// Bytes got since the last call.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.swap(0, Ordering::Relaxed)
    }

    pub fn set_delay(&self, delay: Duration) {
        self.0.delay_ms.store(delay.as_millis() as u64, Ordering::Relaxed);
    }

    pub fn set_bad_answers(&self, answers: u64) {
        self.0.bad_answers.store(answers, Ordering::Relaxed);
    }

    pub fn set_away(&self, away: bool) {
        self.0.away.store(away, Ordering::Relaxed);
    }
}

impl std::fmt::Display for CountedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("counted")
    }
}

#[async_trait::async_trait]
impl ObjectStore for CountedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.0.memory.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.memory.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(self.0.delay_ms.load(Ordering::Relaxed))).await;
        if self.0.away.load(Ordering::Relaxed) {
            return Err(object_store::Error::Generic { store: "counted", source: "away".into() });
        }
        let result = self.0.memory.get_opts(location, options).await?;
        let (meta, range) = (result.meta.clone(), result.range.clone());
        let (attributes, extensions) = (result.attributes.clone(), result.extensions.clone());
        let mut bytes = result.bytes().await?.to_vec();
        self.0.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let left = self.0.bad_answers.load(Ordering::Relaxed);
        if left > 0 {
            self.0.bad_answers.store(left - 1, Ordering::Relaxed);
            bytes.iter_mut().step_by(997).for_each(|byte| *byte ^= 1);
        }
        let payload = futures::stream::once(std::future::ready(Ok(Bytes::from(bytes)))).boxed();
        Ok(GetResult { payload: GetResultPayload::Stream(payload), meta, range, attributes, extensions })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.0.memory.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.memory.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.memory.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.memory.copy_opts(from, to, options).await
    }
}

/// An object of frames that do not compress: two to an extent.
pub struct Pack {
    pub key: String,
    pub bytes: u64,
    pub frames: Vec<FrameRef>,
    pub contents: Vec<Bytes>,
}

const OWNER: &str = "base1";
const FILE: FileId = FileId(17);

impl Pack {
    /// Puts an object of `frames` frames.
    pub async fn put(store: &Store, key: &str, frames: u32) -> Pack {
        let mut random = StdRng::seed_from_u64(key.bytes().map(u64::from).sum());
        let (mut encoder, mut out) = (FrameEncoder::new(), Vec::new());
        let mut pack = Pack { key: key.to_owned(), bytes: 0, frames: Vec::new(), contents: Vec::new() };
        for number in 0..frames {
            let mut content = vec![0; FRAME_SIZE];
            random.fill_bytes(&mut content);
            pack.frames.push(encoder.append(Identity { owner: OWNER, file: FILE, number }, 0, &content, &mut out));
            pack.contents.push(content.into());
        }
        pack.bytes = out.len() as u64;
        store.create(key, out).await.expect("an object can be put");
        pack
    }

    pub fn open(&self, cache: &PageCache) -> CachedObject {
        cache.object(&self.key, self.bytes)
    }

    pub fn wanted(&self, number: u32) -> Wanted<'static> {
        let identity = Identity { owner: OWNER, file: FILE, number };
        Wanted { frame: self.frames[number as usize], identity, length: FRAME_SIZE }
    }

    /// Reads a frame and compares it with what was put.
    pub async fn read(&self, cache: &PageCache, number: u32) {
        let read = cache.frames(&self.open(cache), &[self.wanted(number)]).await;
        let read = read.unwrap_or_else(|e| panic!("frame {number} of {}: {e}", self.key));
        assert!(read[0] == self.contents[number as usize], "frame {number} of {} reads as something else", self.key);
    }
}

/// Settings of a cache that keeps `disk` bytes of extents and hardly a frame in memory.
pub fn small(disk: u64) -> CacheSettings {
    CacheSettings { max_bytes: ByteSize(disk), memory: ByteSize(1) }
}
