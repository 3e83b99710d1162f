//! Deleting branches, collecting what nothing refers to any more, and checking what is left, through the binary on a real store.

mod fixture;

use fixture::*;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// More than the default grace.
const DAY: Duration = Duration::from_secs(25 * 3600);

/// A shop with `names` asleep, each with a table of its own.
fn shop_with(names: &[&str]) -> Shop {
    let shop = Fixture::new().idle_timeout("1s").start();
    names.iter().for_each(|name| sleeps_with_table(&shop, name));
    shop
}

fn sleeps_with_table(shop: &Shop, name: &str) {
    shop.psql(name, "create table own as select n, repeat('x', 100) as t from generate_series(1, 2000) n");
    shop.node.wait_asleep(name);
}

fn store(shop: &Shop) -> PathBuf {
    shop.scratch.join("store")
}

/// Keys of all objects, sorted.
fn keys(store: &Path) -> Vec<String> {
    let mut keys = Vec::new();
    let mut folders = vec![store.join("v1")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the store is readable") {
            let path = entry.expect("an entry is readable").path();
            match path.is_dir() {
                true => folders.push(path),
                false => keys.push(path.strip_prefix(store).expect("below").to_string_lossy().into_owned()),
            }
        }
    }
    keys.sort();
    keys
}

/// Makes every object as much older, by the store's clock, which is the file system's.
fn age(store: &Path, by: Duration) {
    for key in keys(store) {
        let file = fs::File::open(store.join(key)).expect("an object is there");
        let modified = file.metadata().expect("a file has a date").modified().expect("it has");
        file.set_modified(modified - by).expect("a date can be set");
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

fn objects(report: &Value, fate: &str) -> u64 {
    let rows = report["rows"].as_array().expect("rows").iter().filter(|row| row["fate"] == fate);
    rows.map(|row| row["objects"].as_u64().expect("a number")).sum()
}

/// Condemns, waits a grace, deletes.
fn collect(shop: &Shop) -> Value {
    for _ in 0..2 {
        age(&store(shop), DAY);
        shop.node.succeed(&["gc"]);
    }
    json(&shop.node.succeed(&["gc", "--json"]))
}

fn check_clean(shop: &Shop) {
    let report = json(&shop.node.succeed(&["fsck", "--json"]));
    assert!(report["findings"].as_array().expect("a list").is_empty(), "{report:#}");
    assert!(report["unread"].as_array().expect("a list").is_empty(), "{report:#}");
}

#[test]
fn a_deleted_branch_is_gone_at_once_and_its_objects_after_two_passes() {
    let shop = shop_with(&["shop@gone", "shop@kept"]);
    shop.node.succeed(&["branch", "delete", "shop@gone"]);
    assert_eq!(shop.node.branches().iter().map(|branch| branch.name.as_str()).collect::<Vec<_>>(), ["shop@kept"]);
    assert!(shop.node.fail(&["branch", "delete", "shop@gone"]).contains("no branch shop@gone"));
    assert!(shop.node.fail(&["gc", "--grace", "10m"]).contains("too short"));

    age(&store(&shop), DAY);
    let before = keys(&store(&shop));
    let dry = json(&shop.node.succeed(&["gc", "--dry-run", "--json"]));
    assert_eq!(keys(&store(&shop)), before, "a dry run writes nothing");
    let condemned = objects(&dry, "condemned");
    assert!(condemned >= 2, "a manifest and a layer at least: {dry:#}");
    assert!(shop.node.succeed(&["gc", "--dry-run"]).contains("would be condemned"));
    assert_eq!(objects(&json(&shop.node.succeed(&["gc", "--json"])), "condemned"), condemned);
    assert_eq!(objects(&json(&shop.node.succeed(&["gc", "--json"])), "waiting"), condemned, "no sooner than a grace");
    let there = |keys: &[String]| keys.iter().filter(|key| key.starts_with("v1/branch/")).count() as u64;
    assert_eq!(there(&keys(&store(&shop))), there(&before));
    age(&store(&shop), DAY);
    assert_eq!(objects(&json(&shop.node.succeed(&["gc", "--json"])), "deleted"), condemned);
    assert_eq!(there(&keys(&store(&shop))), there(&before) - condemned);
    assert!(!keys(&store(&shop)).iter().any(|key| key.starts_with("v1/gc")), "nothing of the collector stays");

    check_clean(&shop);
    assert_eq!(shop.psql("shop@kept", "select count(*) from own"), "2000");
    // The name is free, and the one who has it next has nothing of the former.
    assert_eq!(shop.psql("shop@gone", "select to_regclass('own') is null"), "t");
    sleeps_with_table(&shop, "shop@gone");
    assert_eq!(shop.psql("shop@gone", "select count(*) from own"), "2000");
    shop.node.wait_asleep("shop@gone");
    check_clean(&shop);
}

#[test]
fn a_branch_made_anew_over_a_deleted_one_survives_a_killed_daemon() {
    let mut shop = shop_with(&["shop@x"]);
    shop.node.succeed(&["branch", "delete", "shop@x"]);
    shop.psql("shop@x", "create table anew as select 7 as n");
    shop.node.kill();
    shop.node.start();
    assert_eq!(shop.psql("shop@x", "select n from anew"), "7");
}

#[test]
fn an_awake_branch_is_not_deleted() {
    let shop = Fixture::new().start();
    shop.psql("shop@x", "create table own as select 1");
    let refused = shop.node.fail(&["branch", "delete", "shop@x"]);
    assert!(refused.contains("offshoot branch suspend shop@x"), "{refused}");
    shop.node.succeed(&["branch", "suspend", "shop@x"]);
    shop.node.succeed(&["branch", "delete", "shop@x"]);
    assert!(shop.node.branches().is_empty());
}

#[test]
fn deleted_branches_take_no_room() {
    let shop = Fixture::new().idle_timeout("1s").project("max_branches = 1\n").start();
    for round in 0..3 {
        let name = format!("shop@round-{round}");
        sleeps_with_table(&shop, &name);
        try_psql(&shop.url("shop@other"), "select 1").expect_err("there is room for one");
        shop.node.succeed(&["branch", "delete", &name]);
    }
}

/// Dates, listings and conditional puts of another backend than the file system.
#[test]
fn collecting_and_checking_work_on_s3() {
    let shop = Fixture::new().moto().idle_timeout("1s").start();
    ["shop@gone", "shop@kept"].iter().for_each(|name| sleeps_with_table(&shop, name));
    check_clean(&shop);
    shop.node.succeed(&["branch", "delete", "shop@gone"]);
    assert_eq!(shop.node.branches().len(), 1);
    let dry = json(&shop.node.succeed(&["gc", "--dry-run", "--json"]));
    let report = json(&shop.node.succeed(&["gc", "--json"]));
    assert!(objects(&report, "waiting") >= 2, "its objects are young: {report:#}");
    assert_eq!(report, dry);
    check_clean(&shop);
    assert_eq!(shop.psql("shop@gone", "select to_regclass('own') is null"), "t");
    assert_eq!(shop.psql("shop@kept", "select count(*) from own"), "2000");
}

/// Runs `arguments` so that they end at a fault point.
fn killed_at(shop: &Shop, point: &str, arguments: &[&str]) {
    let environment = vec![("OFFSHOOT_FAULT".to_owned(), point.to_owned())];
    let config = NodeConfig { environment, ..NodeConfig::default() };
    let node = Node::new(&shop.scratch, "killed", &config);
    let output = node.run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains(&format!("OFFSHOOT_FAULT: ending at {point}")), "{point} was not passed: {errors}");
}

#[test]
fn a_deletion_that_is_killed_has_happened() {
    let shop = shop_with(&["shop@x"]);
    killed_at(&shop, "tombstone-put", &["branch", "delete", "shop@x"]);
    assert!(shop.node.branches().is_empty());
    check_clean(&shop);
}

#[test]
fn a_collector_that_is_killed_anywhere_is_taken_up_by_the_next() {
    let shop = shop_with(&["shop@a", "shop@b"]);
    let store = store(&shop);
    let heads: Vec<String> = keys(&store).into_iter().filter(|key| key.ends_with("/head")).collect();
    let head = heads.iter().find(|key| key.contains("/branch/a/")).expect("a's head");
    let former = fs::read(store.join(head)).expect("a head is readable");
    shop.node.succeed(&["branch", "delete", "shop@a"]);

    age(&store, DAY);
    killed_at(&shop, "condemn-put", &["gc"]);
    // In use again, as if a child had been faster than the list.
    let tombstone = fs::read(store.join(head)).expect("a head is readable");
    fs::write(store.join(head), former).expect("a head is writable");
    age(&store, DAY);
    killed_at(&shop, "condemn-retired", &["gc"]);
    check_clean(&shop);
    fs::write(store.join(head), tombstone).expect("a head is writable");
    age(&store, DAY);
    killed_at(&shop, "condemn-removed", &["gc"]);
    shop.node.succeed(&["gc"]);
    age(&store, DAY);
    killed_at(&shop, "garbage-deleted", &["gc"]);
    check_clean(&shop);
    let report = collect(&shop);
    assert_eq!(
        objects(&report, "deleted") + objects(&report, "condemned") + objects(&report, "waiting"),
        0,
        "{report:#}"
    );
    assert!(!keys(&store).iter().any(|key| key.starts_with("v1/gc")), "{:?}", keys(&store));
    check_clean(&shop);
    assert_eq!(shop.psql("shop@b", "select count(*) from own"), "2000");
}

/// One object of a store, by its place.
struct Damage<'a> {
    shop: &'a Shop,
    store: PathBuf,
}

impl Damage<'_> {
    /// What fsck says: exit status, and each finding's object and branches.
    fn fsck(&self, arguments: &[&str]) -> (i32, Vec<(String, Vec<String>)>) {
        let output = self.shop.node.run(&[&["fsck", "--json"], arguments].concat());
        let report = json(&String::from_utf8_lossy(&output.stdout));
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let finding = |finding: &Value| {
            let branches = finding["branches"].as_array().expect("a list").iter().map(text).collect();
            (text(&finding["object"]), branches)
        };
        let findings = report["findings"].as_array().expect("a list").iter().map(finding).collect();
        (output.status.code().expect("it ends by itself"), findings)
    }

    /// Changes objects, looks what fsck finds, and puts them back.
    fn expect(&self, what: &str, changed: &[&str], change: impl Fn(), branches: &[&str]) {
        let before: Vec<Vec<u8>> =
            changed.iter().map(|key| fs::read(self.store.join(key)).expect("it is there")).collect();
        change();
        let (status, findings) = self.fsck(&[]);
        for (key, bytes) in changed.iter().zip(before) {
            fs::write(self.store.join(key), bytes).expect("the store is writable");
        }
        let named: BTreeSet<&str> = findings.iter().map(|(object, _)| object.as_str()).collect();
        assert_eq!(named, changed.iter().copied().collect(), "{what}");
        let touched: BTreeSet<&str> = findings.iter().flat_map(|(_, touched)| touched).map(String::as_str).collect();
        assert_eq!(touched, branches.iter().copied().collect(), "{what}");
        assert_eq!(status, 1, "{what}");
    }

    /// Flips a bit, cuts off, and removes.
    fn try_all(&self, key: &str, branches: &[&str]) {
        self.try_bytes(key, branches);
        let path = self.store.join(key);
        self.expect(&format!("{key} removed"), &[key], || fs::remove_file(&path).expect("it is there"), branches);
    }

    /// Flips a bit and cuts off.
    fn try_bytes(&self, key: &str, branches: &[&str]) {
        let path = self.store.join(key);
        let bytes = fs::read(&path).expect("it is there");
        // The end of a pack may be what the private start of its import wrote anew elsewhere: nothing refers to it.
        let end = if key.contains("/pack/") { bytes.len() / 4 } else { bytes.len() - 3 };
        for at in [bytes.len() / 3, bytes.len() / 2, end] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            let flip = || fs::write(&path, &flipped).expect("the store is writable");
            self.expect(&format!("bit flipped at {at} in {key}"), &[key], flip, branches);
        }
        let cut = || fs::write(&path, &bytes[..bytes.len() / 2]).expect("the store is writable");
        self.expect(&format!("{key} cut off"), &[key], cut, branches);
    }

    fn swap(&self, a: &str, b: &str, branches: &[&str]) {
        let swap = || {
            let (first, second) = (self.store.join(a), self.store.join(b));
            let bytes = fs::read(&first).expect("it is there");
            fs::copy(&second, &first).expect("the store is writable");
            fs::write(&second, bytes).expect("the store is writable");
        };
        self.expect(&format!("{a} and {b} swapped"), &[a, b], swap, branches);
    }
}

#[test]
fn every_damage_is_found_where_it_is_and_nothing_else() {
    let shop = Fixture::new().idle_timeout("1s").live_source().start();
    sleeps_with_table(&shop, "shop@a");
    let damage = Damage { shop: &shop, store: store(&shop) };
    let all =
        |part: &str| -> Vec<String> { keys(&damage.store).into_iter().filter(|key| key.contains(part)).collect() };
    let first_base =
        all("/base/").iter().find(|key| key.ends_with("/manifest")).expect("a base").replace("/manifest", "");
    let first = all("v1/branch/")[0].split('/').nth(2).expect("an id").to_owned();
    let head = "v1/project/shop/branch/a/head";
    let older = fs::read(damage.store.join(head)).expect("a head is readable");
    shop.psql("shop@a", "insert into own select n, repeat('y', 100) from generate_series(1, 3000) n");
    shop.node.wait_asleep("shop@a");
    sleeps_with_table(&shop, "shop@b");
    shop.node.import(&shop.source().url(POSTGRES));
    pause(Duration::from_secs(2));
    sleeps_with_table(&shop, "shop@c");
    sleeps_with_table(&shop, "shop@gone");
    shop.node.succeed(&["branch", "delete", "shop@gone"]);
    assert_eq!(damage.fsck(&[]), (0, vec![]), "a sound store is sound");
    assert!(shop.node.succeed(&["fsck"]).contains("0 damaged, 0 not read"));

    let newest = |part: String| all(&part).pop().expect("one at least");
    let layer = newest(format!("v1/branch/{first}/layer/"));
    let manifest = newest(format!("v1/branch/{first}/manifest/"));
    damage.try_all(&layer, &["shop@a"]);
    damage.try_all(&manifest, &["shop@a"]);
    damage.try_all(head, &["shop@a"]);
    damage.try_all("v1/project/shop/head", &["shop@a", "shop@b", "shop@c"]);
    for part in ["manifest", "index", "pack/00000"] {
        damage.try_all(&format!("{first_base}/{part}"), &["shop@a", "shop@b"]);
    }

    // A base can do without one.
    damage.try_bytes(&format!("{first_base}/boot"), &["shop@a", "shop@b"]);

    let is_second = |key: &String| key.ends_with("/manifest") && !key.starts_with(&first_base);
    let second_base = all("/base/").into_iter().find(is_second).expect("two bases").replace("/manifest", "");
    for part in ["manifest", "index", "pack/00000"] {
        let (one, other) = (format!("{first_base}/{part}"), format!("{second_base}/{part}"));
        damage.swap(&one, &other, &["shop@a", "shop@b", "shop@c"]);
    }
    damage.swap(head, "v1/project/shop/branch/b/head", &["shop@a", "shop@b"]);
    let of_b = |kind: &str| {
        let text = fs::read_to_string(damage.store.join("v1/project/shop/branch/b/head")).expect("a head is readable");
        let id = json(&text)["id"].as_str().expect("an id").to_owned();
        newest(format!("v1/branch/{id}/{kind}/"))
    };
    damage.swap(&layer, &of_b("layer"), &["shop@a", "shop@b"]);
    damage.swap(&manifest, &of_b("manifest"), &["shop@a", "shop@b"]);
    let roll_back = || fs::write(damage.store.join(head), &older).expect("the store is writable");
    damage.expect("a head rolled back", &[head], roll_back, &["shop@a"]);

    let path = damage.store.join(&layer);
    let bytes = fs::read(&path).expect("it is there");
    fs::remove_file(&path).expect("it is there");
    assert_eq!(damage.fsck(&["--branch", "shop@b"]), (0, vec![]), "what it does not need");
    assert_eq!(damage.fsck(&["--branch", "shop@a"]), (1, vec![(layer, vec!["shop@a".to_owned()])]));
    fs::write(&path, bytes).expect("the store is writable");

    // Of a newer version: no damage, but not read either.
    fs::write(damage.store.join(head), r#"{ "format": 9 }"#).expect("the store is writable");
    assert_eq!(damage.fsck(&[]).0, 2);
}
