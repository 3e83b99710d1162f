//! The fresh cluster that masked rows go into: made by `initdb` like its source, on plain local disk, reached by us alone.
//!
//! It runs without autovacuum and with minimal WAL: what is loaded into a table made in the same transaction is not logged at all.

use crate::compute::{self, Compute, DataFiles, Identity, Installation, Launch};
use crate::masking::MaskingError;
use crate::masking::catalog::{field, objects};
use crate::settings::ComputeSettings;
use crate::sources::{Connection, Purpose, Server};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;

/// Settings of the cluster while it is loaded.
const LOADING: [(&str, &str); 19] = [
    ("allow_system_table_mods", "on"),
    ("autovacuum", "off"),
    ("checkpoint_timeout", "1d"),
    // Whatever the source has made a habit of.
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("idle_in_transaction_session_timeout", "0"),
    ("lock_timeout", "0"),
    ("statement_timeout", "0"),
    // Where objects of one table are many: pg_restore locks them in one transaction.
    ("max_locks_per_transaction", "512"),
    ("max_prepared_transactions", "0"),
    ("max_wal_size", "4GB"),
    ("session_preload_libraries", ""),
    // What Postgres objects to may hold a value, and so may the statement.
    ("log_min_messages", "fatal"),
    ("log_min_error_statement", "panic"),
    ("maintenance_work_mem", "128MB"),
    ("shared_buffers", "128MB"),
    ("synchronous_commit", "off"),
    ("track_activities", "off"),
    ("wal_level", "minimal"),
];

/// What of a cluster is decided by `initdb`.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::masking) struct Shape {
    /// Role 10.
    pub superuser: String,
    encoding: String,
    collate: String,
    ctype: String,
    /// `c` libc, `i` ICU, `b` builtin; before PostgreSQL 15 all are libc's.
    provider: Option<char>,
    /// Of ICU or builtin.
    locale: Option<String>,
    rules: Option<String>,
    checksums: bool,
    /// Bytes.
    wal_segment: u64,
}

const SHAPE: &str = "
    SELECT json_build_object(
        'superuser', (SELECT rolname FROM pg_roles WHERE oid = 10),
        'encoding', pg_encoding_to_char(d.encoding), 'collate', d.datcollate, 'ctype', d.datctype,
        'provider', to_jsonb(d) ->> 'datlocprovider',
        'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
        'rules', to_jsonb(d) ->> 'daticurules',
        'checksums', current_setting('data_checksums') = 'on',
        'wal_segment', pg_size_bytes(current_setting('wal_segment_size')))
    FROM pg_database d WHERE d.datname = 'template1'";

impl Shape {
    /// For what a dump is restored into; databases have shapes of their own.
    pub(super) fn plain() -> Shape {
        let c = || "C".to_owned();
        Shape {
            superuser: "postgres".to_owned(),
            encoding: "UTF8".to_owned(),
            collate: c(),
            ctype: c(),
            provider: None,
            locale: None,
            rules: None,
            checksums: false,
            wal_segment: 16 << 20,
        }
    }

    pub(in crate::masking) async fn read(connection: &mut Connection) -> Result<Shape, MaskingError> {
        let found = objects(connection, SHAPE).await?;
        found.into_iter().next().ok_or_else(|| MaskingError::Catalog { reason: "it has no template1".to_owned() })
    }

    fn arguments(&self, major: u32) -> Vec<String> {
        let mut arguments = vec![
            format!("--username={}", self.superuser),
            format!("--encoding={}", self.encoding),
            "--locale=C".to_owned(),
            format!("--lc-collate={}", self.collate),
            format!("--lc-ctype={}", self.ctype),
            format!("--wal-segsize={}", self.wal_segment >> 20),
        ];
        let locale = self.locale.as_deref().unwrap_or_default();
        match self.provider {
            Some('i') => {
                arguments.extend(["--locale-provider=icu".to_owned(), format!("--icu-locale={locale}")]);
                arguments.extend(self.rules.iter().map(|rules| format!("--icu-rules={rules}")));
            }
            Some('b') => {
                arguments.extend(["--locale-provider=builtin".to_owned(), format!("--builtin-locale={locale}")]);
            }
            _ => {}
        }
        match self.checksums {
            true => arguments.push("--data-checksums".to_owned()),
            // Until then it is what initdb does without being told.
            false if major >= 18 => arguments.push("--no-data-checksums".to_owned()),
            false => {}
        }
        arguments
    }
}

/// A cluster below a folder of the import's own. Dropping it kills its server.
pub(in crate::masking) struct Fresh {
    folder: PathBuf,
    settings: ComputeSettings,
    pub installation: Installation,
    identity: Identity,
    pub superuser: String,
    source_settings: BTreeMap<String, String>,
    compute: Option<Compute>,
}

impl Fresh {
    /// Makes one in `folder`, a new one, in a folder that lets the compute's user pass through.
    pub(in crate::masking) async fn make(
        folder: &Path,
        settings: &ComputeSettings,
        installation: Installation,
        shape: &Shape,
        source_settings: BTreeMap<String, String>,
    ) -> Result<Fresh, MaskingError> {
        let fresh = Fresh::at(folder, settings, installation, shape, source_settings)?;
        fresh.initialize(shape).await?;
        Ok(fresh)
    }

    /// The one in `folder`, which may still have to be made.
    pub(super) fn at(
        folder: &Path,
        settings: &ComputeSettings,
        installation: Installation,
        shape: &Shape,
        source_settings: BTreeMap<String, String>,
    ) -> Result<Fresh, MaskingError> {
        let identity = Identity::resolve(settings).map_err(crate::sources::ImportError::from)?;
        Ok(Fresh {
            folder: folder.to_owned(),
            settings: settings.clone(),
            installation,
            identity,
            superuser: shape.superuser.clone(),
            source_settings,
            compute: None,
        })
    }

    pub(in crate::masking) fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    pub(super) async fn initialize(&self, shape: &Shape) -> Result<(), MaskingError> {
        let data = self.data_dir();
        let made = || -> std::io::Result<()> {
            std::fs::create_dir(&self.folder)?;
            std::fs::set_permissions(&self.folder, PermissionsExt::from_mode(0o711))?;
            std::fs::create_dir(&data)?;
            std::fs::set_permissions(&data, PermissionsExt::from_mode(0o700))?;
            chown(&data, Some(self.identity.uid), Some(self.identity.gid))
        };
        made().map_err(MaskingError::io(format!("cannot make {}", data.display())))?;
        let mut command = Command::new(self.installation.bin_dir.join("initdb"));
        command.arg("-D").arg(&data).args(["--auth=trust", "--no-sync", "--no-instructions"]);
        command.args(shape.arguments(self.installation.major));
        command
            .env_clear()
            .env("LC_ALL", "C")
            .env("PATH", "/usr/bin:/bin")
            .current_dir("/")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if self.identity.differs_from_own() {
            command.uid(self.identity.uid).gid(self.identity.gid);
        }
        let output = command.output().await.map_err(MaskingError::io("cannot run initdb"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = said.lines().rfind(|line| line.contains("error")).unwrap_or("it says nothing").to_owned();
        Err(MaskingError::Fresh {
            what: format!(
                "initdb cannot make a cluster like the source (encoding {}, collation {})",
                shape.encoding, shape.collate
            ),
            reason: format!("{reason}. Install its locale on this node if that is what is missing"),
        })
    }

    /// Starts its server.
    pub(in crate::masking) async fn start(&mut self) -> Result<(), MaskingError> {
        let (data_dir, run_dir) = (self.data_dir(), self.run_dir());
        let pid_file =
            compute::watch_pid_file(&data_dir).map_err(MaskingError::io("cannot watch the fresh cluster"))?;
        // From PostgreSQL 17 on there are some for logins, too, and an import that goes on logs in once they are there.
        let newer = (self.installation.major >= 17).then_some(("event_triggers", "off"));
        let settings = LOADING.into_iter().chain(newer);
        let parameters = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let launch = Launch {
            settings: &self.settings,
            installation: &self.installation,
            identity: self.identity,
            data_dir: &data_dir,
            files: DataFiles::Folder(data_dir.clone()),
            run_dir: &run_dir,
            source_settings: &self.source_settings,
            parameters: &parameters,
            pid_file,
        };
        self.compute = Some(Compute::start(launch).await.map_err(crate::sources::ImportError::from)?);
        Ok(())
    }

    /// Stops it cleanly.
    pub(in crate::masking) async fn stop(&mut self) -> Result<(), MaskingError> {
        let Some(mut compute) = self.compute.take() else { return Ok(()) };
        let exit = compute.stop().await;
        match exit.clean {
            true => Ok(()),
            false => Err(MaskingError::Fresh {
                what: "the fresh cluster did not stop cleanly".to_owned(),
                reason: exit.description,
            }),
        }
    }

    /// How its server is reached.
    pub(in crate::masking) fn server(&self) -> Server {
        Server::on_socket(&self.run_dir(), &self.superuser)
    }

    /// A session for loading `database`.
    pub(in crate::masking) async fn connect(&self, database: &str) -> Result<Connection, MaskingError> {
        let mut connection = Connection::open(&self.server(), Purpose::Queries(database)).await?;
        set_for_copy(&mut connection).await?;
        Ok(connection)
    }
}

/// Settings under which what one server writes is what another reads, as pg_dump has them (`setup_connection` of pg_dump.c).
///
/// All of them or an error: without `row_security = off`, for one, a role that may not see all rows would be given some without a word.
pub(in crate::masking) async fn set_for_copy(connection: &mut Connection) -> Result<(), MaskingError> {
    let known = "SELECT current_setting('server_encoding'), EXISTS (SELECT FROM pg_settings WHERE name = 'transaction_timeout')";
    let known = connection.query(known).await?;
    // What has no encoding cannot be converted.
    let encoding = if field(known.first(), 0) == "SQL_ASCII" { "SQL_ASCII" } else { "UTF8" };
    let settings = [
        ("client_encoding", encoding),
        ("search_path", ""),
        // What functions say of rows is nobody's to read here, and would fill a socket that is only written to.
        ("client_min_messages", "error"),
        ("datestyle", "ISO"),
        ("intervalstyle", "postgres"),
        ("timezone", "UTC"),
        ("bytea_output", "hex"),
        ("extra_float_digits", "3"),
        ("xmloption", "content"),
        ("lc_monetary", "C"),
        ("row_security", "off"),
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
        ("synchronize_seqscans", "off"),
        ("default_transaction_isolation", "read committed"),
    ];
    // From PostgreSQL 17 on.
    let newer = (field(known.first(), 1) == "t").then_some(("transaction_timeout", "0"));
    let set = |(name, value): (&str, &str)| format!("SET {name} = '{value}';");
    connection.query(&settings.into_iter().chain(newer).map(set).collect::<String>()).await?;
    Ok(())
}
