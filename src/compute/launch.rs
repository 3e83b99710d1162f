//! Starting, watching and stopping one server.
//!
//! ```text
//!  Launch ── prepare run_dir ── spawn ── postmaster.pid says ready ──► Compute ── stop: SIGINT ──► Exit (clean)
//!                                 │                                      │           └─ too slow: SIGKILL ─┐
//!                                 └─ ended, or too slow: error           └─ crashed, killed ───────────────┴► Exit
//! ```
//!
//! Once an `Exit` was returned, no process uses the data directory any more: backends outlive a killed postmaster for
//! a moment, and what they write then must not meet the next start. So they are killed and waited for before it.

use super::config_file;
use super::control_file::ControlFile;
use super::data_files::DataFiles;
use super::parameters::{self, Inputs, Parameters};
use super::run_dir::{self, SOCKET, ServerLog};
use super::{ComputeError, Identity, Installation, advice, lock_file, orphans, readiness};
use crate::settings::ComputeSettings;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// Longest path of a unix socket: `sun_path` holds 108 bytes with the closing zero (unix(7)).
const SOCKET_PATH_MAX: usize = 107;

/// What a compute is started with.
pub struct Launch<'a> {
    pub settings: &'a ComputeSettings,
    pub installation: &'a Installation,
    pub identity: Identity,
    /// The mount: `postgres -D`. Absolute; the compute's alone: whatever else works in it is killed if it looks as if a
    /// server had not been stopped there.
    pub data_dir: &'a Path,
    /// The same files, to be read without the mount.
    pub files: DataFiles,
    /// Holds the socket, the generated `pg_hba.conf` and `postgresql.conf`, and the server's log `postgres.log`.
    /// Made here, 0700 and owned by `identity`; nobody else can enter. What was there before is removed. Its parent must
    /// exist and let `identity` through.
    pub run_dir: &'a Path,
    /// Settings of the source that live outside its data directory; weakest.
    pub source_settings: &'a BTreeMap<String, String>,
    /// The project's `parameters`; strongest but for what a clone cannot work with.
    pub parameters: &'a BTreeMap<String, String>,
    /// The content of `postmaster.pid` each time the server makes it durable: the readiness event. What it holds before the start
    /// does not count.
    pub pid_file: watch::Receiver<Vec<u8>>,
}

/// A running compute. Dropping it kills it.
#[derive(Debug)]
pub struct Compute {
    child: Child,
    socket: PathBuf,
    data_dir: PathBuf,
    files: DataFiles,
    log: ServerLog,
    stop_timeout: Duration,
    exit: Option<Exit>,
}

/// How a compute ended.
#[derive(Clone, Debug)]
pub struct Exit {
    /// It stopped because it was asked to and wrote its shutdown checkpoint.
    pub clean: bool,
    /// For the log: exit code or signal, with the last lines the server printed when it was not clean.
    pub description: String,
}

impl Compute {
    /// Spawns `postgres` and returns once it accepts connections. When cancelled, it kills what it began.
    pub async fn start(launch: Launch<'_>) -> Result<Compute, ComputeError> {
        let mut pid_file = launch.pid_file.clone();
        let prepared = Prepared::new(&launch).await?;
        pid_file.mark_unchanged();
        let mut compute = Compute {
            child: spawn(&launch, &mut prepared.command(&launch, &["-D"], &[])?)?,
            socket: launch.run_dir.join(SOCKET),
            data_dir: launch.data_dir.to_owned(),
            files: launch.files.clone(),
            log: prepared.log,
            stop_timeout: launch.settings.stop_timeout,
            exit: None,
        };
        let limit = launch.settings.start_timeout;
        tokio::select! {
            exit = compute.ended() => Err(compute.start_error(&exit)),
            () = readiness::accepts_connections(pid_file) => Ok(compute),
            () = tokio::time::sleep(limit) => {
                compute.kill().await;
                Err(ComputeError::Timeout { limit, log: compute.log.tail() })
            }
        }
    }

    /// `<run_dir>/.s.PGSQL.5432`.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Resolves when the server has ended by itself, for whatever reason. Cancel safe; may be called again.
    pub async fn ended(&mut self) -> Exit {
        if let Some(exit) = &self.exit {
            return exit.clone();
        }
        let status = self.child.wait().await;
        self.settle(status).await
    }

    /// A fast shutdown (SIGINT: sessions are ended, a checkpoint is written); killed after `stop_timeout`.
    /// Cancel safe; may be called again.
    pub async fn stop(&mut self) -> Exit {
        if let Some(pid) = self.child.id() {
            // Fails only when the server has just ended, which is what is waited for next.
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGINT);
        }
        match tokio::time::timeout(self.stop_timeout, self.ended()).await {
            Ok(exit) => exit,
            Err(_) => {
                tracing::warn!(data_dir = %self.data_dir.display(), limit = ?self.stop_timeout, "killing a compute that does not stop");
                self.kill().await
            }
        }
    }

    async fn kill(&mut self) -> Exit {
        // As above.
        let _ = self.child.start_kill();
        self.ended().await
    }

    /// Makes sure that nothing works in the data directory any more, and tells how it was left.
    async fn settle(&mut self, status: io::Result<ExitStatus>) -> Exit {
        if let Err(error) = orphans::reap_users(&self.data_dir).await {
            tracing::error!(data_dir = %self.data_dir.display(), %error, "cannot kill what a compute left behind");
        }
        let ended_well = status.as_ref().is_ok_and(ExitStatus::success);
        let files = self.files.clone();
        let control = tokio::task::spawn_blocking(move || ControlFile::read_from(&files)).await;
        let clean = ended_well && matches!(control, Ok(Ok(control)) if control.is_shut_down());
        let mut description = match status {
            Ok(status) => status.to_string(),
            Err(error) => format!("cannot wait for it: {error}"),
        };
        if !clean {
            description = format!("{description}; its last words:\n{}", self.log.tail());
            if let Err(error) = lock_file::clear(&self.files, &self.data_dir).await {
                tracing::warn!(data_dir = %self.data_dir.display(), %error, "cannot clear what a killed compute left behind");
            }
        }
        self.exit.insert(Exit { clean, description }).clone()
    }

    fn start_error(&self, exit: &Exit) -> ComputeError {
        let log = self.log.tail();
        let exit = exit.description.split(';').next().unwrap_or_default().to_owned();
        ComputeError::Start { exit, advice: advice::for_log(&log), log }
    }
}

impl Drop for Compute {
    fn drop(&mut self) {
        if self.exit.is_none() {
            let _ = self.child.start_kill();
            orphans::kill_users(&self.data_dir);
        }
    }
}

/// A run directory ready for a server, and the settings it gets.
pub(super) struct Prepared {
    pub parameters: Parameters,
    pub log: ServerLog,
}

impl Prepared {
    pub(super) async fn new(launch: &Launch<'_>) -> Result<Prepared, ComputeError> {
        check_socket_path(launch.run_dir)?;
        let stale = lock_file::clear(&launch.files, launch.data_dir).await;
        stale.map_err(|source| ComputeError::DataDir { path: launch.data_dir.to_owned(), source })?;
        let (data_dir, run_dir) = (launch.data_dir.to_owned(), launch.run_dir.to_owned());
        let (source, project) = (launch.source_settings.clone(), launch.parameters.clone());
        let (installation, identity, files) = (launch.installation.clone(), launch.identity, launch.files.clone());
        let prepare = move || {
            let read = |name| {
                config_file::read(&files, &data_dir, name)
                    .map_err(|error| ComputeError::DataDir { path: data_dir.clone(), source: error })
            };
            let parameters = parameters::compose(Inputs {
                major: installation.major,
                data_dir: &data_dir,
                run_dir: &run_dir,
                library_dir: installation.library_dir().as_deref(),
                control: ControlFile::read_from(&files).ok(),
                source: &source,
                file: read("postgresql.conf")?,
                auto: read("postgresql.auto.conf")?,
                project: &project,
            });
            let log = run_dir::prepare(&run_dir, &parameters.file, identity)
                .map_err(|error| ComputeError::RunDir { path: run_dir.clone(), source: error })?;
            Ok(Prepared { parameters, log })
        };
        tokio::task::spawn_blocking(prepare).await.expect("preparing a start does not panic")
    }

    /// `postgres <before> <data_dir> -c … <after>`.
    pub(super) fn command(
        &self,
        launch: &Launch<'_>,
        before: &[&str],
        after: &[&str],
    ) -> Result<Command, ComputeError> {
        let log =
            || self.log.writer().map_err(|source| ComputeError::RunDir { path: launch.run_dir.to_owned(), source });
        let mut command = Command::new(launch.installation.postgres());
        command.args(before).arg(launch.data_dir);
        for (name, value) in &self.parameters.arguments {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        // Not the mount: the child would wait for this daemon before it lets go of its descriptors. Postgres goes there itself.
        command.args(after).current_dir(launch.run_dir).env_clear().envs(kept_environment());
        command.stdin(Stdio::null()).stdout(log()?).stderr(log()?).kill_on_drop(true);
        // A terminal's Ctrl-C is for the daemon, which then stops its computes in order.
        command.process_group(0);
        if launch.identity.differs_from_own() {
            // Supplementary groups are dropped along with the user.
            command.uid(launch.identity.uid).gid(launch.identity.gid);
        }
        Ok(command)
    }
}

/// Runs `command`.
pub(super) fn spawn(launch: &Launch<'_>, command: &mut Command) -> Result<Child, ComputeError> {
    command.spawn().map_err(|source| ComputeError::Spawn { path: launch.installation.postgres(), source })
}

/// Language and time zone; nothing else of the daemon's environment, where the store's credentials are.
fn kept_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars().filter(|(name, _)| name.starts_with("LC_") || matches!(name.as_str(), "LANG" | "PATH" | "TZ"))
}

fn check_socket_path(run_dir: &Path) -> Result<(), ComputeError> {
    let path = run_dir.join(SOCKET);
    match path.as_os_str().len() {
        length if length > SOCKET_PATH_MAX => Err(ComputeError::SocketPath { path, length, limit: SOCKET_PATH_MAX }),
        _ => Ok(()),
    }
}
