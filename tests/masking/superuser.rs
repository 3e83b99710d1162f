//! What a superuser of a branch can get at beneath SQL: every page of every relation, every version of every row with what it stores out of line,
//! every file of the data directory, the log, and the views that decode what the others only hold.
//!
//! `clinic.rs` looks at catalogs, dumps and the node's disk. The same reading of the source, and of a secret that the branch's own user wrote and took
//! away again, shows that it would find.

use crate::fixture::*;
use std::collections::BTreeSet;

/// Pages of all forks of all relations, system catalogs' and indexes' too.
const PAGES: &str = "
    copy (select get_raw_page(c.oid::regclass::text, fork, number)
        from pg_class c, unnest(array['main', 'fsm', 'vm', 'init']) as fork,
             generate_series(0, pg_relation_size(c.oid, fork) / 8192 - 1) as number
        where c.relkind in ('r', 'i', 't', 'm', 'S') and c.relpersistence <> 't') to stdout (format binary)";

/// Versions of rows, visible or not, compressed and stored out of line or not.
const VERSIONS: &str = "
    copy (select tuple_data_split(c.oid, t_data, t_infomask, t_infomask2, t_bits, true)
        from pg_class c, generate_series(0, pg_relation_size(c.oid) / 8192 - 1) as number,
             heap_page_items(get_raw_page(c.oid::regclass::text, number))
        where c.relkind in ('r', 'm') and c.relpersistence <> 't' and c.oid >= 16384 and t_data is not null) to stdout";

/// Files, those of other databases and the log among them.
const FILES: &str = "
    copy (with recursive places (place, is_folder) as (
            select '.', true
            union all
            select place || '/' || name, isdir from places, pg_ls_dir(place) as name, pg_stat_file(place || '/' || name, true)
            where is_folder)
        select pg_read_binary_file(place, 0, 1 << 28, true) from places where not is_folder) to stdout (format binary)";

/// What decodes, describes or remembers.
const VIEWS: [&str; 18] = [
    "table pg_stats",
    "table pg_stats_ext",
    "table pg_stats_ext_exprs",
    "table pg_settings",
    "table pg_file_settings",
    "table pg_hba_file_rules",
    "table pg_stat_activity",
    "table pg_prepared_xacts",
    "table pg_replication_slots",
    "table pg_shadow",
    "table pg_user_mappings",
    "select lo_get(oid) from pg_largeobject_metadata",
    "select pg_get_functiondef(oid) from pg_proc where prokind <> 'a' and oid >= 16384",
    "select pg_get_viewdef(pg_class.oid), pg_get_ruledef(r.oid) from pg_class left join pg_rewrite r on ev_class = pg_class.oid where relkind in ('v', 'm')",
    "select pg_get_indexdef(indexrelid), pg_get_partkeydef(indrelid), pg_get_partition_constraintdef(indrelid) from pg_index",
    "select pg_get_constraintdef(oid) from pg_constraint union all select pg_get_triggerdef(oid) from pg_trigger",
    "select pg_get_expr(adbin, adrelid) from pg_attrdef union all select pg_get_statisticsobjdef(oid) from pg_statistic_ext",
    "select * from pg_get_wal_records_info((select redo_lsn from pg_control_checkpoint()), pg_current_wal_flush_lsn())",
];

/// All that there is, by where it was found.
fn all_bytes(url: &str) -> Vec<(&'static str, Vec<u8>)> {
    for extension in ["pageinspect", "pg_walinspect"] {
        psql(url, &format!("create extension if not exists {extension} schema public"));
    }
    let run = |sql: &str| {
        let output = psql_command(url).args(["-c", "set client_encoding = 'UTF8'", "-c", sql]).output();
        let output = output.expect("psql runs");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let views = VIEWS.iter().flat_map(|sql| run(sql)).collect();
    vec![("a page", run(PAGES)), ("a version of a row", run(VERSIONS)), ("a file", run(FILES)), ("a view", views)]
}

fn found(secrets: &Secrets, all: &[(&'static str, Vec<u8>)]) -> Vec<BTreeSet<usize>> {
    all.iter().map(|(_, bytes)| secrets.within(bytes)).collect()
}

fn a_superuser_reads_everything(major: Major) {
    let masked = Masked::served_clinic_of(major);
    let secrets = Secrets::load();
    let in_source = found(&secrets, &all_bytes(&masked.source.database(POSTGRES, "clinic")));
    for (place, least) in in_source.iter().zip([600, 500, 600, 100]) {
        assert!(place.len() > least, "the search finds only {} values in the source", place.len());
    }

    for database in CLINIC_DATABASES {
        let url = masked.url(&format!("{database}@x"));
        // What the branch itself writes: new versions, statistics, WAL.
        ["vacuum analyze", "checkpoint"].iter().for_each(|sql| drop(psql(&url, sql)));
        let all = all_bytes(&url);
        for (what, bytes) in &all {
            assert!(bytes.len() > 5_000, "{database}: {what} of {} bytes", bytes.len());
            secrets.assert_none_in(&format!("{database}: {what}"), bytes);
        }
        assert!(all[0].1.len() > 5 << 20 && all[2].1.len() > 20 << 20, "{database}");
    }

    // Where it must find: a row that is gone again, and one that is out of line, once as it is and once compressed.
    let url = masked.url("clinic@x");
    let secret = |number: usize| secrets.all[number].value.as_str();
    let is_plain = |number: &usize| secret(*number).is_ascii() && !secret(*number).contains('\'');
    let chosen: Vec<usize> = (0..secrets.all.len()).filter(is_plain).take(3).collect();
    let (gone, external, compressed) = (secret(chosen[0]), secret(chosen[1]), secret(chosen[2]));
    let plant = format!(
        "create table planted (a text, b text, c text) with (autovacuum_enabled = off); \
         create index on planted (a); alter table planted alter b set storage external; \
         insert into planted values ('{gone}', '', ''); delete from planted; \
         insert into planted select '', '{external}' || string_agg(md5(n::text), ''), repeat('{compressed} ', 9000) \
         from generate_series(1, 400) n"
    );
    psql(&url, &plant);
    let planted = found(&secrets, &all_bytes(&url));
    let all: BTreeSet<usize> = chosen.iter().copied().collect();
    assert_eq!(planted[1], all, "versions of rows");
    assert!(planted[0].is_superset(&all.iter().copied().take(2).collect()), "pages: {:?}", planted[0]);
    assert!(planted[2].is_superset(&all.iter().copied().take(2).collect()), "files: {:?}", planted[2]);
}

#[test]
fn no_secret_is_in_any_page_version_or_file_that_a_superuser_reads() {
    a_superuser_reads_everything(Major::Fifteen);
}

#[test]
fn no_secret_is_in_any_page_version_or_file_that_a_superuser_of_postgres_18_reads() {
    a_superuser_reads_everything(Major::Eighteen);
}
