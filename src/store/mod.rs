//! The object store: the only durable shared truth (DESIGN.md, decision 3).
//!
//! [`Store`] is the narrow door to file, S3, GCS and Azure through the `object_store` crate: whole gets, ranges,
//! create-only and conditional puts, lists. Every request has a deadline, is repeated where that is safe (`requests.rs`, `puts.rs`), hedged if
//! it reads (`hedge.rs`) and counted (`metrics.rs`); an error that comes out has been tried for long enough. [`Catalog`] keeps heads and manifests in it. [`probe`] refuses
//! a store whose conditional puts do not hold, before anything relies on them.

mod catalog;
pub mod collect;
mod document;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod hedge;
pub mod keys;
mod local;
mod metrics;
mod open;
mod pins;
mod probe;
mod puts;
mod requests;
#[cfg(test)]
pub(crate) mod simulated;
#[cfg(test)]
mod tests;
mod wire;

pub use catalog::{Catalog, Created, Deletion, Held, Lookup};
pub use error::StoreError;
pub use metrics::Requests;
pub use pins::{PUBLISH_WITHIN, Pin, Pinned};
pub use probe::probe;
pub use requests::RequestKind;

use crate::model::{Entropy, UnixMs};
use crate::telemetry::Metrics;
use bytes::Bytes;
use futures::TryStreamExt;
use hedge::Hedge;
use local::LocalConditional;
use metrics::StoreMetrics;
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, UpdateVersion};
use requests::{Limit, Patience};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// The object store, below one prefix. Cheap to clone. Every call is cancel safe for reads; a put that is dropped may
/// or may not have landed.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    backend: Arc<dyn ObjectStore>,
    prefix: ObjectPath,
    /// For `file://`: conditional updates that the backend has not, and where objects lie.
    local: Option<LocalConditional>,
    url: String,
    /// Spreads retries.
    entropy: Entropy,
    hedge: Hedge,
    metrics: StoreMetrics,
}

impl Inner {
    fn new(backend: Arc<dyn ObjectStore>, prefix: ObjectPath, url: &str, entropy: &Entropy) -> Inner {
        let (hedge, metrics) = (Hedge::new(), StoreMetrics::new());
        Inner { backend, prefix, local: None, url: url.to_owned(), entropy: entropy.clone(), hedge, metrics }
    }
}

/// Names one version of a mutable object, for a conditional put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(UpdateVersion);

/// A mutable object as it was read.
#[derive(Clone, Debug)]
pub struct Versioned {
    pub bytes: Bytes,
    pub version: Version,
}

/// An object as a listing has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub bytes: u64,
    /// When it was last put, by the store's clock.
    pub modified_ms: UnixMs,
}

/// What a conditional put expects to replace.
#[derive(Clone, Debug)]
pub enum Expect {
    Absent,
    Version(Version),
}

impl Store {
    /// Opens the store at `url` (`file://`, `s3://`, `gs://`, `az://`); credentials and endpoint come from the usual environment
    /// variables. Does not talk to it yet, but for making a local folder.
    pub fn open(url: &str) -> Result<Store, StoreError> {
        open::open(url, &Entropy::system())
    }

    /// The URL as configured, for messages.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// What it was asked since it was opened.
    pub fn requests(&self) -> Requests {
        self.0.metrics.snapshot()
    }

    /// Adds its counters to `metrics`.
    pub fn register(&self, metrics: &Metrics) {
        self.0.metrics.register(metrics);
    }

    /// The whole object and its version, or `None` where there is none.
    pub async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        let get = |limit| async move {
            let read = match &self.0.local {
                Some(local) => return local.get(key).await,
                None => self.fetch(RequestKind::Get, key, None, limit).await,
            };
            match read {
                Err(StoreError::Missing { .. }) => Ok(None),
                read => read.map(Some),
            }
        };
        let found = self.persist(RequestKind::Get, Patience::moving(0), get).await?;
        self.0.metrics.received(RequestKind::Get, found.as_ref().map_or(0, |found| found.bytes.len() as u64));
        Ok(found)
    }

    /// `range` of the object's bytes; [`StoreError::Damaged`] where it holds no byte, or the object is shorter.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let Range { start, end } = range;
        let length = end.checked_sub(start).filter(|length| *length > 0).ok_or_else(|| {
            let what = format!("its index or manifest leads to the bytes {start}..{end}");
            StoreError::Damaged { key: key.to_owned(), what }
        })?;
        let get = |limit| async move {
            match &self.0.local {
                Some(local) => local.get_range(key, start..end).await,
                None => Ok(self.fetch(RequestKind::Range, key, Some(start..end), limit).await?.bytes),
            }
        };
        let bytes = self.persist(RequestKind::Range, Patience::moving(length), get).await?;
        self.0.metrics.received(RequestKind::Range, bytes.len() as u64);
        // A backend answers a range that begins inside the object and ends outside with what there is.
        if bytes.len() as u64 == length { Ok(bytes) } else { Err(StoreError::shorter(key.to_owned())) }
    }

    /// One attempt to read; its beginning hedged.
    async fn fetch(
        &self,
        kind: RequestKind,
        key: &str,
        range: Option<Range<u64>>,
        limit: Limit,
    ) -> Result<Versioned, StoreError> {
        let path = self.path(key);
        let end = range.as_ref().map_or(0, |range| range.end);
        let options = GetOptions { range: range.map(GetRange::Bounded), ..Default::default() };
        let request = || async {
            match self.0.backend.get_opts(&path, options.clone()).await {
                // Azurite answers a range that begins at the object's end with one that ends there: is the object that short?
                Err(e) if error::is_misunderstood(&e) && self.is_shorter(&path, end).await => {
                    Err(StoreError::shorter(key.to_owned()))
                }
                answer => answer.map_err(|e| StoreError::from_backend(key, e)),
            }
        };
        let is_answer = |outcome: &Result<_, StoreError>| !matches!(outcome, Err(error) if error.is_retryable());
        let witness = self.0.metrics.witness(kind);
        let answer = limit.hold_beginning(key, self.0.hedge.race(request, is_answer, &witness)).await?;
        let version = Version(UpdateVersion { e_tag: answer.meta.e_tag.clone(), version: answer.meta.version.clone() });
        let length = answer.range.end.saturating_sub(answer.range.start);
        let body = async { answer.bytes().await.map_err(|e| StoreError::from_backend(key, e)) };
        let bytes = limit.hold_body(key, length, body).await?;
        if bytes.len() as u64 != length {
            return Err(StoreError::cut_short(key, bytes.len(), length));
        }
        Ok(Versioned { bytes, version })
    }

    async fn is_shorter(&self, path: &ObjectPath, end: u64) -> bool {
        self.0.metrics.asked(RequestKind::Get);
        self.0.backend.head(path).await.is_ok_and(|meta| meta.size < end)
    }

    /// Keys that begin with `prefix` (whole components), in no particular order.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        Ok(self.list_objects(prefix).await?.into_iter().map(|object| object.key).collect())
    }

    /// As [`Store::list`], with what a listing says of each object.
    pub async fn list_objects(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.check_present(prefix).await?;
        let whole = self.path(prefix);
        let list = || self.0.backend.list(Some(&whole)).try_collect::<Vec<_>>();
        let attempt =
            |limit: Limit| limit.hold(prefix, async { list().await.map_err(|e| StoreError::from_backend(prefix, e)) });
        let found = self.persist(RequestKind::List, Patience::listing(), attempt).await?;
        let listed = |meta: &object_store::ObjectMeta| {
            let parts = meta.location.prefix_match(&self.0.prefix)?;
            Some(Listed {
                key: parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"),
                bytes: meta.size,
                modified_ms: meta.last_modified.timestamp_millis().max(0) as UnixMs,
            })
        };
        Ok(found.iter().filter_map(listed).collect())
    }

    /// The object's length, or `None` where there is none.
    pub async fn length(&self, key: &str) -> Result<Option<u64>, StoreError> {
        self.check_present(key).await?;
        let path = self.path(key);
        let head = || async {
            match self.0.backend.head(&path).await {
                Ok(meta) => Ok(Some(meta.size)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(e) => Err(StoreError::from_backend(key, e)),
            }
        };
        self.persist(RequestKind::Get, Patience::moving(0), |limit| limit.hold(key, head())).await
    }

    /// The components right below `prefix`, as a directory listing has them.
    pub async fn list_children(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.check_present(prefix).await?;
        let whole = self.path(prefix);
        let list = || async {
            let listing = self.0.backend.list_with_delimiter(Some(&whole)).await;
            listing.map_err(|e| StoreError::from_backend(prefix, e))
        };
        let attempt = |limit: Limit| limit.hold(prefix, list());
        let listing = self.persist(RequestKind::List, Patience::listing(), attempt).await?;
        Ok(listing.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    /// Removes an object; one that is not there is no error.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.check_present(key).await?;
        let path = self.path(key);
        let delete = || async {
            match self.0.backend.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(e) => Err(StoreError::from_backend(key, e)),
            }
        };
        self.persist(RequestKind::Delete, Patience::moving(0), |limit| limit.hold(key, delete())).await
    }

    /// Where the object lies on this machine's disk, for a `file://` store: immutable objects are read from there without a copy.
    pub fn local_path(&self, key: &str) -> Option<PathBuf> {
        self.0.local.as_ref().map(|local| local.path(key))
    }

    /// A folder that is not mounted looks like an empty one, and the backend would make what is missing of it.
    async fn check_present(&self, key: &str) -> Result<(), StoreError> {
        match &self.0.local {
            Some(local) => local.check_present(key).await,
            None => Ok(()),
        }
    }

    fn path(&self, key: &str) -> ObjectPath {
        let mut path = self.0.prefix.clone();
        for component in key.split('/').filter(|component| !component.is_empty()) {
            path = path.join(component);
        }
        path
    }
}

/// Checks at the start of a node or an import that `store` can be written and that its conditional puts have one winner.
pub async fn open_and_probe(url: &str, entropy: &Entropy) -> Result<Store, StoreError> {
    let store = open::open(url, entropy)?;
    probe(&store, entropy).await?;
    Ok(store)
}
