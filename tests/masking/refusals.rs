//! Every way in which masking ends without a base, and every base that a masked project is not branched from. Nothing that is said then, or
//! logged, holds a raw value.

use crate::fixture::*;
use nix::sys::signal::Signal;
use std::time::Duration;

#[test]
fn these_rules_are_taken() {
    let masked = Masked::shop(&shop_rules("", ""));
    masked.import();
    check_nothing_left(&masked, 1);
}

#[test]
fn values_of_citext_that_differ_in_case_stay_equal() {
    let table = |name: &str| format!("[database.shop.table.\"public.{name}\".column]\nmail = \"email\"\n");
    let mut masked = Masked::shop(&shop_rules("", &(table("people") + &table("letters"))));
    masked.source.psql(
        "shop",
        "create extension citext; create table people (mail citext primary key); insert into people values ('Anna@Somewhere.example');
         create table letters (mail citext references people); insert into letters values ('anna@somewhere.EXAMPLE')",
    );
    masked.import();
    masked.node.start();
    let same = "select count(*) from letters l, people p where l.mail::text = p.mail::text and p.mail <> 'anna@somewhere.example'";
    assert_eq!(masked.psql("shop@x", same), "1");
}

#[test]
fn no_key() {
    let mut masked = Masked::shop(&shop_rules("", ""));
    masked.node.set_environment(KEY_VARIABLE, "");
    import_refused(&masked, &[KEY_VARIABLE, "not set", "openssl rand"]);
}

#[test]
fn a_short_key() {
    let mut masked = Masked::shop(&shop_rules("", ""));
    masked.node.set_environment(KEY_VARIABLE, "only-thirty-one-bytes-are-here!");
    let error = import_refused(&masked, &["31 bytes", "32"]);
    assert!(!error.contains("only-thirty"), "{error}");
}

#[test]
fn a_key_file_that_cannot_be_read() {
    let masked = Masked::shop(
        &shop_rules("", "").replace(&format!("key_env = \"{KEY_VARIABLE}\""), "key_file = \"nowhere.key\""),
    );
    let place = masked.scratch.join("nowhere.key");
    import_refused(&masked, &[&place.display().to_string(), "No such file"]);
    std::fs::write(&place, "short\n").expect("the scratch folder is writable");
    import_refused(&masked, &["5 bytes"]);
    std::fs::write(&place, format!("{MASKING_KEY}\n")).expect("the scratch folder is writable");
    masked.import();
}

#[test]
fn no_rules_or_two_places_for_the_key() {
    let masked = Masked::shop("");
    import_refused(&masked, &["masking.toml", "key_env"]);
    masked.write_rules(&format!("key_file = \"x\"\n{}", shop_rules("", "")));
    import_refused(&masked, &["masking.toml", "key_env", "key_file"]);
    masked.write_rules(&shop_rules("", "").replace("unlisted_column", "unlisted_colum"));
    import_refused(&masked, &["masking.toml", "unlisted_colum"]);
    std::fs::remove_file(masked.scratch.join("masking.toml")).expect("it is there");
    import_refused(&masked, &["masking.toml"]);
}

#[test]
fn a_column_that_no_rule_is_for() {
    let listed = "id = \"keep\"\nstreet = \"street\"\ncity = \"city\"\ncard_expires = \"keep\"\nborn = \"keep\"\ncreated_at = \"keep\"\n";
    let table = "[database.shop.table.\"public.customers\"]\nunlisted_column = \"deny\"";
    let masked = Masked::shop(&shop_rules(listed, table));
    masked.import();
    masked.source.psql("shop", "alter table customers add column fax text");
    import_refused(&masked, &["public.customers.fax", "no rule"]);
    masked.source.psql("shop", "alter table customers drop column fax; create table new_one (n int)");
    masked.import();
    masked.write_rules(&shop_rules(listed, table).replacen("\"keep\"", "\"deny\"", 1));
    // All tables now: of every database.
    import_refused(&masked, &["public.new_one.n", "public.events.payload", "analytics", "no rule"]);
}

#[test]
fn rules_for_what_is_gone() {
    let masked = Masked::shop(&shop_rules("fax = \"phone\"", ""));
    import_refused(&masked, &["public.customers.fax", "no such column"]);
    masked.write_rules(&shop_rules("", "[database.shop.table.\"public.customer\".column]\nemail = \"email\""));
    import_refused(&masked, &["public.customer", "no such table", "did you mean public.customers?"]);
    masked.write_rules(&shop_rules("", "[database.shopp]\nunlisted_column = \"deny\""));
    import_refused(&masked, &["shopp", "no such database"]);
    masked.source.psql("shop", "alter table customers drop column note");
    masked.write_rules(&shop_rules("", ""));
    import_refused(&masked, &["public.customers.note", "no such column"]);
}

#[test]
fn masks_that_are_unknown_or_do_not_fit() {
    let masked = Masked::shop(&shop_rules("city = \"towns\"", ""));
    import_refused(&masked, &["masking.toml", "city", "towns"]);
    masked.source.psql(
        "shop",
        "alter table customers add column login varchar(8); create unique index only_once on customers (email)",
    );
    for (columns, names) in [
        ("city = { mask = \"city\", at = \"x\" }", &["city", "at"][..]),
        ("born = \"email\"", &["public.customers.born", "email", "date"]),
        ("created_at = { mask = \"int\", min = 1, max = 9999 }", &["public.customers.created_at", "timestamp"]),
        ("street = \"null\"", &["street"]),
        ("street = { mask = \"null\" }", &["public.customers.street", "NOT NULL"]),
        ("login = \"user_name\"", &["public.customers.login", "21", "8"]),
        ("id = { mask = \"noise\", percent = 10 }", &["public.customers.id", "customers_pkey"]),
    ] {
        masked.write_rules(&shop_rules(columns, ""));
        import_refused(&masked, names);
    }
    masked.write_rules(&shop_rules("", "").replace("email = \"email\"", "email = \"name\""));
    import_refused(&masked, &["public.customers.email", "only_once", "name"]);
}

#[test]
fn a_rule_that_contradicts_a_foreign_key_s() {
    let orders =
        "[database.shop.table.\"public.orders\".column]\ncustomer_id = { mask = \"int\", min = 1, max = 5000 }";
    let masked = Masked::shop(&shop_rules("id = { mask = \"int\", min = 1, max = 1000000 }", orders));
    import_refused(&masked, &["public.orders.customer_id", "contradicts", "public.customers.id"]);
    masked.write_rules(&shop_rules("", orders));
    import_refused(&masked, &["public.orders.customer_id", "contradicts", "public.customers.id"]);
}

#[test]
fn a_value_that_its_mask_cannot_take_is_not_shown() {
    let masked = Masked::shop(&shop_rules("loyalty = { mask = \"int\", min = 1, max = 1000000 }", ""));
    masked.source.psql("shop", "alter table customers add column loyalty bigint; update customers set loyalty = id");
    masked.source.psql("shop", "update customers set loyalty = 777000111222333 where id = 700");
    let error = import_refused(&masked, &["shop.public.customers", "loyalty", "1000000"]);
    assert!(!error.contains("777000") && !masked.node.log().contains("777000"), "{error}");
    masked
        .source
        .psql("shop", "update customers set loyalty = 7 where id = 700; update customers set loyalty = 8 where id = 7");
    masked.import();
}

/// What the masked database objects to quotes the row in its detail.
#[test]
fn a_row_that_the_masked_database_refuses_is_not_shown() {
    let masked = Masked::shop(&shop_rules("", ""));
    masked.source.psql(
        "shop",
        "alter table customers add constraint by_post check (phone like '+49%' and email like '%@example.%')",
    );
    masked.write_rules(
        &shop_rules("", "").replace("phone = \"phone\"", "phone = { mask = \"constant\", value = \"none\" }"),
    );
    import_refused(&masked, &["public.customers", "23514"]);
}

#[test]
fn no_pg_dump() {
    let mut masked = Masked::shop(&shop_rules("", ""));
    let (real, folder) = (Major::Fifteen.bin_dir(), masked.scratch.join("postgres"));
    make_folder(&folder.join("bin"));
    for entry in real.read_dir().expect("it is installed").flatten() {
        if entry.file_name() != "pg_dump" {
            std::os::unix::fs::symlink(entry.path(), folder.join("bin").join(entry.file_name()))
                .expect("the folder is ours");
        }
    }
    let lib = real.parent().expect("bin has a parent").join("lib");
    std::os::unix::fs::symlink(lib, folder.join("lib")).expect("the folder is ours");
    let config = NodeConfig { postgres_dirs: vec![folder.clone()], ..masked_config() };
    masked.reconfigure(config);
    import_refused(&masked, &["pg_dump", "postgresql-client-15", &folder.display().to_string()]);
    std::os::unix::fs::symlink(real.join("pg_dump"), folder.join("bin/pg_dump")).expect("the folder is ours");
    masked.import();
}

#[test]
fn a_document_with_something_unlisted() {
    let json = |unlisted: &str| {
        let details = format!("details = {{ json = {{ \"$.colour\" = \"keep\" }}, unlisted = \"{unlisted}\" }}");
        shop_rules("", &format!("[database.shop.table.\"public.products\".column]\n{details}"))
    };
    let masked = Masked::shop(&json("deny"));
    import_refused(&masked, &["public.products", "details", "no path leads to"]);
    masked.write_rules(&json("redact"));
    masked.import();
}

#[test]
fn rows_whose_key_is_left_out() {
    let masked = Masked::shop(&shop_rules("", "[database.shop.table.\"public.customers\"]\nwhere = \"id <= 10\""));
    import_refused(&masked, &["orders_customer_id_fkey"]);
    masked.write_rules(&shop_rules("", "[database.shop.table.\"public.customers\"]\nrows = \"none\""));
    import_refused(&masked, &["public.orders", "public.customers", "orders_customer_id_fkey"]);
    // A condition that fails on a row is the rules' fault; the row is not shown.
    masked.write_rules(&shop_rules("", "[database.shop.table.\"public.customers\"]\nwhere = \"email::int > 0\""));
    import_refused(&masked, &["22P02"]);
}

#[test]
fn what_masked_rows_break_shows_before_rows_move() {
    let masked = Masked::shop(&shop_rules(
        "street = \"hmac\"",
        "[database.shop.table.\"public.visits\".column]\nwho = \"email\"\nplace = { mask = \"expression\", sql = \"'nowhere'\" }\n\
         [database.shop.table.\"public.orders_by\".column]\nmail = \"email\"\n",
    ));
    masked.source.psql(
        "shop",
        "alter table customers add constraint has_a_number check (street ~ '^[A-Z]' or street ~ ' ');
         create table visits (who text, place text default 'x');
         insert into visits values ('a@b.example', 'Berlin');
         create view places as select place from visits;
         create domain at_work as text check (value like '%@work.example');
         create table orders_by (mail at_work); insert into orders_by values ('me@work.example')",
    );
    let error =
        import_refused(&masked, &["public.customers", "has_a_number", "public.visits", "public.orders_by", "at_work"]);
    assert!(error.contains("trying the masks") && !error.contains("copying rows"), "{error}");
}

/// The one that the server answers with, for who wants to make a branch.
async fn branch_refused(masked: &Masked, branch: &str, names: &[&str]) {
    let error = refusal(&masked.url(branch)).await;
    assert_eq!(error.code().code(), "55000", "{error:?}");
    for name in names {
        assert!(error.message().to_lowercase().contains(name), "{name:?} is not in {:?}", error.message());
    }
    let name = branch.rsplit('@').next().expect("database@branch");
    let heads = masked.node.store_dir().join(format!("v1/project/shop/branch/{name}"));
    assert!(!heads.exists(), "a refused branch is not there");
}

/// Warnings that `branch` was made of raw data.
fn audit(node: &Node, branch: &str) -> Vec<String> {
    let is_one = |line: &&str| line.contains("WARN") && line.contains("raw") && line.contains(branch);
    node.log().lines().filter(is_one).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_from_before_the_masking_is_not_branched() {
    let mut masked = Masked::new(SourceOptions::of(Major::Fifteen), config_with(""));
    masked.import();
    masked.node.start();
    masked.psql("shop@old", "create table mine as select 7 as n");
    masked.write_rules(&shop_rules("", ""));
    masked.reconfigure(masked_config());
    masked.node.start();
    branch_refused(&masked, "shop@new", &["shop", "masked"]).await;
    branch_refused(&masked, "analytics@new", &["masked"]).await;
    let error = refusal(&masked.url("shop@old")).await;
    assert_eq!(error.code().code(), "55000", "{error:?}");
    assert!(
        error.message().contains("before its project was masked"),
        "what is there does not go on: {}",
        error.message()
    );
    assert_eq!(audit(&masked.node, "new"), Vec::<String>::new());

    masked.reconfigure(config_with("masking = \"masking.toml\"\nallow_raw = true"));
    masked.node.start();
    assert_eq!(masked.psql("shop@let-in", "select count(*) from customers where email like '%.%@example.%'"), "1500");
    assert_eq!(audit(&masked.node, "let-in").len(), 1, "{}", masked.node.log());
    masked.psql("shop@let-in", "select 1");
    assert_eq!(audit(&masked.node, "let-in").len(), 1, "it is noted when it is made");
    assert_eq!(masked.psql("shop@old", "select n from mine"), "7", "nothing of it was lost");
    assert_eq!(audit(&masked.node, "shop@old").len(), 1);

    masked.reconfigure(masked_config());
    masked.node.start();
    branch_refused(&masked, "shop@new", &["masked"]).await;
    masked.import();
    until("the masked base to be current", 20, || try_psql(&masked.url("shop@new"), "select 1").ok());
    assert_eq!(
        masked.psql("shop@new", "select count(*) from customers where email like '________________@example.com'"),
        "1500"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_of_another_installation_is_branched_where_that_is_trusted() {
    let mut masked = Masked::shop(&shop_rules("", ""));
    masked.import();
    let signer = masked.node.bases()[0]["masking"]["signer"].as_str().map(str::to_owned);
    let foreign = |config: &NodeConfig| Node::new(&masked.scratch, "foreign", config);
    let of_foreign = |node: &Node| node.url(POSTGRES, "shop@x");

    // It shares the store, and knows the same rules.
    let mut node = foreign(&masked_config());
    node.start();
    let error = refusal(&of_foreign(&node)).await;
    assert_eq!(error.code().code(), "55000", "{error:?}");
    assert!(error.message().contains("sign"), "{}", error.message());
    node.stop();
    let signer = signer.expect("base list --json names the signer");
    let trusting = |key: &str| config_with(&format!("masking = \"masking.toml\"\ntrusted_signers = [\"{key}\"]"));
    let stranger = if signer.starts_with('0') { "1".repeat(64) } else { "0".repeat(64) };
    let mut node = foreign(&trusting(&stranger));
    node.start();
    assert_eq!(refusal(&of_foreign(&node)).await.code().code(), "55000");
    node.stop();
    let mut node = foreign(&trusting(&signer));
    node.start();
    assert_eq!(psql(&of_foreign(&node), "select count(*) from customers"), "1500");
    node.stop();
    masked.node.start();
    assert_eq!(
        masked.psql("shop@y", "select count(*) from customers"),
        "1500",
        "its own installation needs no such line"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_of_other_rules_is_not_branched() {
    let mut masked = Masked::shop(&shop_rules("", ""));
    masked.import();
    masked.node.start();
    masked.psql("shop@old", "create table mine as select 7 as n");
    // Said otherwise, and the same: a comment, and the order of tables.
    masked.node.stop();
    masked.write_rules(&format!("# Looked at again.\n{}", shop_rules("", "")));
    masked.node.start();
    masked.psql("shop@same", "select 1");
    masked.node.stop();
    masked.write_rules(&shop_rules("street = \"street\"", ""));
    masked.node.start();
    branch_refused(&masked, "shop@new", &["other rules"]).await;
    assert_eq!(masked.psql("shop@old", "select n from mine"), "7");
    masked.import();
    until("the new base to be current", 20, || try_psql(&masked.url("shop@new"), "select 1").ok());
    assert_eq!(masked.psql("shop@old", "select n from mine"), "7");
    // While it runs, too: what cannot be read is no rule.
    masked.write_rules("nonsense");
    branch_refused(&masked, "shop@newer", &["rules"]).await;
}

#[test]
fn a_killed_import_leaves_nothing_to_be_reached_and_the_next_succeeds() {
    let slow = "[database.shop.table.\"public.many\"]\nwhere = \"pg_sleep(0.001) is not null\"";
    let mut masked = Masked::shop(&shop_rules("", slow));
    masked.source.psql("shop", "create table many as select n, 'row ' || n as text from generate_series(1, 200000) n");
    for killed in 1..=2 {
        let mut running = masked.node.spawn(&["import", "shop", "--from", &masked.source.url(POSTGRES)]);
        let copying = "select count(*) from pg_stat_activity where query like 'COPY%pg_sleep%' and state = 'active' and pid <> pg_backend_pid()";
        until("rows to be copied", 60, || {
            assert!(running.try_wait().expect("a child can be waited for").is_none(), "the import ended by itself");
            (masked.source.psql("postgres", copying) == "1").then_some(())
        });
        pause(Duration::from_millis(300 * killed));
        signal(running.id() as i32, Signal::SIGKILL);
        running.wait().expect("a child can be waited for");
        assert_eq!(masked.node.bases(), Vec::<serde_json::Value>::new());
        until("the source to notice", 60, || (masked.source.psql("postgres", copying) == "0").then_some(()));
    }
    masked.node.start();
    let refused = try_psql(&masked.url("shop@x"), "select 1").expect_err("there is no base");
    assert!(refused.contains("no base"), "{refused}");

    masked.write_rules(&shop_rules("", ""));
    masked.import();
    assert_eq!(masked.node.bases().len(), 1);
    check_nothing_left(&masked, 1);
    assert_eq!(masked.node.processes(), Vec::<i32>::new(), "the next import ends what a killed one had started");
    assert_eq!(mounts_below(masked.node.data_dir()), Vec::<std::path::PathBuf>::new());
    assert_eq!(masked.psql("shop@x", "select count(*), max(n) from many"), "200000|200000");
}

#[test]
fn a_column_with_another_type_than_before() {
    let masked = Masked::shop(&shop_rules("", ""));
    masked.import();
    masked.source.psql("shop", "alter table customers alter phone type varchar(77)");
    import_refused(&masked, &["public.customers.phone", "varying(77)", "reviewed"]);
    masked.write_rules(&format!("reviewed = \"looked at it\"\n{}", shop_rules("", "")));
    masked.import();
}

#[test]
fn a_permutation_that_leaves_its_sequence_no_next_value() {
    let masked = Masked::shop(&shop_rules("", ""));
    masked.source.psql("shop", "create table numbered (n int generated always as identity)");
    let permuted =
        "[database.shop.table.\"public.numbered\".column]\nn = { mask = \"int\", min = 1, max = 2147483647 }";
    masked.write_rules(&shop_rules("", permuted));
    import_refused(&masked, &["public.numbered_n_seq", "smaller max"]);
}
