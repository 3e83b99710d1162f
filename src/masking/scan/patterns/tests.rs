//! Every encoding is found wherever it lies, nothing is found that differs in a byte, and how fast that goes.

use super::super::sieve::PADDING;
use super::super::tail::Tail;
use super::*;
use std::time::Instant;

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.div_ceil(8))
            .flat_map(|_| self.next().wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes())
            .take(length)
            // Beside a digit a short number is part of another one.
            .map(|byte| if byte.is_ascii_digit() { b'a' } else { byte })
            .collect()
    }
}

const SECRETS: [(SecretKind, &str); 12] = [
    (SecretKind::Text, "anna.petersen@example.com"),
    (SecretKind::Text, "O'Neill"),
    (SecretKind::Text, "Jos\u{e9} \"Pepe\" Mu\u{f1}oz\nLugo\u{ff}\u{fe}\u{fb}?>"),
    (SecretKind::Text, "+49 30 901820"),
    (SecretKind::Integer(8), "-8812345678901234"),
    (SecretKind::Integer(4), "1234567890"),
    (SecretKind::Numeric, "-12345678901234.5678"),
    (SecretKind::Uuid, "6f1c3b1e-0d6a-4b7e-9a53-5d2e8f7c1a90"),
    (SecretKind::Inet, "203.0.113.77"),
    (SecretKind::Timestamp, "1984-03-17 05:06:07.123456+01"),
    (SecretKind::Bytea, "\\x00ff10deadbeef4242"),
    (SecretKind::Float, "48.856614"),
];

fn built(secrets: &[(SecretKind, &str)]) -> Patterns {
    let mut builder = PatternsBuilder::new();
    for (label, (kind, value)) in secrets.iter().enumerate() {
        assert_ne!(builder.add(LabelId(label as u32), *kind, value), Added::TooShort, "{value}");
    }
    builder.build()
}

fn encoded(patterns: &Patterns, pattern: &Pattern) -> Vec<u8> {
    let mut bytes = Vec::new();
    pattern.form.encode(patterns.secrets.text(pattern.secret), &mut bytes);
    bytes
}

fn hits(patterns: &Patterns, data: &[u8]) -> Vec<Hit> {
    let padded = [data, &[0; PADDING]].concat();
    let mut all = Vec::new();
    patterns.search(&padded, data.len(), 0, &mut |hit| all.push(hit));
    all
}

#[test]
fn every_encoding_is_found_at_every_alignment_and_none_with_a_byte_changed() {
    let patterns = built(&SECRETS);
    let mut noise = Noise(7);
    for pattern in &patterns.patterns {
        let bytes = encoded(&patterns, pattern);
        let step = if pattern.form.source == Source::Integer4 { 4 } else { 1 };
        for at in (0..64).step_by(step) {
            let mut data = noise.bytes(at + bytes.len() + (at % 7));
            data[at..at + bytes.len()].copy_from_slice(&bytes);
            let label = LabelId(pattern.secret);
            let is_it = |hit: &Hit| {
                let encoding = hit.encoding == pattern.form.encoding(true);
                hit.range == (at..at + bytes.len()) && hit.label == label && encoding
            };
            assert!(hits(&patterns, &data).iter().any(is_it), "{:?} at {at}", pattern.form);
            let changed = at + (noise.next() as usize) % bytes.len();
            data[changed] ^= 0x81;
            assert!(!hits(&patterns, &data).iter().any(is_it), "{:?} at {at}, changed at {changed}", pattern.form);
        }
    }
}

#[test]
fn no_form_is_passed_over_because_most_of_it_is_zeros() {
    let sparse = [
        (SecretKind::Inet, "2001:db8::1"),
        (SecretKind::Inet, "2001:db8::"),
        (SecretKind::Inet, "2a00:1450::200e"),
        (SecretKind::Inet, "fe80::1"),
        (SecretKind::Uuid, "00000001-0000-0000-0000-000000000001"),
        (SecretKind::Uuid, "12345678-0000-0000-0000-0000deadbeef"),
        (SecretKind::Numeric, "100000000.5000"),
        (SecretKind::Numeric, "1200000000.99"),
        (SecretKind::Numeric, "1234000000005678"),
        (SecretKind::Integer(8), "1099511627776"),
        (SecretKind::Integer(8), "5497558138880"),
    ];
    // Longer than the places of an anchor that are compared: some are passed over.
    let among_zeros =
        |before: usize| format!("\\x{}5e1f7c9b3d2a4e61{}", "00".repeat(before), "00".repeat(248 - before));
    let among_zeros: Vec<String> = [0, 1, 5, 60, 121, 122, 123, 233, 241, 248].map(among_zeros).into();
    let sparse = sparse.into_iter().chain(among_zeros.iter().map(|value| (SecretKind::Bytea, value.as_str())));
    for (kind, value) in sparse.chain(SECRETS) {
        let patterns = built(&[(kind, value)]);
        assert_eq!(patterns.count(), Form::of(kind, value).len(), "{value}");
        for pattern in &patterns.patterns {
            let bytes = encoded(&patterns, pattern);
            let step = if pattern.class == Class::Aligned { 4 } else { 1 };
            for at in (0..200).step_by(step) {
                let mut data = vec![0; 200 + bytes.len() + 100];
                data[at..at + bytes.len()].copy_from_slice(&bytes);
                let is_it = |hit: &Hit| hit.range == (at..at + bytes.len());
                assert!(hits(&patterns, &data).iter().any(is_it), "{value}: {:?} among zeros at {at}", pattern.form);
            }
        }
    }
}

#[test]
fn a_short_number_is_not_met_within_a_longer_one() {
    let patterns = built(&[(SecretKind::Text, "0301234567"), (SecretKind::Text, "4000001234567899")]);
    let met = |text: &str| hits(&patterns, text.as_bytes()).len();
    assert_eq!(met("tel. 0301234567, 0301234567"), 2);
    assert_eq!(met("no. 40301234567 and 03012345670"), 0);
    assert_eq!(met("card 4000001234567899 and 94000001234567899"), 2);
}

#[test]
fn every_encoding_is_met_among_the_forms() {
    let patterns = built(&SECRETS);
    let met: std::collections::BTreeSet<Encoding> = patterns.patterns.iter().map(|p| p.form.encoding(true)).collect();
    assert_eq!(met.len(), 18, "{met:?}");
}

#[test]
fn a_stream_in_pieces_gives_each_match_once() {
    let patterns = built(&SECRETS);
    let mut noise = Noise(11);
    for pattern in &patterns.patterns {
        let bytes = encoded(&patterns, pattern);
        for piece in [1usize, 5, 64, 1000] {
            let mut data = noise.bytes(3000);
            data[1500..1500 + bytes.len()].copy_from_slice(&bytes);
            let (mut tail, mut met) = (Tail::default(), Vec::new());
            for piece in data.chunks(piece) {
                tail.bytes.extend_from_slice(piece);
                tail.search(&patterns, 0, &mut |hit, offset| met.push((offset, hit.range.len(), hit.encoding)));
            }
            met.retain(|found| *found == (1500, bytes.len(), pattern.form.encoding(true)));
            assert_eq!(met.len(), 1, "{:?} in pieces of {piece}", pattern.form);
        }
    }
}

#[test]
fn letters_are_found_in_either_case() {
    let patterns = built(&[(SecretKind::Text, "Anna.Petersen")]);
    for (text, encoding) in [
        ("Anna.Petersen", Encoding::Text),
        ("ANNA.PETERSEN", Encoding::CaseFolded),
        ("anna.petersen", Encoding::CaseFolded),
        ("416E6E612E506574657273656E", Encoding::Hex),
    ] {
        let met: Vec<Encoding> = hits(&patterns, text.as_bytes()).iter().map(|hit| hit.encoding).collect();
        assert_eq!(met, [encoding], "{text}");
    }
}

#[test]
fn a_long_value_is_found_by_its_middle() {
    let text: String = (0..90).map(|i| format!("{} ", i * i * i)).collect();
    let long: Vec<u8> = (0..=255).chain(0..100).collect();
    let hex = format!("\\x{}", long.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let patterns = built(&[(SecretKind::Text, &text), (SecretKind::Bytea, &hex)]);
    let found = hits(&patterns, text.as_bytes());
    assert_eq!(found[0].range.len(), MIDDLE);
    assert!(hits(&patterns, &long).iter().any(|hit| hit.encoding == Encoding::ByteaBytes));
    assert_eq!(hits(&patterns, &text.as_bytes()[..200]).len(), 0);
}

#[test]
fn secrets_that_look_alike_are_told_apart() {
    let names: Vec<String> = (0..2000).map(|i| format!("Customer number {i:08}")).collect();
    let secrets: Vec<(SecretKind, &str)> = names.iter().map(|name| (SecretKind::Text, name.as_str())).collect();
    let patterns = built(&secrets);
    let found = hits(&patterns, b"Customer number 00000007, Customer number 00001999, Customer number 00002000");
    let labels: Vec<u32> = found.iter().map(|hit| hit.label.0).collect();
    assert_eq!(labels, [7, 1999]);
}

#[test]
fn two_secrets_of_one_value_are_both_reported() {
    let patterns = built(&[(SecretKind::Text, "anna@x.org"), (SecretKind::Text, "anna@x.org")]);
    let mut labels: Vec<u32> = hits(&patterns, b"anna@x.org").iter().map(|hit| hit.label.0).collect();
    labels.sort();
    assert_eq!(labels, [0, 1]);
}

/// Question: how fast is the plain search of one thread. Unit: GB/s over 256 MiB held in memory, in pieces of 1 MiB. Baseline: the sum of the bytes.
/// `cargo test --release -- --ignored speed --nocapture`
#[test]
#[ignore = "a measurement, in release only"]
fn speed_of_the_plain_search() {
    let mut noise = Noise(3);
    let words: Vec<String> = (0..20_000)
        .map(|_| (0..3 + noise.next() % 7).map(|_| char::from(b'a' + (noise.next() >> 8) as u8 % 26)).collect())
        .collect();
    let mut text = Vec::new();
    while text.len() < 32 << 20 {
        text.extend_from_slice(words[noise.next() as usize % words.len()].as_bytes());
        text.push(b' ');
        if noise.next().is_multiple_of(9) {
            text.extend_from_slice(format!("{} {}@mail.example.org ", noise.next() >> 34, words[7]).as_bytes());
        }
    }
    let datas = [("text", text), ("noise", noise.bytes(32 << 20)), ("zeros", vec![0; 32 << 20])];
    for count in [1_000, 3_000, 10_000, 100_000] {
        for short in [false, true] {
            let mut builder = PatternsBuilder::new();
            let started = Instant::now();
            for i in 0..count {
                let (a, b) = (&words[noise.next() as usize % words.len()], &words[noise.next() as usize % words.len()]);
                let value = match i % 3 {
                    _ if short && i % 5 == 0 => format!("{:07}", noise.next() % 10_000_000),
                    0 => format!("{a}.{b}@mail.example.org"),
                    1 => format!("{a} {b} {}", noise.next() % 200),
                    _ => format!("+49 {} {}", noise.next() % 1000, noise.next() % 100_000_000),
                };
                if short || value.len() >= 13 {
                    builder.add(LabelId(i), SecretKind::Text, &value);
                }
            }
            let patterns = builder.build();
            let (built, size) = (started.elapsed(), patterns.size_bytes() >> 20);
            println!("{count} secrets, short {short}: {} patterns, {size} MiB, built in {built:?}", patterns.count());
            for (name, data) in &datas {
                measure(&patterns, name, data);
            }
        }
    }
}

fn measure(patterns: &Patterns, name: &str, data: &[u8]) {
    let gigabytes = |bytes: usize, started: Instant| bytes as f64 / 1e9 / started.elapsed().as_secs_f64();
    let started = Instant::now();
    let sum =
        data.chunks_exact(8).fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(word.try_into().expect("8"))));
    let baseline = gigabytes(data.len(), started);
    let mut padded = vec![0; (1 << 20) + PADDING];
    let (mut best, mut found) = (0f64, 0);
    for _ in 0..12 {
        let started = Instant::now();
        for piece in data.chunks(1 << 20) {
            padded[..piece.len()].copy_from_slice(piece);
            patterns.search(&padded, piece.len(), 0, &mut |_| found += 1);
        }
        best = best.max(gigabytes(data.len(), started));
    }
    println!("  {name:6} {best:.2} GB/s, {found} found; summing {baseline:.2} ({:x})", sum & 15);
}
