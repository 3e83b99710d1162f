//! How far an import is: a bar with bytes, rate and time left on a terminal, plain lines elsewhere.

use indicatif::{HumanBytes, HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// Between two redraws of the bar, so that its time goes on while the source is silent.
const TICK: Duration = Duration::from_millis(200);
const BAR: &str = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta} left";
const ROWS_BAR: &str = "{msg} {wide_bar} {human_pos}/{human_len} rows {per_sec} {eta} left";
const PART_BAR: &str = "  {msg} {wide_bar} {human_pos}/{human_len} rows {per_sec} {eta} left";
/// A part that took longer is worth a line of its own.
const WORTH_A_LINE: Duration = Duration::from_secs(2);

/// Shows how many bytes have come. Shared by the threads of an import.
pub struct Progress(View);

enum View {
    /// One of the whole, and below it those of its parts.
    Bar(ProgressBar, MultiProgress),
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
    whole: Count,
    /// Parts under way, by number.
    parts: BTreeMap<u64, Count>,
    next_part: u64,
    printed: Instant,
}

/// How far something is.
struct Count {
    subject: String,
    unit: Unit,
    /// 0 where nobody knows.
    total: u64,
    /// In that unit.
    done: u64,
    began: Instant,
}

/// A part of what is counted: a table. Ends when it is dropped.
pub struct Part<'a> {
    progress: &'a Progress,
    view: PartView,
}

enum PartView {
    Bar(ProgressBar),
    Line(u64),
    Nothing,
}

impl Progress {
    /// On stderr, in the form that suits it.
    pub fn stderr() -> Progress {
        if std::io::stderr().is_terminal() {
            let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            let bar = bars.add(ProgressBar::no_length());
            bar.set_style(style(BAR));
            return Progress(View::Bar(bar, bars));
        }
        Progress::lines(Box::new(std::io::stderr()))
    }

    /// Nowhere.
    pub fn hidden() -> Progress {
        Progress(View::Nothing)
    }

    fn lines(out: Box<dyn Write + Send>) -> Progress {
        let whole = Count::begin("", 0, Unit::Bytes);
        let (parts, printed) = (BTreeMap::new(), whole.began);
        Progress(View::Lines(Mutex::new(Lines { out, whole, parts, next_part: 0, printed })))
    }

    /// What is waited for before the first byte.
    pub fn wait_for(&self, what: &str) {
        match &self.0 {
            View::Bar(bar, _) => {
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
            View::Bar(bar, _) => {
                bar.set_style(style(if unit == Unit::Bytes { BAR } else { ROWS_BAR }));
                bar.set_message(subject.to_owned());
                bar.set_position(0);
                bar.set_length(total);
                bar.reset_eta();
                bar.enable_steady_tick(TICK);
            }
            View::Lines(lines) => {
                let mut lines = lock(lines);
                lines.whole = Count::begin(subject, total, unit);
                lines.printed = lines.whole.began;
                let line = format!("{subject}: about {}", unit.show(total));
                lines.print(&line);
            }
            View::Nothing => {}
        }
    }

    /// So many more have come.
    pub fn advance(&self, bytes: u64) {
        match &self.0 {
            View::Bar(bar, _) => {
                bar.inc(bytes);
                // The total was an estimate.
                if bar.length().is_some_and(|length| bar.position() > length) {
                    bar.set_length(bar.position());
                }
            }
            View::Lines(lines) => {
                let mut lines = lock(lines);
                lines.whole.done += bytes;
                if lines.printed.elapsed() >= LINE_INTERVAL {
                    let parts = lines.parts.values().map(|part| format!("  {}", part.state()));
                    let state: Vec<String> = std::iter::once(lines.whole.state()).chain(parts).collect();
                    lines.print(&state.join("\n"));
                }
            }
            View::Nothing => {}
        }
    }

    /// All have come.
    pub fn finish(&self) {
        match &self.0 {
            View::Bar(bar, _) => bar.finish(),
            View::Lines(lines) => {
                let mut lines = lock(lines);
                let line = lines.whole.end();
                lines.print(&line);
            }
            View::Nothing => {}
        }
    }

    /// A part of what is counted begins, with about `total` rows; 0 where nobody knows.
    pub fn part(&self, subject: &str, total: u64) -> Part<'_> {
        let view = match &self.0 {
            View::Bar(_, bars) => {
                let bar = bars.add(ProgressBar::new(total));
                bar.set_style(style(PART_BAR));
                bar.set_message(subject.to_owned());
                PartView::Bar(bar)
            }
            View::Lines(lines) => {
                let mut lines = lock(lines);
                let number = lines.next_part;
                lines.next_part += 1;
                lines.parts.insert(number, Count::begin(subject, total, Unit::Rows));
                PartView::Line(number)
            }
            View::Nothing => PartView::Nothing,
        };
        Part { progress: self, view }
    }
}

impl Part<'_> {
    /// So many more rows have come, of the part and of the whole.
    pub fn advance(&self, rows: u64) {
        match (&self.view, &self.progress.0) {
            (PartView::Bar(bar), _) => {
                bar.inc(rows);
                if bar.length().is_some_and(|length| bar.position() > length) {
                    bar.set_length(bar.position());
                }
            }
            (PartView::Line(number), View::Lines(lines)) => {
                if let Some(part) = lock(lines).parts.get_mut(number) {
                    part.done += rows;
                }
            }
            _ => {}
        }
        self.progress.advance(rows);
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        match (&self.view, &self.progress.0) {
            (PartView::Bar(bar), _) => bar.finish_and_clear(),
            (PartView::Line(number), View::Lines(lines)) => {
                let mut lines = lock(lines);
                let ended = lines.parts.remove(number).filter(|part| part.began.elapsed() >= WORTH_A_LINE);
                if let Some(part) = ended {
                    lines.print(&format!("  {}", part.end()));
                }
            }
            _ => {}
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let View::Bar(bar, _) = &self.0 {
            bar.abandon();
        }
    }
}

fn lock(lines: &Mutex<Lines>) -> std::sync::MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Count {
    fn begin(subject: &str, total: u64, unit: Unit) -> Count {
        Count { subject: subject.to_owned(), unit, total, done: 0, began: Instant::now() }
    }

    fn state(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64();
        let rate = self.done as f64 / seconds.max(0.001);
        let left = self.total.saturating_sub(self.done) as f64 / rate.max(1.0);
        let percent = (self.done * 100).checked_div(self.total).unwrap_or(0).min(99);
        format!(
            "{}: {} of {} ({percent} %), {}/s, {} left",
            self.subject,
            self.unit.show(self.done),
            self.unit.show(self.total.max(self.done)),
            self.unit.show(rate as u64),
            humantime::format_duration(Duration::from_secs(left as u64)),
        )
    }

    fn end(&self) -> String {
        let seconds = self.began.elapsed().as_secs_f64();
        format!("{}: {} in {seconds:.1} s", self.subject, self.unit.show(self.done))
    }
}

impl Lines {
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
    fn parts_are_told_of_while_they_last_and_those_that_took_long_at_their_end() {
        let paper = Paper::default();
        let progress = Progress::lines(Box::new(paper.clone()));
        progress.begin_rows("copying rows", 1000);
        let (quick, slow) = (progress.part("shop: public.quick", 10), progress.part("shop: public.slow", 900));
        let View::Lines(lines) = &progress.0 else { panic!("they are lines") };
        let long_ago = Instant::now() - Duration::from_secs(10);
        lock(lines).parts.values_mut().nth(1).unwrap().began = long_ago;
        lock(lines).printed = long_ago;
        slow.advance(450);
        drop(quick);
        drop(slow);
        progress.finish();
        let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("copying rows: 450 rows of 1,000 rows (45 %)"), "{text}");
        assert!(lines[2].starts_with("  shop: public.quick: 0 rows of 10 rows"), "{text}");
        assert!(lines[3].starts_with("  shop: public.slow: 450 rows of 900 rows (50 %), 4"), "{text}");
        assert!(lines[4].starts_with("  shop: public.slow: 450 rows in 10."), "{text}");
        assert_eq!(lines.len(), 6, "{text}");
    }

    #[test]
    fn a_line_tells_rate_and_time_left() {
        let began = Instant::now() - Duration::from_secs(10);
        let count = Count { done: 10 << 20, began, ..Count::begin("copying", 40 << 20, Unit::Bytes) };
        let state = count.state();
        assert!(state.starts_with("copying: 10.00 MiB of 40.00 MiB (25 %), 1") && state.ends_with("s left"), "{state}");
    }
}
