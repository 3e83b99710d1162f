//! Arrays in their text form: `{a,"b c",NULL}`, `[0:1]={{1,2},{3,4}}` (Postgres manual, "Array Input and Output Syntax").

use super::{Became, Transform, ValueError};

/// Masks each element; NULLs, dimensions and bounds stay.
pub(in crate::masking) struct Array {
    pub element: Transform,
    /// The element type's `typdelim`: a comma but for `box`.
    pub delimiter: char,
}

const MALFORMED: ValueError = ValueError::Malformed("an array");

impl Array {
    pub(super) fn apply(&self, value: &str, out: &mut String) -> Result<(), ValueError> {
        let start = value.find('{').ok_or(MALFORMED)?;
        out.push_str(&value[..start]);
        let mut rest = &value[start..];
        let (mut raw, mut masked) = (String::new(), String::new());
        while let Some(c) = rest.chars().next() {
            if matches!(c, '{' | '}') || c == self.delimiter {
                out.push(c);
                rest = &rest[c.len_utf8()..];
                continue;
            }
            raw.clear();
            let is_null = if c == '"' {
                rest = quoted(&rest[1..], &mut raw)?;
                false
            } else {
                let end = rest.find(['{', '}', self.delimiter]).ok_or(MALFORMED)?;
                raw.push_str(&rest[..end]);
                rest = &rest[end..];
                raw.eq_ignore_ascii_case("null")
            };
            masked.clear();
            if is_null || self.element.apply(&raw, &mut masked)? == Became::Null {
                out.push_str("NULL");
            } else {
                quote(&masked, out);
            }
        }
        Ok(())
    }
}

/// Reads up to the closing quote, and returns what follows it.
fn quoted<'a>(text: &'a str, raw: &mut String) -> Result<&'a str, ValueError> {
    let mut chars = text.chars();
    loop {
        match chars.next().ok_or(MALFORMED)? {
            '"' => return Ok(chars.as_str()),
            '\\' => raw.push(chars.next().ok_or(MALFORMED)?),
            c => raw.push(c),
        }
    }
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(value: &str, element: Transform) -> Result<String, ValueError> {
        let mut out = String::new();
        Array { element, delimiter: ',' }.apply(value, &mut out).map(|()| out)
    }

    #[test]
    fn each_element_is_masked_and_the_shape_stays() {
        let constant = || Transform::constant("a\"b\\c");
        assert_eq!(masked("{}", constant()).unwrap(), "{}");
        assert_eq!(masked("{x,NULL,\"NULL\"}", constant()).unwrap(), r#"{"a\"b\\c",NULL,"a\"b\\c"}"#);
        assert_eq!(masked("[0:1][1:1]={{x},{y}}", Transform::Keep).unwrap(), "[0:1][1:1]={{\"x\"},{\"y\"}}");
        assert_eq!(masked(r#"{"a,b","{c}","\"q\\"}"#, Transform::Keep).unwrap(), r#"{"a,b","{c}","\"q\\"}"#);
        assert_eq!(masked("{x,y}", Transform::null()).unwrap(), "{NULL,NULL}");
        for bad in ["", "x", "{\"x", "{x"] {
            assert!(masked(bad, Transform::Keep).is_err(), "{bad}");
        }
    }
}
