//! Hedged reads: a read that has not begun to answer after a while is sent a second time, and the first answer wins.
//!
//! A store's tail is long (0.5 % of requests take 200–800 ms where the median takes 22, FACTS.md), and what makes one slow rarely makes its
//! repetition slow (Dean and Barroso, "The Tail at Scale", 2013). A wake of several reads meets that tail often.
//!
//! *When*: after the [`QUANTILE`] of the last [`WINDOW`] waits for an answer's beginning, within [`FLOOR`] and [`CEILING`]. A wait that a
//! second request cut short counts with what it took: it lies above the quantile either way, so hedging does not move its own threshold.
//! *How much*: each read pays [`SHARE`] of a token into a bucket, a second request costs one. When the whole store slows down, nearly every
//! read would be sent twice; the bucket stops that at once, the window follows.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Waits that are remembered: enough for a 97th percentile (the eighth largest), few enough to follow a store within seconds.
const WINDOW: usize = 256;
/// Below the share, so that the bucket is not empty when the real tail comes.
const QUANTILE: f64 = 0.97;
/// Extra requests among all, but for [`BURST`].
const SHARE: f64 = 0.05;
/// Tokens that the bucket holds, and begins with: the reads of one wake may all be hedged.
const BURST: f64 = 4.0;
/// Where a store answers faster than this, its tail is not what a wake waits for.
const FLOOR: Duration = Duration::from_millis(15);
/// Where it answers slower than this, a second request would only add load.
const CEILING: Duration = Duration::from_secs(1);
/// Until there are [`ENOUGH`] waits: above the body of the distribution, below its tail.
const UNKNOWN: Duration = Duration::from_millis(120);
const ENOUGH: usize = 32;
/// The threshold is computed anew after so many answers, not after each.
const REFRESH: usize = 16;

/// One store's recent waits and its bucket. The lock is held for a few loads and stores, and each 16th time for sorting 256 numbers.
pub(super) struct Hedge(Mutex<State>);

struct State {
    waits: Vec<Duration>,
    next: usize,
    since_refresh: usize,
    delay: Duration,
    tokens: f64,
}

/// Told of what [`Hedge::race`] does beside answering.
pub(super) trait Witness {
    /// The second request is being sent.
    fn second(&self) {}
    /// It answered first.
    fn second_won(&self) {}
}

impl Hedge {
    pub(super) fn new() -> Hedge {
        let state =
            State { waits: Vec::with_capacity(WINDOW), next: 0, since_refresh: 0, delay: UNKNOWN, tokens: BURST };
        Hedge(Mutex::new(state))
    }

    /// The answer of `request`, which is made once or twice. `is_answer` tells an answer from a failure that the other request may still
    /// mend. Cancel safe where `request` is.
    pub(super) async fn race<T, F: Future<Output = T>>(
        &self,
        request: impl Fn() -> F,
        is_answer: impl Fn(&T) -> bool,
        witness: &impl Witness,
    ) -> T {
        let began = Instant::now();
        let delay = self.begin();
        let mut first = std::pin::pin!(request());
        tokio::select! {
            biased;
            outcome = &mut first => return self.end(began, outcome, &is_answer),
            () = sleep(delay) => {}
        }
        if !self.take_token() {
            let outcome = first.await;
            return self.end(began, outcome, &is_answer);
        }
        witness.second();
        let mut second = std::pin::pin!(request());
        let (outcome, second_won) = tokio::select! {
            biased;
            outcome = &mut first => match is_answer(&outcome) {
                true => (outcome, false),
                false => (second.await, true),
            },
            outcome = &mut second => match is_answer(&outcome) {
                true => (outcome, true),
                false => (first.await, false),
            },
        };
        if second_won {
            witness.second_won();
        }
        self.end(began, outcome, &is_answer)
    }

    fn begin(&self) -> Duration {
        let mut state = self.state();
        state.tokens = (state.tokens + SHARE).min(BURST);
        state.delay
    }

    fn end<T>(&self, began: Instant, outcome: T, is_answer: &impl Fn(&T) -> bool) -> T {
        if is_answer(&outcome) {
            self.state().add(began.elapsed());
        }
        outcome
    }

    fn take_token(&self) -> bool {
        let mut state = self.state();
        let may = state.tokens >= 1.0;
        if may {
            state.tokens -= 1.0;
        }
        may
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, wait: Duration) {
        if self.waits.len() < WINDOW {
            self.waits.push(wait);
        } else {
            self.waits[self.next] = wait;
            self.next = (self.next + 1) % WINDOW;
        }
        self.since_refresh += 1;
        if self.since_refresh >= REFRESH && self.waits.len() >= ENOUGH {
            self.since_refresh = 0;
            self.delay = quantile(&self.waits).clamp(FLOOR, CEILING);
        }
    }
}

fn quantile(waits: &[Duration]) -> Duration {
    let mut sorted = waits.to_vec();
    let at = ((sorted.len() as f64 * QUANTILE) as usize).min(sorted.len() - 1);
    *sorted.select_nth_unstable(at).1
}
