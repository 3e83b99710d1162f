//! Preload libraries: a server does not start, or a session does not open, when one that its settings name is missing.
//! Those that this node lacks are left out.

use std::path::{Path, PathBuf};

/// The settings that name libraries to load.
pub(super) const PRELOAD_SETTINGS: [&str; 3] =
    ["shared_preload_libraries", "session_preload_libraries", "local_preload_libraries"];

/// The libraries of `list` that can be loaded, as a list again, and those that cannot. `$libdir` is `library_dir`.
pub(super) fn filter(list: &str, library_dir: Option<&Path>) -> (String, Vec<String>) {
    let (present, absent): (Vec<String>, Vec<String>) =
        split(list).into_iter().partition(|name| is_present(name, library_dir));
    let quoted: Vec<String> = present.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    (quoted.join(","), absent)
}

/// The names in a list (`SplitDirectoriesString` of varlena.c): separated by commas, in double quotes if need be.
fn split(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut name = String::new();
    let mut quoted = false;
    for c in list.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => names.push(std::mem::take(&mut name)),
            c => name.push(c),
        }
    }
    names.push(name);
    names.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

fn is_present(name: &str, library_dir: Option<&Path>) -> bool {
    let path = match (name.strip_prefix("$libdir/"), library_dir) {
        (Some(below), Some(dir)) => dir.join(below),
        (None, _) if name.contains('/') => PathBuf::from(name),
        (None, Some(dir)) => dir.join(name),
        (_, None) => return false,
    };
    path.is_file() || PathBuf::from(format!("{}.so", path.display())).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_libraries_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("auto_explain.so"), "").unwrap();
        let list = "auto_explain, \"$libdir/auto_explain\",timescaledb,/nowhere/x.so,";
        let (present, absent) = filter(list, Some(dir.path()));
        assert_eq!(present, "\"auto_explain\",\"$libdir/auto_explain\"");
        assert_eq!(absent, ["timescaledb", "/nowhere/x.so"]);
        assert_eq!(filter("auto_explain", None).1, ["auto_explain"]);
    }
}
