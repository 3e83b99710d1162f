//! Heads and manifests as stored.
//!
//! A **manifest** is JSON, compressed with zstd as one frame that carries its own checksum (RFC 8878, 3.1.1: XXH64, low 4 bytes). A branch's is
//! checked against the SHA-256 in the branch's head besides.
//!
//! A **head** is JSON for people to read, an object whose last member is the CRC32C, in 8 hexadecimal digits, of every byte before it:
//!
//! ```text
//! {
//!   "format": 1,
//!   …,
//!   "own_bytes": 4096,            the sum covers everything up to and without this line's last comma
//!   "crc32c": "9ae0daaf"
//! }
//! ```
//!
//! A head without the member, as first versions wrote it, is taken as it is: one flipped bit cannot make both the member's
//! name and something else wrong.

use super::StoreError;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

/// zstd's level for manifests: small objects, written once, read at every wake.
const LEVEL: i32 = 3;
/// Largest document that is read, decompressed. A branch that created a million files needs about 100 MB.
const LARGEST: usize = 512 << 20;

pub(super) fn encode<T: Serialize>(document: &T) -> Bytes {
    let json = serde_json::to_vec(document).expect("manifests hold only strings, numbers and lists");
    let compress = || {
        let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
        compressor.include_checksum(true)?;
        compressor.compress(&json)
    };
    Bytes::from(compress().expect("compressing into memory cannot fail"))
}

pub(super) fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    let damaged = |what: String| StoreError::Damaged { key: key.to_owned(), what };
    let json = zstd::bulk::decompress(bytes, upper_bound(bytes)).map_err(|e| damaged(e.to_string()))?;
    serde_json::from_slice(&json).map_err(|e| damaged(e.to_string()))
}

fn upper_bound(bytes: &[u8]) -> usize {
    let declared = zstd::zstd_safe::get_frame_content_size(bytes).ok().flatten().unwrap_or(0);
    (declared as usize).min(LARGEST)
}

/// What parts a head's content from its sum.
const SUM_BEGINS: &str = ",\n  \"crc32c\": \"";
const SUM_ENDS: &str = "\"\n}";

pub(super) fn encode_head<T: Serialize>(head: &T) -> Bytes {
    let json = serde_json::to_string_pretty(head).expect("heads hold only strings and numbers");
    let content = json.strip_suffix("\n}").expect("a head is an object with members");
    Bytes::from(format!("{content}{SUM_BEGINS}{:08x}{SUM_ENDS}", crc32c::crc32c(content.as_bytes())))
}

pub(super) fn decode_head<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    let damaged = |what: String| StoreError::Damaged { key: key.to_owned(), what };
    let text = std::str::from_utf8(bytes).map_err(|e| damaged(e.to_string()))?;
    if let Some((content, sum)) = text.rsplit_once(SUM_BEGINS)
        && sum != format!("{:08x}{SUM_ENDS}", crc32c::crc32c(content.as_bytes()))
    {
        return Err(damaged("its checksum does not match".into()));
    }
    serde_json::from_str(text).map_err(|e| damaged(e.to_string()))
}

/// SHA-256 of an object, in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        format: u32,
        base: String,
        seq: u64,
        dirty: bool,
    }

    fn sample() -> Sample {
        Sample { format: 1, base: "b-0123456789".to_owned(), seq: 77, dirty: true }
    }

    #[test]
    fn no_flipped_bit_of_a_head_or_a_manifest_changes_what_it_says() {
        let (head, manifest) = (encode_head(&sample()), encode(&sample()));
        assert_eq!(decode_head::<Sample>("head", &head).expect("whole"), sample());
        assert_eq!(decode::<Sample>("manifest", &manifest).expect("whole"), sample());
        for bit in 0..head.len() * 8 {
            let mut flipped = head.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = decode_head::<Sample>("head", &flipped);
            assert!(!matches!(&read, Ok(read) if *read != sample()), "bit {bit}: {read:?}");
        }
        for bit in 0..manifest.len() * 8 {
            let mut flipped = manifest.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = decode::<Sample>("manifest", &flipped);
            assert!(!matches!(&read, Ok(read) if *read != sample()), "bit {bit}: {read:?}");
        }
    }

    #[test]
    fn a_head_cut_short_is_damaged_and_one_without_a_sum_is_read() {
        let head = encode_head(&sample());
        for length in 0..head.len() {
            assert!(decode_head::<Sample>("head", &head[..length]).is_err(), "{length} bytes");
        }
        let plain = serde_json::to_vec_pretty(&sample()).expect("plain JSON");
        assert_eq!(decode_head::<Sample>("head", &plain).expect("an early one"), sample());
    }
}
