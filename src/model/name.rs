//! Names as clients spell them: `database@branch`, and the pattern each part must match.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest name of a project or branch, in bytes.
const NAME_MAX: usize = 63;

/// Why a name was refused; the text says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("the {what} name is empty")]
    Empty { what: &'static str },
    #[error("the {what} name is longer than {NAME_MAX} bytes")]
    TooLong { what: &'static str },
    #[error(
        "the {what} name {name:?} may hold only letters, digits, '.', '_', '-' and, inside, '/', and starts with a letter or digit"
    )]
    Character { what: &'static str, name: String },
    #[error("{0:?} names no branch: write it as database@branch")]
    NoBranch(String),
}

fn check(what: &'static str, name: &str, slash: bool) -> Result<(), NameError> {
    let refuse = || NameError::Character { what, name: name.to_owned() };
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > NAME_MAX {
        return Err(NameError::TooLong { what });
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') || (slash && c == '/');
    if !name.chars().all(plain) || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(refuse());
    }
    if name.ends_with('/') || name.contains("//") || name.split('/').any(|part| part == "." || part == "..") {
        return Err(refuse());
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, slash: $slash:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as its user wrote it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                check($what, text, $slash)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// One database cluster people branch from, as the config names it.
    ProjectName, "project", slash: false
}
name! {
    /// A branch within its project, for instance `pr-42` or `feature/login`.
    BranchName, "branch", slash: true
}

impl BranchName {
    /// The name as one component of an object key; `=` cannot occur in a name, and no store encodes it.
    pub fn as_key(&self) -> String {
        self.0.replace('/', "=")
    }

    /// The inverse of [`BranchName::as_key`].
    pub fn from_key(component: &str) -> Result<Self, NameError> {
        component.replace('=', "/").parse()
    }
}

/// A branch of a project; written `project@branch`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BranchRef {
    pub project: ProjectName,
    pub branch: BranchName,
}

impl FromStr for BranchRef {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let (project, branch) = text.rsplit_once('@').ok_or_else(|| NameError::NoBranch(text.to_owned()))?;
        Ok(BranchRef { project: project.parse()?, branch: branch.parse()? })
    }
}

impl fmt::Display for BranchRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.project, self.branch)
    }
}

impl fmt::Debug for BranchRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a client asked for: a database, as its cluster names it, in a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub database: String,
    pub branch: BranchName,
}

impl Target {
    /// Splits a startup packet's `database` at its last `@`, or last literal `%40` (several drivers do not
    /// decode it). A name without either takes its branch from `branch_option`, the value of `options=-c offshoot.branch=name`;
    /// with both, the option must agree with nothing: the name wins, as it is the more visible.
    pub fn parse(database: &str, branch_option: Option<&str>) -> Result<Target, NameError> {
        let at = database.rfind('@').map(|i| (i, 1));
        let escaped = database.rfind("%40").map(|i| (i, 3));
        let split = match (at, escaped) {
            (Some(a), Some(e)) => Some(if a.0 > e.0 { a } else { e }),
            (one, other) => one.or(other),
        };
        let (database, branch) = match (split, branch_option) {
            (Some((i, width)), _) => (&database[..i], &database[i + width..]),
            (None, Some(branch)) => (database, branch),
            (None, None) => return Err(NameError::NoBranch(database.to_owned())),
        };
        if database.is_empty() {
            return Err(NameError::Empty { what: "database" });
        }
        Ok(Target { database: database.to_owned(), branch: branch.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(database: &str) -> (String, String) {
        let target = Target::parse(database, None).expect("a valid target");
        (target.database, target.branch.to_string())
    }

    #[test]
    fn the_last_at_sign_divides() {
        assert_eq!(target("shop@pr-1"), ("shop".into(), "pr-1".into()));
        assert_eq!(target("we@ird@pr-1"), ("we@ird".into(), "pr-1".into()));
        assert_eq!(target("shop%40pr-1"), ("shop".into(), "pr-1".into()));
        assert_eq!(target("a%40b@c"), ("a%40b".into(), "c".into()));
        assert_eq!(target("a@b%40c"), ("a@b".into(), "c".into()));
    }

    #[test]
    fn the_option_names_a_branch_for_tools_that_cannot_spell_it() {
        assert_eq!(Target::parse("shop", Some("x")).map(|t| t.branch.to_string()), Ok("x".into()));
        assert_eq!(Target::parse("shop", None), Err(NameError::NoBranch("shop".into())));
    }

    #[test]
    fn refuses_what_could_leave_its_place() {
        for name in ["", "a b", "../x", "a/../b", "-x", "a//b", "a/", "ü", "a@", "a=b", &"x".repeat(64)] {
            assert!(name.parse::<BranchName>().is_err(), "{name:?} was taken");
        }
        assert!("a/b".parse::<ProjectName>().is_err());
        assert!("feature/login.2".parse::<BranchName>().is_ok());
    }

    #[test]
    fn a_branch_name_survives_its_key() {
        let name: BranchName = "feature/login".parse().expect("valid");
        assert_eq!(BranchName::from_key(&name.as_key()), Ok(name));
    }
}
