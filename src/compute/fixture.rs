//! A cluster for tests: made by `initdb` in a short path, owned by whom computes run as.
//!
//! Needs PostgreSQL 15. More versions are tested when `OFFSHOOT_TEST_POSTGRES_DIRS` (separated by colons) names them.

use super::{Compute, ComputeError, Identity, Installation, Launch, installation};
use crate::settings::ComputeSettings;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_postgres::{Client, NoTls};

/// The version that every test machine has.
pub(crate) const MAJOR: u32 = 15;

pub(crate) fn settings() -> ComputeSettings {
    let dirs = std::env::var_os("OFFSHOOT_TEST_POSTGRES_DIRS").unwrap_or_default();
    ComputeSettings { postgres_dirs: std::env::split_paths(&dirs).collect(), ..ComputeSettings::default() }
}

/// A data directory and what is needed to start it.
pub(crate) struct Fixture {
    dir: TempDir,
    pub settings: ComputeSettings,
    pub installation: Installation,
    pub identity: Identity,
    pub parameters: BTreeMap<String, String>,
    pub source_settings: BTreeMap<String, String>,
}

impl Fixture {
    pub(crate) async fn new(major: u32) -> Fixture {
        let settings = settings();
        let dir = tempfile::Builder::new().prefix("os").tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o711)).unwrap();
        let fixture = Fixture {
            installation: installation(&settings, major).await.expect("tests need this version of PostgreSQL"),
            identity: Identity::resolve(&settings).unwrap(),
            settings,
            dir,
            parameters: BTreeMap::new(),
            source_settings: BTreeMap::new(),
        };
        let data_dir = fixture.data_dir();
        std::fs::create_dir(&data_dir).unwrap();
        std::os::unix::fs::chown(&data_dir, Some(fixture.identity.uid), Some(fixture.identity.gid)).unwrap();
        fixture.run("initdb", &["-D", data_dir.to_str().unwrap(), "-U", "boot", "-A", "trust", "--no-sync"]);
        fixture
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("d")
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.path().join("r")
    }

    /// A program of the installation, as the user that computes run as.
    pub(crate) fn command(&self, program: &str) -> Command {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(self.installation.bin_dir.join(program));
        command.current_dir("/");
        if self.identity.differs_from_own() {
            command.uid(self.identity.uid).gid(self.identity.gid);
        }
        command
    }

    /// Runs one and wants it to succeed.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) async fn start(&self) -> Result<Compute, ComputeError> {
        let (data_dir, run_dir) = (self.data_dir(), self.run_dir());
        Compute::start(self.launch(&data_dir, &run_dir, self.pid_file())).await
    }

    pub(crate) fn launch<'a>(
        &'a self,
        data_dir: &'a Path,
        run_dir: &'a Path,
        pid_file: watch::Receiver<Vec<u8>>,
    ) -> Launch<'a> {
        Launch {
            settings: &self.settings,
            installation: &self.installation,
            identity: self.identity,
            data_dir,
            files: crate::compute::DataFiles::Folder(data_dir.to_owned()),
            run_dir,
            source_settings: &self.source_settings,
            parameters: &self.parameters,
            pid_file,
        }
    }

    /// Stands in for the filesystem, which sees each fsync of the file. Ends with the receiver.
    pub(crate) fn pid_file(&self) -> watch::Receiver<Vec<u8>> {
        let file = self.data_dir().join("postmaster.pid");
        let (sender, receiver) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while !sender.is_closed() {
                if let Ok(content) = std::fs::read(&file) {
                    sender.send_if_modified(|last| std::mem::replace(last, content.clone()) != content);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        receiver
    }
}

/// A connection to a compute as its bootstrap superuser.
pub(crate) async fn connect(compute: &Compute, database: &str) -> Client {
    let (client, connection) = tokio_postgres::Config::new()
        .host_path(compute.socket().parent().unwrap())
        .user("boot")
        .dbname(database)
        .connect(NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}
