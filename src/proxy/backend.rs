//! Entering a compute: its unix socket, its startup, and the first `ReadyForQuery`.
//!
//! The compute trusts its socket, so that it answers with `AuthenticationOk`, its parameters and its key at once. All
//! of it goes to the client as it is, but for the secret of its key, which is replaced ([`super::cancel`]).

use super::cancel::{CancelKey, CancelKeys, ComputeKey};
use super::message::{LONG_CANCEL_KEYS_MINOR, put_backend_key};
use super::negotiation::HandshakeError;
use super::refusal::Refusal;
use super::scanner::MessageScanner;
use super::startup::Login;
use super::stream::ClientStream;
use crate::model::BranchRef;
use bytes::{Buf, BytesMut};
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Longest message of a compute's startup. Notices of login event triggers have room; bounded, as it is held in memory.
const STARTUP_MESSAGE_MAX: usize = 1 << 20;

/// What a server says that is about to end: `admin_shutdown`, `crash_shutdown` and `cannot_connect_now`.
const ENDING: [&str; 3] = ["57P01", "57P02", "57P03"];

/// Most bytes that are read and thrown away while a backend ends that has lost its client. More is no mere end of an
/// answer.
const ABANDONED_DISCARD_MAX: usize = 1 << 20;

/// A compute that is ready for queries.
pub(super) struct Backend {
    pub stream: UnixStream,
    /// Has seen everything that went to the client after the first `ReadyForQuery`.
    pub scanner: MessageScanner,
    /// The backend's process id, as its compute and its client know it.
    pub pid: i32,
    /// Void once this is dropped.
    cancel_key: Option<CancelKey>,
}

impl Backend {
    /// Ends the work of a client that can no longer be reached: waits up to `grace` for what is nearly done, such as a
    /// commit, and cancels what is not. A backend that goes on sending all that time is not waited for.
    pub(super) async fn abandon(&mut self, grace: Duration) {
        let finish = async {
            // A backend that was only waiting for its client ends at once.
            self.stream.shutdown().await?;
            let mut discarded = 0;
            let mut buffer = vec![0; 4096];
            while discarded < ABANDONED_DISCARD_MAX {
                match self.stream.read(&mut buffer).await? {
                    0 => return Ok(true),
                    read => discarded += read,
                }
            }
            io::Result::Ok(false)
        };
        // A backend whose socket fails has ended, and one that is still busy after all is cancelled.
        let ended = tokio::time::timeout(grace, finish).await.is_ok_and(|ended| ended.unwrap_or(true));
        if let (false, Some(key)) = (ended, &self.cancel_key) {
            key.cancel().await;
        }
    }
}

/// How a compute received a client.
pub(super) enum Reception {
    Ready(Backend),
    /// It turned the client away; its `ErrorResponse`, and the same for the log.
    Refused {
        last_words: BytesMut,
        reason: String,
    },
    /// It ended before the client heard a word of it: another one may be had.
    Gone {
        reason: String,
    },
}

/// Starts a backend for `login` and forwards what it says up to its first `ReadyForQuery`.
pub(super) async fn enter(
    client: &mut ClientStream,
    socket: &Path,
    login: &Login,
    branch: &BranchRef,
    keys: &CancelKeys,
) -> Result<Reception, HandshakeError> {
    let unreachable = |error: io::Error| unreachable(branch, &error.to_string());
    let begun = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(&login.compute_startup()).await?;
        Ok(stream)
    };
    let mut stream = match begun.await {
        Ok(stream) => stream,
        Err(error) => return Ok(gone(&error)),
    };
    let mut is_heard = false;
    let mut incoming = BytesMut::with_capacity(4096);
    let mut outgoing = BytesMut::with_capacity(4096);
    let (mut pid, mut cancel_key) = (0, None);
    loop {
        let ended = match stream.read_buf(&mut incoming).await {
            Ok(0) => Some(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => None,
            Err(error) => Some(error),
        };
        match ended {
            Some(error) if is_heard => return Err(unreachable(error).into()),
            Some(error) => return Ok(gone(&error)),
            None => {}
        }
        while let Some(message) = take_message(&mut incoming, branch)? {
            match (message[0], &message[5..]) {
                (b'R', [0, 0, 0, 0]) => outgoing.extend_from_slice(&message),
                (b'R', _) => return Err(self::unreachable(branch, "it does not trust its own socket").into()),
                (b'K', [a, b, c, d, secret @ ..]) => {
                    pid = i32::from_be_bytes([*a, *b, *c, *d]);
                    let real = ComputeKey { socket: socket.to_owned(), pid, secret: secret.to_vec() };
                    let key = keys.issue(real, login.minor >= LONG_CANCEL_KEYS_MINOR);
                    put_backend_key(&mut outgoing, key.pid, &key.secret);
                    cancel_key = Some(key);
                }
                (b'E', fields) => {
                    let reason = describe_error(fields);
                    if !is_heard && ENDING.iter().any(|code| reason.starts_with(code)) {
                        return Ok(Reception::Gone { reason });
                    }
                    outgoing.extend_from_slice(&message);
                    return Ok(Reception::Refused { last_words: outgoing, reason });
                }
                (b'Z', _) => {
                    let mut scanner = MessageScanner::new();
                    for piece in [&message, &incoming] {
                        scanner.advance(piece);
                        outgoing.extend_from_slice(piece);
                    }
                    client.send(&outgoing).await?;
                    return Ok(Reception::Ready(Backend { stream, scanner, pid, cancel_key }));
                }
                _ => outgoing.extend_from_slice(&message),
            }
        }
        if !outgoing.is_empty() {
            client.send(&outgoing).await?;
            outgoing.clear();
            is_heard = true;
        }
    }
}

fn gone(error: &io::Error) -> Reception {
    Reception::Gone { reason: error.to_string() }
}

/// Takes the first message off `incoming` once it is whole, header included.
fn take_message(incoming: &mut BytesMut, branch: &BranchRef) -> Result<Option<BytesMut>, Refusal> {
    let Some(length) = incoming.get(1..5).map(|mut length| length.get_u32() as usize) else { return Ok(None) };
    if !(4..=STARTUP_MESSAGE_MAX).contains(&length) {
        return Err(unreachable(branch, "it sent a message of an impossible length"));
    }
    Ok((incoming.len() > length).then(|| incoming.split_to(1 + length)))
}

fn unreachable(branch: &BranchRef, reason: &str) -> Refusal {
    Refusal::ComputeUnreachable { branch: branch.to_string(), reason: reason.to_owned() }
}

/// SQLSTATE and message of an `ErrorResponse` (PostgreSQL manual, "Error and Notice Message Fields").
fn describe_error(fields: &[u8]) -> String {
    let field = |kind: u8| {
        let field = fields.split(|byte| *byte == 0).find(|field| field.first() == Some(&kind));
        field.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
    };
    format!("{} {}", field(b'C'), field(b'M'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_only_whole() {
        let branch: BranchRef = "shop@b".parse().expect("valid");
        let mut incoming = BytesMut::from(&b"Z\0\0\0\x05"[..]);
        assert!(matches!(take_message(&mut incoming, &branch), Ok(None)));
        incoming.extend_from_slice(b"IN");
        assert_eq!(take_message(&mut incoming, &branch).ok().flatten().as_deref(), Some(&b"Z\0\0\0\x05I"[..]));
        assert_eq!(&incoming[..], b"N");
        let mut endless = BytesMut::from(&b"D\xff\xff\xff\xff"[..]);
        assert!(take_message(&mut endless, &branch).is_err());
    }

    #[test]
    fn an_error_is_described_by_code_and_message() {
        assert_eq!(describe_error(b"SFATAL\0C3D000\0Mno such database\0\0"), "3D000 no such database");
    }
}
