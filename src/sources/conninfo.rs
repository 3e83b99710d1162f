//! The source as `--from` names it.
//!
//! `tokio_postgres` parses URLs and key=value pairs, but not the TLS options that verify a server, nor some that concern
//! only libpq: the former are taken out before, the latter dropped.

use super::ImportError;
use super::tls::{RootCertificates, TlsMode};
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// Where the data of an import comes from. Displays without credentials.
#[derive(Clone, Debug)]
pub enum Source {
    Server(Box<Server>),
    DataDirectory(PathBuf),
    /// What pg_dump wrote, in its custom, folder or tar format.
    Dump(PathBuf),
}

/// A live Postgres: how to connect to it.
#[derive(Clone, Debug)]
pub struct Server {
    pub(super) config: Config,
    pub(super) tls: TlsMode,
}

/// Options of libpq that mean nothing here.
const DROPPED: [&str; 10] = [
    "client_encoding",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "krbsrvname",
    "max_protocol_version",
    "min_protocol_version",
    "requiressl",
    "sslcompression",
    "sslsni",
];

/// The first bytes of a custom-format dump (`WriteHead` of pg_backup_archiver.c), of one in a tar, and of a plain one.
const DUMP_BEGINNINGS: [&[u8]; 3] = [b"PGDMP", b"toc.dat\0", b"--\n-- PostgreSQL database"];

impl FromStr for Source {
    type Err = ImportError;

    fn from_str(text: &str) -> Result<Source, ImportError> {
        let url = text.starts_with("postgres://") || text.starts_with("postgresql://");
        let path = Path::new(text);
        if url {
            let (address, parameters) = text.split_once('?').unwrap_or((text, ""));
            let pairs = parameters.split('&').filter_map(|pair| pair.split_once('='));
            let mut options = Options::default();
            let kept: Vec<String> = pairs
                .filter(|(key, value)| options.keep(key, &percent_decode(value)))
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            return options.server(&format!("{address}?{}", kept.join("&")));
        }
        if path.join("toc.dat").exists() || (path.is_file() && is_dump(path)) {
            return Ok(Source::Dump(path.to_owned()));
        }
        if path.exists() {
            return Ok(Source::DataDirectory(path.to_owned()));
        }
        if text.contains('=') {
            let pairs =
                key_values(text).ok_or_else(|| ImportError::Address { reason: "a key without a value".to_owned() })?;
            let mut options = Options::default();
            let kept: Vec<String> = pairs
                .into_iter()
                .filter(|(key, value)| options.keep(key, value))
                .map(|(key, value)| format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")))
                .collect();
            return options.server(&kept.join(" "));
        }
        Err(ImportError::UnknownSource { source_text: text.to_owned() })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Server(server) => {
                let hosts: Vec<String> = server.endpoints().iter().map(Endpoint::to_string).collect();
                write!(f, "postgres://{}@{}", server.user(), hosts.join(","))
            }
            Source::DataDirectory(path) | Source::Dump(path) => write!(f, "{}", path.display()),
        }
    }
}

/// One address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub host: Host,
    /// `hostaddr`: where to connect instead of asking for the address of `host`.
    pub address: Option<IpAddr>,
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            Host::Tcp(host) => write!(f, "{host}:{}", self.port),
            Host::Unix(folder) => write!(f, "{}/.s.PGSQL.{}", folder.display(), self.port),
        }
    }
}

impl Server {
    /// As libpq finds it: given, `PGUSER`, or the system user's name.
    pub(super) fn user(&self) -> String {
        let system = || nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name);
        let given = self.config.get_user().map(str::to_owned);
        given.or_else(|| std::env::var("PGUSER").ok()).or_else(system).unwrap_or_else(|| "postgres".to_owned())
    }

    /// A server behind the socket in `folder`, where every role is trusted.
    pub(crate) fn on_socket(folder: &Path, user: &str) -> Server {
        let mut config = Config::new();
        config.host_path(folder).port(5432).user(user);
        Server { config, tls: TlsMode::Disable }
    }

    /// What a client program of PostgreSQL needs in its environment to connect as we do (Postgres manual, "Environment Variables" of
    /// libpq): not on its command line, which everyone can read.
    pub(crate) fn environment(&self, database: &str) -> Vec<(&'static str, String)> {
        let endpoints = self.endpoints();
        let join = |each: &dyn Fn(&Endpoint) -> String| endpoints.iter().map(each).collect::<Vec<_>>().join(",");
        let host = |endpoint: &Endpoint| match &endpoint.host {
            Host::Tcp(host) => host.clone(),
            Host::Unix(folder) => folder.display().to_string(),
        };
        let mut variables = vec![
            ("PGHOST", join(&host)),
            ("PGPORT", join(&|endpoint| endpoint.port.to_string())),
            ("PGUSER", self.user()),
            ("PGDATABASE", database.to_owned()),
            ("PGAPPNAME", "offshoot".to_owned()),
        ];
        variables.extend(self.config.get_options().map(|options| ("PGOPTIONS", options.to_owned())));
        if endpoints.iter().any(|endpoint| endpoint.address.is_some()) {
            let address = |endpoint: &Endpoint| endpoint.address.map(|address| address.to_string()).unwrap_or_default();
            variables.push(("PGHOSTADDR", join(&address)));
        }
        if let Some(limit) = self.config.get_connect_timeout() {
            variables.push(("PGCONNECT_TIMEOUT", limit.as_secs().to_string()));
        }
        let password =
            endpoints.first().and_then(|endpoint| super::passfile::password(self, endpoint, &self.user(), database));
        if let Some(password) = password {
            variables.push(("PGPASSWORD", String::from_utf8_lossy(&password).into_owned()));
        }
        variables.extend(self.tls.environment());
        variables
    }

    /// Its addresses in the order to try them.
    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        let ports = self.config.get_ports();
        let port = |at: usize| ports.get(at).or(ports.last()).copied().unwrap_or_else(default_port);
        let addresses = self.config.get_hostaddrs();
        let mut hosts = self.config.get_hosts().to_vec();
        if hosts.is_empty() {
            hosts.extend(addresses.iter().map(|address| Host::Tcp(address.to_string())));
        }
        if hosts.is_empty() {
            hosts.push(default_host());
        }
        let endpoint = |(at, host)| Endpoint { host, address: addresses.get(at).copied(), port: port(at) };
        hosts.into_iter().enumerate().map(endpoint).collect()
    }
}

fn default_port() -> u16 {
    std::env::var("PGPORT").ok().and_then(|port| port.parse().ok()).unwrap_or(5432)
}

/// `PGHOST`, or where distributions put the socket.
fn default_host() -> Host {
    match std::env::var("PGHOST") {
        Ok(host) if host.starts_with('/') => Host::Unix(host.into()),
        Ok(host) => Host::Tcp(host),
        Err(_) => Host::Unix("/var/run/postgresql".into()),
    }
}

/// What is taken out of the address.
#[derive(Default)]
struct Options {
    mode: Option<String>,
    roots: Option<RootCertificates>,
    unsupported: Option<String>,
}

impl Options {
    /// Notes what `tokio_postgres` does not understand, and tells whether it should get this option.
    fn keep(&mut self, key: &str, value: &str) -> bool {
        match key {
            "sslmode" => self.mode = Some(value.to_owned()),
            "sslrootcert" if value == "system" => self.roots = Some(RootCertificates::System),
            "sslrootcert" => self.roots = Some(RootCertificates::File(value.into())),
            "sslcert" | "sslkey" | "sslpassword" | "sslcrl" | "sslcrldir" | "service" | "passfile" | "require_auth" => {
                self.unsupported = Some(key.to_owned());
            }
            _ => return !DROPPED.contains(&key),
        }
        false
    }

    fn server(self, address: &str) -> Result<Source, ImportError> {
        if let Some(option) = self.unsupported {
            return Err(ImportError::Address { reason: format!("the option {option} is not supported; leave it out") });
        }
        let roots = self.roots.unwrap_or_default();
        let tls = match self.mode.as_deref() {
            None | Some("prefer" | "allow") => TlsMode::Prefer,
            Some("disable") => TlsMode::Disable,
            Some("require") => TlsMode::Require,
            Some("verify-ca") => TlsMode::VerifyCa(roots),
            Some("verify-full") => TlsMode::VerifyFull(roots),
            Some(other) => return Err(ImportError::Address { reason: format!("there is no sslmode {other}") }),
        };
        let config = address.parse().map_err(|error: tokio_postgres::Error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            ImportError::Address { reason: format!("{error}{cause}") }
        })?;
        Ok(Source::Server(Box::new(Server { config, tls })))
    }
}

/// The pairs of a connection string (Postgres manual, "Keyword/Value Connection Strings").
fn key_values(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let mut chars = after.trim_start().chars();
        let quoted = chars.as_str().starts_with('\'');
        if quoted {
            chars.next();
        }
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\\') => value.push(chars.next()?),
                Some('\'') if quoted => break,
                Some(c) if c.is_whitespace() && !quoted => break,
                Some(c) => value.push(c),
                None if quoted => return None,
                None => break,
            }
        }
        pairs.push((key.trim().to_owned(), value));
        rest = chars.as_str().trim_start();
    }
    Some(pairs)
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hexadecimal = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match hexadecimal.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn is_dump(path: &Path) -> bool {
    use std::io::Read;
    let mut beginning = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(32).read_to_end(&mut beginning));
    read.is_ok() && DUMP_BEGINNINGS.iter().any(|known| beginning.starts_with(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Server {
        match text.parse() {
            Ok(Source::Server(server)) => *server,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn addresses_are_read_in_both_forms_and_shown_without_credentials() {
        let url = "postgres://me:s%40cret@db.example:5433/shop?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem&gssencmode=disable";
        let pairs =
            "host=db.example port = 5433 user='me' password='s@cret' sslmode=verify-full sslrootcert=/etc/ca.pem";
        for text in [url, pairs] {
            let server = server(text);
            assert_eq!(server.config.get_password(), Some(&b"s@cret"[..]));
            assert_eq!(server.tls, TlsMode::VerifyFull(RootCertificates::File("/etc/ca.pem".into())));
            assert!(!format!("{server:?}").contains("cret"));
            assert_eq!(Source::Server(Box::new(server)).to_string(), "postgres://me@db.example:5433");
        }
    }

    #[test]
    fn several_hosts_and_sockets_are_tried_in_order() {
        let shown = |text: &str| Source::Server(Box::new(server(text))).to_string();
        assert_eq!(shown("host=a,b port=1,2 user=x"), "postgres://x@a:1,b:2");
        assert_eq!(shown("host=a,b port=7 user=x"), "postgres://x@a:7,b:7");
        assert_eq!(shown("postgres://x@%2Ftmp%2Fs:7/db"), "postgres://x@/tmp/s/.s.PGSQL.7");
        assert_eq!(shown("postgres://x@[::1]:7/db"), "postgres://x@[::1]:7");
    }

    #[test]
    fn what_is_no_source_says_what_would_be() {
        let error = |text: &str| text.parse::<Source>().unwrap_err();
        assert!(matches!(error("/nowhere/at/all"), ImportError::UnknownSource { .. }));
        assert!(matches!(error("postgres://h/?sslmode=maybe"), ImportError::Address { .. }));
        assert!(matches!(error("postgres://h/?sslcert=x"), ImportError::Address { .. }));
        assert!(matches!(error("postgres://h:port/"), ImportError::Address { .. }));

        let dir = tempfile::tempdir().unwrap();
        let dump = dir.path().join("shop.dump");
        std::fs::write(&dump, "PGDMP\x01\x0e").unwrap();
        let dumped = |path: &std::path::Path| matches!(path.to_str().unwrap().parse(), Ok(Source::Dump(_)));
        assert!(dumped(&dump));
        std::fs::write(dir.path().join("toc.dat"), "").unwrap();
        assert!(dumped(dir.path()));
    }
}
