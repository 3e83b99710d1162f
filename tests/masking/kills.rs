//! A masked import that ends at each of its steps, as `kill -9` would end it: no base is there afterwards, nothing can be reached, and the next import
//! finds its way.

use crate::fixture::*;
use offshoot::model::fault::FaultPoint;

fn ends_at(point: FaultPoint) {
    let mut masked = Masked::shop(&shop_rules("", ""));
    masked.node.set_environment("OFFSHOOT_FAULT", point.name());
    let error = masked.node.fail(&["import", "shop", "--from", &masked.source.url(POSTGRES)]);
    assert!(error.contains(&format!("OFFSHOOT_FAULT: ending at {}", point.name())), "{error}");
    masked.node.set_environment("OFFSHOOT_FAULT", "");
    assert!(masked.node.bases().is_empty(), "a base is listed after {}", point.name());

    masked.node.start();
    let refused = try_psql(&masked.url("shop@x"), "select 1").expect_err("there is nothing to branch from");
    assert!(refused.contains("base"), "{refused}");

    // Beside a running server, as people do it.
    masked.import();
    assert_eq!(masked.node.bases().len(), 1);
    let raw = masked.source.psql("shop", "select email from customers order by id limit 1");
    let found = masked.psql("shop@x", &format!("select count(*) from customers where email = '{raw}'"));
    assert_eq!(found, "0");
    let count = "select count(*) from customers";
    assert_eq!(masked.psql("shop@x", count), masked.source.psql("shop", count));
    let left = masked.node.data_dir().join("import").read_dir().expect("imports have a folder").count();
    assert_eq!(left, 0, "the killed import's folder is still there");
}

macro_rules! each_step {
    ($($test:ident: $point:ident,)*) => {
        $(
            #[test]
            fn $test() {
                ends_at(FaultPoint::$point);
            }
        )*
    };
}

each_step! {
    the_schema_is_restored: SchemaRestored,
    a_table_is_copied: TableCopied,
    rows_are_copied: RowsCopied,
    the_cluster_is_copied: ClusterCopied,
    the_cluster_is_searched: ClusterSearched,
    the_base_is_staged: BaseStaged,
    the_report_is_put: ReportPut,
    the_manifest_is_put: BaseManifestPut,
}

/// An import of the source that is killed when so many tables have their rows. Returns what `import` needs to be told.
fn killed_after(masked: &mut Masked, tables: usize) -> Vec<String> {
    let from = masked.source.url(POSTGRES);
    killed_as(masked, &["import", "shop", "--streams", "1", "--from", &from], tables)
}

fn killed_as(masked: &mut Masked, arguments: &[&str], tables: usize) -> Vec<String> {
    masked.node.set_environment("OFFSHOOT_FAULT", &format!("{}:{tables}", FaultPoint::TableCopied.name()));
    let error = masked.node.fail(arguments);
    assert!(error.contains("ending at table-copied"), "{error}");
    masked.node.set_environment("OFFSHOOT_FAULT", "");
    arguments.iter().map(|argument| (*argument).to_owned()).collect()
}

/// What an import says on its way.
fn progress(masked: &Masked, arguments: &[String]) -> String {
    let output = masked.node.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

fn digests(masked: &Masked, branch: &str) -> String {
    ["shop", "analytics"].map(|database| contents::table_digests(&masked.url(&format!("{database}@{branch}")))).concat()
}

/// The shop, whose source's own cleaning writes nothing meanwhile.
fn quiet_shop() -> Masked {
    let masked = Masked::new(SourceOptions::of(Major::Fifteen).conf("autovacuum = off\n"), masked_config());
    masked.write_rules(&shop_rules("", ""));
    masked
}

#[test]
fn an_import_goes_on_after_the_last_finished_table() {
    let mut masked = quiet_shop();
    masked.import();
    masked.node.start();
    let wanted = digests(&masked, "in-one-go");
    masked.node.stop();
    masked.node.wipe();

    let arguments = killed_after(&mut masked, 3);
    // A node that starts in between ends what still runs, and leaves what is there.
    masked.node.start();
    assert_eq!(processes_below(&masked.node.data_dir().join("import")), Vec::<i32>::new());
    let said = progress(&masked, &arguments);
    assert!(said.contains("cut off: 3 tables are there"), "{said}");
    until("the base to be seen", 20, || try_psql(&masked.url("shop@resumed"), "select 1").ok());
    assert_eq!(digests(&masked, "resumed"), wanted);
    assert!(masked.node.data_dir().join("import").read_dir().expect("it was made").next().is_none());
    check_clean(&masked.url("shop@resumed"));
}

#[test]
fn an_import_starts_over_when_the_source_or_the_rules_have_changed() {
    let mut masked = quiet_shop();
    let arguments = killed_after(&mut masked, 2);
    masked.source.psql("shop", "insert into products (sku, name, price, stock) values ('new', 'new', 1, 1)");
    let said = progress(&masked, &arguments);
    assert!(said.contains("starting over: the source has changed"), "{said}");

    killed_after(&mut masked, 2);
    masked.write_rules(&shop_rules("", "").replace("\"redact\"", "\"null\""));
    let said = progress(&masked, &arguments);
    assert!(!said.contains("cut off") && !said.contains("starting over"), "{said}");
    masked.node.start();
    assert_eq!(masked.psql("shop@x", "select count(*) from customers where note is not null"), "0");
    assert_eq!(masked.psql("shop@x", "select count(*) from products where sku = 'new'"), "1");
    assert!(masked.node.data_dir().join("import").read_dir().expect("it was made").next().is_none());
}

#[test]
fn what_a_definition_quotes_is_not_forgotten_when_an_import_goes_on() {
    let mut masked = quiet_shop();
    masked.source.psql("shop", "update customers set note = 'likes plain things' where id = 7");
    masked.source.psql("shop", "create table hints (id int, text text default 'likes plain things')");
    let arguments = killed_after(&mut masked, 5);
    let error = masked.node.fail(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(error.contains("public.hints") || error.contains("hints"), "{error}");
    assert!(!error.contains("plain things"), "{error}");
}

#[test]
fn a_source_that_goes_away_leaves_what_was_copied_to_the_next_import() {
    let mut masked = quiet_shop();
    for (table, rows) in [("wide", 150_000), ("narrower", 120_000)] {
        let text = "repeat(md5(i::text), 40) as text";
        masked
            .source
            .psql("shop", &format!("create table {table} as select i as id, {text} from generate_series(1, {rows}) i"));
    }
    let arguments = ["import", "shop", "--streams", "1", "--from", &masked.source.url(POSTGRES)].map(str::to_owned);
    let import = masked.node.spawn(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let folder = masked.node.data_dir().join("import");
    until("the first table to be copied", 60, || {
        let record = folder.read_dir().ok()?.flatten().next()?.path().join("resumable");
        (std::fs::read_to_string(record).ok()?.lines().count() > 1).then_some(())
    });
    masked.source.crash();
    let output = import.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("what was copied is kept"), "{said}");
    assert_eq!(folder.read_dir().expect("it is there").count(), 1, "what was copied is kept");
    assert_eq!(processes_below(&folder), Vec::<i32>::new());
    masked.source.restart();
    let said = progress(&masked, &arguments);
    assert!(said.contains("cut off: 1 tables are there"), "{said}");
    masked.node.start();
    assert_eq!(masked.psql("shop@x", "select count(*) from wide"), "150000");
    assert!(folder.read_dir().expect("it was made").next().is_none());
}

#[test]
fn imports_of_what_does_not_change_go_on_whatever_happens_to_the_source() {
    let mut masked = quiet_shop();
    let dump = masked.scratch.join("dump").display().to_string();
    contents::dump(&masked.source.database(POSTGRES, "shop"), &["--format=custom", &format!("--file={dump}")]);
    let store = format!("file://{}", masked.scratch.join("raw-store").display());
    masked.node.set_environment("OFFSHOOT_RAW_STORE_URL", &store);
    masked.node.succeed(&["import", "shop", "--raw", "--from", &masked.source.url(POSTGRES)]);
    masked.source.stop();
    for side in [["--from", &dump].as_slice(), &["--from-raw"]] {
        let arguments = [&["import", "shop", "--streams", "1"], side].concat();
        let arguments = killed_as(&mut masked, &arguments, 2);
        let said = progress(&masked, &arguments);
        assert!(said.contains("cut off: 2 tables are there"), "{side:?}: {said}");
        assert_eq!(masked.node.processes(), Vec::<i32>::new());
        assert_eq!(mounts_below(masked.node.data_dir()), Vec::<std::path::PathBuf>::new());
    }
    masked.node.start();
    assert_eq!(masked.psql("shop@x", "select count(*) from customers"), "1500");
    check_clean(&masked.url("shop@x"));
}
