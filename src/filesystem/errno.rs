//! The one place that turns an error of the page server into what `read(2)` and its kin return.

use crate::pageserver::{NameProblem, PageError};
use fuser::Errno;
use std::io::ErrorKind;

/// Logs what an operator must know of, once, and chooses the errno.
pub(super) fn errno(error: &PageError) -> Errno {
    match error {
        PageError::Name(problem) => match problem {
            NameProblem::NotFound => Errno::ENOENT,
            NameProblem::Exists => Errno::EEXIST,
            NameProblem::NotEmpty => Errno::ENOTEMPTY,
            NameProblem::IsDirectory => Errno::EISDIR,
            NameProblem::NotDirectory => Errno::ENOTDIR,
            NameProblem::Invalid => Errno::EINVAL,
        },
        PageError::TooLarge => Errno::EFBIG,
        PageError::Local { source, .. }
            if matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) =>
        {
            tracing::error!(%error, "this node's disk is full; make room in server.data_dir");
            Errno::ENOSPC
        }
        PageError::Cancelled
        | PageError::Damaged { .. }
        | PageError::Store(_)
        | PageError::Local { .. }
        | PageError::Poisoned(_) => {
            tracing::error!(%error, "a branch gets an I/O error");
            Errno::EIO
        }
    }
}
