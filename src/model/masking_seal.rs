//! What a masked base says of itself, signed: what went in, by which rules and key it was changed, and that nothing raw was found.
//!
//! A project with masking is branched from nothing else. The signature is over the statement and what the manifest says of the base's
//! content, so a statement cannot be put under another base.

use super::{BaseManifest, PackRef};
use serde::{Deserialize, Serialize};

/// In a [`BaseManifest`]. All hashes are SHA-256 in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskingSeal {
    pub statement: MaskingStatement,
    /// Ed25519 public key of the installation that made it, in hexadecimal.
    pub signer: String,
    /// Over [`MaskingSeal::signed_bytes`], in hexadecimal.
    pub signature: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaskingStatement {
    pub format: u32,
    /// Version of Offshoot.
    pub version: String,
    /// Tables, columns, types and keys of all databases of the source.
    pub catalog_sha256: String,
    /// What the rules say.
    pub rules_sha256: String,
    /// Names the masking key without revealing anything of it.
    pub key_id: String,
    /// Tables that were copied, and rows in all of them.
    pub tables: u64,
    pub rows: u64,
    pub scan: ScanSummary,
    /// The report, an object of its own.
    pub report_sha256: String,
}

/// What was searched for raw values before the base was sealed. There were none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanSummary {
    pub files: u64,
    pub bytes: u64,
    /// Bytes that were compressed, or in pieces, and were searched as what they mean.
    pub decompressed_bytes: u64,
    /// Raw values that were searched for.
    pub values: u64,
    /// Ways to write them that were searched for.
    pub patterns: u64,
    /// Canaries that were planted in a copy of the raw side and found there, each.
    pub canaries: u64,
    /// Raw rows that were joined with what became of them.
    pub joined_rows: u64,
}

impl MaskingStatement {
    /// The only format there is yet.
    pub const FORMAT: u32 = 1;
}

/// What is signed, in this order.
#[derive(Serialize)]
struct Signed<'a> {
    purpose: &'static str,
    project: &'a str,
    base: &'a str,
    created_at_ms: u64,
    packs: &'a [PackRef],
    index_bytes: u64,
    files: u64,
    logical_bytes: u64,
    statement: &'a MaskingStatement,
}

impl MaskingSeal {
    /// What a signature of `statement` under `manifest` is over.
    pub fn signed_bytes(manifest: &BaseManifest, statement: &MaskingStatement) -> Vec<u8> {
        let signed = Signed {
            purpose: "offshoot masked base 1",
            project: manifest.project.as_str(),
            base: manifest.id.as_str(),
            created_at_ms: manifest.created_at_ms,
            packs: &manifest.packs,
            index_bytes: manifest.index_bytes,
            files: manifest.files,
            logical_bytes: manifest.logical_bytes,
            statement,
        };
        serde_json::to_vec(&signed).expect("plain data is JSON")
    }
}
