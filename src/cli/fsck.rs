//! `offshoot fsck`: everything that a store's heads reach, read and checked. No server is needed, and none is in the way.
//!
//! Exit status: 0 sound, 1 damage, 2 not everything could be read, whatever the rest was.

use super::{bytes, print, table};
use crate::model::{BranchRef, Entropy};
use crate::pageserver::fsck::{Finding, Report, Watch, fsck};
use crate::settings::Settings;
use crate::sources::Progress;
use crate::store::{Catalog, Store};
use std::process::ExitCode;
use std::time::Instant;

/// Something is damaged.
const DAMAGED: u8 = 1;
/// Something could not be read.
pub(super) const UNREAD: u8 = 2;

struct Bar(Progress);

impl Watch for Bar {
    fn begin(&self, total: u64) {
        self.0.begin("checking", total);
    }

    fn advance(&self, bytes: u64) {
        self.0.advance(bytes);
    }
}

/// Checks the store, or one branch. Findings go to standard output, progress to standard error.
pub(super) async fn run(settings: Settings, branch: Option<BranchRef>, json: bool) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let catalog = Catalog::new(Store::open(&settings.store.url)?, Entropy::system());
    let bar = Bar(if json { Progress::hidden() } else { Progress::stderr() });
    let report = fsck(&catalog, branch.as_ref(), &bar).await?;
    bar.0.finish();
    if json {
        print(serde_json::to_string_pretty(&report)?)?;
    } else {
        show(&report, started.elapsed().as_secs_f64())?;
    }
    Ok(match report.unread.is_empty() {
        false => ExitCode::from(UNREAD),
        true if report.findings.is_empty() => ExitCode::SUCCESS,
        true => ExitCode::from(DAMAGED),
    })
}

fn show(report: &Report, seconds: f64) -> anyhow::Result<()> {
    if !report.findings.is_empty() {
        let mut listing = table(&["DAMAGED", "WHAT", "TOUCHES"]);
        for finding in &report.findings {
            listing.add_row([finding.object.clone(), finding.what.clone(), touched(finding)]);
        }
        print(format_args!("{listing}\n"))?;
    }
    if !report.unread.is_empty() {
        let mut listing = table(&["NOT READ", "WHY"]);
        for unread in &report.unread {
            listing.add_row([unread.object.clone(), unread.why.clone()]);
        }
        print(format_args!("{listing}\n"))?;
    }
    print(format_args!(
        "{} damaged, {} not read, of {} objects ({}) of {} bases and {} branches, and {} deleted branches' heads; {:.1} s, {}/s",
        report.findings.len(),
        report.unread.len(),
        report.objects,
        bytes(report.bytes),
        report.bases,
        report.branches,
        report.tombstones,
        seconds,
        bytes((report.bytes as f64 / seconds.max(0.001)) as u64)
    ))?;
    Ok(())
}

fn touched(finding: &Finding) -> String {
    let branches = match finding.branches.is_empty() {
        true => "no branch".to_owned(),
        false => finding.branches.join(", "),
    };
    match &finding.base {
        Some(base) => format!("{base}: {branches}"),
        None => branches,
    }
}
