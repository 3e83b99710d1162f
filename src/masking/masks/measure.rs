//! How long a mask takes. `cargo test --release -- --ignored --nocapture`
//!
//! Question: does masking keep up with COPY, a microsecond a value at most? Unit: nanoseconds for each `apply` on one thread, values of 6 to
//! 25 characters made beforehand; the baseline, in the same run, is `keep`. The best of five rounds: a shared machine only adds.

use super::spec::Alphabet;
use super::*;
use std::time::Instant;

const VALUES: usize = 100_000;
const ROUNDS: usize = 5;

/// A mask, a type, and its values by number.
type Case<'a> = (MaskSpec, ValueType, &'a dyn Fn(usize) -> String);

#[test]
#[ignore = "a measurement, of use in release mode only"]
fn nanoseconds_of_each_mask() {
    let simple = |name: &str| MaskSpec::simple(name).unwrap();
    let text = |number: usize| format!("Value of {number}");
    let number = |number: usize| (number + 1).to_string();
    let phone = |number: usize| format!("+49 30 {number:08}");
    let date = |number: usize| format!("2024-{:02}-{:02}", 1 + number % 12, 1 + number % 28);
    let cases: [Case; 16] = [
        (simple("keep"), ValueType::Text, &text),
        (simple("email"), ValueType::Text, &|number| format!("user{number}@mail.org")),
        (simple("name"), ValueType::Text, &text),
        (MaskSpec::Int { min: 1, max: 1_000_000 }, ValueType::Integer, &number),
        (MaskSpec::Int { min: 1, max: 1 << 40 }, ValueType::BigInt, &number),
        (simple("hmac"), ValueType::Text, &text),
        (simple("phone"), ValueType::Text, &phone),
        (simple("uuid"), ValueType::Uuid, &|number| format!("a0eebc99-9c0b-4ef8-bb6d-{number:012x}")),
        (simple("ip"), ValueType::Inet, &|number| std::net::Ipv4Addr::from_bits(number as u32).to_string()),
        (simple("ip"), ValueType::Inet, &|number| {
            std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | number as u128).to_string()
        }),
        (simple("url"), ValueType::Text, &|number| format!("https://x.org/{number}")),
        (simple("card"), ValueType::Text, &|number| format!("4{number:015}")),
        (simple("iban"), ValueType::Text, &|number| format!("DE00{number:018}")),
        (MaskSpec::Fpe { alphabet: Alphabet::Digits }, ValueType::Text, &|number| format!("{number:012}")),
        (MaskSpec::DateShift { max_days: 30 }, ValueType::Date, &date),
        (MaskSpec::Noise { percent: 5.0 }, ValueType::Numeric, &number),
    ];
    for (spec, ty, value) in cases {
        let values: Vec<String> = (0..VALUES).map(value).collect();
        let masker = Masker::new(&spec, &ty, &MaskingKey::new(&[7; 32]).unwrap().domain("d")).unwrap();
        let round = || {
            let (mut out, started) = (String::with_capacity(100), Instant::now());
            for value in &values {
                out.clear();
                masker.apply(value, &mut out).unwrap();
                std::hint::black_box(&out);
            }
            started.elapsed().as_nanos() / VALUES as u128
        };
        let best = (0..ROUNDS).map(|_| round()).min().unwrap();
        println!("{best:6} ns  {spec:?} on {ty}");
    }
}
