//! Password verifiers as `pg_authid.rolpassword` holds them (PostgreSQL manual, "pg_authid"; RFC 5802, RFC 7677).
//!
//! - SCRAM: `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>`, the last three in base 64.
//! - MD5: `md5` and 32 hexadecimal digits of MD5(password, user name).

use crate::model::Secret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pgwire::api::auth::sasl::scram::{ScramSecret, gen_salted_password};
use postgres_protocol::password;

/// Iterations and bytes of salt of a verifier that Postgres makes (`SCRAM_SHA_256_DEFAULT_ITERATIONS`,
/// `SCRAM_DEFAULT_SALT_LEN`).
pub(super) const DEFAULT_ITERATIONS: usize = 4096;
pub(super) const DEFAULT_SALT_BYTES: usize = 16;

/// Bytes of a SHA-256 digest: `SCRAM_KEY_LEN` of Postgres.
const KEY_BYTES: usize = 32;

/// What a SCRAM-SHA-256 exchange is checked against. Has no `Debug`: it is as good as the password to an impostor
/// server.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ScramVerifier {
    pub iterations: usize,
    pub salt: Vec<u8>,
    pub stored_key: [u8; KEY_BYTES],
    pub server_key: [u8; KEY_BYTES],
}

/// A verifier of either kind.
#[derive(Clone)]
pub(super) enum Verifier {
    Scram(ScramVerifier),
    Md5(Md5Verifier),
}

/// The 32 hexadecimal digits.
#[derive(Clone)]
pub(super) struct Md5Verifier(String);

impl Verifier {
    /// Reads `rolpassword`; `None` if it is neither kind.
    pub(super) fn parse(text: &Secret) -> Option<Verifier> {
        let text = text.expose();
        if let Some(digits) = text.strip_prefix("md5") {
            let valid = digits.len() == 32 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
            return valid.then(|| Verifier::Md5(Md5Verifier(digits.to_owned())));
        }
        ScramVerifier::parse(text).map(Verifier::Scram)
    }
}

impl ScramVerifier {
    fn parse(text: &str) -> Option<ScramVerifier> {
        let (parameters, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let key = |text: &str| <[u8; KEY_BYTES]>::try_from(STANDARD.decode(text).ok()?).ok();
        Some(ScramVerifier {
            iterations: iterations.parse().ok().filter(|iterations| *iterations > 0)?,
            salt: STANDARD.decode(salt).ok()?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// Derives the verifier of `password`: some milliseconds of CPU.
    pub(super) fn derive(password: &Secret, salt: [u8; DEFAULT_SALT_BYTES]) -> Option<ScramVerifier> {
        let salted = gen_salted_password(password.expose(), &salt, DEFAULT_ITERATIONS);
        match ScramSecret::verifier_from_salted_password(salt.to_vec(), salted, DEFAULT_ITERATIONS) {
            ScramSecret::Verifier { salt, iterations, stored_key, server_key } => Some(ScramVerifier {
                iterations,
                salt,
                stored_key: stored_key.try_into().ok()?,
                server_key: server_key.try_into().ok()?,
            }),
            ScramSecret::SaltedPassword { .. } => None,
        }
    }

    /// As pgwire's SCRAM server takes it.
    pub(super) fn into_secret(self) -> ScramSecret {
        ScramSecret::Verifier {
            salt: self.salt,
            iterations: self.iterations,
            stored_key: self.stored_key.to_vec(),
            server_key: self.server_key.to_vec(),
        }
    }
}

impl Md5Verifier {
    /// Whether `response` is what a client that knows the password answers to `salt` (PostgreSQL manual,
    /// "AuthenticationMD5Password").
    pub(super) fn accepts(&self, salt: [u8; 4], response: &[u8]) -> bool {
        // The name is appended to the password before it is hashed: with the salt there already, it is empty.
        let expected = password::md5(&[self.0.as_bytes(), &salt].concat(), "");
        equal_in_constant_time(expected.as_bytes(), response)
    }
}

/// Compares without telling by its duration where the two differ; lengths are not secret.
pub(super) fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |difference, (a, b)| std::hint::black_box(difference | (a ^ b)));
    a.len() == b.len() && difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_derived_verifier_is_the_one_that_postgres_writes() {
        let written = password::scram_sha_256("pässwörd".as_bytes());
        let parsed = ScramVerifier::parse(&written).expect("valid");
        let salt = parsed.salt.clone().try_into().expect("16 bytes");
        let derived = ScramVerifier::derive(&Secret::new("pässwörd"), salt).expect("derived");
        assert!(parsed == derived, "the same salt gives another verifier");
    }

    #[test]
    fn half_a_verifier_is_none() {
        let key = STANDARD.encode([7; 32]);
        let parses = |text: String| Verifier::parse(&Secret::new(text)).is_some();
        assert!(parses(format!("SCRAM-SHA-256$4096:c2FsdA==${key}:{key}")));
        assert!(!parses(format!("SCRAM-SHA-256$0:c2FsdA==${key}:{key}")));
        assert!(!parses(format!("SCRAM-SHA-256$4096:c2FsdA==${key}")));
        assert!(!parses(format!("SCRAM-SHA-256$4096:c2FsdA==${key}:c2FsdA==")));
        assert!(!parses("md5123".to_owned()));
        assert!(!parses("secret".to_owned()));
    }

    #[test]
    fn md5_answers_are_those_that_clients_compute() {
        let stored = password::md5(b"secret", "ann");
        let Some(Verifier::Md5(verifier)) = Verifier::parse(&Secret::new(stored)) else { panic!("not MD5") };
        let salt = [0xff, 0, 0x80, 1];
        let answer = postgres_protocol::authentication::md5_hash(b"ann", b"secret", salt);
        assert!(verifier.accepts(salt, answer.as_bytes()));
        assert!(!verifier.accepts([1, 2, 3, 4], answer.as_bytes()));
        assert!(!verifier.accepts(salt, b""));
    }
}
