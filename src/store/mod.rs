//! The object store: the only durable shared truth (DESIGN.md, decision 3).
//!
//! [`Store`] is the narrow door to file, S3, GCS and Azure through the `object_store` crate: whole gets, ranges,
//! create-only and conditional puts, lists. [`Catalog`] keeps heads and manifests in it. [`probe`] refuses
//! a store whose conditional puts do not hold, before anything relies on them.

mod catalog;
pub mod collect;
mod document;
mod error;
pub mod keys;
mod local;
mod open;
mod pins;
mod probe;

pub use catalog::{Catalog, Created, Deletion, Held, Lookup};
pub use error::StoreError;
pub use pins::{PUBLISH_WITHIN, Pin, Pinned};
pub use probe::probe;

use crate::model::{Entropy, UnixMs};
use bytes::Bytes;
use futures::StreamExt;
use local::LocalConditional;
use object_store::path::Path as ObjectPath;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion};
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
        open::open(url)
    }

    /// The URL as configured, for messages.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// The whole object and its version, or `None` where there is none.
    pub async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        if let Some(local) = &self.0.local {
            return local.get(key).await;
        }
        let result = match self.0.backend.get_opts(&self.path(key), GetOptions::default()).await {
            Ok(result) => result,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(StoreError::from_backend(key, e)),
        };
        let version = Version(UpdateVersion { e_tag: result.meta.e_tag.clone(), version: result.meta.version.clone() });
        let bytes = result.bytes().await.map_err(|e| StoreError::from_backend(key, e))?;
        Ok(Some(Versioned { bytes, version }))
    }

    /// `range` of the object's bytes; an error where the object is missing or shorter.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let wanted = range.end - range.start;
        self.check_present(key).await?;
        let bytes =
            self.0.backend.get_range(&self.path(key), range).await.map_err(|e| StoreError::from_backend(key, e))?;
        if bytes.len() as u64 != wanted {
            return Err(StoreError::Damaged {
                key: key.to_owned(),
                what: "it is shorter than its manifest says".into(),
            });
        }
        Ok(bytes)
    }

    /// Puts an immutable object under a key that no one has used. [`StoreError::Conflict`] where someone has.
    pub async fn create(&self, key: &str, bytes: impl Into<PutPayload>) -> Result<(), StoreError> {
        self.check_present(key).await?;
        let options = PutOptions { mode: PutMode::Create, ..Default::default() };
        let payload = bytes.into();
        let put = self.0.backend.put_opts(&self.path(key), payload.clone(), options).await;
        match put.map_err(|e| StoreError::from_backend(key, e)) {
            Ok(_) => Ok(()),
            // The first try may have landed although its answer was an error: the keys of immutable objects are nobody else's.
            Err(StoreError::Conflict { .. }) if self.holds(key, &payload).await? => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn holds(&self, key: &str, payload: &PutPayload) -> Result<bool, StoreError> {
        let found = self.get(key).await?;
        Ok(found.is_some_and(|found| found.bytes == Bytes::from(payload.clone())))
    }

    /// Puts a mutable object if it still is what `expect` says; [`StoreError::Conflict`] otherwise. After a conflict or an
    /// unavailable store the put may still have landed: read back and compare a nonce.
    pub async fn put_if(&self, key: &str, bytes: Bytes, expect: Expect) -> Result<Version, StoreError> {
        if let Some(local) = &self.0.local {
            return local.put_if(key, bytes, expect).await;
        }
        let mode = match expect {
            Expect::Absent => PutMode::Create,
            Expect::Version(version) => PutMode::Update(version.0),
        };
        let options = PutOptions { mode, ..Default::default() };
        match self.0.backend.put_opts(&self.path(key), bytes.into(), options).await {
            Ok(result) => Ok(Version(result.into())),
            Err(e) => Err(StoreError::from_backend(key, e)),
        }
    }

    /// Keys that begin with `prefix` (whole components), in no particular order.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        Ok(self.list_objects(prefix).await?.into_iter().map(|object| object.key).collect())
    }

    /// As [`Store::list`], with what a listing says of each object.
    pub async fn list_objects(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        self.check_present(prefix).await?;
        let whole = self.path(prefix);
        let mut found = self.0.backend.list(Some(&whole));
        let mut keys = Vec::new();
        while let Some(meta) = found.next().await {
            let meta = meta.map_err(|e| StoreError::from_backend(prefix, e))?;
            let below_prefix: Vec<_> = match meta.location.prefix_match(&self.0.prefix) {
                Some(parts) => parts.map(|part| part.as_ref().to_owned()).collect(),
                None => continue,
            };
            keys.push(Listed {
                key: below_prefix.join("/"),
                bytes: meta.size,
                modified_ms: meta.last_modified.timestamp_millis().max(0) as UnixMs,
            });
        }
        Ok(keys)
    }

    /// The object's length, or `None` where there is none.
    pub async fn length(&self, key: &str) -> Result<Option<u64>, StoreError> {
        self.check_present(key).await?;
        match self.0.backend.head(&self.path(key)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(StoreError::from_backend(key, e)),
        }
    }

    /// The components right below `prefix`, as a directory listing has them.
    pub async fn list_children(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.check_present(prefix).await?;
        let whole = self.path(prefix);
        let listing =
            self.0.backend.list_with_delimiter(Some(&whole)).await.map_err(|e| StoreError::from_backend(prefix, e))?;
        Ok(listing.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    /// Removes an object; one that is not there is no error.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.check_present(key).await?;
        match self.0.backend.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(StoreError::from_backend(key, e)),
        }
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
    let store = Store::open(url)?;
    probe(&store, entropy).await?;
    Ok(store)
}
