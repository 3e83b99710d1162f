//! From a URL to a store.

use super::local::LocalConditional;
use super::{Inner, Store, StoreError};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, RetryConfig};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long one call keeps trying a store that answers 5xx or not at all. Below the time a client waits for a connection.
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) fn open(url: &str) -> Result<Store, StoreError> {
    let refuse = |reason: String| StoreError::Url { url: url.to_owned(), reason };
    let (scheme, rest) = url.split_once("://").ok_or_else(|| {
        refuse("write file:///path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix".into())
    })?;
    if scheme == "file" {
        return open_local(url, rest);
    }
    let retry = RetryConfig { retry_timeout: RETRY_TIMEOUT, ..Default::default() };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let failed = |e: object_store::Error| refuse(e.to_string());
    let backend: Arc<dyn ObjectStore> = match scheme {
        "s3" => {
            let plain_http = std::env::var("AWS_ENDPOINT_URL").is_ok_and(|endpoint| endpoint.starts_with("http://"));
            let builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
            let builder = if plain_http { builder.with_allow_http(true) } else { builder };
            Arc::new(builder.build().map_err(failed)?)
        }
        "gs" => Arc::new(
            GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(retry).build().map_err(failed)?,
        ),
        "az" => Arc::new(
            MicrosoftAzureBuilder::from_env().with_container_name(bucket).with_retry(retry).build().map_err(failed)?,
        ),
        other => return Err(refuse(format!("{other:?} is not one of file, s3, gs, az"))),
    };
    let prefix = ObjectPath::parse(prefix).map_err(|e| refuse(e.to_string()))?;
    Ok(Store(Arc::new(Inner { backend, prefix, local: None, url: url.to_owned() })))
}

#[cfg(test)]
impl Store {
    /// A store on a test's own backend.
    pub(crate) fn on(backend: Arc<dyn ObjectStore>, url: &str) -> Store {
        Store(Arc::new(Inner { backend, prefix: ObjectPath::default(), local: None, url: url.to_owned() }))
    }
}

fn open_local(url: &str, path: &str) -> Result<Store, StoreError> {
    let refuse = |reason: String| StoreError::Url { url: url.to_owned(), reason };
    let root = PathBuf::from(path);
    if !root.is_absolute() {
        return Err(refuse("a file store needs an absolute path: file:///path".into()));
    }
    if !root.is_dir() {
        // Bases and verifiers lie here: nobody else's to read, branches' superusers included.
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root);
        made.map_err(|e| refuse(format!("cannot make the folder: {e}")))?;
    }
    let local = LocalConditional::open(root.clone()).map_err(|e| refuse(format!("cannot write in the folder: {e}")))?;
    let backend = LocalFileSystem::new_with_prefix(&root).map_err(|e| refuse(e.to_string()))?.with_fsync(true);
    Ok(Store(Arc::new(Inner {
        backend: Arc::new(backend),
        prefix: ObjectPath::default(),
        local: Some(local),
        url: url.to_owned(),
    })))
}
