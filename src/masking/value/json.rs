//! JSON documents: masks at the ends of paths, and what is nowhere listed redacted unless the rule says otherwise.

use super::{Became, Transform, ValueError};
use crate::masking::masks::Telling;
use crate::masking::rules::{JsonPath, JsonStep, UnlistedLeaf};
use crate::masking::sample::Sample;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Masks a document. Objects, arrays, keys and NULLs stay; numbers that a mask does not turn into numbers become strings.
pub(in crate::masking) struct JsonMask {
    pub paths: Vec<(JsonPath, Transform)>,
    pub unlisted: UnlistedLeaf,
    /// Of leaves that no path leads to.
    pub redacted: Arc<Sample>,
}

/// How far a path has come on the way to the value at hand.
#[derive(Clone, Copy)]
struct Reached {
    path: usize,
    step: usize,
}

impl JsonMask {
    pub(super) fn apply(&self, value: &str, out: &mut String) -> Result<(), ValueError> {
        if value.is_empty() {
            return Ok(());
        }
        self.redacted.begin_row();
        let mut document: Value = serde_json::from_str(value).map_err(|_| ValueError::Malformed("JSON"))?;
        let reached: Vec<Reached> = (0..self.paths.len()).map(|path| Reached { path, step: 0 }).collect();
        self.walk(&mut document, &reached)?;
        let text = serde_json::to_string(&document).map_err(|_| ValueError::Malformed("JSON"))?;
        out.push_str(&text);
        Ok(())
    }

    fn walk(&self, value: &mut Value, reached: &[Reached]) -> Result<(), ValueError> {
        // The first path of the rule counts where several lead here.
        if let Some(end) = reached.iter().filter(|at| at.step == self.steps(at).len()).min_by_key(|at| at.path) {
            return mask_leaves(value, &self.paths[end.path].1);
        }
        match value {
            Value::Object(members) => {
                members.iter_mut().try_for_each(|(key, member)| self.walk(member, &self.members_of(reached, key)))
            }
            Value::Array(elements) => {
                let inner = self.elements_of(reached);
                elements.iter_mut().try_for_each(|element| self.walk(element, &inner))
            }
            leaf => self.redact(leaf),
        }
    }

    fn steps(&self, at: &Reached) -> &[JsonStep] {
        &self.paths[at.path].0.steps
    }

    fn members_of(&self, reached: &[Reached], key: &str) -> Vec<Reached> {
        self.advance(reached, |step| match step {
            JsonStep::Key(wanted) => wanted == key,
            JsonStep::AnyKey => true,
            JsonStep::AnyElement | JsonStep::Deep => false,
        })
    }

    fn elements_of(&self, reached: &[Reached]) -> Vec<Reached> {
        self.advance(reached, |step| *step == JsonStep::AnyElement)
    }

    /// Where paths are after one level that `fits` their next step. `Deep` stays at every level, and lets the step after it try.
    fn advance(&self, reached: &[Reached], fits: impl Fn(&JsonStep) -> bool) -> Vec<Reached> {
        let mut next = Vec::new();
        for at in reached {
            match &self.steps(at)[at.step..] {
                [JsonStep::Deep, after, ..] => {
                    next.push(*at);
                    if fits(after) {
                        next.push(Reached { step: at.step + 2, ..*at });
                    }
                }
                [step, ..] if fits(step) => next.push(Reached { step: at.step + 1, ..*at }),
                _ => {}
            }
        }
        next
    }

    /// What becomes of a leaf that no path leads to.
    fn redact(&self, leaf: &mut Value) -> Result<(), ValueError> {
        match self.unlisted {
            UnlistedLeaf::Keep => return Ok(()),
            UnlistedLeaf::Deny if !leaf.is_null() => return Err(ValueError::UnlistedLeaf),
            UnlistedLeaf::Deny | UnlistedLeaf::Redact => {}
        }
        *leaf = match leaf {
            Value::String(text) => {
                self.redacted.offer_part(text, |_| Telling::Surely);
                Value::String(String::new())
            }
            // Too often another number's mask, which nobody looks up within documents.
            Value::Number(_) => Value::from(0),
            Value::Bool(_) => Value::Bool(false),
            Value::Null => Value::Null,
            Value::Array(_) => Value::Array(Vec::new()),
            Value::Object(_) => Value::Object(Map::new()),
        };
        Ok(())
    }
}

/// Masks every string, number and boolean of `value`.
fn mask_leaves(value: &mut Value, transform: &Transform) -> Result<(), ValueError> {
    let text = match value {
        Value::Null => return Ok(()),
        Value::Object(members) => {
            return members.values_mut().try_for_each(|member| mask_leaves(member, transform));
        }
        Value::Array(elements) => {
            return elements.iter_mut().try_for_each(|element| mask_leaves(element, transform));
        }
        _ if matches!(transform, Transform::Keep) => return Ok(()),
        Value::String(text) => std::mem::take(text),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
    };
    let mut masked = String::new();
    let was_text = value.is_string();
    *value = match transform.apply(&text, &mut masked)? {
        Became::Null => Value::Null,
        Became::Text if was_text => Value::String(masked),
        Became::Text => plain(&masked).unwrap_or(Value::String(masked)),
    };
    Ok(())
}

/// The number or truth that is written so. Digits of a hash may read as a number with an exponent, which is written otherwise, and may be more than
/// Postgres takes.
fn plain(text: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(text).ok()?;
    let written = value.to_string();
    ((value.is_number() || value.is_boolean()) && written == text).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(value: &str, paths: &[(&str, &str)], unlisted: UnlistedLeaf) -> Result<String, ValueError> {
        let path = |(path, constant): &(&str, &str)| (JsonPath::parse(path).unwrap(), Transform::constant(constant));
        let mut out = String::new();
        let redacted = crate::masking::sample::of_text().into();
        JsonMask { paths: paths.iter().map(path).collect(), unlisted, redacted }.apply(value, &mut out).map(|()| out)
    }

    #[test]
    fn paths_lead_to_masks_and_the_rest_is_redacted() {
        let document = r#"{"a": {"mail": "x", "n": 1.50}, "list": [{"mail": "y"}, {"mail": null}], "t": true}"#;
        let redact = |paths| masked(document, paths, UnlistedLeaf::Redact).unwrap();
        assert_eq!(
            redact(&[("$.a.mail", "M"), ("$.list[*].mail", "L")]),
            r#"{"a":{"mail":"M","n":0},"list":[{"mail":"L"},{"mail":null}],"t":false}"#
        );
        assert_eq!(
            masked(document, &[("$..mail", "M")], UnlistedLeaf::Keep).unwrap(),
            r#"{"a":{"mail":"M","n":1.50},"list":[{"mail":"M"},{"mail":null}],"t":true}"#
        );
        assert_eq!(redact(&[("$.a", "7")]), r#"{"a":{"mail":"7","n":7},"list":[{"mail":""},{"mail":null}],"t":false}"#);
        assert_eq!(redact(&[("$.*.n", "z"), ("$", "q")]).matches('q').count(), 4, "the whole document is the second's");
        assert_eq!(redact(&[("$.a.n", "9300976412608449e817")]).matches(r#""n":"9300976412608449e817""#).count(), 1);
        assert_eq!(redact(&[("$.a.n", "93.50")]).matches(r#""n":93.50"#).count(), 1);
    }

    #[test]
    fn what_is_unlisted_may_be_denied_and_what_is_no_json_is_refused() {
        assert!(matches!(masked("{\"a\":1}", &[("$.b", "x")], UnlistedLeaf::Deny), Err(ValueError::UnlistedLeaf)));
        assert_eq!(masked("{\"b\":\"1\"}", &[("$.b", "x")], UnlistedLeaf::Deny).unwrap(), "{\"b\":\"x\"}");
        assert!(masked("{", &[], UnlistedLeaf::Keep).is_err());
        assert_eq!(masked("12345678901234567890.50", &[], UnlistedLeaf::Keep).unwrap(), "12345678901234567890.50");
    }
}
