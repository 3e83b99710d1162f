//! What a branch is to the people who use it: their own copy of everything, made by connecting, there again after sleep.

mod fixture;

use fixture::*;
use std::collections::HashSet;
use std::time::Duration;

const CUSTOMERS: &str = "select count(*) from customers";

#[test]
fn a_branch_is_made_by_connecting_and_keeps_to_itself() {
    let shop = Fixture::new().live_source().start();
    let before = shop.psql(
        "shop@pr-1",
        "select count(*), sum(total) from customers, orders where orders.customer_id = customers.id",
    );
    shop.psql("shop@pr-1", "delete from order_items; update orders set total = 0; insert into customers select * from customers where false");
    shop.psql(
        "shop@pr-1",
        "alter table orders add column gift boolean; create table mine (n int); insert into mine values (7)",
    );

    assert_eq!(shop.psql("shop@pr-1", "select n from mine"), "7");
    assert_eq!(shop.psql("shop@pr-1", "select sum(total) from orders"), "0.00");
    let other = shop.psql(
        "shop@pr-2",
        "select count(*), sum(total) from customers, orders where orders.customer_id = customers.id",
    );
    assert_eq!(other, before, "another branch sees none of it");
    assert!(
        try_psql(&shop.url("shop@pr-2"), "select n from mine").expect_err("there is no such table").contains("mine")
    );
    let source = shop
        .source()
        .psql("shop", "select count(*), sum(total) from customers, orders where orders.customer_id = customers.id");
    assert_eq!(source, before, "the source sees none of it");
}

#[test]
fn what_the_source_writes_later_never_shows() {
    let shop = Fixture::new().live_source().start();
    assert_eq!(shop.psql("shop@early", CUSTOMERS), "1500");
    shop.source().psql("shop", "delete from order_items; delete from orders; delete from customers; checkpoint");
    assert_eq!(shop.psql("shop@early", CUSTOMERS), "1500");
    assert_eq!(shop.psql("shop@late", CUSTOMERS), "1500");
}

#[test]
fn branches_go_on_when_their_source_is_gone() {
    let mut shop = Fixture::new().live_source().idle_timeout("1s").start();
    shop.psql("shop@old", "create table kept as select 1 as n");
    shop.source.as_mut().expect("the test asked for it").delete();
    assert_eq!(shop.psql("shop@old", "select n from kept"), "1");
    assert_eq!(shop.psql("shop@new", CUSTOMERS), "1500");
    shop.node.wait_asleep("shop@old");
    assert_eq!(shop.psql("shop@old", "select n from kept"), "1");
}

#[test]
fn every_database_of_the_cluster_is_in_the_branch() {
    let shop = Fixture::new().start();
    shop.psql("shop@x", "create table here as select 1 as n");
    shop.psql("analytics@x", "delete from events where id > 10");
    assert_eq!(shop.psql("analytics@x", "select count(*) from events"), "10");
    assert_eq!(shop.psql("analytics@y", "select count(*) from events"), "3000");
    assert_eq!(shop.node.branches().len(), 2, "a branch is one cluster, however many of its databases are used");
    let started = "select pg_postmaster_start_time()";
    assert_eq!(shop.psql("shop@x", started), shop.psql("analytics@x", started), "both are served by one compute");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_on_one_unseen_name_make_one_branch() {
    let shop = Fixture::new().start();
    let url = shop.url("shop@crowd");
    // Each needs the table to be there: the first to come makes it.
    let client = |n: i32| {
        let url = url.clone();
        async move {
            let client = connect(&url).await.unwrap_or_else(|error| panic!("client {n}: {error}"));
            // Statements of their own: the lock must outlast the commit of what it guards.
            for statement in [
                "select pg_advisory_lock(1)",
                "create table if not exists crowd (n int)",
                "select pg_advisory_unlock(1)",
            ] {
                client.batch_execute(statement).await?;
            }
            client.execute("insert into crowd values ($1)", &[&n]).await?;
            client.query_one("select pg_postmaster_start_time()::text", &[]).await.map(|row| row.get::<_, String>(0))
        }
    };
    let started: HashSet<String> = futures::future::join_all((0..50).map(client))
        .await
        .into_iter()
        .map(|result| result.expect("each client can write"))
        .collect();
    assert_eq!(started.len(), 1, "one compute serves them all: {started:?}");
    assert_eq!(shop.psql("shop@crowd", "select count(distinct n) from crowd"), "50");
    assert_eq!(shop.node.branches().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_unseen_names_at_once_make_twenty_branches() {
    let shop = Fixture::new().start();
    let one = |n: i32| {
        let url = shop.url(&format!("shop@many-{n}"));
        async move {
            let client = connect(&url).await.unwrap_or_else(|error| panic!("branch {n}: {error}"));
            client.batch_execute(&format!("create table me as select {n} as n")).await?;
            client.query_one("select (select n from me), count(*) from customers", &[]).await
        }
    };
    for (n, row) in futures::future::join_all((0..20).map(one)).await.into_iter().enumerate() {
        let row = row.expect("each branch can be written");
        assert_eq!((row.get::<_, i32>(0), row.get::<_, i64>(1)), (n as i32, 1500));
    }
    let names: HashSet<String> = shop.node.branches().into_iter().map(|branch| branch.name).collect();
    assert_eq!(names, (0..20).map(|n| format!("shop@many-{n}")).collect());
}

#[test]
fn computes_do_not_meet_in_the_names_of_their_shared_memory() {
    let shop = Fixture::new().start();
    let key = |n: i32| -> u64 {
        let url = shop.node.url(POSTGRES, &format!("shop@key-{n}"));
        let asked = "select split_part(pg_read_file('postmaster.pid'), chr(10), 7)";
        psql(&url, asked).split_whitespace().next().expect("a key and an id").parse().expect("a number")
    };
    let mut keys: Vec<u64> = (0..5).map(key).collect();
    keys.sort_unstable();
    let apart = keys.windows(2).map(|two| two[1] - two[0]).min().expect("there are several");
    assert!(apart > 100, "a server counts up from its first key, and meets the others: {keys:?}");
}

#[test]
fn an_idle_branch_falls_asleep_and_leaves_nothing_on_the_node() {
    let shop = Fixture::new().idle_timeout("1s").start();
    shop.psql("shop@x", "create table kept as select generate_series(1, 1000) as n; update customers set note = 'changed' where id <= 10");
    shop.node.wait_asleep("shop@x");
    until("its compute to be gone", 10, || shop.node.processes().is_empty().then_some(()));
    assert_eq!(mounts_below(shop.node.data_dir()), Vec::<std::path::PathBuf>::new(), "asleep, it has no mount");
    assert_eq!(shop.psql("shop@x", "select sum(n) from kept"), "500500");
    assert_eq!(shop.psql("shop@x", "select count(*) from customers where note = 'changed'"), "10");
}

#[test]
fn a_session_keeps_its_branch_awake() {
    let shop = Fixture::new().idle_timeout("1s").start();
    let answer = psql_command(&shop.url("shop@x"))
        .args(["-c", "create temp table mine as select 42 as n", "-c", "\\! sleep 5", "-c", "select n from mine"])
        .output()
        .expect("psql runs");
    assert_eq!(String::from_utf8_lossy(&answer.stdout).trim(), "42", "{}", String::from_utf8_lossy(&answer.stderr));
    shop.node.wait_asleep("shop@x");
}

#[test]
fn everything_postgres_can_do_survives_sleep() {
    let shop = Fixture::new().idle_timeout("1s").start();
    let postgres = shop.node.url(POSTGRES, "shop@x");
    psql(
        &postgres,
        "create extension pgcrypto; create extension amcheck; create schema own; create sequence own.s; select nextval('own.s')",
    );
    psql(
        &postgres,
        "create table own.big as select n, repeat(md5(n::text), 100) as text from generate_series(1, 2000) as n",
    );
    psql(&postgres, "create index on own.big (n); create unlogged table own.scratch as select 1 as n");
    psql(&postgres, "select lo_from_bytea(424242, 'a large object')");
    psql(&postgres, "vacuum full orders");
    psql(&postgres, "cluster customers using customers_pkey");
    psql(&postgres, "truncate order_items; drop view revenue; reindex table products");
    psql(&postgres, "alter system set work_mem = '9MB'");
    psql(&postgres, "comment on database shop is 'ours'; alter role app set search_path = public, own");
    let state = "select (select count(*) || md5(string_agg(text, '' order by n)) from own.big), (select last_value from own.s), \
                 (select count(*) from orders), (select count(*) from order_items), (select count(*) from products where price > 0), \
                 convert_from(lo_get(424242), 'utf8'), (select count(*) from own.scratch), encode(digest('x', 'sha256'), 'hex')";
    let before = psql(&postgres, state);
    for round in 1..=2 {
        shop.node.wait_asleep("shop@x");
        assert_eq!(psql(&postgres, state), before, "after sleep {round}");
    }
    assert_eq!(psql(&postgres, "show work_mem"), "9MB");
    let check = "select count(bt_index_check(c.oid, true)) > 50 from pg_class c join pg_am a on a.oid = c.relam \
                 where a.amname = 'btree' and c.relkind = 'i' and c.relpersistence <> 't'";
    assert_eq!(psql(&postgres, check), "t", "every index agrees with its table");
}

#[test]
fn a_database_made_in_a_branch_is_there_awake_and_after_sleep() {
    let shop = Fixture::new().idle_timeout("1s").start();
    let postgres = |database: &str| shop.node.url(POSTGRES, database);
    psql(&postgres("shop@x"), "create database extra");
    psql(&postgres("shop@x"), "create database copy template analytics");
    psql(&postgres("extra@x"), "create table t as select 5 as n");
    shop.node.wait_asleep("shop@x");
    assert_eq!(psql(&postgres("extra@x"), "select n from t"), "5");
    assert_eq!(psql(&postgres("copy@x"), "select count(*) from events"), "3000");
    assert!(try_psql(&postgres("extra@y"), "select 1").is_err(), "it is in no other branch");
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_clients_wake_one_sleeping_branch_once() {
    let shop = Fixture::new().idle_timeout("1s").start();
    shop.psql("shop@x", "create table kept as select 11 as n");
    shop.node.wait_asleep("shop@x");
    let url = shop.url("shop@x");
    let one = |_| async {
        let client = connect(&url).await?;
        client.query_one("select n, pg_postmaster_start_time()::text from kept", &[]).await
    };
    let mut started = HashSet::new();
    for row in futures::future::join_all((0..20).map(one)).await {
        let row = row.expect("a client of a waking branch waits and gets in");
        assert_eq!(row.get::<_, i32>(0), 11);
        started.insert(row.get::<_, String>(1));
    }
    assert_eq!(started.len(), 1, "it was woken once");
}

/// The moment between idle and asleep is where a session could be cut off or a write be lost.
#[test]
fn connecting_just_when_a_branch_falls_asleep_always_works() {
    let shop = Fixture::new().idle_timeout("1s").start();
    shop.psql("shop@x", "create table visits (n int)");
    for n in 0..15_u32 {
        pause(Duration::from_millis(900 + u64::from(n) * 25));
        shop.psql("shop@x", &format!("insert into visits values ({n})"));
    }
    assert_eq!(shop.psql("shop@x", "select count(*), sum(n) from visits"), "15|105");
}

#[test]
fn the_list_says_what_an_operator_asks() {
    let shop = Fixture::new().idle_timeout("2s").start();
    assert_eq!(shop.node.branches().len(), 0, "nobody connected yet");
    shop.psql("shop@x", CUSTOMERS);
    let fresh = shop.node.branch("shop@x");
    assert_eq!(fresh.state, "awake");
    assert!(fresh.parent.contains('1'), "made from base 1: {fresh:?}");
    assert!(fresh.created_at_ms > 1_700_000_000_000 && fresh.used_at_ms >= fresh.created_at_ms, "{fresh:?}");
    shop.node.wait_asleep("shop@x");
    let idle = shop.node.branch("shop@x");
    assert!(idle.own_bytes <= 64 * 1024, "asleep, a fresh branch costs at most 64 KiB: {idle:?}");

    shop.psql("shop@x", "create table big as select repeat('x', 1000) as x from generate_series(1, 10000)");
    shop.node.wait_asleep("shop@x");
    let used = shop.node.branch("shop@x");
    assert!(used.own_bytes > idle.own_bytes && used.used_at_ms > idle.used_at_ms, "{idle:?} {used:?}");
    assert_eq!(used.created_at_ms, idle.created_at_ms);
    let table = shop.node.succeed(&["branch", "list"]);
    assert!(table.contains("shop@x") && table.contains("asleep"), "{table}");
    let of_project = shop.node.succeed(&["branch", "list", "shop"]);
    assert!(of_project.contains("shop@x"), "{of_project}");
}

#[test]
fn updating_one_row_in_a_hundred_costs_those_pages_only() {
    let shop = Fixture::new().idle_timeout("1s").start();
    let size = |bytes: &str| shop.psql("shop@x", bytes).parse::<u64>().expect("a number");
    let database = size("select sum(pg_database_size(oid)) from pg_database");
    shop.psql("shop@x", "update customers set note = 'x' where id % 100 = 0");
    shop.node.wait_asleep("shop@x");
    let own = shop.node.branch("shop@x").own_bytes;
    assert!(own * 10 < database, "{own} bytes of its own after a small change to {database}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quota_holds_for_new_branches_only() {
    let shop = Fixture::new().project("max_branches = 2").start();
    for name in ["shop@one", "shop@two", "shop@one"] {
        assert_eq!(shop.psql(name, CUSTOMERS), "1500");
    }
    let refused = refusal(&shop.url("shop@three")).await;
    assert!(refused.code().code().starts_with("53"), "{refused:?}");
    assert!(refused.message().contains('2'), "it names the limit: {refused:?}");
    assert_eq!(shop.node.branches().len(), 2);
    assert_eq!(shop.psql("shop@two", CUSTOMERS), "1500");
}

#[test]
fn names_with_slashes_dots_and_capitals_are_names() {
    let shop = Fixture::new().idle_timeout("1s").start();
    for name in ["feature/login", "v1.2_x", "PR-1", "pr-1"] {
        shop.psql(&format!("shop@{name}"), &format!("create table me as select '{name}'::text as name"));
    }
    for name in ["feature/login", "v1.2_x", "PR-1", "pr-1"] {
        shop.node.wait_asleep(&format!("shop@{name}"));
        assert_eq!(shop.psql(&format!("shop@{name}"), "select name from me"), name);
    }
}

#[test]
fn the_configured_parameters_reach_every_branch() {
    let shop = Fixture::new().project("[project.parameters]\nwork_mem = \"13MB\"\nmax_connections = \"37\"").start();
    assert_eq!(
        shop.psql("shop@x", "select current_setting('work_mem'), current_setting('max_connections')"),
        "13MB|37"
    );
}

#[test]
fn a_branch_is_a_usable_server_unless_told_otherwise() {
    let shop = Fixture::new().start();
    let settings = "select current_setting('max_connections')::int >= 100, current_setting('autovacuum'), current_setting('fsync'), \
                    current_setting('archive_mode'), pg_is_in_recovery(), current_setting('full_page_writes')";
    assert_eq!(shop.psql("shop@x", settings), "t|on|on|off|f|on");
}

#[test]
fn logs_name_the_branch_and_hide_passwords() {
    let shop = Fixture::new().idle_timeout("1s").start();
    shop.psql("shop@pr-77", CUSTOMERS);
    assert!(try_psql(&shop.node.url(("app", "a-wrong-password"), "shop@pr-77"), "select 1").is_err());
    shop.node.wait_asleep("shop@pr-77");
    let of_branch = |log: String| log.lines().filter(|line| line.contains("pr-77")).count();
    until("lines on how it was made and fell asleep", 10, || (of_branch(shop.node.log()) >= 2).then_some(()));
    let log = shop.node.log();
    for secret in [APP.1, POSTGRES.1, "a-wrong-password", "SCRAM-SHA-256$"] {
        assert!(!log.contains(secret), "the log shows {secret}");
    }
}
