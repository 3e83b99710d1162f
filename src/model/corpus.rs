//! The corpus of the fuzz targets (`fuzz/corpus/<format>/`), replayed as a test: samples of every format, and what fuzzing found worth keeping.

use std::fs;
use std::path::Path;

/// Set to write the samples of each format anew.
const WRITE: &str = "OFFSHOOT_WRITE_CORPUS";

/// Gives `read` every input that is kept for `format`. It must understand `samples`, which are kept as `sample-<n>`.
pub(crate) fn replay(format: &str, read: fn(&[u8]) -> bool, samples: &[Vec<u8>]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(format);
    for (number, sample) in samples.iter().enumerate() {
        assert!(read(sample), "sample {number} of {format} is not understood");
        let path = folder.join(format!("sample-{number}"));
        if std::env::var_os(WRITE).is_some() {
            fs::create_dir_all(&folder).and_then(|()| fs::write(&path, sample)).expect("the corpus can be written");
        }
        let kept = fs::read(&path).unwrap_or_default();
        assert!(read(&kept), "{} is of an older form: set {WRITE}=1, run this again, and keep both", path.display());
    }
    for entry in fs::read_dir(&folder).expect("every format has a corpus") {
        let path = entry.expect("a folder entry is readable").path();
        read(&fs::read(&path).expect("the corpus can be read"));
    }
}
