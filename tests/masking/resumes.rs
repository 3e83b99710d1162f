//! An import that is killed or cut off goes on after the last finished table, wherever it was, and comes to the same base.

use crate::fixture::*;
use nix::sys::signal::Signal;
use offshoot::model::fault::FaultPoint;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

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

/// An expression over what it has computed itself would compute something else.
const LATE_RULES: &str = r#"
[database.shop.table."late.visits".column]
who = "user_name"
seen = { mask = "expression", sql = "md5(seen)" }
[database.shop.table."late.letters".column]
recipient = "user_name"
"#;

/// Rows that are added to an extension's own. It is there for PostgreSQL 18 only.
const EXTENSION: &str = "
    create extension offshoot_settings;
    insert into extension_settings select 'name ' || n, 'value ' || n from generate_series(1, 50) n;
    insert into extension_notes select 'note ' || n from generate_series(1, 50) n;";

/// The same with everything that comes after the rows.
fn late_shop(major: Major) -> Masked {
    let masked = Masked::new(SourceOptions::of(major).conf("autovacuum = off\n"), masked_config());
    masked.write_rules(&("comments = \"keep\"\nlarge_objects = \"keep\"\n".to_owned() + &shop_rules("", LATE_RULES)));
    if major == Major::Eighteen {
        masked.source.psql("shop", EXTENSION);
    }
    load(&masked.source, "shop", &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/masking/late.sql"), &[]);
    masked
}

/// All that a branch holds, as text.
fn holds(masked: &Masked, branch: &str) -> String {
    const QUERIES: [&str; 6] = [
        "select loid, pageno, md5(data) from pg_largeobject order by 1, 2",
        "select oid, lomowner::regrole, lomacl from pg_largeobject_metadata order by oid",
        "select datname, setrole::regrole, setconfig from pg_db_role_setting left join pg_database d on d.oid = setdatabase order by 1, 2",
        "select rolname, rolsuper, rolcreaterole, rolcanlogin from pg_roles order by 1",
        "select datname, datconnlimit, datistemplate, datacl from pg_database order by 1",
        "select attrelid::regclass, attname, attstorage, attcompression \
         from pg_attribute a join pg_class c on c.oid = attrelid \
         where attrelid >= 16384 and relnamespace <> 'pg_toast'::regnamespace order by 1, 2",
    ];
    let of = |database: &str| {
        let url = masked.url(&format!("{database}@{branch}"));
        let mut all = vec![contents::table_digests(&url), contents::materialized_views(&url)];
        all.extend(contents::sequences(&url));
        all.extend(QUERIES.map(|query| psql(&url, query)));
        all.extend(contents::definitions(&url, &[]).into_iter().map(|definition| definition.text));
        all.join("\n")
    };
    of("shop") + &of("analytics")
}

/// What the base holds that an import in one go makes; node and store forget it again.
fn holds_in_one_go(masked: &mut Masked) -> String {
    masked.import();
    masked.node.start();
    let holds = holds(masked, "in-one-go");
    forget(masked);
    holds
}

/// Empties a node that runs, and its store.
fn forget(masked: &mut Masked) {
    masked.node.stop();
    masked.node.wipe();
    std::fs::remove_dir_all(masked.node.store_dir()).expect("the folder is ours");
    std::fs::create_dir(masked.node.store_dir()).expect("the folder is ours");
}

/// As [`check_clean`], which makes an extension.
fn check_late(masked: &Masked, branch: &str) {
    masked.psql(branch, "begin read write; alter event trigger no_ddl disable; commit");
    check_clean(&masked.url(branch));
}

/// The folder of the one import that can be gone on with.
fn import_folder(masked: &Masked) -> PathBuf {
    let mut folders = masked.node.data_dir().join("import").read_dir().expect("imports have a folder").flatten();
    let folder = folders.next().expect("what was copied is kept").path();
    assert!(folders.next().is_none());
    folder
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
    assert!(!output.status.success() && said.contains("What was copied is kept"), "{said}");
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

fn comes_to_the_same_base(major: Major) {
    let mut masked = late_shop(major);
    let wanted = holds_in_one_go(&mut masked);
    let from = masked.source.url(POSTGRES);
    let arguments = ["import", "shop", "--streams", "1", "--from", &from];
    // Each goes on with what the one before has left. Of what is noted, the second time the first is committed.
    let with_rows = ["table-copied:4", "step-noted", "step-noted:2", "step-noted:2", "rows-copied"];
    let after_rows = [
        "step-noted",
        "step-committed",
        "step-noted",
        "step-committed",
        "keys-built:2",
        "keys-built:4",
        "cluster-copied",
        "cluster-searched",
        "base-staged",
        "report-put",
        "base-manifest-put",
    ];
    for (number, end) in with_rows.iter().chain(&after_rows).enumerate() {
        masked.node.set_environment("OFFSHOOT_FAULT", end);
        let said = String::from_utf8_lossy(&masked.node.run(&arguments).stderr).into_owned();
        assert!(said.contains("OFFSHOOT_FAULT: ending at"), "{number} {end}: {said}");
        assert!(number == 0 || said.contains("cut off: "), "{number} {end}: {said}");
        assert!(masked.node.bases().is_empty(), "a base is listed after {number} {end}");
    }
    // No table's rows are copied again.
    masked.node.set_environment("OFFSHOOT_FAULT", "table-copied");
    let said = progress(&masked, &arguments.map(str::to_owned));
    assert!(said.contains("cut off: "), "{said}");
    masked.node.set_environment("OFFSHOOT_FAULT", "");
    masked.node.start();
    let held = holds(&masked, "resumed");
    assert!(held.contains("'first of all'"), "a comment is lost");
    contents::assert_same_lines(&wanted, &held, "the base that was made in pieces");
    if major == Major::Eighteen {
        let counted = "select count(*), count(*) filter (where is_own), (select count(*) from extension_notes) from extension_settings";
        assert_eq!(masked.psql("shop@resumed", counted), "51|1|50");
    }
    check_late(&masked, "shop@resumed");
    assert!(masked.node.data_dir().join("import").read_dir().expect("it was made").next().is_none());
}

#[test]
fn an_import_that_ends_at_each_step_after_the_rows_comes_to_the_same_base() {
    comes_to_the_same_base(Major::Fifteen);
}

#[test]
fn an_import_that_ends_at_each_step_after_the_rows_comes_to_the_same_base_on_postgres_18() {
    comes_to_the_same_base(Major::Eighteen);
}

/// Everything that the conformance cluster has: conditions, shuffled columns, identities, expressions, sources of every type.
fn the_clinic_comes_to_the_same_base(major: Major) {
    let of = |masked: &Masked, branch: &str, database: &str| {
        let url = masked.url(&format!("{database}@{branch}"));
        let mut all = vec![contents::table_digests(&url), contents::materialized_views(&url)];
        all.extend(contents::sequences(&url));
        all.extend(contents::definitions(&url, &[]).into_iter().map(|definition| definition.text));
        all.join("\n")
    };
    let mut masked = Masked::new(clinic_options(major).conf("autovacuum = off\n"), masked_config());
    masked.write_rules(&clinic_rules());
    // With unlogged tables no import goes on.
    masked.source.psql("clinic", "alter table storage.unlogged_table set logged");
    masked.import();
    masked.node.start();
    let wanted = CLINIC_DATABASES.map(|database| of(&masked, "in-one-go", database));
    forget(&mut masked);
    let from = masked.source.url(POSTGRES);
    let arguments = ["import", "shop", "--streams", "1", "--from", &from];
    let ends = [
        "table-copied:20",
        "table-copied:40",
        "rows-copied",
        "step-noted",
        "step-committed",
        "keys-built:2",
        "cluster-copied",
    ];
    for (number, end) in ends.into_iter().enumerate() {
        masked.node.set_environment("OFFSHOOT_FAULT", end);
        let said = String::from_utf8_lossy(&masked.node.run(&arguments).stderr).into_owned();
        assert!(said.contains("OFFSHOOT_FAULT: ending at"), "{number} {end}: {said}");
        assert!(number == 0 || said.contains("cut off: "), "{number} {end}: {said}");
    }
    masked.node.set_environment("OFFSHOOT_FAULT", "");
    let said = progress(&masked, &arguments.map(str::to_owned));
    assert!(said.contains("cut off: "), "{said}");
    masked.node.start();
    for (database, wanted) in CLINIC_DATABASES.iter().zip(&wanted) {
        contents::assert_same_lines(wanted, &of(&masked, "resumed", database), "the base that was made in pieces");
    }
    let secrets = Secrets::load();
    secrets.below(masked.node.data_dir()).assert_none("the node's folder");
}

#[test]
fn the_conformance_cluster_comes_to_the_same_base_in_pieces() {
    the_clinic_comes_to_the_same_base(Major::Fifteen);
}

#[test]
fn the_conformance_cluster_comes_to_the_same_base_in_pieces_on_postgres_18() {
    the_clinic_comes_to_the_same_base(Major::Eighteen);
}

#[test]
fn an_import_that_could_not_come_to_the_same_base_starts_over() {
    for (table, condition, goes_on) in [
        ("table", "id <= 1000 and created_at > '2024-01-01'", true),
        ("table", "created_at < now()", false),
        ("table", "created_at < 'NOW'", false),
        ("table", "id in (select customer_id from public.orders)", false),
        // A server that crashes empties these.
        ("unlogged table", "true", false),
    ] {
        let mut masked = quiet_shop();
        let make = format!("create {table} visitors as select id, email, created_at from customers");
        masked.source.psql("shop", &make);
        let rules = format!(
            "[database.shop.table.\"public.visitors\"]\nwhere = \"{condition}\"\n[database.shop.table.\"public.visitors\".column]\nemail = \"email\""
        );
        masked.write_rules(&shop_rules("", &rules));
        let arguments = killed_after(&mut masked, 3);
        let said = progress(&masked, &arguments);
        assert_eq!(said.contains("cut off: 3 tables"), goes_on, "{table} {condition}: {said}");
        assert_eq!(masked.node.bases().len(), 1);
    }
}

/// As a node that starts does it with what a killed import has left.
fn end_what_runs(masked: &mut Masked) {
    masked.node.start();
    let folder = import_folder(masked);
    until("the killed import's server to end", 20, || processes_below(&folder).is_empty().then_some(()));
    masked.node.stop();
}

/// Started by hand on what an import has left, and stopped again.
fn in_its_cluster(masked: &Masked, sql: &str) {
    let folder = import_folder(masked).join("fresh");
    let socket = masked.scratch.join("by-hand");
    make_folder(&socket);
    let (data, port) = (folder.join("data"), free_port());
    let control = |arguments: &[&str]| {
        let mut command = as_owner(Command::new(masked.source.bin_dir().join("pg_ctl")));
        let done = command.arg("-D").arg(&data).arg("-w").args(arguments).output().expect("pg_ctl runs");
        let log = std::fs::read_to_string(socket.join("log")).unwrap_or_default();
        assert!(done.status.success(), "{arguments:?}: {}{log}", String::from_utf8_lossy(&done.stdout));
    };
    let log = socket.join("log").display().to_string();
    let options = format!(
        "-p {port} -k {} -c listen_addresses='' -c config_file=/dev/null -c hba_file={}/hba",
        socket.display(),
        socket.display()
    );
    std::fs::write(socket.join("hba"), "local all all trust\n").expect("the folder is ours");
    // Whoever was killed may not have been waited for yet, and then counts as running.
    std::fs::remove_file(data.join("postmaster.pid")).expect("the server was killed");
    control(&["-l", &log, "-o", &options, "start"]);
    let done = try_psql(&format!("postgres://postgres@/shop?host={}&port={port}", socket.display()), sql);
    control(&["-m", "fast", "stop"]);
    done.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn what_a_killed_restore_has_half_made_is_completed() {
    let mut masked = late_shop(Major::Fifteen);
    let wanted = holds_in_one_go(&mut masked);
    masked.node.set_environment("OFFSHOOT_FAULT", "rows-copied");
    let arguments = ["import", "shop", "--from", &masked.source.url(POSTGRES)].map(str::to_owned);
    masked.node.fail(&arguments.each_ref().map(String::as_str));
    masked.node.set_environment("OFFSHOOT_FAULT", "");
    end_what_runs(&mut masked);
    in_its_cluster(
        &masked,
        "alter table only late.visits_1 add constraint visits_1_pkey primary key (id, day); alter table late.visits_1 cluster on visits_1_pkey;
         create index visits_by_day on only late.visits using btree (day);
         create index visits_2_day_idx on late.visits_2 using btree (day);
         alter index late.visits_by_day attach partition late.visits_2_day_idx;
         alter table only late.comments add constraint comments_pkey primary key (id);
         alter table only late.comments replica identity using index comments_pkey;
         create statistics late.days_and_notes on id, day from late.comments;
         create materialized view late.days as select id, text, count(*) as count from late.comments group by id with no data;
         create trigger refuse_rows before insert on late.visits for each row execute function late.refuse();
         alter table late.comments enable row level security;
         alter role app superuser; alter role postgres set default_transaction_read_only = on; alter role app set work_mem = '1MB';",
    );
    let said = progress(&masked, &arguments);
    assert!(said.contains("tables are there"), "{said}");
    masked.node.start();
    contents::assert_same_lines(&wanted, &holds(&masked, "completed"), "the base that was half made");
}

#[test]
fn rows_that_are_recorded_and_not_there_end_an_import() {
    let mut masked = late_shop(Major::Fifteen);
    masked.node.set_environment("OFFSHOOT_FAULT", "rows-copied");
    let from = masked.source.url(POSTGRES);
    let arguments = ["import", "shop", "--from", &from];
    masked.node.fail(&arguments);
    masked.node.set_environment("OFFSHOOT_FAULT", "");
    end_what_runs(&mut masked);
    in_its_cluster(&masked, "delete from late.comments where id = 7");
    let error = masked.node.fail(&arguments);
    assert!(error.contains("late.comments: 200 rows were read and 199 are there"), "{error}");
    assert!(masked.node.data_dir().join("import").read_dir().expect("it was made").next().is_none());
    masked.import();
    assert_eq!(masked.node.bases().len(), 1);
}

#[test]
fn an_import_that_is_killed_at_any_moment_after_the_rows_comes_to_the_same_base() {
    let mut masked = late_shop(Major::Fifteen);
    let wanted = holds_in_one_go(&mut masked);
    let from = masked.source.url(POSTGRES);
    let arguments = ["import", "shop", "--from", &from];
    let mut killed = 0;
    for number in 0..8 {
        let mut import = masked.node.spawn(&arguments);
        let said = BufReader::new(import.stderr.take().expect("it is piped"));
        let is_there =
            said.lines().map_while(Result::ok).any(|line| line.contains("building keys and indexes of shop"));
        assert!(is_there, "the import ended before its keys were built");
        // Whatever it does just then, until it comes to its end.
        pause(Duration::from_millis(250 * number));
        signal(import.id() as i32, Signal::SIGKILL);
        let mut rest = String::new();
        import.stdout.take().expect("it is piped").read_to_string(&mut rest).expect("it prints text");
        import.wait().expect("it was killed");
        if !masked.node.bases().is_empty() {
            break;
        }
        killed += 1;
    }
    assert!(killed > 2, "it was killed only {killed} times before it came to its end");
    if masked.node.bases().is_empty() {
        let said = progress(&masked, &arguments.map(str::to_owned));
        assert!(said.contains("tables are there"), "{said}");
    }
    masked.node.start();
    contents::assert_same_lines(&wanted, &holds(&masked, "resumed"), "the base that was made in pieces");
    check_late(&masked, "shop@resumed");
}

#[test]
fn a_store_that_goes_away_leaves_what_was_copied_to_the_next_import() {
    let mut masked = quiet_shop();
    let arguments = ["import", "shop", "--from", &masked.source.url(POSTGRES)].map(str::to_owned);
    let import = masked.node.spawn(&arguments.each_ref().map(String::as_str));
    let folder = masked.node.data_dir().join("import");
    until("the first table to be copied", 60, || {
        let record = folder.read_dir().ok()?.flatten().next()?.path().join("resumable");
        (std::fs::read_to_string(record).ok()?.lines().count() > 1).then_some(())
    });
    // As where a share is not mounted any more.
    let (store, aside) = (masked.node.store_dir(), masked.scratch.join("aside"));
    std::fs::rename(&store, &aside).expect("the folder is ours");
    std::fs::write(&store, "").expect("the folder is ours");
    let output = import.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("object store") && said.contains("What was copied is kept"),
        "{said}"
    );
    assert!(import_folder(&masked).join("resumable").exists());
    std::fs::remove_file(&store).expect("it is there");
    std::fs::rename(&aside, &store).expect("it is there");
    masked.node.set_environment("OFFSHOOT_FAULT", "table-copied");
    assert!(progress(&masked, &arguments).contains("tables are there"));
    masked.node.set_environment("OFFSHOOT_FAULT", "");
    masked.node.start();
    assert_eq!(masked.psql("shop@x", "select count(*) from customers"), "1500");
}

#[test]
fn a_dump_that_is_replaced_while_it_is_restored_is_refused() {
    let masked = quiet_shop();
    let dump = masked.scratch.join("dump");
    let file = format!("--file={}", dump.display());
    contents::dump(&masked.source.database(POSTGRES, "shop"), &["--format=custom", &file]);
    let mut import = masked.node.spawn(&["import", "shop", "--from", &dump.display().to_string()]);
    let mut said = BufReader::new(import.stderr.take().expect("it is piped"));
    let mut line = String::new();
    while !line.contains("restoring the dump") {
        line.clear();
        assert_ne!(said.read_line(&mut line).expect("it prints text"), 0, "the import restores the dump");
    }
    std::fs::File::options().write(true).open(&dump).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("it prints text");
    assert!(!import.wait().expect("it ends").success() && rest.contains("changed during the import"), "{rest}");
    assert!(masked.node.bases().is_empty());
    assert!(masked.node.data_dir().join("import").read_dir().expect("it was made").next().is_none());
    assert_eq!(masked.node.processes(), Vec::<i32>::new());
}
