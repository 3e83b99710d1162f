//! Cancel keys of the proxy's own, and which compute's key each stands for.
//!
//! Process ids repeat across computes, and before protocol 3.2 a secret has 4 bytes: handed through, one client's key
//! could hit another's query. So a client gets a random process id that no other session has, and a random secret;
//! both end with the session.

use super::message::put_cancel_request;
use super::verifier::equal_in_constant_time;
use crate::model::Entropy;
use bytes::BytesMut;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
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
    keys: Arc<Mutex<HashMap<i32, Issued>>>,
}

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
        let mut secret = vec![0; if long { LONG_SECRET_BYTES } else { SHORT_SECRET_BYTES }];
        self.entropy.fill(&mut secret);
        let mut keys = self.locked();
        // Ends at once: sessions are far fewer than the two thousand million ids.
        let pid = loop {
            let mut bytes = [0; 4];
            self.entropy.fill(&mut bytes);
            let pid = (u32::from_le_bytes(bytes) >> 1) as i32;
            if let (1.., Entry::Vacant(vacant)) = (pid, keys.entry(pid)) {
                vacant.insert(Issued { secret: secret.clone(), stands_for: compute_key });
                break pid;
            }
        };
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
        keys.get(&pid)
            .filter(|issued| equal_in_constant_time(&issued.secret, secret))
            .map(|issued| issued.stands_for.clone())
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<i32, Issued>> {
        // The map is whole at every step, so a panic of another holder leaves it usable.
        self.keys.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for CancelKey {
    fn drop(&mut self) {
        self.keys.locked().remove(&self.pid);
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
        ComputeKey { socket: PathBuf::from("/s"), pid, secret: vec![9; 4] }
    }

    #[test]
    fn a_key_lives_as_long_as_its_session() {
        let keys = CancelKeys::new(Entropy::seeded(1));
        let key = keys.issue(compute_key(5), false);
        assert!(key.pid > 0 && key.secret.len() == 4);
        assert!(keys.find(key.pid, &key.secret).is_some_and(|found| found == compute_key(5)));
        assert!(keys.find(key.pid, &[0; 4]).is_none());
        assert!(keys.find(key.pid, &[]).is_none());
        let (pid, secret) = (key.pid, key.secret.clone());
        drop(key);
        assert!(keys.find(pid, &secret).is_none());
    }

    #[test]
    fn newer_clients_get_longer_secrets_and_everyone_an_id_of_their_own() {
        let keys = CancelKeys::new(Entropy::seeded(2));
        let issued: Vec<_> = (0..1000).map(|pid| keys.issue(compute_key(pid), true)).collect();
        let distinct: std::collections::HashSet<_> = issued.iter().map(|key| key.pid).collect();
        assert_eq!(distinct.len(), 1000);
        assert!(issued.iter().all(|key| key.secret.len() == 32));
    }
}
