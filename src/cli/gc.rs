//! `offshoot gc`: one pass of the collector over the whole store. Works beside running servers, and beside others of its kind.

use super::{bytes, print, table};
use crate::model::Ambient;
use crate::settings::Settings;
use crate::store::collect::{Collector, Fate, Report};
use crate::store::{Catalog, Store, open_and_probe};
use std::time::Duration;

/// Collects, or says what it would do.
pub(super) async fn run(settings: Settings, grace: Duration, dry_run: bool, json: bool) -> anyhow::Result<()> {
    let ambient = Ambient::system();
    let store = match dry_run {
        true => Store::open(&settings.store.url)?,
        false => open_and_probe(&settings.store.url, &ambient.entropy).await?,
    };
    let collector = Collector::new(Catalog::new(store, ambient.entropy), ambient.clock, grace)?;
    let report = if dry_run { collector.dry_run().await? } else { collector.run().await? };
    if json {
        print(serde_json::to_string_pretty(&report)?)?;
    } else {
        show(&report, dry_run)?;
    }
    Ok(())
}

fn show(report: &Report, dry_run: bool) -> anyhow::Result<()> {
    let fate = |fate| match (fate, dry_run) {
        (Fate::Deleted, false) => "deleted",
        (Fate::Deleted, true) => "would be deleted",
        (Fate::Condemned, false) => "condemned",
        (Fate::Condemned, true) => "would be condemned",
        (Fate::Waiting, _) => "waits",
    };
    let mut listing = table(&["FATE", "KIND", "OBJECTS", "BYTES", "WHY"]);
    let mut row = |what: &str, kind: &str, objects: u64, size: u64, why: &str| {
        listing.add_row([what, kind, &objects.to_string(), &bytes(size), why]);
    };
    for line in &report.rows {
        row(fate(line.fate), &line.kind, line.tally.objects, line.tally.bytes, &line.why);
    }
    for total in [Fate::Deleted, Fate::Condemned, Fate::Waiting] {
        let tally = report.total(total);
        row(fate(total), "all", tally.objects, tally.bytes, "");
    }
    row("in use", "all", report.in_use.objects, report.in_use.bytes, "");
    print(&listing)?;
    if report.left > 0 {
        print(format_args!("{} objects are left for the next run: this one took half a grace", report.left))?;
    }
    Ok(())
}
