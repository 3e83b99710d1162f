//! What a login is checked against: the role's own verifier, the config's for that role, or a decoy.
//!
//! As in Postgres, a role that may not log in proves its password first and is refused for it only then: whoever does
//! not know the password cannot tell such a role from any other.
//!
//! A decoy stands in wherever a login cannot succeed (no such role, no password, …), so that the exchange looks and
//! lasts like one with a wrong password. It is derived from a key of this process, hence the same at each attempt;
//! only the owner of the key could tell its salt from a real one.

use super::ProxyError;
use super::refusal::LoginFailure;
use super::verifier::{DEFAULT_ITERATIONS, DEFAULT_SALT_BYTES, ScramVerifier, Verifier};
use crate::model::{BranchRef, Entropy, ProjectName, Role, UnixMs};
use crate::settings::{ProjectSettings, UserSettings};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// What one login is checked against.
pub(super) enum Credential {
    Verifier(Verifier),
    /// Fails also for who proves the password, but tells them why.
    NoLogin(Verifier),
    /// Fails whatever the client answers.
    Decoy {
        verifier: ScramVerifier,
        reason: LoginFailure,
    },
}

/// The logins of the config, and the key of the decoys.
pub(super) struct Credentials {
    users: HashMap<(ProjectName, String), Verifier>,
    decoy_key: [u8; 32],
}

impl Credentials {
    /// Makes the config's users ready. Blocking: deriving a verifier from a password takes milliseconds of CPU.
    pub(super) fn prepare(projects: &[ProjectSettings], entropy: &Entropy) -> Result<Credentials, ProxyError> {
        let mut users = HashMap::new();
        for project in projects {
            for user in &project.users {
                let verifier = user_verifier(user, entropy).ok_or_else(|| ProxyError::Verifier {
                    project: project.name.to_string(),
                    user: user.name.clone(),
                })?;
                users.insert((project.name.clone(), user.name.clone()), verifier);
            }
        }
        let mut decoy_key = [0; 32];
        entropy.fill(&mut decoy_key);
        Ok(Credentials { users, decoy_key })
    }

    /// What `user` must prove to enter `branch`, where `role` is the branch's role of that name. The config may give
    /// a role another password; it can neither make a role nor lift what the role itself forbids.
    pub(super) fn for_login(&self, branch: &BranchRef, user: &str, role: Option<&Role>, now: UnixMs) -> Credential {
        match self.verifier(branch, user, role, now) {
            Ok(verifier) if role.is_some_and(|role| role.can_login) => Credential::Verifier(verifier),
            Ok(verifier) => Credential::NoLogin(verifier),
            Err(reason) => Credential::Decoy { verifier: self.decoy(&branch.project, user), reason },
        }
    }

    fn verifier(
        &self,
        branch: &BranchRef,
        user: &str,
        role: Option<&Role>,
        now: UnixMs,
    ) -> Result<Verifier, LoginFailure> {
        let role = role.ok_or(LoginFailure::UnknownRole)?;
        if role.valid_until.is_some_and(|end| i128::from(end) * 1000 < i128::from(now)) {
            return Err(LoginFailure::Expired);
        }
        if let Some(verifier) = self.users.get(&(branch.project.clone(), user.to_owned())) {
            return Ok(verifier.clone());
        }
        let text = role.verifier.as_ref().ok_or(LoginFailure::NoPassword)?;
        Verifier::parse(text).ok_or(LoginFailure::UnusableVerifier)
    }

    /// Salt and keys of the shape that Postgres gives them, which no password fits.
    fn decoy(&self, project: &ProjectName, user: &str) -> ScramVerifier {
        let derive = |what: &str| -> [u8; 32] {
            let mut hash = Sha256::new();
            hash.update(self.decoy_key);
            for part in [what, project.as_str(), user] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
            hash.finalize().into()
        };
        ScramVerifier {
            iterations: DEFAULT_ITERATIONS,
            salt: derive("salt")[..DEFAULT_SALT_BYTES].to_vec(),
            stored_key: derive("stored key"),
            server_key: derive("server key"),
        }
    }
}

fn user_verifier(user: &UserSettings, entropy: &Entropy) -> Option<Verifier> {
    match (&user.verifier, &user.password) {
        (Some(verifier), _) => Verifier::parse(verifier),
        (None, Some(password)) => {
            let mut salt = [0; DEFAULT_SALT_BYTES];
            entropy.fill(&mut salt);
            ScramVerifier::derive(password, salt).map(Verifier::Scram)
        }
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Secret;
    use postgres_protocol::password;

    const NOW: UnixMs = 1_000_000;

    fn role() -> Role {
        Role {
            name: "ann".to_owned(),
            can_login: true,
            superuser: false,
            connection_limit: -1,
            valid_until: None,
            verifier: Some(Secret::new(password::scram_sha_256(b"own"))),
        }
    }

    fn branch() -> BranchRef {
        "shop@b".parse().expect("valid")
    }

    fn credentials(user: Option<UserSettings>) -> Credentials {
        let project = ProjectSettings {
            name: "shop".parse().expect("valid"),
            idle_timeout: std::time::Duration::from_secs(1),
            upload_interval: None,
            durability: Default::default(),
            max_branches: 1,
            max_delta_bytes: None,
            source: None,
            masking: None,
            trusted_signers: Vec::new(),
            allow_raw: false,
            parameters: Default::default(),
            users: user.into_iter().collect(),
        };
        Credentials::prepare(&[project], &Entropy::seeded(1)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Why no password opens the role.
    fn failure(credentials: &Credentials, role: Option<&Role>) -> Option<LoginFailure> {
        match credentials.for_login(&branch(), "ann", role, NOW) {
            Credential::Verifier(_) | Credential::NoLogin(_) => None,
            Credential::Decoy { reason, .. } => Some(reason),
        }
    }

    fn is_told_why(credentials: &Credentials, role: &Role) -> bool {
        matches!(credentials.for_login(&branch(), "ann", Some(role), NOW), Credential::NoLogin(_))
    }

    #[test]
    fn a_role_that_no_password_opens_gets_a_decoy() {
        let credentials = credentials(None);
        assert_eq!(failure(&credentials, Some(&role())), None);
        assert_eq!(failure(&credentials, None), Some(LoginFailure::UnknownRole));
        let no_password = Role { verifier: None, ..role() };
        assert_eq!(failure(&credentials, Some(&no_password)), Some(LoginFailure::NoPassword));
        let unusable = Role { verifier: Some(Secret::new("x")), ..role() };
        assert_eq!(failure(&credentials, Some(&unusable)), Some(LoginFailure::UnusableVerifier));
        let expired = Role { valid_until: Some(999), ..role() };
        assert_eq!(failure(&credentials, Some(&expired)), Some(LoginFailure::Expired));
        let never = Role { valid_until: Some(i64::MIN), ..role() };
        assert_eq!(failure(&credentials, Some(&never)), Some(LoginFailure::Expired));
        let valid = Role { valid_until: Some(1001), ..role() };
        assert_eq!(failure(&credentials, Some(&valid)), None);
    }

    #[test]
    fn a_role_that_may_not_log_in_must_prove_its_password_to_be_told() {
        let credentials = credentials(None);
        assert!(!is_told_why(&credentials, &role()));
        let no_login = Role { can_login: false, ..role() };
        assert!(is_told_why(&credentials, &no_login));
        // Without a password that holds there is nothing to prove.
        assert!(!is_told_why(&credentials, &Role { verifier: None, ..no_login.clone() }));
        assert!(!is_told_why(&credentials, &Role { valid_until: Some(999), ..no_login }));
    }

    #[test]
    fn the_config_gives_a_password_but_no_role() {
        let password = Some(Secret::new("theirs"));
        let user = UserSettings { name: "ann".to_owned(), verifier: None, password_env: None, password };
        let credentials = credentials(Some(user));
        let no_password = Role { verifier: None, ..role() };
        assert_eq!(failure(&credentials, Some(&no_password)), None);
        assert_eq!(failure(&credentials, None), Some(LoginFailure::UnknownRole));
        let no_login = Role { can_login: false, ..role() };
        assert!(is_told_why(&credentials, &no_login));
    }

    #[test]
    fn a_decoy_stays_the_same_and_tells_users_apart() {
        let credentials = credentials(None);
        let project = branch().project;
        assert!(credentials.decoy(&project, "ann") == credentials.decoy(&project, "ann"));
        assert!(credentials.decoy(&project, "ann").salt != credentials.decoy(&project, "bob").salt);
        assert_eq!(credentials.decoy(&project, "ann").salt.len(), DEFAULT_SALT_BYTES);
    }
}
