//! What Postgres writes to disk for a value it prints: the bytes of a uuid, an integer, a numeric and so on.
//!
//! Pure functions from printed text to bytes; `None` where the text is no such value. All numbers are little-endian, as on every machine that
//! Offshoot's computes run on.

use std::net::IpAddr;

/// Microseconds from 1970-01-01 to 2000-01-01, Postgres's epoch (`datatype/timestamp.h`).
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;
const DAY_MICROS: i64 = 86_400_000_000;

/// `uuid.c`: 16 bytes in the order of the text.
pub(super) fn uuid(text: &str) -> Option<Vec<u8>> {
    let digits: String = text.chars().filter(|c| !matches!(c, '-' | '{' | '}')).collect();
    from_hex(&digits).filter(|bytes| bytes.len() == 16)
}

/// A bytea as `bytea_output = hex` prints it: `\x` and two digits a byte (`bytea.c`).
pub(super) fn bytea(text: &str) -> Option<Vec<u8>> {
    from_hex(text.strip_prefix("\\x")?)
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let nibbles: Option<Vec<u8>> = digits.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let nibbles = nibbles.filter(|nibbles| nibbles.len() % 2 == 0)?;
    Some(nibbles.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// The base-10000 digits of a numeric, each a `u16`, without zeros at either end, as after the header of both its forms (`numeric.c`,
/// `NumericShort` and `NumericLong`). Sign, weight and scale stand in that header, which is not part of what is returned.
pub(super) fn numeric_digits(text: &str) -> Option<Vec<u8>> {
    let unsigned = text.trim_start_matches(['-', '+']);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let decimal = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if unsigned.is_empty() || !decimal(whole) || !decimal(fraction) {
        return None;
    }
    // Groups of four count from the decimal point, to both sides.
    let padded = "0".repeat((4 - whole.len() % 4) % 4) + whole + fraction + &"0".repeat((4 - fraction.len() % 4) % 4);
    let group = |four: &[u8]| four.iter().fold(0u16, |sum, digit| sum * 10 + u16::from(digit - b'0'));
    let groups: Vec<u16> = padded.as_bytes().chunks_exact(4).map(group).collect();
    let start = groups.iter().position(|group| *group != 0)?;
    let end = groups.iter().rposition(|group| *group != 0)? + 1;
    Some(groups[start..end].iter().flat_map(|group| group.to_le_bytes()).collect())
}

/// An address with its length of the network, in bits.
pub(super) struct Inet {
    address: IpAddr,
    bits: u8,
}

impl Inet {
    pub(super) fn parse(text: &str) -> Option<Inet> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        Some(Inet { address, bits: bits.unwrap_or(if address.is_ipv4() { 32 } else { 128 }) })
    }

    /// `inet_struct` (`utils/inet.h`): family (2 or 3), bits, address.
    fn structure(&self) -> Vec<u8> {
        match self.address {
            IpAddr::V4(address) => [&[2, self.bits][..], &address.octets()].concat(),
            IpAddr::V6(address) => [&[3, self.bits][..], &address.octets()].concat(),
        }
    }

    /// As in a tuple. An IPv4 address is too short by itself, and has the one-byte varlena header before it that tuples give it (`varatt.h`:
    /// length 7, shifted left, plus 1).
    pub(super) fn in_tuple(&self) -> Vec<u8> {
        let structure = self.structure();
        match self.address {
            IpAddr::V4(_) => [&[0x0f][..], &structure].concat(),
            IpAddr::V6(_) => structure,
        }
    }

    /// As in an array, `pg_statistic`'s too: with a four-byte header (length 10, shifted left by 2). Of IPv6, [`Inet::in_tuple`] finds that.
    pub(super) fn in_array(&self) -> Option<Vec<u8>> {
        self.address.is_ipv4().then(|| [&[0x28, 0, 0, 0][..], &self.structure()].concat())
    }
}

/// Microseconds since 2000-01-01 UTC of what `timestamp` and `timestamptz` print under `DateStyle = ISO`: `2024-05-06 07:08:09.123456+05:30`.
/// `None` for a whole day, and for what is not of that form.
pub(super) fn timestamp_micros(text: &str) -> Option<i64> {
    let (date, rest) = text.split_once([' ', 'T'])?;
    let (time, zone) = split_zone(rest);
    let mut parts = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let mut parts = time.splitn(3, ':');
    let (hours, minutes): (i64, i64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let (seconds, fraction) = parts.next().map(|s| s.split_once('.').unwrap_or((s, "")))?;
    let micros: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    let of_day = (hours * 3600 + minutes * 60 + seconds.parse::<i64>().ok()?) * 1_000_000 + micros;
    if of_day == 0 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let zone_seconds = if zone.is_empty() { 0 } else { zone_seconds(zone)? };
    Some(days_since_1970(year, month, day) * DAY_MICROS + of_day - zone_seconds * 1_000_000 - POSTGRES_EPOCH_MICROS)
}

/// A timestamp's text without its zone: which zone it is printed in is the session's choice.
pub(super) fn without_zone(text: &str) -> &str {
    let Some(time) = text.find([' ', 'T']).map(|blank| blank + 1) else { return text };
    &text[..time + split_zone(&text[time..]).0.len()]
}

/// `07:08:09+05:30` as time and zone.
fn split_zone(time: &str) -> (&str, &str) {
    time.split_at(time.find(['+', '-']).unwrap_or(time.len()))
}

/// Seconds east of UTC of `+05`, `-03:30` or `+00:19:32`.
fn zone_seconds(zone: &str) -> Option<i64> {
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let mut unit = 3600;
    let mut seconds = 0;
    for part in zone[1..].split(':') {
        seconds += part.parse::<i64>().ok()? * unit;
        unit /= 60;
    }
    Some(sign * seconds)
}

/// Days from 1970-01-01 in the Gregorian calendar; years count from March, so that the leap day is a year's last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// A float8 that is neither integral nor of few digits: those are everywhere.
pub(super) fn float8(text: &str) -> Option<[u8; 8]> {
    let value: f64 = text.parse().ok()?;
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let significant = digits.trim_matches('0').len();
    (value.is_finite() && value.fract() != 0.0 && significant >= 6).then(|| value.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_count_from_2000() {
        assert_eq!(timestamp_micros("2000-01-01 00:00:01"), Some(1_000_000));
        assert_eq!(timestamp_micros("2000-01-01 05:30:01.5+05:30"), Some(1_500_000));
        assert_eq!(timestamp_micros("1999-12-31 23:59:59+00"), Some(-1_000_000));
        assert_eq!(timestamp_micros("2024-02-29 12:00:00"), Some((8825 * 86_400 + 43_200) * 1_000_000));
        for none in ["2024-02-29", "2024-02-29 00:00:00", "infinity", "Thu Feb 29 12:00:00 2024"] {
            assert_eq!(timestamp_micros(none), None, "{none}");
        }
        assert_eq!(without_zone("2024-02-29 12:00:00.25-03:30"), "2024-02-29 12:00:00.25");
    }

    #[test]
    fn numerics_are_grouped_from_their_point() {
        let words = |words: &[u16]| Some(words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
        assert_eq!(numeric_digits("-12345.678"), words(&[1, 2345, 6780]));
        assert_eq!(numeric_digits("100000000.5000"), words(&[1, 0, 0, 5000]));
        assert_eq!(numeric_digits("0.00001234"), words(&[1234]));
        for none in ["NaN", "0.00", "", "1e5"] {
            assert_eq!(numeric_digits(none), None, "{none}");
        }
    }

    #[test]
    fn addresses_are_as_inet_stores_them() {
        let v4 = Inet::parse("10.1.2.3/8").expect("an address");
        assert_eq!(v4.in_tuple(), [0x0f, 2, 8, 10, 1, 2, 3]);
        assert_eq!(v4.in_array().expect("of IPv4"), [0x28, 0, 0, 0, 2, 8, 10, 1, 2, 3]);
        assert_eq!(Inet::parse("2001:db8::1").expect("an address").in_tuple()[..4], [3, 128, 0x20, 0x01]);
        assert!(Inet::parse("10.1.2").is_none());
    }

    #[test]
    fn only_floats_of_some_precision_count() {
        assert!(float8("3.14159265").is_some());
        for none in ["12345678", "0.5", "1e300", "NaN", "12.25"] {
            assert!(float8(none).is_none(), "{none}");
        }
    }
}
