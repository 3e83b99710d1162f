//! One suite of the store's promises, against a folder, S3 (moto), Azure (Azurite), and each of the servers through a proxy that fails one
//! request in ten.
//!
//! Credentials and endpoints come from the environment, which a process cannot safely change for itself: each test runs itself once
//! more as a child with the right one.

mod fixture;

use bytes::Bytes;
use fixture::*;
use futures::future::join_all;
use offshoot::model::Entropy;
use offshoot::store::{Expect, Store, StoreError, Version, open_and_probe};
use std::process::Command;

const URL: &str = "OFFSHOOT_SUITE_URL";

/// Runs the suite in a child that has `environment`; in the child, runs it.
fn suite(test: &str, start: impl FnOnce() -> (String, Vec<(String, String)>, Box<dyn std::any::Any>)) {
    if let Ok(url) = std::env::var(URL) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime can be made").block_on(run(&url));
        return;
    }
    let (url, environment, _servers) = start();
    let mut child = Command::new(std::env::current_exe().expect("this test runs"));
    child.args(["--exact", test, "--nocapture"]).env(URL, url).envs(environment);
    let status = child.status().expect("the test runs");
    assert!(status.success(), "the suite failed, see above");
}

#[test]
fn on_a_folder() {
    suite("on_a_folder", || {
        let scratch = Scratch::new();
        (format!("file://{}", scratch.join("store").display()), vec![], Box::new(scratch))
    });
}

#[test]
fn on_s3() {
    suite("on_s3", || {
        let scratch = Scratch::new();
        let moto = MotoServer::start(&scratch);
        ("s3://offshoot/some/prefix".to_owned(), moto.environment(), Box::new((moto, scratch)))
    });
}

#[test]
fn on_azure() {
    suite("on_azure", || {
        let scratch = Scratch::new();
        let azurite = AzuriteServer::start(&scratch);
        let environment = AzuriteServer::environment(azurite.port());
        (azurite.url(), environment, Box::new((azurite, scratch)))
    });
}

#[test]
fn on_s3_through_faults() {
    suite("on_s3_through_faults", || {
        let scratch = Scratch::new();
        let moto = MotoServer::start(&scratch);
        let unruly = UnrulyStore::before(moto.port(), 1);
        unruly.obey(Conduct::one_in_ten());
        let environment = MotoServer::environment_at(unruly.port());
        ("s3://offshoot/some/prefix".to_owned(), environment, Box::new((unruly, moto, scratch)))
    });
}

#[test]
fn on_azure_through_faults() {
    suite("on_azure_through_faults", || {
        let scratch = Scratch::new();
        let azurite = AzuriteServer::start(&scratch);
        let unruly = UnrulyStore::before(azurite.port(), 2);
        unruly.obey(Conduct::one_in_ten());
        (azurite.url(), AzuriteServer::environment(unruly.port()), Box::new((unruly, azurite, scratch)))
    });
}

async fn run(url: &str) {
    let store = open_and_probe(url, &Entropy::seeded(1)).await.expect("the store keeps its promises");
    assert_eq!(store.list("v1").await.expect("it lists"), Vec::<String>::new(), "the probe leaves nothing");
    immutable_objects(&store).await;
    ranges(&store).await;
    missing_objects(&store).await;
    conditional_puts(&store).await;
    races(&store).await;
    lists(&store).await;
    a_large_object(&store).await;
    println!("{:?}", store.requests());
}

fn body(text: impl Into<String>) -> Bytes {
    Bytes::from(text.into())
}

fn is_conflict<T>(outcome: &Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Conflict { .. }))
}

async fn content(store: &Store, key: &str) -> Option<Bytes> {
    store.get(key).await.expect("it is read").map(|found| found.bytes)
}

async fn immutable_objects(store: &Store) {
    store.create("v1/once", body("first")).await.expect("it is created");
    store.create("v1/once", body("first")).await.expect("the same again is no error");
    assert!(is_conflict(&store.create("v1/once", body("second")).await));
    assert_eq!(content(store, "v1/once").await, Some(body("first")));
    store.create("v1/empty", body("")).await.expect("an empty object is one");
    assert_eq!(content(store, "v1/empty").await, Some(body("")));
    for key in ["v1/once", "v1/empty"] {
        store.delete(key).await.expect("it is deleted");
        assert_eq!(content(store, key).await, None);
        store.delete(key).await.expect("what is not there can be deleted");
    }
}

async fn ranges(store: &Store) {
    let bytes: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    store.create("v1/ranges", bytes.clone()).await.expect("it is created");
    for (start, end) in [(0, 1), (0, 100_000), (99_999, 100_000), (12_345, 54_321)] {
        let read = store.get_range("v1/ranges", start..end).await.expect("it is there");
        assert_eq!(read, bytes[start as usize..end as usize], "{start}..{end}");
    }
    for (start, end) in [(0, 100_001), (99_999, 1 << 40), (100_000, 100_001), (1 << 40, (1 << 40) + 1), (5, 5), (5, 4)]
    {
        let read = store.get_range("v1/ranges", start..end).await;
        assert!(matches!(read, Err(StoreError::Damaged { .. })), "{start}..{end}: {read:?}");
    }
    store.delete("v1/ranges").await.expect("it is deleted");
}

async fn missing_objects(store: &Store) {
    assert_eq!(content(store, "v1/absent").await, None);
    let read = store.get_range("v1/absent", 0..1).await;
    assert!(matches!(read, Err(StoreError::Missing { .. })), "{read:?}");
    assert_eq!(store.list("v1/absent").await.expect("nothing can be listed"), Vec::<String>::new());
    assert_eq!(store.list_children("v1/absent").await.expect("nothing can be listed"), Vec::<String>::new());
}

async fn conditional_puts(store: &Store) {
    let key = "v1/project/p/head";
    let first = store.put_if(key, body("one"), Expect::Absent).await.expect("it is absent");
    assert!(is_conflict(&store.put_if(key, body("other"), Expect::Absent).await));
    let found = store.get(key).await.expect("it is read").expect("it is there");
    assert_eq!((found.bytes, &found.version), (body("one"), &first), "the version told is the version read");
    let second = store.put_if(key, body("two"), Expect::Version(first.clone())).await.expect("it is that version");
    assert!(is_conflict(&store.put_if(key, body("three"), Expect::Version(first)).await));
    assert_eq!(content(store, key).await, Some(body("two")));
    store.delete(key).await.expect("it is deleted");
    assert!(
        is_conflict(&store.put_if(key, body("four"), Expect::Version(second)).await),
        "nothing is not that version"
    );
    assert_eq!(content(store, key).await, None);
}

async fn races(store: &Store) {
    let key = "v1/raced";
    let mut expect = Expect::Absent;
    for round in 0..6 {
        let text = |racer| body(format!("round {round}, racer {racer}"));
        let racers = (0..8).map(|racer| store.put_if(key, text(racer), expect.clone()));
        let outcomes: Vec<Result<Version, StoreError>> = join_all(racers).await;
        let winners: Vec<usize> = (0..8).filter(|racer| outcomes[*racer].is_ok()).collect();
        let [winner] = winners[..] else { panic!("round {round}: {outcomes:?}") };
        assert!(outcomes.iter().filter(|outcome| is_conflict(outcome)).count() == 7, "round {round}: {outcomes:?}");
        let found = store.get(key).await.expect("it is read").expect("it is there");
        assert_eq!(found.bytes, text(winner), "round {round}");
        expect = Expect::Version(found.version);
    }
    store.delete(key).await.expect("it is deleted");
}

async fn lists(store: &Store) {
    let mut keys: Vec<String> = Vec::new();
    for name in ["a", "b", "with@at", "with space"] {
        keys.extend((0..3).map(|n| format!("v1/lists/{name}/deeper/{n}")));
    }
    join_all(keys.iter().map(|key| store.create(key, body(key.as_str())))).await.into_iter().for_each(|made| {
        made.expect("it is created");
    });
    let mut listed = store.list("v1/lists").await.expect("it lists");
    listed.sort();
    keys.sort();
    assert_eq!(listed, keys, "keys come back as they were given");
    let mut children = store.list_children("v1/lists").await.expect("it lists");
    children.sort();
    assert_eq!(children, ["a", "b", "with space", "with@at"]);
    assert_eq!(store.list("v1/lists/a").await.expect("it lists").len(), 3);
    assert_eq!(store.list("v1/list").await.expect("it lists"), Vec::<String>::new(), "half a component is none");
    for key in &keys {
        assert_eq!(content(store, key).await, Some(body(key.as_str())));
        store.delete(key).await.expect("it is deleted");
    }
    assert_eq!(store.list("v1/lists").await.expect("it lists"), Vec::<String>::new());
}

/// As large as a pack.
async fn a_large_object(store: &Store) {
    let bytes =
        Bytes::from((0..48 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<u8>>());
    store.create("v1/large", bytes.clone()).await.expect("it is created");
    assert!(content(store, "v1/large").await == Some(bytes.clone()), "it comes back whole");
    let (start, end) = (47 << 20, (47 << 20) + 300_000);
    let read = store.get_range("v1/large", start..end).await.expect("it is there");
    assert!(read == bytes.slice(start as usize..end as usize));
    store.delete("v1/large").await.expect("it is deleted");
}
