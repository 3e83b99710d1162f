//! Composites in their text form: `(a,"b ""c""",)` (Postgres manual, "Composite Type Input and Output Syntax").

use super::{Became, Transform, ValueError};

/// Masks field by field, in the type's order; NULLs stay.
pub(in crate::masking) struct Record {
    pub fields: Vec<Transform>,
}

const MALFORMED: ValueError = ValueError::Malformed("a composite");

impl Record {
    pub(super) fn apply(&self, value: &str, out: &mut String) -> Result<(), ValueError> {
        let mut rest = value.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).ok_or(MALFORMED)?;
        out.push('(');
        let (mut raw, mut masked) = (String::new(), String::new());
        for (at, field) in self.fields.iter().enumerate() {
            if at > 0 {
                rest = rest.strip_prefix(',').ok_or(MALFORMED)?;
                out.push(',');
            }
            raw.clear();
            let is_null;
            (is_null, rest) = read_field(rest, &mut raw)?;
            masked.clear();
            if !is_null && field.apply(&raw, &mut masked)? == Became::Text {
                quote(&masked, out);
            }
        }
        if !rest.is_empty() {
            return Err(MALFORMED);
        }
        out.push(')');
        Ok(())
    }
}

/// Reads a field: whether it is NULL, and what follows. Parts in and out of quotes may follow each other.
fn read_field<'a>(text: &'a str, raw: &mut String) -> Result<(bool, &'a str), ValueError> {
    let mut chars = text.chars();
    let (mut in_quotes, mut is_null) = (false, true);
    loop {
        let before = chars.as_str();
        match chars.next() {
            None if in_quotes => return Err(MALFORMED),
            None => return Ok((is_null, before)),
            Some(',') if !in_quotes => return Ok((is_null, before)),
            Some('"') if in_quotes && chars.as_str().starts_with('"') => {
                raw.push('"');
                chars.next();
            }
            Some('"') => {
                in_quotes = !in_quotes;
                is_null = false;
            }
            Some('\\') => {
                raw.push(chars.next().ok_or(MALFORMED)?);
                is_null = false;
            }
            Some(c) => {
                raw.push(c);
                is_null = false;
            }
        }
    }
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push(c);
        }
        out.push(c);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(value: &str, fields: Vec<Transform>) -> Result<String, ValueError> {
        let mut out = String::new();
        Record { fields }.apply(value, &mut out).map(|()| out)
    }

    #[test]
    fn each_field_has_its_own_mask_and_null_stays() {
        use Transform::Keep;
        let constant = || Transform::constant("x\"y\\");
        assert_eq!(masked("(a,b)", vec![Keep, constant()]).unwrap(), r#"("a","x""y\\")"#);
        assert_eq!(masked("(,\"\")", vec![constant(), Keep]).unwrap(), "(,\"\")");
        assert_eq!(masked(r#"("a ""b"" \\c,d",e)"#, vec![Keep, Keep]).unwrap(), r#"("a ""b"" \\c,d","e")"#);
        assert_eq!(masked("(a,b)", vec![Transform::null(), Keep]).unwrap(), "(,\"b\")");
        assert_eq!(masked("()", vec![Keep]).unwrap(), "()");
        for (bad, fields) in [("a", 1), ("(a,b)", 1), ("(a)", 2), ("(\"a)", 1)] {
            assert!(masked(bad, vec![Keep; fields]).is_err(), "{bad}");
        }
    }
}
