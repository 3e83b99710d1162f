//! Literals in definitions: values that no mask reaches, because they are part of the schema.
//!
//! Column defaults, checks, partition bounds, enum labels, bodies of functions, views and the like may quote personal data. Two looks are taken at
//! them: before anything is copied, whether one looks like personal data; and while rows go by, whether one equals a raw value of a masked
//! column. Either is refused, unless the rules say of the object that somebody has looked at it (`allow_literals`).

use super::MaskingError;
use super::catalog::field;
use super::plan::Problem;
use super::rules::{Kept, Rules};
use super::suggest;
use crate::sources::Connection;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

/// Shorter ones say nothing: `'a'`, `'no'`.
const SHORTEST: usize = 4;

/// The literals of a source, and which of them were met among raw values.
#[derive(Default)]
pub(super) struct Literals {
    /// By literal: the objects that hold it and nobody has looked at, as `database: object`.
    held: HashMap<String, BTreeSet<String>>,
    /// Of objects that somebody has looked at.
    allowed: BTreeSet<String>,
    met: Mutex<BTreeSet<(String, String)>>,
}

/// A kind of definition: catalog and OID of the object, and its text. The text of some is one literal.
struct Definitions {
    sql: &'static str,
    is_whole: bool,
}

const fn quoting(sql: &'static str) -> Definitions {
    Definitions { sql, is_whole: false }
}

const DEFINITIONS: [Definitions; 10] = [
    quoting("SELECT 'pg_attrdef'::regclass, oid, pg_get_expr(adbin, adrelid) FROM pg_attrdef"),
    quoting("SELECT 'pg_constraint'::regclass, oid, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype IN ('c', 'x')"),
    quoting(
        "SELECT 'pg_class'::regclass, c.oid, concat_ws(' ', pg_get_expr(c.relpartbound, c.oid),
                CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
                CASE WHEN c.relkind IN ('i', 'I') THEN pg_get_indexdef(c.oid) END,
                (SELECT string_agg(quote_literal(o), ' ') FROM pg_foreign_table f, unnest(f.ftoptions) o WHERE f.ftrelid = c.oid))
         FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'i', 'I', 'f')",
    ),
    Definitions { sql: "SELECT 'pg_type'::regclass, enumtypid, enumlabel FROM pg_enum", is_whole: true },
    quoting("SELECT 'pg_type'::regclass, oid, typdefault FROM pg_type WHERE typtype = 'd'"),
    quoting(
        "SELECT 'pg_proc'::regclass, p.oid, concat_ws(' ', p.prosrc, pg_get_expr(p.proargdefaults, 0),
                (SELECT string_agg(quote_literal(c), ' ') FROM unnest(p.proconfig) c),
                (SELECT quote_literal(a.agginitval) FROM pg_aggregate a WHERE a.aggfnoid = p.oid),
                CASE WHEN p.prokind <> 'a' AND to_jsonb(p) ->> 'prosqlbody' <> '' THEN pg_get_functiondef(p.oid) END)
         FROM pg_proc p",
    ),
    quoting("SELECT 'pg_rewrite'::regclass, oid, pg_get_ruledef(oid) FROM pg_rewrite WHERE rulename <> '_RETURN'"),
    quoting(
        "SELECT 'pg_policy'::regclass, oid, concat_ws(' ', pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
         FROM pg_policy",
    ),
    quoting("SELECT 'pg_trigger'::regclass, oid, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal"),
    quoting("SELECT 'pg_statistic_ext'::regclass, oid, pg_get_statisticsobjdef(oid) FROM pg_statistic_ext"),
];

const COMMENTS: Definitions =
    Definitions { sql: "SELECT classoid::regclass, objoid, description FROM pg_description", is_whole: true };

impl Literals {
    /// Adds those of the database that `session` is connected to. Returns those that look like personal data.
    pub(super) async fn read(
        &mut self,
        session: &mut Connection,
        database: &str,
        rules: &Rules,
    ) -> Result<Vec<Problem>, MaskingError> {
        let mut problems = BTreeSet::new();
        let comments = (rules.comments == Kept::Keep).then_some(&COMMENTS);
        for definitions in DEFINITIONS.iter().chain(comments) {
            for row in session.query(&definitions.statement()).await? {
                let (object, text) = (field(Some(&row), 0), field(Some(&row), 1));
                let literals = definitions.candidates(text);
                for literal in literals.into_iter().filter(|literal| literal.chars().count() >= SHORTEST) {
                    if rules.allow_literals.contains(&object) {
                        self.allowed.insert(literal);
                        continue;
                    }
                    if suggest::is_personal(&literal) {
                        let what =
                            "it quotes what looks like personal data; change it, or name the object in allow_literals";
                        problems.insert(Problem {
                            database: database.to_owned(),
                            object: object.clone(),
                            what: what.to_owned(),
                        });
                    }
                    self.held.entry(literal).or_default().insert(format!("{database}: {object}"));
                }
            }
        }
        Ok(problems.into_iter().collect())
    }

    /// A raw value of `column` goes by.
    pub(super) fn meet(&self, value: &str, column: &str) {
        if let Some(objects) = self.held.get(value) {
            let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
            met.extend(objects.iter().map(|object| (object.clone(), column.to_owned())));
        }
    }

    /// Objects that quote a raw value, in words.
    pub(super) fn findings(&self) -> Vec<String> {
        let met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let finding = |(object, column): &(String, String)| {
            format!("  {object} quotes a raw value of {column}; change it, or name the object in allow_literals")
        };
        met.iter().map(finding).collect()
    }

    /// Whether somebody has looked at a definition that quotes `value`.
    pub(super) fn is_allowed(&self, value: &str) -> bool {
        self.allowed.contains(value)
    }
}

impl Definitions {
    /// What of a text may be personal. A body is not parsed: an apostrophe in a comment would hide what follows, so what stands between any two
    /// counts, and every word.
    fn candidates(&self, text: String) -> Vec<String> {
        if self.is_whole {
            return vec![text];
        }
        let mut candidates = literals_in(&text);
        if self.sql.contains("prosrc") {
            candidates.extend(text.split('\'').map(str::to_owned));
            let is_between = |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '$' | '(' | ')' | ',' | ';');
            candidates.extend(text.split(is_between).filter(|word| suggest::is_personal(word)).map(str::to_owned));
        }
        candidates
    }

    /// Descriptions and texts, but for what came with Postgres (`FirstNormalObjectId` of transam.h) or with an extension.
    fn statement(&self) -> String {
        format!(
            "SELECT pg_describe_object(d.catalog, d.object, 0), d.text FROM ({}) d (catalog, object, text)
             WHERE d.object >= 16384 AND d.text <> '' AND NOT EXISTS (
                SELECT FROM pg_depend e WHERE e.classid = d.catalog AND e.objid = d.object AND e.deptype = 'e')",
            self.sql
        )
    }
}

/// String constants of SQL or of a function's body, with those that are quoted in them.
fn literals_in(text: &str) -> Vec<String> {
    let mut literals = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((start, c)) = chars.next() {
        if c != '\'' {
            continue;
        }
        let has_escapes = text[..start].ends_with(['E', 'e']);
        let mut literal = String::new();
        while let Some((_, c)) = chars.next() {
            match c {
                '\'' if chars.peek().is_some_and(|(_, next)| *next == '\'') => {
                    literal.push('\'');
                    chars.next();
                }
                '\'' => break,
                '\\' if has_escapes => literal.extend(chars.next().map(|(_, escaped)| escaped)),
                c => literal.push(c),
            }
        }
        if literal.matches('\'').count() > 1 {
            literals.extend(literals_in(&literal));
        }
        literals.push(literal);
    }
    literals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_found_also_within_literals() {
        assert_eq!(literals_in("a = 'x y' AND b = 'it''s'"), ["x y", "it's"]);
        assert_eq!(literals_in("E'a\\'b'::text || 'c'"), ["a'b", "c"]);
        assert_eq!(literals_in("execute 'select ''inner'''"), ["inner", "select 'inner'"]);
        assert_eq!(literals_in("no literal"), Vec::<String>::new());
        assert_eq!(literals_in("'open"), ["open"]);
    }
}
