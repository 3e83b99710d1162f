//! One compute: an unmodified `postgres` process tree over one branch's mount.
//!
//! Finding the binaries, the settings that leave a fast and usable server, spawn, readiness, clean stop, and the reaping of
//! what a killed daemon left behind.

mod advice;
mod catalog;
mod config_file;
mod control_file;
mod data_files;
mod error;
#[cfg(test)]
pub(crate) mod fixture;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod identity;
mod installation;
mod launch;
mod lock_file;
mod orphans;
mod parameters;
mod pid_file;
mod preload;
mod readiness;
mod run_dir;
mod superuser;
#[cfg(test)]
mod tests;

pub use catalog::{checkpoint, read_cluster, read_databases, read_roles, try_database, wal_position};
pub use control_file::ControlFile;
pub use data_files::DataFiles;
pub use error::ComputeError;
pub use identity::Identity;
pub use installation::{Installation, MAJORS, installation, installations};
pub use launch::{Compute, Exit, Launch};
pub use orphans::reap_orphans;
pub use pid_file::watch_pid_file;
pub use superuser::bootstrap_superuser;
