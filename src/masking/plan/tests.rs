//! What is decided for a column, and what is refused, over small catalogs written by hand.

use super::*;
use crate::masking::catalog::{Field, ForeignKey, Index, Type};
use crate::masking::masks::MaskingKey;
use std::path::Path;

const TEXT: Oid = 25;
const INT: Oid = 23;
const VARCHAR: Oid = 1043;

fn builtin(oid: Oid, name: &str) -> (Oid, Type) {
    let ty = Type {
        oid,
        schema: "pg_catalog".to_owned(),
        name: name.to_owned(),
        kind: 'b',
        base: None,
        base_modifier: -1,
        element: None,
        delimiter: ',',
        fields: Vec::<Field>::new(),
        has_checks: false,
    };
    (oid, ty)
}

fn column(number: i16, name: &str, type_oid: Oid) -> Column {
    Column {
        number,
        name: name.to_owned(),
        type_oid,
        modifier: -1,
        written: "text".to_owned(),
        not_null: false,
        is_generated: false,
        is_identity: false,
        has_default: false,
    }
}

/// `s.<name>` with the columns `id` and `email`.
fn table(oid: Oid, name: &str) -> Table {
    Table {
        oid,
        schema: "s".to_owned(),
        name: name.to_owned(),
        is_partitioned: false,
        is_partition: false,
        parents: vec![],
        partition_key: vec![],
        bytes: 0,
        pages: 0,
        rows: 0.0,
        extension_condition: None,
        columns: vec![column(1, "id", INT), column(2, "email", TEXT)],
        indexes: vec![],
        checks: vec![],
        foreign_keys: vec![],
    }
}

fn unique(columns: &[i16]) -> Index {
    Index {
        name: format!("unique_{columns:?}"),
        is_unique: true,
        is_exclusion: false,
        columns: columns.to_vec(),
        has_expressions: false,
        is_partial: false,
    }
}

fn refers(column: i16, to: Oid, referenced: i16) -> ForeignKey {
    ForeignKey { name: "fk".to_owned(), columns: vec![column], references: to, referenced_columns: vec![referenced] }
}

fn plan(tables: Vec<Table>, rules: &str) -> (DatabasePlan, Vec<String>) {
    let types = [builtin(TEXT, "text"), builtin(INT, "int4"), builtin(VARCHAR, "varchar")].into();
    let catalog =
        DatabaseCatalog { name: "d".to_owned(), encoding: "UTF8".to_owned(), tables, types, ..Default::default() };
    let rules = Rules::parse(&format!("key_env = \"K\"\n{rules}"), Path::new("")).expect("the rules are valid");
    let mut keys = Keys::new(MaskingKey::new(&[7; 32]).expect("long enough"));
    let (plan, problems) = DatabasePlan::new(catalog, &rules, &mut keys);
    (plan, problems.iter().map(ToString::to_string).collect())
}

fn rule_of(plan: &DatabasePlan, table: Oid, number: i16) -> (String, Origin) {
    let table = plan.tables.iter().find(|plan| plan.oid == table).expect("it is planned");
    let column = table.columns.iter().find(|column| column.column.number == number).expect("it has a rule");
    (column.rule.describe(), column.origin.clone())
}

fn assert_problem(problems: &[String], parts: &[&str]) {
    let fits = |problem: &String| parts.iter().all(|part| problem.contains(part));
    assert!(problems.iter().any(fits), "no problem says {parts:?}: {problems:#?}");
}

#[test]
fn what_no_rule_covers_is_a_problem_and_each_is_named() {
    let (_, problems) = plan(vec![table(1, "a")], "[database.d.table.\"s.a\".column]\nid = \"keep\"\n");
    assert_eq!(problems.len(), 1);
    assert_problem(&problems, &["d: s.a.email", "no rule"]);
    let (_, problems) = plan(vec![table(1, "a")], "[database.d.table.\"s.a\"]\nrows = \"none\"\n");
    assert!(problems.is_empty(), "rows that stay behind need no rules: {problems:?}");
}

#[test]
fn foreign_keys_take_the_rule_of_their_key_over_several_hops() {
    let (mut b, mut c) = (table(2, "b"), table(3, "c"));
    b.foreign_keys.push(refers(1, 1, 1));
    c.foreign_keys.push(refers(1, 2, 1));
    let rules = "unlisted_column = \"keep\"\n[database.d.table.\"s.a\".column]\nid = { mask = \"int\", min = 1, max = 100000 }\n";
    let (plan, problems) = plan(vec![c, b, table(1, "a")], rules);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(rule_of(&plan, 3, 1), ("int".to_owned(), Origin::ForeignKey("s.b.id".to_owned())));
}

#[test]
fn tables_that_refer_to_each_other_are_no_circle_to_be_lost_in() {
    let (mut a, mut b) = (table(1, "a"), table(2, "b"));
    a.foreign_keys.push(refers(2, 2, 2));
    b.foreign_keys.push(refers(2, 1, 2));
    let rules = "unlisted_column = \"keep\"\n[database.d.table.\"s.a\".column]\nemail = \"email\"\n";
    let (plan, problems) = plan(vec![a, b], rules);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(rule_of(&plan, 2, 2).0, "email");
}

#[test]
fn a_rule_that_contradicts_its_key_is_a_problem_wherever_it_comes_from() {
    let rules = "unlisted_column = \"keep\"\n[database.d.table.\"s.a\".column]\nemail = \"email\"\n";
    for contradiction in [
        "[database.d.table.\"s.b\".column]\nemail = \"keep\"\n",
        "[database.d.table.\"s.b\".column]\nemail = { mask = \"email\", domain = \"other\" }\n",
    ] {
        let mut b = table(2, "b");
        b.foreign_keys.push(refers(2, 1, 2));
        let (_, problems) = plan(vec![table(1, "a"), b], &format!("{rules}{contradiction}"));
        assert_problem(&problems, &["s.b.email", "contradicts", "s.a.email"]);
    }
}

#[test]
fn partitions_take_the_rules_of_their_table() {
    let mut root = table(1, "a");
    (root.is_partitioned, root.partition_key) = (true, vec![2]);
    let mut leaf = table(2, "a_1");
    (leaf.is_partition, leaf.parents) = (true, vec![1]);
    // Another order than its table's.
    leaf.columns = vec![column(1, "email", TEXT), column(2, "id", INT)];
    let rules = "[database.d.table.\"s.a\".column]\nid = \"keep\"\nemail = \"email\"\n";
    let (plan, problems) = plan(vec![root, leaf], rules);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(rule_of(&plan, 2, 1), ("email".to_owned(), Origin::Parent("s.a".to_owned())));
    assert_eq!(plan.tables[1].through, Some(1), "a row may belong to another partition than before");
}

#[test]
fn templates_and_expressions_hold_for_partitions_too_and_not_for_what_refers_to_them() {
    let mut leaf = table(2, "a_1");
    (leaf.is_partition, leaf.parents) = (true, vec![1]);
    let mut other = table(3, "b");
    other.foreign_keys.push(refers(2, 1, 2));
    for mask in ["{ mask = \"template\", template = \"{id}@x\" }", "{ mask = \"expression\", sql = \"id || '@x'\" }"] {
        let rules = format!(
            "[database.d.table.\"s.a\".column]\nid = \"keep\"\nemail = {mask}\n[database.d.table.\"s.b\".column]\nid = \"keep\"\n"
        );
        let (plan, problems) = plan(vec![table(1, "a"), leaf.clone(), other.clone()], &rules);
        assert_eq!(rule_of(&plan, 2, 2).1, Origin::Parent("s.a".to_owned()), "{mask}");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_problem(&problems, &["s.b.email", "no rule"]);
    }
}

#[test]
fn what_must_differ_needs_a_mask_that_keeps_apart() {
    let with = |indexes: &[&[i16]], mask: &str| {
        let mut a = table(1, "a");
        a.indexes = indexes.iter().map(|columns| unique(columns)).collect();
        plan(vec![a], &format!("unlisted_column = \"keep\"\n[database.d.table.\"s.a\".column]\nemail = {mask}\n")).1
    };
    assert!(with(&[&[2]], "\"email\"").is_empty());
    assert_problem(&with(&[&[2]], "\"name\""), &["s.a.email", "unique_[2]", "name"]);
    assert_problem(&with(&[&[1, 2]], "\"city\""), &["unique_[1, 2]"]);
    assert!(with(&[&[1, 2], &[1]], "\"city\"").is_empty(), "the id alone keeps them apart");
    assert!(with(&[&[2]], "\"shuffle\"").is_empty());
    assert_problem(&with(&[&[1, 2]], "\"shuffle\""), &["shuffle"]);
    assert!(with(&[&[2]], "{ mask = \"template\", template = \"{id}@x\" }").is_empty());
    assert_problem(&with(&[&[2]], "{ mask = \"template\", template = \"x\" }"), &["unique"]);
}

#[test]
fn lengths_nulls_and_types_are_checked_before_a_row_moves() {
    let with = |change: &dyn Fn(&mut Column), mask: &str| {
        let mut a = table(1, "a");
        change(&mut a.columns[1]);
        plan(vec![a], &format!("unlisted_column = \"keep\"\n[database.d.table.\"s.a\".column]\nemail = {mask}\n")).1
    };
    let short = |column: &mut Column| (column.type_oid, column.modifier) = (VARCHAR, 4 + 20);
    assert_problem(&with(&short, "\"email\""), &["28 characters", "takes 20"]);
    assert!(with(&short, "{ mask = \"email\", at = \"x.io\" }").len() == 1, "21 do not fit either");
    assert!(with(&short, "{ mask = \"hmac\", length = 20 }").is_empty());
    assert_problem(&with(&|column| column.not_null = true, "\"null\""), &["NOT NULL"]);
    assert_problem(&with(&|column| column.not_null = true, "\"default\""), &["no default"]);
    assert_problem(&with(&|column| column.type_oid = INT, "\"email\""), &["does not fit"]);
    assert_problem(&with(&|column| column.type_oid = 4711, "\"email\""), &["unknown"]);
    assert_problem(&with(&|column| column.is_generated = true, "\"email\""), &["computed"]);
}

#[test]
fn rules_for_what_is_not_there_name_the_nearest() {
    let rules = "unlisted_column = \"keep\"\n[database.d.table.\"s.aa\".column]\nx = \"keep\"\n\
                 [database.d.table.\"s.b\".column]\nemial = \"email\"\n";
    let (_, problems) = plan(vec![table(1, "a"), table(2, "b")], rules);
    assert_problem(&problems, &["s.aa", "did you mean s.a?"]);
    assert_problem(&problems, &["s.b.emial", "did you mean email?"]);
}

#[test]
fn rows_that_refer_to_rows_that_stay_behind_are_a_problem() {
    let mut b = table(2, "b");
    b.foreign_keys.push(refers(1, 1, 1));
    let rules = "unlisted_column = \"keep\"\n[database.d.table.\"s.a\"]\nrows = \"none\"\n";
    let (_, problems) = plan(vec![table(1, "a"), b.clone()], rules);
    assert_problem(&problems, &["s.b", "s.a", "fk"]);
    let nulled = format!("{rules}[database.d.table.\"s.b\".column]\nid = \"null\"\n");
    assert!(plan(vec![table(1, "a"), b], &nulled).1.is_empty());
}
