//! A masked base of the conformance cluster (`cluster/README.md`), looked at from a branch of it: nothing raw is in it, and everything else is as in
//! the source. What makes these tests worth something is that each search is also made where it must find: in the source.

use crate::fixture::contents::{self, Definition};
use crate::fixture::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Tests of what holds whatever the version.
macro_rules! on_each_version {
    ($($name:ident,)*) => {
        mod on_postgres_15 {
            use super::*;
            $(#[test] fn $name() { super::$name(Masked::served_clinic_of(Major::Fifteen)); })*
        }
        mod on_postgres_18 {
            use super::*;
            $(#[test] fn $name() { super::$name(Masked::served_clinic_of(Major::Eighteen)); })*
        }
    };
}
on_each_version! {
    no_secret_is_in_anything_that_sql_shows_of_a_branch,
    no_word_of_a_branch_begins_as_raw_values_do,
    no_secret_is_in_any_file_of_a_branch_its_node_or_its_store,
    no_role_gets_in_with_its_raw_password,
    the_schema_is_the_source_s,
    all_rows_are_there_but_those_that_rules_leave_out,
    sequences_go_on_where_the_source_s_do_but_for_permuted_keys,
    keys_hold_and_views_are_filled_from_masked_rows,
    kept_columns_are_equal_value_for_value,
    nulls_stay_null_and_empty_strings_empty,
    one_address_is_one_pseudonym_everywhere_and_unique_values_stay_so,
}

/// A pg_dump of everything and all catalogs, of every database.
fn all_text(url: impl Fn(&str) -> String) -> Vec<(String, String)> {
    let of = |database: &str| {
        let url = url(database);
        [("dump", contents::dump(&url, &[])), ("catalogs", contents::catalogs(&url))]
            .map(|(what, text)| (format!("the {what} of {database}"), text))
    };
    CLINIC_DATABASES.into_iter().flat_map(of).collect()
}

fn no_secret_is_in_anything_that_sql_shows_of_a_branch(masked: Masked) {
    let secrets = Secrets::load();
    let mut met = BTreeSet::new();
    for (_, text) in all_text(|database| masked.source.database(POSTGRES, database)) {
        met.extend(secrets.within(text.as_bytes()));
    }
    // Where the same search must find: all but passwords, which are stored as verifiers, and XML on a server without.
    let missed: Vec<String> = (0..secrets.all.len())
        .filter(|number| !met.contains(number) && !secrets.all[*number].object.ends_with(", password"))
        .map(|number| secrets.describe(number))
        .filter(|secret| !secret.contains("|shape.xml_documents.") && !secret.contains("collation_not_deterministic"))
        .collect();
    assert!(missed.is_empty(), "the search does not find in the source: {missed:#?}");

    for (what, text) in all_text(|database| masked.url(&format!("{database}@x"))) {
        assert!(text.len() > 5_000, "{what} has only {} bytes", text.len());
        secrets.assert_none_in(&what, text.as_bytes());
    }
    let count = |sql: &str| masked.psql("clinic@x", sql);
    assert_eq!(count("select count(*) from pg_largeobject_metadata"), "0", "large_objects = \"drop\"");
    assert_eq!(count("select count(*) from pg_user_mapping"), "0");
    assert_eq!(count("select count(*) from pg_subscription"), "0");
    assert_eq!(count("select count(*) from pg_authid where rolpassword is not null"), "0");
    assert_eq!(
        count("select count(*) from pg_foreign_server where srvoptions::text like '%clinic%'"),
        "0",
        "a foreign server leads nowhere"
    );
}

/// What the README of the conformance cluster says: but for definitions, nothing in a copy begins with these three letters.
fn no_word_of_a_branch_begins_as_raw_values_do(masked: Masked) {
    for database in CLINIC_DATABASES {
        let text = contents::dump(&masked.url(&format!("{database}@x")), &[]);
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        let is_raw =
            |word: &&str| word.len() > 3 && word.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("raw"));
        // What is drawn may begin with anything: 16 characters of an address or a path, 10 of a host, 8 or 6 of a code.
        let is_drawn =
            |word: &&str| [16, 10, 8, 6].contains(&word.len()) && word.bytes().any(|byte| byte.is_ascii_digit());
        let raw: Vec<&str> = words.filter(is_raw).filter(|word| *word != "RawLiteral" && !is_drawn(word)).collect();
        assert!(raw.is_empty(), "{database}: {raw:?}");
    }
}

fn no_secret_is_in_any_file_of_a_branch_its_node_or_its_store(mut masked: Masked) {
    let secrets = Secrets::load();
    let in_source = secrets.below(&masked.source.data_dir());
    // The rest is compressed, or stored in other forms than text.
    assert!(in_source.secrets.len() > 600, "the search finds only {} values in the source", in_source.secrets.len());

    // Everything that a branch writes by itself: WAL, statistics, new versions of rows and of indexes.
    for sql in ["update public.patient set active = not active", "vacuum full analyze", "checkpoint"] {
        masked.psql("clinic@x", sql);
    }
    let mount = masked.psql("clinic@x", "show data_directory");
    assert!(Path::new(&mount).starts_with(masked.node.data_dir()), "{mount}");
    let wal: u64 = masked.psql("clinic@x", "select sum(size) from pg_ls_waldir()").parse().expect("a number");
    assert!(wal >= 16 << 20, "{wal} bytes of WAL");
    // The mount, the WAL beside it, and the cache.
    let node = secrets.below(masked.node.data_dir());
    assert!(node.files > 1000 && node.bytes > 50 << 20, "{} files of {} bytes", node.files, node.bytes);
    node.assert_none("the node's folder");
    masked.node.stop();
    secrets.below(masked.node.data_dir()).assert_none("a stopped node's folder");
    let stored = secrets.below(&masked.node.store_dir());
    assert!(stored.files >= 5 && stored.bytes > 5 << 20, "{} objects in the store", stored.files);
    stored.assert_none("the store");
    secrets.assert_none_in("the log", masked.node.log().as_bytes());
}

fn no_role_gets_in_with_its_raw_password(masked: Masked) {
    masked.psql("clinic@x", "select 1");
    let secrets = Secrets::load();
    let passwords: Vec<(&str, &str)> = (secrets.all.iter())
        .filter_map(|secret| {
            let role = secret.object.strip_prefix("role ")?.strip_suffix(", password")?;
            Some((role, secret.value.as_str()))
        })
        .filter(|(role, _)| role.is_ascii())
        .collect();
    assert!(passwords.len() >= 4, "{passwords:?}");
    for login in passwords {
        try_psql(&masked.source.database(login, "clinic"), "select 1").expect("the source lets it in");
        for branch in ["clinic@x", "clinic@unseen"] {
            let refused = try_psql(&masked.node.url(login, branch), "select 1").expect_err("it has no password there");
            assert!(refused.contains("password"), "{refused}");
        }
    }
}

const LEFT_OUT: [&str; 5] = [
    "--no-comments",
    "--no-publications",
    "--no-subscriptions",
    "--no-security-labels",
    "--exclude-table=old.volunteer_joined_later",
];

fn the_schema_is_the_source_s(masked: Masked) {
    let secret_kinds =
        |definition: &Definition| !definition.name.ends_with(" SERVER") && !definition.name.ends_with(" USER MAPPING");
    for database in CLINIC_DATABASES {
        let source = contents::definitions(&masked.source.database(POSTGRES, database), &LEFT_OUT);
        let branch = contents::definitions(&masked.url(&format!("{database}@x")), &LEFT_OUT);
        let compared = |all: &[Definition]| all.iter().filter(|one| secret_kinds(one)).cloned().collect::<Vec<_>>();
        assert!(database == "ledger" || source.len() > 300, "{} definitions", source.len());
        contents::assert_same_definitions(&compared(&source), &compared(&branch));
        let names = |all: &[Definition], kind: &str| {
            all.iter().filter(|one| one.name.ends_with(kind)).map(|one| one.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(&source, " SERVER"), names(&branch, " SERVER"), "servers are there, and lead nowhere");
        assert_eq!(names(&branch, " USER MAPPING"), Vec::<String>::new());
    }
    // What the comparison leaves out: the columns are there, in another order.
    let columns = "select string_agg(attname || ' ' || atttypid::regtype, ', ' order by attname) from pg_attribute \
                   where attrelid = 'old.volunteer_joined_later'::regclass and attnum > 0 and not attisdropped";
    assert_eq!(masked.psql("clinic@x", columns), masked.source.psql("clinic", columns));
    for kept in [
        "select rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit, \
         rolvaliduntil from pg_roles where rolname !~ '^pg_' order by 1",
        "select roleid::regrole, member::regrole, grantor::regrole, admin_option from pg_auth_members order by 1, 2",
        "select datname, pg_get_userbyid(datdba), pg_encoding_to_char(encoding), datcollate, datctype, datacl, datconnlimit, \
         datistemplate, datallowconn from pg_database order by 1",
        "select datname, setrole::regrole, setting from pg_db_role_setting left join pg_database d on d.oid = setdatabase, \
         unnest(setconfig) as setting where setting !~ '_token=' order by 1, 2, 3",
    ] {
        assert_eq!(masked.psql("clinic@x", kept), masked.source.psql("clinic", kept), "{kept}");
    }
}

fn all_rows_are_there_but_those_that_rules_leave_out(masked: Masked) {
    let expected = |(name, count): (String, u64)| {
        let count = match name.as_str() {
            "public.where_some_rows" => 10,
            "public.rows_none" | "literal.partition_of_a_person" | "literal.partition_of_others" => 0,
            _ => count,
        };
        (name, count)
    };
    for database in CLINIC_DATABASES {
        let source = contents::row_counts(&masked.source.database(POSTGRES, database));
        assert!(source.iter().any(|(_, count)| *count > 30));
        let expected: Vec<(String, u64)> = source.into_iter().map(expected).collect();
        assert_eq!(contents::row_counts(&masked.url(&format!("{database}@x"))), expected);
    }
}

fn sequences_go_on_where_the_source_s_do_but_for_permuted_keys(masked: Masked) {
    for database in CLINIC_DATABASES {
        let is_permuted =
            |line: &String| line.starts_with("public.patient_id_seq|") || line.starts_with("public.payer_id_seq|");
        let (permuted, others): (Vec<String>, Vec<String>) =
            contents::sequences(&masked.url(&format!("{database}@x"))).into_iter().partition(is_permuted);
        let mut source = contents::sequences(&masked.source.database(POSTGRES, database));
        source.retain(|line| !is_permuted(line));
        assert_eq!(others, source);
        let [permuted] = &permuted[..] else { panic!("{permuted:?}") };
        assert!(permuted.ends_with("|1000000000|t"), "a new row would meet an old one's number: {permuted}");
    }
    assert_eq!(masked.psql("clinic@x", "select nextval('keys.sequence_never_called')"), "42");
    assert_eq!(masked.psql("clinic@x", "select nextval('keys.sequence_set_not_called')"), "777");
    masked.psql("clinic@x", "insert into keys.column_identity_always (word) values ('new')");
}

fn keys_hold_and_views_are_filled_from_masked_rows(masked: Masked) {
    for database in CLINIC_DATABASES {
        let (source, branch) = (masked.source.database(POSTGRES, database), masked.url(&format!("{database}@x")));
        let orphans = contents::orphans(&source);
        assert!(!orphans.is_empty());
        assert_eq!(
            contents::orphans(&branch),
            orphans,
            "as many rows refer to nothing, and as many constraints are valid"
        );
    }
    let source = contents::orphans(&masked.source.database(POSTGRES, "clinic"));
    assert!(
        source.iter().any(|line| line.ends_with("|f|2")),
        "the constraint that is not valid has its two: {source:?}"
    );
    assert!(source.len() > 15);

    let views = contents::materialized_views(&masked.url("clinic@x"));
    let rows: BTreeMap<&str, &str> = views.lines().filter_map(|line| line.split_once('|')).collect();
    assert_eq!(rows["acting.materialized_by_blood"], "t|5|0");
    assert_eq!(rows["acting.materialized_over_materialized"], "t|1|0");
    assert_eq!(rows["acting.materialized_over_function"], "t|1|0");
    assert_eq!(rows["acting.materialized_with_no_data"], "f|0|0");
    check_clean(&masked.url("clinic@x"));
    check_clean(&masked.url("ledger@x"));
    // What a database computes is of masked values, by its own triggers and expressions.
    let wrong = "select count(*) from public.patient where label_generated <> full_name || ' <' || email::text || '>' \
                 or search is distinct from setweight(to_tsvector('public.clinic_words', full_name), 'A') \
                 || to_tsvector('public.clinic_words', coalesce(note, ''))";
    assert_eq!(masked.psql("clinic@x", wrong), "0");
    assert_eq!(
        masked.psql("clinic@x", "select count(*) from acting.trigger_log"),
        masked.source.psql("clinic", "select count(*) from acting.trigger_log"),
        "no trigger ran"
    );
}

/// The report says of each column what was done; what it says was kept must be as it was.
fn kept_columns_are_equal_value_for_value(masked: Masked) {
    let report = report(&masked);
    let kept = kept_columns(&report);
    let compared: usize = kept.iter().map(|(_, _, columns)| columns.len()).sum();
    for database in CLINIC_DATABASES {
        let digests = kept.iter().filter(|(of, table, _)| of == database && table != "public.where_some_rows").map(|(_, table, columns)| {
            let (schema, name) = table.split_once('.').expect("a schema and a name");
            let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
            let columns: Vec<String> = columns.iter().map(|column| quote(column)).collect();
            let (columns, place) = (columns.join(", "), format!("{}.{}", quote(schema), quote(name)));
            format!(
                "select $label${table}: {columns}$label$, count(*), md5(string_agg(r, chr(10) order by r collate \"C\")) from \
                 (select row({columns})::text as r from only {place}) k"
            )
        });
        let digests: Vec<String> = digests.collect();
        let (source, branch) = (masked.source.database(POSTGRES, database), masked.url(&format!("{database}@x")));
        let run = |url: &str| psql(url, &digests.join(";\n")).lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(run(&branch), run(&source));
    }
    assert!(compared > 150, "only {compared} columns were compared");
    // Not by the report's word: every type's corners.
    for kept in [
        "select id, kept, narrow, padded, \"char\", named from shape.text_corners order by id",
        "select id, exact, scaled, single, double, big, small, price from shape.numbers order by id",
        "select id, day, moment, wall, clock, zoned, span, months from shape.times order by id",
        "select id, ints, nums, moments, own, many_days, many_own from shape.ranges order by id",
        "select id, checksum, flags, mask from shape.bytes order by id",
        "select id, numbers, groups, points, bounds from shape.arrays where id <> 5 order by id",
        "select * from shape.pseudo_numbers order by id",
        "select id, md5(pixels), md5(uncompressed), length(report) from storage.large_values order by id",
        "select id, (home).zip, (home).place from shape.composites order by id",
        "select plain::text ~ '1234567890123456789012345678901234567890.10' from shape.documents where id = 3",
        "select sum((profile ->> 'visits')::int), count(*) filter (where profile -> 'vip' = 'null'), sum(length(note)) from public.patient",
        "select blood, count(*) from public.patient group by 1 order by 1",
        "select extract(isodow from taken_at), sum(reading::numeric), count(distinct patient_id) from public.lab_result group by 1 order by 1",
    ] {
        assert_eq!(masked.psql("clinic@x", kept), masked.source.psql("clinic", kept), "{kept}");
    }
}

/// The report that is kept with the only base.
pub fn report(masked: &Masked) -> serde_json::Value {
    let bases = masked.node.bases();
    let id = bases[0]["id"].as_str().expect("a base has an id");
    let place = masked.node.store_dir().join(format!("v1/project/shop/base/{id}/report"));
    let text = std::fs::read(&place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
    serde_json::from_slice(&text).expect("a report is JSON")
}

/// Database, `schema.table` and columns of everything that was kept.
fn kept_columns(report: &serde_json::Value) -> Vec<(String, String, Vec<String>)> {
    let object = |value: &serde_json::Value| value.as_object().expect("an object").clone();
    let mut found = Vec::new();
    for database in report["databases"].as_array().expect("a list") {
        for (table, about) in object(&database["tables"]) {
            let kept = object(&about["columns"]).into_iter().filter(|(_, column)| column["rule"] == "keep");
            let columns: Vec<String> = kept.map(|(name, _)| name).collect();
            if !columns.is_empty() {
                found.push((database["name"].as_str().expect("a name").to_owned(), table, columns));
            }
        }
    }
    found
}

fn nulls_stay_null_and_empty_strings_empty(masked: Masked) {
    let by_value = "first_name, last_name, full_name, company, street, city, card_number, iban, homepage, cut, chosen, short_code, fixed_code";
    let row = |id: u32| format!("select {by_value}, bucketed from public.mask_corners where id = {id}");
    assert_eq!(
        masked.psql(
            "clinic@x",
            &format!("select num_nonnulls({by_value}, bucketed) from public.mask_corners where id = 61")
        ),
        "0"
    );
    assert_eq!(masked.psql("clinic@x", &row(62)), masked.source.psql("clinic", &row(62)));
    assert_eq!(masked.psql("clinic@x", "select hashed from public.mask_corners where id = 62"), "");
    let nulls = "select count(email), count(*) filter (where note is null), count(*) filter (where note = ''), count(home), \
                 count(income), count(last_ip) from public.patient";
    assert_eq!(masked.psql("clinic@x", nulls), masked.source.psql("clinic", nulls));
    let shapes = "select id, cardinality(aliases), array_dims(aliases), array_dims(phone_grid), array_dims(cards), \
                  array_positions(aliases, null), aliases[3] from shape.arrays order by id";
    assert_eq!(masked.psql("clinic@x", shapes), masked.source.psql("clinic", shapes));
    let composites = "select id, card is null, home is null, (card).email is null, (home).street is null, (home).city = '' \
                      from shape.composites order by id";
    assert_eq!(masked.psql("clinic@x", composites), masked.source.psql("clinic", composites));
}

fn one_address_is_one_pseudonym_everywhere_and_unique_values_stay_so(masked: Masked) {
    let clinic = |sql: &str| masked.psql("clinic@x", sql);
    let pseudonym = clinic("select contact_email from old.person_base where id = 10");
    assert!(
        pseudonym.ends_with("@example.org") && pseudonym.len() == "1234567890123456@example.org".len(),
        "{pseudonym}"
    );
    for place in [
        "select contact_email from secured.policy_enabled where id = 6",
        "select owner_email from part.by_list_with_default where id = 30",
        "select binary_form ->> 'email' from shape.documents where id = 7",
        "select emails[1] from shape.arrays where id = 5",
    ] {
        assert_eq!(clinic(place), pseudonym, "{place}");
    }
    assert_eq!(clinic(&format!("select count(*) from public.doctor where contact_email = '{pseudonym}'")), "1");
    let payer = "select contact_email from payer join cost_centre on payer_id = payer.id where code like 'Fa%ade'";
    assert_eq!(masked.psql("ledger@x", payer), pseudonym);

    for (table, columns) in [
        ("public.patient", &["id", "record", "email", "login", "insurance_no"][..]),
        ("public.doctor", &["id", "contact_email"]),
        ("public.lab_result", &["id", "reported_to"]),
        ("public.mask_corners", &["hashed"]),
    ] {
        for column in columns {
            let unique = format!("select count({column}) = count(distinct {column}) and count(*) > 40 from {table}");
            assert_eq!(clinic(&unique), "t", "{table}.{column}");
        }
    }
    let valid = "select count(*) from public.mask_corners where card_number <> '' \
                 and right(card_number, 1) <> public.function_luhn_digit(left(card_number, -1))::text";
    assert_eq!(clinic(valid), "0", "card numbers pass for real");
}
