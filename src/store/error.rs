//! What can go wrong with the store, as far as a caller must tell apart. The one place that reads `object_store`'s errors.

use super::wire::Refusal;
use object_store::client::HttpError;
use std::time::Duration;

/// An error of the object store. [`StoreError::is_retryable`] tells whether the same call may go through later.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("store url {url:?}: {reason}")]
    Url { url: String, reason: String },
    #[error("object {key} is missing from the store")]
    Missing { key: String },
    #[error("object {key} was changed by someone else")]
    Conflict { key: String },
    #[error("object {key} is damaged: {what}")]
    Damaged { key: String, what: String },
    #[error(
        "object {key} has format {format}, which is newer than this program knows; use the version of offshoot that wrote it, or a later one"
    )]
    Newer { key: String, format: u32 },
    #[error(
        "object {key} is about to be collected, since nothing referred to it; read anew what named it and try again"
    )]
    Condemned { key: String },
    #[error("the store's disk is full (object {key}); make room or choose another store.url")]
    Full { key: String },
    #[error(
        "the store refuses access to {key}: {reason}; check the credentials and the rights on the folder or bucket"
    )]
    Denied { key: String, reason: String },
    #[error("the store does not keep its promise: {0}")]
    Unsafe(String),
    /// It was tried for as long as `store::requests` allows.
    #[error("the store cannot be reached (object {key}): {reason}; try again once store.url answers")]
    Unavailable { key: String, reason: String },
}

impl StoreError {
    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, StoreError::Unavailable { .. } | StoreError::Condemned { .. })
    }

    /// An attempt that got no answer within `limit`.
    pub(super) fn no_answer(key: &str, limit: Duration) -> StoreError {
        let reason = format!("no answer within {:.1} s", limit.as_secs_f64());
        StoreError::Unavailable { key: key.to_owned(), reason }
    }

    /// An answer that ended early.
    pub(super) fn cut_short(key: &str, got: usize, of: u64) -> StoreError {
        let reason = format!("the answer ended after {got} of {of} bytes");
        StoreError::Unavailable { key: key.to_owned(), reason }
    }

    /// A conflict with nobody: of a request that replaces nothing, or of a put after which the object is as it was. The store, or what stands
    /// before it, is busy with the object.
    pub(super) fn of_nobody(self) -> StoreError {
        match self {
            StoreError::Conflict { key } => StoreError::Unavailable { key, reason: "it answers 409 Conflict".into() },
            other => other,
        }
    }

    /// The error of the last of `attempts`.
    pub(super) fn after(self, attempts: u32, took: Duration) -> StoreError {
        match self {
            StoreError::Unavailable { key, reason } => {
                let reason = format!("{reason} (tried {attempts} times in {:.1} s)", took.as_secs_f64());
                StoreError::Unavailable { key, reason }
            }
            other => other,
        }
    }

    pub(super) fn from_backend(key: &str, error: object_store::Error) -> StoreError {
        let key = key.to_owned();
        if let Some(refusal) = Refusal::of(&error) {
            return StoreError::refused(key, refusal);
        }
        match error {
            object_store::Error::NotFound { .. } => StoreError::Missing { key },
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
                StoreError::Conflict { key }
            }
            object_store::Error::PermissionDenied { source, .. }
            | object_store::Error::Unauthenticated { source, .. } => {
                StoreError::Denied { key, reason: source.to_string() }
            }
            object_store::Error::NotImplemented { operation, .. } => {
                StoreError::Unsafe(format!("it has no {operation} (object {key})"))
            }
            other => match io_kind(&other) {
                Some(std::io::ErrorKind::StorageFull) => StoreError::Full { key },
                Some(std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem) => {
                    StoreError::Denied { key, reason: other.to_string() }
                }
                _ => StoreError::Unavailable { key, reason: with_cause(&other) },
            },
        }
    }

    fn refused(key: String, refusal: &Refusal) -> StoreError {
        match refusal.status {
            // RFC 9110, 15.5.17: no byte of the range exists.
            416 => StoreError::shorter(key),
            501 => StoreError::Unsafe(format!("it does not implement a request that it got (object {key}): {refusal}")),
            507 => StoreError::Full { key },
            _ if refusal.is_passing() => StoreError::Unavailable { key, reason: refusal.to_string() },
            _ => StoreError::Denied { key, reason: refusal.to_string() },
        }
    }

    pub(super) fn shorter(key: String) -> StoreError {
        StoreError::Damaged { key, what: "it is shorter than its manifest or index says".into() }
    }

    pub(super) fn from_io(key: &str, error: std::io::Error) -> StoreError {
        let key = key.to_owned();
        match error.kind() {
            std::io::ErrorKind::StorageFull => StoreError::Full { key },
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                StoreError::Denied { key, reason: error.to_string() }
            }
            _ => StoreError::Unavailable { key, reason: error.to_string() },
        }
    }
}

/// Whether the store answered, and `object_store` could make nothing of the answer.
pub(super) fn is_misunderstood(error: &object_store::Error) -> bool {
    let object_store::Error::Generic { source, .. } = error else { return false };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(source.as_ref());
    while let Some(current) = cause {
        if current.is::<HttpError>() || current.is::<Refusal>() {
            return false;
        }
        cause = current.source();
    }
    true
}

/// What happened, and the root of it: the client's own errors name only the layer that failed.
fn with_cause(error: &object_store::Error) -> String {
    let mut root: &dyn std::error::Error = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    let (whole, root) = (error.to_string(), root.to_string());
    if whole.contains(&root) { whole } else { format!("{whole}: {root}") }
}

/// The I/O error at the root of `error`, where there is one.
fn io_kind(error: &object_store::Error) -> Option<std::io::ErrorKind> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        source = cause.source();
    }
    None
}
