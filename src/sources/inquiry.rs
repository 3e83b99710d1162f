//! What a source says of itself before its backup starts, so that what cannot work fails before a byte is copied.

use super::ImportError;
use super::connection::{Connection, Purpose};
use super::conninfo::Server;
use crate::compute::MAJORS;
use std::collections::BTreeMap;

/// A source as it is now.
#[derive(Clone, Debug)]
pub(super) struct Inquiry {
    pub major: u32,
    /// Bytes of a WAL segment.
    pub wal_segment_size: u64,
    /// Settings that live outside the data directory.
    pub settings: BTreeMap<String, String>,
    /// The name we log in with, when it is a superuser's.
    pub superuser: Option<String>,
}

/// Settings that this module itself looks at.
const ASKED: [&str; 7] = [
    "server_version",
    "server_version_num",
    "wal_level",
    "wal_segment_size",
    "max_replication_slots",
    "is_superuser",
    "config_file",
];

/// Settings that change what a statement means, returns or plans, or without which recovery fails. Taken along where the source keeps its
/// configuration outside the data directory. What the source refuses to tell (preload libraries, to all but superusers and
/// `pg_read_all_settings`) is left out.
const CARRIED: [&str; 54] = [
    "array_nulls",
    "backslash_quote",
    "bytea_output",
    "constraint_exclusion",
    "cpu_index_tuple_cost",
    "cpu_operator_cost",
    "cpu_tuple_cost",
    "datestyle",
    "deadlock_timeout",
    "default_statistics_target",
    "default_table_access_method",
    "default_text_search_config",
    "default_toast_compression",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "effective_cache_size",
    "enable_partitionwise_aggregate",
    "enable_partitionwise_join",
    "escape_string_warning",
    "extra_float_digits",
    "from_collapse_limit",
    "hash_mem_multiplier",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "join_collapse_limit",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "maintenance_work_mem",
    "max_locks_per_transaction",
    "max_parallel_workers",
    "max_parallel_workers_per_gather",
    "max_prepared_transactions",
    "max_worker_processes",
    "password_encryption",
    "plan_cache_mode",
    "random_page_cost",
    "row_security",
    "search_path",
    "seq_page_cost",
    "session_preload_libraries",
    "shared_preload_libraries",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
    "track_commit_timestamp",
    "transform_null_equals",
    "wal_level",
    "work_mem",
    "xmlbinary",
    "xmloption",
];

/// A replication connection to `server`, and what it says of itself.
pub(super) async fn inquire(server: &Server) -> Result<(Connection, Inquiry), ImportError> {
    let mut connection = match Connection::open(server, Purpose::Replication).await {
        // With wal_level = minimal no WAL sender is allowed, and this is all that is heard of it.
        Err(error @ ImportError::MaxWalSenders { .. }) => return Err(explain_no_sender(server, error).await),
        opened => opened?,
    };
    let names: Vec<&str> = ASKED.into_iter().chain(CARRIED).chain(["data_directory"]).collect();
    let known = show(&mut connection, &names).await?;
    let inquiry = judge(&connection, &known)?;
    Ok((connection, inquiry))
}

/// A source that is copied by queries: its major version, and all settings that change what a statement means, since no file comes along.
pub(crate) async fn inquire_settings(server: &Server) -> Result<(u32, BTreeMap<String, String>), ImportError> {
    let mut connection = Connection::open(server, Purpose::Queries("postgres")).await?;
    let names: Vec<&str> = ["server_version_num", "server_version"].into_iter().chain(CARRIED).collect();
    let mut known = show(&mut connection, &names).await?;
    let mut asked = |name: &str| known.remove(name).unwrap_or_default();
    let (number, version) = (asked("server_version_num"), asked("server_version"));
    let major = number.parse::<u32>().map_err(|_| connection.protocol("its server_version_num is no number"))? / 10_000;
    match MAJORS.contains(&major) {
        true => Ok((major, known)),
        false => Err(ImportError::UnsupportedVersion { version }),
    }
}

/// The values of settings, without those that the server does not know or tell.
async fn show(connection: &mut Connection, names: &[&str]) -> Result<BTreeMap<String, String>, ImportError> {
    let commands: Vec<String> = names.iter().map(|name| format!("SHOW {name}")).collect();
    connection.send_commands(&commands).await?;
    let mut known = BTreeMap::new();
    for name in names {
        if let Ok(rows) = connection.answer().await?
            && let Some(Some(value)) = rows.into_iter().flatten().next()
        {
            known.insert((*name).to_owned(), value);
        }
    }
    Ok(known)
}

fn judge(connection: &Connection, known: &BTreeMap<String, String>) -> Result<Inquiry, ImportError> {
    let asked = |name: &str| known.get(name).ok_or_else(|| connection.protocol(format!("it does not tell its {name}")));
    let number =
        |name: &str| asked(name)?.parse::<u32>().map_err(|_| connection.protocol(format!("its {name} is no number")));
    let target = connection.target.clone();

    let major = number("server_version_num")? / 10_000;
    if !MAJORS.contains(&major) {
        return Err(ImportError::UnsupportedVersion { version: asked("server_version")?.clone() });
    }
    let level = asked("wal_level")?;
    if level == "minimal" {
        return Err(ImportError::WalLevel { target, level: level.clone() });
    }
    if number("max_replication_slots")? == 0 {
        return Err(ImportError::MaxReplicationSlots { target, message: "max_replication_slots = 0".to_owned() });
    }
    let segment = asked("wal_segment_size")?;
    let wal_segment_size =
        bytes(segment).ok_or_else(|| connection.protocol(format!("its wal_segment_size is {segment}")))?;

    let own_config = known.get("data_directory").map(|directory| format!("{directory}/postgresql.conf"));
    let config_comes_along = own_config.is_some() && own_config.as_ref() == known.get("config_file");
    let settings =
        CARRIED.iter().filter_map(|name| known.get_key_value(*name).map(|(name, value)| (name.clone(), value.clone())));
    Ok(Inquiry {
        major,
        wal_segment_size,
        settings: if config_comes_along { BTreeMap::new() } else { settings.collect() },
        superuser: (asked("is_superuser")? == "on").then(|| connection.user.clone()),
    })
}

/// Asks over an ordinary connection, if that can be had, whether it is `wal_level` that is too low.
async fn explain_no_sender(server: &Server, error: ImportError) -> ImportError {
    let level = async {
        let mut connection = Connection::open(server, Purpose::Queries("postgres")).await.ok()?;
        let known = show(&mut connection, &["wal_level"]).await.ok()?;
        Some((connection.target, known.get("wal_level")?.clone()))
    };
    match level.await {
        Some((target, level)) if level == "minimal" => ImportError::WalLevel { target, level },
        _ => error,
    }
}

/// A size as SHOW prints it: `16MB`.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match &text[digits..] {
        "" | "B" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(1 << unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_shown() {
        assert_eq!(bytes("16MB"), Some(16 << 20));
        assert_eq!(bytes("1GB"), Some(1 << 30));
        assert_eq!(bytes("8192"), Some(8192));
        assert_eq!(bytes("lots"), None);
    }
}
