//! Addresses: IP addresses that keep which of them are neighbours, and URLs.

use super::key::{DomainKey, Prf};
use super::masker::{Built, Changes, Longest, Mask, MaskError, Properties, until_changed};
use aes::Aes128;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `ffff:...:ffff/128`
const LONGEST_IP: usize = 39 + 4;
/// 50 bits: hosts are few.
const HOST_CHARS: usize = 10;
const HOST_SUFFIX: &str = ".example.com/";
/// 80 bits, as accounts have.
const TOKEN_CHARS: usize = 16;
/// Kept; in place of any other scheme, which could be anything that somebody wrote before `://`, stands the first.
const SCHEMES: [&str; 24] = [
    "https",
    "http",
    "amqp",
    "amqps",
    "file",
    "ftp",
    "ftps",
    "git",
    "imap",
    "jdbc",
    "ldap",
    "ldaps",
    "mongodb",
    "mysql",
    "postgres",
    "postgresql",
    "redis",
    "rediss",
    "s3",
    "sftp",
    "smtp",
    "ssh",
    "ws",
    "wss",
];

/// Prefix-preserving permutations of the IPv4 and of the IPv6 addresses.
pub(super) fn ip(key: &DomainKey) -> Built {
    let mask = Ip { v4: Prefixes::new("ipv4", key), v6: Prefixes::new("ipv6", key) };
    (Properties::new(Longest::Chars(LONGEST_IP), true).changing(Changes::AlmostAlways), Box::new(mask))
}

struct Ip {
    v4: Prefixes,
    v6: Prefixes,
}

impl Mask for Ip {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        const MALFORMED: MaskError = MaskError::Malformed { expected: "an IP address, with or without /bits" };
        let (address, netmask) = match value.split_once('/') {
            Some((address, bits)) => (address, Some(netmask_bits(bits).ok_or(MALFORMED)?)),
            None => (value, None),
        };
        let (masked, width) = match address.parse().map_err(|_| MALFORMED)? {
            IpAddr::V4(v4) => {
                let masked = self.v4.masked_address(u128::from(v4.to_bits()) << 96, 32, netmask);
                (IpAddr::V4(Ipv4Addr::from_bits((masked >> 96) as u32)), 32)
            }
            IpAddr::V6(v6) => {
                (IpAddr::V6(Ipv6Addr::from_bits(self.v6.masked_address(v6.to_bits(), 128, netmask))), 128)
            }
        };
        if netmask.is_some_and(|bits| bits > width) {
            return Err(MALFORMED);
        }
        write!(out, "{masked}").expect("a string takes all that is written");
        if let Some(bits) = netmask {
            write!(out, "/{bits}").expect("a string takes all that is written");
        }
        Ok(())
    }
}

/// `0` to `128` as Postgres writes them.
fn netmask_bits(text: &str) -> Option<u32> {
    text.parse().ok().filter(|bits: &u8| bits.to_string() == text).map(u32::from)
}

/// Crypto-PAn (Xu, Fan, Ammar, Moon, "Prefix-Preserving IP Address Anonymization", 2002): whether a bit is flipped depends on the
/// bits before it. Where the original pads a prefix with secret bits, this pads with a one and zeros, which no other prefix gives.
struct Prefixes(Aes128);

impl Prefixes {
    fn new(kind: &str, key: &DomainKey) -> Self {
        let key = key.cipher_key(kind);
        let key: [u8; 16] = key[..16].try_into().expect("16 of 32 bytes");
        Self(Aes128::new(&key.into()))
    }

    /// The mask of an address of `width` bits, left-aligned. A network (`netmask` given, the bits after it zero) stays a network; a host with a netmask
    /// stays a host, or it would clash with the mask of its network.
    fn masked_address(&self, address: u128, width: u32, netmask: Option<u32>) -> u128 {
        let Some(bits) = netmask.filter(|bits| *bits < width) else { return self.flip(address, width) };
        let network_mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        if address & !network_mask == 0 {
            return self.flip(address, bits);
        }
        let masked = self.flip(address, width);
        match masked & !network_mask {
            // Walks the cycle of the host's bits: what zero goes to is not zero.
            0 => self.flip(address & network_mask, width),
            _ => masked,
        }
    }

    /// Flips what the key says of the first `count` bits.
    fn flip(&self, address: u128, count: u32) -> u128 {
        let block = |at: u32| {
            let prefix = address & u128::MAX.checked_shl(128 - at).unwrap_or(0);
            Array::from((prefix | 1 << (127 - at)).to_be_bytes())
        };
        let mut blocks: Vec<_> = (0..count).map(block).collect();
        self.0.encrypt_blocks(&mut blocks);
        let bit = |(at, block): (usize, &Array<u8, _>)| u128::from(block[0] >> 7) << (127 - at);
        address ^ blocks.iter().enumerate().map(bit).fold(0, |all, bit| all | bit)
    }
}

/// `<scheme>://<host of its own>.example.com/<token of its own>`
pub(super) fn url(key: &DomainKey) -> Built {
    let scheme = SCHEMES.iter().map(|scheme| scheme.len()).max().unwrap_or(0);
    let longest = Longest::Chars(scheme + "://".len() + HOST_CHARS + HOST_SUFFIX.len() + TOKEN_CHARS);
    let mask = Url { host: key.function("url host"), token: key.function("url") };
    (Properties::new(longest, true), Box::new(mask))
}

struct Url {
    host: Prf,
    token: Prf,
}

impl Mask for Url {
    fn apply(&self, value: &str, out: &mut String) -> Result<(), MaskError> {
        let (scheme, rest) = value.split_once("://").unwrap_or((SCHEMES[0], value));
        let scheme = SCHEMES.iter().find(|known| known.eq_ignore_ascii_case(scheme)).unwrap_or(&SCHEMES[0]);
        let host = host_of(rest).to_ascii_lowercase();
        until_changed(value, out, |attempt, out| {
            out.push_str(scheme);
            out.push_str("://");
            self.host.draws(host.as_bytes(), 0).base32(HOST_CHARS, out);
            out.push_str(HOST_SUFFIX);
            self.token.draws(value.as_bytes(), attempt).base32(TOKEN_CHARS, out);
        })
    }
}

/// The host in what follows `://`, without login and port.
fn host_of(rest: &str) -> &str {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let host = authority.rsplit('@').next().unwrap_or("");
    match host.starts_with('[') {
        true => host.split(']').next().unwrap_or(""),
        false => host.split(':').next().unwrap_or(""),
    }
}

#[cfg(test)]
mod tests {
    use super::super::MaskingKey;
    use super::*;

    #[test]
    fn addresses_share_as_long_a_prefix_as_before() {
        let prefixes = Prefixes::new("ipv4", &MaskingKey::new(&[7; 32]).unwrap().domain("hosts"));
        let pairs = [("10.1.2.3", "10.1.2.4"), ("10.1.2.3", "10.1.128.3"), ("10.0.0.1", "138.0.0.1")];
        for (one, other) in pairs {
            let bits = |text: &str| u128::from(text.parse::<Ipv4Addr>().unwrap().to_bits()) << 96;
            let masked = |text: &str| prefixes.masked_address(bits(text), 32, None);
            let shared = (bits(one) ^ bits(other)).leading_zeros();
            assert_eq!((masked(one) ^ masked(other)).leading_zeros(), shared);
        }
    }

    #[test]
    fn networks_and_hosts_keep_apart() {
        let prefixes = Prefixes::new("ipv4", &MaskingKey::new(&[7; 32]).unwrap().domain("hosts"));
        for network in (0..64_u128).map(|n| n << 100) {
            let mut seen = std::collections::HashSet::new();
            for host in 0..16_u128 {
                let masked = prefixes.masked_address(network | host << 96, 32, Some(28));
                assert_eq!(masked << 28 == 0, host == 0);
                assert!(seen.insert(masked));
            }
        }
    }

    #[test]
    fn the_host_of_a_url_is_found() {
        assert_eq!(host_of("me:secret@db.example:5432/shop?x=1"), "db.example");
        assert_eq!(host_of("[::1]:80/"), "[::1");
        assert_eq!(host_of(""), "");
    }
}
