//! Proving who a client is: SCRAM-SHA-256 (RFC 5802, RFC 7677; PostgreSQL manual, "SASL Authentication"), or MD5 for
//! roles whose verifier is one.
//!
//! Ends with the server's last word of the exchange. `AuthenticationOk` is left to the compute, so that a client
//! which was let in by the proxy still sees the compute's own refusals (no such database, no `CONNECT` privilege) as
//! such.

use super::credentials::Credential;
use super::message::{put_md5_salt, put_sasl_continue, put_sasl_final, put_sasl_mechanism, read_message, take_text};
use super::negotiation::HandshakeError;
use super::refusal::{LoginFailure, Refusal};
use super::stream::ClientStream;
use super::verifier::{Md5Verifier, ScramVerifier, Verifier};
use crate::model::Entropy;
use bytes::BytesMut;
use pgwire::api::auth::sasl::scram::ScramServerAuth;
use pgwire::error::PgWireError;
use std::io;

/// The one mechanism that is offered: channel binding would need the certificate that the client saw, and some stand
/// behind another proxy.
const MECHANISM: &str = "SCRAM-SHA-256";

/// Most bytes of a client's answer: `PG_MAX_SASL_MESSAGE_LENGTH` of `sasl.h`.
const ANSWER_MAX: usize = 1024;

/// Runs the exchange. Every failed one ends in the same refusal; its reason is for the log. A role that may not log in
/// is told so only once it has proved its password.
pub(super) async fn authenticate(
    client: &mut ClientStream,
    user: &str,
    credential: Credential,
    entropy: &Entropy,
) -> Result<(), HandshakeError> {
    let outcome = match credential {
        Credential::Verifier(verifier) => exchange(client, verifier, entropy).await?,
        Credential::NoLogin(verifier) => match exchange(client, verifier, entropy).await? {
            Ok(()) => return Err(Refusal::NoLogin { user: user.to_owned() }.into()),
            wrong_password => wrong_password,
        },
        Credential::Decoy { verifier, reason } => scram(client, verifier).await.map(|_| Err(reason))?,
    };
    outcome.map_err(|reason| Refusal::Password { user: user.to_owned(), reason }.into())
}

/// How an exchange ended that was well-formed.
type Outcome = Result<(), LoginFailure>;

async fn exchange(client: &mut ClientStream, verifier: Verifier, entropy: &Entropy) -> Result<Outcome, HandshakeError> {
    match verifier {
        Verifier::Scram(verifier) => scram(client, verifier).await,
        Verifier::Md5(verifier) => md5(client, &verifier, entropy).await,
    }
}

async fn scram(client: &mut ClientStream, verifier: ScramVerifier) -> Result<Outcome, HandshakeError> {
    let mut buffer = BytesMut::new();
    put_sasl_mechanism(&mut buffer, MECHANISM);
    client.send(&buffer).await?;

    let first = read_answer(client).await?;
    let first = initial_response(&first)?;
    // Made for this connection: a shared one would offer channel binding on plain connections too.
    let server = ScramServerAuth::new();
    let (challenge, server) =
        server.on_client_first_message_with_secret(first, verifier.into_secret()).map_err(|_| MALFORMED_SCRAM)?;
    buffer.clear();
    put_sasl_continue(&mut buffer, &challenge);
    client.send(&buffer).await?;

    let last = read_answer(client).await?;
    let signature = match server.on_client_final_message(&last) {
        Ok(signature) => signature,
        Err(PgWireError::InvalidPassword(_)) => return Ok(Err(LoginFailure::WrongPassword)),
        Err(_) => return Err(MALFORMED_SCRAM.into()),
    };
    buffer.clear();
    put_sasl_final(&mut buffer, &signature);
    client.send(&buffer).await?;
    Ok(Ok(()))
}

const MALFORMED_SCRAM: Refusal = Refusal::Protocol("malformed SCRAM message");

/// The data of a `SASLInitialResponse` that chose our mechanism.
fn initial_response(message: &[u8]) -> Result<&[u8], Refusal> {
    let mut rest = message;
    if take_text(&mut rest) != Some(MECHANISM.as_bytes()) {
        return Err(Refusal::Protocol("client selected an invalid SASL authentication mechanism"));
    }
    match rest.split_first_chunk::<4>() {
        Some((length, data)) if u32::from_be_bytes(*length) as usize == data.len() => Ok(data),
        _ => Err(MALFORMED_SCRAM),
    }
}

async fn md5(client: &mut ClientStream, verifier: &Md5Verifier, entropy: &Entropy) -> Result<Outcome, HandshakeError> {
    let mut salt = [0; 4];
    entropy.fill(&mut salt);
    let mut buffer = BytesMut::new();
    put_md5_salt(&mut buffer, salt);
    client.send(&buffer).await?;
    let answer = read_answer(client).await?;
    let response = take_text(&mut answer.as_slice()).ok_or(Refusal::Protocol("malformed password message"))?;
    Ok(if verifier.accepts(salt, response) { Ok(()) } else { Err(LoginFailure::WrongPassword) })
}

/// The body of the client's next message, which must be of the password family.
async fn read_answer(client: &mut ClientStream) -> Result<Vec<u8>, HandshakeError> {
    match read_message(client, ANSWER_MAX).await {
        Ok((b'p', body)) => Ok(body),
        Ok(_) => Err(Refusal::Protocol("expected a password message").into()),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(Refusal::Protocol("invalid length of password message").into())
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_initial_response_is_taken_only_whole() {
        assert_eq!(initial_response(b"SCRAM-SHA-256\0\0\0\0\x02ab").ok(), Some(&b"ab"[..]));
        assert!(initial_response(b"SCRAM-SHA-256-PLUS\0\0\0\0\x02ab").is_err());
        assert!(initial_response(b"SCRAM-SHA-256\0\0\0\0\x03ab").is_err());
        assert!(initial_response(b"SCRAM-SHA-256\0\xff\xff\xff\xff").is_err());
        assert!(initial_response(b"SCRAM-SHA-256").is_err());
    }
}
