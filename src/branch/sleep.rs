//! How a branch's task puts it to sleep, and what it does if that fails or somebody comes meanwhile.

use super::Status;
use super::error::{BranchError, LifecycleError, answer_within};
use super::suspend::{self, Uploaded};
use super::task::{STORE_ANSWERS, State, Task};
use futures::FutureExt;
use std::pin::pin;
use std::sync::Arc;

/// How often in a row a branch that falls asleep gives way to a client: one that comes just then each time would keep it from being published.
const BREAK_OFFS: u32 = 3;

impl Task {
    /// Suspends a branch that nobody uses. While the store is away it stays up: a shutdown reads pages that may never have been
    /// fetched, and what was stopped could not be started again. One that cannot be suspended for other reasons is brought up again:
    /// only itself knows its roles, and clients may come.
    pub(super) async fn fall_asleep(&mut self, state: State) -> State {
        if self.sessions.are_wanted() {
            return state;
        }
        let asked = answer_within(STORE_ANSWERS, self.shared.catalog.branch_head(&self.branch));
        if let Err(error) = asked.await {
            tracing::warn!(branch = %self.branch, %error, "an idle branch stays awake until the store can take it");
            return state;
        }
        let sessions = self.sessions.clone();
        let gives_way = self.broken_off < BREAK_OFFS;
        let wanted = async move { if gives_way { sessions.wanted().await } else { std::future::pending().await } };
        // A suspend that came to nothing has published nothing.
        let due = self.uploads.next;
        let state = match self.suspend(state, wanted).await.0 {
            // Whoever comes starts it.
            State::Down(down) if !self.sessions.are_wanted() => {
                let state = self.start_again(down).await.0;
                self.announce_state(&state);
                state
            }
            state => state,
        };
        if matches!(state, State::Awake(_)) {
            self.uploads.next = due;
        }
        state
    }

    /// Suspends the branch, or leaves it awake if it is `wanted` before that is done.
    pub(super) async fn suspend(
        &mut self,
        state: State,
        wanted: impl Future<Output = ()>,
    ) -> (State, Result<(), BranchError>) {
        self.announce(Status::Suspending(None));
        self.end_upload().await;
        let (state, outcome) = match self.try_suspend(state, wanted).await {
            Ok(state) => (state, Ok(())),
            Err((state, error)) => {
                tracing::error!(branch = %self.branch, %error, "a branch cannot be suspended; its data stays on this node");
                (state, Err(error.of_branch(&self.branch)))
            }
        };
        self.announce_state(&state);
        (state, outcome)
    }

    async fn try_suspend(
        &mut self,
        state: State,
        wanted: impl Future<Output = ()>,
    ) -> Result<State, (State, LifecycleError)> {
        let up = match state {
            State::Asleep => return Ok(State::Asleep),
            State::Awake(up) => up,
            // Only a clean stop leaves data files that need no WAL: recover first.
            State::Down(down) => match self.start_again(down).await {
                (State::Awake(up), _) => up,
                (State::Asleep, _) => return Ok(State::Asleep),
                (state, _) => return Err((state, LifecycleError::Other("it cannot be started".into()))),
            },
            State::Stranded(held) => {
                return Err((State::Stranded(held), LifecycleError::Other("its data cannot be opened".into())));
            }
        };
        let recorded = match suspend::record(&up).await {
            Ok(recorded) => Arc::new(recorded),
            Err(error) => return Err((State::Awake(up), error)),
        };
        let mut wanted = pin!(wanted);
        if wanted.as_mut().now_or_never().is_some() {
            return Ok(State::Awake(up));
        }
        self.announce(Status::Suspending(Some(recorded.clone())));
        let held = up.held.clone();
        let (mut down, clean) = match suspend::take_down(*up).await {
            Ok(down) => down,
            Err(error) => return Err((State::Stranded(Box::new(held)), error)),
        };
        if !clean {
            let error = LifecycleError::Other("its compute did not stop cleanly".into());
            return Err((State::Down(Box::new(down)), error));
        }
        match suspend::upload(&self.shared, &self.branch, &mut down, &recorded, wanted).await {
            Ok(Uploaded::Asleep) => {
                self.broken_off = 0;
                Ok(State::Asleep)
            }
            Ok(Uploaded::Wanted) => {
                self.broken_off += 1;
                // A branch that was lost while it was written is found out before anybody writes to it.
                match self.renew(State::Down(Box::new(down))).await {
                    State::Down(down) => Ok(self.start_again(down).await.0),
                    state => Ok(state),
                }
            }
            Err(error) => Err((State::Down(Box::new(down)), error)),
        }
    }
}
