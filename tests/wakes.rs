//! What a wake asks the store for, and how soon it is over.

mod fixture;

use fixture::*;
use std::time::{Duration, Instant};

const KINDS: [&str; 5] = ["get", "range", "create", "conditional_put", "list"];

/// Requests to the store so far, by kind.
fn requests(node: &Node) -> Vec<(&'static str, u64)> {
    let of = |kind: &'static str| {
        let name = format!("offshoot_store_requests_total{{kind=\"{kind}\"}}");
        (kind, node.metric(&name) as u64)
    };
    KINDS.into_iter().map(of).collect()
}

fn since(node: &Node, before: &[(&'static str, u64)]) -> Vec<(&'static str, u64)> {
    requests(node).into_iter().zip(before).map(|((kind, now), (_, before))| (kind, now - before)).collect()
}

/// A claim, and no more gets than `gets`: a head and a boot object; for a new name a head, and its project's once in the way and once beside.
fn check_asked_little(node: &Node, before: &[(&'static str, u64)], gets: u64) {
    let asked = since(node, before);
    assert!(asked[0].1 <= gets, "{asked:?}");
    assert_eq!(asked[1..], [("range", 0), ("create", 0), ("conditional_put", 1), ("list", 0)]);
}

/// A branch with some data and a query of it, as a boot object is made for: asleep, and its node stopped and emptied.
fn asleep_and_wiped(shop: &mut Shop) {
    shop.psql("shop@x", "create table kept as select n from generate_series(1, 1000) n");
    for _ in 0..2 {
        assert_eq!(shop.psql("shop@x", QUERY), "1500|1000");
        // The recording of a start ends a second after its first session.
        pause(Duration::from_millis(1200));
        shop.node.succeed(&["branch", "suspend", "shop@x"]);
    }
    shop.node.stop();
    shop.node.wipe();
}

const QUERY: &str =
    "select (select count(*) from customers where length(coalesce(note, '')) >= 0), (select count(*) from kept)";

/// Starts the node and waits until it knows its projects' bases.
fn start_warm(shop: &mut Shop) {
    shop.node.start();
    until("the base to be opened", 10, || {
        (shop.node.metric("offshoot_store_requests_total{kind=\"get\"}") >= 2.0).then_some(())
    });
    pause(Duration::from_millis(500));
}

#[test]
fn a_wake_on_a_node_that_has_nothing_reads_a_head_and_a_boot_object() {
    let mut shop = Fixture::new().moto().start();
    asleep_and_wiped(&mut shop);
    start_warm(&mut shop);
    let before = requests(&shop.node);
    assert_eq!(shop.psql("shop@x", QUERY), "1500|1000");
    check_asked_little(&shop.node, &before, 2);
    assert_eq!(shop.node.metric("offshoot_cache_misses_total"), 0.0);
    assert!(shop.node.metric("offshoot_cache_memory_bytes") > 0.0);
}

#[test]
fn an_unseen_name_on_a_node_that_has_nothing_needs_no_page_from_the_store() {
    let mut shop = Fixture::new().moto().start();
    shop.node.stop();
    shop.node.wipe();
    start_warm(&mut shop);
    let before = requests(&shop.node);
    assert_eq!(shop.psql("shop@unseen", "select 1"), "1");
    check_asked_little(&shop.node, &before, 3);
}

#[test]
fn a_boot_object_is_a_shortcut_and_never_the_truth() {
    let mut shop = Fixture::new().moto().start();
    asleep_and_wiped(&mut shop);
    let boots: Vec<String> = shop.moto().keys().into_iter().filter(|key| key.contains("/boot")).collect();
    assert!(boots.len() >= 2, "a base and a branch have one: {boots:?}");
    let whole: Vec<Vec<u8>> = boots.iter().map(|key| shop.moto().read(key)).collect();
    for what in ["flipped", "cut short", "swapped", "missing"] {
        for (number, key) in boots.iter().enumerate() {
            match what {
                "flipped" => {
                    let mut bytes = whole[number].clone();
                    bytes.iter_mut().step_by(512).for_each(|byte| *byte ^= 4);
                    shop.moto().write(key, &bytes);
                }
                "cut short" => shop.moto().write(key, &whole[number][..whole[number].len() / 2]),
                "swapped" => shop.moto().write(key, &whole[(number + 1) % whole.len()]),
                _ => shop.moto().remove(key),
            }
        }
        shop.node.start();
        assert_eq!(shop.psql("shop@x", QUERY), "1500|1000", "{what}");
        if what != "missing" {
            assert!(shop.node.log().contains("a boot object cannot be used"), "{what}");
        }
        shop.node.kill();
        shop.node.start();
        shop.node.succeed(&["branch", "suspend", "shop@x"]);
        shop.node.stop();
        shop.node.wipe();
    }
}

/// What REWRITTEN makes.
const REWRITTEN_QUERY: &str =
    "select pg_relation_size('rewritten') / 8192 >= 8900, count(*), sum(n), sum(ascii(text)) from rewritten";

fn keys_of(shop: &Shop, kind: &str) -> Vec<String> {
    let part = format!("/{kind}/");
    shop.moto().keys().into_iter().filter(|key| key.contains("v1/branch/") && key.contains(&part)).collect()
}

#[test]
fn a_branch_that_rewrote_most_of_its_base_wakes_from_an_image_of_its_own() {
    let mut shop = Fixture::new().moto().start();
    shop.psql("shop@x", REWRITTEN);
    let rewritten = shop.psql("shop@x", REWRITTEN_QUERY);
    assert!(rewritten.starts_with("t|108000|"), "{rewritten}");
    asleep_and_wiped(&mut shop);
    let (indexes, layers) = (keys_of(&shop, "index"), keys_of(&shop, "layer"));
    assert_eq!((indexes.len(), keys_of(&shop, "pack").len()), (1, 1), "one image");
    assert_eq!(layers.len(), 1, "and what was written since: {layers:?}");
    start_warm(&mut shop);
    let before = requests(&shop.node);
    assert_eq!(shop.psql("shop@x", QUERY), "1500|1000");
    check_asked_little(&shop.node, &before, 2);
    assert_eq!(shop.psql("shop@x", REWRITTEN_QUERY), rewritten);
    check_clean(&shop.node.url(POSTGRES, "shop@x"));

    // An image over an image.
    shop.psql("shop@x", REWRITTEN);
    shop.psql("shop@x", "insert into kept select 7; create table later as select 1 as n");
    shop.node.succeed(&["branch", "suspend", "shop@x"]);
    assert_eq!(keys_of(&shop, "index").len(), 2);
    shop.node.stop();
    shop.node.wipe();
    shop.node.start();
    assert_eq!(shop.psql("shop@x", REWRITTEN_QUERY), rewritten);
    assert_eq!(shop.psql("shop@x", QUERY), "1500|1001");
    assert_eq!(shop.psql("shop@x", "select n from later"), "1");
    check_clean(&shop.node.url(POSTGRES, "shop@x"));
    shop.node.succeed(&["branch", "suspend", "shop@x"]);

    shop.node.succeed(&["fsck"]);
    for kind in ["index", "pack"] {
        let newest = keys_of(&shop, kind).pop().expect("it is there");
        let whole = shop.moto().read(&newest);
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 4;
        shop.moto().write(&newest, &damaged);
        let found = String::from_utf8_lossy(&shop.node.run(&["fsck", "--json"]).stdout).into_owned();
        let key = newest.trim_start_matches("some/prefix/");
        assert!(found.contains(key) && found.contains("shop@x"), "{key}: {found}");
        shop.moto().write(&newest, &whole);
    }
    shop.node.succeed(&["branch", "delete", "shop@x"]);
    let garbage = shop.node.succeed(&["gc", "--dry-run"]);
    assert!(garbage.contains("image"), "{garbage}");
}

/// It reads more than layers do, and writes more: what fails there must not keep a branch awake.
#[test]
fn a_branch_that_cannot_be_given_an_image_sleeps_with_its_layers() {
    let no_index = Conduct { rules: vec![Rule::new(Fault::Status(500)).on("PUT").of("/index/")], ..Conduct::default() };
    let shop = Fixture::new().moto().unruly(Conduct::default()).start();
    shop.psql("shop@x", REWRITTEN);
    let rewritten = shop.psql("shop@x", REWRITTEN_QUERY);
    shop.unruly().obey(no_index);
    shop.node.succeed(&["branch", "suspend", "shop@x"]);
    shop.unruly().obey(Conduct::default());
    assert!(shop.node.log().contains("cannot be given an image"));
    assert_eq!((keys_of(&shop, "index").len(), keys_of(&shop, "layer").len()), (0, 1));
    assert_eq!(shop.psql("shop@x", REWRITTEN_QUERY), rewritten);
    // The query has set hint bits: half of it is changed anew.
    shop.node.succeed(&["branch", "suspend", "shop@x"]);
    assert_eq!(keys_of(&shop, "index").len(), 1, "it is tried again");
    assert_eq!(shop.psql("shop@x", REWRITTEN_QUERY), rewritten);
}

/// A branch is written to a store that takes forever over objects of `kind`; whoever comes meanwhile finds it as it was, with the roles that it has by then.
fn comes_while_it_falls_asleep(kind: &str, change: &str) {
    let mut shop = Fixture::new().moto().unruly(Conduct::default()).idle_timeout("1s").start();
    shop.psql("shop@x", change);
    psql(
        &shop.node.url(POSTGRES, "shop@x"),
        "create role late login superuser password 'late-pw'; create table visits (n int)",
    );
    let stall = || Rule::new(Fault::Stall(Duration::from_secs(60))).on("PUT").of(kind);
    let visit = |number: u32, rule: Rule| {
        let before = shop.unruly().counts().of("PUT", kind);
        shop.unruly().obey(Conduct { rules: vec![rule], ..Conduct::default() });
        until("the branch to be written", 60, || (shop.unruly().counts().of("PUT", kind) > before).then_some(()));
        let came = Instant::now();
        psql(&shop.node.url(("late", "late-pw"), "shop@x"), &format!("insert into visits values ({number})"));
        shop.unruly().obey(Conduct::default());
        came.elapsed()
    };
    for number in 0..3 {
        let waited = visit(number, stall());
        assert!(waited < Duration::from_secs(8), "waited for {waited:?}");
    }
    let log = shop.node.log();
    assert_eq!(log.matches("somebody wants a branch that was falling asleep").count(), 3);
    assert_eq!(log.matches("branch asleep").count(), 0);
    // Who always comes just then waits in the end: what it wrote has to be published some time. One request stalls, the next does not.
    visit(3, stall().times(1));
    let log = shop.node.log();
    assert_eq!(log.matches("somebody wants a branch that was falling asleep").count(), 3);
    assert_eq!(log.matches("branch asleep").count(), 1);
    shop.node.wait_asleep("shop@x");
    shop.node.stop();
    shop.node.wipe();
    shop.node.start();
    assert_eq!(psql(&shop.node.url(("late", "late-pw"), "shop@x"), "select sum(n) from visits"), "6");
    check_clean(&shop.node.url(POSTGRES, "shop@x"));
    shop.node.succeed(&["fsck"]);
}

#[test]
fn who_comes_while_layers_are_written_need_not_wait() {
    comes_while_it_falls_asleep("/layer/", "select 1");
}

#[test]
fn who_comes_while_an_image_is_written_need_not_wait() {
    comes_while_it_falls_asleep("/pack/", REWRITTEN);
}
