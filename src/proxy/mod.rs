//! The proxy: the Postgres protocol on this node's port, from accept to the last relayed byte.
//!
//! It stands between clients and the computes' unix sockets. One client goes through, in this order and in no other:
//!
//! ```text
//! accept → negotiation (TLS, version) → startup packet → resolve branch → role → SCRAM    unauthenticated, bounded
//!        → open session (branch made or woken) → compute's own startup → relay                 authenticated
//! ```
//!
//! Invariants:
//! - Everything before authentication is bounded: in time (`handshake_timeout`), in number (`max_handshakes`), in
//!   bytes, and in effect, as it makes no branch and starts no compute.
//! - After it, the proxy moves bytes. It reads backend message headers and nothing else.
//! - A [`crate::branch::Session`] lives exactly as long as its connection to the compute.
//! - No lock is held across an await, and the relay allocates nothing while bytes flow.

mod authentication;
mod backend;
mod cancel;
mod connection;
mod credentials;
mod listener;
mod message;
mod negotiation;
mod options;
mod refusal;
mod relay;
mod scanner;
mod startup;
mod stream;
mod tls;
mod upstream;
mod verifier;

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;

use crate::branch::Branches;
use crate::model::Ambient;
use crate::settings::{ProjectSettings, ServerSettings};
use listener::Listener;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Why the proxy cannot serve; the text says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error("cannot listen on {address}: {source}; change server.listen or stop what uses it")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("cannot read {path}: {reason}; tls_cert and tls_key name PEM files")]
    Pem { path: PathBuf, reason: String },
    #[error("the certificate in {path} cannot be used: {reason}")]
    Certificate { path: PathBuf, reason: String },
    #[error(
        "user {user} of project {project}: the verifier is neither SCRAM-SHA-256$… nor md5…; copy it from pg_authid"
    )]
    Verifier { project: String, user: String },
    #[error("the proxy could not prepare its credentials: {0}")]
    Prepare(String),
}

/// The listening proxy of one node.
pub struct Proxy {
    listener: Listener<Branches>,
}

impl Proxy {
    /// Listens on `settings.listen`, with certificate and `[[project.user]]` passwords made ready. Clients that connect
    /// from here on wait until [`Proxy::serve`] runs.
    pub async fn bind(
        settings: &ServerSettings,
        projects: &[ProjectSettings],
        branches: Branches,
        ambient: Ambient,
    ) -> Result<Proxy, ProxyError> {
        Ok(Proxy { listener: Listener::bind(settings, projects, branches, ambient).await? })
    }

    /// Where it listens: the port is the kernel's choice when the settings say 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Serves clients until `stop`; then refuses new ones (57P03) and leaves those in a session `grace` to finish,
    /// after which they are ended with 57P01. Returns when the last one is gone. Dropping it cuts every client off.
    pub async fn serve(self, stop: impl Future<Output = ()>, grace: Duration) {
        self.listener.serve(stop, grace).await;
    }
}
