//! Which file belongs to which relation: for the scan, which sees files only.

use crate::masking::MaskingError;
use crate::masking::catalog::field;
use crate::masking::plan::DatabasePlan;
use crate::sources::Connection;
use std::collections::HashMap;
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
        let name = file.file_name()?.to_str()?;
        let stem = name.split(['.', '_']).next()?;
        let relation = self.0.get(&file.with_file_name(stem))?;
        Some((relation, !name.contains('_')))
    }

    /// Whether a file is of the main fork of a relation whose rows were copied.
    pub(in crate::masking) fn is_copied(&self, file: &Path) -> bool {
        self.of(file).is_some_and(|(relation, is_main)| relation.is_copied && is_main)
    }
}
