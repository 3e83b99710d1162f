//! Live sources: what comes, that it works, and what keeps it from coming.

use super::sinks::{BlockingSink, FailingSink, FolderSink, MemorySink};
use super::*;
use crate::compute::fixture::{MAJOR, connect};
use crate::compute::{MAJORS, bootstrap_superuser, installations};
use crate::pageserver::WriteError;
use crate::store::StoreError;
use std::path::Path;
use std::sync::mpsc;
use tokio::sync::watch;

/// What differs between any two backups of an idle cluster, or is left behind.
fn differs_anyway(path: &str) -> bool {
    path == "backup_label" || path == "global/pg_control" || path.starts_with("pg_wal/")
}

fn files_below(root: &Path, path: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(root.join(path)).unwrap() {
        let entry = entry.unwrap();
        let below = Path::new(path).join(entry.file_name()).to_str().unwrap().to_owned();
        found.push(below.clone());
        if entry.file_type().unwrap().is_dir() {
            files_below(root, &below, found);
        }
    }
}

#[tokio::test]
async fn a_backup_holds_what_pg_basebackup_copies() {
    let server = TestServer::start(MAJOR, &["autovacuum=off"]).await;
    server.execute("CREATE TABLE big AS SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g").await;
    server.execute("CREATE UNLOGGED TABLE lost AS SELECT 1; CHECKPOINT").await;
    let reference = server.sockets().join("reference");
    let sockets = server.sockets();
    let arguments = [
        "-h",
        sockets.to_str().unwrap(),
        "-p",
        &server.port.to_string(),
        "-U",
        "boot",
        "-X",
        "fetch",
        "-c",
        "fast",
        "-D",
    ];
    server.fixture.run("pg_basebackup", &[&arguments[..], &[reference.to_str().unwrap(), "--no-manifest"]].concat());

    let (sink, facts) = copy_into(&server.url(), MemorySink::default()).await.unwrap();
    assert_eq!((facts.major, facts.wal_segment_size, facts.needs_recovery), (MAJOR, 16 << 20, true));
    assert_eq!(facts.superuser.as_deref(), Some("boot"));
    assert!(facts.source_settings.is_empty(), "its postgresql.conf comes along");
    assert_eq!(facts.source, described(&server.url()));

    let mut expected = Vec::new();
    files_below(&reference, "", &mut expected);
    for path in expected.iter().filter(|path| !differs_anyway(path)) {
        let copied = reference.join(path);
        let mode = std::os::unix::fs::PermissionsExt::mode(&copied.metadata().unwrap().permissions()) & 0o777;
        match copied.is_dir() {
            true => assert_eq!(sink.directories.get(path), Some(&mode), "{path}"),
            false => assert!(sink.files.get(path) == Some(&(mode, std::fs::read(&copied).unwrap())), "{path} differs"),
        }
    }
    for path in sink.files.keys().filter(|path| !differs_anyway(path)) {
        assert!(expected.contains(path), "{path} should not have come");
    }
    assert!(sink.files.contains_key("backup_label") && sink.files.contains_key("global/pg_control"));
    assert!(sink.files.keys().any(|path| path.starts_with("pg_wal/0000")));
    assert!(sink.directories.contains_key("pg_wal/archive_status"));
}

#[tokio::test]
async fn a_backup_under_load_recovers_in_every_version() {
    for found in installations(&fixture::settings()).await {
        if !MAJORS.contains(&found.major) {
            continue;
        }
        let server = TestServer::start(found.major, &[]).await;
        server.execute("CREATE TABLE entries (n int PRIMARY KEY, filler text)").await;
        server.execute("INSERT INTO entries SELECT g, repeat('x', 500) FROM generate_series(1, 20000) g").await;
        let writer = server.try_connect().await.unwrap();
        let load = tokio::spawn(async move {
            for n in 20_001.. {
                writer.execute("INSERT INTO entries VALUES ($1, 'y')", &[&n]).await.unwrap();
            }
        });
        let restored = Fixture::new(found.major).await;
        std::fs::remove_dir_all(restored.data_dir()).unwrap();
        let sink = FolderSink { root: restored.data_dir(), owner: restored.identity };
        let (_, facts) = copy_into(&server.url(), sink).await.unwrap();
        assert_eq!(facts.major, found.major);
        load.abort();
        drop(server);

        let (data_dir, run_dir) = (restored.data_dir(), restored.run_dir());
        let superuser = bootstrap_superuser(restored.launch(&data_dir, &run_dir, watch::channel(Vec::new()).1)).await;
        assert_eq!(superuser.unwrap(), "boot");
        let compute = restored.start().await.unwrap();
        let client = connect(&compute, "postgres").await;
        let row = client.query_one("SELECT count(*) - max(n), count(*) >= 20000 FROM entries", &[]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, bool>(1)), (0, true), "a gap in {}", found.version);
    }
}

#[tokio::test]
async fn every_password_method_works_and_a_wrong_password_is_one() {
    let server = TestServer::start(MAJOR, &[]).await;
    server.execute(ROLES).await;
    for user in ["scram", "md5", "clear"] {
        let (_, facts) = copy_into(&server.tcp(user, "right"), MemorySink::default()).await.unwrap();
        assert_eq!(facts.superuser, None);
        let error = refusal(&server.tcp(user, "wrong-secret")).await;
        assert!(matches!(error, ImportError::WrongPassword { .. }), "{user}: {error}");
        assert!(!error.to_string().contains("wrong-secret"));
    }
    let no_password = format!("host=127.0.0.1 port={} user=scram", server.port);
    assert!(matches!(refusal(&no_password).await, ImportError::NoPassword { .. }));
}

#[tokio::test]
async fn who_may_not_replicate_is_told_what_to_change() {
    let server = TestServer::start(MAJOR, &[]).await;
    server.execute(ROLES).await;
    let weak = refusal(&server.tcp("weak", "right")).await;
    assert!(matches!(weak, ImportError::NoReplicationPrivilege { .. }), "{weak}");
    assert!(weak.to_string().contains("ALTER ROLE \"weak\" REPLICATION"), "{weak}");
    let unlisted = refusal(&server.tcp("unlisted", "x")).await;
    assert!(matches!(unlisted, ImportError::NoHbaEntry { .. }), "{unlisted}");
    let nobody = refusal(&server.tcp("nobody", "x")).await;
    assert!(matches!(nobody, ImportError::LoginRefused { .. }), "{nobody}");
}

#[tokio::test]
async fn settings_of_the_source_that_are_too_low_are_named() {
    let fixture = Fixture::new(MAJOR).await;
    let server = TestServer::on(fixture, &["wal_level=minimal", "max_wal_senders=0"]).await;
    let error = refusal(&server.url()).await;
    assert!(matches!(&error, ImportError::WalLevel { level, .. } if level == "minimal"), "{error}");

    let server = TestServer::start(MAJOR, &["max_wal_senders=0"]).await;
    let error = refusal(&server.url()).await;
    assert!(matches!(error, ImportError::MaxWalSenders { .. }), "{error}");

    let server = TestServer::start(MAJOR, &["max_replication_slots=0"]).await;
    let error = refusal(&server.url()).await;
    assert!(matches!(error, ImportError::MaxReplicationSlots { .. }), "{error}");

    let server = TestServer::start(MAJOR, &["max_replication_slots=1"]).await;
    server.execute("SELECT pg_create_physical_replication_slot('taken')").await;
    let error = refusal(&server.url()).await;
    assert!(matches!(error, ImportError::MaxReplicationSlots { .. }), "{error}");
}

#[tokio::test]
async fn extra_tablespaces_are_named() {
    let server = TestServer::start(MAJOR, &[]).await;
    let fast = server.sockets().join("fast");
    server.fixture.command("/bin/mkdir").arg(&fast).status().unwrap();
    server.execute(&format!("CREATE TABLESPACE fast LOCATION '{}'", fast.display())).await;
    let names = |error| match error {
        ImportError::ExtraTablespaces { names } => names,
        other => panic!("{other}"),
    };
    let expected = [fast.display().to_string()];
    assert_eq!(names(refusal(&server.url()).await), expected);
    let fixture = {
        let mut server = server;
        server.signal(Signal::SIGINT);
        server
    };
    assert_eq!(names(refusal(fixture.fixture.data_dir().to_str().unwrap()).await), expected);
}

#[tokio::test]
async fn the_settings_of_a_source_with_its_configuration_elsewhere_come_along() {
    let fixture = Fixture::new(MAJOR).await;
    let config = fixture.path().join("postgresql.conf");
    std::fs::rename(fixture.data_dir().join("postgresql.conf"), &config).unwrap();
    let settings =
        [format!("config_file={}", config.display()), "timezone=Asia/Tokyo".to_owned(), "work_mem=7MB".to_owned()];
    let hba = format!("hba_file={}", fixture.data_dir().join("pg_hba.conf").display());
    let ident = format!("ident_file={}", fixture.data_dir().join("pg_ident.conf").display());
    let settings: Vec<&str> = settings.iter().map(String::as_str).chain([hba.as_str(), ident.as_str()]).collect();
    let server = TestServer::on(fixture, &settings).await;
    server.execute(ROLES).await;
    for source in [server.url(), server.tcp("scram", "right")] {
        let (_, facts) = copy_into(&source, MemorySink::default()).await.unwrap();
        assert_eq!(facts.source_settings["timezone"], "Asia/Tokyo");
        assert_eq!(facts.source_settings["work_mem"], "7MB");
        assert_eq!(facts.source_settings.contains_key("shared_preload_libraries"), facts.superuser.is_some());
    }
}

#[tokio::test]
async fn what_stops_the_sink_stops_the_import() {
    let server = TestServer::start(MAJOR, &[]).await;
    let full = WriteError::Scratch { path: "/scratch".into(), source: std::io::ErrorKind::StorageFull.into() };
    let error = copy_into(&server.url(), FailingSink(Some(full))).await.err().unwrap();
    assert!(matches!(error, ImportError::DiskFull { .. }), "{error}");
    let denied = WriteError::Store(StoreError::Denied { key: "pack".to_owned(), reason: "403 Forbidden".to_owned() });
    let error = copy_into(&server.url(), FailingSink(Some(denied))).await.err().unwrap();
    assert!(matches!(error, ImportError::Store { .. }), "{error}");
}

#[tokio::test]
async fn a_source_that_dies_half_way_is_an_error() {
    let mut server = TestServer::start(MAJOR, &[]).await;
    let ((arrived, has_arrived), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel());
    let url = server.url();
    let copying = tokio::spawn(async move { copy_into(&url, BlockingSink { arrived, go_on: may_go_on }).await.err() });
    tokio::task::spawn_blocking(move || has_arrived.recv().unwrap()).await.unwrap();
    server.signal(Signal::SIGQUIT);
    drop(go_on);
    let error = copying.await.unwrap().unwrap();
    assert!(matches!(error, ImportError::Disconnected { .. } | ImportError::Server { .. }), "{error}");
}

#[tokio::test]
async fn a_cancelled_import_lets_go_of_source_and_sink() {
    let server = TestServer::start(MAJOR, &[]).await;
    let ((arrived, has_arrived), (go_on, may_go_on)) = (mpsc::channel(), mpsc::channel());
    let url = server.url();
    let copying = tokio::spawn(async move { copy_into(&url, BlockingSink { arrived, go_on: may_go_on }).await.err() });
    let has_arrived =
        tokio::task::spawn_blocking(move || has_arrived.recv().map(|()| has_arrived)).await.unwrap().unwrap();
    copying.abort();
    drop(go_on);
    let sink_is_dropped = tokio::task::spawn_blocking(move || while has_arrived.recv().is_ok() {});
    tokio::time::timeout(Duration::from_secs(10), sink_is_dropped).await.unwrap().unwrap();

    let client = server.try_connect().await.unwrap();
    for _ in 0..100 {
        let slots: i64 = client.query_one("SELECT count(*) FROM pg_replication_slots", &[]).await.unwrap().get(0);
        if slots == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the temporary slot is still there");
}
