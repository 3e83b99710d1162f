//! What can go wrong with the store, as far as a caller must tell apart.

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
    #[error("the store cannot be reached (object {key}): {reason}")]
    Unavailable { key: String, reason: String },
}

impl StoreError {
    /// Whether the same call may succeed later without anyone changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self, StoreError::Unavailable { .. } | StoreError::Condemned { .. })
    }

    pub(super) fn from_backend(key: &str, error: object_store::Error) -> StoreError {
        let key = key.to_owned();
        match error {
            object_store::Error::NotFound { .. } => StoreError::Missing { key },
            object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
                StoreError::Conflict { key }
            }
            object_store::Error::PermissionDenied { source, .. }
            | object_store::Error::Unauthenticated { source, .. } => {
                StoreError::Denied { key, reason: source.to_string() }
            }
            other => match io_kind(&other) {
                Some(std::io::ErrorKind::StorageFull) => StoreError::Full { key },
                Some(std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem) => {
                    StoreError::Denied { key, reason: other.to_string() }
                }
                _ => StoreError::Unavailable { key, reason: other.to_string() },
            },
        }
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
