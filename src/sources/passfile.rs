//! The password for a source: given with it, `PGPASSWORD`, or libpq's password file (Postgres manual, "The Password File").

use super::conninfo::{Endpoint, Server};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tokio_postgres::config::Host;

/// The password for `user` at `endpoint`, if there is one.
pub(super) fn password(server: &Server, endpoint: &Endpoint, user: &str, database: &str) -> Option<Vec<u8>> {
    let given = server.config.get_password().map(<[u8]>::to_vec);
    given.or_else(|| std::env::var("PGPASSWORD").ok().map(String::into_bytes)).or_else(|| {
        let text = read_file()?;
        let host = match &endpoint.host {
            Host::Tcp(host) => host.clone(),
            Host::Unix(folder) if folder.as_os_str() == "/var/run/postgresql" => "localhost".to_owned(),
            Host::Unix(folder) => folder.display().to_string(),
        };
        find(&text, [&host, &endpoint.port.to_string(), database, user]).map(String::into_bytes)
    })
}

/// `PGPASSFILE` or `~/.pgpass`, unless others may read it.
fn read_file() -> Option<String> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pgpass"));
    let path = std::env::var_os("PGPASSFILE").map(PathBuf::from).or_else(home)?;
    let mode = std::fs::metadata(&path).ok()?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "ignoring a password file that others may read; set its mode to 0600");
        return None;
    }
    std::fs::read_to_string(path).ok()
}

/// The password of the first line whose four fields match.
fn find(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for want in wanted {
            let (field, after) = next_field(rest)?;
            if field != "*" && unescape(field) != want {
                return None;
            }
            rest = after;
        }
        Some(unescape(next_field(rest).map_or(rest, |(password, _)| password)))
    })
}

/// Splits at the first colon that is not escaped.
fn next_field(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b':' if !escaped => return Some((&text[..at], &text[at + 1..])),
            _ => escaped = byte == b'\\' && !escaped,
        }
    }
    None
}

fn unescape(field: &str) -> String {
    let mut chars = field.chars();
    let mut text = String::new();
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_matching_line_counts() {
        let text = "# comment\nother:*:*:*:no\ndb:5432:replication:me:a\\:b\\\\c\n*:*:*:*:rest\n";
        assert_eq!(find(text, ["db", "5432", "replication", "me"]).as_deref(), Some("a:b\\c"));
        assert_eq!(find(text, ["db", "5433", "replication", "me"]).as_deref(), Some("rest"));
        assert_eq!(find("db:1:x:y:z", ["db", "1", "x", "you"]), None);
    }
}
