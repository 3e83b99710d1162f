//! The readiness event of a compute on a plain folder, where no filesystem of ours sees its fsyncs: inotify(7).

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use tokio::sync::watch;

/// How soon the thread notices that nobody waits any more.
const ATTENTION_MS: u16 = 200;

/// Follows `postmaster.pid` in `data_dir`, which must exist, until the receiver is dropped. For [`super::Launch::pid_file`].
pub fn watch_pid_file(data_dir: &Path) -> io::Result<watch::Receiver<Vec<u8>>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(data_dir, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE)?;
    let (sender, receiver) = watch::channel(Vec::new());
    let file = data_dir.join("postmaster.pid");
    tokio::task::spawn_blocking(move || {
        while !sender.is_closed() {
            let mut waiting = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
            if !matches!(poll(&mut waiting, PollTimeout::from(ATTENTION_MS)), Ok(1..)) {
                continue;
            }
            while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
            if let Ok(content) = std::fs::read(&file) {
                sender.send_replace(content);
            }
        }
    });
    Ok(receiver)
}
