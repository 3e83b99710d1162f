//! Raw bases of a masked project: in a store of their own, out of reach of who serves, and as what masked bases are made of.

use crate::fixture::*;
use nix::sys::signal::Signal;

const RAW_STORE: &str = "OFFSHOOT_RAW_STORE_URL";

/// The shop with a raw base. Who imports knows the raw store; the node that serves does not.
fn with_raw_base() -> Masked {
    let mut masked = Masked::shop(&shop_rules("", ""));
    let url = format!("file://{}", masked.scratch.join("raw-store").display());
    masked.node.set_environment(RAW_STORE, &url);
    masked.node.succeed(&["import", "shop", "--raw", "--from", &masked.source.url(POSTGRES)]);
    masked
}

/// Bases in the raw store that there is anything of. A store of files leaves folders.
fn bases_with_objects(masked: &Masked) -> usize {
    fn is_any(place: &std::path::Path) -> bool {
        place.is_file() || place.read_dir().is_ok_and(|inside| inside.flatten().any(|entry| is_any(&entry.path())))
    }
    let folder = masked.scratch.join("raw-store/v1/project/shop/base");
    folder.read_dir().expect("the raw store has a base").flatten().filter(|base| is_any(&base.path())).count()
}

#[test]
fn a_raw_base_is_masked_when_its_source_is_gone() {
    let mut masked = with_raw_base();
    let raw: Vec<String> =
        masked.source.psql("shop", "select email from customers").lines().map(str::to_owned).collect();
    assert!(masked.node.bases().is_empty(), "nothing to branch from is in the store");
    let listed = masked.node.succeed(&["base", "list", "shop", "--raw", "--json"]);
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).expect("it is JSON");
    assert!(listed.len() == 1 && listed[0]["masking"].is_null(), "{listed:?}");
    masked.node.succeed(&["fsck", "--raw"]);
    masked.source.stop();

    masked.node.succeed(&["import", "shop", "--from-raw"]);
    let base = &masked.node.bases()[0];
    assert!(base["masking"]["rows"].as_u64().is_some_and(|rows| rows > 3000), "{base}");
    assert!(base["source"].as_str().is_some_and(|source| source.starts_with("raw base ")), "{base}");
    assert_eq!(masked.node.data_dir().join("import").read_dir().expect("it was made").count(), 0);
    assert_eq!(masked.node.processes(), Vec::<i32>::new());
    assert_eq!(mounts_below(masked.node.data_dir()), Vec::<std::path::PathBuf>::new());

    masked.reconfigure(masked_config());
    std::fs::rename(masked.scratch.join("raw-store"), masked.scratch.join("out-of-reach")).expect("same disk");
    masked.node.start();
    let emails = masked.psql("shop@x", "select email from customers");
    assert_eq!(emails.lines().count(), raw.len());
    assert!(emails.lines().all(|email| !raw.contains(&email.to_owned())));
    check_clean(&masked.url("shop@x"));
}

#[test]
fn who_serves_is_asked_for_no_raw_base_and_gives_none() {
    let mut masked = with_raw_base();
    masked.node.start();
    let refused = try_psql(&masked.url("shop@x"), "select 1").expect_err("there is no masked base");
    assert!(refused.contains("base"), "{refused}");
    assert!(masked.node.log().contains("raw store"), "a node that serves is told that it knows too much");
    let error = masked.node.fail(&["import", "shop", "--raw", "--from-raw"]);
    assert!(error.contains("cannot be used with"), "{error}");
    let error = masked.node.fail(&["import", "shop", "--from-raw", "--method", "files"]);
    assert!(error.contains("--method"), "{error}");

    // Without rules what is copied would be raw where branches are made.
    let store = format!("file://{}", masked.scratch.join("raw-store").display());
    masked.reconfigure(config_with(""));
    masked.node.set_environment(RAW_STORE, &store);
    let error = masked.node.fail(&["import", "shop", "--from-raw"]);
    assert!(error.contains("has no masking"), "{error}");
}

#[test]
fn without_a_raw_store_or_base_the_error_says_what_to_do() {
    let mut masked = Masked::shop(&shop_rules("", ""));
    let from = masked.source.url(POSTGRES);
    for arguments in [vec!["import", "shop", "--raw", "--from", &from], vec!["import", "shop", "--from-raw"]] {
        assert!(masked.node.fail(&arguments).contains("[raw_store]"));
    }
    masked.node.set_environment(RAW_STORE, &format!("file://{}", masked.scratch.join("raw-store").display()));
    assert!(masked.node.fail(&["import", "shop", "--from-raw"]).contains("--raw"));
    assert!(masked.node.fail(&["masking", "check", "shop", "--from-raw"]).contains("--raw"));
}

#[test]
fn a_stopped_data_directory_is_masked_by_way_of_a_raw_base() {
    let mut masked = Masked::shop(&shop_rules("", ""));
    masked.node.set_environment(RAW_STORE, &format!("file://{}", masked.scratch.join("raw-store").display()));
    masked.source.stop();
    let folder = masked.source.data_dir().display().to_string();
    assert!(masked.node.fail(&["import", "shop", "--from", &folder]).contains("--raw"));
    masked.node.succeed(&["import", "shop", "--raw", "--from", &folder]);
    let checked = masked.node.succeed(&["masking", "check", "shop", "--from-raw"]);
    assert!(checked.contains("card_number") && !checked.contains("problem"), "{checked}");
    let shown = masked.node.succeed(&["masking", "preview", "shop", "--from-raw", "--table", "customers"]);
    assert!(shown.contains("before") && shown.contains("after"), "{shown}");
    assert_eq!(mounts_below(masked.node.data_dir()), Vec::<std::path::PathBuf>::new());
    assert_eq!(masked.node.processes(), Vec::<i32>::new());
    masked.node.succeed(&["import", "shop", "--from-raw", "--streams", "1"]);
    assert_eq!(masked.node.bases().len(), 1);
    assert_eq!(bases_with_objects(&masked), 1, "the raw store has one");
}

#[test]
fn a_killed_raw_import_is_cleared_from_the_raw_store() {
    let mut masked = Masked::shop(&shop_rules("", ""));
    masked.node.set_environment(RAW_STORE, &format!("file://{}", masked.scratch.join("raw-store").display()));
    masked.node.set_environment("OFFSHOOT_FAULT", "base-staged");
    let from = masked.source.url(POSTGRES);
    let error = masked.node.fail(&["import", "shop", "--raw", "--from", &from]);
    assert!(error.contains("ending at"), "{error}");
    assert_eq!(bases_with_objects(&masked), 1, "packs of a base were put");
    masked.node.set_environment("OFFSHOOT_FAULT", "");
    masked.import();
    assert_eq!(bases_with_objects(&masked), 1, "what is in another store is not this import's");
    masked.node.succeed(&["import", "shop", "--raw", "--from", &from]);
    assert_eq!(bases_with_objects(&masked), 1, "it was cleared");
    assert_eq!(masked.node.data_dir().join("import-raw").read_dir().expect("it was made").count(), 0);
}

#[test]
fn a_signal_leaves_nothing_raw_behind() {
    let masked = with_raw_base();
    let import = masked.node.spawn(&["import", "shop", "--from-raw"]);
    let folder = masked.node.data_dir().join("import");
    let raw = until("the raw compute to run", 60, || {
        let raw = folder.read_dir().ok()?.flatten().next()?.path().join("raw");
        raw.join("run/.s.PGSQL.5432").exists().then_some(raw)
    });
    signal(import.id() as i32, Signal::SIGTERM);
    let output = import.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("interrupted"), "{said}");
    assert!(!raw.exists(), "raw pages are left");
    assert_eq!(masked.node.processes(), Vec::<i32>::new());
    assert_eq!(mounts_below(masked.node.data_dir()), Vec::<std::path::PathBuf>::new());
    masked.node.succeed(&["import", "shop", "--from-raw"]);
    assert_eq!(masked.node.bases().len(), 1);
}
