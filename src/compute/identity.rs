//! The system user that computes run as.

use super::ComputeError;
use crate::settings::ComputeSettings;
use nix::unistd::{User, getegid, geteuid};

/// The system user that computes run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
}

impl Identity {
    /// The configured user when the daemon is root, otherwise the daemon's own.
    pub fn resolve(settings: &ComputeSettings) -> Result<Identity, ComputeError> {
        if !geteuid().is_root() {
            return Ok(Identity::own());
        }
        let user = || settings.user.clone();
        let found = User::from_name(&settings.user)
            .map_err(|errno| ComputeError::UserLookup { user: user(), source: errno.into() })?
            .ok_or_else(|| ComputeError::UnknownUser { user: user() })?;
        if found.uid.is_root() {
            return Err(ComputeError::RootUser { user: user() });
        }
        Ok(Identity { uid: found.uid.as_raw(), gid: found.gid.as_raw() })
    }

    /// Whether a process must change its user to become this one.
    pub fn differs_from_own(self) -> bool {
        self != Identity::own()
    }

    fn own() -> Identity {
        Identity { uid: geteuid().as_raw(), gid: getegid().as_raw() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_needs_a_user_that_exists_and_is_not_root() {
        if !geteuid().is_root() {
            assert_eq!(Identity::resolve(&ComputeSettings::default()).unwrap(), Identity::own());
            return;
        }
        let settings = |user: &str| ComputeSettings { user: user.to_owned(), ..ComputeSettings::default() };
        assert!(matches!(Identity::resolve(&settings("no-such-user")), Err(ComputeError::UnknownUser { .. })));
        assert!(matches!(Identity::resolve(&settings("root")), Err(ComputeError::RootUser { .. })));
        assert_ne!(Identity::resolve(&settings("nobody")).unwrap().uid, 0);
    }
}
