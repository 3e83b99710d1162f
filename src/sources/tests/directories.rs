//! Stopped data directories, and those that are not fit.

use super::sinks::FolderSink;
use super::*;
use crate::compute::fixture::{MAJOR, connect};
use crate::compute::{ComputeError, ControlFile};
use std::path::Path;

fn as_source(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn a_stopped_directory_is_copied_with_one_wal_file_and_starts() {
    let server = TestServer::start(MAJOR, &[]).await;
    server.execute("CREATE TABLE kept AS SELECT 42 AS x; SELECT pg_switch_wal(); CREATE TABLE more ()").await;
    server.execute("SELECT pg_create_physical_replication_slot('source_only', true)").await;
    let (mut server, restored) = (server, Fixture::new(MAJOR).await);
    server.signal(Signal::SIGINT);
    std::fs::write(server.fixture.data_dir().join("standby.signal"), "").unwrap();
    std::fs::remove_dir_all(restored.data_dir()).unwrap();
    let sink = FolderSink { root: restored.data_dir(), owner: restored.identity };
    let (_, facts) = copy_into(as_source(&server.fixture.data_dir()), sink).await.unwrap();
    assert!(!facts.needs_recovery);

    let control = ControlFile::read(&restored.data_dir()).unwrap();
    let wal: Vec<String> = std::fs::read_dir(restored.data_dir().join("pg_wal"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "archive_status")
        .collect();
    assert_eq!(wal, [control.checkpoint_wal_file()]);
    let compute = restored.start().await.unwrap();
    let row =
        connect(&compute, "postgres").await.query_one("SELECT x, pg_is_in_recovery() FROM kept", &[]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, bool>(1)), (42, false));
}

#[tokio::test]
async fn a_directory_in_use_or_left_by_a_crash_is_refused() {
    let mut server = TestServer::start(MAJOR, &[]).await;
    let path = server.fixture.data_dir();
    let error = refusal(as_source(&path)).await;
    let pid = server.child.id() as i32;
    assert!(matches!(error, ImportError::Running { pid: found, .. } if found == pid), "{error}");

    server.signal(Signal::SIGQUIT);
    let error = refusal(as_source(&path)).await;
    assert!(matches!(&error, ImportError::NotShutDown { state, .. } if state == "in production"), "{error}");
}

#[tokio::test]
async fn what_is_not_a_whole_stopped_cluster_is_refused() {
    let fixture = Fixture::new(MAJOR).await;
    let path = fixture.data_dir();
    let source = as_source(&path);

    std::fs::write(path.join("backup_label"), "").unwrap();
    assert!(matches!(refusal(source).await, ImportError::NotShutDown { .. }));
    std::fs::remove_file(path.join("backup_label")).unwrap();

    let wal = path.join("pg_wal").join(ControlFile::read(&path).unwrap().checkpoint_wal_file());
    std::fs::rename(&wal, path.join("elsewhere")).unwrap();
    assert!(matches!(refusal(source).await, ImportError::MissingWal { .. }));
    std::fs::rename(path.join("elsewhere"), &wal).unwrap();

    for (version, fits) in [
        ("12", (|error| matches!(error, ImportError::UnsupportedVersion { .. })) as fn(&ImportError) -> bool),
        ("9.6", |error| matches!(error, ImportError::UnsupportedVersion { .. })),
        ("nonsense", |error| matches!(error, ImportError::NotADataDirectory { .. })),
    ] {
        std::fs::write(path.join("PG_VERSION"), format!("{version}\n")).unwrap();
        let error = refusal(source).await;
        assert!(fits(&error), "{version}: {error}");
    }
    std::fs::remove_file(path.join("PG_VERSION")).unwrap();
    assert!(matches!(refusal(source).await, ImportError::NotADataDirectory { .. }));
    assert!(matches!(refusal("/etc/hostname").await, ImportError::NotADataDirectory { .. }));
}

#[tokio::test]
async fn a_version_that_this_node_lacks_is_named_before_anything_is_copied() {
    let fixture = Fixture::new(MAJOR).await;
    let found = crate::compute::installations(&fixture.settings).await;
    let Some(absent) = crate::compute::MAJORS.into_iter().find(|major| found.iter().all(|it| it.major != *major))
    else {
        eprintln!("this node has every version: nothing to test");
        return;
    };
    std::fs::write(fixture.data_dir().join("PG_VERSION"), format!("{absent}\n")).unwrap();
    let source: Source = as_source(&fixture.data_dir()).parse().unwrap();
    let open = || -> Result<MemorySink, _> { panic!("the copy has begun") };
    let copied = copy(&source, &fixture.settings, &Ambient::system(), open, Progress::hidden().into()).await;
    let Err(error) = copied else { panic!("there is no PostgreSQL {absent}") };
    assert!(matches!(error, ImportError::Compute(ComputeError::NoInstallation { .. })), "{error}");
    assert!(
        error.to_string().contains(&format!("no PostgreSQL {absent}")) && error.to_string().contains("15."),
        "{error}"
    );
}

#[tokio::test]
async fn a_directory_that_a_server_was_started_on_meanwhile_is_refused() {
    let fixture = Fixture::new(MAJOR).await;
    let path = fixture.data_dir();
    let opened = crate::sources::directory::StoppedDirectory::open(&path).unwrap();
    let server = TestServer::on(fixture, &[]).await;
    let copied = tokio::task::spawn_blocking(move || {
        let (cancelled, _waiting) = crate::sources::directory::Cancelled::pair();
        opened.copy_into(&mut MemorySink::default(), &Progress::hidden(), &cancelled)
    });
    let error = copied.await.unwrap().unwrap_err();
    assert!(matches!(error, ImportError::Changed { .. } | ImportError::Read { .. }), "{error}");
    drop(server);
}
