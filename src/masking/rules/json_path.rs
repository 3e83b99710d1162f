//! Places in a JSON document: `$.contact.email`, `$.phones[*].number`, `$..token`, `$["a b"]`.

use serde::{Serialize, Serializer};

/// Where in a document, or in how many places of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::masking) struct JsonPath {
    text: String,
    pub steps: Vec<JsonStep>,
}

/// From a value to values in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::masking) enum JsonStep {
    /// `.name` or `["name"]`.
    Key(String),
    /// `.*`: every member of an object.
    AnyKey,
    /// `[*]`: every element of an array.
    AnyElement,
    /// `..`: the value itself and whatever is in it, at any depth.
    Deep,
}

impl JsonPath {
    /// Reads one; the error says what it should look like.
    pub(in crate::masking) fn parse(text: &str) -> Result<JsonPath, String> {
        let bad = || format!("{text:?} is no path: write $.key, $.list[*].key, $[\"any key\"], $.* or $..key");
        let mut rest = text.strip_prefix('$').ok_or_else(bad)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = step(rest).ok_or_else(bad)?;
            steps.push(step);
            rest = after;
        }
        if steps.last() == Some(&JsonStep::Deep) {
            return Err(bad());
        }
        Ok(JsonPath { text: text.to_owned(), steps })
    }
}

/// The first step of `text`, and what follows.
fn step(text: &str) -> Option<(JsonStep, &str)> {
    if text.starts_with("..") {
        // The second dot begins the step to the key.
        return Some((JsonStep::Deep, &text[1..]));
    }
    if let Some(rest) = text.strip_prefix("[*]") {
        return Some((JsonStep::AnyElement, rest));
    }
    if let Some(rest) = text.strip_prefix("[\"") {
        let (key, rest) = rest.split_once("\"]")?;
        return Some((JsonStep::Key(key.to_owned()), rest));
    }
    let rest = text.strip_prefix('.')?;
    if let Some(rest) = rest.strip_prefix('*') {
        return Some((JsonStep::AnyKey, rest));
    }
    let end = rest.find(['.', '[']).unwrap_or(rest.len());
    (end > 0).then(|| (JsonStep::Key(rest[..end].to_owned()), &rest[end..]))
}

impl Serialize for JsonPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl std::fmt::Display for JsonPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_step_by_step() {
        let key = |name: &str| JsonStep::Key(name.to_owned());
        let steps = |text: &str| JsonPath::parse(text).map(|path| path.steps);
        assert_eq!(steps("$"), Ok(vec![]));
        assert_eq!(steps("$.a.b"), Ok(vec![key("a"), key("b")]));
        assert_eq!(steps("$.a[*].b"), Ok(vec![key("a"), JsonStep::AnyElement, key("b")]));
        assert_eq!(steps("$[\"a.b\"].*"), Ok(vec![key("a.b"), JsonStep::AnyKey]));
        assert_eq!(steps("$..token"), Ok(vec![JsonStep::Deep, key("token")]));
        for bad in ["", "a", "$a", "$.", "$..", "$[1]", "$[\"a\"", "$.a..", "$.a[b]"] {
            assert!(steps(bad).is_err(), "{bad}");
        }
    }
}
