//! The sessions of one branch: how many there are, how many are asked for, and the events that one ended or is wanted.

use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

#[derive(Default)]
pub(super) struct Sessions {
    count: AtomicUsize,
    ended: Notify,
    asking: AtomicUsize,
    asked: Notify,
}

/// Somebody who waits for a session, until dropped.
pub(super) struct Asking<'a>(&'a Sessions);

impl Sessions {
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    pub(super) fn begin(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn end(&self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.ended.notify_one();
    }

    /// Resolves after a session ended; for the branch's task alone.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }

    pub(super) fn ask(&self) -> Asking<'_> {
        self.asking.fetch_add(1, Ordering::AcqRel);
        self.asked.notify_one();
        Asking(self)
    }

    /// Whether somebody waits for one.
    pub(super) fn are_wanted(&self) -> bool {
        self.asking.load(Ordering::Acquire) > 0
    }

    /// Resolves once somebody waits for one; for the branch's task alone.
    pub(super) async fn wanted(&self) {
        while !self.are_wanted() {
            self.asked.notified().await;
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn who_went_away_wants_nothing() {
        let sessions = Sessions::default();
        drop(sessions.ask());
        assert_eq!(sessions.wanted().now_or_never(), None, "the event is still there, its reason is not");
        let asking = sessions.ask();
        assert_eq!(sessions.wanted().now_or_never(), Some(()));
        drop(asking);
        assert_eq!(sessions.wanted().now_or_never(), None);
    }
}
