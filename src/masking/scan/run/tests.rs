//! Whole folders: borders of what is read at once and of threads' shares, kinds of files, and errors.

use super::super::{Encoding, LabelId, PatternsBuilder, SecretKind};
use super::*;

const SECRET: &str = "anna.petersen@example.com";

fn scan(folder: &Path) -> Result<ScanResult, ScanError> {
    let mut builder = PatternsBuilder::new();
    builder.add(LabelId(4), SecretKind::Text, SECRET);
    Scan { patterns: Arc::new(builder.build()), threads: 3 }.run(folder, &|file| file.ends_with("16400"))
}

/// Places where something ends: pages, pieces and shares.
fn borders() -> [u64; 4] {
    [8192, PIECE, 3 * PIECE, 128 << 20]
}

#[test]
fn what_lies_across_any_border_is_found_once() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("base/5")).expect("made");
    let mut wanted = Vec::new();
    for name in ["notes", "base/5/16384"] {
        use std::os::unix::fs::FileExt;
        let file = File::create(folder.path().join(name)).expect("made");
        file.set_len((128 << 20) + (2 << 20)).expect("grown");
        for (number, border) in borders().into_iter().enumerate() {
            let offset = border - 1 - number as u64 * 7;
            file.write_all_at(SECRET.as_bytes(), offset).expect("written");
            wanted.push((PathBuf::from(name), offset));
        }
    }
    wanted.sort();
    let result = scan(folder.path()).expect("scanned");
    let mut met: Vec<(PathBuf, u64)> = result.findings.into_iter().map(|found| (found.file, found.offset)).collect();
    met.sort();
    assert_eq!(met, wanted);
    assert_eq!((result.files, result.bytes), (2, 2 * (130 << 20)));
}

#[test]
fn short_and_empty_files_count_and_links_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("empty"), "").expect("written");
    std::fs::write(folder.path().join("short"), SECRET.to_uppercase()).expect("written");
    std::os::unix::fs::symlink("/nowhere", folder.path().join("link")).expect("linked");
    let result = scan(folder.path()).expect("scanned");
    assert_eq!((result.files, result.found), (2, 1));
    let found = Finding {
        file: "short".into(),
        offset: 0,
        label: LabelId(4),
        encoding: Encoding::CaseFolded,
        place: Place::Plain,
    };
    assert_eq!(result.findings, [found]);
    assert_eq!(result.links, [PathBuf::from("link")]);
}

#[test]
fn findings_are_listed_up_to_a_bound_and_all_counted() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("many"), SECRET.repeat(5000)).expect("written");
    let result = scan(folder.path()).expect("scanned");
    assert_eq!((result.found, result.findings.len()), (5000, 1000));
    assert!(!format!("{result:?}").contains(SECRET));
}

#[test]
fn a_heap_s_garbage_is_a_fault() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("base/5")).expect("made");
    std::fs::write(folder.path().join("base/5/16400"), [7; PAGE]).expect("written");
    std::fs::write(folder.path().join("base/5/16401"), [7; PAGE]).expect("written");
    let result = scan(folder.path()).expect("scanned");
    let faults = HeapFaults { unreadable_pages: 1, ..HeapFaults::default() };
    assert_eq!(result.heap.into_iter().collect::<Vec<_>>(), [("base/5/16400".into(), faults)]);
}

#[test]
fn what_cannot_be_read_is_an_error() {
    let error = scan(Path::new("/nowhere")).expect_err("nothing is there");
    assert!(matches!(error, ScanError::Read { .. }), "{error}");
    let file = DataFile { relative: "short".into(), path: "/proc/self/status".into(), bytes: 1 };
    assert!(matches!(Reader::open(&file, 0, 1), Err(ScanError::Changed { .. })));
}

/// Question: how fast is a whole scan of pages, their compressed values and chunks looked for too. Unit: GB/s of one thread, from the
/// page cache. Baseline: the plain search's, beside. `SCAN_FOLDER=<a data directory> cargo test --release -- --ignored speed_of_a_folder --nocapture`
#[test]
#[ignore = "a measurement, in release only"]
fn speed_of_a_folder() {
    let folder = std::env::var("SCAN_FOLDER").expect("SCAN_FOLDER names a data directory");
    for _ in 0..3 {
        let mut builder = PatternsBuilder::new();
        for i in 0..1280u64 {
            let (kind, value) = match i % 5 {
                0 => (SecretKind::Text, format!("person.{:x}@example.com", i * 7919)),
                1 => (SecretKind::Text, format!("Anna{i} Petersen{}", i * 31)),
                2 => (SecretKind::Text, format!("+49 30 {}", 10_000_000 + i * 7919)),
                3 => (SecretKind::Integer(8), (4_000_000_000_000_000 + i * 104_729).to_string()),
                _ => (SecretKind::Integer(4), (1_000_000_000 + i * 7919).to_string()),
            };
            builder.add(LabelId(i as u32), kind, &value);
        }
        let scan = Scan { patterns: Arc::new(builder.build()), threads: 1 };
        let started = std::time::Instant::now();
        let result = scan.run(Path::new(&folder), &|_| true).expect("scanned");
        let seconds = started.elapsed().as_secs_f64();
        let unpacked = result.decompressed_bytes >> 20;
        println!("{:.2} GB/s, {} files, {unpacked} MiB unpacked", result.bytes as f64 / 1e9 / seconds, result.files);
    }
}
