//! The few messages that the proxy writes or reads itself (PostgreSQL manual, "Message Formats").
//!
//! A message is a type byte, a big-endian 32-bit length that counts itself and the body, and the body. The packets
//! that open a connection have no type byte. Integers are big-endian, strings end with a zero byte.

use bytes::{BufMut, BytesMut};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Minor version of protocol 3 that brought cancel keys of more than 4 bytes (PostgreSQL 18).
pub(super) const LONG_CANCEL_KEYS_MINOR: u16 = 2;

/// The newest minor version of protocol 3 that the proxy speaks.
pub(super) const NEWEST_MINOR: u16 = 2;

/// `CANCEL_REQUEST_CODE` of `pqcomm.h`.
pub(super) const CANCEL_REQUEST_CODE: u32 = 1234 << 16 | 5678;
/// `NEGOTIATE_SSL_CODE` of `pqcomm.h`.
pub(super) const SSL_REQUEST_CODE: u32 = 1234 << 16 | 5679;
/// `NEGOTIATE_GSS_CODE` of `pqcomm.h`.
pub(super) const GSSENC_REQUEST_CODE: u32 = 1234 << 16 | 5680;

/// Version word of protocol 3.`minor`.
pub(super) fn protocol(minor: u16) -> u32 {
    3 << 16 | u32::from(minor)
}

/// Appends a message of type `kind` with what `body` writes.
fn put_message(buffer: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    buffer.put_u8(kind);
    put_counted(buffer, body);
}

/// Appends a length word, counting itself, and what `body` writes.
fn put_counted(buffer: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = buffer.len();
    buffer.put_u32(0);
    body(buffer);
    let length = (buffer.len() - start) as u32;
    buffer[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends `text` and its terminator; a zero byte inside would end it early and is left out.
fn put_text(buffer: &mut BytesMut, text: &str) {
    buffer.extend(text.bytes().filter(|byte| *byte != 0));
    buffer.put_u8(0);
}

/// `AuthenticationSASL`, with the one mechanism that is offered.
pub(super) fn put_sasl_mechanism(buffer: &mut BytesMut, mechanism: &str) {
    put_message(buffer, b'R', |body| {
        body.put_u32(10);
        put_text(body, mechanism);
        body.put_u8(0);
    });
}

/// `AuthenticationSASLContinue`.
pub(super) fn put_sasl_continue(buffer: &mut BytesMut, data: &str) {
    put_message(buffer, b'R', |body| {
        body.put_u32(11);
        body.put_slice(data.as_bytes());
    });
}

/// `AuthenticationSASLFinal`.
pub(super) fn put_sasl_final(buffer: &mut BytesMut, data: &str) {
    put_message(buffer, b'R', |body| {
        body.put_u32(12);
        body.put_slice(data.as_bytes());
    });
}

/// `AuthenticationMD5Password`.
pub(super) fn put_md5_salt(buffer: &mut BytesMut, salt: [u8; 4]) {
    put_message(buffer, b'R', |body| {
        body.put_u32(5);
        body.put_slice(&salt);
    });
}

/// `NegotiateProtocolVersion`: the version that will be spoken, as a whole version word
/// (`SendNegotiateProtocolVersion` of Postgres; its manual mentions the minor number only), and the `_pq_.` options
/// that are not known.
pub(super) fn put_negotiated_version(buffer: &mut BytesMut, minor: u16, unknown_options: &[String]) {
    put_message(buffer, b'v', |body| {
        body.put_u32(protocol(minor));
        body.put_u32(unknown_options.len() as u32);
        for option in unknown_options {
            put_text(body, option);
        }
    });
}

/// `BackendKeyData`.
pub(super) fn put_backend_key(buffer: &mut BytesMut, pid: i32, secret: &[u8]) {
    put_message(buffer, b'K', |body| {
        body.put_i32(pid);
        body.put_slice(secret);
    });
}

/// `ErrorResponse` of severity FATAL. `fields` are pairs of field type and text.
pub(super) fn put_fatal_error(buffer: &mut BytesMut, fields: &[(u8, &str)]) {
    put_message(buffer, b'E', |body| {
        for (field, text) in [(b'S', "FATAL"), (b'V', "FATAL")].iter().chain(fields) {
            body.put_u8(*field);
            put_text(body, text);
        }
        body.put_u8(0);
    });
}

/// `StartupMessage` of protocol 3.0, which every supported compute speaks.
pub(super) fn put_startup(buffer: &mut BytesMut, parameters: &[(&[u8], &[u8])]) {
    put_counted(buffer, |body| {
        body.put_u32(protocol(0));
        for (name, value) in parameters {
            body.put_slice(name);
            body.put_u8(0);
            body.put_slice(value);
            body.put_u8(0);
        }
        body.put_u8(0);
    });
}

/// `CancelRequest`.
pub(super) fn put_cancel_request(buffer: &mut BytesMut, pid: i32, secret: &[u8]) {
    put_counted(buffer, |body| {
        body.put_u32(CANCEL_REQUEST_CODE);
        body.put_i32(pid);
        body.put_slice(secret);
    });
}

/// Reads one typed message of at most `most` body bytes, and not a byte more. A longer one is `InvalidData`.
///
/// Not cancel safe: what was read of a message is lost.
pub(super) async fn read_message(stream: &mut (impl AsyncRead + Unpin), most: usize) -> io::Result<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await?;
    let body = (stream.read_u32().await? as usize).checked_sub(4).filter(|body| *body <= most);
    let Some(body) = body else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "invalid message length"));
    };
    let mut bytes = vec![0; body];
    stream.read_exact(&mut bytes).await?;
    Ok((kind, bytes))
}

/// Splits a zero-terminated string off the front of `bytes`; `None` without a terminator.
pub(super) fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    let text = &bytes[..end];
    *bytes = &bytes[end + 1..];
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_counts_itself_and_the_body() {
        let mut buffer = BytesMut::new();
        put_backend_key(&mut buffer, 7, &[1, 2, 3, 4]);
        assert_eq!(&buffer[..], [b'K', 0, 0, 0, 12, 0, 0, 0, 7, 1, 2, 3, 4]);
        buffer.clear();
        put_cancel_request(&mut buffer, 7, &[1, 2, 3, 4]);
        assert_eq!(&buffer[..], [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 7, 1, 2, 3, 4]);
    }

    #[test]
    fn a_text_cannot_smuggle_its_own_end() {
        let mut buffer = BytesMut::new();
        put_fatal_error(&mut buffer, &[(b'M', "a\0b")]);
        assert!(buffer.ends_with(b"Mab\0\0"));
    }

    #[tokio::test]
    async fn a_message_too_long_is_refused_before_it_is_read() {
        let mut long: &[u8] = &[b'p', 0, 0, 1, 0];
        assert_eq!(read_message(&mut long, 16).await.map_err(|e| e.kind()), Err(io::ErrorKind::InvalidData));
        let mut short: &[u8] = &[b'p', 0, 0, 0, 3];
        assert_eq!(read_message(&mut short, 16).await.map_err(|e| e.kind()), Err(io::ErrorKind::InvalidData));
        let mut whole: &[u8] = &[b'p', 0, 0, 0, 5, 9, 8];
        assert_eq!(read_message(&mut whole, 16).await.ok(), Some((b'p', vec![9])));
        assert_eq!(whole, [8]);
    }
}
