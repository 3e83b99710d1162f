//! What every start of Postgres deletes or makes anew: not worth an fsync, a page in a layer or a frame in a base.
//!
//! Sources: `RemovePgTempFiles` (fd.c), `RelationCacheInitFileRemove` (relcache.c), `CreateDataDirLockFile` (miscinit.c),
//! `excludeFiles` and `excludeDirContents` (basebackup.c).

/// Whether `name` in a directory named `directory` is transient.
pub fn is_transient(directory: &str, name: &str) -> bool {
    let whole = matches!(
        name,
        "postmaster.pid" | "postmaster.opts" | "pg_internal.init" | "backup_label.old" | "tablespace_map.old"
    );
    whole
        || name.starts_with("pg_internal.init.")
        || name.starts_with("pgsql_tmp")
        || directory.starts_with("pgsql_tmp")
        || matches!(
            directory,
            "pg_dynshmem" | "pg_notify" | "pg_serial" | "pg_snapshots" | "pg_stat_tmp" | "pg_subtrans"
        )
}
