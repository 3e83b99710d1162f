//! The configuration: one TOML file, found at `--config`, `./offshoot.toml` or `/etc/offshoot/offshoot.toml`,
//! each key overridable by an environment variable. Plain validated data; it reads nothing but the file and the environment.
//!
//! `config/offshoot.toml` explains every key and is parsed by a test.

mod load;

pub use load::{SettingsError, load};

use crate::model::{ProjectName, Secret};
use bytesize::ByteSize;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything the config file says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    #[serde(default)]
    pub server: ServerSettings,
    pub store: StoreSettings,
    /// Where raw bases of masked projects are kept, if they are. Only imports need it, and its credentials.
    #[serde(default)]
    pub raw_store: Option<StoreSettings>,
    #[serde(default)]
    pub cache: CacheSettings,
    #[serde(default)]
    pub compute: ComputeSettings,
    #[serde(default, rename = "project")]
    pub projects: Vec<ProjectSettings>,
}

/// `[server]`: where this node listens and keeps its local state.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSettings {
    /// Address of the Postgres protocol.
    pub listen: SocketAddr,
    /// Address of the HTTP API.
    pub admin_listen: SocketAddr,
    /// Cache, deltas, sockets and mounts of this node.
    pub data_dir: PathBuf,
    /// Free space on the file system of `data_dir` below which no branch may grow. Default: 1 GiB, or a tenth of the file system if that
    /// is less.
    pub disk_reserve: Option<ByteSize>,
    /// PEM files; with both, clients may use TLS.
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    /// Refuse clients that do not use TLS.
    pub require_tls: bool,
    /// From accept to authenticated; a client that takes longer is cut off.
    #[serde(with = "duration")]
    pub handshake_timeout: Duration,
    /// Clients that may be in their handshake at once; the next one is refused.
    pub max_handshakes: usize,
    /// How long after a node was last heard of its branches may be taken from it.
    #[serde(with = "duration")]
    pub lease: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 6432)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 7432)),
            data_dir: PathBuf::from("/var/lib/offshoot"),
            disk_reserve: None,
            tls_cert: None,
            tls_key: None,
            require_tls: false,
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 256,
            lease: Duration::from_secs(60),
        }
    }
}

/// `[store]`: the object store. `[raw_store]`: another one.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreSettings {
    /// `file:///path`, `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`.
    pub url: String,
}

/// `[cache]`: what this node keeps of the store.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheSettings {
    /// Disk for packs, indexes and layers.
    pub max_bytes: ByteSize,
    /// Memory for decompressed frames.
    pub memory: ByteSize,
}

impl CacheSettings {
    /// Less than this does not hold what one branch reads while it wakes.
    pub const LEAST: ByteSize = ByteSize::mib(16);
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self { max_bytes: ByteSize::gib(10), memory: ByteSize::mib(64) }
    }
}

/// `[compute]`: how Postgres is found and run on this node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ComputeSettings {
    /// System user that computes run as when the daemon is root; ignored otherwise.
    pub user: String,
    /// Folders that hold `bin/postgres`, looked at before the well-known ones.
    pub postgres_dirs: Vec<PathBuf>,
    /// Longest time from spawn to accepting connections.
    #[serde(with = "duration")]
    pub start_timeout: Duration,
    /// Longest time of a clean stop before the compute is killed.
    #[serde(with = "duration")]
    pub stop_timeout: Duration,
}

impl Default for ComputeSettings {
    fn default() -> Self {
        Self {
            user: "postgres".to_owned(),
            postgres_dirs: Vec::new(),
            start_timeout: Duration::from_secs(120),
            stop_timeout: Duration::from_secs(60),
        }
    }
}

/// `[[project]]`: one cluster people branch from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectSettings {
    pub name: ProjectName,
    /// How long a branch without a session stays awake.
    #[serde(with = "duration", default = "default_idle_timeout")]
    pub idle_timeout: Duration,
    /// How often an awake branch is uploaded, so that losing its node loses no more; `None`: only when it falls asleep.
    #[serde(with = "interval", default = "default_upload_interval")]
    pub upload_interval: Option<Duration>,
    /// What a crash may take.
    #[serde(default)]
    pub durability: Durability,
    /// Most branches at a time; a connect that would make one more is refused.
    #[serde(default = "default_max_branches")]
    pub max_branches: usize,
    /// Bytes of pages of its own from which on a branch may not grow; without it, as far as the disk reaches.
    #[serde(default)]
    pub max_delta_bytes: Option<ByteSize>,
    /// Where its data comes from, when no command says otherwise. Give the password in `PGPASSWORD` or `~/.pgpass` rather than here.
    #[serde(default)]
    pub source: Option<Secret>,
    /// Rules by which a base is masked. With them, branches are made of nothing but a base that was masked by them.
    #[serde(default)]
    pub masking: Option<PathBuf>,
    /// Ed25519 public keys, in hexadecimal, of other installations whose masked bases count.
    #[serde(default)]
    pub trusted_signers: Vec<String>,
    /// Make branches although the base is not masked by those rules; each is noted in the log.
    #[serde(default)]
    pub allow_raw: bool,
    /// Postgres settings of every branch, over those of the base.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// Who may log in beside the roles of the base.
    #[serde(default, rename = "user")]
    pub users: Vec<UserSettings>,
}

/// What the branches of a project survive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Every acknowledged commit survives a killed daemon, a killed compute and a power cut.
    #[default]
    Durable,
    /// Nothing is synced: a branch whose daemon or machine did not stop cleanly goes back to where it last fell asleep. For
    /// databases of tests.
    Ephemeral,
}

/// `[[project.user]]`: a login for a role that has no password in the base. The role itself must exist there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserSettings {
    pub name: String,
    /// `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>`, as in `pg_authid`.
    pub verifier: Option<Secret>,
    /// Name of the environment variable that holds the password.
    pub password_env: Option<String>,
    /// Filled from `password_env` when the config is loaded; not a key of the file.
    #[serde(skip)]
    pub password: Option<Secret>,
}

fn default_idle_timeout() -> Duration {
    Duration::from_secs(300)
}

fn default_upload_interval() -> Option<Duration> {
    Some(Duration::from_secs(300))
}

fn default_max_branches() -> usize {
    1000
}

/// Durations as people write them: `90s`, `5m`, `1h 30m`.
mod duration {
    use serde::{Deserialize, Deserializer, de::Error};
    use std::time::Duration;

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text)
            .map_err(|e| D::Error::custom(format!("{text:?} is not a duration like \"5m\": {e}")))
    }
}

/// A duration, or `off`.
mod interval {
    use serde::{Deserialize, Deserializer, de::Error};
    use std::time::Duration;

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(deserializer)?;
        match humantime::parse_duration(&text) {
            _ if text == "off" => Ok(None),
            Ok(interval) if interval >= Duration::from_secs(1) => Ok(Some(interval)),
            _ => Err(D::Error::custom(format!(
                "{text:?} is neither a duration like \"5m\", at least a second, nor \"off\""
            ))),
        }
    }
}
