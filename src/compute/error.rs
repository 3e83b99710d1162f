//! Why a compute could not be had, each with what to do about it.

use std::path::PathBuf;
use std::time::Duration;

/// Why a compute could not be had; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    #[error(
        "the system user \"{user}\" that computes shall run as does not exist; create it, or set compute.user to one that does"
    )]
    UnknownUser { user: String },
    #[error(
        "computes cannot run as \"{user}\", because Postgres refuses to run as root; set compute.user to an ordinary system user"
    )]
    RootUser { user: String },
    #[error("cannot look up the system user \"{user}\": {source}")]
    UserLookup { user: String, source: std::io::Error },
    #[error("PostgreSQL {major} is not supported: Offshoot runs versions {} to {}", super::MAJORS.start(), super::MAJORS.end())]
    UnsupportedMajor { major: u32 },
    #[error(
        "this node has no PostgreSQL {major}; {found}. Install it (on Debian and Ubuntu: apt install postgresql-{major}, from \
         apt.postgresql.org if need be), or name its folder in compute.postgres_dirs"
    )]
    NoInstallation { major: u32, found: String },
    #[error(
        "the socket path {path} has {length} bytes, and the kernel takes at most {limit}; choose a shorter server.data_dir",
        path = path.display()
    )]
    SocketPath { path: PathBuf, length: usize, limit: usize },
    #[error("cannot prepare {}: {source}", path.display())]
    RunDir { path: PathBuf, source: std::io::Error },
    #[error("cannot prepare the data directory {}: {source}", path.display())]
    DataDir { path: PathBuf, source: std::io::Error },
    #[error("cannot start {}: {source}", path.display())]
    Spawn { path: PathBuf, source: std::io::Error },
    #[error("postgres ended before it accepted connections ({exit}){}; its last words:\n{log}", colon(.advice))]
    Start { exit: String, advice: Option<&'static str>, log: String },
    #[error(
        "postgres did not accept connections within {}; raise compute.start_timeout if it was still recovering; its last words:\n{log}",
        humantime::format_duration(*limit)
    )]
    Timeout { limit: Duration, log: String },
    #[error("cannot query the compute at {}: {}", socket.display(), describe(.source))]
    Query { socket: PathBuf, source: tokio_postgres::Error },
    #[error("the compute at {} did not answer within {}", socket.display(), humantime::format_duration(*limit))]
    QueryTimeout { socket: PathBuf, limit: Duration },
    #[error("postgres --single did not name the bootstrap superuser; it said:\n{output}")]
    BootstrapSuperuser { output: String },
}

/// `tokio_postgres` says only "db error" by itself.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} (SQLSTATE {})", db.message(), db.code().code()),
        None => error.to_string(),
    }
}

fn colon(advice: &Option<&'static str>) -> String {
    advice.map(|text| format!(": {text}")).unwrap_or_default()
}
