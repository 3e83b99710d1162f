//! `import --method copy` without rules: another cluster with the same in it, row by row, for servers that give no base backup.

use crate::fixture::contents;
use crate::fixture::*;

const SHOP_DATABASES: [&str; 2] = ["shop", "analytics"];

/// A source, copied and served, whose project knows no user of the config's.
fn copied(options: SourceOptions, before: impl Fn(&Source)) -> Masked {
    let mut masked = Masked::new(options, config_with(""));
    before(&masked.source);
    masked.node.succeed(&["import", "shop", "--method", "copy", "--from", &masked.source.url(POSTGRES)]);
    masked.node.start();
    masked
}

/// Rows, sequences, definitions, settings and roles of `databases`, in source and branch.
fn check_same(masked: &Masked, databases: &[&str]) {
    for database in databases {
        let (source, branch) = (masked.source.database(POSTGRES, database), masked.url(&format!("{database}@x")));
        // Attached with INHERIT, it comes back with its parent's columns first.
        let digests = |url: &str| {
            let all = contents::table_digests(url);
            all.lines().filter(|line| !line.starts_with("old.volunteer_joined_later|")).collect::<Vec<_>>().join("\n")
        };
        assert!(!digests(&source).is_empty());
        contents::assert_same_lines(&digests(&source), &digests(&branch), database);
        assert_eq!(contents::sequences(&branch), contents::sequences(&source), "{database}");
    }
    for kept in [
        "select rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit, \
         rolpassword, rolvaliduntil, shobj_description(oid, 'pg_authid') from pg_authid where rolname !~ '^pg_' order by 1",
        "select roleid::regrole, member::regrole, grantor::regrole, admin_option from pg_auth_members order by 1, 2",
        "select datname, pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype, datacl, datconnlimit, \
         shobj_description(oid, 'pg_database') from pg_database order by 1",
        "select datname, setrole::regrole, setconfig from pg_db_role_setting left join pg_database d on d.oid = setdatabase order by 1, 2",
        "select oid, lomowner::regrole, lomacl, md5(lo_get(oid)), obj_description(oid, 'pg_largeobject') from pg_largeobject_metadata order by 1",
    ] {
        let branch = masked.psql(&format!("{}@x", databases[0]), kept);
        contents::assert_same_lines(&masked.source.psql(databases[0], kept), &branch, kept);
    }
}

/// Definitions but `left_out`; comments, publications and labels are among them.
fn check_same_definitions(masked: &Masked, database: &str, left_out: &[&str]) {
    let source = contents::definitions(&masked.source.database(POSTGRES, database), left_out);
    let branch = contents::definitions(&masked.url(&format!("{database}@x")), left_out);
    contents::assert_same_definitions(&source, &branch);
}

#[test]
fn a_copy_without_rules_is_the_source_row_by_row() {
    let masked = copied(SourceOptions::of(Major::Fifteen), |source| {
        source.psql("shop", "select lo_from_bytea(7001, 'a letter'), lo_from_bytea(7002, decode(repeat('ab', 3000000), 'hex')), lo_create(7003)");
        source.psql("shop", "alter large object 7001 owner to app; grant select on large object 7001 to plain");
        source.psql("shop", "comment on large object 7001 is 'a comment'; comment on table customers is 'people'");
        source.psql(
            "shop",
            "comment on column customers.note is 'written by hand'; comment on role app is 'the application'",
        );
        source.psql("shop", "create materialized view cities as select city, count(*) from customers group by 1");
        source.psql("shop", "alter role app set app.token = 'kept'; comment on database shop is 'sells'");
        source.psql("shop", "delete from order_items where order_id % 7 = 0; update products set stock = stock + 1");
    });
    check_same(&masked, &SHOP_DATABASES);
    SHOP_DATABASES.iter().for_each(|database| check_same_definitions(&masked, database, &[]));
    assert_eq!(masked.psql("shop@x", "select count(*) from pg_largeobject_metadata"), "3");
    assert!(contents::materialized_views(&masked.url("shop@x")).ends_with("|t|8|0"));

    // Its roles are the source's, passwords and all.
    for (login, may_see) in [(APP, true), (("plain", "plain-pw"), false), (REPLICATOR, false)] {
        let seen = try_psql(&masked.node.url(login, "shop@x"), "select count(*) from customers");
        match may_see {
            true => assert_eq!(seen.expect("the owner"), "1500"),
            false => assert!(seen.expect_err("not the owner").contains("permission denied"), "{login:?}"),
        }
    }
    assert!(try_psql(&masked.node.url(("app", "wrong"), "shop@x"), "select 1").is_err());
    psql(&masked.node.url(APP, "shop@x"), "insert into products (sku, name, price, stock) values ('new', 'new', 1, 1)");
    assert!(masked.node.bases()[0]["masking"].is_null());
    // Last: it makes an extension.
    SHOP_DATABASES.iter().for_each(|database| check_clean(&masked.url(&format!("{database}@x"))));
}

fn the_conformance_cluster_is_copied(major: Major) {
    let masked = copied(clinic_options(major), |_| {});
    check_same(&masked, &CLINIC_DATABASES);
    // A subscription would go and fetch.
    let left_out = ["--exclude-table=old.volunteer_joined_later", "--no-subscriptions"];
    CLINIC_DATABASES.iter().for_each(|database| check_same_definitions(&masked, database, &left_out));
    assert_eq!(masked.psql("clinic@x", "select count(*) from pg_subscription"), "0");
    let columns = "select badge, id, paid, contact_email, full_name, twice from old.volunteer_joined_later order by id";
    assert_eq!(masked.psql("clinic@x", columns), masked.source.psql("clinic", columns));
    assert_eq!(
        contents::orphans(&masked.url("clinic@x")),
        contents::orphans(&masked.source.database(POSTGRES, "clinic"))
    );
    let login = ("clinic_app", "raw-password-of-clinic-app");
    assert_eq!(psql(&masked.node.url(login, "clinic@x"), "select count(*) from public.patient"), "300");
    CLINIC_DATABASES.iter().for_each(|database| check_clean(&masked.url(&format!("{database}@x"))));
}

#[test]
fn a_copy_of_the_conformance_cluster_is_the_source_row_by_row() {
    the_conformance_cluster_is_copied(Major::Fifteen);
}

#[test]
fn a_copy_of_the_conformance_cluster_on_postgres_18_is_the_source_row_by_row() {
    the_conformance_cluster_is_copied(Major::Eighteen);
}

/// Imports what `pg_dump` made of `database`, in every format but plain SQL, and compares.
fn dumped(options: SourceOptions, database: &str, formats: &[&str], left_out: &[&str]) {
    let mut masked = Masked::new(options, config_with(""));
    let branch = |number: usize| format!("{database}@from-{number}");
    for (number, format) in formats.iter().enumerate() {
        let file = masked.scratch.join(&format!("dump.{format}"));
        let place = format!("--file={}", file.display());
        contents::dump(
            &masked.source.database(POSTGRES, database),
            &[&format!("--format={format}"), &place, "--no-subscriptions"],
        );
        masked.node.succeed(&["import", "shop", "--from", &file.display().to_string()]);
        if number == 0 {
            masked.node.start();
        }
        let (source, url) = (masked.source.database(POSTGRES, database), masked.url(&branch(number)));
        until("the new base to be seen", 30, || {
            let seen = masked.node.bases().len();
            (seen == number + 1).then_some(())
        });
        pause(std::time::Duration::from_millis(1100));
        contents::assert_same_lines(&contents::table_digests(&source), &contents::table_digests(&url), format);
        assert_eq!(contents::sequences(&url), contents::sequences(&source), "{format}");
        assert_eq!(contents::materialized_views(&url), contents::materialized_views(&source), "{format}");
        let (source, url) = (contents::definitions(&source, left_out), contents::definitions(&url, left_out));
        contents::assert_same_definitions(&source, &url);
    }
}

#[test]
fn a_dump_is_taken_for_what_is_in_it() {
    dumped(SourceOptions::of(Major::Fifteen), "shop", &["custom", "directory", "tar"], &[]);
}

#[test]
fn a_dump_of_the_conformance_cluster_needs_no_roles_to_be_there() {
    // The one whose columns a dump puts in another order, and what belongs to roles alone.
    dumped(clinic_options(Major::Fifteen), "ledger", &["custom"], &["--no-subscriptions"]);
}
