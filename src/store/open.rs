//! From a URL to a store. What retries, and how long a request may take, is decided in `requests.rs`; the clients are told to leave it alone.

use super::local::LocalConditional;
use super::wire::Connector;
use super::{Inner, Store, StoreError};
use crate::model::Entropy;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

/// `object_store`'s own retries are off; see `requests.rs` for why.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, ..Default::default() }
}

/// The clients' own limit for one request, its body included, which would end a large transfer on a slow line: far above ours.
const CLIENT_TIMEOUT: &str = "1h";
/// Until a connection stands. A SYN that is lost is repeated by the kernel after 1 s (RFC 6298): room for one.
const CONNECT_TIMEOUT: &str = "1500ms";
const CLIENT_OPTIONS: [(ClientConfigKey, &str); 2] =
    [(ClientConfigKey::Timeout, CLIENT_TIMEOUT), (ClientConfigKey::ConnectTimeout, CONNECT_TIMEOUT)];

pub(super) fn open(url: &str, entropy: &Entropy) -> Result<Store, StoreError> {
    let refuse = |reason: String| StoreError::Url { url: url.to_owned(), reason };
    let (scheme, rest) = url.split_once("://").ok_or_else(|| {
        refuse("write file:///path, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix".into())
    })?;
    if scheme == "file" {
        return open_local(url, rest, entropy);
    }
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let failed = |e: object_store::Error| refuse(e.to_string());
    let backend: Arc<dyn ObjectStore> = match scheme {
        "s3" => Arc::new(s3(bucket).build().map_err(failed)?),
        "gs" => Arc::new(gcs(bucket).build().map_err(failed)?),
        "az" => Arc::new(azure(bucket).build().map_err(failed)?),
        other => return Err(refuse(format!("{other:?} is not one of file, s3, gs, az"))),
    };
    let prefix = ObjectPath::parse(prefix).map_err(|e| refuse(e.to_string()))?;
    Ok(Store(Arc::new(Inner::new(backend, prefix, url, entropy))))
}

fn s3(bucket: &str) -> AmazonS3Builder {
    let plain_http = std::env::var("AWS_ENDPOINT_URL").is_ok_and(|endpoint| endpoint.starts_with("http://"));
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(no_retries());
    for (key, value) in CLIENT_OPTIONS {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
    }
    if plain_http {
        builder = builder.with_allow_http(true);
    }
    builder.with_http_connector(Connector)
}

fn gcs(bucket: &str) -> GoogleCloudStorageBuilder {
    let mut builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket).with_retry(no_retries());
    for (key, value) in CLIENT_OPTIONS {
        builder = builder.with_config(GoogleConfigKey::Client(key), value);
    }
    builder.with_http_connector(Connector)
}

fn azure(container: &str) -> MicrosoftAzureBuilder {
    let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(container).with_retry(no_retries());
    for (key, value) in CLIENT_OPTIONS {
        builder = builder.with_config(AzureConfigKey::Client(key), value);
    }
    builder.with_http_connector(Connector)
}

#[cfg(test)]
impl Store {
    /// A store on a test's own backend.
    pub(crate) fn on(backend: Arc<dyn ObjectStore>, url: &str) -> Store {
        Store(Arc::new(Inner::new(backend, ObjectPath::default(), url, &Entropy::seeded(0))))
    }
}

fn open_local(url: &str, path: &str, entropy: &Entropy) -> Result<Store, StoreError> {
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
    let inner = Inner::new(Arc::new(backend), ObjectPath::default(), url, entropy);
    Ok(Store(Arc::new(Inner { local: Some(local), ..inner })))
}
