//! Proves that no raw value is left in any file of a stopped data directory, and says where one is if not.
//!
//! The caller lists the [`secrets`](PatternsBuilder::add) with the label each is reported under, never with the value itself, and names the
//! folder. [`Scan::run`] then reads every byte of every regular file below it, once:
//!
//! ```text
//! every file        plain: all encodings of all secrets                                              sieve.rs, finder.rs
//! base/, global/    + compressed values within pages, decompressed                                   pages.rs, inflate.rs
//!                   + TOAST chunks joined to values, these decompressed too                          toast.rs
//!                   + what a heap that was only ever filled cannot hold: dead items, old versions    pages.rs
//! pg_wal/           + pages joined across their headers, compressed values within them               wal.rs
//! ```
//!
//! What is searched for each kind of value (the bytes: as they are on disk; the text: as Postgres prints it):
//!
//! | kind | text searched when | bytes searched when | otherwise |
//! |---|---|---|---|
//! | text | 7 bytes or more, 3 different ones | (the same) | too short |
//! | int2, int4, int8 | 9 digits or more | 8 bytes from 2^40 on; of int4 4 bytes from 2^24 on, at offsets divisible by 4; numeric digits from 4 groups on | too short |
//! | numeric | 9 digits or more | 4 base-10000 digits (8 bytes) or more | too short |
//! | uuid | always | always | not a uuid: as text |
//! | inet | 7 bytes or more | always: IPv4 with the varlena header before it, IPv6 without | not an address: as text |
//! | date | never | never | too short |
//! | timestamp | with a time of day; without its zone, also with `T` | with a time of day | too short; another DateStyle: as text |
//! | bytea | (hex is searched) | 7 bytes or more, 3 different ones | too short |
//! | float8 | 9 digits or more | not integral, 6 significant digits or more | too short |
//!
//! A text is searched as it is in any case of its ASCII letters, in Unicode's upper and lower case, in UTF-16 of both byte orders, in hex,
//! in base64 at its three alignments, as a `pg_node_tree` prints a constant's bytes, and escaped for JSON and SQL. A value of more than 256 bytes
//! is searched by the 128 in its middle. A number of fewer than 15 digits is met as text only where no digit is beside it. Four-byte integers are the one form that meets coincidences: one position in 2^32 each.
//!
//! What is not seen: values that only an index's structure spells (SP-GiST tries, hash and trigram keys), base64 with a line break
//! within the value, full-page images under `wal_compression`, SQL escapes other than doubled quotes, float4, and what a tablespace's
//! link leads to ([`ScanResult::links`] lists those).

mod binary;
mod encodings;
mod filter;
mod finder;
mod inflate;
mod pages;
mod patterns;
mod result;
mod run;
mod sieve;
mod tail;
mod toast;
mod wal;
mod walk;

#[cfg(test)]
pub use encodings::Encoding;
pub use patterns::{Added, LabelId, Patterns, PatternsBuilder, SecretKind, searchable};
pub use result::{Finding, HeapFaults, Place, ScanError, ScanResult};
pub use run::Scan;
