//! Why an import failed, each with what to do next. The only place that reads meaning into a source's SQLSTATE.

use crate::branch::LifecycleError;
use crate::compute::{ComputeError, MAJORS};
use crate::model::ProjectName;
use crate::pageserver::WriteError;
use crate::store::StoreError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_postgres::error::SqlState;

/// Why an import failed; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(
        "{source_text:?} is no source: give a URL (postgres://user@host/db), key=value pairs, or the path of a data directory"
    )]
    UnknownSource { source_text: String },
    #[error("the source's address cannot be understood: {reason}")]
    Address { reason: String },
    #[error(
        "{} is a dump, which has rows and no files; leave out --method files",
        path.display()
    )]
    Dump { path: PathBuf },

    #[error("cannot reach {target}: {source}; check the host and port, and that a firewall lets this node through")]
    Unreachable { target: String, source: io::Error },
    #[error("{target} did not answer within {}; check the host and port, and that a firewall lets this node through",
        humantime::format_duration(*limit))]
    ConnectTimeout { target: String, limit: Duration },
    #[error("{target} does not offer TLS; turn on ssl there, or say sslmode=disable if the network is trusted")]
    TlsRefused { target: String },
    #[error("the TLS handshake with {target} failed: {source}; check sslmode and sslrootcert")]
    Tls { target: String, source: io::Error },
    #[error("cannot use the certificates in {}: {reason}; name a PEM file with sslrootcert=", path.display())]
    RootCertificates { path: PathBuf, reason: String },

    #[error(
        "{target} asks for the password of \"{user}\"; put it into the URL, PGPASSWORD or ~/.pgpass (database \"replication\")"
    )]
    NoPassword { target: String, user: String },
    #[error("{target} refuses the password of \"{user}\"; check the URL, PGPASSWORD or ~/.pgpass")]
    WrongPassword { target: String, user: String },
    #[error(
        "{target} asks for an authentication method that is not supported here ({method}); allow scram-sha-256 in its pg_hba.conf"
    )]
    AuthenticationMethod { target: String, method: String },
    #[error(
        "{target} lets no replication connection of \"{user}\" in: {message}. Add a line to its pg_hba.conf, \
         \"host replication {user} <this node's address>/32 scram-sha-256\", and reload it (SELECT pg_reload_conf())"
    )]
    NoHbaEntry { target: String, user: String, message: String },
    #[error("{target} refuses the login of \"{user}\": {message}; check the user name")]
    LoginRefused { target: String, user: String, message: String },
    #[error(
        "\"{user}\" may not replicate from {target}: {message}. Run ALTER ROLE \"{user}\" REPLICATION there, or use a superuser"
    )]
    NoReplicationPrivilege { target: String, user: String, message: String },
    #[error("{target} is not accepting connections: {message}; try again when it is up")]
    NotReady { target: String, message: String },
    #[error("{target} has no connection to spare: {message}; try again later, or raise max_connections there")]
    TooManyConnections { target: String, message: String },
    #[error(
        "{target} has wal_level = {level}, too low for a base backup; set wal_level = replica and max_wal_senders = 10 there, \
         and restart it"
    )]
    WalLevel { target: String, level: String },
    #[error(
        "{target} has no WAL sender to spare: {message}; raise max_wal_senders there (10 is the default) and restart it"
    )]
    MaxWalSenders { target: String, message: String },
    #[error(
        "{target} has no replication slot to spare: {message}; raise max_replication_slots there (10 is the default) and \
         restart it, or drop slots that nobody uses"
    )]
    MaxReplicationSlots { target: String, message: String },
    #[error("the source runs PostgreSQL {version}, and Offshoot supports {} to {}; upgrade it or import a dump once that is possible",
        MAJORS.start(), MAJORS.end())]
    UnsupportedVersion { version: String },
    #[error(transparent)]
    Compute(#[from] ComputeError),
    #[error(
        "the source has more tablespaces than its main one ({}), which cannot be imported; move what is in them to pg_default \
         (ALTER DATABASE … SET TABLESPACE, ALTER TABLE … SET TABLESPACE) and drop them",
        names.join(", ")
    )]
    ExtraTablespaces { names: Vec<String> },
    #[error("{target} reports: {message} (SQLSTATE {sqlstate})")]
    Server { target: String, sqlstate: String, message: String },
    #[error("the connection to {target} broke: {source}; run the import again")]
    Disconnected { target: String, source: io::Error },
    #[error("{target} sent nothing for {}; run the import again", humantime::format_duration(*limit))]
    Stalled { target: String, limit: Duration },
    #[error(
        "{target} does not speak the replication protocol as PostgreSQL does: {reason}; is a pooler in between? Connect to the server itself"
    )]
    Protocol { target: String, reason: String },

    #[error("{} is no data directory: {reason}; give the folder that holds PG_VERSION", path.display())]
    NotADataDirectory { path: PathBuf, reason: String },
    #[error("a server (pid {pid}) is running on {}; stop it, or import from it by its URL", path.display())]
    Running { path: PathBuf, pid: i32 },
    #[error("{} was not shut down cleanly ({state}); start Postgres on it and stop it with pg_ctl stop -m fast", path.display())]
    NotShutDown { path: PathBuf, state: String },
    #[error("{} lacks the WAL file of its last checkpoint; restore it from a backup", path.display())]
    MissingWal { path: PathBuf },
    #[error("cannot read {}: {source}; run the import as a user who may", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} changed during the import; leave it as it is, and a server of it stopped, and run the import again", path.display())]
    Changed { path: PathBuf },

    #[error("the backup cannot be read: {source}")]
    Archive { source: io::Error },
    #[error("no space left at {}; free some and run the import again, nothing is left of this one", path.display())]
    DiskFull { path: PathBuf },
    #[error("no space left in the object store; free some and run the import again")]
    StoreFull,
    #[error("cannot write to the object store: {reason}; check store.url, its credentials and who may write there")]
    Store { reason: String },
    #[error("another import of this project uses {}; wait for it to end", path.display())]
    Busy { path: PathBuf },
    #[error("the copy could not be brought to consistency: {0}")]
    Start(#[from] LifecycleError),
    #[error("no private compute could be started on the raw base: {0}")]
    RawBase(LifecycleError),
    #[error("{store} has no raw base of {project}; make one with `offshoot import {project} --raw`")]
    NoRawBase { project: ProjectName, store: String },
    #[error("{reason}")]
    Interrupted { reason: String },
    #[error(
        "{reason}. What was copied is kept, and the next import by the same rules goes on from there, if nothing has written to the source by then. To start \
         over instead, remove {}",
        folder.display()
    )]
    CutOff { reason: Box<ImportError>, folder: PathBuf },
    #[error(transparent)]
    Prepare(Box<dyn std::error::Error + Send + Sync>),
    #[error("cannot write to {}: {source}; check server.data_dir and who may write there", path.display())]
    Scratch { path: PathBuf, source: io::Error },
}

/// What a server's ErrorResponse says (Postgres manual, "Error and Notice Message Fields").
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerMessage {
    pub sqlstate: String,
    pub message: String,
    /// Names of the column, type or constraint that it is about.
    pub objects: Vec<String>,
}

impl ServerMessage {
    /// The error it means for `user` of `target`. Texts are looked at only where one code has several meanings, and then
    /// for words that no translation touches.
    pub(super) fn into_error(self, target: &str, user: &str) -> ImportError {
        let (target, user) = (target.to_owned(), user.to_owned());
        let ServerMessage { sqlstate, message, .. } = self;
        match SqlState::from_code(&sqlstate) {
            SqlState::INVALID_PASSWORD => ImportError::WrongPassword { target, user },
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION if message.contains("pg_hba.conf") => {
                ImportError::NoHbaEntry { target, user, message }
            }
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION => ImportError::LoginRefused { target, user, message },
            SqlState::INSUFFICIENT_PRIVILEGE => ImportError::NoReplicationPrivilege { target, user, message },
            SqlState::TOO_MANY_CONNECTIONS if message.contains("max_wal_senders") => {
                ImportError::MaxWalSenders { target, message }
            }
            SqlState::TOO_MANY_CONNECTIONS => ImportError::TooManyConnections { target, message },
            SqlState::CONFIGURATION_LIMIT_EXCEEDED => ImportError::MaxReplicationSlots { target, message },
            SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE if message.contains("max_replication_slots") => {
                ImportError::MaxReplicationSlots { target, message }
            }
            SqlState::CANNOT_CONNECT_NOW => ImportError::NotReady { target, message },
            _ => ImportError::Server { target, sqlstate, message },
        }
    }
}

impl ImportError {
    pub(super) fn read(path: &Path, source: io::Error) -> ImportError {
        ImportError::Read { path: path.to_owned(), source }
    }
}

impl ImportError {
    /// Whether another import is to go on with what was copied: unless masking refused it, or a full disk needs its space back.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Prepare(_) | Self::DiskFull { .. } => false,
            Self::Server { sqlstate, .. } => SqlState::from_code(sqlstate) != SqlState::DISK_FULL,
            Self::Start(LifecycleError::Io { source, .. }) => source.kind() != io::ErrorKind::StorageFull,
            _ => true,
        }
    }
}

impl From<WriteError> for ImportError {
    fn from(error: WriteError) -> ImportError {
        match error {
            WriteError::Source(source) => ImportError::Archive { source },
            WriteError::Scratch { path, source } if source.kind() == io::ErrorKind::StorageFull => {
                ImportError::DiskFull { path }
            }
            WriteError::Scratch { path, source } => ImportError::Scratch { path, source },
            WriteError::Store(StoreError::Full { .. }) => ImportError::StoreFull,
            WriteError::Store(error) => ImportError::Store { reason: error.to_string() },
            WriteError::Orphan(path) => {
                ImportError::Archive { source: io::Error::other(format!("{path} has no directory in it")) }
            }
            WriteError::Page(error) => ImportError::Store { reason: error.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_one_that_cannot_be_written() {
        let scratch = |kind: io::ErrorKind| WriteError::Scratch { path: "/x".into(), source: kind.into() };
        assert!(matches!(scratch(io::ErrorKind::StorageFull).into(), ImportError::DiskFull { .. }));
        assert!(matches!(scratch(io::ErrorKind::PermissionDenied).into(), ImportError::Scratch { .. }));
        let full = WriteError::Store(StoreError::Full { key: "pack".to_owned() });
        assert!(matches!(full.into(), ImportError::StoreFull));
        let denied = StoreError::Denied { key: "pack".to_owned(), reason: "403".to_owned() };
        assert!(matches!(WriteError::Store(denied).into(), ImportError::Store { .. }));
    }

    #[test]
    fn one_sqlstate_with_two_meanings_is_told_apart() {
        let error = |sqlstate: &str, message: &str| {
            let (sqlstate, message) = (sqlstate.to_owned(), message.to_owned());
            ServerMessage { sqlstate, message, objects: Vec::new() }.into_error("db:5432", "me")
        };
        assert!(matches!(error("28000", "kein pg_hba.conf-Eintrag"), ImportError::NoHbaEntry { .. }));
        assert!(matches!(error("28000", "role \"me\" does not exist"), ImportError::LoginRefused { .. }));
        assert!(matches!(error("53300", "exceeds max_wal_senders (currently 0)"), ImportError::MaxWalSenders { .. }));
        assert!(matches!(error("53300", "sorry, too many clients already"), ImportError::TooManyConnections { .. }));
        assert!(matches!(error("57P03", "the database system is starting up"), ImportError::NotReady { .. }));
    }
}
