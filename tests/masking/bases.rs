//! What a masked import says of its base, leaves behind, and gives again when it is run again.

use super::clinic::report;
use crate::fixture::contents;
use crate::fixture::*;

#[test]
fn an_import_says_nothing_raw_and_leaves_nothing_behind() {
    let masked = Masked::clinic_of(Major::Fifteen);
    let output = masked.node.run(&["import", "shop", "--from", &masked.source.url(POSTGRES)]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let secrets = Secrets::load();
    secrets.assert_none_in("its output", &[output.stdout, output.stderr].concat());
    secrets.below(masked.node.data_dir()).assert_none("the node's folder");
    let import = masked.node.data_dir().join("import");
    let left: Vec<_> = import.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(masked.node.processes(), Vec::<i32>::new());
    assert_eq!(mounts_below(masked.node.data_dir()), Vec::<std::path::PathBuf>::new());
    assert_eq!(
        masked.source.psql("postgres", "select count(*) from pg_stat_activity where backend_type = 'client backend'"),
        "1",
        "no session but this one"
    );
}

#[test]
fn a_masked_base_says_what_was_done_and_a_raw_one_does_not() {
    let masked = Masked::served_clinic_of(Major::Fifteen);
    let counts = CLINIC_DATABASES.map(|database| contents::row_counts(&masked.url(&format!("{database}@x"))));
    let rows: u64 = counts.iter().flatten().map(|(_, count)| count).sum();
    let base = masked.node.bases().remove(0);
    let seal = &base["masking"];
    assert_eq!(seal["rows"], rows, "{seal}");
    let without_rows = ["public.rows_none", "literal.partition_of_a_person", "literal.partition_of_others"];
    let tables = counts.iter().flatten().filter(|(name, _)| !without_rows.contains(&name.as_str())).count();
    assert_eq!(seal["tables"], tables, "{seal}");
    let digits = |key: &str| {
        let text = seal[key].as_str().unwrap_or_else(|| panic!("{key} is not in {seal}"));
        assert!(text.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
        text.len()
    };
    assert_eq!((digits("rules_sha256"), digits("key_id"), digits("signer")), (64, 16, 64));
    assert!(!base.to_string().contains(MASKING_KEY));
    let report = report(&masked);
    for key in ["rules_sha256", "key_id", "signer"] {
        assert_eq!(report[key], seal[key]);
    }
    let text = report.to_string();
    let columns = text.matches("\"because\":\"listed\"").count();
    assert!(
        columns > 50 && text.matches("\"searched\":").count() > columns / 2,
        "each masked column says what was searched"
    );
    assert!(
        report["scan"]["values"].as_u64().expect("a number") > 100,
        "the scan searched for values: {}",
        report["scan"]
    );

    let raw = Masked::new(SourceOptions::of(Major::Fifteen), config_with(""));
    raw.import();
    assert!(raw.node.bases()[0]["masking"].is_null(), "{:?}", raw.node.bases());
}

#[test]
fn a_key_gives_the_same_values_again_and_another_key_others() {
    let mut masked = Masked::shop(&shop_rules("", ""));
    let digest = |masked: &Masked, branch: &str| {
        let of = |column: &str| {
            masked.psql(branch, &format!("select md5(string_agg({column}, ',' order by id)) from customers"))
        };
        ["name", "email", "phone", "card_number", "note", "city"].map(of)
    };
    let imported = |masked: &mut Masked, branch: &str| {
        masked.import();
        masked.node.start();
        let digest = digest(masked, branch);
        assert!(masked.branch(branch).parent.contains(&masked.node.bases().len().to_string()));
        masked.node.stop();
        digest
    };
    let (first, again) = (imported(&mut masked, "shop@a"), imported(&mut masked, "shop@b"));
    assert_eq!(first, again);
    masked.node.set_environment(KEY_VARIABLE, OTHER_MASKING_KEY);
    let other = imported(&mut masked, "shop@c");
    for (column, (value, other)) in first.iter().zip(&other).enumerate() {
        // A note is redacted and a city kept, whatever the key.
        assert_eq!(value == other, column >= 4, "column {column}");
    }
    let bases = masked.node.bases();
    let ids: Vec<&serde_json::Value> = bases.iter().map(|base| &base["masking"]["key_id"]).collect();
    assert!(ids[0] == ids[1] && ids[1] != ids[2], "{ids:?}");
}

#[test]
fn a_refresh_makes_version_2_and_old_branches_stay() {
    let mut masked = Masked::shop(&shop_rules("", ""));
    masked.import();
    masked.node.start();
    let old = masked.psql("shop@old", "select max(email) from customers");
    let hold = Hold::open(&masked.url("shop@old"));
    masked.source.psql("shop", "create table news as select 1 as n");
    masked.import();
    let mut n = 0;
    until("a new branch to come from base 2", 20, || {
        n += 1;
        try_psql(&masked.url(&format!("shop@new-{n}")), "select n from news").ok()
    });
    assert!(masked.branch(&format!("shop@new-{n}")).parent.contains('2'));
    assert_eq!(masked.psql(&format!("shop@new-{n}"), "select max(email) from customers"), old, "the same key");
    drop(hold);
    assert_eq!(
        masked.psql("shop@old", "select to_regclass('news') is null, max(email) from customers"),
        format!("t|{old}")
    );
    assert!(masked.branch("shop@old").parent.contains('1'));
}
