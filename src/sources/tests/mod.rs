//! Imports from real Postgres, into sinks that need no store.

mod directories;
mod servers;
mod sinks;
mod transport;

pub(super) use sinks::MemorySink;

use super::import::{BackupFacts, copy};
use super::sink::Sink;
use super::{ImportError, Progress, Source};
use crate::compute::fixture::{self, Fixture};
use crate::model::Ambient;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;
use tokio_postgres::{Client, NoTls};

/// Copies from `source` into `sink`.
async fn copy_into<S: Sink>(source: &str, sink: S) -> Result<(S, BackupFacts), ImportError> {
    copy(&source.parse()?, &fixture::settings(), &Ambient::system(), move || Ok(sink), Progress::hidden().into()).await
}

/// The error of an import that cannot work.
async fn refusal(source: &str) -> ImportError {
    match copy_into(source, MemorySink::default()).await {
        Err(error) => error,
        Ok(_) => panic!("the import from {source} should have failed"),
    }
}

/// A running source, stopped on drop. Trusts its socket; over TCP each user logs in as its name says.
struct TestServer {
    fixture: Fixture,
    child: Child,
    port: u16,
}

const HBA: &str = "
local all all trust
local replication all trust
host replication scram,weak 127.0.0.1/32 scram-sha-256
host replication md5 127.0.0.1/32 md5
host replication clear 127.0.0.1/32 password
host replication nobody 127.0.0.1/32 trust
host all all 127.0.0.1/32 trust
";

const ROLES: &str = "
    SET password_encryption = 'scram-sha-256';
    CREATE ROLE scram LOGIN REPLICATION PASSWORD 'right'; CREATE ROLE clear LOGIN REPLICATION PASSWORD 'right';
    CREATE ROLE weak LOGIN PASSWORD 'right'; CREATE ROLE unlisted LOGIN REPLICATION;
    SET password_encryption = 'md5'; CREATE ROLE md5 LOGIN REPLICATION PASSWORD 'right'";

impl TestServer {
    async fn start(major: u32, settings: &[&str]) -> TestServer {
        TestServer::on(Fixture::new(major).await, settings).await
    }

    async fn on(fixture: Fixture, settings: &[&str]) -> TestServer {
        let sockets = fixture.path().join("s");
        std::fs::create_dir_all(&sockets).unwrap();
        std::os::unix::fs::chown(&sockets, Some(fixture.identity.uid), Some(fixture.identity.gid)).unwrap();
        std::fs::write(fixture.data_dir().join("pg_hba.conf"), HBA).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = fixture.command("postgres");
        command.arg("-D").arg(fixture.data_dir()).args(["-k", sockets.to_str().unwrap(), "-p", &port.to_string()]);
        for setting in ["listen_addresses=127.0.0.1", "fsync=off", "shared_buffers=16MB"].iter().chain(settings) {
            command.args(["-c", setting]);
        }
        let log = std::fs::File::create(fixture.path().join("source.log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut server = TestServer { fixture, child, port };
        server.wait_until_ready().await;
        server
    }

    async fn wait_until_ready(&mut self) {
        for _ in 0..1000 {
            if self.try_connect().await.is_ok() {
                return;
            }
            let log = || std::fs::read_to_string(self.fixture.path().join("source.log")).unwrap();
            assert!(self.child.try_wait().unwrap().is_none(), "the source does not start: {}", log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the source is not ready in time");
    }

    async fn try_connect(&self) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.sockets()).port(self.port).user("boot").dbname("postgres");
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    async fn execute(&self, sql: &str) {
        self.try_connect().await.unwrap().batch_execute(sql).await.unwrap();
    }

    fn sockets(&self) -> PathBuf {
        self.fixture.path().join("s")
    }

    /// Through its socket, as the superuser.
    fn url(&self) -> String {
        format!("host={} port={} user=boot", self.sockets().display(), self.port)
    }

    /// Over TCP.
    fn tcp(&self, user: &str, password: &str) -> String {
        format!("postgres://{user}:{password}@127.0.0.1:{}/ignored", self.port)
    }

    fn signal(&mut self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal(Signal::SIGQUIT);
        }
    }
}

fn described(source: &str) -> String {
    source.parse::<Source>().unwrap().to_string()
}
