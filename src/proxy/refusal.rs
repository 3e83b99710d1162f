//! Why the proxy turns a client away or ends its session, and the one place that chooses SQLSTATEs and hints for it.
//!
//! The names of projects and databases are not secret here, so that a client may learn them before it has
//! authenticated; everything about roles is: whoever has not proved a password reads the same ([`Refusal::Password`])
//! whatever the role, and only the log has the reason.

use super::message::{NEWEST_MINOR, put_fatal_error};
use crate::branch::BranchError;
use crate::model::NameError;
use bytes::BytesMut;

/// Why a login failed: for the log alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LoginFailure {
    #[error("no such role in the branch")]
    UnknownRole,
    #[error("the role has no password; give it one, or add a [[project.user]] to the config")]
    NoPassword,
    #[error("the role's password has expired")]
    Expired,
    #[error("the role's verifier cannot be read")]
    UnusableVerifier,
    #[error("wrong password")]
    WrongPassword,
}

/// A refusal; `Display` is the message the client reads.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("{0}")]
    Protocol(&'static str),
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}")]
    Version { major: u16, minor: u16 },
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    #[error("the {0} name in the startup packet is not valid UTF-8")]
    Encoding(&'static str),
    #[error("this server accepts encrypted connections only")]
    TlsRequired,
    #[error("canceling authentication due to timeout")]
    HandshakeTimeout,
    #[error("too many clients are logging in")]
    TooManyHandshakes,
    #[error("{0}")]
    Name(#[from] NameError),
    #[error("{0}")]
    Branch(#[from] BranchError),
    #[error("password authentication failed for user \"{user}\"")]
    Password { user: String, reason: LoginFailure },
    /// To who has proved the role's password.
    #[error("role \"{user}\" is not permitted to log in")]
    NoLogin { user: String },
    #[error("this node is stopping")]
    Stopping,
    #[error("terminating connection because this node is stopping")]
    SessionEnded,
    #[error("canceling statement because the client closed its side of the connection")]
    Abandoned,
    #[error("the compute of branch {branch} cannot be reached: {reason}")]
    ComputeUnreachable { branch: String, reason: String },
    #[error("the branch's compute ended")]
    ComputeEnded,
}

impl Refusal {
    /// What happened, for the log; unlike `Display` it tells why a login failed.
    pub(super) fn reason(&self) -> String {
        match self {
            Refusal::Password { reason, .. } => reason.to_string(),
            other => other.to_string(),
        }
    }

    /// The `ErrorResponse` for the client, severity FATAL: the connection ends with it.
    pub(super) fn response(&self) -> BytesMut {
        let message = self.to_string();
        let hint = self.hint();
        let mut fields = vec![(b'C', self.sqlstate()), (b'M', message.as_str())];
        if let Some(hint) = &hint {
            fields.push((b'H', hint));
        }
        let mut response = BytesMut::new();
        put_fatal_error(&mut response, &fields);
        response
    }

    /// PostgreSQL manual, "PostgreSQL Error Codes".
    pub(super) fn sqlstate(&self) -> &'static str {
        match self {
            Refusal::Protocol(_) => "08P01",
            Refusal::Version { .. } => "0A000",
            Refusal::NoUser | Refusal::TlsRequired | Refusal::NoLogin { .. } => "28000",
            Refusal::Encoding(_) => "22021",
            // As Postgres has it for `authentication_timeout`.
            Refusal::HandshakeTimeout | Refusal::Abandoned => "57014",
            Refusal::TooManyHandshakes => "53300",
            Refusal::Name(NameError::NoBranch(_)) => "3D000",
            Refusal::Name(_) => "42602",
            Refusal::Branch(error) => branch_sqlstate(error),
            Refusal::Password { .. } => "28P01",
            Refusal::Stopping => "57P03",
            Refusal::SessionEnded | Refusal::ComputeEnded => "57P01",
            Refusal::ComputeUnreachable { .. } => "57P03",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Refusal::Protocol(_) | Refusal::Version { .. } | Refusal::NoUser | Refusal::Encoding(_) => None,
            Refusal::TlsRequired => Some("connect with sslmode=require".to_owned()),
            Refusal::HandshakeTimeout => Some("try again in a moment, or raise server.handshake_timeout".to_owned()),
            Refusal::TooManyHandshakes => Some("try again in a moment, or raise server.max_handshakes".to_owned()),
            Refusal::Name(NameError::NoBranch(database)) => Some(format!("connect to \"{database}@NAME\"")),
            Refusal::Name(_) => Some("write the database as database@branch, for instance \"shop@pr-1\"".to_owned()),
            Refusal::Branch(error) => branch_hint(error),
            Refusal::Password { .. } | Refusal::NoLogin { .. } => None,
            Refusal::Abandoned => Some("keep the connection open until the answer is there".to_owned()),
            Refusal::Stopping | Refusal::SessionEnded => Some("connect again once the node is back".to_owned()),
            Refusal::ComputeUnreachable { .. } | Refusal::ComputeEnded => {
                Some("connect again: the branch is started anew, with everything that was committed".to_owned())
            }
        }
    }
}

fn branch_sqlstate(error: &BranchError) -> &'static str {
    match error {
        BranchError::UnknownDatabase { .. }
        | BranchError::AmbiguousDatabase { .. }
        | BranchError::UnknownProject { .. }
        | BranchError::NoBranch { .. }
        | BranchError::NoBase { .. } => "3D000",
        BranchError::TooManyBranches { .. } => "53400",
        // object_not_in_prerequisite_state
        BranchError::NotMasked { .. } | BranchError::MadeOfRaw { .. } => "55000",
        BranchError::HeldElsewhere { .. } | BranchError::LeaseValid { .. } => "55006",
        BranchError::Stopping => "57P03",
        BranchError::Start { .. } | BranchError::LocalDataLost { .. } => "58000",
        BranchError::Store { .. } => "58030",
    }
}

fn branch_hint(error: &BranchError) -> Option<String> {
    let hint = match error {
        BranchError::UnknownDatabase { known, .. } if known.is_empty() => {
            "no project has a base yet: run `offshoot import PROJECT --from SOURCE`".to_owned()
        }
        BranchError::UnknownDatabase { known, .. } => format!("known databases: {}", known.join(", ")),
        BranchError::AmbiguousDatabase { projects, .. } => {
            format!("pass options='-c offshoot.project=NAME' with one of: {}", projects.join(", "))
        }
        BranchError::UnknownProject { known, .. } => format!("known projects: {}", known.join(", ")),
        BranchError::NoBase { project } => format!("run `offshoot import {project} --from SOURCE`"),
        BranchError::NotMasked { project, .. } => {
            format!("run `offshoot import {project} --from SOURCE` under the project's masking rules")
        }
        BranchError::MadeOfRaw { branch, .. } => {
            format!(
                "`offshoot branch delete {branch}` makes room for a masked one; allow_raw = true in the project lets it in as it is"
            )
        }
        BranchError::TooManyBranches { project, .. } => {
            format!(
                "delete branches (`offshoot branch list {project}` shows them), or raise the project's max_branches"
            )
        }
        BranchError::HeldElsewhere { branch, lost: true, .. } => format!(
            "bring that node back, or run `offshoot branch release {branch}`: it goes on from its last upload, and what was written after is given up"
        ),
        BranchError::NoBranch { .. } => "`offshoot branch list` shows those there are".to_owned(),
        BranchError::HeldElsewhere { .. } | BranchError::LeaseValid { .. } => {
            "connect through the node that has it, or try again once the branch fell asleep there".to_owned()
        }
        BranchError::LocalDataLost { branch } => format!(
            "restore the node's server.data_dir, or run `offshoot branch release {branch}`: it goes on from its last upload"
        ),
        BranchError::Stopping => "connect again once the node is back".to_owned(),
        BranchError::Start { branch, .. } => {
            format!("try again; the server's log on the node has the details of branch {branch}")
        }
        BranchError::Store { .. } => "try again in a moment".to_owned(),
    };
    Some(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(refusal: &Refusal) -> String {
        String::from_utf8_lossy(&refusal.response()).replace('\0', "|")
    }

    #[test]
    fn a_name_without_branch_says_how_to_write_one() {
        let response = text(&NameError::NoBranch("shop".to_owned()).into());
        assert!(response.contains("|C3D000|"), "{response}");
        assert!(response.contains("|Hconnect to \"shop@NAME\"|"), "{response}");
    }

    #[test]
    fn an_unknown_database_lists_the_known_ones() {
        let unknown = |known: &[&str]| BranchError::UnknownDatabase {
            database: "x".to_owned(),
            known: known.iter().map(|name| name.to_string()).collect(),
        };
        assert!(text(&unknown(&["shop", "analytics"]).into()).contains("|Hknown databases: shop, analytics|"));
        assert!(text(&unknown(&[]).into()).contains("offshoot import"));
    }

    #[test]
    fn a_failed_login_tells_its_reason_to_the_log_only() {
        let failed = |reason| Refusal::Password { user: "ann".to_owned(), reason };
        let wrong = failed(LoginFailure::WrongPassword);
        let unknown = failed(LoginFailure::UnknownRole);
        assert_eq!(wrong.response(), unknown.response());
        assert_ne!(wrong.reason(), unknown.reason());
    }
}
