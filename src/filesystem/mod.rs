//! The data directory as Postgres sees it: one FUSE mount a branch, over a [`crate::pageserver::Volume`].
//!
//! The adapter translates requests and delegates. No thread that serves FUSE waits for the store, for another mount or for a path under
//! a mount: what needs a request to the store, or an fsync, goes to the runtime's blocking threads and is answered from there.

mod adapter;
mod attributes;
mod disk;
mod errno;
mod mount;
mod readings;
mod relations;
mod requester;
mod room;
mod serving;
mod tuning;

pub use disk::Disk;
pub use mount::{Mount, MountError, detach_stale};
pub use room::Limits;
