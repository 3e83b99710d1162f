//! The collector against a store under a simulated clock: one step at a time, and by seed against everything else at once.

mod histories;
mod simulated;
mod steps;
mod world;

use std::future::Future;
use tokio::runtime::{Builder, Runtime};

thread_local! {
    /// Its time stands still but for what waits for it: deadlines and pauses between attempts.
    static RUNTIME: Runtime =
        Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime starts");
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(future))
}
