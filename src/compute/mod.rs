//! One compute: an unmodified `postgres` process tree over one branch's mount.
//!
//! Finding the binaries, the settings that leave a fast and usable server, spawn, readiness, clean stop, and the reaping of
//! what a killed daemon left behind.

use crate::model::{Cluster, Database, Role};
use crate::settings::ComputeSettings;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// A PostgreSQL installation on this node.
#[derive(Clone, Debug)]
pub struct Installation {
    pub major: u32,
    /// As `postgres --version` prints it, for instance `15.18`.
    pub version: String,
    pub bin_dir: PathBuf,
}

/// The system user that computes run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
}

/// Why a compute could not be had; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    #[error("placeholder")]
    Placeholder,
}

impl Identity {
    /// The configured user when the daemon is root, otherwise the daemon's own.
    pub fn resolve(_settings: &ComputeSettings) -> Result<Identity, ComputeError> {
        todo!()
    }
}

/// Every installation on this node, newest minor of each major first.
pub async fn installations(_settings: &ComputeSettings) -> Vec<Installation> {
    todo!()
}

/// The installation for a cluster of version `major`; the error says which were found.
pub async fn installation(_settings: &ComputeSettings, _major: u32) -> Result<Installation, ComputeError> {
    todo!()
}

/// What a compute is started with.
pub struct Launch<'a> {
    pub settings: &'a ComputeSettings,
    pub installation: &'a Installation,
    pub identity: Identity,
    /// The mount: `postgres -D`.
    pub data_dir: &'a Path,
    /// Holds the socket, the generated `pg_hba.conf` (and `postgresql.conf` where the data directory has none) and the server's log.
    /// Made here, 0700 and owned by `identity`; nobody else can enter.
    pub run_dir: &'a Path,
    /// Settings of the source that live outside its data directory; weakest.
    pub source_settings: &'a BTreeMap<String, String>,
    /// The project's `parameters`; strongest but for what a clone cannot work with.
    pub parameters: &'a BTreeMap<String, String>,
    /// The content of `postmaster.pid` each time the server makes it durable: the readiness event.
    pub pid_file: watch::Receiver<Vec<u8>>,
}

/// A running compute. Dropping it kills it.
pub struct Compute {}

/// How a compute ended.
#[derive(Clone, Debug)]
pub struct Exit {
    /// It stopped because it was asked to and wrote its shutdown checkpoint.
    pub clean: bool,
    /// For the log: exit code or signal, with the last lines the server printed when it was not clean.
    pub description: String,
}

impl Compute {
    /// Spawns `postgres` and returns once it accepts connections.
    pub async fn start(_launch: Launch<'_>) -> Result<Compute, ComputeError> {
        todo!()
    }

    /// `<run_dir>/.s.PGSQL.5432`.
    pub fn socket(&self) -> &Path {
        todo!()
    }

    /// Resolves when the server has ended by itself, for whatever reason. Cancel safe; may be called again.
    pub async fn ended(&mut self) -> Exit {
        todo!()
    }

    /// A fast shutdown (SIGINT: sessions are ended, a checkpoint is written); killed after `stop_timeout`.
    pub async fn stop(&mut self) -> Exit {
        todo!()
    }
}

/// Kills, by pid, every process whose working directory lies under `root`: computes whose daemon was killed.
/// Returns how many, once they are gone.
pub async fn reap_orphans(_root: &Path) -> std::io::Result<usize> {
    todo!()
}

/// The roles as the running compute has them now.
pub async fn read_roles(_socket: &Path, _superuser: &str, _database: &str) -> Result<Vec<Role>, ComputeError> {
    todo!()
}

/// What base and branch manifests record of a cluster. `settings` is left empty.
pub async fn read_cluster(_socket: &Path, _run_as: &str) -> Result<Cluster, ComputeError> {
    todo!()
}

/// The databases as the running compute has them now.
pub async fn read_databases(_socket: &Path, _superuser: &str, _database: &str) -> Result<Vec<Database>, ComputeError> {
    todo!()
}
