//! What comes after the rows, until the cluster is as it is to be.
//!
//! An import that goes on comes by here again, wherever the former one was cut off:
//!
//! ```text
//! large objects, expressions          those that are not done: their transactions are noted ([`Record::commit`])
//! keys, indexes, triggers             those that are missing ([`Schema::restore_missing`])
//! sequences, views, freezing, roles   again, with the same outcome
//! settings                            again: they were taken back, for they act on every session ([`Globals::unmake_settings`])
//! ```
//!
//! [`Globals::unmake_settings`]: super::globals::Globals::unmake_settings

use super::record::Record;
use super::relations::Relations;
use super::schema::Schema;
use super::{CopiedDatabase, Filled, Filling, Snapshot, coincidences, expressions, objects, rejoin};
use crate::masking::MaskingError;
use crate::masking::rules::LargeObjects;
use crate::masking::value::Keys;
use crate::model::fault::{self, FaultPoint};
use std::collections::BTreeMap;

/// A database that has its rows, how many each table has, and its schema.
type Loaded = ((Snapshot, BTreeMap<String, u64>), Schema);

impl Filling<'_> {
    pub(super) async fn finish(
        &self,
        loaded: Vec<Loaded>,
        keys: &mut Keys,
        record: &Record,
    ) -> Result<Filled, MaskingError> {
        let Filling { copy, fresh, globals, .. } = self;
        let is_masked = copy.key.is_some();
        keys.samples.iter().for_each(|(_, sample)| sample.freeze());
        let (sampled, mut coincidences) = coincidences::sampled(keys);
        let (mut databases, mut relations, mut joined_rows) = (Vec::new(), Relations::default(), 0);
        let mut template = fresh.connect("template1").await?;
        for ((mut snapshot, rows), schema) in loaded {
            let plan = &snapshot.plan;
            let database = &plan.catalog.name;
            copy.progress.wait_for(&format!("building keys and indexes of {database}"));
            let mut connection = fresh.connect(database).await?;
            if copy.rules.large_objects == LargeObjects::Keep && plan.catalog.large_objects > 0 {
                let of = (database.as_str(), record);
                objects::copy_large_objects(of, &mut snapshot.session, &mut connection, copy.rules.comments).await?;
            }
            objects::set_sequences(plan, &mut connection).await?;
            expressions::compute(plan, record, &mut connection).await?;
            match record.goes_on() {
                true => schema.restore_missing(fresh, copy.streams, &globals.role_names()).await?,
                false => schema.restore_after(fresh, copy.streams).await?,
            }
            fault::pass(FaultPoint::KeysBuilt);
            // Triggers on statements are the source's code: none of them is to act here.
            connection.query("SET session_replication_role = replica").await?;
            if plan.catalog.materialized_views.iter().any(|view| view.is_populated) {
                globals.empower_roles(&mut template).await?;
                objects::refresh_views(plan, &mut connection).await?;
                globals.settle_roles(&mut template).await?;
            }
            connection.query("VACUUM (FREEZE, ANALYZE)").await?;
            if record.goes_on() {
                // ANALYZE came last, and has left those dead that a former one had made.
                connection.query("VACUUM (FULL) pg_catalog.pg_statistic, pg_catalog.pg_statistic_ext_data").await?;
            }
            if is_masked {
                joined_rows += rejoin::rejoin(plan, &mut snapshot.session, &mut connection).await?;
                coincidences.extend(coincidences::find(plan, &sampled, &mut connection).await?);
            }
            relations.add(plan, &mut connection).await?;
            databases.push(CopiedDatabase { plan: snapshot.plan, rows });
        }
        let keeps = |name: &str| !is_masked || !name.contains('.') || copy.rules.keep_settings.contains(name);
        let left_out = globals.make_settings(&mut template, keeps).await?;
        globals.make_flags(&mut template).await?;
        template.query("CHECKPOINT").await?;
        Ok(Filled { databases, relations, joined_rows, coincidences, settings_left_out: left_out })
    }
}
