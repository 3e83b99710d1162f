//! Manifests as stored: JSON, compressed with zstd, found by key and checked against the SHA-256 its head holds.

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
    Bytes::from(zstd::bulk::compress(&json, LEVEL).expect("compressing into memory cannot fail"))
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

/// SHA-256 of an object, in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
