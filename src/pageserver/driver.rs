//! Synchronous work that waits for the store now and then, and ends early when nobody wants its result any more.

use super::PageError;
use std::future::Future;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Drives requests from a blocking thread. Cheap to clone.
#[derive(Clone)]
pub struct Driver {
    runtime: Handle,
    stop: CancellationToken,
}

impl Driver {
    /// For work that ends, with [`PageError::Cancelled`], once `stop` is cancelled.
    pub fn until(stop: CancellationToken, runtime: Handle) -> Driver {
        Driver { runtime, stop }
    }

    /// Waits for `request`, which is dropped when the work is to end.
    pub fn wait<T>(&self, request: impl Future<Output = T>) -> Result<T, PageError> {
        self.runtime.block_on(self.stop.run_until_cancelled(request)).ok_or(PageError::Cancelled)
    }

    /// An error once the work is to end: for what takes long without waiting.
    pub(super) fn check(&self) -> Result<(), PageError> {
        if self.stop.is_cancelled() { Err(PageError::Cancelled) } else { Ok(()) }
    }

    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

/// For work that is always done to its end.
impl From<Handle> for Driver {
    fn from(runtime: Handle) -> Driver {
        Driver { runtime, stop: CancellationToken::new() }
    }
}
