//! The one place that turns an error of the page server into what `read(2)` and its kin return, and tells the operator.

use crate::pageserver::{NameProblem, PageError};
use fuser::Errno;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An error that goes on is logged again, with its count, after this time.
const AGAIN: Duration = Duration::from_secs(60);
/// Different errors that are remembered; what comes beyond shares one count.
const REMEMBERED: usize = 256;

/// The errors of one mount that an operator must know of, each logged at first and then counted: a store that is away fails every read.
pub(super) struct Troubles {
    branch: String,
    seen: Mutex<HashMap<String, Seen>>,
}

struct Seen {
    logged: Instant,
    /// Since then.
    count: u64,
}

impl Troubles {
    /// `branch` as its users know it.
    pub(super) fn new(branch: String) -> Self {
        Self { branch, seen: Mutex::default() }
    }

    /// Chooses the errno; `file` names what the request was for, and is asked only for what an operator must know of.
    pub(super) fn errno(&self, error: &PageError, file: impl Fn() -> String) -> Errno {
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
                let (branch, file) = (&self.branch, file());
                if let Some(times) = self.times_to_log(&format!("{file}: {error}")) {
                    tracing::error!(branch, file, %error, times, "this node's disk is full; make room in server.data_dir");
                }
                Errno::ENOSPC
            }
            PageError::Cancelled
            | PageError::Damaged { .. }
            | PageError::Store(_)
            | PageError::Local { .. }
            | PageError::Poisoned(_) => {
                let (branch, file) = (&self.branch, file());
                if let Some(times) = self.times_to_log(&format!("{file}: {error}")) {
                    tracing::error!(branch, file, %error, times, "a branch gets an I/O error");
                }
                Errno::EIO
            }
        }
    }

    /// How often `error`, with the file that it befell, came since it was last logged, if it is to be logged now.
    fn times_to_log(&self, error: &str) -> Option<u64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if seen.len() < REMEMBERED || seen.contains_key(error) { error } else { "" };
        let Some(known) = seen.get_mut(key) else {
            seen.insert(key.to_owned(), Seen { logged: Instant::now(), count: 0 });
            return Some(1);
        };
        known.count += 1;
        if known.logged.elapsed() < AGAIN {
            return None;
        }
        known.logged = Instant::now();
        Some(std::mem::take(&mut known.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_logged_once_and_then_counted() {
        let troubles = Troubles::new("shop@x".to_owned());
        assert_eq!(troubles.times_to_log("pack 1 is damaged"), Some(1));
        assert_eq!(troubles.times_to_log("pack 1 is damaged"), None);
        assert_eq!(troubles.times_to_log("pack 2 is damaged"), Some(1));
        troubles.seen.lock().unwrap().values_mut().for_each(|seen| seen.logged -= AGAIN);
        assert_eq!(troubles.times_to_log("pack 1 is damaged"), Some(2));
        assert_eq!(troubles.times_to_log("pack 1 is damaged"), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let troubles = Troubles::new("shop@x".to_owned());
        let logged = (0..2 * REMEMBERED).filter(|n| troubles.times_to_log(&n.to_string()).is_some()).count();
        assert_eq!(logged, REMEMBERED + 1);
        assert_eq!(troubles.seen.lock().unwrap().len(), REMEMBERED + 1);
    }
}
