//! What fuzzing throws at the readers of what a node keeps of its branches (`fuzz/`, and `pageserver::fuzzing` for how).

use super::place::Note;
use super::wal::segments;
use crate::compute::ControlFile;
use crate::model::PageNo;

/// A place's note.
pub fn note(data: &[u8]) -> bool {
    let Ok(note) = serde_json::from_slice::<Note>(data) else { return false };
    let written = serde_json::to_vec(&note).expect("it was JSON");
    let again: Note = serde_json::from_slice(&written).expect("what was written is read");
    assert_eq!(serde_json::to_vec(&again).expect("it was JSON"), written);
    true
}

/// The pages of the last WAL segments that a start needs: a `u32` length of the last record, and `global/pg_control`.
pub fn wal(data: &[u8]) -> bool {
    let Some((length, control)) = data.split_first_chunk() else { return false };
    let Some(control) = ControlFile::from_bytes(control) else { return false };
    let Ok(segments) = segments(&control, u32::from_ne_bytes(*length)) else { return false };
    assert!(segments.len() == 1 || segments.len() == 2 && segments[0].name != segments[1].name);
    for segment in &segments {
        let pages = PageNo::count_for(segment.size);
        assert!(segment.pages.len() <= 3 && segment.pages.is_sorted_by(|a, b| a < b));
        assert!(segment.pages.iter().all(|page| *page < pages));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BranchId;
    use crate::model::corpus::replay;

    #[test]
    fn notes_of_the_corpus() {
        let note = Note {
            project: "shop".parse().expect("a name"),
            name: "pr-1".parse().expect("a name"),
            id: BranchId::from("i"),
            epoch: 3,
            started: true,
            boot: Some("0e2b6d4c".to_owned()),
        };
        replay("note", super::note, &[serde_json::to_vec(&note).expect("serializes")]);
    }

    #[test]
    fn wal_of_the_corpus() {
        let mut sample = vec![0; 4 + 232];
        for (at, value) in [(0, 114), (12, 1300_u32), (20, 1), (44, 0x0200_1FD8), (52, 1), (232, 16 << 20)] {
            sample[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        }
        replay("wal", wal, &[sample]);
    }
}
