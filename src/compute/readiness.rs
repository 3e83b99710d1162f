//! When a server accepts connections.
//!
//! The postmaster writes its state into line 8 of `postmaster.pid` and fsyncs the file each time (`AddToDataDirLockFile` of
//! miscinit.c, `PM_STATUS_READY` of pidfile.h). Our filesystem serves that fsync, so readiness is an event.

use tokio::sync::watch;

/// The line that holds the postmaster's state, counted from 0 (`LOCK_FILE_LINE_PM_STATUS`).
const STATUS_LINE: usize = 7;

/// Resolves once `pid_file` says so. What it held before the start must be marked as seen. Does not give up by itself.
pub(super) async fn accepts_connections(mut pid_file: watch::Receiver<Vec<u8>>) {
    while pid_file.changed().await.is_ok() {
        if is_ready(&pid_file.borrow_and_update()) {
            return;
        }
    }
    // The filesystem is gone, and the server will follow: its end is waited for elsewhere.
    std::future::pending().await
}

fn is_ready(content: &[u8]) -> bool {
    content.split(|&byte| byte == b'\n').nth(STATUS_LINE).is_some_and(|line| line.starts_with(b"ready"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTING: &[u8] = b"42\n/data\n1700000000\n5432\n/run\n\n  1  2\nstarting\n";
    const READY: &[u8] = b"42\n/data\n1700000000\n5432\n/run\n\n  1  2\nready   \n";

    #[test]
    fn only_the_eighth_line_counts() {
        assert!(is_ready(READY));
        assert!(!is_ready(STARTING));
        assert!(!is_ready(b"ready"));
        assert!(!is_ready(b""));
    }

    #[tokio::test]
    async fn what_was_there_before_the_start_does_not_count() {
        let (sender, mut receiver) = watch::channel(READY.to_vec());
        receiver.mark_unchanged();
        let waiting = tokio::spawn(async move { accepts_connections(receiver).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        sender.send(STARTING.to_vec()).unwrap();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        sender.send(READY.to_vec()).unwrap();
        waiting.await.unwrap();
    }
}
