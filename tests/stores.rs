//! The whole way on other ground: an S3 server, PostgreSQL 18, several nodes on one store, and stores that cannot be trusted.

mod fixture;

use fixture::*;
use std::process::{Command, Stdio};

/// Import, isolation, sleep, loss of the node's disk, wake.
fn the_main_job(mut shop: Shop) {
    assert_eq!(shop.psql("shop@pr-1", "select count(*) from customers"), "1500");
    shop.psql(
        "shop@pr-1",
        "update customers set note = 'mine'; create table kept as select n from generate_series(1, 20000) n",
    );
    shop.psql("analytics@pr-1", "truncate events");
    assert_eq!(shop.psql("shop@pr-2", "select count(*) from customers where note = 'mine'"), "0");
    for round in 1..=2 {
        shop.node.wait_asleep("shop@pr-1");
        shop.node.wait_asleep("shop@pr-2");
        shop.node.stop();
        shop.node.wipe();
        shop.node.start();
        assert_eq!(shop.psql("shop@pr-1", "select count(*), sum(n) from kept"), "20000|200010000", "round {round}");
        assert_eq!(shop.psql("shop@pr-1", "select count(*) from customers where note = 'mine'"), "1500");
        assert_eq!(shop.psql("analytics@pr-1", "select count(*) from events"), "0");
        shop.psql("shop@pr-1", &format!("create table round_{round} as select 1"));
        assert_eq!(shop.psql("shop@pr-2", "select count(*) from customers where note = 'mine'"), "0");
    }
}

#[test]
fn the_main_job_on_files() {
    the_main_job(Fixture::new().idle_timeout("1s").start());
}

#[test]
fn the_main_job_on_s3() {
    the_main_job(Fixture::new().moto().idle_timeout("1s").start());
}

#[test]
fn the_main_job_on_files_with_postgres_18() {
    the_main_job(Fixture::new().postgres(Major::Eighteen).idle_timeout("1s").start());
}

#[test]
fn the_main_job_on_s3_with_postgres_18() {
    the_main_job(Fixture::new().postgres(Major::Eighteen).moto().idle_timeout("1s").start());
}

#[test]
fn no_commit_is_lost_on_postgres_18_when_the_daemon_is_killed() {
    let mut shop = Fixture::new().postgres(Major::Eighteen).start();
    let url = shop.node.url(POSTGRES, "shop@x");
    assert!(pgbench(&url, &["-i", "-s", "2", "-q"]).status.success());
    let load = pgbench_command(&url, &["-n", "-c", "4", "-T", "30"]).spawn().expect("pgbench runs");
    until("some transactions", 60, || (psql(&url, "select count(*) > 200 from pgbench_history") == "t").then_some(()));
    shop.node.kill();
    let _ = load.wait_with_output();
    shop.node.start();
    let sums = "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history), \
                (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history), count(*) > 200 from pgbench_history";
    assert_eq!(psql(&url, sums), "t|t|t");
}

#[test]
fn a_branch_asleep_wakes_on_another_node_and_awake_it_stays_where_it_is() {
    let shop = Fixture::new().idle_timeout("1s").start();
    shop.psql("shop@x", "create table kept as select 1 as n");
    shop.node.wait_asleep("shop@x");
    let mut other = Node::new(&shop.scratch, "other", &NodeConfig::default());
    other.start();
    assert_eq!(psql(&other.url(APP, "shop@x"), "update kept set n = 2 returning n"), "2");
    let error = try_psql(&shop.url("shop@x"), "select n from kept").expect_err("the other node holds it");
    assert!(error.contains("another node"), "{error}");
    assert_eq!(psql(&other.url(APP, "shop@x"), "select n from kept"), "2");
}

#[test]
fn two_nodes_asked_for_one_unseen_name_make_one_branch() {
    let shop = Fixture::new().start();
    let mut other = Node::new(&shop.scratch, "other", &NodeConfig::default());
    other.start();
    for n in 0..5 {
        let name = format!("shop@race-{n}");
        let (here, there) = (shop.url(&name), other.url(APP, &name));
        let first = std::thread::spawn(move || try_psql(&here, "create table won as select 1"));
        let second = try_psql(&there, "create table won as select 2");
        let first = first.join().expect("the thread lives");
        assert!(first.is_ok() != second.is_ok(), "one node has it, the other is refused: {first:?} {second:?}");
    }
}

#[test]
fn the_cache_survives_the_daemon_however_it_ends() {
    let mut shop = Fixture::new().moto().environment("OFFSHOOT_CACHE_MAX_BYTES", "32MiB").start();
    let question = "select count(*), sum(length(prosrc)) from pg_proc";
    let answer = shop.psql("shop@x", question);
    let cache = shop.node.data_dir().join("cache");
    let cached = || std::fs::read_dir(&cache).expect("there is a cache").count();
    shop.node.stop();
    assert!(cache.join("extents").exists(), "a clean stop leaves a map");
    shop.node.start();
    assert!(!cache.join("extents").exists(), "the map outlives the state it describes");
    assert!(cached() > 1, "the cache was emptied");
    assert!(shop.node.log().contains("is_clean=true"), "{}", shop.node.log());
    assert_eq!(shop.psql("shop@y", question), answer);
    shop.node.kill();
    shop.node.start();
    assert!(cached() > 1, "the cache was emptied");
    assert!(shop.node.log().contains("is_clean=false"), "{}", shop.node.log());
    assert_eq!(shop.psql("shop@z", question), answer);
}

#[test]
fn a_store_that_is_gone_is_said_to_be_gone() {
    let mut shop = Fixture::new().moto().idle_timeout("1s").start();
    shop.psql("shop@x", "create table kept as select 1");
    shop.node.wait_asleep("shop@x");
    shop.moto.as_mut().expect("the test asked for it").kill();
    let error = within("an answer without a store", 100, || try_psql(&shop.url("shop@x"), "select 1"));
    assert!(error.expect_err("it cannot be woken").contains("store"));
    shop.node.stop();
}

/// A server that answers every conditional put with success, as some do: two nodes would both own a branch.
#[test]
fn a_store_that_ignores_conditions_is_refused_at_start() {
    let scratch = Scratch::new();
    let port = free_port();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixture/lawless_store.py");
    let mut server = Command::new(python_bin().join("python"));
    let mut server = server
        .args([script, &port.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("python runs");
    until("the server to listen", 30, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    let environment = [
        ("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}")),
        ("AWS_ENDPOINT", format!("http://127.0.0.1:{port}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
        ("AWS_ACCESS_KEY_ID", "test".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
    ];
    let config = NodeConfig {
        store_url: Some("s3://offshoot/prefix".to_owned()),
        environment: environment.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        ..NodeConfig::default()
    };
    let refused = std::panic::catch_unwind(|| Node::new(&scratch, "node", &config).start_refused());
    let _ = server.kill();
    let _ = server.wait();
    let (status, error) = refused.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert!(!status.success());
    assert!(error.contains("conditional"), "it says what the store lacks: {error}");
}
