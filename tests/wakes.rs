//! What a wake asks the store for, and how soon it is over.

mod fixture;

use fixture::*;
use std::time::Duration;

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
    // The project's head may be read again beside.
    let asked = since(&shop.node, &before);
    assert!(asked[0].1 <= 3, "{asked:?}");
    assert_eq!(asked[1..], [("range", 0), ("create", 0), ("conditional_put", 1), ("list", 0)]);
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
    let asked = since(&shop.node, &before);
    assert!(asked[0].1 <= 3, "{asked:?}");
    assert_eq!(asked[1..], [("range", 0), ("create", 0), ("conditional_put", 1), ("list", 0)]);
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
