//! A branch that reaches its quota, and a node whose disk runs full: a statement fails, nothing else does.

mod fixture;

use fixture::*;
use std::fs;
use std::path::Path;
use std::process::Command;
use tokio_postgres::{Client, Error};

const LIMIT: u64 = 40_000_000;

/// A thousand rows of a kilobyte each.
const THOUSAND: &str = "insert into filler (pad) select repeat(md5(n::text), 32) from generate_series(1, 1000) n";

async fn as_superuser(shop: &Shop, branch: &str) -> Client {
    let client = connect(&shop.node.url(POSTGRES, branch)).await.expect("the branch can be had");
    client
        .batch_execute(
            "create table if not exists filler (n bigint generated always as identity primary key, pad text);
             create table if not exists counter as select 0 as v",
        )
        .await
        .expect("tables can be made");
    client
}

fn code(error: &Error) -> &str {
    error.code().unwrap_or_else(|| panic!("not a server's error: {error:?}")).code()
}

/// Inserts until that fails; how many thousands of rows it took.
async fn fill(client: &Client) -> u64 {
    for round in 0..500 {
        if let Err(error) = client.batch_execute(THOUSAND).await {
            assert_eq!(code(&error), "53100", "{error:?}");
            assert!(error.as_db_error().expect("a server's error").message().contains("No space left on device"));
            return round;
        }
    }
    panic!("500 MB found room");
}

/// The backend's pid, and since when the server has run.
async fn identity(client: &Client) -> String {
    let row = client.query_one("select pg_backend_pid()::text || ' ' || pg_postmaster_start_time()", &[]).await;
    row.expect("the session lives").get(0)
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

/// What goes on where no growth is allowed. `rows` are in `filler`.
async fn check_all_but_growth(client: &Client, rows: i64) {
    let before = identity(client).await;
    assert_eq!(number(client, "select count(*) from filler where pad <> ''").await, rows, "a sequential scan");
    client.batch_execute("set enable_seqscan = off; set enable_bitmapscan = off").await.expect("a setting can be set");
    assert_eq!(number(client, "select count(*) from filler where n > 0").await, rows, "an index scan");
    client.batch_execute("reset enable_seqscan; reset enable_bitmapscan").await.expect("a setting can be set");
    let counted = number(client, "select v::bigint from counter").await;
    for _ in 0..50 {
        client.batch_execute("begin; update counter set v = v + 1; commit").await.expect("an update in place");
    }
    assert_eq!(number(client, "select v::bigint from counter").await, counted + 50);
    client.batch_execute("delete from filler where n % 100 = 7").await.expect("a deletion");
    client.batch_execute("checkpoint").await.expect("a checkpoint");
    for growing in [
        "create index on filler (pad, n)",
        "set work_mem = '64kB'; select count(*) from (select pad from filler order by pad, n desc offset 10) f",
        "create table copied as select * from filler",
    ] {
        let error = client.batch_execute(growing).await.expect_err(growing);
        assert_eq!(code(&error), "53100", "{growing}: {error:?}");
    }
    client.batch_execute("reset work_mem; checkpoint").await.expect("a checkpoint");
    assert_eq!(identity(client).await, before, "session and server are the same");
}

async fn a_branch_beyond_its_quota(major: Major) {
    let shop =
        Fixture::new().postgres(major).idle_timeout("2s").project(&format!("max_delta_bytes = {LIMIT}\n")).start();
    let client = as_superuser(&shop, "shop@x").await;
    let before = identity(&client).await;
    let thousands = fill(&client).await;
    assert!((25..100).contains(&thousands), "{thousands} MB fitted into a quota of 40");
    assert_eq!(identity(&client).await, before);
    let rows = thousands as i64 * 1000;
    check_all_but_growth(&client, rows).await;
    let rows = number(&client, "select count(*) from filler").await;
    let own_bytes = shop.node.branch("shop@x").own_bytes;
    eprintln!("{own_bytes} bytes at a quota of {LIMIT}");
    assert!(own_bytes < LIMIT * 5 / 4 + (32 << 20), "{own_bytes} bytes");
    let log = shop.node.log();
    let begun = log.lines().filter(|line| line.contains("has reached max_delta_bytes")).collect::<Vec<_>>();
    assert!(begun.len() == 1 && begun[0].contains("shop@x"), "{begun:?}");

    let other = as_superuser(&shop, "shop@y").await;
    for _ in 0..5 {
        other.batch_execute(THOUSAND).await.expect("another branch has its own quota");
    }

    drop(client);
    shop.node.wait_asleep("shop@x");
    let client = as_superuser(&shop, "shop@x").await;
    assert_eq!(number(&client, "select count(*) from filler").await, rows, "it slept and woke");
    assert!(fill(&client).await <= 3, "sleeping is no way around a quota");

    // Its pages are reused only once no transaction can see what they held: not by a test's clock.
    client.batch_execute("alter table filler drop constraint filler_pkey").await.expect("an index can be dropped");
    client.batch_execute("delete from filler where n <= 15000").await.expect("a deletion");
    client.batch_execute("vacuum filler").await.expect("a vacuum");
    for _ in 0..5 {
        client.batch_execute(THOUSAND).await.expect("what vacuum freed inside the table can be used");
    }
    client.batch_execute("truncate filler").await.expect("a truncation");
    for _ in 0..10 {
        client.batch_execute(THOUSAND).await.expect("what truncation freed can be used");
    }
    fill(&client).await;
    client.batch_execute("drop table filler").await.expect("a drop");
    let client = as_superuser(&shop, "shop@x").await;
    client.batch_execute(THOUSAND).await.expect("what a drop freed can be used");
    assert!(shop.node.log().contains("this branch may grow again"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_beyond_its_quota_loses_a_statement_and_nothing_else() {
    a_branch_beyond_its_quota(Major::Fifteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_of_postgres_18_beyond_its_quota_loses_a_statement_and_nothing_else() {
    a_branch_beyond_its_quota(Major::Eighteen).await;
}

fn mount_tmpfs(place: &Path, options: &str) {
    fs::create_dir_all(place).expect("the scratch folder is writable");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(place).status();
    assert!(mounted.expect("mount runs").success());
}

/// A shop whose node's disk is a tmpfs of its own; needs root.
fn start_on_small_disk(fixture: Fixture, megabytes: u64) -> Shop {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test mounts a file system: run it as root, or leave it out by name"
    );
    let mut shop = fixture.start();
    shop.node.stop();
    let disk = shop.scratch.join("disk");
    mount_tmpfs(&disk, &format!("size={megabytes}m,mode=711"));
    fs::remove_dir_all(shop.node.data_dir()).expect("a stopped node's folder can be moved");
    std::os::unix::fs::symlink(&disk, shop.node.data_dir()).expect("the scratch folder is ours");
    shop.node.start();
    shop
}

/// Two branches write until there is no room; a third was idle all the time.
async fn a_full_disk(major: Major) {
    let mut shop = start_on_small_disk(Fixture::new().postgres(major).server("disk_reserve = \"100MiB\"\n"), 400);
    let idle = as_superuser(&shop, "shop@idle").await;
    let (a, b) = (as_superuser(&shop, "shop@a").await, as_superuser(&shop, "shop@b").await);
    let before = [identity(&a).await, identity(&b).await, identity(&idle).await];
    let (filled_a, filled_b) = tokio::join!(fill(&a), fill(&b));
    eprintln!("{filled_a} and {filled_b} MB found room on a disk of 300 and a reserve of 100");
    assert!(filled_a + filled_b > 50);
    assert!(fill(&idle).await <= 3, "a branch that did nothing is told, too");
    for (client, filled) in [(&a, filled_a), (&b, filled_b)] {
        check_all_but_growth(client, filled as i64 * 1000).await;
    }
    assert_eq!([identity(&a).await, identity(&b).await, identity(&idle).await], before, "nothing was restarted");
    let log = shop.node.log();
    for branch in ["shop@a", "shop@b", "shop@idle"] {
        let told = log.lines().filter(|line| line.contains("full but for its reserve") && line.contains(branch));
        assert_eq!(told.count(), 1, "{branch}");
    }
    assert!(!log.contains("PANIC") && !log.contains("I/O error"), "{log}");

    let rows = number(&a, "select count(*) from filler").await;
    mount_tmpfs(&shop.scratch.join("disk"), "remount,size=1g");
    pause(std::time::Duration::from_millis(50));
    for client in [&a, &b, &idle] {
        client.batch_execute(THOUSAND).await.expect("it comes back by itself");
    }
    assert!(shop.node.log().contains("this branch may grow again"));
    drop((a, b, idle));
    shop.node.kill();
    shop.node.start();
    let a = as_superuser(&shop, "shop@a").await;
    assert_eq!(number(&a, "select count(*) from filler").await, rows + 1000, "what was acknowledged is there");
    drop(a);
    shop.node.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_statements_and_nothing_else() {
    a_full_disk(Major::Fifteen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_postgres_18_loses_statements_and_nothing_else() {
    a_full_disk(Major::Eighteen).await;
}

/// Recovery writes again what was lost with the daemon, also beyond the quota: refused, it would end the server for good.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_beyond_its_quota_recovers() {
    for major in [Major::Fifteen, Major::Eighteen] {
        let mut shop = Fixture::new().postgres(major).project(&format!("max_delta_bytes = {LIMIT}\n")).start();
        let client = as_superuser(&shop, "shop@x").await;
        let rows = fill(&client).await as i64 * 1000;
        // No checkpoint so far: all of it is written again, four times as much as may be now.
        shop.node.kill();
        shop.node.set_environment("OFFSHOOT_PROJECT_SHOP_MAX_DELTA_BYTES", "10MB");
        shop.node.start();
        let client = as_superuser(&shop, "shop@x").await;
        assert_eq!(number(&client, "select count(*) from filler").await, rows, "after its daemon was killed");
        let backend = number(&client, "select pg_backend_pid()::bigint").await as i32;
        signal(backend, nix::sys::signal::Signal::SIGKILL);
        let client = as_superuser(&shop, "shop@x").await;
        assert_eq!(number(&client, "select count(*) from filler").await, rows, "after its backend was killed");
        fill(&client).await;
        check_all_but_growth(&client, number(&client, "select count(*) from filler").await).await;
    }
}

/// It may not choose the kernel's throttle, and sees no more than its own processes.
#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_users_branch_has_a_quota_too() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test becomes another user: run it as root, or leave it out by name"
    );
    let shop = Fixture::new().user(65534).project(&format!("max_delta_bytes = {LIMIT}\n")).start();
    let client = as_superuser(&shop, "shop@x").await;
    let thousands = fill(&client).await;
    assert!((25..100).contains(&thousands), "{thousands} MB fitted into a quota of 40");
    check_all_but_growth(&client, thousands as i64 * 1000).await;
    assert!(!shop.node.log().contains("cannot see what a process"));
}
