//! The startup packet: who wants to connect to what, and which parameters go on to the compute.
//!
//! Parameters are kept as bytes and in order, since the compute must get them as the client wrote them. Only names that
//! the proxy itself reads (user, database, branch, project) must be UTF-8.

use super::message::{NEWEST_MINOR, put_startup, take_text};
use super::options::{ProxyOptions, extract};
use super::refusal::Refusal;
use crate::model::Target;
use bytes::BytesMut;

/// Most bytes of a startup packet beyond its length word: `MAX_STARTUP_PACKET_LENGTH` of `pqcomm.h`.
pub(super) const STARTUP_PACKET_MAX: usize = 10_000;

/// Prefix of parameters that ask for protocol extensions rather than settings (PostgreSQL manual, "StartupMessage").
const PROTOCOL_OPTION_PREFIX: &[u8] = b"_pq_.";

/// A startup packet as it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StartupPacket {
    /// Minor version of protocol 3 that the client asked for.
    pub minor: u16,
    parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A startup packet, understood.
#[derive(Debug)]
pub(super) struct Login {
    pub user: String,
    pub target: Target,
    /// Which project is meant where several have the database.
    pub project: Option<String>,
    /// Minor version of protocol 3 that is spoken with this client.
    pub minor: u16,
    /// The client must be told the version above and these options before anything else.
    pub negotiate: Option<Vec<String>>,
    passed_on: Vec<(Vec<u8>, Vec<u8>)>,
}

impl StartupPacket {
    /// Reads a packet whose length word is already taken off: a version word, then pairs of strings, then a zero byte.
    pub(super) fn parse(packet: &[u8]) -> Result<StartupPacket, Refusal> {
        const MALFORMED: Refusal = Refusal::Protocol("invalid startup packet layout: expected terminator as last byte");
        let Some((version, mut rest)) = packet.split_first_chunk::<4>() else { return Err(MALFORMED) };
        let (major, minor) =
            (u16::from_be_bytes([version[0], version[1]]), u16::from_be_bytes([version[2], version[3]]));
        if major != 3 {
            return Err(Refusal::Version { major, minor });
        }
        let mut parameters = Vec::new();
        loop {
            let name = take_text(&mut rest).ok_or(MALFORMED)?;
            if name.is_empty() {
                break;
            }
            let value = take_text(&mut rest).ok_or(MALFORMED)?;
            parameters.push((name.to_vec(), value.to_vec()));
        }
        if rest.is_empty() { Ok(StartupPacket { minor, parameters }) } else { Err(MALFORMED) }
    }

    /// What the packet asks for. The database defaults to the user's name, as in Postgres.
    pub(super) fn understand(self) -> Result<Login, Refusal> {
        let mut user = None;
        let mut database = None;
        let mut own = ProxyOptions::default();
        let mut unknown_options = Vec::new();
        let mut passed_on = Vec::new();
        for (name, value) in self.parameters {
            match name.as_slice() {
                b"user" => user = Some(value),
                b"database" => database = Some(value),
                b"options" => {
                    let rest = extract(&value, &mut own);
                    if !rest.is_empty() {
                        passed_on.push((name, rest));
                    }
                }
                option if option.starts_with(PROTOCOL_OPTION_PREFIX) => {
                    unknown_options.push(String::from_utf8_lossy(option).into_owned());
                }
                setting if own.note(setting, &value) => {}
                _ => passed_on.push((name, value)),
            }
        }
        let user = user.filter(|user| !user.is_empty()).ok_or(Refusal::NoUser)?;
        let user = utf8("user", user)?;
        let database = match database.filter(|database| !database.is_empty()) {
            Some(database) => utf8("database", database)?,
            None => user.clone(),
        };
        let branch = own.branch.map(|branch| utf8("branch", branch)).transpose()?;
        let project = own.project.map(|project| utf8("project", project)).transpose()?;
        let negotiate = (self.minor > NEWEST_MINOR || !unknown_options.is_empty()).then_some(unknown_options);
        let target = Target::parse(&database, branch.as_deref())?;
        Ok(Login { user, target, project, minor: self.minor.min(NEWEST_MINOR), negotiate, passed_on })
    }
}

impl Login {
    /// The startup packet for the compute: its own database name, and every parameter that is not the proxy's.
    pub(super) fn compute_startup(&self) -> BytesMut {
        let mut parameters: Vec<(&[u8], &[u8])> =
            vec![(b"user", self.user.as_bytes()), (b"database", self.target.database.as_bytes())];
        parameters.extend(self.passed_on.iter().map(|(name, value)| (name.as_slice(), value.as_slice())));
        let mut packet = BytesMut::new();
        put_startup(&mut packet, &parameters);
        packet
    }
}

/// A name that a driver has already mangled shows U+FFFD: it would be looked up as something else than was meant.
fn utf8(what: &'static str, bytes: Vec<u8>) -> Result<String, Refusal> {
    match String::from_utf8(bytes) {
        Ok(name) if !name.contains(char::REPLACEMENT_CHARACTER) => Ok(name),
        _ => Err(Refusal::Encoding(what)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(minor: u16, parameters: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = vec![0, 3];
        bytes.extend(minor.to_be_bytes());
        for text in parameters.iter().flat_map(|(name, value)| [name, value]) {
            bytes.extend(text.as_bytes());
            bytes.push(0);
        }
        bytes.push(0);
        bytes
    }

    fn login(minor: u16, parameters: &[(&str, &str)]) -> Result<Login, Refusal> {
        StartupPacket::parse(&packet(minor, parameters))?.understand()
    }

    #[test]
    fn the_branch_and_the_proxys_own_options_stay_here() {
        let login = login(
            0,
            &[
                ("user", "ann"),
                ("database", "shop"),
                ("options", "-c offshoot.branch=pr-1 -c geqo=off"),
                ("offshoot.project", "eu"),
                ("application_name", "x y"),
            ],
        )
        .expect("valid");
        assert_eq!(login.target, Target::parse("shop@pr-1", None).expect("valid"));
        assert_eq!(login.project.as_deref(), Some("eu"));
        assert!(login.negotiate.is_none());
        let startup = login.compute_startup();
        assert_eq!(&startup[4..8], [0, 3, 0, 0]);
        let text = b"user\0ann\0database\0shop\0options\0-c geqo=off\0application_name\0x y\0\0";
        assert_eq!(&startup[8..], text);
        assert_eq!(startup[..4], (startup.len() as u32).to_be_bytes());
    }

    #[test]
    fn the_database_defaults_to_the_user() {
        let login = login(0, &[("user", "ann@pr-1")]).expect("valid");
        assert_eq!((login.user.as_str(), login.target.database.as_str()), ("ann@pr-1", "ann"));
    }

    #[test]
    fn newer_versions_and_extensions_are_negotiated_down() {
        let user = ("user", "ann@b");
        assert!(login(2, &[user]).expect("valid").negotiate.is_none());
        let newer = login(9999, &[user]).expect("valid");
        assert_eq!((newer.minor, newer.negotiate), (2, Some(vec![])));
        let extension = login(0, &[user, ("_pq_.x", "1")]).expect("valid");
        assert_eq!((extension.minor, &extension.negotiate), (0, &Some(vec!["_pq_.x".to_owned()])));
        assert!(!extension.compute_startup().windows(5).any(|bytes| bytes == b"_pq_."));
    }

    #[test]
    fn what_is_not_a_startup_packet_is_refused() {
        assert!(matches!(StartupPacket::parse(&[0, 3]), Err(Refusal::Protocol(_))));
        assert!(matches!(StartupPacket::parse(&[0, 2, 0, 0, 0]), Err(Refusal::Version { major: 2, minor: 0 })));
        assert!(matches!(StartupPacket::parse(b"\0\x03\0\0user\0ann"), Err(Refusal::Protocol(_))));
        assert!(matches!(StartupPacket::parse(b"\0\x03\0\0user\0ann\0\0x"), Err(Refusal::Protocol(_))));
        assert!(matches!(login(0, &[("database", "a@b")]), Err(Refusal::NoUser)));
        assert!(matches!(login(0, &[("user", "\u{fffd}@b")]), Err(Refusal::Encoding("user"))));
        let latin1 = StartupPacket::parse(b"\0\x03\0\0user\0a\0database\0\xe4@b\0\0").expect("well formed");
        assert!(matches!(latin1.understand(), Err(Refusal::Encoding("database"))));
    }
}
