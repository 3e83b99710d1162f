//! Cancel keys of the proxy's own, and which compute's key each stands for.
//!
//! A client gets its backend's own process id, since drivers and people use it for more than cancel requests:
//! `pg_terminate_backend`, `pg_stat_activity`, telling their own notifications from others'. Process ids repeat across
//! computes, though, and so could the secrets beside them, which have 4 bytes before protocol 3.2: handed through, one
//! client's key could hit another's query. So the secret is the proxy's: random, unlike that of any other session with
//! the same process id, and void once the session ends.

use super::message::put_cancel_request;
use super::verifier::equal_in_constant_time;
use crate::model::Entropy;
use bytes::BytesMut;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Bytes of a secret for clients of protocol 3.0, which know no other length.
const SHORT_SECRET_BYTES: usize = 4;
/// Bytes of a secret since protocol 3.2; as many as Postgres makes (`MAX_CANCEL_KEY_LENGTH` of `procsignal.h`).
const LONG_SECRET_BYTES: usize = 32;

/// Longest wait for a compute to take in a cancel request.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(5);

/// Every key that is out. Cheap to clone.
#[derive(Clone)]
pub(super) struct CancelKeys {
    entropy: Entropy,
    keys: Arc<Mutex<ByPid>>,
}

/// The keys of each process id: one for each compute that has a backend of that id.
type ByPid = HashMap<i32, Vec<Issued>>;

/// The key that a compute issued for one of its backends.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ComputeKey {
    pub socket: PathBuf,
    pub pid: i32,
    pub secret: Vec<u8>,
}

struct Issued {
    secret: Vec<u8>,
    stands_for: ComputeKey,
}

/// A key that is out; dropping it makes it void.
pub(super) struct CancelKey {
    pub pid: i32,
    pub secret: Vec<u8>,
    keys: CancelKeys,
}

impl CancelKeys {
    pub(super) fn new(entropy: Entropy) -> CancelKeys {
        CancelKeys { entropy, keys: Arc::default() }
    }

    /// A new key that stands for `compute_key`; `long` for clients of protocol 3.2.
    pub(super) fn issue(&self, compute_key: ComputeKey, long: bool) -> CancelKey {
        let pid = compute_key.pid;
        let mut secret = vec![0; if long { LONG_SECRET_BYTES } else { SHORT_SECRET_BYTES }];
        let mut keys = self.locked();
        let namesakes = keys.entry(pid).or_default();
        // Ends at once: computes are far fewer than the four thousand million shortest secrets.
        loop {
            self.entropy.fill(&mut secret);
            if namesakes.iter().all(|issued| issued.secret != secret) {
                break;
            }
        }
        namesakes.push(Issued { secret: secret.clone(), stands_for: compute_key });
        drop(keys);
        CancelKey { pid, secret, keys: self.clone() }
    }

    /// Passes a client's cancel request on and waits until the compute has taken it in: clients rely on that the
    /// closing of their connection comes after. An unknown key is left unanswered, as in Postgres.
    pub(super) async fn cancel(&self, pid: i32, secret: &[u8]) {
        let Some(key) = self.find(pid, secret) else {
            tracing::debug!("a cancel request had no session's key");
            return;
        };
        match tokio::time::timeout(FORWARD_TIMEOUT, forward(&key)).await {
            Ok(Ok(())) => tracing::debug!(socket = %key.socket.display(), "cancel request passed on"),
            Ok(Err(error)) => tracing::warn!(socket = %key.socket.display(), %error, "cancel request not passed on"),
            Err(_) => tracing::warn!(socket = %key.socket.display(), "the compute did not take in a cancel request"),
        }
    }

    fn find(&self, pid: i32, secret: &[u8]) -> Option<ComputeKey> {
        let keys = self.locked();
        let mut namesakes = keys.get(&pid)?.iter();
        namesakes.find(|issued| equal_in_constant_time(&issued.secret, secret)).map(|issued| issued.stands_for.clone())
    }

    fn locked(&self) -> MutexGuard<'_, ByPid> {
        // The map is whole at every step, so a panic of another holder leaves it usable.
        self.keys.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl CancelKey {
    /// What a cancel request of the client itself would do.
    pub(super) async fn cancel(&self) {
        self.keys.cancel(self.pid, &self.secret).await;
    }
}

impl Drop for CancelKey {
    fn drop(&mut self) {
        let mut keys = self.keys.locked();
        let Some(namesakes) = keys.get_mut(&self.pid) else { return };
        namesakes.retain(|issued| issued.secret != self.secret);
        if namesakes.is_empty() {
            keys.remove(&self.pid);
        }
    }
}

async fn forward(key: &ComputeKey) -> std::io::Result<()> {
    let mut compute = UnixStream::connect::<&Path>(&key.socket).await?;
    let mut request = BytesMut::new();
    put_cancel_request(&mut request, key.pid, &key.secret);
    compute.write_all(&request).await?;
    // Postgres says nothing and closes once the signal is sent.
    compute.read(&mut [0]).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compute_key(pid: i32) -> ComputeKey {
        key_of("/s", pid)
    }

    fn key_of(socket: &str, pid: i32) -> ComputeKey {
        ComputeKey { socket: PathBuf::from(socket), pid, secret: vec![9; 4] }
    }

    #[test]
    fn a_key_lives_as_long_as_its_session() {
        let keys = CancelKeys::new(Entropy::seeded(1));
        let key = keys.issue(compute_key(5), false);
        assert_eq!((key.pid, key.secret.len()), (5, 4));
        assert!(keys.find(key.pid, &key.secret).is_some_and(|found| found == compute_key(5)));
        assert!(keys.find(key.pid, &[0; 4]).is_none());
        assert!(keys.find(key.pid, &[]).is_none());
        let (pid, secret) = (key.pid, key.secret.clone());
        drop(key);
        assert!(keys.find(pid, &secret).is_none());
        assert!(keys.locked().is_empty(), "nothing is left of a key that is void");
    }

    #[test]
    fn of_two_computes_with_the_same_process_id_each_key_hits_its_own() {
        let keys = CancelKeys::new(Entropy::seeded(2));
        let (one, other) = (keys.issue(key_of("/one", 5), false), keys.issue(key_of("/other", 5), true));
        assert!(keys.find(5, &one.secret) == Some(key_of("/one", 5)));
        assert!(keys.find(5, &other.secret) == Some(key_of("/other", 5)));
        assert!(keys.find(6, &one.secret).is_none(), "the process id is part of the key");
        assert!(keys.find(5, &other.secret[..4]).is_none(), "half a secret is none");
        let void = one.secret.clone();
        drop(one);
        assert!(keys.find(5, &void).is_none());
        assert!(keys.find(5, &other.secret) == Some(key_of("/other", 5)), "the other session goes on");
    }

    #[test]
    fn no_two_sessions_with_the_same_process_id_have_the_same_secret() {
        let keys = CancelKeys::new(Entropy::seeded(3));
        let issued: Vec<_> = (0..1000).map(|n| keys.issue(key_of(&format!("/{n}"), 5), n % 2 == 0)).collect();
        let distinct: std::collections::HashSet<_> = issued.iter().map(|key| &key.secret).collect();
        assert_eq!(distinct.len(), 1000);
        assert!(issued.iter().enumerate().all(|(n, key)| key.secret.len() == if n % 2 == 0 { 32 } else { 4 }));
    }
}
