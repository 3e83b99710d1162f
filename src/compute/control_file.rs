//! `global/pg_control`: what a cluster knows of itself without being started.
//!
//! Read for three things: whether the cluster was shut down cleanly, which WAL segment holds its last checkpoint, and the
//! settings that a start must not fall below. The fields stand at the same offsets in all supported versions
//! (`ControlFileData`, src/include/catalog/pg_control.h; native byte order; x86-64 and aarch64 align alike):
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 8 | 4 | `pg_control_version`: 1300 for PostgreSQL 13 to 16, 1700 for 17, 1800 for 18 |
//! | 16 | 4 | `state`, of which 1 is `DB_SHUTDOWNED` |
//! | 40 | 8 | `checkPointCopy.redo` |
//! | 48 | 4 | `checkPointCopy.ThisTimeLineID` |
//! | 192 | 4 | `max_prepared_xacts` |
//! | 228 | 4 | `xlog_seg_size` |

use super::data_files::DataFiles;
use std::io::{self, Read};
use std::path::Path;

/// `DB_SHUTDOWNED` of `DBState`.
const SHUTDOWNED: u32 = 1;
/// Bytes of the fields that are read here.
const LENGTH: usize = 232;

/// The fields of `pg_control` that Offshoot needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFile {
    state: u32,
    redo: u64,
    timeline: u32,
    /// `max_prepared_transactions` as the cluster last ran with.
    pub max_prepared_transactions: u32,
    /// Bytes of a WAL segment.
    pub wal_segment_size: u64,
}

impl ControlFile {
    /// Reads it from a data directory. Blocks.
    pub fn read(data_dir: &Path) -> io::Result<ControlFile> {
        let mut bytes = [0; LENGTH];
        std::fs::File::open(data_dir.join("global/pg_control"))?.read_exact(&mut bytes)?;
        ControlFile::from_bytes(&bytes)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "global/pg_control has an unknown format"))
    }

    /// Reads it from where a compute's files are. Blocks.
    pub(super) fn read_from(files: &DataFiles) -> io::Result<ControlFile> {
        ControlFile::from_bytes(&files.read(Path::new("global/pg_control"))?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "global/pg_control has an unknown format"))
    }

    /// Parses the leading bytes of `global/pg_control`; `None` where the layout is not one that is known.
    pub fn from_bytes(bytes: &[u8]) -> Option<ControlFile> {
        Self::parse(bytes.first_chunk()?)
    }

    /// Byte offset, within [`ControlFile::checkpoint_wal_file`], of the last checkpoint's redo point; after a clean
    /// stop that is the shutdown checkpoint's own record, the last one there is.
    pub fn redo_offset(&self) -> u64 {
        self.redo % self.wal_segment_size
    }

    /// Whether the cluster's last run ended with a shutdown checkpoint.
    pub fn is_shut_down(&self) -> bool {
        self.state == SHUTDOWNED
    }

    /// For people, in `pg_controldata`'s words.
    pub fn state(&self) -> &'static str {
        match self.state {
            0 => "starting up",
            SHUTDOWNED => "shut down",
            2 => "shut down in recovery",
            3 => "shutting down",
            4 => "in crash recovery",
            5 => "in archive recovery",
            6 => "in production",
            _ => "in an unknown state",
        }
    }

    /// Where the last checkpoint's redo point stands in the whole WAL.
    pub fn redo(&self) -> u64 {
        self.redo
    }

    /// Name of the WAL file that holds the start of the last checkpoint.
    pub fn checkpoint_wal_file(&self) -> String {
        self.wal_file(self.redo / self.wal_segment_size)
    }

    /// Name of the `segment`-th WAL file of the last checkpoint's timeline (`XLogFileName` of xlog_internal.h).
    pub fn wal_file(&self, segment: u64) -> String {
        let per_id = (1 << 32) / self.wal_segment_size;
        format!("{:08X}{:08X}{:08X}", self.timeline, segment / per_id, segment % per_id)
    }

    fn parse(bytes: &[u8; LENGTH]) -> Option<ControlFile> {
        let u32_at = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let wal_segment_size = u64::from(u32_at(228));
        let known = matches!(u32_at(8), 1300 | 1700 | 1800) && wal_segment_size.is_power_of_two();
        known.then(|| ControlFile {
            state: u32_at(16),
            redo: u64::from_ne_bytes(bytes[40..48].try_into().expect("eight bytes")),
            timeline: u32_at(48),
            max_prepared_transactions: u32_at(192),
            wal_segment_size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_files_are_named_as_postgres_names_them() {
        let control = |redo, wal_segment_size| ControlFile {
            state: 1,
            redo,
            timeline: 3,
            max_prepared_transactions: 0,
            wal_segment_size,
        };
        assert_eq!(control(0x1_0200_0028, 16 << 20).checkpoint_wal_file(), "000000030000000100000002");
        assert_eq!(control(0x5_FF00_0028, 16 << 20).checkpoint_wal_file(), "0000000300000005000000FF");
        assert_eq!(control(0x2_8000_0028, 1 << 30).checkpoint_wal_file(), "000000030000000200000002");
    }

    #[test]
    fn an_unknown_layout_is_refused() {
        assert_eq!(ControlFile::parse(&[0; LENGTH]), None);
    }
}
