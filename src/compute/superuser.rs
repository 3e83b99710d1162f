//! The name of a cluster's bootstrap superuser, found out without knowing the name of any role.

use super::launch::{Launch, Prepared, spawn};
use super::{ComputeError, advice};
use std::process::{Output, Stdio};
use tokio::io::AsyncWriteExt;

/// A single-user session runs as the bootstrap superuser, in any database, template1 being the one that every cluster has. Hexadecimal, so
/// that no name can be mistaken for something else in what it prints.
const QUERY: &str = "SELECT encode(convert_to(rolname, 'UTF8'), 'hex') AS superuser FROM pg_authid WHERE oid = 10\n";

/// The name of the role with OID 10, which `initdb` made and which cannot be dropped, but renamed.
///
/// Runs `postgres --single` on a cluster that nothing else uses: performs recovery if need be, and leaves the cluster
/// shut down cleanly. `launch.pid_file` is not used. When cancelled, it kills what it began.
pub async fn bootstrap_superuser(launch: Launch<'_>) -> Result<String, ComputeError> {
    let prepared = Prepared::new(&launch).await?;
    let mut command = prepared.command(&launch, &["--single", "-D"], &["template1"])?;
    let mut child = spawn(&launch, command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let mut stdin = child.stdin.take().expect("stdin was asked for");
    let session = async {
        // A server that has ended already says why in its log.
        let _ = stdin.write_all(QUERY.as_bytes()).await;
        drop(stdin);
        child.wait_with_output().await
    };
    let limit = launch.settings.start_timeout;
    let output = tokio::time::timeout(limit, session)
        .await
        .map_err(|_| ComputeError::Timeout { limit, log: prepared.log.tail() })?
        .map_err(|source| ComputeError::Spawn { path: launch.installation.postgres(), source })?;
    name_in(output, prepared.log.tail())
}

fn name_in(output: Output, log: String) -> Result<String, ComputeError> {
    if !output.status.success() {
        return Err(ComputeError::Start { exit: output.status.to_string(), advice: advice::for_log(&log), log });
    }
    let printed = String::from_utf8_lossy(&output.stdout);
    parse(&printed).ok_or_else(|| ComputeError::BootstrapSuperuser { output: format!("{printed}\n{log}") })
}

/// Finds `1: superuser = "706f7374…"` (`printatt` of printtup.c).
fn parse(printed: &str) -> Option<String> {
    let (_, rest) = printed.split_once("superuser = \"")?;
    let (hexadecimal, _) = rest.split_once('"')?;
    let bytes: Option<Vec<u8>> = hexadecimal
        .as_bytes()
        .chunks(2)
        .map(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())
        .collect();
    String::from_utf8(bytes?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_read_from_what_a_single_user_session_prints() {
        let printed = "\nPostgreSQL stand-alone backend 15.18\nbackend> \t 1: superuser\t(typeid = 25, len = -1, typmod = -1, byval = f)\n\
                       \t----\n\t 1: superuser = \"612022c3a4\"\t(typeid = 25, len = -1, typmod = -1, byval = f)\n\t----\nbackend> ";
        assert_eq!(parse(printed).as_deref(), Some("a \"ä"));
        assert_eq!(parse("backend> "), None);
    }
}
