//! What heads and manifests look like as objects, and how damage to them is noticed.
//!
//! **Manifests**: JSON, compressed with zstd and with zstd's own checksum; a branch's is also held to the SHA-256 that its head has.
//!
//! **Heads**: JSON that people can read, one field a line, whose last field is its sum:
//!
//! ```text
//! {
//!   "format": 1,
//!   …
//!   "own_bytes": 0,
//!   "sum": "1f2e3d4c"
//! }
//! ```
//!
//! The sum is CRC32C, in hexadecimal, over the object's key and the text as it is without that field, so that a head that stands in
//! another's place fails like one with a flipped bit. It is taken over the text, not over what was understood of it: fields that a newer version added are summed too.
//! A head without a sum was written before there were sums, and is taken as it is.

use super::StoreError;
use crate::model::{BaseManifest, BranchHead, BranchManifest, ProjectHead};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// zstd's level for manifests: small objects, written once, read at every wake.
const LEVEL: i32 = 3;
/// Largest document that is read, decompressed. A branch that created a million files needs about 100 MB.
const LARGEST: usize = 512 << 20;
/// What stands around the sum at a head's end.
const SUM_BEFORE: &[u8] = b",\n  \"sum\": \"";
const SUM_AFTER: &[u8] = b"\"\n}";
/// Hexadecimal digits of the sum.
const SUM_DIGITS: usize = 8;
/// What a head without its sum ends with.
const END: &[u8] = b"\n}";

/// A document that says which format it has.
pub(super) trait Document: Serialize + DeserializeOwned {
    /// The newest that this program knows.
    const NEWEST: u32;
    fn format(&self) -> u32;
}

macro_rules! documents {
    ($($kind:ty),*) => {
        $(impl Document for $kind {
            const NEWEST: u32 = <$kind>::FORMAT;
            fn format(&self) -> u32 {
                self.format
            }
        })*
    };
}

documents!(ProjectHead, BranchHead, BaseManifest, BranchManifest);

pub(super) fn encode<T: Serialize>(document: &T) -> Bytes {
    let json = serde_json::to_vec(document).expect("manifests hold only strings, numbers and lists");
    let mut compressor = zstd::bulk::Compressor::new(LEVEL).expect("level 3 exists");
    compressor.include_checksum(true).expect("a frame may have a checksum");
    Bytes::from(compressor.compress(&json).expect("compressing into memory cannot fail"))
}

pub(super) fn decode<T: Document>(key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    parse(key, &decompress(key, bytes)?)
}

/// The JSON of a manifest.
pub(super) fn decompress(key: &str, bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
    zstd::bulk::decompress(bytes, upper_bound(bytes))
        .map_err(|e| StoreError::Damaged { key: key.to_owned(), what: e.to_string() })
}

fn upper_bound(bytes: &[u8]) -> usize {
    let declared = zstd::zstd_safe::get_frame_content_size(bytes).ok().flatten().unwrap_or(0);
    (declared as usize).min(LARGEST)
}

/// A head as it stands under `key`.
pub(super) fn encode_head<T: Document>(key: &str, head: &T) -> Bytes {
    let mut text = serde_json::to_vec_pretty(head).expect("heads hold only strings and numbers");
    let sum = sum(key, &text);
    text.truncate(text.len() - END.len());
    text.extend_from_slice(SUM_BEFORE);
    text.extend_from_slice(format!("{sum:08x}").as_bytes());
    text.extend_from_slice(SUM_AFTER);
    Bytes::from(text)
}

pub(super) fn decode_head<T: Document>(key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    if let Some((body, said)) = split_sum(bytes)
        && said != Some(sum(key, &[body, END].concat()))
    {
        return Err(StoreError::Damaged { key: key.to_owned(), what: "its sum does not match".into() });
    }
    parse(key, bytes)
}

/// A head's text up to its sum, and what that says, if it is a number; `None` for one from before there were sums.
fn split_sum(bytes: &[u8]) -> Option<(&[u8], Option<u32>)> {
    let (body, tail) =
        bytes.split_at_checked(bytes.len().checked_sub(SUM_BEFORE.len() + SUM_DIGITS + SUM_AFTER.len())?)?;
    let digits = tail.strip_prefix(SUM_BEFORE)?.strip_suffix(SUM_AFTER)?;
    Some((body, std::str::from_utf8(digits).ok().and_then(|digits| u32::from_str_radix(digits, 16).ok())))
}

fn sum(key: &str, text: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key.as_bytes()), text)
}

fn parse<T: Document>(key: &str, json: &[u8]) -> Result<T, StoreError> {
    let parsed = serde_json::from_slice::<T>(json);
    let format = parsed.as_ref().map(T::format).ok().or_else(|| format_of(json));
    match (parsed, format) {
        (_, Some(format)) if format > T::NEWEST => Err(StoreError::Newer { key: key.to_owned(), format }),
        (Ok(document), _) => Ok(document),
        (Err(e), _) => Err(StoreError::Damaged { key: key.to_owned(), what: e.to_string() }),
    }
}

/// What a document that may not be understood says of its format.
pub(super) fn format_of(json: &[u8]) -> Option<u32> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    serde_json::from_slice::<Format>(json).ok().map(|said| said.format)
}

/// SHA-256 of an object, in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BaseId, Entropy, Nonce, SealedBase};

    fn head() -> ProjectHead {
        let sealed = SealedBase { id: BaseId::from("b1"), version: 1, sealed_at_ms: 1_700_000_000_000 };
        let nonce = Nonce::random(&Entropy::seeded(1));
        ProjectHead { format: ProjectHead::FORMAT, nonce, bases: vec![sealed] }
    }

    #[test]
    fn any_flipped_bit_of_a_head_is_noticed_or_changes_nothing() {
        let head = head();
        let stored = encode_head("k", &head);
        assert_eq!(decode_head::<ProjectHead>("k", &stored).expect("sound"), head);
        let name = stored.len() - SUM_AFTER.len() - SUM_DIGITS - SUM_BEFORE.len();
        for at in 0..stored.len() * 8 {
            let mut flipped = stored.to_vec();
            flipped[at / 8] ^= 1 << (at % 8);
            match decode_head::<ProjectHead>("k", &flipped) {
                Err(StoreError::Damaged { .. }) => {}
                Ok(read) => assert!(read == head && at / 8 > name, "bit {at} was taken"),
                Err(e) => panic!("{e}"),
            }
        }
    }

    #[test]
    fn a_head_in_the_place_of_another_is_noticed() {
        let stored = encode_head("v1/project/a/head", &head());
        assert!(decode_head::<ProjectHead>("v1/project/b/head", &stored).is_err());
    }

    #[test]
    fn a_head_from_before_there_were_sums_is_read() {
        let head = head();
        let stored = serde_json::to_vec_pretty(&head).expect("serializes");
        assert_eq!(decode_head::<ProjectHead>("k", &stored).expect("an older one"), head);
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let newer = br#"{ "format": 9, "things": "unheard of" }"#;
        assert!(matches!(decode_head::<ProjectHead>("k", newer), Err(StoreError::Newer { format: 9, .. })));
        let head = ProjectHead { format: 2, ..head() };
        let stored = encode_head("k", &head);
        assert!(matches!(decode_head::<ProjectHead>("k", &stored), Err(StoreError::Newer { format: 2, .. })));
    }

    #[test]
    fn a_flipped_bit_of_a_manifest_is_noticed() {
        let stored = encode(&head());
        assert_eq!(decode::<ProjectHead>("k", &stored).expect("sound"), head());
        for at in 0..stored.len() * 8 {
            let mut flipped = stored.to_vec();
            flipped[at / 8] ^= 1 << (at % 8);
            // One bit of a zstd frame's descriptor means nothing (RFC 8878, 3.1.1.1.1.3).
            assert!(decode::<ProjectHead>("k", &flipped).map_or(true, |read| read == head()), "bit {at} was taken");
        }
    }
}
