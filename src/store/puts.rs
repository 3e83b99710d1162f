//! Puts, and what becomes of one whose answer was lost.
//!
//! A put that failed may have landed, or may still land: an error after the commit, a reply that was lost, a limit that passed. What holds
//! here: **no put reports a conflict with itself, and none is reported as done that was not.**
//!
//! - The bytes of every put are unique: a head carries a fresh nonce, an immutable object has a key that nobody else uses. So bytes that are
//!   read back tell whose put it was.
//! - After any failure of a conditional put the object is read back. Ours: it landed. Still what was expected: it did not, and is
//!   repeated; should the first one land late, one of the two wins and both are the same bytes. Anything else: somebody else was first.
//! - 409 is no answer: S3 sends it when two conditional puts met (`ConditionalRequestConflict`, API reference of PutObject) and nothing
//!   landed, Azure when the blob is there. Reading back tells which.
//! - An object that is as it was after 20 s of conflicts is an unavailable store, not a conflict: who is told of one gives a branch up.
//! - One case stays open: ours landed, and a successor replaced it before we read back. That is a conflict to the caller, who reads
//!   the head anew in any case.

use super::requests::{Attempts, Limit, Patience, RequestKind};
use super::{Expect, Store, StoreError, Version};
use bytes::Bytes;
use object_store::{PutMode, PutOptions, PutPayload, PutResult};

/// What reading back found.
enum Found {
    Ours(Version),
    /// What the put expects to replace.
    Unchanged,
    Other,
}

impl Store {
    /// Puts an immutable object under a key that no one else uses; once more with the same bytes is no error.
    /// [`StoreError::Conflict`] where there are others. Dropped, it may or may not have landed.
    pub async fn create(&self, key: &str, bytes: impl Into<PutPayload>) -> Result<(), StoreError> {
        self.check_present(key).await?;
        let payload = bytes.into();
        let length = payload.content_length() as u64;
        let mut attempts = Attempts::begin(Patience::moving(length), &self.0.entropy);
        loop {
            self.0.metrics.sent(RequestKind::Create, length);
            let put = |limit: Limit| limit.hold(key, self.put(key, payload.clone(), PutMode::Create));
            let error = match self.attempt(RequestKind::Create, &attempts, put).await {
                Ok(_) => return Ok(()),
                Err(error @ StoreError::Conflict { .. }) => match self.get(key).await? {
                    Some(found) if found.bytes == Bytes::from(payload.clone()) => return Ok(()),
                    Some(_) => return Err(error),
                    // 409: two of our own attempts met, and neither landed.
                    None => error.of_nobody(),
                },
                Err(error) => error,
            };
            self.pause_or_give_up(RequestKind::Create, &mut attempts, error).await?;
        }
    }

    /// Puts a mutable object if it still is what `expect` says; [`StoreError::Conflict`] otherwise. `bytes` must carry a nonce: they
    /// are what an ambiguous answer is resolved by. After [`StoreError::Unavailable`] the put may have landed, or land later.
    pub async fn put_if(&self, key: &str, bytes: Bytes, expect: Expect) -> Result<Version, StoreError> {
        let length = bytes.len() as u64;
        let mut attempts = Attempts::begin(Patience::moving(length), &self.0.entropy);
        loop {
            self.0.metrics.sent(RequestKind::ConditionalPut, length);
            let put = |limit: Limit| limit.hold(key, self.put_conditionally(key, &bytes, &expect));
            let error = match self.attempt(RequestKind::ConditionalPut, &attempts, put).await {
                Ok(version) => return Ok(version),
                Err(error @ (StoreError::Conflict { .. } | StoreError::Unavailable { .. })) => error,
                Err(error) => return Err(error),
            };
            let error = match self.read_back(key, &bytes, &expect).await {
                Ok(Found::Ours(version)) => return Ok(version),
                // Nobody was first, whatever the answer: who is told of a conflict gives a branch up.
                Ok(Found::Unchanged) => error.of_nobody(),
                Ok(Found::Other) => return Err(StoreError::Conflict { key: key.to_owned() }),
                // Whether it landed stays unknown, so this must not pass for a conflict.
                Err(unread) => return Err(unread),
            };
            self.pause_or_give_up(RequestKind::ConditionalPut, &mut attempts, error).await?;
        }
    }

    async fn pause_or_give_up(
        &self,
        kind: RequestKind,
        attempts: &mut Attempts,
        error: StoreError,
    ) -> Result<(), StoreError> {
        if !error.is_retryable() || self.0.local.is_some() {
            return Err(error);
        }
        attempts.pause_after(error).await?;
        self.0.metrics.retried(kind);
        Ok(())
    }

    async fn read_back(&self, key: &str, bytes: &Bytes, expect: &Expect) -> Result<Found, StoreError> {
        let found = self.get(key).await?;
        Ok(match (found, expect) {
            (Some(found), _) if found.bytes == *bytes => Found::Ours(found.version),
            (None, Expect::Absent) => Found::Unchanged,
            (Some(found), Expect::Version(version)) if found.version == *version => Found::Unchanged,
            _ => Found::Other,
        })
    }

    async fn put_conditionally(&self, key: &str, bytes: &Bytes, expect: &Expect) -> Result<Version, StoreError> {
        if let Some(local) = &self.0.local {
            return local.put_if(key, bytes.clone(), expect.clone()).await;
        }
        let mode = match expect {
            Expect::Absent => PutMode::Create,
            Expect::Version(version) => PutMode::Update(version.0.clone()),
        };
        Ok(Version(self.put(key, bytes.clone().into(), mode).await?.into()))
    }

    async fn put(&self, key: &str, payload: PutPayload, mode: PutMode) -> Result<PutResult, StoreError> {
        let options = PutOptions { mode, ..Default::default() };
        let put = self.0.backend.put_opts(&self.path(key), payload, options).await;
        put.map_err(|e| StoreError::from_backend(key, e))
    }
}
