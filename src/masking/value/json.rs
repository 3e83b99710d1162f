//! JSON documents: masks at the ends of paths, and what is nowhere listed redacted unless the rule says otherwise.
//!
//! A document is written as it is read, member by member, and never in memory as a tree, which would be some tens of times as large. Each level
//! is a part of the text, read once for each level above it.

use super::{Became, Transform, ValueError};
use crate::masking::masks::Telling;
use crate::masking::rules::{JsonPath, JsonStep, UnlistedLeaf};
use crate::masking::sample::Sample;
use serde::Deserializer;
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use std::sync::Arc;

/// Levels of a document, as serde_json has it.
const DEEPEST: usize = 128;
const MALFORMED: ValueError = ValueError::Malformed("JSON");

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

/// What is done with a value within a document.
#[derive(Clone)]
enum Doing<'a> {
    /// Paths may still lead into it.
    Walk(Vec<Reached>),
    /// A path ends here: so every leaf.
    Mask(&'a Transform),
}

impl JsonMask {
    pub(super) fn apply(&self, value: &str, out: &mut String) -> Result<(), ValueError> {
        if value.is_empty() {
            return Ok(());
        }
        self.redacted.begin_row();
        let document: &RawValue = serde_json::from_str(value).map_err(|_| MALFORMED)?;
        let reached = (0..self.paths.len()).map(|path| Reached { path, step: 0 }).collect();
        self.write(document.get(), &self.arrived(reached), 0, out)
    }

    /// Writes what becomes of `value`, JSON without blanks around it.
    fn write(&self, value: &str, doing: &Doing<'_>, depth: usize, out: &mut String) -> Result<(), ValueError> {
        if depth > DEEPEST {
            return Err(MALFORMED);
        }
        let mut is_first = true;
        let mut separate = |out: &mut String| {
            if !std::mem::take(&mut is_first) {
                out.push(',');
            }
        };
        match value.as_bytes().first() {
            Some(b'{') => {
                out.push('{');
                each_part(value, &mut |key, member| {
                    let key = key.unwrap_or_default();
                    separate(out);
                    out.push_str(key);
                    out.push(':');
                    self.write(member, &self.member(doing, key)?, depth + 1, out)
                })?;
                out.push('}');
            }
            Some(b'[') => {
                let inner = match doing {
                    Doing::Walk(reached) => self.arrived(self.advance(reached, |step| *step == JsonStep::AnyElement)),
                    mask => mask.clone(),
                };
                out.push('[');
                each_part(value, &mut |_, element| {
                    separate(out);
                    self.write(element, &inner, depth + 1, out)
                })?;
                out.push(']');
            }
            _ => match doing {
                Doing::Mask(transform) => mask_leaf(value, transform, out)?,
                Doing::Walk(_) => self.redact(value, out)?,
            },
        }
        Ok(())
    }

    /// What is done with the member whose key is written so.
    fn member<'a>(&'a self, doing: &Doing<'a>, key: &str) -> Result<Doing<'a>, ValueError> {
        let Doing::Walk(reached) = doing else { return Ok(doing.clone()) };
        if reached.is_empty() {
            return Ok(Doing::Walk(Vec::new()));
        }
        let key: String = serde_json::from_str(key).map_err(|_| MALFORMED)?;
        Ok(self.arrived(self.advance(reached, |step| match step {
            JsonStep::Key(wanted) => *wanted == key,
            JsonStep::AnyKey => true,
            JsonStep::AnyElement | JsonStep::Deep => false,
        })))
    }

    /// The first path of the rule counts where several end.
    fn arrived(&self, reached: Vec<Reached>) -> Doing<'_> {
        let ended = reached.iter().filter(|at| at.step == self.steps(at).len()).min_by_key(|at| at.path);
        match ended {
            Some(end) => Doing::Mask(&self.paths[end.path].1),
            None => Doing::Walk(reached),
        }
    }

    fn steps(&self, at: &Reached) -> &[JsonStep] {
        &self.paths[at.path].0.steps
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

    /// Writes what becomes of a leaf that no path leads to.
    fn redact(&self, leaf: &str, out: &mut String) -> Result<(), ValueError> {
        match self.unlisted {
            UnlistedLeaf::Deny if leaf != "null" => return Err(ValueError::UnlistedLeaf),
            UnlistedLeaf::Keep => out.push_str(leaf),
            _ if leaf == "null" => out.push_str(leaf),
            _ if leaf.starts_with('"') => {
                let text: String = serde_json::from_str(leaf).map_err(|_| MALFORMED)?;
                self.redacted.offer_part(&text, |_| Telling::Surely);
                out.push_str("\"\"");
            }
            _ if matches!(leaf, "true" | "false") => out.push_str("false"),
            // Too often another number's mask, which nobody looks up within documents.
            _ => out.push('0'),
        }
        Ok(())
    }
}

/// Writes what becomes of a string, a number or a boolean; NULL stays.
fn mask_leaf(leaf: &str, transform: &Transform, out: &mut String) -> Result<(), ValueError> {
    if leaf == "null" || matches!(transform, Transform::Keep) {
        out.push_str(leaf);
        return Ok(());
    }
    let mut masked = String::new();
    let was_text = leaf.starts_with('"');
    let became = match was_text {
        true => transform.apply(&serde_json::from_str::<String>(leaf).map_err(|_| MALFORMED)?, &mut masked)?,
        false => transform.apply(leaf, &mut masked)?,
    };
    match became {
        Became::Null => out.push_str("null"),
        Became::Text if !was_text && is_plain(&masked) => out.push_str(&masked),
        Became::Text => out.push_str(&serde_json::to_string(&masked).map_err(|_| MALFORMED)?),
    }
    Ok(())
}

/// Whether a number or truth is written so. Digits of a hash may read as a number with an exponent, which is written otherwise, and may be more than
/// Postgres takes.
fn is_plain(text: &str) -> bool {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(text) else { return false };
    let written = value.to_string();
    (value.is_number() || value.is_boolean()) && written == text
}

/// Gives `each` the members of an object, with their keys as they are written, or the elements of an array, one after the other.
fn each_part<'d>(
    container: &'d str,
    each: &mut dyn FnMut(Option<&'d str>, &'d str) -> Result<(), ValueError>,
) -> Result<(), ValueError> {
    let mut parts = Parts { each, failed: None };
    let read = serde_json::Deserializer::from_str(container).deserialize_any(&mut parts);
    match parts.failed {
        Some(error) => Err(error),
        None => read.map_err(|_| MALFORMED),
    }
}

struct Parts<'p, 'd> {
    each: &'p mut dyn FnMut(Option<&'d str>, &'d str) -> Result<(), ValueError>,
    /// What ended it.
    failed: Option<ValueError>,
}

impl<'d> Parts<'_, 'd> {
    fn take<E: Error>(&mut self, key: Option<&'d RawValue>, value: &'d RawValue) -> Result<(), E> {
        (self.each)(key.map(RawValue::get), value.get()).map_err(|error| {
            self.failed = Some(error);
            E::custom("a part cannot be masked")
        })
    }
}

impl<'d> Visitor<'d> for &mut Parts<'_, 'd> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'d>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            self.take(Some(key), value)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'d>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(value) = seq.next_element::<&RawValue>()? {
            self.take(None, value)?;
        }
        Ok(())
    }
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

    #[test]
    fn what_is_kept_is_written_as_it_was() {
        let document = r#" {"k\u00e9y" : [1.50e3, "a\/b\u20ac", {}, []], "k\u00e9y": -0 , "n": {"": null}} "#;
        let kept = r#"{"k\u00e9y":[1.50e3,"a\/b\u20ac",{},[]],"k\u00e9y":-0,"n":{"":null}}"#;
        assert_eq!(masked(document, &[], UnlistedLeaf::Keep).unwrap(), kept);
        let by_key = masked(document, &[("$.kéy[*]", "M")], UnlistedLeaf::Keep).unwrap();
        assert_eq!(by_key, r#"{"k\u00e9y":["M","M",{},[]],"k\u00e9y":-0,"n":{"":null}}"#);
    }

    #[test]
    fn no_depth_and_no_number_of_elements_is_too_much() {
        let deep = |levels: usize| "[".repeat(levels) + "1" + &"]".repeat(levels);
        assert!(masked(&deep(100), &[("$..a", "x")], UnlistedLeaf::Redact).unwrap().contains("[0]"));
        for levels in [200, 100_000] {
            assert!(masked(&deep(levels), &[("$..a", "x")], UnlistedLeaf::Redact).is_err());
        }
        let wide = format!("[{}1]", "1,".repeat(1_000_000));
        assert_eq!(masked(&wide, &[], UnlistedLeaf::Redact).unwrap(), format!("[{}0]", "0,".repeat(1_000_000)));
        for broken in ["[1,]", "{\"a\":1,}", "{1:2}", "[1 2]", "{} {}", "\"a", "[\"\\ud800\"]", "nul"] {
            assert!(masked(broken, &[("$.a", "x")], UnlistedLeaf::Redact).is_err(), "{broken}");
        }
    }
}
