//! What later versions have and PostgreSQL 15 has not: options of memberships (16), a built-in locale, MAINTAIN and identities of partitioned tables (17),
//! virtual generated columns, constraints that are not enforced, NOT NULL with names, and keys over time (18).

use crate::fixture::contents;
use crate::fixture::*;

const NEW: &str = "
    create role auditor; create role trainee; create role clerk login;
    grant auditor to clerk with inherit false, set true; grant trainee to clerk with inherit true, set false, admin true;
    create table visitors (
        id int generated always as identity primary key,
        email text constraint visitors_are_reached not null,
        host text generated always as (split_part(email, '@', 2)) virtual,
        shouted text generated always as (upper(email)) stored,
        phone text,
        invited_by int,
        constraint with_a_country check (phone like '+%') not enforced,
        constraint invited foreign key (invited_by) references visitors not enforced);
    insert into visitors (email, phone, invited_by)
        select 'person.' || n || '@former-employer.example', '030 ' || 1000000 + n * 7919, 5000 + n from generate_series(1, 400) n;
    insert into visitors (email) values ('Somebody.Else@former-employer.example');
    alter table visitors add constraint phone_is_known not null phone not valid;
    create index on visitors (lower(email));
    grant maintain on visitors to clerk;
    create extension btree_gist;
    create table stays (room int, during daterange, guest text, primary key (room, during without overlaps));
    create table meals (room int, on_days daterange, foreign key (room, period on_days) references stays (room, period during));
    insert into stays select n, daterange('2026-01-01', '2026-02-01'), 'guest ' || n from generate_series(1, 50) n;
    insert into meals select n, daterange('2026-01-05', '2026-01-07') from generate_series(1, 50) n;
    create table sightings (id int generated always as identity, at date, what text) partition by range (at);
    create table sightings_2026 partition of sightings for values from ('2026-01-01') to ('2027-01-01');
    insert into sightings (at, what) select '2026-03-01', 'sighting ' || n from generate_series(1, 30) n";

const MEMBERSHIPS: &str = "select roleid::regrole, member::regrole, admin_option, inherit_option, set_option from pg_auth_members \
                           where member >= 16384 order by 1, 2";
const DATABASES: &str = "select datname, datlocprovider, datlocale, datcollate, datctype from pg_database order by 1";

fn newest() -> SourceOptions {
    SourceOptions::of(Major::Eighteen)
}

fn fill(source: &Source) {
    source.psql("shop", NEW);
    source.psql("shop", "analyze");
    source.psql("shop", "create database letters template template0 locale_provider builtin builtin_locale 'C.UTF-8'");
    source.psql("letters", "create table words as select 'Straße' as word");
}

#[test]
fn a_copy_has_all_that_is_new_in_postgres_18() {
    let mut masked = Masked::new(newest(), config_with(""));
    fill(&masked.source);
    masked.node.succeed(&["import", "shop", "--method", "copy", "--from", &masked.source.url(POSTGRES)]);
    masked.node.start();
    for database in ["shop", "letters"] {
        let (source, branch) = (masked.source.database(POSTGRES, database), masked.url(&format!("{database}@x")));
        contents::assert_same_definitions(&contents::definitions(&source, &[]), &contents::definitions(&branch, &[]));
        contents::assert_same_lines(&contents::table_digests(&source), &contents::table_digests(&branch), database);
        assert_eq!(contents::sequences(&branch), contents::sequences(&source));
    }
    for sql in [MEMBERSHIPS, DATABASES] {
        assert_eq!(masked.psql("shop@x", sql), masked.source.psql("shop", sql));
    }
    assert_eq!(masked.psql("shop@x", "select count(host), count(phone) from visitors"), "401|400");
    check_clean(&masked.url("letters@x"));
}

#[test]
fn what_is_new_in_postgres_18_is_masked() {
    let mut masked = Masked::new(newest(), masked_config());
    masked.write_rules(&shop_rules(
        "",
        "[database.shop.table.\"public.visitors\".column]\nemail = \"email\"\nphone = \"phone\"\n\
         [database.shop.table.\"public.stays\".column]\nguest = \"name\"\n\
         [database.shop.table.\"public.sightings\".column]\nwhat = \"redact\"",
    ));
    fill(&masked.source);
    masked.import();
    masked.node.start();
    let branch = masked.url("shop@x");
    // Generated columns are in no dump, but in statistics.
    let all_text = |url: &str| contents::dump(url, &[]) + &contents::catalogs(url);
    let text = all_text(&branch);
    let raw = ["former-employer", "FORMER-EMPLOYER", "Somebody.Else", "guest 7", "sighting 7"];
    let in_source = all_text(&masked.source.database(POSTGRES, "shop"));
    assert!(raw.iter().all(|word| in_source.contains(word)));
    assert_eq!(raw.iter().filter(|word| text.contains(**word)).collect::<Vec<_>>(), Vec::<&&str>::new());
    for (sql, expected) in [
        ("select count(*), count(distinct email) from visitors where host = split_part(email, '@', 2)", "401|401"),
        ("select count(*) from visitors where shouted = upper(email)", "401"),
        ("select count(*) from visitors where invited_by > 5000", "400"),
        ("select count(*) from visitors where phone is null", "1"),
        ("select count(*), count(distinct room) from stays", "50|50"),
        ("select count(*), count(*) filter (where what ~ 'sight') from sightings", "30|0"),
    ] {
        assert_eq!(psql(&branch, sql), expected, "{sql}");
    }
    let definitions = |url: &str| contents::definitions(url, &[]);
    contents::assert_same_definitions(&definitions(&masked.source.database(POSTGRES, "shop")), &definitions(&branch));
    check_clean(&branch);
}
