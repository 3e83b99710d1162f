//! A role as the proxy needs it to admit a client: what `pg_authid` says of logging in.

use super::Secret;
use serde::{Deserialize, Serialize};

/// One row of `pg_authid` (PostgreSQL manual, "pg_authid"), sealed with a base and recorded at each suspend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    pub name: String,
    pub can_login: bool,
    pub superuser: bool,
    /// `rolconnlimit`; -1 is no limit.
    pub connection_limit: i32,
    /// `rolvaliduntil` in seconds since the Unix epoch; `None` is no end.
    pub valid_until: Option<i64>,
    /// `rolpassword`: `SCRAM-SHA-256$…`, `md5…`, or none.
    pub verifier: Option<Secret>,
}
