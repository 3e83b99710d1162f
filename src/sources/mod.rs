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
mod passfile;
mod progress;
mod sink;
#[cfg(test)]
mod tests;
mod tls;

pub use conninfo::{Server, Source};
pub use error::ImportError;
pub use import::{Backup, BackupFacts, Import, import};
pub use progress::Progress;
