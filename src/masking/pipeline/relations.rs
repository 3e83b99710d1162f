//! Which file belongs to which relation: for the scan, which sees files only.

use super::fresh::Fresh;
use crate::masking::MaskingError;
use crate::masking::catalog::field;
use crate::masking::plan::DatabasePlan;
use crate::sources::Connection;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

/// Relations by the first file of their main fork, relative to the data directory.
#[derive(Default)]
pub(in crate::masking) struct Relations(HashMap<PathBuf, Relation>);

pub(in crate::masking) struct Relation {
    /// `database.schema.name`.
    pub name: String,
    /// It holds rows that were copied into it, and nothing ever changed them: a table, or what it keeps its long values in.
    pub is_copied: bool,
}

/// A TOAST relation is named after its table.
const RELATIONS: &str = "
    SELECT pg_relation_filepath(c.oid), n.nspname, t.relname || CASE WHEN c.relkind = 't' THEN ' (long values)' ELSE '' END,
           c.relkind IN ('r', 't') AND t.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
           AND NOT EXISTS (SELECT FROM pg_depend m WHERE m.classid = 'pg_class'::regclass AND m.objid = t.oid AND m.deptype = 'e'),
           n.nspname || '.' || t.relname
    FROM pg_class c
    JOIN pg_class t ON t.oid = CASE WHEN c.relkind = 't' THEN (SELECT o.oid FROM pg_class o WHERE o.reltoastrelid = c.oid) ELSE c.oid END
    JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE pg_relation_filepath(c.oid) IS NOT NULL";

/// Removes files that are of no relation of `databases`: a server that was killed leaves those of tables that a transaction had just made.
pub(super) async fn remove_orphans(fresh: &Fresh, databases: &[String]) -> Result<(), MaskingError> {
    for database in databases {
        let mut connection = fresh.connect(database).await?;
        let own = connection.query("SELECT 'base/' || oid FROM pg_database WHERE datname = current_database()").await?;
        let folder = fresh.data_dir().join(field(own.first(), 0));
        let statement = "SELECT pg_relation_filepath(oid) FROM pg_class WHERE pg_relation_filepath(oid) IS NOT NULL";
        let rows = connection.query(statement).await?;
        let known: HashSet<String> = rows.iter().filter_map(|row| stem(Path::new(&field(Some(row), 0)))).collect();
        let failed = || MaskingError::io(format!("cannot look through {}", folder.display()));
        for entry in std::fs::read_dir(&folder).map_err(failed())? {
            let path = entry.map_err(failed())?.path();
            let is_relation = |stem: &String| stem.bytes().all(|byte| byte.is_ascii_digit());
            if stem(&path).filter(is_relation).is_some_and(|stem| !known.contains(&stem)) {
                std::fs::remove_file(&path).map_err(failed())?;
            }
        }
    }
    Ok(())
}

/// `16384` of `base/5/16384_vm.1`.
fn stem(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.split(['.', '_']).next()?.to_owned())
}

impl Relations {
    /// Adds those of the database that `fresh` is connected to. To be read once nothing gets a new file any more.
    pub(super) async fn add(&mut self, plan: &DatabasePlan, fresh: &mut Connection) -> Result<(), MaskingError> {
        for row in fresh.query(RELATIONS).await? {
            let name = format!("{}.{}.{}", plan.catalog.name, field(Some(&row), 1), field(Some(&row), 2));
            let is_copied = field(Some(&row), 3) == "t";
            self.0.insert(PathBuf::from(field(Some(&row), 0)), Relation { name, is_copied });
        }
        Ok(())
    }

    /// The relation that a file is of, whichever segment or fork of it (`base/5/16384.1`, `base/5/16384_vm`).
    pub(in crate::masking) fn of(&self, file: &Path) -> Option<(&Relation, bool)> {
        let relation = self.0.get(&file.with_file_name(stem(file)?))?;
        Some((relation, !file.file_name()?.to_str()?.contains('_')))
    }

    /// Whether a file is of the main fork of a relation whose rows were copied.
    pub(in crate::masking) fn is_copied(&self, file: &Path) -> bool {
        self.of(file).is_some_and(|(relation, is_main)| relation.is_copied && is_main)
    }
}
