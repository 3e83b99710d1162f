//! What was acknowledged is there: after the compute or the daemon is killed, the node stopped, its disk lost.

mod fixture;

use fixture::*;
use nix::sys::signal::Signal;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Writers that insert numbered rows, each on its own connection, reconnecting for as long as it takes, and note
/// every row whose commit was acknowledged. A row that was not acknowledged may be there or not.
struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<i64>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Writers {
    fn start(urls: Vec<String>) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let next = Arc::new(AtomicI64::new(0));
        let write = |url: String| {
            let (stop, acknowledged, next) = (stop.clone(), acknowledged.clone(), next.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(client) = connect(&url).await else {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    };
                    while !stop.load(Ordering::Relaxed) {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        match client.execute("insert into numbered values ($1, repeat('x', 300))", &[&n]).await {
                            Ok(_) => acknowledged.lock().expect("no writer panics").push(n),
                            Err(_) => break,
                        }
                    }
                }
            })
        };
        let tasks = urls.into_iter().map(write).collect();
        Writers { stop, acknowledged, tasks }
    }

    fn count(&self) -> usize {
        self.acknowledged.lock().expect("no writer panics").len()
    }

    /// Waits until `more` further rows were acknowledged.
    async fn progress(&self, more: usize) {
        let goal = self.count() + more;
        let arrive = async {
            while self.count() < goal {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), arrive)
            .await
            .unwrap_or_else(|_| panic!("no {more} further rows in 120 s"));
    }

    async fn finish(self) -> Vec<i64> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            tokio::time::timeout(Duration::from_secs(60), task)
                .await
                .expect("a writer ends in time")
                .expect("a writer does not panic");
        }
        self.acknowledged.lock().expect("no writer panics").clone()
    }
}

/// Panics unless each of `acknowledged` is there, once, whole.
async fn check_all_there(url: &str, acknowledged: &[i64]) {
    let client = connect(url).await.expect("the branch can be had");
    let rows = client.query("select n, length(filler) from numbered", &[]).await.expect("the table can be read");
    let mut seen = std::collections::HashMap::new();
    for row in &rows {
        assert_eq!(row.get::<_, i32>(1), 300, "row {} is whole", row.get::<_, i64>(0));
        *seen.entry(row.get::<_, i64>(0)).or_insert(0) += 1;
    }
    let lost: Vec<&i64> = acknowledged.iter().filter(|n| !seen.contains_key(n)).collect();
    assert!(
        lost.is_empty(),
        "{} of {} acknowledged rows are lost: {:?} …",
        lost.len(),
        acknowledged.len(),
        &lost[..lost.len().min(10)]
    );
    assert!(seen.values().all(|times| *times == 1), "no row is there twice");
    client.batch_execute("set enable_seqscan = off").await.expect("a setting can be set");
    let count =
        client.query_one("select count(*) from numbered where n >= 0", &[]).await.expect("the index can be read");
    assert_eq!(count.get::<_, i64>(0) as usize, rows.len(), "index and table agree");
}

const NUMBERED: &str = "create table numbered (n bigint primary key, filler text)";

fn random_pause(random: &mut StdRng) -> Duration {
    Duration::from_millis(random.random_range(50..900))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_commit_is_lost_when_the_daemon_is_killed() {
    let mut shop = Fixture::new().start();
    let mut random = StdRng::seed_from_u64(1);
    for branch in ["shop@a", "shop@b"] {
        shop.psql(branch, NUMBERED);
    }
    let urls = |shop: &Shop, branch: &str| vec![shop.url(branch); 3];
    let (a, b) = (Writers::start(urls(&shop, "shop@a")), Writers::start(urls(&shop, "shop@b")));
    for round in 0..5 {
        a.progress(50).await;
        b.progress(50).await;
        tokio::time::sleep(random_pause(&mut random)).await;
        eprintln!("round {round}: killed after {} and {} rows", a.count(), b.count());
        shop.node.kill();
        shop.node.start();
    }
    a.progress(20).await;
    b.progress(20).await;
    let (a, b) = (a.finish().await, b.finish().await);
    check_all_there(&shop.url("shop@a"), &a).await;
    check_all_there(&shop.url("shop@b"), &b).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_commit_is_lost_when_the_compute_is_killed() {
    let shop = Fixture::new().start();
    let mut random = StdRng::seed_from_u64(2);
    shop.psql("shop@x", NUMBERED);
    let writers = Writers::start(vec![shop.url("shop@x"); 4]);
    for round in 0..5 {
        writers.progress(50).await;
        tokio::time::sleep(random_pause(&mut random)).await;
        let compute = shop.node.compute_pid(POSTGRES, "shop@x");
        eprintln!("round {round}: killed {compute} after {} rows", writers.count());
        signal(compute, Signal::SIGKILL);
    }
    writers.progress(20).await;
    let acknowledged = writers.finish().await;
    check_all_there(&shop.url("shop@x"), &acknowledged).await;
}

/// Checkpoints move the dirty pages to the delta while more are being written: the journal's order matters most here.
#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_commit_is_lost_when_the_daemon_is_killed_during_checkpoints() {
    let mut shop =
        Fixture::new().project("[project.parameters]\nmax_wal_size = \"32MB\"\nfull_page_writes = \"on\"").start();
    let mut random = StdRng::seed_from_u64(3);
    shop.psql("shop@x", NUMBERED);
    let writers = Writers::start(vec![shop.url("shop@x"); 3]);
    for _ in 0..5 {
        writers.progress(50).await;
        let checkpoints = Arc::new(AtomicBool::new(true));
        let again = checkpoints.clone();
        let url = shop.node.url(POSTGRES, "shop@x");
        let checkpointer = tokio::task::spawn_blocking(move || {
            while again.load(Ordering::Relaxed)
                && try_psql(&url, "update customers set note = note || 'x'; checkpoint").is_ok()
            {}
        });
        tokio::time::sleep(random_pause(&mut random)).await;
        shop.node.kill();
        checkpoints.store(false, Ordering::Relaxed);
        checkpointer.await.expect("the checkpointer does not panic");
        shop.node.start();
    }
    writers.progress(20).await;
    let acknowledged = writers.finish().await;
    check_all_there(&shop.url("shop@x"), &acknowledged).await;
    assert_eq!(shop.psql("shop@x", "select count(*) from customers"), "1500");
}

/// Falling asleep uploads the delta; the daemon dies at random moments of that.
#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_commit_is_lost_when_the_daemon_is_killed_while_branches_fall_asleep() {
    let mut shop = Fixture::new().idle_timeout("1s").start();
    let mut random = StdRng::seed_from_u64(4);
    shop.psql("shop@x", NUMBERED);
    let mut acknowledged = Vec::new();
    for n in 0..8_i64 {
        let rows: Vec<i64> = (n * 1000..n * 1000 + 500).collect();
        shop.psql(
            "shop@x",
            &format!(
                "insert into numbered select n, repeat('x', 300) from generate_series({}, {}) n",
                n * 1000,
                n * 1000 + 499
            ),
        );
        acknowledged.extend(rows);
        tokio::time::sleep(Duration::from_millis(random.random_range(850..1900))).await;
        eprintln!("round {n}: killed");
        shop.node.kill();
        shop.node.start();
        check_all_there(&shop.url("shop@x"), &acknowledged).await;
    }
}

#[test]
fn pgbench_is_consistent_after_its_compute_was_killed() {
    let shop = Fixture::new().start();
    let url = shop.node.url(POSTGRES, "shop@bench");
    let made = pgbench(&url, &["-i", "-s", "3", "-q"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for round in 0..3 {
        let load = pgbench_command(&url, &["-n", "-c", "6", "-j", "2", "-T", "20"]).spawn().expect("pgbench runs");
        until("some transactions", 60, || {
            (psql(&url, "select count(*) > 100 from pgbench_history") == "t").then_some(())
        });
        pause(Duration::from_millis(300 + round * 700));
        signal(shop.node.compute_pid(POSTGRES, "shop@bench"), Signal::SIGKILL);
        let output = within("pgbench whose server was killed", 60, || load.wait_with_output().expect("pgbench ends"));
        assert!(!output.status.success(), "its sessions were cut off");
        check_pgbench(&url);
        psql(
            &url,
            "truncate pgbench_history; update pgbench_accounts set abalance = 0; update pgbench_tellers set tbalance = 0",
        );
        psql(&url, "update pgbench_branches set bbalance = 0");
    }
    psql(&url, "create extension if not exists amcheck");
    psql(
        &url,
        "select bt_index_check(i, true) from unnest(array['pgbench_accounts_pkey', 'pgbench_tellers_pkey', 'pgbench_branches_pkey']) i",
    );
}

/// Each transaction adds one amount to an account, a teller, a branch and the history.
fn check_pgbench(url: &str) {
    let sums = "select (select sum(abalance) from pgbench_accounts), (select sum(tbalance) from pgbench_tellers), \
                (select sum(bbalance) from pgbench_branches), (select coalesce(sum(delta), 0) from pgbench_history)";
    let sums = psql(url, sums);
    let each: Vec<&str> = sums.split('|').collect();
    assert!(each.iter().all(|sum| *sum == each[0]), "the four sums of pgbench differ: {sums}");
    assert_eq!(psql(url, "select count(*) from pgbench_accounts"), "300000");
}

#[test]
fn a_killed_daemon_leaves_no_orphan_after_the_next_start() {
    let mut shop = Fixture::new().start();
    shop.psql("shop@x", "create table kept as select 1 as n");
    shop.psql("shop@y", "create table kept as select 2 as n");
    let orphans = shop.node.processes();
    assert!(!orphans.is_empty());
    shop.node.kill();
    shop.node.start();
    until("the orphaned computes to be gone", 10, || {
        let left = shop.node.processes();
        orphans.iter().all(|orphan| !left.contains(orphan)).then_some(())
    });
    for mount in mounts_below(shop.node.data_dir()) {
        std::fs::metadata(&mount)
            .unwrap_or_else(|error| panic!("a dead mount was left at {}: {error}", mount.display()));
    }
    assert_eq!(shop.psql("shop@x", "select n from kept"), "1");
    assert_eq!(shop.psql("shop@y", "select n from kept"), "2");
}

#[test]
fn branches_survive_a_restart_awake_or_asleep() {
    let mut shop = Fixture::new().idle_timeout("3s").start();
    shop.psql("shop@asleep", "create table kept as select 1 as n");
    shop.node.wait_asleep("shop@asleep");
    shop.psql("shop@awake", "create table kept as select 2 as n");
    shop.node.stop();
    shop.node.start();
    assert_eq!(shop.psql("shop@asleep", "select n from kept"), "1");
    assert_eq!(shop.psql("shop@awake", "select n from kept"), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_is_clean_and_loses_nothing() {
    let mut shop = Fixture::new().start();
    shop.psql("shop@x", NUMBERED);
    let writers = Writers::start(vec![shop.url("shop@x"); 4]);
    writers.progress(100).await;
    shop.node.stop();
    shop.node.start();
    writers.progress(20).await;
    let acknowledged = writers.finish().await;
    check_all_there(&shop.url("shop@x"), &acknowledged).await;
}

#[test]
fn asleep_a_branch_needs_nothing_of_the_node() {
    let mut shop = Fixture::new().idle_timeout("1s").start();
    for round in 1..=3 {
        shop.psql(
            "shop@x",
            &format!("create table kept_{round} as select n, md5(n::text) as text from generate_series(1, 5000) n"),
        );
        shop.psql("analytics@x", &format!("update events set kind = 'round {round}' where id % 7 = 0"));
        shop.node.wait_asleep("shop@x");
        shop.node.stop();
        shop.node.wipe();
        shop.node.start();
        for kept in 1..=round {
            let digest = "select count(*) = 5000 and bool_and(text = md5(n::text))";
            assert_eq!(shop.psql("shop@x", &format!("{digest} from kept_{kept}")), "t", "round {round}");
        }
        assert_eq!(
            shop.psql("analytics@x", &format!("select count(*) from events where kind = 'round {round}'")),
            "428"
        );
    }
    assert_eq!(shop.psql("shop@fresh", "select count(*) from customers"), "1500");
}

/// What only the lost disk had is gone; the branch must say so rather than show older data as if nothing had happened.
#[test]
fn a_lost_disk_is_an_error_and_never_older_data() {
    let mut shop = Fixture::new().start();
    shop.psql("shop@x", "create table precious as select 1 as n");
    shop.node.kill();
    shop.node.wipe();
    shop.node.start();
    let error = try_psql(&shop.url("shop@x"), "select count(*) from customers").expect_err("the branch cannot be had");
    assert!(error.contains("shop@x") || error.contains("node"), "it says what is lost: {error}");
    assert_eq!(shop.psql("shop@y", "select count(*) from customers"), "1500", "other branches are fine");
}

#[test]
fn a_killed_compute_costs_other_branches_nothing() {
    let shop = Fixture::new().start();
    shop.psql("shop@x", "select 1");
    let before = shop.psql("shop@y", "select pg_postmaster_start_time()");
    signal(shop.node.compute_pid(POSTGRES, "shop@x"), Signal::SIGKILL);
    assert_eq!(shop.psql("shop@y", "select pg_postmaster_start_time()"), before);
    assert_eq!(shop.psql("shop@x", "select count(*) from customers"), "1500");
}
