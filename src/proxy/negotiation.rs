//! The packets before the startup packet: TLS, GSS encryption, cancel requests, and direct TLS.
//!
//! Every read takes exactly the bytes of one packet off the socket and none ahead of it, so that nothing sent in
//! clear can end up behind a TLS handshake (CVE-2021-23214): it is fed to that handshake, which then fails.

use super::message::{CANCEL_REQUEST_CODE, GSSENC_REQUEST_CODE, SSL_REQUEST_CODE};
use super::refusal::Refusal;
use super::startup::{STARTUP_PACKET_MAX, StartupPacket};
use super::stream::ClientStream;
use std::io;
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsAcceptor;

/// First byte of a TLS handshake record (RFC 8446, section 5.1). No startup packet starts with it: it would be 350 MB
/// long.
const TLS_HANDSHAKE_RECORD: u8 = 0x16;

/// Bytes of a cancel key: at least 4, since 3.2 up to 256 (PostgreSQL manual, "CancelRequest").
const CANCEL_SECRET_BYTES: std::ops::RangeInclusive<usize> = 4..=256;

/// Why a client did not get through its handshake.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    /// It went away, or broke off TLS: nobody is left to tell.
    #[error("the client went away: {0}")]
    Client(#[from] io::Error),
    #[error("{}", .0.reason())]
    Refused(#[from] Refusal),
}

/// What a client came for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Session(StartupPacket),
    Cancel { pid: i32, secret: Vec<u8> },
}

/// Reads up to and with the startup packet or cancel request, answering requests for encryption on the way.
pub(super) async fn negotiate(client: &mut ClientStream, tls: Option<&TlsAcceptor>) -> Result<Request, HandshakeError> {
    if let (Some(TLS_HANDSHAKE_RECORD), Some(acceptor)) = (client.peek().await?, tls) {
        client.start_tls(acceptor).await?;
        if !client.has_application_protocol() {
            return Err(Refusal::Protocol("direct TLS needs the application protocol \"postgresql\" (ALPN)").into());
        }
    }
    // Each kind of encryption may be asked for once; a second request reads as a protocol version that nobody speaks.
    let (mut may_ask_tls, mut may_ask_gss) = (!client.is_secure(), !client.is_secure());
    loop {
        let packet = read_packet(client).await?;
        let code = packet.first_chunk::<4>().map(|code| u32::from_be_bytes(*code));
        match code {
            Some(SSL_REQUEST_CODE) if may_ask_tls => {
                may_ask_tls = false;
                match tls {
                    Some(acceptor) => {
                        client.send(b"S").await?;
                        client.start_tls(acceptor).await?;
                        may_ask_gss = false;
                    }
                    None => client.send(b"N").await?,
                }
            }
            Some(GSSENC_REQUEST_CODE) if may_ask_gss => {
                may_ask_gss = false;
                client.send(b"N").await?;
            }
            Some(CANCEL_REQUEST_CODE) => return cancel(&packet[4..]),
            _ => return Ok(Request::Session(StartupPacket::parse(&packet)?)),
        }
    }
}

/// One packet without its length word.
async fn read_packet(client: &mut ClientStream) -> Result<Vec<u8>, HandshakeError> {
    let length = client.read_u32().await? as usize;
    let Some(length) = length.checked_sub(4).filter(|length| (4..=STARTUP_PACKET_MAX).contains(length)) else {
        return Err(Refusal::Protocol("invalid length of startup packet").into());
    };
    let mut packet = vec![0; length];
    client.read_exact(&mut packet).await?;
    Ok(packet)
}

fn cancel(body: &[u8]) -> Result<Request, HandshakeError> {
    match body.split_first_chunk::<4>() {
        Some((pid, secret)) if CANCEL_SECRET_BYTES.contains(&secret.len()) => {
            Ok(Request::Cancel { pid: i32::from_be_bytes(*pid), secret: secret.to_vec() })
        }
        _ => Err(Refusal::Protocol("invalid cancel request").into()),
    }
}
