//! The whole way on other ground: an S3 server, PostgreSQL 18, several nodes on one store, and stores that cannot be trusted.

mod fixture;

use fixture::*;

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
fn the_main_job_on_azure() {
    the_main_job(Fixture::new().azurite().idle_timeout("1s").start());
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
    assert!(cached() > 0, "the cache was emptied");
    assert!(shop.node.log().contains("is_clean=true"), "{}", shop.node.log());
    assert_eq!(shop.psql("shop@y", question), answer);
    shop.node.kill();
    shop.node.start();
    assert!(cached() > 0, "the cache was emptied");
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

/// Every kind of passing fault on every method, replies lost after the commit among them.
#[test]
fn the_main_job_on_s3_that_fails_one_request_in_ten() {
    let shop = Fixture::new().moto().unruly(Conduct::one_in_ten()).idle_timeout("1s").start();
    the_main_job(shop);
}

#[test]
fn the_main_job_on_azure_that_fails_one_request_in_ten() {
    let shop = Fixture::new().azurite().unruly(Conduct::one_in_ten()).idle_timeout("1s").start();
    the_main_job(shop);
}

#[test]
fn while_the_store_is_away_awake_branches_go_on_and_all_comes_back_by_itself() {
    let shop = Fixture::new().moto().unruly(Conduct::default()).idle_timeout("3s").start();
    shop.psql("shop@asleep", "create table kept as select 1 as n");
    shop.node.wait_asleep("shop@asleep");
    shop.psql(
        "shop@awake",
        "create table kept as select n from generate_series(1, 1000) n; select count(*) from customers",
    );
    let url = shop.url("shop@awake");
    let session = std::thread::spawn(move || {
        // Longer than the idle timeout: the branch would like to fall asleep meanwhile, once this is over.
        try_psql(
            &url,
            "select pg_sleep(2); insert into kept values (0); select count(*), (select count(*) from customers) from kept",
        )
    });
    pause(std::time::Duration::from_millis(500));
    shop.unruly().away(true);
    let answer = session.join().expect("the thread lives").expect("pages that were read stay readable, commits go on");
    assert!(answer.ends_with("1001|1500"), "{answer}");
    for branch in ["shop@unseen", "shop@asleep"] {
        let error = within("an answer without a store", 60, || try_psql(&shop.url(branch), "select 1"));
        let error = error.expect_err("it cannot be had");
        assert!(error.contains("store cannot be reached") && error.contains("HINT:  try again"), "{branch}: {error}");
    }
    shop.psql("shop@awake", "insert into kept values (-1); insert into kept values (-2)");
    shop.unruly().away(false);
    assert_eq!(shop.psql("shop@unseen", "select count(*) from customers"), "1500");
    assert_eq!(shop.psql("shop@asleep", "select n from kept"), "1");
    shop.node.wait_asleep("shop@awake");
    assert_eq!(shop.psql("shop@awake", "select count(*), sum(n) from kept"), "1003|500497");
    let failures = "offshoot_store_failures_total{kind=\"get\"}";
    assert!(shop.node.metric(failures) > 0.0, "what failed was counted");
}

/// What may happen to an object.
type Damage = fn(&MotoServer, &str, &str);

const FLIPPED: Damage = |moto, key, _| {
    let mut bytes = moto.read(key);
    bytes.iter_mut().step_by(512).for_each(|byte| *byte ^= 4);
    moto.write(key, &bytes);
};
const HALVED: Damage = |moto, key, _| {
    let bytes = moto.read(key);
    moto.write(key, &bytes[..bytes.len() / 2]);
};
const MISSING: Damage = |moto, key, _| moto.remove(key);
const SWAPPED: Damage = |moto, key, other| moto.write(key, &moto.read(other));

/// An object, and what happens to it.
struct Case<'a> {
    what: &'a str,
    key: &'a str,
    other: &'a str,
    damage: Damage,
}

/// On a node that has nothing in its cache, `sql` in `branch` is an error and the log names object and branch, never another answer; once
/// the object is whole again, all is well.
fn is_noticed(shop: &mut Shop, case: Case, branch: &str, sql: &str, right: &str) {
    let Case { what, key, other, damage } = case;
    let whole = shop.moto().read(key);
    shop.node.stop();
    shop.node.wipe();
    // What boot objects hold would be right.
    shop.moto().keys().iter().filter(|key| key.contains("/boot")).for_each(|key| shop.moto().remove(key));
    damage(shop.moto(), key, other);
    shop.node.start();
    let logged = shop.node.log().len();
    let error = within(what, 60, || try_psql(&shop.url(branch), sql)).expect_err(what);
    let log = shop.node.log()[logged..].to_owned();
    // A frame knows itself by its base and pack, everything else by its key.
    let object = match key.split_once("/base/") {
        Some((_, below)) => below.split('/').next().expect("split yields a first part"),
        None => key.strip_prefix("some/prefix/").expect("every key is below the prefix"),
    };
    assert!(log.contains(object), "{what}: the log names the object {object}: {error}{log}");
    let (_, name) = branch.split_once('@').expect("a branch's name");
    assert!(log.contains(name), "{what}: the log names the branch: {error}{log}");
    shop.moto().write(key, &whole);
    // As an operator would: what was read damaged is not kept anywhere.
    let answer = until(what, 60, || try_psql(&shop.url(branch), sql).ok());
    assert_eq!(answer, right, "{what}");
}

#[test]
fn a_damaged_base_is_an_error_and_never_other_data() {
    let mut shop = Fixture::new().moto().idle_timeout("1h").start();
    let sql = "select count(*), sum(hashtext(o::text)) from order_items o";
    let right = shop.psql("shop@before", sql);
    let key = |part: &str| shop.moto().keys().into_iter().find(|key| key.contains(part)).expect("a base has it");
    let (pack, index, manifest) = (key("/pack/"), key("/index"), key("/manifest"));
    let cases = [
        ("a pack flipped", &pack, &pack, FLIPPED),
        ("a pack cut short", &pack, &pack, HALVED),
        ("a pack missing", &pack, &pack, MISSING),
        ("a pack swapped", &pack, &index, SWAPPED),
        ("an index flipped", &index, &index, FLIPPED),
        ("an index cut short", &index, &index, HALVED),
        ("an index swapped", &index, &manifest, SWAPPED),
        ("a manifest flipped", &manifest, &manifest, FLIPPED),
        ("a manifest cut short", &manifest, &manifest, HALVED),
    ];
    for (n, (what, key, other, damage)) in cases.into_iter().enumerate() {
        let case = Case { what, key, other, damage };
        is_noticed(&mut shop, case, &format!("shop@case-{n}"), sql, &right);
    }
}

/// Keys of a sleeping branch's head, manifest and layer, of which it has one each.
fn objects_of(shop: &Shop, branch: &str) -> [String; 3] {
    let head = shop.moto().key(&["/branch/", &format!("/{branch}/head")]);
    let text: serde_json::Value = serde_json::from_slice(&shop.moto().read(&head)).expect("a head is JSON");
    let id = text["id"].as_str().expect("a head has an id");
    let below = |part| shop.moto().key(&[id, part]);
    [head, below("/manifest/"), below("/layer/")]
}

#[test]
fn a_damaged_branch_is_an_error_and_never_other_data() {
    let mut shop = Fixture::new().moto().idle_timeout("1s").start();
    let cases = [
        ("a layer flipped", 2, FLIPPED),
        ("a layer cut short", 2, HALVED),
        ("a layer missing", 2, MISSING),
        ("a layer swapped", 2, SWAPPED),
        ("a manifest flipped", 1, FLIPPED),
        ("a manifest swapped", 1, SWAPPED),
        ("a head flipped", 0, FLIPPED),
        ("a head swapped", 0, SWAPPED),
    ];
    shop.psql("shop@other", "create table kept as select -n as n from generate_series(1, 5000) n");
    let names = (0..cases.len()).map(|n| format!("kept-{n}")).collect::<Vec<_>>();
    for name in &names {
        shop.psql(&format!("shop@{name}"), "create table kept as select n from generate_series(1, 5000) n");
    }
    let sql = "select count(*), sum(n) from kept";
    for ((what, object, damage), name) in cases.into_iter().zip(&names) {
        shop.node.wait_asleep(&format!("shop@{name}"));
        shop.node.wait_asleep("shop@other");
        let (mine, other) = (&objects_of(&shop, name)[object], &objects_of(&shop, "other")[object]);
        let case = Case { what, key: mine, other, damage };
        is_noticed(&mut shop, case, &format!("shop@{name}"), sql, "5000|12502500");
    }
}

#[test]
fn a_head_that_the_store_rolled_back_is_an_error() {
    let shop = Fixture::new().moto().idle_timeout("1s").start();
    shop.psql("shop@x", "create table kept as select 1 as n");
    shop.node.wait_asleep("shop@x");
    let head = shop.moto().key(&["/branch/", "/x/head"]);
    let stale = shop.moto().read(&head);
    shop.psql("shop@x", "update kept set n = 2");
    shop.node.wait_asleep("shop@x");
    let newest = shop.moto().read(&head);
    shop.moto().write(&head, &stale);
    let error = try_psql(&shop.url("shop@x"), "select n from kept").expect_err("the store went back in time");
    assert!(error.contains("stale") && error.contains("/x/head"), "{error}");
    shop.moto().write(&head, &newest);
    assert_eq!(shop.psql("shop@x", "select n from kept"), "2");
}

/// Requests to the store, as the store sees them, for each step of a branch's life on a node that has nothing cached.
#[test]
fn a_connect_a_suspend_and_a_wake_ask_little_of_the_store() {
    let mut shop = Fixture::new().moto().unruly(Conduct::default()).idle_timeout("1s").start();
    let mut counted = Vec::new();
    // What was measured, and room for the second requests that a slow machine brings about.
    let mut step = |shop: &Shop, what: &str, most: u64, work: &dyn Fn()| {
        let before = shop.unruly().counts();
        work();
        let lines = shop.unruly().counts().since(&before);
        let total: u64 = lines.iter().map(|(_, _, count)| count).sum();
        println!("{what}: {total} requests");
        for (method, path, count) in &lines {
            println!("    {count} {method} {path}");
        }
        counted.push((what.to_owned(), total, most));
    };
    step(&shop, "first connect on a node without cache", 46, &|| {
        shop.psql("shop@x", "select 1");
    });
    step(&shop, "connect to another unseen name", 8, &|| {
        shop.psql("shop@y", "select 1");
    });
    step(&shop, "suspend of both", 25, &|| {
        // The log, because a list of branches asks the store too.
        until("both to sleep", 60, || (shop.node.log().matches("branch asleep").count() == 2).then_some(()));
    });
    step(&shop, "wake, warm cache", 12, &|| {
        shop.psql("shop@x", "select 1");
    });
    shop.node.stop();
    shop.node.wipe();
    shop.node.start();
    step(&shop, "wake on a node without cache", 50, &|| {
        shop.psql("shop@x", "select 1");
    });
    for (what, total, most) in counted {
        assert!(total <= most, "{what}: {total} requests, more than {most}");
    }
}

/// The node does not start, and says what the store lacks.
fn is_refused_at_start(scratch: &Scratch, store: &UnsafeStore) {
    let config = NodeConfig {
        store_url: Some("s3://offshoot/prefix".to_owned()),
        environment: store.environment(),
        ..NodeConfig::default()
    };
    let (status, error) = Node::new(scratch, "node", &config).start_refused();
    assert!(!status.success());
    assert!(error.contains("conditional"), "it says what the store lacks: {error}");
}

#[test]
fn a_store_that_ignores_conditions_is_refused_at_start() {
    is_refused_at_start(&Scratch::new(), &UnsafeStore::lawless());
}

#[test]
fn s3rver_is_refused_at_start() {
    let scratch = Scratch::new();
    is_refused_at_start(&scratch, &UnsafeStore::s3rver(&scratch));
}

#[test]
fn s3s_fs_is_refused_at_start() {
    let scratch = Scratch::new();
    for _ in 0..3 {
        is_refused_at_start(&scratch, &UnsafeStore::s3s_fs(&scratch));
    }
}
