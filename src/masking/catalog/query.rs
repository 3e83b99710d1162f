//! The statements that read a database's catalogs. Each answers with one JSON object a row, whose keys are the fields of the types in
//! [`super`].

/// Schemas that are nobody's own.
macro_rules! own_schema {
    () => {
        "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"
    };
}

/// Tables with rows of their own, partitioned tables, and what extensions say must be dumped of theirs (`pg_extension_config_dump`).
pub(super) const TABLES: &str = concat!(
    "SELECT json_build_object(
        'oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname,
        'is_partitioned', c.relkind = 'p', 'is_partition', c.relispartition,
        'parents', ARRAY(SELECT inhparent::bigint FROM pg_inherits WHERE inhrelid = c.oid ORDER BY inhseqno),
        'partition_key', ARRAY(
            SELECT DISTINCT key FROM (
                SELECT unnest(p.partattrs::int2[]) AS key FROM pg_partitioned_table p WHERE p.partrelid = c.oid
                UNION SELECT d.objsubid::int2 FROM pg_depend d
                WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass
                  AND d.refobjid = c.oid AND d.refobjsubid = 0 AND d.deptype = 'i' AND c.relkind = 'p') keys
            WHERE key > 0 ORDER BY key),
        'bytes', CASE WHEN c.relkind = 'r' THEN pg_table_size(c.oid) ELSE 0 END,
        'pages', CASE WHEN c.relkind = 'r' THEN pg_relation_size(c.oid) / current_setting('block_size')::bigint ELSE 0 END,
        'rows', c.reltuples,
        'extension_condition', config.condition,
        'columns', (SELECT coalesce(json_agg(json_build_object(
                'number', a.attnum, 'name', a.attname, 'type', a.atttypid::bigint, 'modifier', a.atttypmod,
                'written', format_type(a.atttypid, a.atttypmod), 'not_null', a.attnotnull,
                'is_generated', a.attgenerated <> '', 'is_identity', a.attidentity <> '',
                'has_default', a.atthasdef AND a.attgenerated = '') ORDER BY a.attnum), '[]')
            FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
        'indexes', (SELECT coalesce(json_agg(json_build_object(
                'name', ic.relname, 'is_unique', i.indisunique, 'is_exclusion', i.indisexclusion,
                'has_expressions', i.indexprs IS NOT NULL, 'is_partial', i.indpred IS NOT NULL,
                'columns', ARRAY(
                    SELECT key FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS keys (key, place)
                    WHERE key > 0 AND place <= i.indnkeyatts
                    UNION SELECT d.refobjsubid::int2 FROM pg_depend d
                    WHERE i.indexprs IS NOT NULL AND d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                      AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.refobjsubid > 0
                    ORDER BY 1)) ORDER BY ic.relname), '[]')
            FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
            WHERE i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion)),
        'checks', (SELECT coalesce(json_agg(json_build_object(
                'name', k.conname, 'columns', coalesce(k.conkey, '{}')) ORDER BY k.conname), '[]')
            FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c'),
        'foreign_keys', (SELECT coalesce(json_agg(json_build_object(
                'name', k.conname, 'columns', k.conkey, 'references', k.confrelid::bigint,
                'referenced_columns', k.confkey) ORDER BY k.conname), '[]')
            FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f' AND k.conparentid = 0))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN (SELECT x.oid AS extension, config.oid, coalesce(config.condition, '') AS condition
               FROM pg_extension x, unnest(x.extconfig, x.extcondition) AS config (oid, condition)) config ON config.oid = c.oid
    LEFT JOIN pg_depend m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid AND m.objsubid = 0 AND m.deptype = 'e'
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND (m.objid IS NULL OR config.oid IS NOT NULL) AND ",
    own_schema!(),
    " ORDER BY n.nspname, c.relname"
);

/// All types, with the fields of composites that are not the catalogs' own.
pub(super) const TYPES: &str = "
    SELECT json_build_object(
        'oid', t.oid::bigint, 'schema', n.nspname, 'name', t.typname, 'kind', t.typtype,
        'base', nullif(t.typbasetype, 0)::bigint, 'base_modifier', t.typtypmod,
        'element', CASE WHEN t.typlen = -1 AND t.typcategory = 'A' THEN nullif(t.typelem, 0)::bigint END,
        'delimiter', t.typdelim,
        'fields', (SELECT coalesce(json_agg(json_build_object(
                'name', a.attname, 'type', a.atttypid::bigint, 'modifier', a.atttypmod) ORDER BY a.attnum), '[]')
            FROM pg_attribute a
            WHERE t.typtype = 'c' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
              AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped),
        'has_checks', EXISTS (SELECT FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c'))
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype <> 'p'";

pub(super) const SEQUENCES: &str = concat!(
    "SELECT json_build_object(
        'schema', n.nspname, 'name', c.relname, 'maximum', s.seqmax,
        'owner', (SELECT json_build_array(d.refobjid::bigint, d.refobjsubid) FROM pg_depend d
            WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
              AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_sequence s ON s.seqrelid = c.oid
    WHERE c.relpersistence <> 't' AND ",
    own_schema!(),
    " AND NOT EXISTS (SELECT FROM pg_depend m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid AND m.deptype = 'e'
                      AND NOT EXISTS (SELECT FROM pg_extension x WHERE c.oid = ANY (x.extconfig)))
    ORDER BY n.nspname, c.relname"
);

pub(super) const MATERIALIZED_VIEWS: &str = concat!(
    "WITH RECURSIVE reads AS (
        SELECT r.ev_class AS view, d.refobjid AS relation
        FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
        WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class),
     all_reads AS (SELECT view, relation FROM reads UNION
        SELECT a.view, r.relation FROM all_reads a JOIN reads r ON r.view = a.relation)
    SELECT json_build_object(
        'oid', c.oid::bigint, 'schema', n.nspname, 'name', c.relname, 'is_populated', c.relispopulated,
        'depends_on', ARRAY(SELECT DISTINCT relation::bigint FROM all_reads a JOIN pg_class m ON m.oid = a.relation
            WHERE a.view = c.oid AND m.relkind = 'm'))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm' AND ",
    own_schema!(),
    " ORDER BY n.nspname, c.relname"
);

/// Their options hold hosts and passwords, and are not read.
pub(super) const SERVERS: &str = "
    SELECT json_build_object('name', s.srvname, 'owner', pg_get_userbyid(s.srvowner), 'wrapper', w.fdwname,
        'type', s.srvtype, 'version', s.srvversion)
    FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw ORDER BY s.srvname";
