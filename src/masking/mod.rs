//! Masked bases: a source's rows through keyed transforms into a fresh cluster, which is then sealed like any other base.
//!
//! ```text
//!  source ─ catalog ─┐
//!  rules ────────────┴─ plan ─┐
//!  source ─ schema (pg_dump) ─┼─► fresh cluster: schema, rows (COPY out → mask → COPY FREEZE in), keys and indexes, clean stop
//!  source ─ rows ─────────────┘      └─ scan: no raw value in any file ─► sources::make_base: copy, private start, seal
//! ```
//!
//! Nothing that Postgres wrote on the raw side comes along: no dead tuple, index, statistic, WAL or free space of it. Everything fails closed: what no
//! rule covers, what does not fit, and what cannot be told ends the import, with a reason and without a value. Without rules the
//! same pipe is the logical import.

mod catalog;
mod check;
mod error;
mod import;
mod literals;
mod masks;
mod pipeline;
mod plan;
mod policy;
mod report;
mod row;
mod rules;
mod sample;
mod scan;
mod scanning;
mod signing;
mod suggest;
mod value;

pub use check::{Check, CheckedColumn, Preview, check, preview};
pub use error::MaskingError;
pub use import::{CopyImport, RawSide, check_key};
pub use plan::Problem;
pub use policy::policies;
pub use rules::Rules;
pub use suggest::Suggestion;
