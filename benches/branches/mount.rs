//! What the mount alone costs: the same statements to a branch's compute and to the same Postgres on the local file system, both over their unix
//! sockets, so that the proxy is no part of it. Statements that change pages end with the checkpoint that writes them.

use super::fixture::*;
use super::table::Table;
use super::{CLIENTS, Extent, Size, milliseconds, pgbench_tps, progress, run_long, take_turns};
use std::path::{Path, PathBuf};

pub fn costs(extent: &Extent, scratch: &Scratch, small: &Size, direct: &Source, table: &mut Table) {
    let sides = sockets(small, direct, "mounted");
    for url in &sides {
        run_long(url, "select count(*) from pgbench_accounts");
    }
    for clients in ["1", "4", CLIENTS] {
        load(extent, &sides, &format!("on the mount alone: TPC-B, {clients} clients"), &["-c", clients], table);
    }
    load(extent, &sides, "on the mount alone: select-only, 8 clients", &["-S", "-c", CLIENTS], table);
    bulk(extent, scratch, &sides, table);
}

/// The shop on the branch `name` and on the baseline, by their unix sockets.
fn sockets(small: &Size, direct: &Source, name: &str) -> [String; 2] {
    let place = PathBuf::from(psql(&small.branch(name), "show data_directory"));
    let run = place.parent().expect("a branch's folder").join("run");
    let url = |folder: &Path, port: u16| {
        let (role, password) = POSTGRES;
        format!("postgres://{role}:{password}@/shop?host={}&port={port}", folder.display())
    };
    let own = direct.data_dir();
    [url(&run, 5432), url(own.parent().expect("a source's folder"), direct.port())]
}

fn load(extent: &Extent, sides: &[String; 2], what: &str, arguments: &[&str], table: &mut Table) {
    progress(what);
    let [branch, baseline] = take_turns(extent.rounds, sides, |url| pgbench_tps(extent, url, arguments));
    table.row(what, "transactions/s", &branch, "local", Some(&baseline));
}

fn bulk(extent: &Extent, scratch: &Scratch, sides: &[String; 2], table: &mut Table) {
    let file = scratch.join("rows.copy");
    let rows = u64::from(extent.scale) * 100_000 / 3;
    run_long(&sides[1], &format!("\\copy (select * from pgbench_accounts limit {rows}) to '{}'", file.display()));
    for url in sides {
        // The baseline has one of what was measured before.
        run_long(url, "drop table if exists bulk");
        run_long(url, "create table bulk (like pgbench_accounts) with (autovacuum_enabled = off, fillfactor = 50)");
    }
    let copy = format!("\\copy bulk from '{}'", file.display());
    // What each statement finds, what it is, and what is counted with it.
    let statements = [
        ("COPY", "truncate bulk", copy.as_str()),
        ("COPY with its checkpoint", "truncate bulk", &format!("{copy}\ncheckpoint")),
        ("CREATE INDEX", "drop index if exists bulk_key", "create index bulk_key on bulk (aid, abalance)"),
        (
            "CREATE INDEX with its checkpoint",
            "drop index if exists bulk_key",
            "create index bulk_key on bulk (aid, abalance)\ncheckpoint",
        ),
        (
            "UPDATE of all rows with its checkpoint",
            "drop index if exists bulk_key\nvacuum bulk",
            "update bulk set abalance = abalance + 1\ncheckpoint",
        ),
        (
            "UPDATE of a row in each page with its checkpoint",
            "vacuum bulk",
            "update bulk set abalance = abalance + 1 where (ctid::text::point)[1] = 7\ncheckpoint",
        ),
        ("VACUUM FULL", "select 1", "vacuum full bulk"),
    ];
    for (what, before, statement) in statements {
        progress(what);
        let [branch, baseline] = take_turns(extent.rounds, sides, |url| {
            before.lines().for_each(|sql| run_long(url, sql));
            run_long(url, "checkpoint");
            milliseconds(|| statement.lines().for_each(|sql| run_long(url, sql)))
        });
        table.speed(&format!("on the mount alone: {what}"), &branch, "local", &baseline);
    }
}
