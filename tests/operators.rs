//! What operators do to a node, and what happens to them: a second daemon, a mistyped store, a store or a disk that is
//! away or full, no root, and databases that people treat as their own.

mod fixture;

use fixture::*;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_on_one_data_directory_is_refused_and_disturbs_nothing() {
    let shop = Fixture::new().start();
    shop.psql("shop@x", NUMBERED);
    let computes = shop.node.processes();
    let writers = Writers::start(vec![shop.url("shop@x"); 3]);
    writers.progress(50).await;
    let session = connect(&shop.url("shop@x")).await.expect("the branch can be had");
    let (status, error) = within("a refusal", 10, || shop.node.start_refused());
    assert!(!status.success());
    assert!(
        error.contains("another offshoot") && error.contains(&shop.node.data_dir().display().to_string()),
        "{error}"
    );
    session.query_one("select 1", &[]).await.expect("sessions go on");
    writers.progress(50).await;
    let left = shop.node.processes();
    assert!(computes.iter().any(|pid| left.contains(pid)), "the compute is the one from before");
    shop.psql("shop@y", "select count(*) from customers");
    let acknowledged = writers.finish().await;
    check_all_there(&shop.url("shop@x"), &acknowledged).await;
}

fn folders(of: &Path) -> Vec<PathBuf> {
    fs::read_dir(of).map(|entries| entries.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

/// A `file://` URL that is mistyped is an empty store: nothing in it tells what this node's branches were made from.
#[test]
fn a_node_that_is_given_the_wrong_store_keeps_what_it_had_not_uploaded() {
    let mut shop = Fixture::new().start();
    for branch in ["shop@a", "shop@b"] {
        shop.psql(branch, "create table kept as select n from generate_series(1, 1000) n");
    }
    shop.node.kill();
    let branches = shop.node.data_dir().join("branch");
    let before = folders(&branches);
    let right = format!("file://{}", shop.node.store_dir().display());
    shop.node.set_store_url(&format!("file://{}", shop.scratch.join("stroe").display()));
    let (status, error) = shop.node.start_refused();
    assert!(!status.success());
    for part in ["shop@a", "shop@b", "stroe", "store.url", "branch"] {
        assert!(error.contains(part), "it says what does not fit, and what to do: {part} in {error}");
    }
    assert_eq!(folders(&branches), before, "nothing is moved or deleted");
    shop.node.set_store_url(&right);
    shop.node.start();
    for branch in ["shop@a", "shop@b"] {
        assert_eq!(shop.psql(branch, "select count(*), sum(n) from kept"), "1000|500500");
    }
}

/// A store that has the project, yet not the branch: say an older copy of the right one.
#[test]
fn what_another_store_does_not_know_is_set_aside_and_comes_back_with_the_right_one() {
    let mut shop = Fixture::new().start();
    let (right, other) = (shop.node.store_dir(), shop.scratch.join("copy"));
    copy_tree(&right, &other);
    shop.psql("shop@x", "create table kept as select n from generate_series(1, 1000) n");
    shop.node.kill();
    shop.node.set_store_url(&format!("file://{}", other.display()));
    shop.node.start();
    assert_eq!(folders(&shop.node.data_dir().join("lost")).len(), 1, "set aside");
    assert_eq!(shop.psql("shop@x", "select count(*) from customers"), "1500", "this store's own branch");
    shop.node.stop();
    shop.node.set_store_url(&format!("file://{}", right.display()));
    shop.node.start();
    assert_eq!(shop.psql("shop@x", "select count(*), sum(n) from kept"), "1000|500500");
    assert_eq!(folders(&shop.node.data_dir().join("lost")), Vec::<PathBuf>::new());
}

/// What holds while the store cannot be reached, and after. `away` takes it away, `back` brings it back.
async fn without_a_store(shop: &Shop, away: impl FnOnce(), back: impl FnOnce()) {
    shop.psql("shop@x", NUMBERED);
    // What it does later, once before: pages that nobody has read yet are in the store only.
    shop.psql("shop@y", "create table kept as select 1 as n");
    shop.psql("shop@y", "update kept set n = 1 returning n");
    let writers = Writers::start(vec![shop.url("shop@x")]);
    writers.progress(20).await;
    away();
    // shop@y wants to fall asleep now, and cannot.
    let refused = within("an answer without a store", 30, || try_psql(&shop.url("shop@unseen"), "select 1"));
    let error = refused.expect_err("nobody can make a branch without the store");
    assert!(error.contains("the object store cannot be reached") && error.contains("HINT:  try again"), "{error}");
    writers.progress(20).await;
    until("a branch that cannot sleep", 30, || shop.node.log().contains("stays awake").then_some(()));
    let kept =
        within("a branch that could not sleep", 20, || psql(&shop.url("shop@y"), "update kept set n = 2 returning n"));
    assert_eq!(kept, "2");
    writers.progress(20).await;
    back();
    writers.progress(20).await;
    assert_eq!(shop.psql("shop@unseen", "select count(*) from customers"), "1500");
    let acknowledged = writers.finish().await;
    for branch in ["shop@x", "shop@y", "shop@unseen"] {
        shop.node.wait_asleep(branch);
    }
    assert_eq!(mounts_below(shop.node.data_dir()), Vec::<PathBuf>::new());
    assert_eq!(shop.psql("shop@y", "select n from kept"), "2");
    check_all_there(&shop.url("shop@x"), &acknowledged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_away_for_a_while_is_waited_for() {
    let shop = Fixture::new().idle_timeout("2s").start();
    let (here, there) = (shop.node.store_dir(), shop.scratch.join("away"));
    let away = || fs::rename(&here, &there).expect("the scratch folder is ours");
    let back = || fs::rename(&there, &here).expect("nobody made another store in its place");
    without_a_store(&shop, away, back).await;
}

/// A server that takes connections and never answers is the worst kind.
#[tokio::test(flavor = "multi_thread")]
async fn an_s3_server_that_hangs_for_a_while_is_waited_for() {
    use nix::sys::signal::Signal;
    let shop = Fixture::new().moto().idle_timeout("2s").start();
    let server = shop.moto.as_ref().expect("the test asked for it").pid();
    without_a_store(&shop, || signal(server, Signal::SIGSTOP), || signal(server, Signal::SIGCONT)).await;
}

/// `nobody` on Debian and Ubuntu.
const ORDINARY: u32 = 65534;

#[test]
fn an_ordinary_user_can_run_a_node() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test becomes another user: run it as root, or leave it out by name"
    );
    let mode = fs::metadata("/dev/fuse").expect("/dev/fuse is there").permissions().mode();
    assert_eq!(mode & 0o006, 0o006, "/dev/fuse is root's alone; distributions have it 0666: run `make setup`");
    let mut shop = Fixture::new().user(ORDINARY).live_source().idle_timeout("2s").start();
    assert_eq!(shop.psql("shop@x", "select count(*) from customers"), "1500");
    for pid in shop.node.processes() {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or("\t65534").trim_start();
        assert!(uid.starts_with("65534\t") || uid == "65534", "{pid} runs as {uid}");
    }
    shop.psql("shop@x", "create table kept as select n from generate_series(1, 1000) n");
    shop.node.wait_asleep("shop@x");
    assert_eq!(mounts_below(shop.node.data_dir()), Vec::<PathBuf>::new());
    assert_eq!(shop.psql("shop@x", "select count(*), sum(n) from kept"), "1000|500500");
    shop.psql("shop@x", "delete from kept where n > 500");
    shop.node.kill();
    shop.node.start();
    assert_eq!(shop.psql("shop@x", "select count(*) from kept"), "500");
    shop.node.stop();
}

fn mount_tmpfs(place: &Path, options: &str) {
    fs::create_dir_all(place).expect("the scratch folder is writable");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(place).status();
    assert!(mounted.expect("mount runs").success());
}

/// Needs a file system of some megabytes, and so root.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_statements_and_no_acknowledged_commit() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test mounts a file system: run it as root, or leave it out by name"
    );
    let mut shop = Fixture::new().start();
    shop.node.stop();
    // Beside it and linked, as operators do.
    let disk = shop.scratch.join("disk");
    mount_tmpfs(&disk, "size=200m,mode=711");
    fs::remove_dir_all(shop.node.data_dir()).expect("a stopped node's folder can be moved");
    std::os::unix::fs::symlink(&disk, shop.node.data_dir()).expect("the scratch folder is ours");
    shop.node.start();
    shop.psql("shop@x", NUMBERED);
    shop.psql("shop@y", "create table kept as select 1 as n");
    let writers = Writers::start(vec![shop.url("shop@x")]);
    writers.progress(50).await;
    let started = || shop.psql("shop@x", "select pg_postmaster_start_time()");
    let before = started();
    let error = try_psql(
        &shop.url("shop@x"),
        "create table filler as select n, repeat('x', 1000) from generate_series(1, 400000) n",
    )
    .expect_err("400 MB do not fit");
    assert!(error.contains("No space left on device"), "{error}");
    assert!(shop.node.log().contains("this node's disk is full"), "the log tells the operator");
    assert_eq!(started(), before, "the server lives on");
    mount_tmpfs(&disk, "remount,size=1g");
    pause(Duration::from_millis(100));
    writers.progress(20).await;
    assert_eq!(shop.psql("shop@y", "update kept set n = 2 returning n"), "2");
    assert_eq!(shop.psql("shop@new", "select count(*) from customers"), "1500");
    let acknowledged = writers.finish().await;
    check_all_there(&shop.url("shop@x"), &acknowledged).await;
    assert_eq!(shop.psql("shop@x", "select to_regclass('filler') is null"), "t");
    shop.node.stop();
    shop.node.start();
    check_all_there(&shop.url("shop@x"), &acknowledged).await;
    shop.node.stop();
}

#[test]
fn a_branch_without_the_database_postgres_works() {
    let shop = Fixture::new().idle_timeout("2s").start();
    let superuser = shop.node.url(POSTGRES, "shop@x");
    psql(&superuser, "drop database postgres");
    psql(&superuser, "create role late login password 'late-pw'");
    assert_eq!(psql(&shop.node.url(("late", "late-pw"), "shop@x"), "select 1"), "1");
    for _ in 0..2 {
        shop.node.wait_asleep("shop@x");
        assert_eq!(psql(&shop.node.url(("late", "late-pw"), "shop@x"), "select 1"), "1");
        let gone = try_psql(&shop.node.url(POSTGRES, "postgres@x"), "select 1").expect_err("it was dropped");
        assert!(gone.contains("\"postgres\" does not exist"), "{gone}");
    }
}

#[test]
fn what_a_superuser_sets_and_installs_survives_sleep() {
    let shop = Fixture::new().idle_timeout("2s").start();
    let superuser = shop.node.url(POSTGRES, "shop@x");
    psql(&superuser, "alter system set work_mem = '7MB'");
    // Both need a restart, which a sleep is. The second cannot work in a branch, and must not keep it from waking.
    psql(&superuser, "alter system set max_worker_processes = 11");
    psql(&superuser, "alter system set shared_preload_libraries = 'no_such_library'");
    psql(&superuser, "alter database shop set statement_timeout = '77s'");
    psql(&superuser, "create extension pgcrypto");
    let role = "r".repeat(40);
    psql(&superuser, &format!("create role {role} login password 'pw'"));
    for _ in 0..2 {
        assert_eq!(psql(&shop.node.url((&role, "pw"), "shop@x"), "select current_user"), role);
        shop.node.wait_asleep("shop@x");
        let asked = "select current_setting('work_mem'), current_setting('max_worker_processes'), \
                     current_setting('statement_timeout'), length(gen_random_bytes(7))";
        assert_eq!(psql(&superuser, asked), "7MB|11|77s|7");
    }
}

#[test]
fn databases_whose_names_need_quotes_are_reachable() {
    let shop = Fixture::new().idle_timeout("2s").start();
    let superuser = shop.node.url(POSTGRES, "shop@x");
    // As a URL has it, and as SQL does.
    let databases = [
        ("we@ird", "we@ird"),
        ("with%20space", "with space"),
        ("Upper\"quote", "Upper\"quote"),
        ("d%C3%A9j%C3%A0", "déjà"),
    ];
    for (_, name) in databases {
        psql(&superuser, &format!("create database \"{}\" owner app", name.replace('"', "\"\"")));
    }
    for round in 0..2 {
        for (spelled, name) in databases {
            let url = shop.url(&format!("{}%40x", spelled.replace('@', "%40")));
            assert_eq!(psql(&url, "select current_database()"), name, "round {round}");
        }
        shop.node.wait_asleep("shop@x");
    }
}
