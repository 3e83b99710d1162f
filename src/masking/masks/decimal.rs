//! Exact decimal numbers in text form: Postgres's `smallint` to `numeric`, which may be longer than any machine word.

/// `-12.50`: sign, digits, and how many of them stand after the point.
pub(super) struct Decimal {
    pub negative: bool,
    /// Digits without sign, point and leading zeros; empty is zero.
    pub digits: String,
    /// Digits after the point.
    pub scale: usize,
}

impl Decimal {
    /// Reads what Postgres writes: no exponent, no plus. `None` for all else, `NaN` too.
    pub(super) fn parse(text: &str) -> Option<Decimal> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let is_number = !whole.is_empty() && whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
        let digits = format!("{whole}{fraction}");
        let digits = digits.trim_start_matches('0').to_owned();
        is_number.then_some(Decimal { negative, digits, scale: fraction.len() })
    }

    /// The digits as one number with the sign; `None` where they are too many.
    pub(super) fn coefficient(&self) -> Option<i128> {
        let magnitude = if self.digits.is_empty() { 0 } else { self.digits.parse::<i128>().ok()? };
        Some(if self.negative { -magnitude } else { magnitude })
    }

    /// Appends its text.
    pub(super) fn write(&self, out: &mut String) {
        let digits = self.digits.trim_start_matches('0');
        if self.negative && !digits.is_empty() {
            out.push('-');
        }
        let (whole, fraction) = digits.split_at(digits.len().saturating_sub(self.scale));
        out.push_str(if whole.is_empty() { "0" } else { whole });
        if self.scale > 0 {
            out.push('.');
            out.extend(std::iter::repeat_n('0', self.scale - fraction.len()));
            out.push_str(fraction);
        }
    }

    /// The decimal of a coefficient.
    pub(super) fn of(coefficient: i128, scale: usize) -> Decimal {
        Decimal { negative: coefficient < 0, digits: coefficient.unsigned_abs().to_string(), scale }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_come_back() {
        for text in ["0", "1", "-1", "0.00", "-0.05", "12.50", "-9223372036854775808", &"9".repeat(300)] {
            let mut out = String::new();
            Decimal::parse(text).unwrap().write(&mut out);
            assert_eq!(out, text);
        }
        let mut out = String::new();
        Decimal::of(-5, 3).write(&mut out);
        assert_eq!(out, "-0.005");
        for text in ["", "-", ".5", "1e5", "NaN", "+1", "1.2.3", "--1"] {
            assert!(Decimal::parse(text).is_none(), "{text}");
        }
    }
}
