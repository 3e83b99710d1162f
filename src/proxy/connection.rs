//! One client, from accept to the end of its session.
//!
//! ```text
//! admit (timeout, handshake permit) → open session → enter compute → relay → farewell
//! ```
//!
//! Each step either hands on to the next or ends in a refusal; only here are refusals sent and logged.

use super::authentication::authenticate;
use super::backend::{Backend, Reception, enter};
use super::cancel::CancelKeys;
use super::credentials::Credentials;
use super::message::put_negotiated_version;
use super::negotiation::{HandshakeError, Request, negotiate};
use super::refusal::Refusal;
use super::relay::{ABANDON_GRACE, RelayEnd, Relayed, relay};
use super::startup::Login;
use super::stream::ClientStream;
use super::upstream::{Awake, Upstream};
use crate::model::{Ambient, BranchRef};
use bytes::BytesMut;
use std::io;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_rustls::TlsAcceptor;
use tracing::{Span, debug, info, warn};

/// Most bytes taken from a client while its branch is opened. A client waits for the compute's word before it sends
/// more than this.
const EARLY_MAX: usize = 4 << 10;

/// How long a client is held whose compute ends under it before it heard a word: one that was killed is brought up again, and one that lost a
/// backend recovers by itself, which takes as long as its WAL does.
const REENTRY: Duration = if cfg!(test) { Duration::from_secs(2) } else { Duration::from_secs(60) };
/// Pauses between two tries of that grow up to this.
const REENTRY_PAUSE: Duration = Duration::from_secs(1);

/// Longest time from connecting to a compute to its first `ReadyForQuery`; login event triggers run in it.
const ENTER_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest time for a client that will be refused to say what it wants.
pub(super) const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// What the listener is doing; later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Serving,
    /// No new sessions; those that run may finish.
    Draining,
    /// Sessions are ended.
    Ending,
}

/// What every connection of a listener shares.
pub(super) struct Doorway<U> {
    pub upstream: U,
    pub tls: Option<TlsAcceptor>,
    pub require_tls: bool,
    pub handshake_timeout: Duration,
    pub credentials: Credentials,
    pub cancel_keys: CancelKeys,
    pub ambient: Ambient,
    pub phase: watch::Receiver<Phase>,
}

/// A client that has proved who it is.
struct Admitted {
    login: Login,
    branch: BranchRef,
}

impl<U: Upstream> Doorway<U> {
    /// Serves one client to its end. `handshake` is given back once it is authenticated, or gone.
    pub(super) async fn serve(&self, client: ClientStream, handshake: OwnedSemaphorePermit) {
        let mut client = client;
        let accepted = Instant::now();
        // Boxed, so that a session does not hold the memory of its handshake.
        let admitted = Box::pin(self.admit_in_time(&mut client)).await;
        match admitted {
            Ok(Some(admitted)) => {
                drop(handshake);
                match self.session(&mut client, &admitted, accepted.elapsed()).await {
                    Ok(last_words) => Box::pin(client.part_with(&last_words)).await,
                    Err(error) => Box::pin(part_in_anger(client, error)).await,
                }
            }
            Ok(None) => Box::pin(client.part_with(&[])).await,
            Err(error) => Box::pin(part_in_anger(client, error)).await,
        }
    }

    /// Turns a client away, in a form that it will read: after its startup packet. Cancel requests are honoured still.
    pub(super) async fn refuse(&self, client: ClientStream, refusal: Refusal) {
        let mut client = client;
        let error = match tokio::time::timeout(REFUSAL_TIMEOUT, negotiate(&mut client, self.tls.as_ref())).await {
            Ok(Ok(Request::Cancel { pid, secret })) => return self.cancel_keys.cancel(pid, &secret).await,
            Ok(Ok(Request::Session(_))) | Err(_) => refusal.into(),
            Ok(Err(error)) => error,
        };
        part_in_anger(client, error).await;
    }

    /// [`Doorway::admit`], for as long as a handshake may take.
    async fn admit_in_time(&self, client: &mut ClientStream) -> Result<Option<Admitted>, HandshakeError> {
        tokio::select! {
            admitted = self.admit(client) => admitted,
            () = tokio::time::sleep(self.handshake_timeout) => Err(Refusal::HandshakeTimeout.into()),
            () = self.reached(Phase::Draining, REFUSAL_TIMEOUT) => Err(Refusal::Stopping.into()),
        }
    }

    /// Everything up to and with authentication. Makes and starts nothing. `None` for a cancel request, which is done
    /// then.
    async fn admit(&self, client: &mut ClientStream) -> Result<Option<Admitted>, HandshakeError> {
        let packet = match negotiate(client, self.tls.as_ref()).await? {
            Request::Session(packet) => packet,
            Request::Cancel { pid, secret } => {
                self.cancel_keys.cancel(pid, &secret).await;
                return Ok(None);
            }
        };
        if self.require_tls && !client.is_secure() {
            return Err(Refusal::TlsRequired.into());
        }
        let login = packet.understand()?;
        Span::current().record("user", &login.user);
        if let Some(unknown_options) = &login.negotiate {
            let mut negotiated = BytesMut::new();
            put_negotiated_version(&mut negotiated, login.minor, unknown_options);
            client.send(&negotiated).await?;
        }
        let branch = self.upstream.resolve(&login.target, login.project.as_deref()).await.map_err(Refusal::from)?;
        Span::current().record("branch", tracing::field::display(&branch));
        let role = self.upstream.role(&branch, &login.user).await.map_err(Refusal::from)?;
        let now = self.ambient.clock.now();
        let credential = self.credentials.for_login(&branch, &login.user, role.as_ref(), now);
        authenticate(client, &login.user, credential, &self.ambient.entropy).await?;
        Ok(Some(Admitted { login, branch }))
    }

    /// The session of an authenticated client. The compute's connection is closed before the branch's session ends.
    /// Returns what is left to tell the client.
    async fn session(
        &self,
        client: &mut ClientStream,
        admitted: &Admitted,
        handshake: Duration,
    ) -> Result<BytesMut, HandshakeError> {
        let Admitted { login, branch } = admitted;
        let authenticated = Instant::now();
        let unreachable = |reason: String| Refusal::ComputeUnreachable { branch: branch.to_string(), reason };
        let (mut early, mut pause) = (Vec::new(), Duration::from_millis(50));
        let (session, mut backend) = loop {
            let session = self.open_session(client, branch, &mut early).await?;
            let entering = Box::pin(enter(client, session.socket(), login, branch, &self.cancel_keys));
            let reception = tokio::time::timeout(ENTER_TIMEOUT, entering).await;
            match reception.map_err(|_| unreachable("it did not answer in time".to_owned()))?? {
                Reception::Ready(backend) => break (session, backend),
                Reception::Refused { last_words, reason } => {
                    warn!(reason, "refused by the compute");
                    return Ok(last_words);
                }
                // It died, or is on its way to sleep: its branch brings up another.
                Reception::Gone { reason } => {
                    drop(session);
                    if authenticated.elapsed() > REENTRY {
                        return Err(unreachable(reason).into());
                    }
                    tokio::select! {
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(REENTRY_PAUSE),
                        () = self.reached(Phase::Draining, Duration::ZERO) => return Err(Refusal::Stopping.into()),
                    }
                }
            }
        };
        let opened = authenticated.elapsed();
        info!(
            database = login.target.database,
            tls = client.is_secure(),
            backend_pid = backend.pid,
            handshake_ms = handshake.as_millis() as u64,
            open_ms = opened.as_millis() as u64,
            "session started"
        );
        let stop = self.reached(Phase::Ending, Duration::ZERO);
        let relayed = relay(client, &mut backend.stream, &mut backend.scanner, early, stop).await;
        self.abandon(&relayed.end, &mut backend).await;
        log_end(&relayed, &backend, authenticated.elapsed());
        drop(backend.stream);
        drop(session);
        Ok(if backend.scanner.at_boundary() { last_words(&relayed) } else { BytesMut::new() })
    }

    /// Sees to it that a query does not outlive the client that asked for it by much.
    async fn abandon(&self, end: &RelayEnd, backend: &mut Backend) {
        let grace = match end {
            RelayEnd::ClientLost(_) => ABANDON_GRACE,
            RelayEnd::Abandoned => Duration::ZERO,
            RelayEnd::ClientClosed | RelayEnd::ComputeClosed { .. } | RelayEnd::Stopped => return,
        };
        tokio::select! {
            () = backend.abandon(grace) => {}
            () = self.reached(Phase::Ending, Duration::ZERO) => {}
        }
    }

    /// Opens the branch, and stops waiting for it when the client goes away or the node stops. What the client sends
    /// meanwhile is added to `early`.
    async fn open_session(
        &self,
        client: &mut ClientStream,
        branch: &BranchRef,
        early: &mut Vec<u8>,
    ) -> Result<U::Session, HandshakeError> {
        let mut open = std::pin::pin!(self.upstream.open_session(branch));
        let mut stop = std::pin::pin!(self.reached(Phase::Draining, Duration::ZERO));
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return Err(Refusal::Stopping.into()),
                session = &mut open => return Ok(session.map_err(Refusal::from)?),
                read = client.read_buf(early), if early.len() < EARLY_MAX => if read? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                },
            }
        }
    }

    /// Resolves `delay` after the listener's phase is at least `phase`.
    async fn reached(&self, phase: Phase, delay: Duration) {
        let mut phases = self.phase.clone();
        // The sender is gone only when the listener was dropped, which ends every session.
        let _ = phases.wait_for(|now| *now >= phase).await;
        tokio::time::sleep(delay).await;
    }
}

/// Tells the client why, if it is still there, and logs it.
async fn part_in_anger(client: ClientStream, error: HandshakeError) {
    match error {
        HandshakeError::Refused(refusal) => {
            warn!(sqlstate = refusal.sqlstate(), reason = refusal.reason(), "client refused");
            client.part_with(&refusal.response()).await;
        }
        // As common as a password prompt or a port check.
        HandshakeError::Client(error) => debug!(%error, "client went away"),
    }
}

/// Why a session ended that its client did not end. Only for a stream that is between two messages.
fn last_words(relayed: &Relayed) -> BytesMut {
    let mut words = BytesMut::from(relayed.unsent.as_slice());
    match relayed.end {
        RelayEnd::ComputeClosed { unexplained: true } => words.extend(Refusal::ComputeEnded.response()),
        RelayEnd::Stopped => words.extend(Refusal::SessionEnded.response()),
        RelayEnd::Abandoned => words.extend(Refusal::Abandoned.response()),
        _ => {}
    }
    words
}

fn log_end(relayed: &Relayed, backend: &Backend, lasted: Duration) {
    let end = match &relayed.end {
        RelayEnd::ClientClosed => "the client closed it".to_owned(),
        RelayEnd::Abandoned => "the client closed it in the middle of a query, which was cancelled".to_owned(),
        RelayEnd::ClientLost(error) => format!("the client was lost: {error}"),
        RelayEnd::ComputeClosed { unexplained: false } => "the compute closed it".to_owned(),
        RelayEnd::ComputeClosed { unexplained: true } => "the compute ended".to_owned(),
        RelayEnd::Stopped => "the node stops".to_owned(),
    };
    info!(
        end,
        transaction = ?backend.scanner.status(),
        duration_ms = lasted.as_millis() as u64,
        bytes_to_client = relayed.bytes_to_client,
        bytes_to_compute = relayed.bytes_to_compute,
        "session ended"
    );
}
