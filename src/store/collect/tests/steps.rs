//! One collector at a time: what a run does with each kind of object, and what deletion and pins promise.

use super::block_on;
use super::simulated::SimulatedStore;
use super::world::*;
use crate::model::{BaseId, BranchId, Clock, Entropy, Holder, NodeId};
use crate::store::collect::{CollectError, Collector, Fate, GRACE, LEAST_GRACE, Report};
use crate::store::{Catalog, Deletion, Expect, Held, Lookup, PUBLISH_WITHIN, StoreError, keys};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

struct World {
    clock: Arc<AtomicU64>,
    catalog: Catalog,
    entropy: Entropy,
    collector: Collector,
    base: BaseId,
}

fn world() -> World {
    let clock = Arc::new(AtomicU64::new(1_800_000_000_000));
    let entropy = Entropy::seeded(7);
    let catalog = Catalog::new(SimulatedStore::new(clock.clone(), 7).store(), entropy.clone());
    let collector = Collector::new(catalog.clone(), Clock::Simulated(clock.clone()), GRACE).expect("long enough");
    let base = BaseId::random(&entropy);
    let world = World { clock, catalog, entropy, collector, base };
    block_on(put_packs(&world.catalog, &world.base, 2)).expect("puts");
    block_on(world.catalog.publish_base(&base_manifest(&world.base, 2))).expect("publishes");
    world
}

impl World {
    fn pass(&self, time: Duration) {
        self.clock.fetch_add(time.as_millis() as u64, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    fn run(&self) -> Report {
        block_on(self.collector.run()).expect("collects")
    }

    fn keys(&self, prefix: &str) -> Vec<String> {
        let mut keys = block_on(self.catalog.store().list(prefix)).expect("lists");
        keys.sort();
        keys
    }

    /// A branch asleep with `layers` of its own.
    fn branch(&self, name: &str, layers: u64) -> Held {
        let Lookup::Vacant { next_epoch } = block_on(self.catalog.look_up(&branch(name))).expect("reads") else {
            panic!("{name} is there")
        };
        let head = head(name, &self.base, next_epoch, &self.entropy, self.now());
        let held = block_on(create(&self.catalog, head)).expect("creates");
        self.suspend(&held, layers)
    }

    fn suspend(&self, held: &Held, layers: u64) -> Held {
        let manifest = block_on(upload(&self.catalog, held, Vec::new(), layers, &self.entropy)).expect("puts");
        block_on(publish(&self.catalog, held, manifest, false)).expect("publishes")
    }

    fn delete(&self, name: &str) {
        let deleted = block_on(self.catalog.delete_branch(&branch(name), self.now())).expect("deletes");
        assert!(matches!(deleted, Deletion::Deleted), "{deleted:?}");
    }

    /// All that two passes can collect.
    fn collect_all(&self) {
        self.pass(GRACE);
        self.run();
        self.pass(GRACE);
        self.run();
    }
}

#[test]
fn a_deleted_branch_goes_after_two_passes_a_grace_apart_and_no_sooner() {
    let world = world();
    world.branch("kept", 1);
    world.branch("gone", 3);
    let before = world.keys(keys::BRANCHES);
    world.pass(GRACE);
    world.delete("gone");
    let report = world.run();
    assert_eq!(report.total(Fate::Condemned).objects, 4);
    assert_eq!(report.in_use.objects, 1 + 4 + 4, "a project's head, a base's four, two heads and a branch's two");
    world.pass(GRACE - Duration::from_millis(1));
    let report = world.run();
    assert_eq!((report.total(Fate::Deleted).objects, report.total(Fate::Waiting).objects), (0, 4));
    assert_eq!(world.keys(keys::BRANCHES), before);
    world.pass(Duration::from_millis(1));
    let report = world.run();
    assert_eq!(report.total(Fate::Deleted).objects, 4);
    assert_eq!(world.keys(keys::BRANCHES).len(), 2);
    assert_eq!(world.keys("v1/gc"), Vec::<String>::new(), "the list is used up");
    assert_eq!(world.keys(keys::PROJECTS).len(), 1 + 4 + 2, "heads stay, tombstones too");
}

#[test]
fn a_dry_run_writes_nothing_and_says_what_a_run_would_do() {
    let world = world();
    world.branch("gone", 2);
    world.delete("gone");
    world.pass(GRACE);
    let before = world.keys("v1");
    let dry = block_on(world.collector.dry_run()).expect("looks");
    assert_eq!(world.keys("v1"), before);
    assert_eq!(dry, world.run());
}

#[test]
fn what_an_upload_left_goes_once_nobody_can_publish_it() {
    let world = world();
    let held = block_on(create(&world.catalog, head("b", &world.base, 1, &world.entropy, world.now()))).expect("made");
    block_on(upload(&world.catalog, &held, Vec::new(), 2, &world.entropy)).expect("puts");
    for _ in 0..4 {
        world.collect_all();
    }
    assert_eq!(world.keys(keys::BRANCHES).len(), 3, "its node may sleep for ever and publish all the same");
    // A second upload of the same epoch, published while the branch stays awake.
    let held = block_on(world.catalog.update_branch(&held, |_| ())).expect("bumps");
    let held = block_on(world.catalog.update_branch(&held, |_| ())).expect("bumps");
    let manifest = block_on(upload(&world.catalog, &held, Vec::new(), 1, &world.entropy)).expect("puts");
    let held = block_on(publish(&world.catalog, &held, manifest, true)).expect("publishes");
    world.collect_all();
    assert_eq!(world.keys(keys::BRANCHES).len(), 2, "what lies before the published manifest went");
    block_on(upload(&world.catalog, &held, Vec::new(), 2, &world.entropy)).expect("puts");
    let held = world.suspend(&held, 1);
    world.collect_all();
    assert_eq!(world.keys(keys::BRANCHES).len(), 2, "nobody holds it: {held:?}");
}

#[test]
fn an_upload_that_sleeps_for_weeks_is_published_whole() {
    let world = world();
    let held = world.branch("b", 1);
    let held = block_on(take(&world.catalog, &held)).expect("takes");
    let manifest = block_on(upload(&world.catalog, &held, Vec::new(), 2, &world.entropy)).expect("puts");
    for _ in 0..10 {
        world.collect_all();
    }
    let held = block_on(publish(&world.catalog, &held, manifest, false)).expect("publishes");
    let reference = held.head.manifest.expect("published");
    let manifest = block_on(world.catalog.branch_manifest(&reference)).expect("is there");
    for layer in manifest.layers {
        assert!(block_on(world.catalog.store().get(&layer.key)).expect("reads").is_some());
    }
}

#[test]
fn children_outlive_their_parent() {
    let world = world();
    let parent = world.branch("parent", 2);
    let reference = parent.head.manifest.clone().expect("it slept");
    let mut child = head("child", &world.base, 1, &world.entropy, world.now());
    let pinned = block_on(world.catalog.pin(&reference, &child.id, world.now())).expect("pins");
    world.delete("parent");
    pinned.pin.check(world.now()).expect("just pinned");
    (child.manifest, child.dirty, child.holder) = (Some(reference), false, None);
    block_on(create(&world.catalog, child)).expect("made");
    block_on(world.catalog.unpin(&pinned.pin)).expect("unpins");
    world.collect_all();
    assert_eq!(world.keys(keys::BRANCHES).len(), 3);
    world.delete("child");
    world.collect_all();
    assert_eq!(world.keys(keys::BRANCHES), Vec::<String>::new());
}

#[test]
fn a_pin_keeps_what_it_names_for_a_grace_and_no_longer() {
    let world = world();
    let reference = world.branch("parent", 2).head.manifest.expect("it slept");
    world.delete("parent");
    world.pass(GRACE);
    let pinned = block_on(world.catalog.pin(&reference, &BranchId::from("c"), world.now())).expect("nothing condemns");
    world.pass(PUBLISH_WITHIN);
    assert!(matches!(pinned.pin.check(world.now()), Err(StoreError::Condemned { .. })), "too late for its head");
    assert_eq!(world.run().total(Fate::Condemned).objects, 0);
    world.pass(GRACE);
    world.run();
    assert_eq!(world.keys(keys::PINS), Vec::<String>::new());
    world.pass(GRACE);
    world.run();
    assert_eq!(world.keys(keys::BRANCHES), Vec::<String>::new());
}

#[test]
fn a_child_that_comes_too_late_is_told_so() {
    let world = world();
    let reference = world.branch("parent", 2).head.manifest.expect("it slept");
    world.delete("parent");
    world.pass(GRACE);
    world.run();
    let pin = || block_on(world.catalog.pin(&reference, &BranchId::from("c"), world.now()));
    let condemned = pin().expect_err("condemned");
    assert!(matches!(condemned, StoreError::Condemned { .. }) && condemned.is_retryable(), "{condemned}");
    assert_eq!(world.keys(keys::PINS), Vec::<String>::new());
    world.pass(GRACE);
    world.run();
    assert!(matches!(pin().expect_err("gone"), StoreError::Missing { .. }));
    assert_eq!(world.keys(keys::PINS), Vec::<String>::new());
}

#[test]
fn a_list_is_replaced_when_a_pin_was_put_before_it() {
    let world = world();
    let reference = world.branch("parent", 2).head.manifest.expect("it slept");
    world.branch("other", 1);
    world.delete("parent");
    world.delete("other");
    world.pass(GRACE);
    let review = block_on(world.collector.review(world.now())).expect("reads");
    let survey = block_on(world.collector.survey(&review)).expect("looks");
    let child = BranchId::from("c");
    block_on(world.catalog.pin(&reference, &child, world.now())).expect("nothing condemns it yet");
    let condemned = block_on(world.collector.condemn(&review, &survey)).expect("puts").expect("garbage");
    let again = || block_on(world.catalog.pin(&reference, &BranchId::from("d"), world.now()));
    assert!(matches!(again(), Err(StoreError::Condemned { .. })));
    block_on(world.collector.spare_pinned(condemned)).expect("replaces");
    again().expect("the list does not name it any more");
    world.pass(GRACE);
    world.run();
    assert_eq!(world.keys(keys::BRANCHES).len(), 3, "the other's went; the pins are over only now");
}

#[test]
fn a_list_that_cannot_be_used_up_is_retired_first() {
    let world = world();
    let reference = world.branch("parent", 1).head.manifest.expect("it slept");
    world.delete("parent");
    world.pass(GRACE);
    let review = block_on(world.collector.review(world.now())).expect("reads");
    let survey = block_on(world.collector.survey(&review)).expect("looks");
    let mut child = head("child", &world.base, 1, &world.entropy, world.now());
    let pinned = block_on(world.catalog.pin(&reference, &child.id, world.now())).expect("pins");
    // Killed before it read the pins: the list stays as it is.
    block_on(world.collector.condemn(&review, &survey)).expect("puts").expect("garbage");
    (child.manifest, child.dirty, child.holder) = (Some(reference.clone()), false, None);
    block_on(create(&world.catalog, child)).expect("made");
    block_on(world.catalog.unpin(&pinned.pin)).expect("unpins");
    world.pass(GRACE);
    world.run();
    assert_eq!(world.keys(keys::RETIRED).len(), 1);
    let pin = || block_on(world.catalog.pin(&reference, &BranchId::from("d"), world.now()));
    assert!(matches!(pin(), Err(StoreError::Condemned { .. })), "a slower collector may still act on it");
    world.pass(GRACE);
    world.run();
    assert_eq!(world.keys("v1/gc"), Vec::<String>::new());
    pin().expect("nobody acts on it any more");
    assert_eq!(world.keys(keys::BRANCHES).len(), 2);
}

#[test]
fn a_slow_collector_stops_in_time() {
    let world = world();
    world.branch("gone", 3);
    world.delete("gone");
    world.pass(GRACE);
    world.run();
    world.pass(GRACE);
    let review = block_on(world.collector.review(world.now())).expect("reads");
    let survey = block_on(world.collector.survey(&review)).expect("looks");
    let mut sentence = world.collector.sentence(&review, &survey);
    block_on(world.collector.delete(&mut sentence, 1)).expect("deletes");
    world.pass(GRACE / 2);
    let end = block_on(world.collector.delete(&mut sentence, 9)).expect("looks at the clock");
    assert_eq!((end, sentence.remaining()), (crate::store::collect::Progress::OutOfTime, 3));
    world.run();
    assert_eq!(world.keys(keys::BRANCHES), Vec::<String>::new(), "the next one goes on");
}

#[test]
fn a_killed_import_goes_and_one_under_way_stays() {
    let world = world();
    let (killed, slow) = (BaseId::random(&world.entropy), BaseId::random(&world.entropy));
    block_on(put_packs(&world.catalog, &killed, 2)).expect("puts");
    block_on(put_packs(&world.catalog, &slow, 2)).expect("puts");
    block_on(world.catalog.store().create(&keys::base_staged_index(&project(), &world.base), b"x".to_vec()))
        .expect("puts");
    for number in 2..8 {
        world.pass(GRACE - Duration::from_secs(1));
        block_on(world.catalog.store().create(&keys::base_pack(&project(), &slow, number), b"pack".to_vec()))
            .expect("puts");
        world.run();
    }
    assert_eq!(world.keys(&keys::base(&project(), &killed)), Vec::<String>::new());
    assert_eq!(world.keys(&keys::base(&project(), &slow)).len(), 9);
    assert_eq!(world.keys(&keys::base(&project(), &world.base)).len(), 4, "its staged index went");
    block_on(world.catalog.publish_base(&base_manifest(&slow, 8))).expect("publishes");
    world.collect_all();
    assert_eq!(world.keys(&keys::base(&project(), &slow)).len(), 10);
}

#[test]
fn an_import_given_up_by_the_collector_cannot_be_sealed() {
    let world = world();
    let slow = BaseId::random(&world.entropy);
    block_on(put_packs(&world.catalog, &slow, 2)).expect("puts");
    world.pass(GRACE);
    world.run();
    let refused = block_on(world.catalog.publish_base(&base_manifest(&slow, 2))).expect_err("condemned");
    assert!(matches!(refused, StoreError::Condemned { .. }), "{refused}");
    assert!(block_on(world.catalog.bases(&project())).expect("reads").len() == 1);

    let slower = BaseId::random(&world.entropy);
    block_on(put_packs(&world.catalog, &slower, 2)).expect("puts");
    world.collect_all();
    let refused = block_on(world.catalog.publish_base(&base_manifest(&slower, 2))).expect_err("gone");
    assert!(matches!(refused, StoreError::Missing { .. }), "{refused}");
    assert!(block_on(world.catalog.bases(&project())).expect("reads").len() == 1);
}

/// Changes an object, and says which.
type Change = fn(&World, &Held) -> String;

#[test]
fn nothing_is_collected_while_anything_cannot_be_read() {
    let damage: [(&str, Change); 4] = [
        ("a head", |world, held| {
            let key = keys::branch_head(&branch(held.head.name.as_str()));
            let text = block_on(world.catalog.store().get(&key)).expect("reads").expect("is there").bytes;
            replace(world, &key, &String::from_utf8_lossy(&text).replace("\"epoch\": 1", "\"epoch\": 3").into_bytes());
            key
        }),
        ("a manifest", |world, held| {
            let key = held.head.manifest.clone().expect("it slept").key;
            replace(world, &key, b"nothing");
            key
        }),
        ("a missing manifest", |world, held| {
            let key = held.head.manifest.clone().expect("it slept").key;
            block_on(world.catalog.store().delete(&key)).expect("deletes");
            key
        }),
        ("a newer kind of object", |world, _| {
            let key = "v1/project/shop/snapshot/x".to_owned();
            block_on(world.catalog.store().create(&key, b"{}".to_vec())).expect("puts");
            key
        }),
    ];
    for (what, damage) in damage {
        let world = world();
        world.branch("gone", 2);
        world.delete("gone");
        let held = world.branch("b", 1);
        world.pass(GRACE);
        world.run();
        world.pass(GRACE);
        let key = damage(&world, &held);
        let before = world.keys("v1");
        let error = block_on(world.collector.run()).expect_err(what);
        assert!(matches!(&error, CollectError::Unsound(_)) && error.to_string().contains(&key), "{what}: {error}");
        assert_eq!(world.keys("v1"), before, "{what}");
    }
}

fn replace(world: &World, key: &str, bytes: &[u8]) {
    let store = world.catalog.store();
    let version = block_on(store.get(key)).expect("reads").expect("is there").version;
    block_on(store.put_if(key, bytes.to_vec().into(), Expect::Version(version))).expect("puts");
}

#[test]
fn what_a_newer_version_names_in_a_field_of_its_own_stays() {
    let world = world();
    let held = world.branch("b", 1);
    let kept = keys::layer(&BranchId::from("elsewhere"), 1, 1, &crate::model::Nonce::from("n"));
    block_on(world.catalog.store().create(&kept, b"x".to_vec())).expect("puts");
    let key = keys::branch_head(&branch("b"));
    let mut json = serde_json::to_value(&held.head).expect("serializes");
    json["of_a_newer_version"] = serde_json::json!({ "layers": [kept] });
    replace(&world, &key, &serde_json::to_vec_pretty(&json).expect("serializes"));
    world.collect_all();
    assert!(world.keys(keys::BRANCHES).contains(&kept));
}

#[test]
fn what_probes_left_goes() {
    let world = world();
    block_on(world.catalog.store().create("v1/probe/x", b"x".to_vec())).expect("puts");
    world.run();
    assert_eq!(world.keys("v1/probe").len(), 1);
    world.pass(GRACE);
    world.run();
    assert_eq!(world.keys("v1/probe").len(), 0);
}

#[test]
fn a_grace_too_short_to_rely_on_is_refused() {
    let world = world();
    let short = Collector::new(world.catalog, Clock::System, LEAST_GRACE - Duration::from_secs(1));
    assert!(matches!(short, Err(CollectError::Grace(_))));
}

#[test]
fn a_deleted_name_is_free_and_its_former_holder_is_fenced() {
    let world = world();
    let before = world.branch("b", 1);
    world.delete("b");
    let name = branch("b");
    assert!(block_on(world.catalog.branch_head(&name)).expect("reads").is_none());
    assert!(block_on(world.catalog.branches(&project())).expect("reads").is_empty());
    assert!(block_on(world.catalog.has_room(&project(), 1)).expect("reads"), "a tombstone takes no room");
    assert!(matches!(block_on(world.catalog.delete_branch(&name, 0)).expect("reads"), Deletion::Absent));
    let conflict = block_on(take(&world.catalog, &before)).expect_err("deleted");
    assert!(matches!(conflict, StoreError::Conflict { .. }));

    let again = world.branch("b", 1);
    assert_ne!(again.head.id, before.head.id);
    assert!(again.head.epoch > before.head.epoch && again.head.seq > before.head.seq);
    let conflict = block_on(take(&world.catalog, &before)).expect_err("another life");
    assert!(matches!(conflict, StoreError::Conflict { .. }));
    assert!(!block_on(world.catalog.has_room(&project(), 1)).expect("reads"));
}

#[test]
fn a_create_of_before_the_deletion_lands_nowhere() {
    let world = world();
    world.branch("b", 1);
    let late = head("b", &world.base, 1, &world.entropy, world.now());
    world.delete("b");
    let refused = block_on(world.catalog.create_branch(late)).expect_err("its epoch was used");
    assert!(refused.is_retryable(), "{refused}");
    assert!(block_on(world.catalog.branch_head(&branch("b"))).expect("reads").is_none());
}

#[test]
fn a_held_branch_is_not_deleted() {
    let world = world();
    let held = block_on(take(&world.catalog, &world.branch("b", 1))).expect("takes");
    let refused = block_on(world.catalog.delete_branch(&branch("b"), world.now())).expect("reads");
    let Deletion::Held(head) = refused else { panic!("{refused:?}") };
    assert_eq!(head.holder, Some(Holder { node: NodeId::from("n"), lease_until_ms: 0 }));
    world.suspend(&held, 1);
    world.delete("b");
}

/// Where a child that is killed right after its pin left it. Runs itself anew, since a fault point ends the process.
#[test]
fn a_child_that_is_killed_after_its_pin_leaves_just_that() {
    const FOLDER: &str = "OFFSHOOT_TEST_PIN_STORE";
    let name = "store::collect::tests::steps::a_child_that_is_killed_after_its_pin_leaves_just_that";
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let entropy = Entropy::seeded(9);
    let open = |folder: &std::path::Path| {
        let store = crate::store::Store::open(&format!("file://{}", folder.display())).expect("opens");
        Catalog::new(store, entropy.clone())
    };
    let pin = |catalog: &Catalog| {
        runtime.block_on(async {
            let held = create(catalog, head("parent", &BaseId::from("b"), 1, &entropy, 0)).await?;
            let manifest = upload(catalog, &held, Vec::new(), 1, &entropy).await?;
            catalog.pin(&manifest, &BranchId::from("child"), 0).await
        })
    };
    if let Some(folder) = std::env::var_os(FOLDER) {
        pin(&open(folder.as_ref())).expect("pins, unless it ends before");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let child = std::process::Command::new(std::env::current_exe().expect("this program has a path"))
        .args(["--exact", name, "--nocapture"])
        .env(FOLDER, folder.path())
        .env("OFFSHOOT_FAULT", "pin-put")
        .output()
        .expect("runs");
    assert!(String::from_utf8_lossy(&child.stderr).contains("ending at pin-put"), "{child:?}");
    let catalog = open(folder.path());
    let pins = runtime.block_on(catalog.store().list(keys::PINS)).expect("lists");
    assert_eq!(pins.len(), 1);
    // Whoever comes next is not in its way, and a collector reads it.
    let clock = Clock::Simulated(Arc::new(AtomicU64::new(0)));
    let collector = Collector::new(catalog, clock, GRACE).expect("long enough");
    runtime.block_on(collector.dry_run()).expect("reads the pin");
}
