//! Postgres's configuration files: read for the settings a base brings along, written for the compute.
//!
//! The grammar is that of `guc-file.l`: `name = value`, `=` optional, `#` comments, values bare or in single quotes with
//! `''` and backslash escapes. Includes are followed inside the data directory only: a path outside it would name a file
//! of the source's machine, and on this one something else.

use super::data_files::DataFiles;
use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

/// How deep includes may nest (`CONF_FILE_MAX_DEPTH` of conffiles.h).
const INCLUDE_DEPTH: usize = 10;

/// Settings by name, in lower case.
pub(super) type Settings = BTreeMap<String, String>;

/// The settings of the data directory's file `name` and of what it includes; empty when there is no such file. An include may name
/// its file from the root down to `data_dir`. Blocks.
pub(super) fn read(files: &DataFiles, data_dir: &Path, name: &str) -> io::Result<Settings> {
    let mut settings = Settings::new();
    read_into(&mut settings, (files, data_dir), &data_dir.join(name), 0)?;
    Ok(settings)
}

/// The text of a configuration file with these settings.
pub(super) fn render(settings: &Settings) -> String {
    let mut text =
        String::from("# Written at each start: the settings of the source. The server's arguments override them.\n");
    for (name, value) in settings {
        text.push_str(name);
        text.push_str(" = '");
        for c in value.chars() {
            match c {
                '\'' => text.push_str("''"),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                c => text.push(c),
            }
        }
        text.push_str("'\n");
    }
    text
}

fn read_into(
    settings: &mut Settings,
    (files, data_dir): (&DataFiles, &Path),
    file: &Path,
    depth: usize,
) -> io::Result<()> {
    let inside = |path: &Path| path.strip_prefix(data_dir).unwrap_or(path).to_owned();
    let bytes = match files.read(&inside(file)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    for (name, value) in String::from_utf8_lossy(&bytes).lines().filter_map(parse_line) {
        let include = matches!(name.as_str(), "include" | "include_if_exists" | "include_dir");
        if !include {
            settings.insert(name, value);
            continue;
        }
        let target = file.parent().unwrap_or(data_dir).join(&value);
        if depth == INCLUDE_DEPTH || !is_below(&target, data_dir) {
            tracing::warn!(file = %file.display(), include = value, "skipping an include that leads out of the data directory");
            continue;
        }
        let included = match name.as_str() {
            "include_dir" => config_files_in(files.names(&inside(&target))?, &target),
            _ => vec![target],
        };
        for file in included {
            read_into(settings, (files, data_dir), &file, depth + 1)?;
        }
    }
    Ok(())
}

/// Whether `path` is inside `dir` without leaving it on the way.
fn is_below(path: &Path, dir: &Path) -> bool {
    path.strip_prefix(dir)
        .is_ok_and(|rest| rest.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)))
}

/// What `include_dir` reads: `*.conf`, no hidden files, in the order of their names.
fn config_files_in(mut names: Vec<String>, dir: &Path) -> Vec<PathBuf> {
    names.retain(|name| name.ends_with(".conf") && !name.starts_with('.'));
    names.sort();
    names.into_iter().map(|name| dir.join(name)).collect()
}

/// Name and value of one line, or `None` for a blank, a comment or what Postgres itself would refuse.
pub(super) fn parse_line(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let name_end = line.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '$'))).unwrap_or(line.len());
    let (name, rest) = line.split_at(name_end);
    if name.is_empty() {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => unquote(quoted)?,
        None => rest.split(|c: char| c.is_whitespace() || c == '#').next()?.to_owned(),
    };
    Some((name.to_lowercase(), value))
}

/// The value whose opening quote has been read (`DeescapeQuotedString` of guc-file.l).
fn unquote(text: &str) -> Option<String> {
    let mut value = String::new();
    let mut chars = text.chars().peekable();
    loop {
        match chars.next()? {
            '\'' if chars.peek() == Some(&'\'') => value.extend(chars.next()),
            '\'' => return Some(value),
            '\\' => match chars.next()? {
                'b' => value.push('\u{8}'),
                'f' => value.push('\u{c}'),
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                digit @ '0'..='7' => {
                    let mut code = digit as u32 - '0' as u32;
                    for _ in 0..2 {
                        let Some(next) = chars.next_if(|c| ('0'..='7').contains(c)) else { break };
                        code = code * 8 + (next as u32 - '0' as u32);
                    }
                    value.extend(char::from_u32(code));
                }
                other => value.push(other),
            },
            c => value.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_postgres_reads_them() {
        let parsed = |line| parse_line(line).map(|(_, value)| value);
        assert_eq!(parse_line("Work_Mem = 4MB # comment"), Some(("work_mem".to_owned(), "4MB".to_owned())));
        assert_eq!(parsed("search_path '\"$user\", public'").as_deref(), Some("\"$user\", public"));
        assert_eq!(parsed("x.y='it''s \\'so\\' \\101'").as_deref(), Some("it's 'so' A"));
        assert_eq!(parsed("port=5433#c").as_deref(), Some("5433"));
        assert_eq!(parsed("# port = 1"), None);
        assert_eq!(parsed("broken = 'no end"), None);
    }

    #[test]
    fn what_is_written_reads_back() {
        let settings =
            Settings::from([("a.b".to_owned(), "it's\na \\ line".to_owned()), ("c".to_owned(), String::new())]);
        let read: Settings = render(&settings).lines().filter_map(parse_line).collect();
        assert_eq!(read, settings);
    }

    #[test]
    fn includes_are_followed_inside_the_data_directory_and_missing_ones_skipped() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        std::fs::write(dir.path().join("conf.d/1.conf"), "work_mem = 8MB\ninclude '2.inc'\n").unwrap();
        std::fs::write(dir.path().join("conf.d/2.inc"), "jit = off\n").unwrap();
        let main = "work_mem = 1MB\ninclude_dir 'conf.d'\ninclude 'gone.conf'\ninclude_dir = 'gone.d'\n\
                    include '/etc/hostname'\ninclude '../x'\nwal_level = logical\n";
        std::fs::write(dir.path().join("postgresql.conf"), main).unwrap();
        let settings = read(&DataFiles::Folder(dir.path().to_owned()), dir.path(), "postgresql.conf").unwrap();
        let expected = [("jit", "off"), ("wal_level", "logical"), ("work_mem", "8MB")];
        assert_eq!(settings, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert_eq!(read(&DataFiles::Folder(dir.path().to_owned()), dir.path(), "none.conf").unwrap(), Settings::new());
    }
}
