//! Trust, but verify: some S3 servers ignore conditional puts, others let several racers win. A node finds out before
//! it serves, not when two nodes own one branch.

use super::{Expect, Store, StoreError, keys};
use crate::model::{Entropy, Nonce};
use bytes::Bytes;
use futures::future::join_all;
use std::time::Duration;

/// Racers in each race. Servers that check and write without a lock between let most of them win, if their requests meet.
const RACERS: usize = 16;
/// Rounds of two races each. The first also opens connections, so that the requests of the next ones meet: of 60 runs with one round and
/// 8 racers, s3s-fs came through 3.
const ROUNDS: usize = 3;

/// How long an unsafe store may take to remove the object.
const CLEARING: Duration = Duration::from_secs(2);

/// Races creators, then updaters, for objects below `v1/probe/`: exactly one of each must win, and the object must be the winner's. A folder
/// has one round: its lock is our own.
pub async fn probe(store: &Store, entropy: &Entropy) -> Result<(), StoreError> {
    let rounds = if store.0.local.is_some() { 1 } else { ROUNDS };
    for _ in 0..rounds {
        let key = keys::probe(&Nonce::random(entropy));
        let outcome = race_twice(store, &key).await;
        // A store that failed may fail at this too; what is wrong with it is said first.
        let patience = if outcome.is_ok() { Duration::MAX } else { CLEARING };
        let removed = tokio::time::timeout(patience, store.delete(&key)).await.unwrap_or(Ok(()));
        outcome.and(removed)?;
    }
    Ok(())
}

async fn race_twice(store: &Store, key: &str) -> Result<(), StoreError> {
    race(store, key, "conditional create", Expect::Absent).await?;
    let first = read(store, key).await?;
    race(store, key, "conditional update", Expect::Version(first.version.clone())).await?;
    match store.put_if(key, Bytes::from_static(b"stale"), Expect::Version(first.version)).await {
        Err(StoreError::Conflict { .. }) => Ok(()),
        Ok(_) => {
            Err(StoreError::Unsafe(format!("{} took a conditional update of a version that was replaced", store.url())))
        }
        Err(e) => Err(e),
    }
}

async fn race(store: &Store, key: &str, what: &str, expect: Expect) -> Result<(), StoreError> {
    let racers = (0..RACERS).map(|racer| store.put_if(key, body(what, racer), expect.clone()));
    let mut winners = Vec::new();
    for (racer, outcome) in join_all(racers).await.into_iter().enumerate() {
        match outcome {
            Ok(_) => winners.push(racer),
            Err(StoreError::Conflict { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    let [winner] = winners[..] else {
        return Err(StoreError::Unsafe(format!(
            "{} of {RACERS} concurrent writers won a {what} at {}, where one must; branches would overwrite each other. \
             Use a store that implements If-None-Match and If-Match on PUT",
            winners.len(),
            store.url()
        )));
    };
    if read(store, key).await?.bytes != body(what, winner) {
        return Err(StoreError::Unsafe(format!(
            "{} reports one winner of a {what}, but holds another's object",
            store.url()
        )));
    }
    Ok(())
}

fn body(what: &str, racer: usize) -> Bytes {
    Bytes::from(format!("{what} by racer {racer}"))
}

async fn read(store: &Store, key: &str) -> Result<super::Versioned, StoreError> {
    store
        .get(key)
        .await?
        .ok_or_else(|| StoreError::Unsafe(format!("{} lost an object it had acknowledged", store.url())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_has_one_winner() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&format!("file://{}", folder.path().display())).expect("opens");
        probe(&store, &Entropy::seeded(1)).await.expect("one winner");
        assert!(store.list("v1").await.expect("lists").is_empty(), "the probe left something");
    }

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_says_so() {
        let error = Store::open("file:///proc/offshoot").err().expect("refused").to_string();
        assert!(error.contains("cannot make the folder"), "{error}");
    }
}
