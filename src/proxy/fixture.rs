//! For the proxy's tests: a real Postgres, and a proxy in front of it. Tests only.

use super::listener::Listener;
use super::upstream::{Awake, Upstream};
use crate::branch::BranchError;
use crate::model::{Ambient, BranchRef, Role, Secret, Target};
use crate::settings::{ProjectSettings, ServerSettings};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, chown};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

/// PostgreSQL 15 of Debian and Ubuntu.
const BIN_DIR: &str = "/usr/lib/postgresql/15/bin";

/// What every test cluster holds. Each password is the role's name.
const ROLES: &str = "
    CREATE ROLE ann LOGIN SUPERUSER PASSWORD 'ann';
    CREATE ROLE nologin PASSWORD 'nologin';
    CREATE ROLE expired LOGIN PASSWORD 'expired' VALID UNTIL '2001-01-01';
    CREATE ROLE nopassword LOGIN;
    CREATE ROLE single LOGIN PASSWORD 'single' CONNECTION LIMIT 1;
    SET password_encryption = 'md5';
    CREATE ROLE old LOGIN PASSWORD 'old';
    CREATE ROLE oldnologin PASSWORD 'oldnologin';";

/// A Postgres of its own; killed on drop.
pub(super) struct Postgres {
    process: Child,
    dir: TempDir,
    pub roles: Arc<HashMap<String, Role>>,
}

impl Postgres {
    pub(super) async fn start() -> Postgres {
        let dir = tempfile::Builder::new().prefix("op-").tempdir_in("/tmp").expect("a temporary directory");
        if let Some(user) = owner() {
            chown(dir.path(), Some(user.uid), Some(user.gid)).expect("the directory's owner changes");
        }
        let data = dir.path().join("data");
        let made = postgres_command("initdb")
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "--locale=C", "-E", "UTF8", "-D"])
            .arg(&data)
            .output()
            .expect("PostgreSQL 15 in /usr/lib/postgresql/15: apt-get install postgresql-15");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let process = postgres_command("postgres")
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(dir.path())
            .args(["-c", "listen_addresses=", "-F", "-c", "shared_buffers=16MB", "-c", "log_min_messages=fatal"])
            .stdout(Stdio::null())
            .spawn()
            .expect("postgres starts");
        let mut postgres = Postgres { process, dir, roles: Arc::default() };
        let client = postgres.superuser().await;
        client.batch_execute(ROLES).await.expect("roles are made");
        client.batch_execute("CREATE DATABASE shop").await.expect("a database is made");
        postgres.roles = Arc::new(read_roles(&client).await);
        postgres
    }

    /// A connection past the proxy.
    pub(super) async fn superuser(&self) -> Client {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.dir.path()).user("postgres").dbname("postgres");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            match config.connect(NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    return client;
                }
                Err(error) if tokio::time::Instant::now() > deadline => panic!("Postgres does not start: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    pub(super) fn upstream(&self) -> TestUpstream {
        TestUpstream { roles: self.roles.clone(), ..TestUpstream::without_compute(self.dir.path()) }
    }

    /// The number of clients that this Postgres serves, `superuser` ones not counted.
    pub(super) async fn sessions(&self) -> i64 {
        let query =
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename <> 'postgres'";
        self.superuser().await.query_one(query, &[]).await.expect("counted").get(0)
    }

    pub(super) fn kill(&mut self) {
        let _ = kill(Pid::from_raw(self.process.id() as i32), Signal::SIGQUIT);
        let _ = self.process.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Postgres refuses to run as root.
fn owner() -> Option<User> {
    let root = nix::unistd::geteuid().is_root();
    root.then(|| User::from_name("postgres").ok().flatten().expect("a system user postgres"))
}

fn postgres_command(program: &str) -> Command {
    let mut command = Command::new(Path::new(BIN_DIR).join(program));
    command.current_dir("/").env_clear();
    if let Some(user) = owner() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
}

async fn read_roles(client: &Client) -> HashMap<String, Role> {
    let query = "SELECT rolname::text, rolcanlogin, rolsuper, rolconnlimit,
                        extract(epoch FROM rolvaliduntil)::bigint, rolpassword
                 FROM pg_authid";
    let rows = client.query(query, &[]).await.expect("roles are read");
    let role = |row: tokio_postgres::Row| Role {
        name: row.get(0),
        can_login: row.get(1),
        superuser: row.get(2),
        connection_limit: row.get(3),
        valid_until: row.get(4),
        verifier: row.get::<_, Option<String>>(5).map(Secret::new),
    };
    rows.into_iter().map(role).map(|role| (role.name.clone(), role)).collect()
}

/// Project `demo` with the databases `shop` and `lost`, of which the cluster holds only the first.
#[derive(Clone)]
pub(super) struct TestUpstream {
    pub socket: PathBuf,
    pub roles: Arc<HashMap<String, Role>>,
    /// How long a branch takes to open, and the error it then gives.
    pub opening: Duration,
    pub opening_fails: Option<BranchError>,
    pub opens: Arc<AtomicUsize>,
    /// Branches that are being opened right now.
    pub in_opening: Arc<AtomicUsize>,
    pub awake: Arc<AtomicUsize>,
}

impl TestUpstream {
    pub(super) fn without_compute(dir: &Path) -> TestUpstream {
        TestUpstream {
            socket: dir.join(".s.PGSQL.5432"),
            roles: Arc::default(),
            opening: Duration::ZERO,
            opening_fails: None,
            opens: Arc::default(),
            in_opening: Arc::default(),
            awake: Arc::default(),
        }
    }
}

pub(super) struct TestSession {
    socket: PathBuf,
    _awake: Counted,
}

/// One more in a counter, for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(counter: &Arc<AtomicUsize>) -> Counted {
        counter.fetch_add(1, Ordering::SeqCst);
        Counted(counter.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Upstream for TestUpstream {
    type Session = TestSession;

    async fn resolve(&self, target: &Target, _project: Option<&str>) -> Result<BranchRef, BranchError> {
        let known = vec!["shop".to_owned(), "lost".to_owned()];
        if !known.contains(&target.database) {
            return Err(BranchError::UnknownDatabase { database: target.database.clone(), known });
        }
        Ok(BranchRef { project: "demo".parse().expect("valid"), branch: target.branch.clone() })
    }

    async fn role(&self, _branch: &BranchRef, name: &str) -> Result<Option<Role>, BranchError> {
        Ok(self.roles.get(name).cloned())
    }

    async fn open_session(&self, _branch: &BranchRef) -> Result<TestSession, BranchError> {
        self.opens.fetch_add(1, Ordering::SeqCst);
        let opening = Counted::new(&self.in_opening);
        tokio::time::sleep(self.opening).await;
        drop(opening);
        if let Some(error) = &self.opening_fails {
            return Err(error.clone());
        }
        Ok(TestSession { socket: self.socket.clone(), _awake: Counted::new(&self.awake) })
    }
}

impl Awake for TestSession {
    fn socket(&self) -> &Path {
        &self.socket
    }
}

/// A proxy that serves until it is dropped or stopped.
pub(super) struct RunningProxy {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<()>,
    psql: AtomicU32,
}

impl RunningProxy {
    pub(super) async fn start(upstream: TestUpstream) -> RunningProxy {
        RunningProxy::with(upstream, ServerSettings::default(), &[], Duration::ZERO).await
    }

    /// On a port of the kernel's choice, whatever `settings` says.
    pub(super) async fn with(
        upstream: TestUpstream,
        settings: ServerSettings,
        projects: &[ProjectSettings],
        grace: Duration,
    ) -> RunningProxy {
        let settings = ServerSettings { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..settings };
        let listener = Listener::bind(&settings, projects, upstream, Ambient::system())
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let address = listener.local_addr();
        let (stop, stopped) = oneshot::channel();
        let stopped = async move {
            let _ = stopped.await;
        };
        let serving = tokio::spawn(listener.serve(stopped, grace));
        RunningProxy { address, stop: Some(stop), serving, psql: AtomicU32::new(0) }
    }

    pub(super) fn stop(&mut self) {
        self.stop.take();
    }

    /// Waits until `serve` has returned.
    pub(super) async fn ended(&mut self) {
        tokio::time::timeout(Duration::from_secs(20), &mut self.serving).await.expect("in time").expect("no panic");
    }

    /// Connects with the role's own name as password.
    pub(super) async fn connect(&self, user: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
        self.connect_as(user, user, database).await
    }

    pub(super) async fn connect_as(
        &self,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = self.config(user, password, database).connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub(super) fn config(&self, user: &str, password: &str, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.address.port()).user(user).password(password).dbname(database);
        config
    }

    /// Runs `psql -c command` with the connection string `more` added to.
    pub(super) async fn psql(&self, user: &str, database: &str, more: &str, command: &str) -> Output {
        let connection = format!("host=127.0.0.1 port={} user={user} dbname={database} {more}", self.address.port());
        let psql = tokio::process::Command::new(Path::new(BIN_DIR).join("psql"))
            .args(["-X", "-At", "-w", "-v", "VERBOSITY=verbose", "-d", &connection, "-c", command])
            .env("PGPASSWORD", user)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("psql runs");
        self.psql.store(psql.id().expect("a process"), Ordering::SeqCst);
        psql.wait_with_output().await.expect("psql ends")
    }

    /// To the psql that was started last.
    pub(super) fn signal_psql(&self, signal: Signal) {
        kill(Pid::from_raw(self.psql.load(Ordering::SeqCst) as i32), signal).expect("psql is there");
    }
}

/// What a program printed, and what it complained about.
pub(super) fn printed(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// Waits until `condition` holds.
pub(super) async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
