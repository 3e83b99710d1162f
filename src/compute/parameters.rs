//! The settings a compute runs with.
//!
//! From weakest to strongest: the source's settings (those it keeps outside its data directory, then its `postgresql.conf`),
//! `postgresql.auto.conf`, our defaults, the project's `parameters`, and what a clone must have. All but the first two go onto the
//! command line, since `postgresql.auto.conf` overrides any file. The first go into a file beside the socket, so that a data
//! directory without a `postgresql.conf` (Debian keeps it in `/etc`) and one with includes that are not here start alike.

use super::config_file::{self, Settings};
use super::control_file::ControlFile;
use super::preload::{self, PRELOAD_SETTINGS};
use std::path::Path;

/// What a start depends on. Pure data: see [`compose`].
pub(super) struct Inputs<'a> {
    pub major: u32,
    pub data_dir: &'a Path,
    pub run_dir: &'a Path,
    pub library_dir: Option<&'a Path>,
    /// Of the last run; `None` when it cannot be read, and then the server will say why.
    pub control: Option<ControlFile>,
    pub source: &'a Settings,
    /// `postgresql.conf`.
    pub file: Settings,
    /// `postgresql.auto.conf`.
    pub auto: Settings,
    pub project: &'a Settings,
}

/// Settings in the form the server takes them.
#[derive(Debug)]
pub(super) struct Parameters {
    /// Content of `<run_dir>/postgresql.conf`.
    pub file: String,
    /// For `-c name=value`.
    pub arguments: Settings,
}

/// Puts the settings together. Logs what it leaves out.
pub(super) fn compose(inputs: Inputs<'_>) -> Parameters {
    let forced = forced(&inputs);
    let mut file = inputs.source.clone();
    file.extend(inputs.file);
    file.retain(|name, _| !forced.contains_key(name));

    let mut arguments = defaults(inputs.major, inputs.control.as_ref());
    for (name, value) in inputs.project {
        let name = name.to_lowercase();
        match forced.get(&name) {
            Some(needed) if needed != value => {
                tracing::warn!(parameter = name, value, needed, "ignoring a parameter that a clone cannot work with");
            }
            _ => drop(arguments.insert(name, value.clone())),
        }
    }
    arguments.extend(forced);

    for name in PRELOAD_SETTINGS {
        let Some(list) = [&arguments, &inputs.auto, &file].into_iter().find_map(|settings| settings.get(name)) else {
            continue;
        };
        let (present, absent) = preload::filter(list, inputs.library_dir);
        if !absent.is_empty() {
            tracing::warn!(
                parameter = name,
                libraries = absent.join(", "),
                "leaving out libraries that this node does not have"
            );
            arguments.insert(name.to_owned(), present);
        }
    }
    Parameters { file: config_file::render(&file), arguments }
}

/// What makes a start fast and leaves a usable server; a project may set any of them otherwise.
///
/// Start, measured with PostgreSQL 15: `shared_buffers` costs 0.5 ms at 32 MB, 2 ms at 64 and 5 ms at 128 (the kernel's page cache
/// serves the rest), 100 connections 1.5 ms, autovacuum less than 1 ms; fewer `max_files_per_process` gain nothing visible and hurt
/// schemas with many relations. Compiling queries takes hundreds of milliseconds in a process that has yet to load LLVM.
/// WAL segments are recycled, because a fresh one is written twice, but few are kept: they are the branch's own bytes.
fn defaults(major: u32, control: Option<&ControlFile>) -> Settings {
    let segment_mib = control.map_or(16, |control| control.wal_segment_size >> 20);
    let mut settings = settings(&[
        ("huge_pages", "off"),
        ("jit", "off"),
        ("max_connections", "100"),
        ("min_dynamic_shared_memory", "4MB"),
        ("shared_buffers", "32MB"),
    ]);
    settings.insert("min_wal_size".to_owned(), format!("{}MB", 2 * segment_mib));
    if let Some(control) = control.filter(|control| control.max_prepared_transactions > 0) {
        // Recovery stops when it finds more prepared transactions than may exist.
        settings.insert("max_prepared_transactions".to_owned(), control.max_prepared_transactions.to_string());
    }
    if major >= 18 {
        settings.insert("io_method".to_owned(), "sync".to_owned());
    }
    settings
}

/// What a clone must have, whatever its source or project says: it is reached through one socket only, writes to nobody
/// else's archive, follows and serves no replication, waits for no standby, and finds its files where they are here.
fn forced(inputs: &Inputs<'_>) -> Settings {
    let mut forced = settings(&[
        ("archive_cleanup_command", ""),
        ("archive_command", ""),
        ("archive_mode", "off"),
        ("dynamic_shared_memory_type", "mmap"),
        // A page reaches the delta in the kernel's 4 KiB halves, and only an fsync makes it survive a killed daemon.
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("listen_addresses", ""),
        ("log_destination", "stderr"),
        ("logging_collector", "off"),
        ("max_logical_replication_workers", "0"),
        ("max_wal_senders", "0"),
        ("port", "5432"),
        ("primary_conninfo", ""),
        ("primary_slot_name", ""),
        ("recovery_end_command", ""),
        ("recovery_init_sync_method", "syncfs"),
        ("restore_command", ""),
        ("ssl", "off"),
        ("synchronous_standby_names", ""),
        ("unix_socket_group", ""),
        ("unix_socket_permissions", "0700"),
    ]);
    if inputs.major >= 15 {
        forced.insert("archive_library".to_owned(), String::new());
    } else {
        // The statistics collector's scratch files, which later versions keep in shared memory.
        forced.insert("stats_temp_directory".to_owned(), inputs.run_dir.display().to_string());
    }
    if inputs.major >= 17 {
        forced.insert("summarize_wal".to_owned(), "off".to_owned());
        forced.insert("sync_replication_slots".to_owned(), "off".to_owned());
    }
    // One outside would be another server's; an empty name is tried, too, and complained of.
    forced.insert("external_pid_file".to_owned(), inputs.run_dir.join("postgres.pid").display().to_string());
    let quoted_dir = inputs.run_dir.display().to_string().replace('"', "\"\"");
    forced.insert("unix_socket_directories".to_owned(), format!("\"{quoted_dir}\""));
    forced.insert("data_directory".to_owned(), inputs.data_dir.display().to_string());
    for (name, file) in
        [("config_file", "postgresql.conf"), ("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")]
    {
        forced.insert(name.to_owned(), inputs.run_dir.join(file).display().to_string());
    }
    forced
}

fn settings(pairs: &[(&str, &str)]) -> Settings {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs<'a>(source: &'a Settings, project: &'a Settings) -> Inputs<'a> {
        Inputs {
            major: 15,
            data_dir: Path::new("/data"),
            run_dir: Path::new("/run/b"),
            library_dir: None,
            control: None,
            source,
            file: Settings::new(),
            auto: Settings::new(),
            project,
        }
    }

    #[test]
    fn a_project_sets_anything_but_what_a_clone_cannot_work_with() {
        let project =
            settings(&[("Shared_Buffers", "1GB"), ("archive_mode", "on"), ("work_mem", "7MB"), ("fsync", "OFF")]);
        let composed = compose(inputs(&Settings::new(), &project));
        let argument = |name: &str| composed.arguments.get(name).map(String::as_str);
        assert_eq!(argument("shared_buffers"), Some("1GB"));
        assert_eq!(argument("work_mem"), Some("7MB"));
        assert_eq!(argument("archive_mode"), Some("off"));
        assert_eq!(argument("synchronous_standby_names"), Some(""));
        assert_eq!(argument("fsync"), Some("on"));
    }

    #[test]
    fn the_sources_settings_are_weakest_and_lose_what_points_elsewhere() {
        let source = settings(&[("work_mem", "1MB"), ("datestyle", "ISO, DMY"), ("ssl", "on"), ("hba_file", "/etc/x")]);
        let project = Settings::new();
        let composed = compose(Inputs { file: settings(&[("work_mem", "2MB")]), ..inputs(&source, &project) });
        let written: Vec<&str> = composed.file.lines().skip(1).collect();
        assert_eq!(written, ["datestyle = 'ISO, DMY'", "work_mem = '2MB'"]);
    }

    #[test]
    fn missing_preload_libraries_are_overridden_wherever_they_are_named() {
        let source = settings(&[("session_preload_libraries", "gone")]);
        let project = settings(&[("local_preload_libraries", "gone")]);
        let auto = settings(&[("shared_preload_libraries", "gone, also_gone")]);
        let composed = compose(Inputs { auto, ..inputs(&source, &project) });
        for name in PRELOAD_SETTINGS {
            assert_eq!(composed.arguments[name], "", "{name}");
        }
    }

    #[test]
    fn what_a_version_does_not_know_is_not_passed() {
        let empty = Settings::new();
        let of = |major| compose(Inputs { major, ..inputs(&empty, &empty) }).arguments;
        assert!(of(14).contains_key("stats_temp_directory") && !of(14).contains_key("archive_library"));
        assert!(of(17).contains_key("summarize_wal") && !of(17).contains_key("io_method"));
        assert!(of(18).contains_key("io_method") && !of(18).contains_key("stats_temp_directory"));
    }
}
