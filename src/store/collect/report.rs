//! What a run does, or would do, for people: objects and bytes by fate, kind and reason.

use super::{Garbage, Kind, Review, Survey, Why};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// What becomes of garbage in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fate {
    /// It goes now.
    Deleted,
    /// Seen for the first time.
    Condemned,
    /// Condemned less than a grace ago, too young, or perhaps of an upload under way.
    Waiting,
}

/// Objects and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub objects: u64,
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub fate: Fate,
    pub kind: String,
    pub why: String,
    #[serde(flatten)]
    pub tally: Tally,
}

/// What one run did, or would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub rows: Vec<Row>,
    pub in_use: Tally,
    /// Doomed objects that the run had no time left for.
    pub left: usize,
}

impl Report {
    pub(super) fn of(review: &Review, survey: &Survey) -> Report {
        let mut tallies: BTreeMap<(Fate, Kind, Why), Tally> = BTreeMap::new();
        let mut count = |fate, garbage: &Garbage| {
            tallies.entry((fate, garbage.kind, garbage.why)).or_default().add(garbage.bytes);
        };
        for (key, garbage) in &survey.garbage {
            let fate = match (review.dooms(key), review.names(key)) {
                (true, _) => Fate::Deleted,
                (false, true) => Fate::Waiting,
                (false, false) => Fate::Condemned,
            };
            count(fate, garbage);
        }
        survey.over.values().for_each(|garbage| count(Fate::Deleted, garbage));
        survey.waiting.iter().for_each(|garbage| count(Fate::Waiting, garbage));
        let row = |((fate, kind, why), tally): ((Fate, Kind, Why), Tally)| Row {
            fate,
            kind: kind.to_string(),
            why: why.to_string(),
            tally,
        };
        let (objects, bytes) = survey.in_use;
        Report { rows: tallies.into_iter().map(row).collect(), in_use: Tally { objects, bytes }, left: 0 }
    }

    /// All rows of one fate together.
    pub fn total(&self, fate: Fate) -> Tally {
        self.rows.iter().filter(|row| row.fate == fate).fold(Tally::default(), |sum, row| Tally {
            objects: sum.objects + row.tally.objects,
            bytes: sum.bytes + row.tally.bytes,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Base => "base",
            Kind::StagedIndex => "staged index",
            Kind::Manifest => "manifest",
            Kind::Layer => "layer",
            Kind::Image => "image",
            Kind::Boot => "boot set",
            Kind::Pin => "pin",
            Kind::Scratch => "probe",
        })
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::BaseNotListed => "of an import that was not completed",
            Why::BaseSealed => "its base is sealed",
            Why::BranchGone => "its branch is deleted",
            Why::NoManifestListsIt => "its branch no longer lists it",
            Why::ChildHadItsTime => "of a branch that was not completed",
            Why::LeftByProbe => "left behind",
        })
    }
}
