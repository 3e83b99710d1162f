//! Names with wildcards: `email|*_email`.

use serde::{Serialize, Serializer};

/// Alternatives separated by `|`; in each, `*` stands for any number of characters. Names are compared as the catalog has them, case and all.
#[derive(Clone, Debug)]
pub(in crate::masking) struct Glob(String);

impl Glob {
    pub(in crate::masking) fn new(text: &str) -> Glob {
        Glob(text.to_owned())
    }

    /// Whether `name` is one of those it stands for.
    pub(in crate::masking) fn fits(&self, name: &str) -> bool {
        self.0.split('|').any(|alternative| fits(alternative, name))
    }
}

/// Each part between wildcards must come in its order, the first at the beginning and the last at the end.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let (middle, last) = rest.rsplit_once('*').unwrap_or(("", rest));
    for part in middle.split('*') {
        let Some(at) = name.find(part) else { return false };
        name = &name[at + part.len()..];
    }
    name.ends_with(last)
}

impl Serialize for Glob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_anything_and_alternatives_for_each_other() {
        for (pattern, name, expected) in [
            ("email", "email", true),
            ("email", "emails", false),
            ("*email*", "work_email_2", true),
            ("*_email|email", "email", true),
            ("*_email|email", "work_email", true),
            ("*_email|email", "work_emails", false),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
            ("*", "", true),
            ("public.*", "public.x", true),
            ("ab*bc", "abc", false),
        ] {
            assert_eq!(Glob::new(pattern).fits(name), expected, "{pattern} {name}");
        }
    }
}
