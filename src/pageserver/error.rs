//! What can go wrong with pages.

use crate::store::StoreError;
use std::path::PathBuf;
use std::sync::Arc;

/// Why a page could not be read or written. The filesystem turns it into an errno.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PageError {
    #[error("{object} is damaged: {what}")]
    Damaged { object: String, what: String },
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    #[error("local disk, {path}: {source}")]
    Local { path: PathBuf, source: Arc<std::io::Error> },
    #[error("an earlier fsync of {0} failed; its pages cannot be trusted on this node any more")]
    Poisoned(String),
    #[error("it was given up because nobody wants it any more")]
    Cancelled,
    #[error("the file would be larger than 1 TiB")]
    TooLarge,
    #[error("{0}")]
    Name(NameProblem),
}

/// A namespace operation that POSIX refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameProblem {
    #[error("no such file or directory")]
    NotFound,
    #[error("it exists")]
    Exists,
    #[error("the directory is not empty")]
    NotEmpty,
    #[error("it is a directory")]
    IsDirectory,
    #[error("it is not a directory")]
    NotDirectory,
    #[error("the name is longer than 255 bytes or no UTF-8")]
    Invalid,
}

impl From<StoreError> for PageError {
    fn from(error: StoreError) -> Self {
        PageError::Store(Arc::new(error))
    }
}

impl From<NameProblem> for PageError {
    fn from(problem: NameProblem) -> Self {
        PageError::Name(problem)
    }
}

impl PageError {
    pub(crate) fn local(path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        PageError::Local { path: path.into(), source: Arc::new(source) }
    }
}
