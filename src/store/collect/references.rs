//! Which objects a head or manifest refers to, found without knowing its fields: every text in it that begins like a key.
//!
//! So a field that a newer version added keeps alive what it names, though this version cannot tell what that is for. What is not a
//! reference but looks like one keeps too much, never too little. Read as a stream: a manifest of a million files costs its text, no tree.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// What every key begins with.
const PREFIX: &str = "v1/";

/// The texts in `json` that begin like keys; `None` where it is no JSON.
pub(in crate::store) fn references(json: &[u8]) -> Option<Vec<String>> {
    let mut found = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Texts(&mut found).deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(found)
}

struct Texts<'a>(&'a mut Vec<String>);

impl<'de> DeserializeSeed<'de> for Texts<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Texts<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        if text.starts_with(PREFIX) {
            self.0.push(text.to_owned());
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Texts(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        while fields.next_key::<IgnoredAny>()?.is_some() {
            fields.next_value_seed(Texts(self.0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_wherever_they_stand() {
        let json =
            br#"{ "a": ["v1/x", 1, null, {"later": {"boot": "v1/y\/z"}}], "b": "v2/no", "v1/field": true, "c": -1.5 }"#;
        assert_eq!(references(json), Some(vec!["v1/x".to_owned(), "v1/y/z".to_owned()]));
        assert_eq!(references(b"{"), None);
        assert_eq!(references(b"{} {}"), None);
    }
}
