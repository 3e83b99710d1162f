//! Requests against a store that fails, under a paused clock: what is survived, what is an error, and what it costs.

use super::simulated::{Delay, Faults, SimulatedStore};
use super::*;
use crate::model::Nonce;
use std::time::Duration;
use tokio::time::Instant;

fn store(seed: u64) -> (SimulatedStore, Store) {
    let simulated = SimulatedStore::new(seed);
    let store = Store::simulated(&simulated, &Entropy::seeded(seed));
    (simulated, store)
}

fn body(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

#[tokio::test(start_paused = true)]
async fn ten_percent_of_faults_on_every_request_are_survived() {
    let (simulated, store) = store(1);
    simulated.set_faults(Faults { before: 0.05, after: 0.05, delay: Delay::Measured, ..Faults::default() });
    let mut version = None;
    for n in 0..400 {
        let (key, text) = (format!("v1/object/{n}"), format!("{n}"));
        store.create(&key, body(&text)).await.expect("it is created");
        assert_eq!(store.get(&key).await.expect("it is read").expect("it is there").bytes, body(&text));
        assert_eq!(store.get_range(&key, 0..1).await.expect("it is read"), body(&text[..1]));
        let expect = version.take().map_or(Expect::Absent, Expect::Version);
        version = Some(store.put_if("v1/head", body(&format!("head {n}")), expect).await.expect("nobody else writes"));
    }
    assert_eq!(store.list("v1/object").await.expect("it is listed").len(), 400);
    for n in 0..400 {
        store.delete(&format!("v1/object/{n}")).await.expect("it is deleted");
    }
    assert_eq!(store.list_children("v1").await.expect("it is listed"), Vec::<String>::new());
    let requests = store.requests();
    assert!(requests.retries > 100, "faults came: {requests:?}");
    assert_eq!(requests.total(), simulated.requests(), "every request was counted once");
}

/// Every answer to a put is lost after it landed, in turn for each kind of put.
#[tokio::test(start_paused = true)]
async fn a_reply_lost_after_committing_is_success() {
    let (simulated, store) = store(2);
    for round in 0..50 {
        let key = format!("v1/head-{round}");
        simulated.set_faults(Faults { after: 0.7, ..Faults::default() });
        let first = store.put_if(&key, body("first"), Expect::Absent).await.expect("it landed");
        let second = store.put_if(&key, body("second"), Expect::Version(first.clone())).await.expect("it landed");
        store.create(&format!("v1/immutable-{round}"), body("bytes")).await.expect("it landed");
        let stale = store.put_if(&key, body("stale"), Expect::Version(first)).await;
        assert!(matches!(stale, Err(StoreError::Conflict { .. })), "{stale:?}");
        simulated.set_faults(Faults::default());
        let found = store.get(&key).await.expect("it is read").expect("it is there");
        assert_eq!((found.bytes, found.version), (body("second"), second), "the version told is the object's");
    }
}

#[tokio::test(start_paused = true)]
async fn racers_through_faults_have_one_winner() {
    for seed in 0..200 {
        let simulated = SimulatedStore::new(seed);
        simulated.set_faults(Faults { before: 0.2, after: 0.2, delay: Delay::Measured, ..Faults::default() });
        let racers = (0..6).map(|racer| {
            let store = Store::simulated(&simulated, &Entropy::seeded(seed * 10 + racer));
            async move { store.put_if("v1/head", body(&format!("racer {racer}")), Expect::Absent).await }
        });
        let outcomes = futures::future::join_all(racers).await;
        let winners: Vec<_> = (0..6).filter(|racer| outcomes[*racer].is_ok()).collect();
        let [winner] = winners[..] else { panic!("seed {seed}: {outcomes:?}") };
        assert_eq!(simulated.peek("v1/head").await, Some(body(&format!("racer {winner}"))), "seed {seed}");
        let lost = |outcome: &&Result<Version, StoreError>| matches!(outcome, Err(StoreError::Conflict { .. }));
        assert_eq!(outcomes.iter().filter(lost).count(), 5, "seed {seed}: {outcomes:?}");
    }
}

/// Whoever is told of a conflict gives a branch up, so it must not be one of nobody's.
#[tokio::test(start_paused = true)]
async fn a_store_that_answers_409_to_the_last_is_away_and_no_conflict() {
    for seed in 0..40 {
        let (simulated, store) = store(seed);
        let version = store.put_if("v1/head", body("first"), Expect::Absent).await.expect("it landed");
        simulated.set_faults(Faults { before: 0.97, ..Faults::default() });
        let outcomes = [
            store.put_if("v1/head", body("second"), Expect::Version(version)).await.map(|_| ()),
            store.put_if("v1/other", body("first"), Expect::Absent).await.map(|_| ()),
            store.create("v1/immutable", body("bytes")).await,
        ];
        for outcome in outcomes {
            assert!(!matches!(outcome, Err(StoreError::Conflict { .. })), "seed {seed}: {outcome:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_is_waited_for_and_a_silent_one_is_not() {
    let (simulated, store) = store(3);
    store.create("v1/object", body("bytes")).await.expect("it is created");
    simulated.set_faults(Faults { delay: Delay::Constant(Duration::from_secs(5)), ..Faults::default() });
    assert!(store.get("v1/object").await.expect("slow, not away").is_some());
    simulated.set_faults(Faults { delay: Delay::Forever, ..Faults::default() });
    let began = Instant::now();
    let outcomes = [
        store.get("v1/object").await.map(|_| ()),
        store.get_range("v1/object", 0..1).await.map(|_| ()),
        store.create("v1/other", body("bytes")).await,
        store.put_if("v1/head", body("head"), Expect::Absent).await.map(|_| ()),
        store.delete("v1/object").await,
        store.list("v1").await.map(|_| ()),
    ];
    for outcome in outcomes {
        let error = outcome.expect_err("nothing answers");
        assert!(error.is_retryable() && error.to_string().contains("try again"), "{error}");
    }
    assert!(began.elapsed() < Duration::from_secs(6 * 45), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_said_to_be_and_is_used_again_when_it_is_back() {
    let (simulated, store) = store(4);
    store.create("v1/object", body("bytes")).await.expect("it is created");
    simulated.set_away(true);
    let began = Instant::now();
    let error = store.get("v1/object").await.expect_err("it is away");
    assert!(error.is_retryable() && error.to_string().contains("503"), "{error}");
    assert!(began.elapsed() > Duration::from_secs(15) && began.elapsed() < Duration::from_secs(21));
    assert!(simulated.requests() < 40, "{} requests to a store that is away", simulated.requests());
    let back = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        simulated.set_away(false);
    };
    let (read, ()) = tokio::join!(store.get("v1/object"), back);
    assert!(read.expect("it came back in time").is_some());
}

#[tokio::test(start_paused = true)]
async fn what_cannot_get_better_is_not_tried_again() {
    let (simulated, store) = store(5);
    store.create("v1/object", body("bytes")).await.expect("it is created");
    assert!(store.get("v1/absent").await.expect("an answer").is_none());
    let missing = store.get_range("v1/absent", 0..1).await;
    assert!(matches!(missing, Err(StoreError::Missing { .. })), "{missing:?}");
    let before = simulated.requests();
    let outcome = store.put_if("v1/object", body("other"), Expect::Absent).await;
    assert!(matches!(outcome, Err(StoreError::Conflict { .. })), "{outcome:?}");
    assert_eq!(simulated.requests() - before, 2, "one put and one look");
}

#[tokio::test(start_paused = true)]
async fn a_range_that_a_damaged_index_leads_to_is_damage() {
    let (simulated, store) = store(6);
    store.create("v1/object", body("bytes")).await.expect("it is created");
    let folder = tempfile::tempdir().expect("a folder");
    let local = Store::open(&format!("file://{}", folder.path().display())).expect("opens");
    local.create("v1/object", body("bytes")).await.expect("it is created");
    let requests = simulated.requests();
    for (start, end) in [(3, 3), (3, 2), (u64::MAX, 0)] {
        for store in [&store, &local] {
            let outcome = store.get_range("v1/object", start..end).await;
            assert!(matches!(outcome, Err(StoreError::Damaged { .. })), "{start}..{end}: {outcome:?}");
        }
    }
    assert_eq!(simulated.requests(), requests, "there is nothing to ask");
    for (start, end) in [(0, 6), (4, 1 << 40), (5, 6), (900, 901), (u64::MAX - 1, u64::MAX)] {
        for store in [&store, &local] {
            let outcome = store.get_range("v1/object", start..end).await;
            assert!(matches!(outcome, Err(StoreError::Damaged { .. })), "{start}..{end}: {outcome:?}");
        }
    }
    for store in [&store, &local] {
        assert_eq!(store.get_range("v1/object", 1..5).await.expect("inside"), body("ytes"));
    }
}

/// Waits of `reads` reads, in order of length.
async fn waits(store: &Store, reads: usize) -> Vec<Duration> {
    let mut waits = Vec::with_capacity(reads);
    for _ in 0..reads {
        let began = Instant::now();
        store.get_range("v1/object", 0..1).await.expect("it is there");
        waits.push(began.elapsed());
    }
    waits.sort();
    waits
}

fn percentile(sorted: &[Duration], share: f64) -> f64 {
    sorted[(sorted.len() as f64 * share) as usize].as_secs_f64() * 1000.0
}

/// The distribution of FACTS.md, with and without a second request, on the same seed.
#[tokio::test(start_paused = true)]
async fn a_second_request_cuts_the_tail_within_its_budget() {
    const READS: usize = 20_000;
    let (simulated, store) = store(7);
    store.create("v1/object", body("bytes")).await.expect("it is created");
    simulated.set_faults(Faults { delay: Delay::Measured, ..Faults::default() });
    let mut plain = Vec::with_capacity(READS);
    for _ in 0..READS {
        let began = Instant::now();
        simulated.get(&"v1/object".into()).await.expect("it is there");
        plain.push(began.elapsed());
    }
    plain.sort();
    let hedged = waits(&store, READS).await;
    let requests = store.requests();
    let row = |waits: &[Duration]| [0.5, 0.9, 0.99, 0.999].map(|share| percentile(waits, share).round());
    println!("p50, p90, p99, p99.9 in ms: alone {:?}, hedged {:?}; {requests:?}", row(&plain), row(&hedged));
    // The clock of a paused runtime rounds up to milliseconds.
    assert!((percentile(&plain, 0.5) - 22.5).abs() < 1.0 && (percentile(&plain, 0.9) - 42.5).abs() < 2.0);
    assert!(percentile(&plain, 0.999) > 300.0, "the tail is there without");
    assert!(percentile(&hedged, 0.99) < percentile(&plain, 0.99) * 0.95, "p99");
    assert!(percentile(&hedged, 0.999) < 150.0, "p99.9: {}", percentile(&hedged, 0.999));
    assert!(requests.hedges > 0 && requests.hedges <= (READS as f64 * 0.05) as u64 + 4, "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_becomes_slow_as_a_whole_is_not_asked_twice_for_everything() {
    let (simulated, store) = store(8);
    store.create("v1/object", body("bytes")).await.expect("it is created");
    simulated.set_faults(Faults { delay: Delay::Constant(Duration::from_millis(20)), ..Faults::default() });
    waits(&store, 1000).await;
    simulated.set_faults(Faults { delay: Delay::Constant(Duration::from_millis(700)), ..Faults::default() });
    let before = store.requests().hedges;
    waits(&store, 1000).await;
    let hedges = store.requests().hedges - before;
    assert!((1..=54).contains(&hedges), "{hedges} extra requests of 1000");
}

#[tokio::test(start_paused = true)]
async fn a_file_store_is_never_hedged() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&format!("file://{}", folder.path().display())).expect("opens");
    store.create("v1/object", body("bytes")).await.expect("it is created");
    for _ in 0..200 {
        store.get_range("v1/object", 0..1).await.expect("it is there");
        store.get("v1/object").await.expect("it is read");
    }
    let requests = store.requests();
    assert_eq!((requests.ranges, requests.gets, requests.hedges), (200, 200, 0));
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_run() {
    let mut runs = Vec::new();
    for seed in [9, 9, 10] {
        let (simulated, store) = store(seed);
        simulated.set_faults(Faults { before: 0.2, after: 0.2, delay: Delay::Measured, ..Faults::default() });
        let began = Instant::now();
        for n in 0..50 {
            store.create(&format!("v1/{n}"), body("bytes")).await.expect("it is created");
            store.get(&format!("v1/{n}")).await.expect("it is read");
        }
        runs.push((began.elapsed(), store.requests()));
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
}

#[tokio::test(start_paused = true)]
async fn damage_is_done_as_told() {
    let (simulated, store) = store(11);
    let nonce = Nonce::random(&Entropy::seeded(11));
    let first = store.put_if("v1/head", body(&format!("one {nonce}")), Expect::Absent).await.expect("it landed");
    store.put_if("v1/head", body("two"), Expect::Version(first)).await.expect("it landed");
    assert!(simulated.roll_back("v1/head", 1).await);
    assert_eq!(simulated.peek("v1/head").await, Some(body(&format!("one {nonce}"))));
    assert!(!simulated.roll_back("v1/head", 2).await, "it is not that old");
    store.create("v1/a", body("aaaa")).await.expect("it is created");
    store.create("v1/b", body("bbbb")).await.expect("it is created");
    simulated.swap("v1/a", "v1/b").await;
    simulated.flip_bit("v1/a", 33).await;
    simulated.truncate("v1/b", 3).await;
    assert_eq!(simulated.peek("v1/a").await, Some(body("`bbb")));
    assert_eq!(simulated.peek("v1/b").await, Some(body("aaa")));
    simulated.remove("v1/b").await;
    assert!(store.get("v1/b").await.expect("an answer").is_none());
}

#[tokio::test]
async fn metrics_show_what_was_asked() {
    let (_, store) = store(12);
    let metrics = Metrics::new();
    store.register(&metrics);
    store.create("v1/object", body("bytes")).await.expect("it is created");
    store.get_range("v1/object", 0..3).await.expect("it is there");
    let text = metrics.text();
    for line in [
        "offshoot_store_requests_total{kind=\"create\"} 1",
        "offshoot_store_requests_total{kind=\"range\"} 1",
        "offshoot_store_requests_total{kind=\"conditional_put\"} 0",
        "offshoot_store_received_bytes_total{kind=\"range\"} 3",
        "offshoot_store_sent_bytes_total{kind=\"create\"} 5",
        "offshoot_store_request_seconds_count{kind=\"range\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}
