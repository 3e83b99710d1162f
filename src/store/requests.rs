//! What one request to the store is, how it is counted, how long it may take, and how often it is tried.
//!
//! **One layer retries: this one.** `object_store` would repeat a conditional put after a 5xx by itself and then report its own success as
//! somebody else's conflict (FACTS.md); it does not take a timeout of a put for repeatable, and counts nothing. So its retries are off
//! (`open.rs`), one attempt here is one request on the wire, and what an ambiguous attempt did is found out by reading back (`puts.rs`).
//! Only a listing with a delimiter is several requests in one attempt: its pages are put together below us.
//!
//! A `file://` store is neither retried nor hedged: a local disk that fails will fail again, and a network file system waits in the kernel.

use super::{Store, StoreError};
use crate::model::Entropy;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// What is asked of the store; metrics and [`super::Requests`] count by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestKind {
    Get,
    Range,
    Create,
    ConditionalPut,
    List,
    Delete,
}

impl RequestKind {
    pub const ALL: [RequestKind; 6] = [
        RequestKind::Get,
        RequestKind::Range,
        RequestKind::Create,
        RequestKind::ConditionalPut,
        RequestKind::List,
        RequestKind::Delete,
    ];

    /// As metrics spell it.
    pub fn name(self) -> &'static str {
        match self {
            RequestKind::Get => "get",
            RequestKind::Range => "range",
            RequestKind::Create => "create",
            RequestKind::ConditionalPut => "conditional_put",
            RequestKind::List => "list",
            RequestKind::Delete => "delete",
        }
    }
}

/// The first attempt's limit, its transfer aside: 2.5 times the worst tail of a store in order (800 ms, FACTS.md). Each further attempt gets
/// twice as long, so that a store which takes four seconds for everything is slow, not away.
const FIRST_ATTEMPT: Duration = Duration::from_secs(2);
/// All attempts of one request together, the transfer aside. Below what a client waits for a connection (`ENTER_TIMEOUT` in the proxy:
/// 60 s) with two such requests in a row, and above a failover of a store's front end (S3 closes in seconds).
const OVERALL: Duration = Duration::from_secs(20);
/// The slowest transfer that is waited for, a hundredth of what one connection gives (80 MB/s, FACTS.md): a pack of 64 MiB may take
/// 84 s more than an empty object.
const SLOWEST_BYTES_PER_S: u64 = 800_000;
/// A listing with a delimiter comes in pages of 1000 names, one after the other: room for 100,000 branches at the 90th percentile.
const LISTING: Duration = Duration::from_secs(10);
/// The pause before the second attempt, doubled before each further one; half of it is random.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause: a store that comes back is noticed within it.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long one request may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Of the first attempt.
    attempt: Duration,
    /// Of all.
    overall: Duration,
    transfer: Duration,
}

impl Patience {
    /// For a request that moves `bytes` either way.
    pub(super) fn moving(bytes: u64) -> Patience {
        Patience { attempt: FIRST_ATTEMPT, overall: OVERALL, transfer: transfer_time(bytes) }
    }

    pub(super) fn listing() -> Patience {
        Patience { attempt: LISTING, overall: OVERALL + LISTING, transfer: Duration::ZERO }
    }
}

/// How long `bytes` may be under way.
fn transfer_time(bytes: u64) -> Duration {
    Duration::from_micros(bytes.saturating_mul(1_000_000) / SLOWEST_BYTES_PER_S)
}

/// How long one attempt may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    answer: Duration,
    transfer: Duration,
}

impl Limit {
    /// Waits for an attempt as a whole.
    pub(super) async fn hold<T>(
        self,
        key: &str,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        hold(key, self.answer + self.transfer, request).await
    }

    /// Waits for the beginning of an answer.
    pub(super) async fn hold_beginning<T>(
        self,
        key: &str,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        hold(key, self.answer, request).await
    }

    /// Waits for the rest of an answer that told its `length`.
    pub(super) async fn hold_body<T>(
        self,
        key: &str,
        length: u64,
        body: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        hold(key, FIRST_ATTEMPT + transfer_time(length), body).await
    }
}

async fn hold<T>(
    key: &str,
    limit: Duration,
    request: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(limit, request).await.unwrap_or_else(|_| Err(StoreError::no_answer(key, limit)))
}

/// The attempts of one request: their limits and the pauses between them.
pub(super) struct Attempts {
    made: u32,
    began: Instant,
    patience: Patience,
    entropy: Entropy,
}

impl Attempts {
    pub(super) fn begin(patience: Patience, entropy: &Entropy) -> Attempts {
        Attempts { made: 0, began: Instant::now(), patience, entropy: entropy.clone() }
    }

    fn limit(&self) -> Limit {
        let grown = self.patience.attempt.saturating_mul(1 << self.made.min(8));
        let left = self.patience.overall.saturating_sub(self.began.elapsed()).max(FIRST_ATTEMPT);
        Limit { answer: grown.min(left), transfer: self.patience.transfer }
    }

    /// Waits before the next attempt; gives `error` back, with how often and how long it was tried, where there may be none.
    pub(super) async fn pause_after(&mut self, error: StoreError) -> Result<(), StoreError> {
        let pause = backoff(self.made, &self.entropy);
        self.made += 1;
        let budget = self.patience.overall + self.patience.transfer.saturating_mul(self.made);
        if self.began.elapsed() + pause >= budget {
            return Err(error.after(self.made, self.began.elapsed()));
        }
        sleep(pause).await;
        Ok(())
    }
}

/// Exponential, and half of it random, so that the requests which one outage failed do not come back together.
fn backoff(made: u32, entropy: &Entropy) -> Duration {
    let whole = FIRST_PAUSE.saturating_mul(1 << made.min(16)).min(LONGEST_PAUSE);
    let random = entropy.bits() as u64 % (whole.as_micros() as u64 / 2 + 1);
    whole / 2 + Duration::from_micros(random)
}

impl Store {
    /// Makes attempts until one gets an answer or a failure that stays: for requests that may be repeated however the last one ended.
    pub(super) async fn persist<T, F>(
        &self,
        kind: RequestKind,
        patience: Patience,
        attempt: impl Fn(Limit) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut attempts = Attempts::begin(patience, &self.0.entropy);
        loop {
            match self.attempt(kind, &attempts, &attempt).await.map_err(StoreError::of_nobody) {
                Err(error) if error.is_retryable() && self.0.local.is_none() => {
                    attempts.pause_after(error).await?;
                    self.0.metrics.retried(kind);
                }
                outcome => return outcome,
            }
        }
    }

    /// One attempt, counted. It must hold the limit that it is given.
    pub(super) async fn attempt<T, F>(
        &self,
        kind: RequestKind,
        attempts: &Attempts,
        request: impl FnOnce(Limit) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let began = Instant::now();
        self.0.metrics.asked(kind);
        let outcome = request(attempts.limit()).await;
        let answered = matches!(outcome, Ok(_) | Err(StoreError::Conflict { .. } | StoreError::Missing { .. }));
        self.0.metrics.answered(kind, began.elapsed(), !answered);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_stay_bounded_and_differ() {
        let entropy = Entropy::seeded(1);
        for made in 0..40 {
            let whole = FIRST_PAUSE.saturating_mul(1 << made.min(16)).min(LONGEST_PAUSE);
            let pauses: Vec<Duration> = (0..100).map(|_| backoff(made, &entropy)).collect();
            assert!(pauses.iter().all(|pause| *pause >= whole / 2 && *pause <= whole), "{made}: {pauses:?}");
            let different: std::collections::HashSet<_> = pauses.iter().collect();
            assert!(different.len() > 90, "{made}: {} different pauses of 100", different.len());
        }
    }

    #[test]
    fn a_large_transfer_has_its_time() {
        assert_eq!(transfer_time(800_000), Duration::from_secs(1));
        assert!(transfer_time(64 << 20) > Duration::from_secs(80));
    }
}
