//! Masks that keep a column fit for statistics: dates shifted, numbers made noisy or coarse, categories redrawn.
//!
//! Results stay in the type's range, and `numeric` keeps its scale. Where a result would leave the range, noise and shifts take the other side. Noise
//! adds no digit before the point either, since a `numeric(p, s)` that the value just fits might not hold it.

use super::calendar::{self, Moment};
use super::decimal::Decimal;
use super::key::{DomainKey, Draws, Prf};
use super::masker::{Built, Changes, Longest, Mask, MaskError, Properties, Unsuitable, ValueType};
use std::cmp::Ordering;
use std::fmt::Write;

/// A thousand years.
const SHIFT_DAYS_MAX: u32 = 365_250;
/// Noise and percentages are counted in millionths.
const MILLION: i128 = 1_000_000;
/// Leading digits that noise is computed on: times 10^8 (100 % in millionths) and 10^6 (the draw) they fit an i128.
const NOISE_DIGITS: usize = 24;
/// Digits that stay of a number too long to be put in a bucket exactly: an f64's.
const BUCKET_DIGITS: usize = 15;
/// Widths that are exact enough.
const WIDTHS: std::ops::RangeInclusive<f64> = 1e-6..=1e15;
/// Ten thousand years.
const WIDTH_DAYS_MAX: f64 = 3_652_500.0;
const NUMBER: MaskError = MaskError::Malformed { expected: "a number" };
const DATE: MaskError = MaskError::Malformed { expected: "a date or timestamp in DateStyle ISO" };

/// Values that have no neighbours and stay.
fn is_special(value: &str) -> bool {
    matches!(value, "infinity" | "-infinity" | "Infinity" | "-Infinity" | "NaN")
}

/// The largest magnitude of a type of whole numbers; `None` for the others.
fn whole_limit(ty: &ValueType) -> Option<i128> {
    match ty {
        ValueType::SmallInt => Some(i16::MAX.into()),
        ValueType::Integer => Some(i32::MAX.into()),
        ValueType::BigInt => Some(i64::MAX.into()),
        _ => None,
    }
}

/// By whole days from -`max_days` to `max_days`, never 0; the time of day stays.
pub(super) fn date_shift(max_days: u32, ty: &ValueType, key: &DomainKey) -> Result<Built, Unsuitable> {
    if !(1..=SHIFT_DAYS_MAX).contains(&max_days) {
        let reason = format!("max_days is {max_days}, and must be 1 to {SHIFT_DAYS_MAX}");
        return Err(Unsuitable::Parameter { mask: "date_shift", reason });
    }
    let mask =
        DateShift { max_days: max_days.into(), timed: *ty == ValueType::Timestamp, prf: key.function("date_shift") };
    Ok((roughly_as_long(), Box::new(mask)))
}

/// A date or number: a `BC`, a year's or a number's fifth digit may be added, which only text would mind.
fn roughly_as_long() -> Properties {
    Properties::new(Longest::AsInput, false).changing(Changes::AlmostAlways)
}

struct DateShift {
    max_days: u64,
    timed: bool,
    prf: Prf,
}

impl Mask for DateShift {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        if is_special(value) {
            out.push_str(value);
            return Ok(());
        }
        let Moment { day, time } = calendar::parse(value, self.timed).ok_or(DATE)?;
        let drawn = self.prf.draws(value.as_bytes(), 0).below(2 * self.max_days) as i64;
        let max_days = self.max_days as i64;
        let shift = if drawn < max_days { drawn - max_days } else { drawn - max_days + 1 };
        // From a day near the end of the calendar: inwards.
        let shifted = match calendar::side_of_range(day + shift, self.timed) {
            Ordering::Less => day + shift.abs(),
            Ordering::Equal => day + shift,
            Ordering::Greater => day - shift.abs(),
        };
        calendar::write(shifted, time, out);
        Ok(())
    }
}

/// Up to `percent` % more or less.
pub(super) fn noise(percent: f64, ty: &ValueType, key: &DomainKey) -> Result<Built, Unsuitable> {
    if !(1e-6..=100.0).contains(&percent) {
        let reason = format!("percent is {percent}, and must be above 0 and at most 100");
        return Err(Unsuitable::Parameter { mask: "noise", reason });
    }
    let prf = key.function("noise");
    let mask: Box<dyn Mask> = match ty {
        ValueType::Real => Box::new(RealNoise { percent, prf }),
        _ => {
            let millionths = (percent * MILLION as f64).round() as i128;
            Box::new(DecimalNoise { millionths, limit: whole_limit(ty), prf })
        }
    };
    Ok((roughly_as_long(), mask))
}

struct DecimalNoise {
    /// Of a percent.
    millionths: i128,
    limit: Option<i128>,
    prf: Prf,
}

impl Mask for DecimalNoise {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        if is_special(value) {
            out.push_str(value);
            return Ok(());
        }
        let mut decimal = Decimal::parse(value).ok_or(NUMBER)?;
        let mut draws = self.prf.draws(value.as_bytes(), 0);
        let leading: String = decimal.digits.chars().take(NOISE_DIGITS).collect();
        let trailing = decimal.digits.len() - leading.len();
        let magnitude = if leading.is_empty() { 0 } else { leading.parse().map_err(|_| NUMBER)? };
        let width = leading.len() as u32;
        let noisy = self.noisy(magnitude, self.limit.unwrap_or(10_i128.pow(width) - 1), &mut draws);
        decimal.digits = match trailing {
            0 => noisy.to_string(),
            // Each of the further digits is less than the noise anyhow.
            _ => format!("{noisy}{}", (0..trailing).map(|_| draws.digit()).collect::<String>()),
        };
        decimal.write(out);
        Ok(())
    }
}

impl DecimalNoise {
    /// A number near `magnitude`, neither negative nor above `limit` (but where `magnitude` is above itself).
    fn noisy(&self, magnitude: i128, limit: i128, draws: &mut Draws<'_>) -> i128 {
        let drawn = i128::from(draws.below(2 * MILLION as u64 + 1)) - MILLION;
        let divisor = 100 * MILLION * MILLION;
        let product = magnitude * self.millionths * drawn;
        let delta = (product + product.signum() * (divisor / 2)) / divisor;
        match magnitude + delta > limit {
            true => magnitude - delta.abs(),
            false => magnitude + delta,
        }
    }
}

struct RealNoise {
    percent: f64,
    prf: Prf,
}

impl Mask for RealNoise {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        if is_special(value) {
            out.push_str(value);
            return Ok(());
        }
        let number = real(value)?;
        let drawn = self.prf.draws(value.as_bytes(), 0).below(2 * MILLION as u64 + 1) as f64 / MILLION as f64 - 1.0;
        let delta = number * (self.percent / 100.0 * drawn);
        write_real(within_reals(number, number + delta, number - delta), out);
        Ok(())
    }
}

/// A finite number as Postgres writes it.
fn real(text: &str) -> Result<f64, MaskError> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.e".contains(&byte));
    text.parse().ok().filter(|number: &f64| is_number && number.is_finite()).ok_or(NUMBER)
}

/// `result`, or `instead` where a `real` that holds `number` would over- or underflow with `result`, which Postgres refuses.
fn within_reals(number: f64, result: f64, instead: f64) -> f64 {
    let fits_real = number.abs() <= f64::from(f32::MAX);
    let over = !result.is_finite() || (fits_real && result.abs() > f64::from(f32::MAX));
    // A result of 0 is fine.
    let under = result != 0.0 && result.abs() < f64::from(f32::MIN_POSITIVE) && result.abs() < number.abs();
    if over || under { instead } else { result }
}

/// Plainly, or with an exponent where that would be long.
fn write_real(number: f64, out: &mut String) {
    let plain = number == 0.0 || (1e-5..1e15).contains(&number.abs());
    match plain {
        true => write!(out, "{number}"),
        false => write!(out, "{number:e}"),
    }
    .expect("a string takes all that is written");
}

/// The lower bound of the interval of `width` that a number or a day (counted from 2000-01-01, Postgres's epoch) is in.
pub(super) fn bucket(width: f64, ty: &ValueType) -> Result<Built, Unsuitable> {
    let refuse = |reason: String| Err(Unsuitable::Parameter { mask: "bucket", reason });
    let timed = *ty == ValueType::Timestamp;
    let days = timed || *ty == ValueType::Date;
    let most = if days { WIDTH_DAYS_MAX } else { *WIDTHS.end() };
    if !(*WIDTHS.start()..=most).contains(&width) {
        return refuse(format!("width is {width}, and must be {} to {most}", WIDTHS.start()));
    }
    if (days || whole_limit(ty).is_some()) && width.fract() != 0.0 {
        return refuse(format!("width is {width}, and must be a whole number for the type {ty}"));
    }
    let decimal = Decimal::parse(&width.to_string());
    let decimal = decimal.and_then(|width| Some((width.coefficient()?, width.scale)));
    let Some((coefficient, scale)) = decimal else {
        return refuse(format!("width is {width}, which has too many digits"));
    };
    let mask: Box<dyn Mask> = match ty {
        _ if days => Box::new(DateBucket { width: width as i64, timed }),
        ValueType::Real => Box::new(RealBucket { width, scale }),
        _ => Box::new(DecimalBucket { width: coefficient, width_scale: scale, limit: whole_limit(ty) }),
    };
    Ok((roughly_as_long(), mask))
}

/// The bucket of `number`; the one above where that is below `least`.
fn floor_to(number: i128, width: i128, least: i128) -> Option<i128> {
    let floor = number.checked_sub(number.rem_euclid(width))?;
    if floor < least { floor.checked_add(width) } else { Some(floor) }
}

struct DecimalBucket {
    /// `width` / 10^`width_scale`
    width: i128,
    width_scale: usize,
    limit: Option<i128>,
}

impl Mask for DecimalBucket {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        if is_special(value) {
            out.push_str(value);
            return Ok(());
        }
        let mut decimal = Decimal::parse(value).ok_or(NUMBER)?;
        match self.floor(&decimal) {
            Some(floor) => Decimal::of(floor, decimal.scale).write(out),
            None => {
                let zeros = decimal.digits.len().saturating_sub(BUCKET_DIGITS);
                decimal.digits.truncate(BUCKET_DIGITS);
                decimal.digits.extend(std::iter::repeat_n('0', zeros));
                decimal.write(out);
            }
        }
        Ok(())
    }
}

impl DecimalBucket {
    /// The bucket as a coefficient of the number's own scale, rounded down to it; `None` where an i128 is too short.
    fn floor(&self, decimal: &Decimal) -> Option<i128> {
        let scale = decimal.scale.max(self.width_scale);
        let power = |digits: usize| 10_i128.checked_pow(u32::try_from(digits).ok()?);
        let number = decimal.coefficient()?.checked_mul(power(scale - decimal.scale)?)?;
        let width = self.width.checked_mul(power(scale - self.width_scale)?)?;
        let least = self.limit.map_or(i128::MIN, |limit| -limit - 1);
        Some(floor_to(number, width, least)?.div_euclid(power(scale - decimal.scale)?))
    }
}

struct RealBucket {
    width: f64,
    /// Digits after the point of `width`: all that a bucket has.
    scale: usize,
}

impl Mask for RealBucket {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        /// Above, every f64 is a multiple of a whole number above 1.
        const EXACT: f64 = (1_u64 << f64::MANTISSA_DIGITS) as f64;
        if is_special(value) {
            out.push_str(value);
            return Ok(());
        }
        let number = real(value)?;
        let buckets = (number / self.width).floor();
        if buckets.abs() >= EXACT {
            // A bucket is narrower than what the number tells apart.
            out.push_str(value);
            return Ok(());
        }
        let floor = within_reals(number, buckets * self.width, (buckets + 1.0) * self.width);
        match floor.abs() < 1e15 {
            true => write!(out, "{:.*}", self.scale, floor + 0.0).expect("a string takes all that is written"),
            false => write_real(floor, out),
        }
        Ok(())
    }
}

struct DateBucket {
    /// Days.
    width: i64,
    timed: bool,
}

impl Mask for DateBucket {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        /// 2000-01-01
        const EPOCH: i64 = 10_957;
        if is_special(value) {
            out.push_str(value);
            return Ok(());
        }
        let Moment { day, time } = calendar::parse(value, self.timed).ok_or(DATE)?;
        let floor = EPOCH + (day - EPOCH).div_euclid(self.width) * self.width;
        let floor = if calendar::side_of_range(floor, self.timed).is_lt() { floor + self.width } else { floor };
        match self.timed {
            true => calendar::write(floor, &format!(" 00:00:00{}", calendar::zone(time)), out),
            false => calendar::write(floor, "", out),
        }
        Ok(())
    }
}

/// One of `values`, which may be the value itself.
pub(super) fn choice(values: &[String], key: &DomainKey) -> Result<Built, Unsuitable> {
    if values.is_empty() {
        let reason = "values is empty, and must have at least one entry".to_owned();
        return Err(Unsuitable::Parameter { mask: "choice", reason });
    }
    let longest = values.iter().map(|value| value.chars().count()).max().unwrap_or(0);
    let properties =
        Properties::new(Longest::Chars(longest), false).changing(Changes::AlmostAlways).writing(&values.concat());
    Ok((properties, Box::new(Choice { values: values.to_vec(), prf: key.function("choice") })))
}

struct Choice {
    values: Vec<String>,
    prf: Prf,
}

impl Mask for Choice {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        let at = self.prf.draws(value.as_bytes(), 0).below(self.values.len() as u64);
        out.push_str(&self.values[at as usize]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::MaskingKey;
    use super::*;

    fn masked(built: Result<Built, Unsuitable>, value: &str) -> String {
        let mut out = String::new();
        built.unwrap().1.apply(value, &mut out).unwrap();
        out
    }

    fn key() -> DomainKey {
        MaskingKey::new(&[7; 32]).unwrap().domain("statistics")
    }

    #[test]
    fn dates_shift_by_at_most_so_many_days_and_keep_their_time() {
        let mut shifts = std::collections::BTreeMap::new();
        for number in 0..10_000 {
            let mut date = String::new();
            calendar::write(number, "", &mut date);
            let shifted = masked(date_shift(3, &ValueType::Date, &key()), &date);
            *shifts.entry(calendar::parse(&shifted, false).unwrap().day - number).or_insert(0) += 1;
        }
        assert!(shifts.keys().copied().eq([-3, -2, -1, 1, 2, 3]), "{shifts:?}");
        assert!(shifts.values().all(|count| (1500..1850).contains(count)), "{shifts:?}");

        let shift = |value| masked(date_shift(30, &ValueType::Timestamp, &key()), value);
        assert!(shift("2024-02-29 12:34:56.789+05:30").ends_with(" 12:34:56.789+05:30"));
        assert!(shift("0044-03-15 12:00:00 BC").ends_with(" 12:00:00 BC"));
        assert_eq!(shift("-infinity"), "-infinity");
        for (first, last, ty) in [
            ("4714-11-24 BC", "5874897-12-31", ValueType::Date),
            ("4714-11-24 00:00:00 BC", "294276-12-31 23:59:59.999999", ValueType::Timestamp),
        ] {
            let day = |text: &str| calendar::parse(text, ty == ValueType::Timestamp).unwrap().day;
            for max_days in 1..100 {
                let shifted = |value: &str| day(&masked(date_shift(max_days, &ty, &key()), value));
                assert!(shifted(first) > day(first) && shifted(last) < day(last));
            }
        }
    }

    #[test]
    fn noise_stays_near_and_in_the_type() {
        for number in 1..10_000_i64 {
            let of = |text: &str, ty| masked(noise(10.0, &ty, &key()), text);
            let near = |text: String| (text.parse::<f64>().unwrap() / number as f64 - 1.0).abs() <= 0.11 || number < 10;
            let (numeric, real) =
                (of(&format!("{number}.00"), ValueType::Numeric), of(&number.to_string(), ValueType::Real));
            assert_eq!(numeric.split_once('.').map(|(_, fraction)| fraction.len()), Some(2));
            assert!(near(numeric) && near(real) && near(of(&number.to_string(), ValueType::BigInt)));
        }
        let of = |text: &str, ty| masked(noise(100.0, &ty, &key()), text);
        for text in ["32767", "-32768", "32000"] {
            assert!(of(text, ValueType::SmallInt).parse::<i16>().is_ok());
        }
        for text in ["9223372036854775807", "-9223372036854775808"] {
            assert!(of(text, ValueType::BigInt).parse::<i64>().is_ok());
        }
        for text in ["9".repeat(200), format!("-{}.5", "9".repeat(50)), "0.9".to_owned(), "99.99".to_owned()] {
            let noisy = of(&text, ValueType::Numeric);
            assert!(noisy.len() <= text.len() && noisy != text, "{noisy}");
        }
        for text in ["3.4028235e+38", "1e-45", "1.2e-38", "-3.4e+38"] {
            let noisy: f64 = of(text, ValueType::Real).parse().unwrap();
            assert!((noisy as f32).is_finite() && noisy as f32 != 0.0, "{noisy}");
        }
        assert_eq!(of("NaN", ValueType::Real), "NaN");
        assert_eq!(of("0.00", ValueType::Numeric), "0.00");
    }

    #[test]
    fn buckets_begin_below() {
        for (width, ty, value, floor) in [
            (10.0, ValueType::Integer, "37", "30"),
            (10.0, ValueType::Integer, "-37", "-40"),
            (1000.0, ValueType::SmallInt, "-32768", "-32000"),
            (0.25, ValueType::Numeric, "12.30", "12.25"),
            (2.5, ValueType::Numeric, "9", "7"),
            (0.1, ValueType::Real, "0.37", "0.3"),
            (100.0, ValueType::Real, "1e+20", "1e+20"),
            (10.0, ValueType::Real, "-0.5", "-10"),
            (7.0, ValueType::Date, "2000-01-12", "2000-01-08"),
            (30.0, ValueType::Timestamp, "1999-12-31 10:00:00.5+02", "1999-12-02 00:00:00+02"),
            (10.0, ValueType::Date, "infinity", "infinity"),
        ] {
            assert_eq!(masked(bucket(width, &ty), value), floor);
        }
        let long = masked(bucket(10.0, &ValueType::Numeric), &"7".repeat(60));
        assert_eq!(long, format!("{}{}", "7".repeat(15), "0".repeat(45)));
    }
}
