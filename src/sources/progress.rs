//! How far an import is: a bar with bytes, rate and time left on a terminal, plain lines elsewhere.

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Between two redraws of the bar, so that its time goes on while the source is silent.
const TICK: Duration = Duration::from_millis(200);
const BAR: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
const ROWS_BAR: &str = "{msg} {wide_bar} {human_pos}/{human_len} rows {per_sec} {eta} left";

/// Shows how many bytes have come. Shared by the threads of an import.
pub struct Progress(View);

enum View {
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
    Nothing,
}

/// What is counted.
#[derive(Clone, Copy, PartialEq)]
enum Unit {
    Bytes,
    Rows,
}

impl Unit {
    fn show(self, amount: u64) -> String {
        match self {
            Unit::Bytes => HumanBytes(amount).to_string(),
            Unit::Rows => format!("{} rows", HumanCount(amount)),
        }
    }
}

struct Lines {
    out: Box<dyn Write + Send>,
    subject: String,
    unit: Unit,
    total: u64,
    /// In that unit.
    bytes: u64,
    began: Instant,
    printed: Instant,
}

impl Progress {
    /// On stderr, in the form that suits it.
    pub fn stderr() -> Progress {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar()));
            return Progress(View::Bar(bar));
        }
        Progress::lines(Box::new(std::io::stderr()))
    }

    /// Nowhere.
    pub fn hidden() -> Progress {
        Progress(View::Nothing)
    }

    fn lines(out: Box<dyn Write + Send>) -> Progress {
        let now = Instant::now();
        Progress(View::Lines(Mutex::new(Lines {
            out,
            subject: String::new(),
            unit: Unit::Bytes,
            total: 0,
            bytes: 0,
            began: now,
            printed: now,
        })))
    }

    /// What is waited for before the first byte.
    pub fn wait_for(&self, what: &str) {
        match &self.0 {
            View::Bar(bar) => {
                bar.set_message(what.to_owned());
                bar.enable_steady_tick(TICK);
            }
            View::Lines(lines) => lock(lines).print(what),
            View::Nothing => {}
        }
    }

    /// Bytes begin to come, about `total` of them.
    pub fn begin(&self, subject: &str, total: u64) {
        self.begin_counting(subject, total, Unit::Bytes);
    }

    /// Rows begin to come, about `total` of them.
    pub fn begin_rows(&self, subject: &str, total: u64) {
        self.begin_counting(subject, total, Unit::Rows);
    }

    fn begin_counting(&self, subject: &str, total: u64, unit: Unit) {
        match &self.0 {
            View::Bar(bar) => {
                let template = if unit == Unit::Bytes { BAR } else { ROWS_BAR };
                bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
                bar.set_message(subject.to_owned());
                bar.set_position(0);
                bar.set_length(total);
                bar.reset_eta();
                bar.enable_steady_tick(TICK);
            }
            View::Lines(lines) => {
                let mut lines = lock(lines);
                lines.subject = subject.to_owned();
                (lines.unit, lines.total, lines.bytes) = (unit, total, 0);
                lines.began = Instant::now();
                lines.printed = lines.began;
                let line = format!("{subject}: about {}", unit.show(total));
                lines.print(&line);
            }
            View::Nothing => {}
        }
    }

    /// So many more have come.
    pub fn advance(&self, bytes: u64) {
        match &self.0 {
            View::Bar(bar) => {
                bar.inc(bytes);
                // The total was an estimate.
                if bar.length().is_some_and(|length| bar.position() > length) {
                    bar.set_length(bar.position());
                }
            }
            View::Lines(lines) => {
                let mut lines = lock(lines);
                lines.bytes += bytes;
                if lines.printed.elapsed() >= LINE_INTERVAL {
                    let line = lines.state();
                    lines.print(&line);
                }
            }
            View::Nothing => {}
        }
    }

    /// All have come.
    pub fn finish(&self) {
        match &self.0 {
            View::Bar(bar) => bar.finish(),
            View::Lines(lines) => {
                let mut lines = lock(lines);
                let elapsed = lines.began.elapsed();
                let line =
                    format!("{}: {} in {:.1} s", lines.subject, lines.unit.show(lines.bytes), elapsed.as_secs_f64());
                lines.print(&line);
            }
            View::Nothing => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let View::Bar(bar) = &self.0 {
            bar.abandon();
        }
    }
}

fn lock(lines: &Mutex<Lines>) -> std::sync::MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lines {
    fn state(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64();
        let rate = self.bytes as f64 / seconds.max(0.001);
        let left = self.total.saturating_sub(self.bytes) as f64 / rate.max(1.0);
        let percent = (self.bytes * 100).checked_div(self.total).unwrap_or(0).min(99);
        format!(
            "{}: {} of {} ({percent} %), {}/s, {} left",
            self.subject,
            self.unit.show(self.bytes),
            self.unit.show(self.total),
            self.unit.show(rate as u64),
            humantime::format_duration(Duration::from_secs(left as u64)),
        )
    }

    /// Nobody is helped by an import that fails because its log cannot be written.
    fn print(&mut self, line: &str) {
        let _ = writeln!(self.out, "{line}");
        self.printed = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn without_a_terminal_there_are_few_lines_and_a_last_one() {
        let paper = Paper::default();
        let progress = Progress::lines(Box::new(paper.clone()));
        progress.wait_for("waiting for the checkpoint");
        progress.begin("copying", 4096);
        (0..5).for_each(|_| progress.advance(1024));
        progress.finish();
        let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["waiting for the checkpoint", "copying: about 4.00 KiB"]);
        assert!(lines[2].starts_with("copying: 5.00 KiB in "), "{text}");
        assert_eq!(lines.len(), 3);
    }

    #[test]
    fn a_line_tells_rate_and_time_left() {
        let began = Instant::now() - Duration::from_secs(10);
        let lines = Lines {
            out: Box::new(std::io::sink()),
            subject: "copying".to_owned(),
            unit: Unit::Bytes,
            total: 40 << 20,
            bytes: 10 << 20,
            began,
            printed: began,
        };
        let state = lines.state();
        assert!(state.starts_with("copying: 10.00 MiB of 40.00 MiB (25 %), 1") && state.ends_with("s left"), "{state}");
    }
}
