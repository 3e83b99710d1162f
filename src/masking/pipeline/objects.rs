//! What is in a database beside rows and schema: sequences' values, large objects, materialized views.

use super::record::Record;
use super::rows::objection;
use crate::masking::MaskingError;
use crate::masking::catalog::{field, literal, objects, quote, quoted};
use crate::masking::plan::DatabasePlan;
use crate::masking::rules::Kept;
use crate::sources::Connection;
use serde::Deserialize;

/// Bytes of a large object that are read at once: whole pages of it (`LOBLKSIZE`, 2 KiB).
const LARGE_OBJECT_PIECE: u64 = 1 << 20;
/// As it is recorded.
const STEP: &str = "large objects";

/// Gives every sequence its value; one whose column is permuted goes on after the permutation's range, so that no new row meets an old one.
pub(super) async fn set_sequences(plan: &DatabasePlan, fresh: &mut Connection) -> Result<(), MaskingError> {
    for sequence in &plan.catalog.sequences {
        let (value, is_called) = match plan.permuted_to(sequence) {
            Some(maximum) => (sequence.state.last_value.max(maximum), true),
            None => (sequence.state.last_value, sequence.state.is_called),
        };
        let name = literal(&quoted(&sequence.schema, &sequence.name));
        let from = quoted(&sequence.schema, &sequence.name);
        // Columns under `default` have used it.
        let used = fresh.query(&format!("SELECT last_value FROM {from} WHERE is_called")).await?;
        let used: Option<i64> = field(used.first(), 0).parse().ok();
        let (value, is_called) = match used.filter(|used| *used > value) {
            Some(used) => (used, true),
            None => (value, is_called),
        };
        fresh.query(&format!("SELECT setval({name}, {value}, {is_called})")).await?;
    }
    Ok(())
}

/// Fills the materialized views that were filled, each after those it reads from.
pub(super) async fn refresh_views(plan: &DatabasePlan, fresh: &mut Connection) -> Result<(), MaskingError> {
    for view in plan.catalog.materialized_views.iter().filter(|view| view.is_populated) {
        let statement = format!("REFRESH MATERIALIZED VIEW {}", quoted(&view.schema, &view.name));
        fresh.try_query(&statement).await?.map_err(|message| MaskingError::Refused {
            database: plan.catalog.name.clone(),
            table: format!("{}.{}", view.schema, view.name),
            objection: objection(&message),
        })?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct LargeObject {
    oid: u32,
    owner: String,
    comment: Option<String>,
    grants: Vec<Grant>,
}

#[derive(Deserialize)]
struct Grant {
    /// Empty for PUBLIC.
    role: Option<String>,
    privilege: String,
    grantable: bool,
}

const LARGE_OBJECTS: &str = "
    SELECT json_build_object('oid', m.oid::bigint, 'owner', pg_get_userbyid(m.lomowner),
        'comment', obj_description(m.oid, 'pg_largeobject'),
        'grants', (SELECT coalesce(json_agg(json_build_object('role', r.rolname, 'privilege', a.privilege_type,
                'grantable', a.is_grantable)), '[]')
            FROM aclexplode(m.lomacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee))
    FROM pg_largeobject_metadata m ORDER BY m.oid";

/// Copies all large objects of a database as they are, with owners, grants and, where those are kept, comments. Once.
pub(super) async fn copy_large_objects(
    (database, record): (&str, &Record),
    source: &mut Connection,
    fresh: &mut Connection,
    comments: Kept,
) -> Result<(), MaskingError> {
    if record.has(database, STEP, fresh).await? {
        return Ok(());
    }
    fresh.query("BEGIN").await?;
    for object in objects::<LargeObject>(source, LARGE_OBJECTS).await? {
        let oid = object.oid;
        fresh.query(&format!("SELECT lo_create({oid})")).await?;
        copy_content(source, fresh, oid).await?;
        fresh.query(&format!("ALTER LARGE OBJECT {oid} OWNER TO {}", quote(&object.owner))).await?;
        for grant in &object.grants {
            let role = grant.role.as_deref().map_or("PUBLIC".to_owned(), quote);
            let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
            fresh.query(&format!("GRANT {} ON LARGE OBJECT {oid} TO {role}{option}", grant.privilege)).await?;
        }
        if let Some(comment) = object.comment.as_ref().filter(|_| comments == Kept::Keep) {
            fresh.query(&format!("COMMENT ON LARGE OBJECT {oid} IS {}", literal(comment))).await?;
        }
    }
    record.commit(database, STEP, fresh).await
}

async fn copy_content(source: &mut Connection, fresh: &mut Connection, oid: u32) -> Result<(), MaskingError> {
    for piece in 0.. {
        let from = piece * LARGE_OBJECT_PIECE;
        let read = format!("SELECT encode(lo_get({oid}, {from}, {LARGE_OBJECT_PIECE}), 'hex')");
        let content = field(source.query(&read).await?.first(), 0);
        if !content.is_empty() {
            fresh.query(&format!("SELECT lo_put({oid}, {from}, decode('{content}', 'hex'))")).await?;
        }
        if content.len() < 2 * LARGE_OBJECT_PIECE as usize {
            break;
        }
    }
    Ok(())
}
