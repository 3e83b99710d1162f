//! Which files of a data directory a statement makes grow: what a quota may refuse without harm to anything but that statement.
//!
//! Relations and temporary files below `base` and `pg_tblspc`. Everything else (`pg_xact`, `pg_multixact`, `global`, configuration, relation maps)
//! is written where an error costs the server rather than a statement. Free space and visibility maps (`_fsm`, `_vm`) are small, and
//! VACUUM, which makes room, extends them.

/// What may be grown less readily than the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    /// A table, an index, or what a sort spills.
    OfUser,
    /// A system catalog, under the number that initdb gave it: TRUNCATE and DROP may have to add a row version.
    OfCatalog,
}

/// Numbers below are initdb's (`FirstNormalObjectId`, transam.h).
const FIRST_NORMAL: u32 = 16384;
/// Large objects and their index: a catalog by number only (`LargeObjectRelationId`, pg_largeobject.h).
const LARGE_OBJECTS: [u32; 2] = [2613, 2683];

/// How the file at `path`, relative to the data directory, may grow; `None` for one that always may.
///
/// `<directory>/…/<number>[_init][.<segment>]`, `t<backend>_<number>…` for temporary tables (relpath.c), `…/pgsql_tmp…/…` for temporary files (fd.c).
pub(super) fn growth_of(path: &str) -> Option<Growth> {
    let mut names = path.split('/');
    if !matches!(names.next()?, "base" | "pg_tblspc") {
        return None;
    }
    let name = path.rsplit('/').next()?;
    if names.any(|name| name.starts_with("pgsql_tmp")) {
        return Some(Growth::OfUser);
    }
    let stem = name.split_once('.').map_or(name, |(stem, segment)| if is_number(segment) { stem } else { "" });
    let (is_temporary, rest) = match stem.strip_prefix('t').and_then(|rest| rest.split_once('_')) {
        Some((backend, rest)) if is_number(backend) => (true, rest),
        _ => (false, stem),
    };
    let number = match rest.split_once('_') {
        None | Some((_, "init")) => rest.split('_').next()?,
        Some(_) => return None,
    };
    if !is_number(number) {
        return None;
    }
    let by_initdb = number.parse::<u32>().is_ok_and(|n| n < FIRST_NORMAL && !LARGE_OBJECTS.contains(&n));
    Some(if by_initdb && !is_temporary { Growth::OfCatalog } else { Growth::OfUser })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_and_temporary_files_are_what_grows() {
        let of_user = [
            "base/5/16384",
            "base/5/16384.12",
            "base/5/16385_init",
            "base/5/t3_16390",
            "base/5/t3_1259",
            "base/5/2613",
            "base/pgsql_tmp/pgsql_tmp4711.0",
            "base/pgsql_tmp/pgsql_tmp4711.0.fileset/i0of1.p0.0",
            "pg_tblspc/16400/PG_15_202209061/5/16401",
            "pg_tblspc/16400/PG_15_202209061/pgsql_tmp/pgsql_tmp4711.1",
        ];
        of_user.iter().for_each(|path| assert_eq!(growth_of(path), Some(Growth::OfUser), "{path}"));
        assert_eq!(growth_of("base/5/1259"), Some(Growth::OfCatalog));
        assert_eq!(growth_of("base/1/2619.1"), Some(Growth::OfCatalog));
    }

    #[test]
    fn what_a_server_cannot_go_on_without_always_may() {
        let free = [
            "",
            "base",
            "postmaster.pid",
            "pg_xact/0000",
            "pg_multixact/members/0000",
            "pg_subtrans/0001",
            "global/1262",
            "global/pg_control",
            "pg_wal/000000010000000000000001",
            "base/5/16384_fsm",
            "base/5/16384_vm",
            "base/5/16384_vm.1",
            "base/5/t3_16384_fsm",
            "base/5/pg_filenode.map",
            "base/5/pg_filenode.map.tmp",
            "base/5/PG_VERSION",
            "base/5/pg_internal.init.4711",
            "postgresql.auto.conf",
        ];
        free.iter().for_each(|path| assert_eq!(growth_of(path), None, "{path}"));
    }
}
