//! Computes from real Postgres, over plain data directories.

use super::fixture::{Fixture, MAJOR, connect, settings};
use super::*;
use crate::model::Secret;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;

async fn show(client: &tokio_postgres::Client, name: &str) -> String {
    client.query_one("SELECT current_setting($1)", &[&name]).await.unwrap().get(0)
}

#[tokio::test]
async fn every_version_on_this_node_starts_is_usable_and_stops() {
    for found in installations(&settings()).await {
        if !MAJORS.contains(&found.major) {
            continue;
        }
        let mut fixture = Fixture::new(found.major).await;
        fixture.installation = found.clone();
        fixture.parameters = [("max_prepared_transactions".to_owned(), "3".to_owned())].into();
        let (data_dir, run_dir) = (fixture.data_dir(), fixture.run_dir());
        let superuser = bootstrap_superuser(fixture.launch(&data_dir, &run_dir, watch::channel(Vec::new()).1)).await;
        assert_eq!(superuser.unwrap(), "boot", "{found:?}");

        let mut compute = fixture.start().await.unwrap();
        let client = connect(&compute, "postgres").await;
        assert_eq!(show(&client, "max_connections").await, "100");
        assert_eq!(show(&client, "autovacuum").await, "on");
        assert_eq!(show(&client, "fsync").await, "on");
        let cluster = read_cluster(compute.socket(), "boot").await.unwrap();
        assert_eq!((cluster.major, cluster.superuser.as_str()), (found.major, "boot"));
        assert!(cluster.server_version.starts_with(&found.version), "{cluster:?}");
        assert_eq!(
            cluster.databases.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(),
            ["postgres", "template0", "template1"]
        );

        let exit = compute.stop().await;
        assert!(exit.clean, "{}: {}", found.version, exit.description);
        assert!(compute.ended().await.clean, "the answer is kept");
        let control = ControlFile::read(&data_dir).unwrap();
        assert!(control.is_shut_down() && data_dir.join("pg_wal").join(control.checkpoint_wal_file()).exists());
        assert_eq!((control.wal_segment_size, control.max_prepared_transactions), (16 << 20, 3));
    }
}

#[tokio::test]
async fn settings_that_cannot_work_in_a_clone_do_not_reach_it() {
    let mut fixture = Fixture::new(MAJOR).await;
    let conf = "archive_mode = on\narchive_command = 'touch /tmp/archived'\nsynchronous_standby_names = '*'\nssl = on\n\
                shared_preload_libraries = 'not_here'\nlisten_addresses = '*'\ninclude 'missing.conf'\nwork_mem = 5MB\n\
                unix_socket_group = 'nobody'\nexternal_pid_file = '/nowhere/pid'\nmax_connections = 3000\n";
    let append = |name: &str, text: &str| {
        let path = fixture.data_dir().join(name);
        std::fs::OpenOptions::new().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    };
    append("postgresql.conf", conf);
    append(
        "postgresql.auto.conf",
        "session_preload_libraries = 'auto_explain,nor_here'\nport = 1\nmaintenance_work_mem = 9MB\n",
    );
    fixture.source_settings =
        [("work_mem", "1MB"), ("deadlock_timeout", "3s")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    fixture.parameters =
        [("max_connections", "7"), ("archive_mode", "on")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();

    let mut compute = fixture.start().await.unwrap();
    let client = connect(&compute, "postgres").await;
    client.batch_execute("CREATE TABLE committed ()").await.unwrap();
    for (name, value) in [
        ("archive_mode", "off"),
        ("synchronous_standby_names", ""),
        ("ssl", "off"),
        ("listen_addresses", ""),
        ("shared_preload_libraries", ""),
        ("session_preload_libraries", "\"auto_explain\""),
        ("work_mem", "5MB"),
        ("maintenance_work_mem", "9MB"),
        ("deadlock_timeout", "3s"),
        ("max_connections", "7"),
        ("port", "5432"),
    ] {
        assert_eq!(show(&client, name).await, value, "{name}");
    }
    assert!(compute.stop().await.clean);
}

#[tokio::test]
async fn a_data_directory_without_its_configuration_starts() {
    let fixture = Fixture::new(MAJOR).await;
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        std::fs::remove_file(fixture.data_dir().join(name)).unwrap();
    }
    let mut compute = fixture.start().await.unwrap();
    assert!(compute.stop().await.clean);
}

#[tokio::test]
async fn a_killed_compute_is_noticed_and_recovers_at_its_next_start() {
    let fixture = Fixture::new(MAJOR).await;
    let mut compute = fixture.start().await.unwrap();
    let client = connect(&compute, "postgres").await;
    client.batch_execute("CREATE TABLE kept AS SELECT 1 AS x").await.unwrap();
    let pid_file = std::fs::read_to_string(fixture.data_dir().join("postmaster.pid")).unwrap();
    let pid: i32 = pid_file.lines().next().unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();

    let exit = compute.ended().await;
    assert!(!exit.clean && exit.description.contains("signal: 9"), "{exit:?}");
    assert_eq!(orphans::reap_users(&fixture.data_dir()).await.unwrap(), 0, "nothing is left when it has ended");
    let segments = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let id = pid_file.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)).unwrap();
    assert!(!segments.lines().any(|line| line.split_whitespace().nth(1) == Some(id)), "its segment is left");

    let compute = fixture.start().await.unwrap();
    let client = connect(&compute, "postgres").await;
    assert_eq!(client.query_one("SELECT x FROM kept", &[]).await.unwrap().get::<_, i32>(0), 1);
}

#[tokio::test]
async fn a_lock_file_with_the_pid_of_somebody_else_does_not_keep_a_compute_from_starting() {
    let fixture = Fixture::new(MAJOR).await;
    let mut other = fixture.command("/bin/sleep").arg("1000").spawn().unwrap();
    std::fs::write(fixture.data_dir().join("postmaster.pid"), format!("{}\n", other.id())).unwrap();
    let started = fixture.start().await;
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(started.unwrap().stop().await.clean);
}

#[tokio::test]
async fn a_dropped_compute_is_gone_with_all_its_backends() {
    let fixture = Fixture::new(MAJOR).await;
    let compute = fixture.start().await.unwrap();
    let client = connect(&compute, "postgres").await;
    let busy = tokio::spawn(async move { client.batch_execute("SELECT count(*) FROM generate_series(1, 1e10)").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(compute);
    assert!(busy.await.unwrap().is_err());
    orphans::reap_users(&fixture.data_dir()).await.unwrap();
    let mut compute = fixture.start().await.unwrap();
    assert!(compute.stop().await.clean);
}

#[tokio::test]
async fn a_compute_that_does_not_stop_is_killed() {
    let mut fixture = Fixture::new(MAJOR).await;
    fixture.settings.stop_timeout = Duration::from_millis(100);
    let mut compute = fixture.start().await.unwrap();
    let pid_file = std::fs::read_to_string(fixture.data_dir().join("postmaster.pid")).unwrap();
    let pid = nix::unistd::Pid::from_raw(pid_file.lines().next().unwrap().parse().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    assert!(!compute.stop().await.clean);
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let mut fixture = Fixture::new(MAJOR).await;
    let set = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
    for (name, value, expected) in [
        ("no_such_thing", "1", "remove the parameter"),
        ("max_connections", "-5", "correct the value"),
        ("lc_monetary", "xx_YY", "lacks a locale"),
        ("shared_buffers", "7TB", "lower shared_buffers"),
    ] {
        fixture.parameters = set(name, value);
        let error = fixture.start().await.unwrap_err();
        assert!(matches!(error, ComputeError::Start { .. }));
        assert!(error.to_string().contains(expected) && error.to_string().contains("FATAL"), "{error}");
    }

    let deep = fixture.path().join("x".repeat(100));
    let data_dir = fixture.data_dir();
    let error = Compute::start(fixture.launch(&data_dir, &deep, fixture.pid_file())).await.unwrap_err();
    assert!(matches!(error, ComputeError::SocketPath { limit: 107, .. }), "{error}");

    fixture.parameters.clear();
    fixture.settings.start_timeout = Duration::from_millis(1);
    assert!(matches!(fixture.start().await, Err(ComputeError::Timeout { .. })));
    assert!(matches!(read_cluster(Path::new("/nowhere/.s.PGSQL.5432"), "boot").await, Err(ComputeError::Query { .. })));
}

#[tokio::test]
async fn roles_and_databases_are_read_as_they_are() {
    let fixture = Fixture::new(MAJOR).await;
    let compute = fixture.start().await.unwrap();
    let client = connect(&compute, "postgres").await;
    client
        .batch_execute(
            "SET password_encryption = 'scram-sha-256';
             CREATE ROLE plain LOGIN PASSWORD 'secret' CONNECTION LIMIT 3 VALID UNTIL '2040-01-01 00:00:00Z';
             CREATE ROLE past LOGIN VALID UNTIL '-infinity';
             CREATE ROLE ever VALID UNTIL 'infinity';
             ALTER ROLE boot SET search_path = nowhere",
        )
        .await
        .unwrap();
    client.batch_execute("CREATE DATABASE shop ALLOW_CONNECTIONS false").await.unwrap();

    let roles = read_roles(compute.socket(), "boot").await.unwrap();
    assert_eq!(roles.iter().map(|role| role.name.as_str()).collect::<Vec<_>>(), ["boot", "ever", "past", "plain"]);
    let plain = &roles[3];
    assert!(plain.can_login && !plain.superuser);
    assert_eq!((plain.connection_limit, plain.valid_until), (3, Some(2_208_988_800)));
    assert!(plain.verifier.as_ref().map(Secret::expose).unwrap().starts_with("SCRAM-SHA-256$4096:"));
    assert_eq!(roles[1].valid_until, None);
    assert_eq!(roles[2].valid_until, Some(0));

    let databases = read_databases(compute.socket(), "boot").await.unwrap();
    let shop = databases.iter().find(|database| database.name == "shop").unwrap();
    assert!(!shop.allow_connections && !shop.is_template);

    client.batch_execute("ALTER DATABASE template1 ALLOW_CONNECTIONS true").await.unwrap();
    let template = connect(&compute, "template1").await;
    template.batch_execute("ALTER DATABASE postgres ALLOW_CONNECTIONS false").await.unwrap();
    assert_eq!(read_cluster(compute.socket(), "boot").await.unwrap().roles.len(), 4);
}
