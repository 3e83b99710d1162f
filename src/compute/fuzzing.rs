//! What fuzzing throws at the readers of Postgres's own files (`fuzz/`, and `pageserver::fuzzing` for how).

use super::config_file::{Settings, parse_line, render};
use super::control_file::ControlFile;

/// `global/pg_control`.
pub fn control_file(data: &[u8]) -> bool {
    let Some(control) = ControlFile::from_bytes(data) else { return false };
    assert!(control.redo_offset() < control.wal_segment_size);
    assert!(control.checkpoint_wal_file().len() >= 24 && !control.state().is_empty());
    true
}

/// `postgresql.conf`.
pub fn config_file(data: &[u8]) -> bool {
    let read = |text: &str| text.lines().filter_map(parse_line).collect::<Settings>();
    let settings = read(&String::from_utf8_lossy(data));
    assert_eq!(read(&render(&settings)), settings, "settings are not written as they were read");
    !settings.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::corpus::replay;

    #[test]
    fn control_files_of_the_corpus() {
        let mut sample = vec![0; 232];
        for (at, value) in [(8, 1300_u32), (16, 1), (40, 0x0200_0028), (48, 1), (192, 5), (228, 16 << 20)] {
            sample[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        replay("control_file", control_file, &[sample]);
    }

    #[test]
    fn configuration_files_of_the_corpus() {
        let text = "# a comment\nWork_Mem = 4MB # comment\nx.y='it''s \\'so\\' \\101\\n'\nport=5433#c\nsearch_path '\"$user\"'\n";
        replay("config_file", config_file, &[text.as_bytes().to_vec()]);
    }
}
