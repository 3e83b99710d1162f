//! Where a project's data comes from: a live Postgres by its own base backup, or a stopped data directory.
//!
//! ```text
//!  Source ── inquire / look ── installation ── copy ─► Sink (pages, packs, store) ─► Backup ── seal
//! ```

mod archive;
mod backup;
mod connection;
mod conninfo;
mod contents;
mod directory;
mod error;
mod import;
mod inquiry;
mod login;
mod make_base;
mod passfile;
mod progress;
mod queries;
mod raw_base;
mod scratch;
mod seal;
mod sink;
#[cfg(test)]
mod tests;
mod tls;

pub(crate) use connection::{Connection, Purpose, Row};
pub use conninfo::{Server, Source};
pub use error::ImportError;
pub(crate) use error::ServerMessage;
pub use import::{Backup, BackupFacts, Import, import};
pub(crate) use inquiry::inquire_settings;
pub use make_base::{Attest, MakeBase, Origin, Prepare, Prepared, clear_killed_imports, clear_raw_side, make_base};
pub use progress::Progress;
pub use raw_base::RawBase;
pub(crate) use raw_base::RunningRawBase;
pub(crate) use scratch::{PREPARED, RESUMABLE, remove_raw, remove_record, unless_gone};
