//! Finding, reading and checking the config file.
//!
//! Overrides come from the environment: `OFFSHOOT_<SECTION>_<KEY>` for `[server]`, `[store]`, `[raw_store]`, `[cache]` and `[compute]`, and
//! `OFFSHOOT_PROJECT_<NAME>_<KEY>` for a project, all in upper case with every other character as `_`.

use super::{CacheSettings, Settings};
use crate::model::Secret;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::{Table, Value};

/// Why the configuration cannot be used; the text says what to change.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(
        "no config file: looked for {0}; write one (config/offshoot.toml explains every key) or pass --config FILE"
    )]
    NotFound(String),
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path}: {message}")]
    Invalid { path: PathBuf, message: String },
}

/// Where the config file is looked for, in order, when `--config` is not given.
const PLACES: [&str; 2] = ["offshoot.toml", "/etc/offshoot/offshoot.toml"];

/// Loads the config at `path`, or at the first of the usual places, with the process's environment over it.
pub fn load(path: Option<&Path>) -> Result<Settings, SettingsError> {
    let path = match path {
        Some(path) => path.to_owned(),
        None => PLACES
            .iter()
            .map(PathBuf::from)
            .find(|place| place.exists())
            .ok_or_else(|| SettingsError::NotFound(PLACES.join(", ")))?,
    };
    let text = std::fs::read_to_string(&path).map_err(|source| SettingsError::Read { path: path.clone(), source })?;
    let mut settings = parse(&text, &std::env::vars().collect())
        .map_err(|message| SettingsError::Invalid { path: path.clone(), message })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    for masking in settings.projects.iter_mut().filter_map(|project| project.masking.as_mut()) {
        *masking = folder.join(&*masking);
    }
    Ok(settings)
}

/// Parses `text` with the variables of `environment` over it.
fn parse(text: &str, environment: &BTreeMap<String, String>) -> Result<Settings, String> {
    let mut table: Table = toml::from_str(text).map_err(|e| e.to_string())?;
    override_from(&mut table, environment)?;
    let mut settings: Settings = Value::Table(table).try_into().map_err(|e: toml::de::Error| explain(e.message()))?;
    validate(&mut settings, environment)?;
    Ok(settings)
}

/// The variables that override single keys, by section.
fn override_from(table: &mut Table, environment: &BTreeMap<String, String>) -> Result<(), String> {
    for section in ["server", "store", "raw_store", "cache", "compute"] {
        let prefix = format!("OFFSHOOT_{}_", section.to_uppercase());
        for (key, value) in matching(environment, &prefix) {
            let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            set(section, &key, value)?;
        }
    }
    let Some(Value::Array(projects)) = table.get_mut("project") else { return Ok(()) };
    for project in projects {
        let name = project.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        for (key, value) in matching(environment, &format!("OFFSHOOT_PROJECT_{}_", variable(&name))) {
            set(project, &key, value)?;
        }
    }
    Ok(())
}

fn variable(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

fn matching(environment: &BTreeMap<String, String>, prefix: &str) -> Vec<(String, String)> {
    environment
        .iter()
        .filter_map(|(name, value)| Some((name.strip_prefix(prefix)?.to_lowercase(), value.clone())))
        .collect()
}

/// A value that reads as TOML is taken as such (`true`, `8`, `["a"]`); anything else is a string.
fn set(section: &mut Value, key: &str, value: String) -> Result<(), String> {
    let table = section.as_table_mut().ok_or("a section of the config must be a table")?;
    let typed = toml::from_str::<Table>(&format!("v = {value}")).ok().and_then(|mut t| t.remove("v"));
    table.insert(key.to_owned(), typed.unwrap_or(Value::String(value)));
    Ok(())
}

/// Adds the nearest known key to serde's "unknown field" message.
fn explain(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (Some(unknown), true) = (quoted.first(), message.starts_with("unknown field")) else {
        return message.trim_end().to_owned();
    };
    let nearest = quoted[1..].iter().min_by_key(|known| strsim::damerau_levenshtein(unknown, known));
    match nearest {
        Some(known) => format!("unknown key `{unknown}`; did you mean `{known}`?"),
        None => format!("unknown key `{unknown}`"),
    }
}

/// A store's URL without `.`, `..` and empty parts, with a slash at its end.
fn plain(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let mut parts: Vec<&str> = Vec::new();
    for part in rest.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("{}://{}/", scheme.to_lowercase(), parts.join("/"))
}

/// Shorter, and the store is asked more often than it answers.
const LEAST_LEASE: Duration = Duration::from_secs(1);

fn validate(settings: &mut Settings, environment: &BTreeMap<String, String>) -> Result<(), String> {
    if settings.server.lease < LEAST_LEASE {
        return Err(format!(
            "server.lease must be at least {}: it is renewed three times as often",
            humantime::format_duration(LEAST_LEASE)
        ));
    }
    let mut names = HashSet::new();
    for project in &mut settings.projects {
        if !names.insert(project.name.clone()) {
            return Err(format!("project {} is there twice", project.name));
        }
        if project.idle_timeout.is_zero() {
            return Err(format!("project {}: idle_timeout must be longer than nothing", project.name));
        }
        let is_key = |key: &String| key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
        if let Some(bad) = project.trusted_signers.iter().find(|key| !is_key(key)) {
            return Err(format!(
                "project {}: {bad:?} in trusted_signers is no key of 64 hexadecimal digits",
                project.name
            ));
        }
        if project.max_delta_bytes.is_some_and(|most| most.as_u64() == 0) {
            return Err(format!(
                "project {}: max_delta_bytes must be more than nothing; leave it out for no limit",
                project.name
            ));
        }
        for user in &mut project.users {
            let place = format!("user {} of project {}", user.name, project.name);
            match (&user.verifier, &user.password_env) {
                (Some(_), None) => {}
                (None, Some(variable)) => {
                    let password = environment
                        .get(variable)
                        .filter(|password| !password.is_empty())
                        .ok_or_else(|| format!("{place}: the environment variable {variable} is not set"))?;
                    user.password = Some(Secret::new(password.clone()));
                }
                _ => return Err(format!("{place} needs either verifier or password_env")),
            }
        }
    }
    for (key, size) in [("max_bytes", settings.cache.max_bytes), ("memory", settings.cache.memory)] {
        if size < CacheSettings::LEAST {
            return Err(format!("cache.{key} must be at least {}, and is {size}", CacheSettings::LEAST));
        }
    }
    // Who may read the one could read the other.
    let is_within = |raw: &str, store: &str| plain(raw).starts_with(&plain(store));
    if let Some(raw) = settings.raw_store.as_ref().filter(|raw| is_within(&raw.url, &settings.store.url)) {
        return Err(format!(
            "raw_store.url, {}, is within store.url, {}: nodes that serve would need credentials for raw bases; put them beside each other",
            raw.url, settings.store.url
        ));
    }
    if settings.server.tls_cert.is_some() != settings.server.tls_key.is_some() {
        return Err("tls_cert and tls_key come together".to_owned());
    }
    if settings.server.require_tls && settings.server.tls_cert.is_none() {
        return Err("require_tls needs tls_cert and tls_key".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LEAST: &str = "[store]\nurl = \"file:///s\"\n[[project]]\nname = \"shop-eu\"\n";

    fn with(text: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
        parse(text, &variables.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
    }

    #[test]
    fn the_sample_is_valid_and_says_what_the_defaults_are() {
        let sample = with(include_str!("../../config/offshoot.toml"), &[("SHOP_TESTER_PASSWORD", "x")])
            .expect("the sample parses");
        let least = with(LEAST, &[]).expect("the least config parses");
        assert_eq!(sample.server.listen, least.server.listen);
        assert_eq!(sample.server.handshake_timeout, least.server.handshake_timeout);
        assert_eq!(sample.cache.max_bytes, least.cache.max_bytes);
        assert_eq!(sample.cache.memory, least.cache.memory);
        assert_eq!(sample.compute.start_timeout, least.compute.start_timeout);
        assert_eq!(sample.projects[0].idle_timeout, least.projects[0].idle_timeout);
        assert_eq!(sample.projects[0].max_branches, least.projects[0].max_branches);
        assert_eq!(sample.projects[0].max_delta_bytes, least.projects[0].max_delta_bytes);
        assert_eq!(sample.server.disk_reserve, least.server.disk_reserve);
    }

    #[test]
    fn an_unknown_key_names_the_nearest_one() {
        let error = with("[server]\nlisen = \"127.0.0.1:1\"\n[store]\nurl=\"file:///s\"", &[]).expect_err("refused");
        assert!(error.contains("did you mean `listen`"), "{error}");
    }

    #[test]
    fn the_environment_overrides_every_kind_of_key() {
        let settings = with(
            LEAST,
            &[
                ("OFFSHOOT_SERVER_LISTEN", "0.0.0.0:1"),
                ("OFFSHOOT_SERVER_MAX_HANDSHAKES", "7"),
                ("OFFSHOOT_STORE_URL", "s3://b"),
                ("OFFSHOOT_CACHE_MAX_BYTES", "1.5 TiB"),
                ("OFFSHOOT_CACHE_MEMORY", "33554432"),
                ("OFFSHOOT_PROJECT_SHOP_EU_IDLE_TIMEOUT", "9s"),
            ],
        )
        .expect("valid");
        assert_eq!(settings.server.listen.port(), 1);
        assert_eq!(settings.server.max_handshakes, 7);
        assert_eq!(settings.store.url, "s3://b");
        assert_eq!(settings.cache.max_bytes.as_u64(), 3 << 39);
        assert_eq!(settings.cache.memory.as_u64(), 32 << 20);
        assert_eq!(settings.projects[0].idle_timeout, Duration::from_secs(9));
    }

    #[test]
    fn a_lease_that_would_be_renewed_all_the_time_is_refused() {
        let lease = |value: &str| with(LEAST, &[("OFFSHOOT_SERVER_LEASE", value)]);
        assert!(lease("0s").expect_err("refused").contains("server.lease"));
        assert!(lease("999ms").is_err());
        assert_eq!(lease("1s").expect("valid").server.lease, Duration::from_secs(1));
    }

    #[test]
    fn raw_bases_are_not_kept_where_serving_nodes_read() {
        let raw = |url: &str| with(LEAST, &[("OFFSHOOT_STORE_URL", "s3://b/main/"), ("OFFSHOOT_RAW_STORE_URL", url)]);
        assert_eq!(raw("s3://b/raw").expect("valid").raw_store.expect("set").url, "s3://b/raw");
        assert!(raw("s3://b/main-raw").is_ok());
        for url in ["s3://b/main", "s3://b/main/raw", "s3://b/main/", "s3://b//main/./raw", "S3://b/other/../main/raw"]
        {
            assert!(raw(url).expect_err("refused").contains("beside each other"), "{url}");
        }
    }

    #[test]
    fn sizes_are_written_as_people_do_or_in_bytes() {
        let largest = |value: &str| {
            let text = LEAST.replace("name =", &format!("max_delta_bytes = {value}\nname ="));
            with(&text, &[]).map(|settings| settings.projects[0].max_delta_bytes.map(|size| size.as_u64()))
        };
        assert_eq!(largest("\"20GiB\""), Ok(Some(20 << 30)));
        assert_eq!(largest("\"40 MB\""), Ok(Some(40_000_000)));
        assert_eq!(largest("4096"), Ok(Some(4096)));
        assert!(largest("\"0\"").expect_err("refused").contains("leave it out"));
        assert!(largest("\"much\"").is_err());
        for value in ["1GiB", "1073741824"] {
            let variables =
                [("OFFSHOOT_PROJECT_SHOP_EU_MAX_DELTA_BYTES", value), ("OFFSHOOT_SERVER_DISK_RESERVE", value)];
            let settings = with(LEAST, &variables).expect("valid");
            assert_eq!(settings.projects[0].max_delta_bytes.map(|size| size.as_u64()), Some(1 << 30));
            assert_eq!(settings.server.disk_reserve.map(|size| size.as_u64()), Some(1 << 30));
        }
    }

    #[test]
    fn a_cache_too_small_for_a_branch_or_of_no_size_is_refused() {
        let cache = |line: &str| with(&format!("{LEAST}[cache]\n{line}\n"), &[]);
        assert!(cache("max_bytes = \"1MiB\"").expect_err("refused").contains("at least 16.0 MiB"));
        assert!(cache("memory = 100").expect_err("refused").contains("cache.memory"));
        assert!(cache("max_bytes = \"plenty\"").is_err());
        assert!(cache("max_byte = \"1GiB\"").expect_err("refused").contains("did you mean `max_bytes`"));
    }

    #[test]
    fn a_password_comes_from_the_environment_or_not_at_all() {
        let text = format!("{LEAST}[[project.user]]\nname=\"t\"\npassword_env=\"PW\"\n");
        assert!(with(&text, &[]).expect_err("refused").contains("PW is not set"));
        let settings = with(&text, &[("PW", "geheim")]).expect("valid");
        assert!(!format!("{settings:?}").contains("geheim"), "the password shows in Debug");
    }
}
