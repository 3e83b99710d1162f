//! What of a data directory comes along.
//!
//! Left out is what a server rebuilds at each start, what a server's own base backup leaves out (`excludeDirContents` and
//! `excludeFiles` of basebackup.c), and what belongs to the source's role or machine: replication slots, the signal files that would make
//! a branch a standby, its server logs, its TLS key. Folders themselves are kept: a server does not make them.

/// Folders whose contents stay behind.
const EMPTIED: [&str; 12] = [
    "log",
    "pg_dynshmem",
    "pg_log",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_wal/archive_status",
    "pg_wal/summaries",
];

/// Files of the data directory itself that stay behind.
const LEFT_OUT: [&str; 10] = [
    "backup_manifest",
    "current_logfiles",
    "postgresql.auto.conf.tmp",
    "postmaster.opts",
    "postmaster.pid",
    "recovery.done",
    "recovery.signal",
    "server.key",
    "standby.signal",
    "tablespace_map",
];

/// Whether `path`, relative to the data directory, comes along.
pub(super) fn comes_along(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let emptied = EMPTIED
        .iter()
        .any(|emptied| folder == *emptied || folder.strip_prefix(emptied).is_some_and(|rest| rest.starts_with('/')));
    let rebuilt = name.starts_with("pg_internal.init") || path.split('/').any(|part| part.starts_with("pgsql_tmp"));
    !(emptied || rebuilt || LEFT_OUT.contains(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_source_alone_stays_behind() {
        for path in [
            "postmaster.pid",
            "standby.signal",
            "server.key",
            "pg_replslot/slot/state",
            "pg_wal/archive_status/000000010000000000000001.done",
            "base/5/pg_internal.init",
            "base/5/pg_internal.init.42",
            "base/pgsql_tmp/pgsql_tmp42.0",
            "log/postgresql-Mon.log",
        ] {
            assert!(!comes_along(path), "{path}");
        }
        for path in [
            "pg_replslot",
            "log",
            "pg_wal/000000010000000000000001",
            "backup_label",
            "base/5/2619",
            "base/log/x",
            "PG_VERSION",
        ] {
            assert!(comes_along(path), "{path}");
        }
    }
}
