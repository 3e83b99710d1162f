//! The folder beside a compute's mount: its socket, the configuration generated for it, and its log.
//!
//! Made anew for each start, by a daemon that may be root, for a server that is not and whose superusers can write to it.
//! So whatever an earlier server left is removed, everything is written before the folder is handed over, and the log is
//! read back through the descriptor it was made with: no path inside it is ever followed by the daemon.

use super::Identity;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

/// The server's socket, whose name follows from the port (`UNIXSOCK_PATH` of pqcomm.h).
pub(super) const SOCKET: &str = ".s.PGSQL.5432";
/// Only who may enter the folder reaches the socket, and it has authenticated its client already.
const HBA: &str = "local all all trust\n";
/// How much of the log's end an error shows, in bytes.
const TAIL: u64 = 2048;

/// What the server prints.
#[derive(Debug)]
pub(super) struct ServerLog(File);

/// Makes `run_dir` with `config` in it, and gives it to `identity`. Blocks.
pub(super) fn prepare(run_dir: &Path, config: &str, identity: Identity) -> io::Result<ServerLog> {
    match std::fs::remove_dir_all(run_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(run_dir)?;
    let create = |name: &str, content: &str| -> io::Result<File> {
        let mut file =
            OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(run_dir.join(name))?;
        file.write_all(content.as_bytes())?;
        std::os::unix::fs::fchown(&file, Some(identity.uid), Some(identity.gid))?;
        Ok(file)
    };
    create("postgresql.conf", config)?;
    create("pg_hba.conf", HBA)?;
    create("pg_ident.conf", "")?;
    let log = create("postgres.log", "")?;
    std::os::unix::fs::chown(run_dir, Some(identity.uid), Some(identity.gid))?;
    Ok(ServerLog(log))
}

impl ServerLog {
    /// A descriptor for the server to write to.
    pub(super) fn writer(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// The last whole lines. Blocks for as long as a read from a local file takes.
    pub(super) fn tail(&self) -> String {
        let length = self.0.metadata().map_or(0, |metadata| metadata.len());
        let start = length.saturating_sub(TAIL);
        let mut bytes = vec![0; (length - start) as usize];
        if self.0.read_exact_at(&mut bytes, start).is_err() {
            return String::new();
        }
        let text = String::from_utf8_lossy(&bytes);
        match text.split_once('\n') {
            Some((_, whole)) if start > 0 => whole.trim_end().to_owned(),
            _ => text.trim_end().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::ComputeSettings;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_link_left_by_an_earlier_server_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let run_dir = dir.path().join("run");
        std::fs::create_dir(&run_dir).unwrap();
        std::os::unix::fs::symlink(&victim, run_dir.join("postgres.log")).unwrap();

        let log = prepare(&run_dir, "a = 'b'\n", Identity::resolve(&ComputeSettings::default()).unwrap()).unwrap();
        log.writer().unwrap().write_all(b"hello\n").unwrap();
        assert_eq!(log.tail(), "hello");
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert_eq!(std::fs::metadata(&run_dir).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_tail_begins_at_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::resolve(&ComputeSettings::default()).unwrap();
        let log = prepare(&dir.path().join("run"), "", identity).unwrap();
        let line = "x".repeat(99);
        for _ in 0..100 {
            writeln!(log.writer().unwrap(), "{line}").unwrap();
        }
        assert!(log.tail().lines().all(|read| read == line));
        assert_eq!(log.tail().lines().count(), 20);
    }
}
