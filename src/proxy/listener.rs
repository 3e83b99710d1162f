//! The listening socket: accepts, bounds the clients that are not yet authenticated, and drains.
//!
//! A client takes one of `max_handshakes` permits. Without one it is refused, politely while few are being refused
//! and by closing its socket beyond that, so that a flood costs a bounded number of tasks.

use super::cancel::CancelKeys;
use super::connection::{Doorway, Phase};
use super::credentials::Credentials;
use super::refusal::Refusal;
use super::stream::ClientStream;
use super::upstream::Upstream;
use super::{ProxyError, tls};
use crate::model::Ambient;
use crate::settings::{ProjectSettings, ServerSettings};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tracing::{Instrument, error, field, info, info_span, warn};

/// Clients that are being told at once why they cannot log in.
const MAX_REFUSALS: usize = 32;

/// How long to wait when the process is out of file descriptors or the kernel out of memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Longest time for ended sessions to say so to their clients.
const ENDING_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that the kernel holds ready for us to accept.
const BACKLOG: u32 = 1024;

/// A listening proxy in front of `U`.
pub(super) struct Listener<U> {
    tcp: TcpListener,
    address: SocketAddr,
    doorway: Arc<Doorway<U>>,
    handshakes: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
    phase: watch::Sender<Phase>,
}

impl<U: Upstream> Listener<U> {
    pub(super) async fn bind(
        settings: &ServerSettings,
        projects: &[ProjectSettings],
        upstream: U,
        ambient: Ambient,
    ) -> Result<Listener<U>, ProxyError> {
        let (tls, credentials) = prepare(settings.clone(), projects.to_vec(), ambient.clone()).await?;
        let refused = |source| ProxyError::Listen { address: settings.listen, source };
        let tcp = listen(settings.listen).map_err(refused)?;
        let address = tcp.local_addr().map_err(refused)?;
        let phase = watch::Sender::new(Phase::Serving);
        let doorway = Doorway {
            upstream,
            tls,
            require_tls: settings.require_tls,
            handshake_timeout: settings.handshake_timeout,
            credentials,
            cancel_keys: CancelKeys::new(ambient.entropy.clone()),
            ambient,
            phase: phase.subscribe(),
        };
        Ok(Listener {
            tcp,
            address,
            doorway: Arc::new(doorway),
            handshakes: Arc::new(Semaphore::new(settings.max_handshakes.min(Semaphore::MAX_PERMITS))),
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
            phase,
        })
    }

    pub(super) fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// See [`super::Proxy::serve`].
    pub(super) async fn serve(self, stop: impl Future<Output = ()>, grace: Duration) {
        let mut clients = JoinSet::new();
        info!(address = %self.address, tls = self.doorway.tls.is_some(), "listening for Postgres clients");
        self.accept_until(&mut clients, stop).await;

        info!(clients = clients.len(), grace_ms = grace.as_millis() as u64, "refusing new clients");
        self.phase.send_replace(Phase::Draining);
        if tokio::time::timeout(grace, self.drain(&mut clients)).await.is_err() {
            info!(clients = clients.len(), "ending the sessions that are left");
        }
        self.phase.send_replace(Phase::Ending);
        drop(self.tcp);
        let ending = async {
            while let Some(ended) = clients.join_next().await {
                log_panic(ended);
            }
        };
        if tokio::time::timeout(ENDING_TIMEOUT, ending).await.is_err() {
            warn!("clients did not take the end of their sessions; cutting them off");
        }
        clients.shutdown().await;
    }

    async fn accept_until(&self, clients: &mut JoinSet<()>, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                accepted = self.tcp.accept() => self.admit(clients, accepted).await,
                Some(ended) = clients.join_next() => log_panic(ended),
            }
        }
    }

    /// Goes on accepting, to refuse, until no client is left.
    async fn drain(&self, clients: &mut JoinSet<()>) {
        while !clients.is_empty() {
            tokio::select! {
                accepted = self.tcp.accept() => self.admit(clients, accepted).await,
                Some(ended) = clients.join_next() => log_panic(ended),
            }
        }
    }

    async fn admit(&self, clients: &mut JoinSet<()>, accepted: io::Result<(TcpStream, SocketAddr)>) {
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a client");
                return tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        };
        let span = info_span!("session", client = %address, user = field::Empty, branch = field::Empty);
        let client = ClientStream::Plain(tcp);
        let doorway = self.doorway.clone();
        let refusal = if *self.phase.borrow() != Phase::Serving {
            Refusal::Stopping
        } else if let Ok(handshake) = self.handshakes.clone().try_acquire_owned() {
            clients.spawn(async move { doorway.serve(client, handshake).await }.instrument(span));
            return;
        } else {
            Refusal::TooManyHandshakes
        };
        match self.refusals.clone().try_acquire_owned() {
            Ok(permit) => {
                let refuse = async move {
                    doorway.refuse(client, refusal).await;
                    drop(permit);
                };
                clients.spawn(refuse.instrument(span));
            }
            Err(_) => warn!(client = %address, reason = refusal.reason(), "client cut off"),
        }
    }
}

/// Reads the certificate and derives the config's verifiers, off the runtime.
async fn prepare(
    settings: ServerSettings,
    projects: Vec<ProjectSettings>,
    ambient: Ambient,
) -> Result<(Option<tokio_rustls::TlsAcceptor>, Credentials), ProxyError> {
    let prepared = tokio::task::spawn_blocking(move || {
        Ok((tls::load(&settings)?, Credentials::prepare(&projects, &ambient.entropy)?))
    });
    prepared.await.unwrap_or_else(|error| Err(ProxyError::Prepare(error.to_string())))
}

/// A listening socket whose clients inherit `SO_KEEPALIVE` and `TCP_NODELAY` (Linux copies both at accept).
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_keepalive(true)?;
    socket.set_nodelay(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn log_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        error!(%error, "a session panicked");
    }
}
