//! The shape of the source, held as tests: the import order, a header on every file, files one can read in
//! one sitting, names that say what a thing is, no `unwrap` outside tests, and no test code in what is shipped.
//!
//! Each rule is a function from text to complaints, so that the bad samples at the end can show that it would notice.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each row may import only rows below it, and itself.
const ORDER: [&[&str]; 12] = [
    &["cli"],
    &["server"],
    &["admin"],
    &["proxy"],
    &["masking"],
    &["sources"],
    &["branch"],
    &["compute"],
    &["filesystem"],
    &["pageserver"],
    &["store"],
    &["model"],
];
/// Importable by all; they import only each other and `model`.
const EVERYWHERE: [&str; 2] = ["settings", "telemetry"];
/// Longest file, its tests aside.
const LINES_MAX: usize = 500;
/// Names that say nothing.
const EMPTY_NAMES: [&str; 6] = ["utils", "util", "common", "helpers", "helper", "misc"];

#[test]
fn modules_import_only_to_their_right() {
    check(|file| import_complaints(file.module, &file.text));
}

#[test]
fn every_file_says_what_it_is_for() {
    check(|file| header_complaints(&file.text));
}

#[test]
fn no_file_is_too_long_to_read() {
    check(|file| length_complaints(&file.text));
}

#[test]
fn names_say_what_a_thing_is() {
    check(|file| name_complaints(file.path, &file.text));
}

#[test]
fn nothing_unwraps_outside_tests() {
    let test_code = test_code();
    check(|file| if is_below(file.path, &test_code) { vec![] } else { unwrap_complaints(&file.text) });
}

#[test]
fn production_code_imports_no_test_code() {
    let test_code = test_code();
    let stem = |path: &PathBuf| path.file_stem().expect("a module has a name").to_string_lossy().into_owned();
    let names: BTreeSet<String> = test_code.iter().map(stem).collect();
    check(|file| if is_below(file.path, &test_code) { vec![] } else { test_import_complaints(&names, &file.text) });
}

#[test]
fn every_module_has_a_place_in_the_order() {
    let known: Vec<&str> = ORDER.iter().flat_map(|row| row.iter()).chain(&EVERYWHERE).copied().collect();
    for path in sources() {
        let module = module_of(&path);
        assert!(
            known.contains(&module.as_str()) || ["main", "lib"].contains(&module.as_str()),
            "{} is no module of the import order",
            path.display()
        );
    }
}

struct SourceFile<'a> {
    path: &'a Path,
    /// First folder or file name below `src`.
    module: &'a str,
    text: String,
}

fn check(complaints: impl Fn(&SourceFile<'_>) -> Vec<String>) {
    let mut all = Vec::new();
    for path in sources() {
        let module = module_of(&path);
        let text = fs::read_to_string(&path).expect("a source file is readable");
        for complaint in complaints(&SourceFile { path: &path, module: &module, text }) {
            all.push(format!("{}: {complaint}", path.display()));
        }
    }
    assert!(all.is_empty(), "\n{}\n", all.join("\n"));
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("tests run in the crate's folder") {
            let path = entry.expect("a folder entry is readable").path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|extension| extension == "rs") => found.push(path),
                false => {}
            }
        }
    }
    assert!(found.len() > 10, "src holds {} files: looked in the wrong place", found.len());
    found
}

/// The modules that exist under test only, as their declarations say: each as its file and as its folder.
fn test_code() -> Vec<PathBuf> {
    let declared = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a source file is readable");
        test_modules(&text).into_iter().flat_map(move |name| places_of(&path, &name)).collect::<Vec<_>>()
    };
    sources().into_iter().flat_map(declared).collect()
}

/// Where the module `name` that `file` declares may be.
fn places_of(file: &Path, name: &str) -> [PathBuf; 2] {
    let folder = match file.file_name().and_then(|name| name.to_str()) {
        Some("mod.rs" | "lib.rs" | "main.rs") => file.parent().expect("a file is in a folder").to_owned(),
        _ => file.with_extension(""),
    };
    [folder.join(format!("{name}.rs")), folder.join(name)]
}

fn is_below(path: &Path, places: &[PathBuf]) -> bool {
    places.iter().any(|place| path.starts_with(place))
}

/// What `text` declares as `#[cfg(test)] mod name;`, whatever its visibility.
fn test_modules(text: &str) -> Vec<String> {
    let code = without_comments_and_strings(text);
    let declaration = |(at, attribute): (usize, &str)| {
        let item = item_after(&code[at + attribute.len()..])?;
        let (_, name) = item.split_once("mod ").filter(|(before, _)| before.is_empty() || before.starts_with("pub"))?;
        Some(identifier(name))
    };
    code.match_indices(TEST_ATTRIBUTE).filter_map(declaration).collect()
}

const TEST_ATTRIBUTE: &str = "#[cfg(test)]";

/// The item that `rest` begins with, if it ends in a semicolon.
fn item_after(rest: &str) -> Option<&str> {
    let end = rest.find([';', '{'])?;
    rest[end..].starts_with(';').then(|| rest[..end].trim())
}

fn module_of(path: &Path) -> String {
    let below = path.strip_prefix("src").expect("a path below src");
    let first = below.components().next().expect("a file has a name").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Modules that `text` names as `crate::x`, in a path or in the groups of a `use`.
fn imports(text: &str) -> Vec<String> {
    let code = without_comments_and_strings(text);
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(first_names(group)),
            None => found.push(identifier(rest)),
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

fn identifier(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// `a::{b, c}, d};` → `a`, `d`.
fn first_names(group: &str) -> Vec<String> {
    let mut names = vec![identifier(group)];
    let mut depth = 1;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => names.push(identifier(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn import_complaints(module: &str, text: &str) -> Vec<String> {
    let row = |name: &str| ORDER.iter().position(|row| row.contains(&name));
    let allowed = |name: &str| {
        if name == module || ["main", "lib"].contains(&module) {
            return true;
        }
        if EVERYWHERE.contains(&module) {
            return name == "model" || EVERYWHERE.contains(&name);
        }
        match (row(module), row(name)) {
            (Some(from), Some(to)) => to > from,
            _ => EVERYWHERE.contains(&name),
        }
    };
    imports(text).iter().filter(|name| !allowed(name)).map(|name| format!("{module} must not import {name}")).collect()
}

fn header_complaints(text: &str) -> Vec<String> {
    let first = text.lines().next().unwrap_or_default();
    match first.strip_prefix("//!") {
        Some(header) if header.trim().len() >= 20 => vec![],
        Some(_) => vec!["its header says too little".to_owned()],
        None => vec!["it does not open with //!".to_owned()],
    }
}

fn length_complaints(text: &str) -> Vec<String> {
    let lines = without_tests(text).lines().count();
    if lines <= LINES_MAX { vec![] } else { vec![format!("{lines} lines: it wants to be two files")] }
}

fn name_complaints(path: &Path, text: &str) -> Vec<String> {
    let files = path.iter().map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned());
    let code = without_comments_and_strings(text);
    let modules = code.match_indices("mod ").map(|(at, found)| identifier(&code[at + found.len()..]));
    files
        .chain(modules)
        .filter(|name| EMPTY_NAMES.contains(&name.as_str()))
        .map(|name| format!("{name:?} says nothing: name the thing"))
        .collect()
}

fn unwrap_complaints(text: &str) -> Vec<String> {
    let code = without_comments_and_strings(without_tests(text));
    let at = |(i, line): (usize, &str)| line.contains(".unwrap()").then(|| format!("line {}: unwrap", i + 1));
    code.lines().enumerate().filter_map(at).collect()
}

/// Test modules, by `names`, that `text` imports or names in a path outside its own tests.
fn test_import_complaints(names: &BTreeSet<String>, text: &str) -> Vec<String> {
    let code = without_comments_and_strings(without_tests(text));
    let mut complaints = Vec::new();
    for statement in code.split(';').map(without_test_attributed) {
        let words: Vec<&str> = statement.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
        let imports = words.contains(&"use");
        let names_it = |name: &&String| match imports {
            true => words.contains(&name.as_str()),
            false => statement
                .match_indices(&format!("{name}::"))
                .any(|(at, _)| !statement[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_')),
        };
        complaints
            .extend(names.iter().filter(names_it).map(|name| format!("uses {name}, which exists under test only")));
    }
    complaints
}

/// `statement` without what an attribute keeps for tests: up to its semicolon, which is gone already.
fn without_test_attributed(statement: &str) -> &str {
    statement.find(TEST_ATTRIBUTE).map_or(statement, |at| &statement[..at])
}

/// `text` up to its own `#[cfg(test)] mod tests {`, which is the last thing in a file here.
fn without_tests(text: &str) -> &str {
    let begins = text.match_indices("#[cfg(test)]").find(|(at, attribute)| {
        let rest = text[at + attribute.len()..].trim_start();
        let declared =
            rest.strip_prefix("mod ").map(|rest| rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'));
        declared.is_some_and(|rest| rest.trim_start().starts_with('{'))
    });
    begins.map_or(text, |(at, _)| &text[..at])
}

/// Comments and the insides of strings and characters become spaces; lines stay where they are.
fn without_comments_and_strings(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let end = match (chars[i], chars.get(i + 1)) {
            ('/', Some('/')) => find(&chars, i, &['\n']),
            ('/', Some('*')) => block_comment_end(&chars, i),
            ('"', _) => string_end(&chars, i + 1),
            ('r', Some('"' | '#')) if !in_word(&chars, i) => raw_string_end(&chars, i).unwrap_or(i),
            ('\'', Some('\\')) => find(&chars, i + 3, &['\'']) + 1,
            ('\'', Some(_)) if chars.get(i + 2) == Some(&'\'') => i + 3,
            _ => i,
        };
        if end == i {
            out.push(chars[i]);
            i += 1;
            continue;
        }
        let end = end.min(chars.len());
        out.extend(chars[i..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        i = end;
    }
    out
}

fn in_word(chars: &[char], i: usize) -> bool {
    // `br"…"` is a string too.
    let before = |back: usize| i.checked_sub(back).map(|at| chars[at]);
    match before(1) {
        Some('b') => before(2).is_some_and(|c| c.is_alphanumeric() || c == '_'),
        Some(c) => c.is_alphanumeric() || c == '_',
        None => false,
    }
}

fn find(chars: &[char], from: usize, any: &[char]) -> usize {
    (from..chars.len()).find(|at| any.contains(&chars[*at])).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut i = start;
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    i
}

/// `None` when `r#` begins a raw identifier.
fn raw_string_end(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    let open = start + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes =
        |at: &usize| chars[*at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    let end = (open + 1..chars.len()).find(closes)?;
    Some(end + 1 + hashes)
}

mod bad_samples {
    use super::*;

    #[test]
    fn an_import_to_the_left_is_noticed_however_it_is_spelled() {
        for text in [
            "use crate::proxy::Listener;",
            "use crate::{model::Role, proxy::Listener};",
            "use crate::{\n    model::{Role, Secret},\n    proxy,\n};",
            "pub(crate) fn f(_: crate::proxy::X) {}",
            "let x = 'a'; let y: &'static str = \"// no comment\"; crate::proxy::f();",
            "let s = r#\" \" /* \"#; crate::proxy::f();",
        ] {
            assert_eq!(import_complaints("store", text), ["store must not import proxy"], "{text}");
        }
    }

    #[test]
    fn what_is_no_import_is_left_alone() {
        for text in [
            "// crate::proxy::f()",
            "/* use crate::proxy; /* nested */ crate::proxy */",
            "/// [`crate::proxy`]",
            "\"crate::proxy\"; r#\"crate::proxy\"#; b\"crate::proxy\"; br\"crate::proxy\"",
            "use other_crate::proxy::X;",
            "use crate::model::Role; use crate::settings::Settings; use crate::store::Store;",
        ] {
            assert!(import_complaints("store", text).is_empty(), "{text}");
        }
    }

    #[test]
    fn neighbours_and_plain_data_keep_to_their_own() {
        assert_eq!(import_complaints("sources", "use crate::masking::X;").len(), 1);
        assert_eq!(import_complaints("settings", "use crate::store::Store;").len(), 1);
        assert!(import_complaints("telemetry", "use crate::settings::Settings;").is_empty());
        assert!(import_complaints("cli", "use crate::model::Role; use crate::proxy::X;").is_empty());
        assert_eq!(import_complaints("model", "use crate::stranger::X;").len(), 1);
    }

    #[test]
    fn a_missing_or_empty_header_is_noticed() {
        assert_eq!(header_complaints("use std::fs;\n").len(), 1);
        assert_eq!(header_complaints("//! store.\n").len(), 1);
        assert!(header_complaints("//! Finding, reading and checking the config file.\n").is_empty());
    }

    #[test]
    fn a_long_file_is_noticed_and_its_tests_do_not_count() {
        let long = "x();\n".repeat(LINES_MAX + 1);
        assert_eq!(length_complaints(&long).len(), 1);
        assert!(length_complaints(&format!("x();\n#[cfg(test)]\nmod tests {{\n{long}}}\n")).is_empty());
        assert_eq!(length_complaints(&format!("#[cfg(test)]\nmod tests;\n{long}")).len(), 1);
    }

    #[test]
    fn an_empty_name_is_noticed() {
        assert_eq!(name_complaints(Path::new("src/store/utils.rs"), "").len(), 1);
        assert_eq!(name_complaints(Path::new("src/store/mod.rs"), "mod helpers { }").len(), 1);
        assert!(name_complaints(Path::new("src/store/catalog.rs"), "mod document; // mod utils").is_empty());
    }

    #[test]
    fn an_unwrap_is_noticed_outside_tests_only() {
        assert_eq!(unwrap_complaints("fn f() {\n x.unwrap();\n}"), ["line 2: unwrap"]);
        assert!(unwrap_complaints("// x.unwrap()\n#[cfg(test)]\nmod tests {\n fn f() { x.unwrap(); }\n}").is_empty());
        assert!(unwrap_complaints("x.unwrap_or(1); x.unwrap_or_else(f);").is_empty());
    }

    #[test]
    fn test_code_is_what_is_declared_so() {
        let declared = "mod shipped;\n#[cfg(test)]\npub(crate) mod fixture;\n#[cfg(test)]\nmod tests;\nmod after;";
        assert_eq!(test_modules(declared), ["fixture", "tests"]);
        assert!(test_modules("#[cfg(test)]\nmod tests { mod inner; }\n#[cfg(test)]\nuse crate::x::mod_;").is_empty());
        assert!(test_modules("// #[cfg(test)]\nmod shipped;").is_empty());
        let below = |path: &str, file: &str, name: &str| is_below(Path::new(path), &places_of(Path::new(file), name));
        assert!(below("src/proxy/tests/login.rs", "src/proxy/mod.rs", "tests"));
        assert!(below("src/proxy/fixture.rs", "src/proxy/mod.rs", "fixture"));
        assert!(below("src/proxy/relay/tests.rs", "src/proxy/relay.rs", "tests"));
        assert!(!below("src/proxy/testsuite.rs", "src/proxy/mod.rs", "tests"));
        assert!(!below("src/compute/fixture.rs", "src/proxy/mod.rs", "fixture"));
    }

    #[test]
    fn test_code_in_production_code_is_noticed() {
        let names = BTreeSet::from(["fixture".to_owned()]);
        for text in [
            "use crate::compute::fixture::Fixture;",
            "use crate::{compute::fixture, model::Role};",
            "mod x;\nuse super::fixture as other;",
            "fn f() { super::fixture::start(); }",
        ] {
            assert_eq!(test_import_complaints(&names, text).len(), 1, "{text}");
        }
        for text in [
            "#[cfg(test)]\nmod fixture;\nfn f() {}",
            "#[cfg(test)]\nuse super::fixture;\nfn f() {}",
            "fn f() {}\n#[cfg(test)]\nmod tests {\n use super::fixture::X;\n}",
            "let fixture = 1; my_fixture::f(); // fixture::f()",
        ] {
            assert!(test_import_complaints(&names, text).is_empty(), "{text}");
        }
    }
}
