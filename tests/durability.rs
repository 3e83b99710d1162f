//! What was acknowledged is there: after the compute or the daemon is killed, the node stopped, its disk lost.

mod fixture;

use fixture::*;
use nix::sys::signal::Signal;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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

/// Rows acknowledged, by branch.
type Acknowledged = Arc<Mutex<BTreeMap<String, Vec<i64>>>>;

/// Connects, inserts a numbered row, disconnects, again and again, with pauses in which a branch can fall asleep; `branch` names the one of each turn.
async fn visit(
    url: impl Fn(&str) -> String,
    branch: impl Fn(i64) -> String,
    seed: u64,
    stop: Arc<AtomicBool>,
    acknowledged: Acknowledged,
) {
    let mut random = StdRng::seed_from_u64(seed);
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let branch = branch(n);
        let insert = async {
            let client = connect(&url(&branch)).await?;
            client.batch_execute(&NUMBERED.replace("table", "table if not exists")).await?;
            client.execute("insert into numbered values ($1, repeat('x', 300))", &[&n]).await
        };
        // A compute that is killed under its answer is noticed at once; anything slower is a hang.
        if tokio::time::timeout(Duration::from_secs(90), insert).await.expect("an answer or an error in time").is_ok() {
            acknowledged.lock().expect("no visitor panics").entry(branch).or_default().push(n);
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(50..2500))).await;
    }
}

/// The life of a branch under fire: made, woken and suspended while the daemon dies at random moments.
#[tokio::test(flavor = "multi_thread")]
async fn no_moment_of_a_branchs_life_is_a_bad_one_to_kill_the_daemon() {
    let mut shop = Fixture::new().idle_timeout("1s").start();
    let mut random = StdRng::seed_from_u64(5);
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Acknowledged::default());
    let prefix = shop.url("");
    let spawn = |seed: u64, branch: Box<dyn Fn(i64) -> String + Send + Sync>| {
        let prefix = prefix.clone();
        let url = move |branch: &str| format!("{prefix}{branch}");
        tokio::spawn(visit(url, branch, seed, stop.clone(), acknowledged.clone()))
    };
    let mut visitors: Vec<_> =
        (0..3).map(|number| spawn(number, Box::new(move |_| format!("shop@old-{number}")))).collect();
    // Each name three times: made, and perhaps woken.
    visitors.push(spawn(3, Box::new(|n| format!("shop@new-{}", n / 3))));
    for round in 0..12 {
        tokio::time::sleep(Duration::from_millis(random.random_range(100..3000))).await;
        shop.node.kill();
        shop.node.start();
        let so_far = acknowledged.lock().expect("no visitor panics").clone();
        let rows: usize = so_far.values().map(Vec::len).sum();
        eprintln!("round {round}: {rows} rows in {} branches", so_far.len());
        for (branch, rows) in so_far.iter().filter(|(branch, _)| round % 4 == 3 || branch.contains("old")) {
            check_all_there(&shop.url(branch), rows).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for visitor in visitors {
        visitor.await.expect("a visitor does not panic");
    }
    let acknowledged = acknowledged.lock().expect("no visitor panics").clone();
    assert!(acknowledged.len() > 5 && acknowledged.values().map(Vec::len).sum::<usize>() > 20, "{acknowledged:?}");
    for branch in shop.node.branches() {
        let rows = acknowledged.get(&branch.name).cloned().unwrap_or_default();
        // One that was made, and whose table was not.
        psql(&shop.url(&branch.name), &NUMBERED.replace("table", "table if not exists"));
        check_all_there(&shop.url(&branch.name), &rows).await;
    }
    for branch in shop.node.branches() {
        shop.node.wait_asleep(&branch.name);
    }
    assert_eq!(shop.node.processes(), Vec::<i32>::new());
    assert_eq!(mounts_below(shop.node.data_dir()), Vec::<PathBuf>::new());
    for folder in ["branch", "lost"] {
        let left = std::fs::read_dir(shop.node.data_dir().join(folder)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{folder} is empty when every branch sleeps");
    }
}

/// Roles and databases made since the last sleep are recorded nowhere but in the branch that was just killed.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_let_in_before_a_compute_was_killed_is_let_in_after() {
    let shop = Fixture::new().idle_timeout("2s").start();
    let superuser = shop.node.url(POSTGRES, "shop@x");
    psql(&superuser, "create table fixed as select n from generate_series(1, 1000) n; grant select on fixed to public");
    shop.node.wait_asleep("shop@x");
    let (stop, broken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let watch = |url: String| {
        let (stop, broken) = (stop.clone(), broken.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let read = async {
                    let client = connect(&url).await?;
                    loop {
                        let row = client.query_one("select count(*), sum(n) from fixed", &[]).await?;
                        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1000, 500_500));
                        if stop.load(Ordering::Relaxed) {
                            return Ok::<_, tokio_postgres::Error>(());
                        }
                    }
                };
                if let Err(error) = read.await {
                    let code = error.code().map_or("closed", |code| code.code());
                    assert!(error.is_closed() || code.starts_with("57P"), "{error:?}");
                    broken.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    };
    let watchers = [watch(superuser.clone()), watch(shop.url("shop@x"))];
    for round in 0..4 {
        let (role, database) = (format!("late_{round}"), format!("late_db_{round}"));
        psql(&superuser, &format!("create role {role} login password 'pw-{round}'"));
        psql(&superuser, &format!("create database {database} owner {role}"));
        let before = broken.load(Ordering::Relaxed);
        signal(shop.node.compute_pid(POSTGRES, "shop@x"), Signal::SIGKILL);
        for made in 0..=round {
            let (role, password) = (format!("late_{made}"), format!("pw-{made}"));
            let url = shop.node.url((&role, &password), &format!("late_db_{made}@x"));
            let user = tokio::task::spawn_blocking(move || psql(&url, "select current_user"));
            assert_eq!(user.await.expect("psql runs"), role, "round {round}");
        }
        until("the sessions to notice", 30, || (broken.load(Ordering::Relaxed) >= before + 2).then_some(()));
    }
    stop.store(true, Ordering::Relaxed);
    for watcher in watchers {
        watcher.await.expect("nobody read anything wrong");
    }
    shop.node.wait_asleep("shop@x");
    assert_eq!(psql(&shop.node.url(("late_3", "pw-3"), "late_db_3@x"), "select current_user"), "late_3");
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

/// A store that loses its bytes under an awake branch: the operator is told which branch and which file, once each.
#[tokio::test(flavor = "multi_thread")]
async fn an_io_error_names_its_branch_and_file_once() {
    let shop = Fixture::new().start();
    let client = connect(&shop.url("shop@x")).await.expect("the branch can be had");
    // Warms the catalogs.
    client.batch_execute("select sum(length(note)) from customers where false").await.expect("a plan");
    let packs = std::process::Command::new("find")
        .arg(shop.node.store_dir())
        .args(["-path", "*/pack/*", "-type", "f"])
        .output();
    let packs = String::from_utf8(packs.expect("find runs").stdout).expect("paths are text");
    assert!(!packs.is_empty(), "a base has packs");
    for pack in packs.lines() {
        std::fs::File::options().write(true).open(pack).and_then(|pack| pack.set_len(0)).expect("the store is ours");
    }
    for _ in 0..5 {
        let error = client.batch_execute("select sum(length(note)) from customers").await.expect_err("it is gone");
        assert_eq!(error.code().map(|code| code.code()), Some("58030"), "{error:?}");
    }
    let log = shop.node.log();
    let mut told: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("gets an I/O error"))
        .map(|line| line.split_once(' ').expect("a time").1)
        .collect();
    assert!(
        !told.is_empty() && told.iter().all(|line| line.contains("branch=\"shop@x\"") && line.contains("file=\"")),
        "{told:#?}"
    );
    assert!(told.iter().any(|line| line.contains("file=\"base/")), "{told:#?}");
    let all = told.len();
    told.sort_unstable();
    told.dedup();
    assert_eq!(all, told.len(), "{told:#?}");
}
