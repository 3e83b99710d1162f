//! Several nodes on one store: nodes that are lost, that are cut off and come back, and what of an awake branch is elsewhere by then.

mod fixture;

use fixture::*;
use nix::sys::signal::Signal;
use std::time::Duration;

/// A node on its own that uploads awake branches all the time and whose leases are short.
fn restless() -> NodeConfig {
    NodeConfig {
        server: "lease = \"2s\"".to_owned(),
        project: "upload_interval = \"1s\"".to_owned(),
        ..NodeConfig::default()
    }
}

fn uploads(node: &Node) -> usize {
    node.log().matches("uploaded an awake branch").count()
}

/// Waits for an upload of `branch` that begins from now on, which there is once something was written.
fn wait_uploaded(node: &Node, branch: &str) {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("it is after 1970").as_millis() as u64;
    until("an awake branch to be uploaded", 60, || (node.branch(branch).saved_at_ms >= now).then_some(()));
}

fn release(node: &Node, branch: &str) -> String {
    until("the lease to be over", 30, || {
        let output = node.run(&["branch", "release", branch]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || errors.contains("lease"), "{errors}");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_a_node_loses_no_more_than_was_written_since_the_last_upload() {
    let mut shop = Fixture::new().node_config(restless()).start();
    shop.psql("shop@x", NUMBERED);
    let mut other = Node::new(&shop.scratch, "other", &restless());
    other.start();
    for round in 0..3 {
        let (here, there) = if round % 2 == 0 { (&mut shop.node, &mut other) } else { (&mut other, &mut shop.node) };
        let writers = Writers::start_from(1_000_000 * round, vec![here.url(APP, "shop@x"); 3]);
        writers.progress(300).await;
        let uploaded = writers.acknowledged();
        wait_uploaded(here, "shop@x");
        writers.progress(50).await;
        here.kill();
        here.wipe();
        let acknowledged = writers.finish().await.len();
        let error = try_psql(&there.url(APP, "shop@x"), "select 1").expect_err("another node holds it");
        assert!(error.contains("another node"), "{error}");
        let told = release(there, "shop@x");
        assert!(told.contains("as it was uploaded at"), "{told}");
        check_all_there(&there.url(APP, "shop@x"), &uploaded).await;
        check_clean(&there.url(POSTGRES, "shop@x"));
        eprintln!("round {round}: {} rows were uploaded, {acknowledged} acknowledged", uploaded.len());
        here.start();
    }
}

#[test]
fn a_branch_that_is_uploaded_while_awake_is_whole_on_its_own_node_too() {
    let mut shop = Fixture::new().node_config(restless()).start();
    for n in 1..=3 {
        shop.psql(
            "shop@x",
            &format!("create table t{n} as select g, repeat('x', 500) filler from generate_series(1, 20000) g"),
        );
        shop.psql("shop@x", "update customers set note = note || 'x'");
        shop.psql("shop@x", "vacuum customers");
        wait_uploaded(&shop.node, "shop@x");
        shop.psql(
            "shop@x",
            &format!("truncate t{n}; insert into t{n} select g, 'y' from generate_series(1, {n}000) g"),
        );
        shop.node.kill();
        shop.node.start();
        assert_eq!(
            shop.psql("shop@x", &format!("select count(*), sum(length(filler)) from t{n}")),
            format!("{n}000|{n}000")
        );
        check_clean(&shop.node.url(POSTGRES, "shop@x"));
    }
    let before = shop.psql("shop@x", "select count(*), sum(id), md5(string_agg(note, ',' order by id)) from customers");
    shop.node.succeed(&["branch", "suspend", "shop@x"]);
    shop.node.stop();
    shop.node.wipe();
    shop.node.start();
    let after = shop.psql("shop@x", "select count(*), sum(id), md5(string_agg(note, ',' order by id)) from customers");
    assert_eq!(after, before);
    check_clean(&shop.node.url(POSTGRES, "shop@x"));
}

#[test]
fn an_awake_branch_that_writes_nothing_is_not_uploaded_again() {
    let shop = Fixture::new().node_config(restless()).start();
    let session = Hold::open(&shop.url("shop@x"));
    until("its uploads to end", 60, || {
        let before = uploads(&shop.node);
        pause(Duration::from_secs(4));
        (uploads(&shop.node) == before).then_some(())
    });
    let after = uploads(&shop.node);
    assert!(after >= 1, "the first interval was let pass");
    pause(Duration::from_secs(5));
    assert_eq!(uploads(&shop.node), after);
    drop(session);
}

/// The node that was cut off must not answer for the branch any more, nor write over what its successor wrote.
#[test]
fn a_node_that_lost_a_branch_stops_answering_for_it() {
    let mut shop = Fixture::new().node_config(restless()).start();
    shop.psql("shop@x", "create table kept as select 1 as n");
    wait_uploaded(&shop.node, "shop@x");
    let mut other = Node::new(&shop.scratch, "other", &restless());
    other.start();
    let session = Hold::open(&shop.url("shop@x"));
    signal(shop.node.pid(), Signal::SIGSTOP);
    release(&other, "shop@x");
    assert_eq!(psql(&other.url(APP, "shop@x"), "update kept set n = 2 returning n"), "2");
    signal(shop.node.pid(), Signal::SIGCONT);
    until("the node to let go of the branch", 30, || {
        shop.node.log().contains("another node has taken a branch over").then_some(())
    });
    session.wait_closed();
    let error = try_psql(&shop.url("shop@x"), "select n from kept").expect_err("the other node has it");
    assert!(error.contains("another node"), "{error}");
    assert_eq!(shop.node.processes(), Vec::<i32>::new(), "its compute is gone");
    assert!(shop.node.data_dir().join("lost").read_dir().expect("what it had is kept").next().is_some());
    assert_eq!(psql(&other.url(APP, "shop@x"), "select n from kept"), "2");
    other.succeed(&["branch", "suspend", "shop@x"]);
    assert_eq!(shop.psql("shop@x", "select n from kept"), "2");
    shop.node.stop();
}

#[test]
fn a_lease_that_is_renewed_cannot_be_taken() {
    let shop = Fixture::new().node_config(restless()).start();
    let session = Hold::open(&shop.url("shop@x"));
    for _ in 0..5 {
        let error = shop.node.fail(&["branch", "release", "shop@x"]);
        assert!(error.contains("lease"), "{error}");
        pause(Duration::from_secs(1));
    }
    drop(session);
    shop.node.succeed(&["branch", "suspend", "shop@x"]);
    assert!(shop.node.succeed(&["branch", "release", "shop@x"]).contains("held by no node"));
    let error = shop.node.fail(&["branch", "release", "shop@nobody"]);
    assert!(error.contains("no branch shop@nobody"), "{error}");
}

#[test]
fn an_ephemeral_branch_outlives_its_daemon_and_goes_back_with_its_machine() {
    let mut shop = Fixture::new().project("durability = \"ephemeral\"\nupload_interval = \"off\"").start();
    shop.psql("shop@x", "create table kept as select 1 as n");
    shop.node.succeed(&["branch", "suspend", "shop@x"]);
    shop.psql("shop@x", "update kept set n = 2");
    assert_eq!(shop.psql("shop@x", "show synchronous_commit"), "off");
    // Three times wal_writer_delay: by then an asynchronous commit is written.
    pause(Duration::from_secs(2));
    shop.node.kill();
    shop.node.start();
    assert_eq!(shop.psql("shop@x", "select n from kept"), "2");
    shop.node.kill();
    let branches = shop.node.data_dir().join("branch");
    let place = branches
        .read_dir()
        .expect("it is there")
        .next()
        .expect("a branch is on the disk")
        .expect("it can be read")
        .path();
    let note = std::fs::read_to_string(place.join("note")).expect("a note is there");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("this is Linux");
    std::fs::write(place.join("note"), note.replace(boot.trim(), "another start of the machine"))
        .expect("it can be changed");
    shop.node.start();
    assert_eq!(shop.psql("shop@x", "select n from kept"), "1");
    assert!(shop.node.log().contains("goes back to its last upload"));
}
