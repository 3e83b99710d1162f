//! The search for raw values in what is about to be sealed, and the proof that it would find them.
//!
//! What is searched for: a sample of the raw values of every masked column (`sample`), each in all the forms in which Postgres and its users write
//! values (`scan`), and canaries. The canaries must be found, every one, in a control cluster; then nothing may be found in the masked
//! one: no value, no page of a copied table with anything in its holes, no dead or changed row.

use super::MaskingError;
use super::pipeline::{Canary, Copied};
use super::sample::Sample;
use super::scan::{Added, Finding, HeapFaults, LabelId, Patterns, PatternsBuilder, Place, Scan, ScanResult};
use crate::model::{Entropy, ScanSummary};
use crate::sources::Progress;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Findings that an error lists.
const SHOWN: usize = 40;
/// Why nothing of a column is searched for, in the report.
const KNOWN: &str = "its values are in any cluster, or are allowed literals";
const EXCUSED: &str = "the rules say not to (unsearched_columns)";

/// What was searched, and found clean.
pub(super) struct Scanned {
    pub summary: ScanSummary,
    pub columns: BTreeMap<String, Searched>,
}

/// How much was searched for of the raw values of one column.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Searched {
    /// Of this column.
    pub values: u64,
    /// Why none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<&'static str>,
}

/// What to search for.
pub(super) struct Wanted {
    patterns: Arc<Patterns>,
    /// By label: the column a value is of, and the value; of a canary none.
    columns: Vec<(String, Option<Box<str>>)>,
    /// Labels of canaries.
    canaries: BTreeSet<LabelId>,
    /// By column.
    searched: BTreeMap<String, Searched>,
}

/// A canary for every masked column whose values can be searched for.
pub(super) fn canaries(samples: &[(String, Arc<Sample>)], entropy: &Entropy) -> Vec<(String, Canary)> {
    let of_column = |(column, sample): &(String, Arc<Sample>)| {
        let kind = sample.kind?;
        Some(Canary::of(kind, entropy).into_iter().map(|canary| (column.clone(), canary)).collect::<Vec<_>>())
    };
    samples.iter().filter_map(of_column).flatten().collect()
}

impl Wanted {
    /// Canaries, and what was kept of raw values, but for those that say nothing where they are met: masks have written them, or somebody has looked
    /// at the definitions that quote them, or `everywhere` lists them: a cluster has them that nobody copied anything into.
    pub(super) fn new(copied: &Copied, canaries: &[(String, Canary)], everywhere: &BTreeSet<Box<str>>) -> Wanted {
        let mut builder = PatternsBuilder::new();
        let mut wanted = Wanted {
            patterns: Arc::new(PatternsBuilder::new().build()),
            columns: Vec::new(),
            canaries: BTreeSet::new(),
            searched: BTreeMap::new(),
        };
        for (column, canary) in canaries {
            let label = wanted.label(column, None);
            if let Added::Taken { .. } = builder.add(label, canary.kind, &canary.value) {
                wanted.canaries.insert(label);
            }
        }
        for (column, sample) in &copied.samples {
            let is_excused = copied.unsearched_columns.contains(column);
            let mut values = 0;
            for raw in sample.values() {
                let is_known = raw.is_coincidence(&copied.coincidences) || everywhere.contains(&raw.text);
                let Some(kind) = sample.kind else { continue };
                if is_excused || is_known || copied.literals.is_allowed(&raw.text) {
                    continue;
                }
                let label = wanted.label(column, Some(raw.text.clone()));
                values += u64::from(matches!(builder.add(label, kind, &raw.text), Added::Taken { .. }));
            }
            let because = if is_excused { Some(EXCUSED) } else { sample.unsearched(&copied.coincidences) };
            wanted.searched.entry(column.clone()).or_default().add(values, because);
        }
        wanted.patterns = Arc::new(builder.build());
        wanted
    }

    fn values(&self) -> u64 {
        self.searched.values().map(|searched| searched.values).sum()
    }

    fn label(&mut self, column: &str, value: Option<Box<str>>) -> LabelId {
        self.columns.push((column.to_owned(), value));
        LabelId(self.columns.len() as u32 - 1)
    }

    fn column(&self, label: LabelId) -> &str {
        self.columns.get(label.0 as usize).map_or("", |(column, _)| column)
    }
}

/// Searches the control cluster and then the masked one. Blocks.
pub(super) fn scan(
    canaries: &[(String, Canary)],
    control: &Path,
    copied: &Copied,
    threads: usize,
    progress: &Progress,
) -> Result<Scanned, MaskingError> {
    let all = Wanted::new(copied, canaries, &BTreeSet::new());
    let wanted = &all;
    let scan = Scan { patterns: wanted.patterns.clone(), threads };
    let failed = |e: super::scan::ScanError| MaskingError::Findings { findings: vec![e.to_string()] };
    progress.wait_for("trying the search for raw values on canaries");
    let tried = scan.run(control, &|_| false).map_err(failed)?;
    let missed: BTreeSet<&str> = wanted
        .canaries
        .iter()
        .filter(|label| !tried.labels.contains(label))
        .map(|label| wanted.column(*label))
        .collect();
    if !missed.is_empty() {
        let finding = |column: &str| format!("the scan does not find the canary that stands for {column}");
        return Err(MaskingError::Findings { findings: missed.into_iter().map(finding).collect() });
    }
    // Words of Postgres's own catalogs and files.
    let value = |label: &LabelId| all.columns.get(label.0 as usize).and_then(|(_, value)| value.clone());
    let everywhere: BTreeSet<Box<str>> = tried.labels.iter().filter_map(value).collect();
    let wanted = &Wanted::new(copied, canaries, &everywhere);
    let scan = Scan { patterns: wanted.patterns.clone(), threads };
    progress.begin("searching", bytes_below(&copied.data_dir));
    let result = scan.run(&copied.data_dir, &|file| copied.relations.is_copied(file)).map_err(failed)?;
    progress.advance(result.bytes);
    progress.finish();
    let findings = findings(wanted, copied, &result);
    if !findings.is_empty() {
        return Err(MaskingError::Findings { findings });
    }
    let summary = ScanSummary {
        files: result.files,
        bytes: result.bytes,
        decompressed_bytes: result.decompressed_bytes,
        values: wanted.values(),
        patterns: result.patterns,
        canaries: wanted.canaries.len() as u64,
        joined_rows: copied.joined_rows,
    };
    Ok(Scanned { summary, columns: wanted.searched.clone() })
}

impl Searched {
    /// A column with documents has several samples.
    fn add(&mut self, values: u64, because: Option<&'static str>) {
        self.values += values;
        self.because = if self.values > 0 { None } else { because.or(self.because).or(Some(KNOWN)) };
    }
}

/// About how much there is to search.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}

/// What is wrong, in words, without a value.
fn findings(wanted: &Wanted, copied: &Copied, result: &ScanResult) -> Vec<String> {
    let mut findings: Vec<String> = Vec::new();
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    for finding in &result.findings {
        *counted.entry(describe(wanted, copied, finding)).or_default() += 1;
    }
    let shown = counted.len().min(SHOWN);
    findings.extend(counted.iter().take(SHOWN).map(|(text, count)| format!("  {text}, {count} times")));
    if counted.len() > shown {
        findings.push(format!("  and {} more places", counted.len() - shown));
    }
    for (file, HeapFaults { nonzero_holes, dead_items, updated_or_deleted_tuples, unreadable_pages }) in &result.heap {
        findings.push(format!(
            "  {}: {nonzero_holes} pages with something in their free space, {dead_items} dead items, \
             {updated_or_deleted_tuples} changed or deleted rows, {unreadable_pages} pages that cannot be read",
            place(copied, file)
        ));
    }
    if result.detached_chunks > 0 {
        findings.push(format!("  {} pieces of long values without a beginning", result.detached_chunks));
    }
    findings.extend(result.links.iter().map(|link| format!("  {}: a link that was not followed", link.display())));
    findings
}

fn describe(wanted: &Wanted, copied: &Copied, finding: &Finding) -> String {
    let how = match finding.place {
        Place::Plain => "",
        Place::Compressed | Place::JoinedCompressed => ", compressed",
        Place::Joined => ", in pieces",
    };
    format!(
        "a raw value of {} is in {} (as {}{how})",
        wanted.column(finding.label),
        place(copied, &finding.file),
        finding.encoding.name()
    )
}

fn place(copied: &Copied, file: &Path) -> String {
    match copied.relations.of(file) {
        Some((relation, _)) => format!("{} ({})", relation.name, file.display()),
        None => file.display().to_string(),
    }
}
