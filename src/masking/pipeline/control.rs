//! The positive control: a small cluster like the masked one, in which a canary lies for every masked column, in every way in which Postgres
//! stores values of its type. A scan that does not find each of them there would not have found a raw value either.

use super::fresh::{Fresh, Shape};
use crate::compute::Installation;
use crate::masking::MaskingError;
use crate::masking::catalog::literal;
use crate::masking::scan::SecretKind;
use crate::model::Entropy;
use crate::settings::ComputeSettings;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A value that stands for a raw one.
pub(in crate::masking) struct Canary {
    pub kind: SecretKind,
    pub value: String,
    way: Way,
}

/// How it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Plain,
    /// Within a long text that Postgres compresses.
    Compressed,
    /// Within a long text that it cuts into pieces.
    InPieces,
    /// Within a document.
    Document,
}

/// Rows of one INSERT.
const BATCH: usize = 200;
/// Filling around a canary: long enough to be moved out of its row.
const FILLING: usize = 6000;

const TABLE: &str = "
    CREATE TABLE canary (
        number integer PRIMARY KEY, as_text text, as_compressed text, as_pieces text, as_document jsonb, as_integer bigint,
        as_numeric numeric, as_uuid uuid, as_inet inet, as_timestamp timestamptz, as_bytea bytea, as_float double precision);
    ALTER TABLE canary ALTER as_pieces SET STORAGE EXTERNAL;
    CREATE INDEX ON canary (as_text)";

impl Canary {
    /// Canaries for a masked column whose values are of this kind.
    pub(in crate::masking) fn of(kind: SecretKind, entropy: &Entropy) -> Vec<Canary> {
        let ways: &[Way] = match kind {
            SecretKind::Text => &[Way::Plain, Way::Compressed, Way::InPieces, Way::Document],
            _ => &[Way::Plain],
        };
        ways.iter().map(|way| Canary { kind, value: value(kind, entropy), way: *way }).collect()
    }

    /// The column of the control table, and what goes into it.
    fn placed(&self) -> (&'static str, String) {
        let filling = "the quick brown fox jumps over the lazy dog ".repeat(FILLING / 44);
        match (self.kind, self.way) {
            (SecretKind::Text, Way::Plain) => ("as_text", self.value.clone()),
            (SecretKind::Text, Way::Compressed) => ("as_compressed", format!("{filling}{}{filling}", self.value)),
            (SecretKind::Text, Way::InPieces) => ("as_pieces", format!("{filling}{}{filling}", self.value)),
            (SecretKind::Text, Way::Document) => ("as_document", format!("{{\"key\": \"{}\"}}", self.value)),
            (SecretKind::Integer(_), _) => ("as_integer", self.value.clone()),
            (SecretKind::Numeric, _) => ("as_numeric", self.value.clone()),
            (SecretKind::Uuid, _) => ("as_uuid", self.value.clone()),
            (SecretKind::Inet, _) => ("as_inet", self.value.clone()),
            (SecretKind::Timestamp | SecretKind::Date, _) => ("as_timestamp", self.value.clone()),
            (SecretKind::Bytea, _) => ("as_bytea", self.value.clone()),
            (SecretKind::Float, _) => ("as_float", self.value.clone()),
        }
    }
}

/// A value of the kind that is nowhere else.
fn value(kind: SecretKind, entropy: &Entropy) -> String {
    let bits = entropy.bits();
    let hexadecimal = format!("{bits:032x}");
    match kind {
        SecretKind::Text => format!("Canary {}", &hexadecimal[..20]),
        // Beyond the 40 bits from which on eight bytes are searched for.
        SecretKind::Integer(_) => ((bits as u64 >> 4) | 1 << 59).to_string(),
        SecretKind::Numeric => format!("{}.{}", (bits as u64) | 1 << 63, (bits >> 70) as u64 | 1 << 55),
        SecretKind::Uuid => {
            let part = |from: usize, to: usize| &hexadecimal[from..to];
            format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
        }
        SecretKind::Inet => {
            let groups: Vec<&str> = (0..8).map(|group| &hexadecimal[group * 4..group * 4 + 4]).collect();
            let address: std::net::Ipv6Addr = groups.join(":").parse().unwrap_or(std::net::Ipv6Addr::LOCALHOST);
            address.to_string()
        }
        SecretKind::Timestamp | SecretKind::Date => {
            let pick = |shift: u32, count: u128| (bits >> shift) % count;
            format!(
                "{}-{:02}-{:02} {:02}:{:02}:{:02}.{:06}+00",
                1950 + pick(0, 100),
                1 + pick(8, 12),
                1 + pick(16, 28),
                pick(24, 24),
                pick(32, 60),
                pick(40, 60),
                100_001 + pick(48, 899_998) / 10 * 10
            )
        }
        SecretKind::Bytea => format!("\\x{hexadecimal}"),
        SecretKind::Float => format!("{:.9}", 1000.0 + (bits as u32) as f64 / 1024.0 + 0.123_456_7),
    }
}

/// Makes the cluster in `folder`, plants the canaries, and stops it. Returns its data directory.
pub(super) async fn plant(
    folder: &Path,
    settings: &ComputeSettings,
    installation: Installation,
    shape: &Shape,
    canaries: &[Canary],
) -> Result<PathBuf, MaskingError> {
    let mut fresh = Fresh::make(folder, settings, installation, shape, BTreeMap::new()).await?;
    fresh.start().await?;
    let mut connection = fresh.connect("postgres").await?;
    // The server answers several statements at once with the last one's rows.
    for statement in TABLE.split(';') {
        connection.query(&format!("SET search_path = public; {statement}")).await?;
    }
    for (batch, canaries) in canaries.chunks(BATCH).enumerate() {
        let mut statement = String::from("SET search_path = public;");
        for (at, canary) in canaries.iter().enumerate() {
            let (column, content) = canary.placed();
            let number = batch * BATCH + at;
            statement += &format!("INSERT INTO canary (number, {column}) VALUES ({number}, {});", literal(&content));
        }
        connection.query(&statement).await?;
    }
    drop(connection);
    fresh.stop().await?;
    Ok(fresh.data_dir())
}
