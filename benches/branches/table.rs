//! The figures of a run as Markdown: medians, their baselines, ratios, counts and noise.

use crate::fixture::Major;
use std::collections::HashMap;
use std::fs;

/// Rows in the order they were measured.
#[derive(Default)]
pub struct Table {
    rows: Vec<[String; 6]>,
}

impl Table {
    /// A figure, its baseline with a name, and their ratio.
    pub fn row(&mut self, what: &str, unit: &str, samples: &[f64], baseline: &str, other: Option<&[f64]>) {
        let (beside, ratio) = match other {
            Some(other) => {
                let beside = format!("{} ({baseline}{})", figure(median(other)), noise(other));
                (beside, format!("{:.2}", median(samples) / median(other)))
            }
            None => (baseline.to_owned(), String::new()),
        };
        self.add([
            what.into(),
            format!("{} {unit}", figure(median(samples))),
            beside,
            ratio,
            samples.len().to_string(),
            noise(samples).trim_start_matches(", ").into(),
        ]);
    }

    /// How long something takes beside its baseline; the ratio is of speeds, so that more is better as everywhere.
    pub fn speed(&mut self, what: &str, samples_ms: &[f64], baseline: &str, other_ms: &[f64]) {
        self.add([
            what.into(),
            format!("{} ms", figure(median(samples_ms))),
            format!("{} ms ({baseline}{})", figure(median(other_ms)), noise(other_ms)),
            format!("{:.2}", median(other_ms) / median(samples_ms)),
            samples_ms.len().to_string(),
            noise(samples_ms).trim_start_matches(", ").into(),
        ]);
    }

    pub fn latency(&mut self, what: &str, samples: &[f64], baseline: &str, other_ms: f64) {
        let measured = format!("p50 {} ms, p95 {} ms", figure(median(samples)), figure(quantile(samples, 0.95)));
        let beside = format!("p50 {} ms ({baseline})", figure(other_ms));
        self.add([
            what.into(),
            measured,
            beside,
            format!("{:.1}", median(samples) / other_ms),
            samples.len().to_string(),
            noise(samples).trim_start_matches(", ").into(),
        ]);
    }

    pub fn ratio(&mut self, what: &str, unit: &str, samples: &[f64], other: &[f64]) {
        let ratio = format!("{:.2}", median(samples) / median(other));
        self.add([
            what.into(),
            format!("{ratio} {unit}"),
            String::new(),
            ratio,
            samples.len().to_string(),
            String::new(),
        ]);
    }

    /// Shown at once, too: a run takes long, and may fail late.
    fn add(&mut self, row: [String; 6]) {
        eprintln!("bench: | {} |", row.join(" | "));
        self.rows.push(row);
    }

    pub fn print(&self) {
        println!("| what | measured | baseline, same run | ratio | n | noise |\n|---|---|---|---|---|---|");
        for row in &self.rows {
            println!("| {} |", row.join(" | "));
        }
        println!("\n{}", machine());
    }
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let memory: HashMap<String, u64> = read("/proc/meminfo")
        .lines()
        .filter_map(|line| Some((line.split(':').next()?.to_owned(), line.split_whitespace().nth(1)?.parse().ok()?)))
        .collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory_gib = memory.get("MemTotal").copied().unwrap_or(0) / 1024 / 1024;
    format!(
        "{cores} cores, {memory_gib} GiB, Linux {}, PostgreSQL {}",
        read("/proc/sys/kernel/osrelease").trim(),
        Major::Fifteen.number()
    )
}

fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

pub fn median(samples: &[f64]) -> f64 {
    quantile(samples, 0.5)
}

/// `, ±12 %`: half of what lies between the largest and the smallest, of the median; nothing for one sample.
fn noise(samples: &[f64]) -> String {
    if samples.len() < 2 {
        return String::new();
    }
    let spread = (quantile(samples, 1.0) - quantile(samples, 0.0)) / 2.0 / median(samples);
    format!(", ±{:.0} %", spread * 100.0)
}

fn figure(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

pub fn human(bytes: u64) -> String {
    if bytes >= 1_000_000_000 {
        format!("{:.1} GB", bytes as f64 / 1e9)
    } else {
        format!("{:.1} MB", bytes as f64 / 1e6)
    }
}
