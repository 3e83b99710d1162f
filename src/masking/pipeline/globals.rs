//! What belongs to a cluster and not to one database: roles, memberships, settings, flags of databases.
//!
//! Read from the catalogs and made again statement by statement, since pg_dumpall writes settings with their secrets and needs psql.

use crate::masking::MaskingError;
use crate::masking::catalog::{field, literal, objects, quote};
use crate::masking::rules::{Kept, Rules};
use crate::sources::Connection;
use serde::Deserialize;

/// The roles and settings of a cluster.
pub(in crate::masking) struct Globals {
    roles: Vec<Role>,
    memberships: Vec<Membership>,
    settings: Vec<Setting>,
    pub databases: Vec<DatabaseEntry>,
}

#[derive(Deserialize)]
struct Role {
    name: String,
    is_bootstrap: bool,
    /// `SUPERUSER NOINHERIT …`
    attributes: String,
    comment: Option<String>,
    #[serde(skip)]
    verifier: Option<String>,
}

#[derive(Deserialize)]
struct Membership {
    role: String,
    member: String,
    grantor: Option<String>,
    admin: bool,
    /// From PostgreSQL 16 on.
    inherit: Option<bool>,
    set: Option<bool>,
}

/// Settings of a role, of a database, or of a role in a database.
#[derive(Deserialize)]
struct Setting {
    role: Option<String>,
    database: Option<String>,
    /// `name=value`.
    settings: Vec<String>,
}

/// A row of `pg_database`.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::masking) struct DatabaseEntry {
    pub name: String,
    pub allows_connections: bool,
    is_template: bool,
    connection_limit: i32,
    owner: String,
    encoding: String,
    collate: String,
    ctype: String,
    /// As in [`super::fresh::Shape`].
    provider: Option<char>,
    locale: Option<String>,
    rules: Option<String>,
    comment: Option<String>,
    /// `None`: what every new database grants.
    grants: Option<Vec<Grant>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Grant {
    grantor: String,
    /// PUBLIC without one.
    role: Option<String>,
    privilege: String,
    is_grantable: bool,
}

const ROLES: &str = "
    SELECT json_build_object('name', rolname, 'is_bootstrap', oid = 10,
        'attributes', concat_ws(' ',
            CASE WHEN rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END, CASE WHEN rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END,
            CASE WHEN rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END,
            CASE WHEN rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END, CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END,
            CASE WHEN rolreplication THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
            CASE WHEN rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END, 'CONNECTION LIMIT ' || rolconnlimit,
            'VALID UNTIL ' || quote_literal(rolvaliduntil)),
        'comment', shobj_description(oid, 'pg_authid'))
    FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY oid";

const MEMBERSHIPS: &str = "
    SELECT json_build_object('role', pg_get_userbyid(m.roleid), 'member', pg_get_userbyid(m.member),
        'grantor', (SELECT rolname FROM pg_roles WHERE oid = m.grantor), 'admin', m.admin_option,
        'inherit', (to_jsonb(m) ->> 'inherit_option')::boolean, 'set', (to_jsonb(m) ->> 'set_option')::boolean)
    FROM pg_auth_members m WHERE m.member >= 16384 OR m.member = 10 ORDER BY m.roleid, m.member";

const SETTINGS: &str = "
    SELECT json_build_object('role', r.rolname, 'database', d.datname, 'settings', s.setconfig)
    FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase
    ORDER BY d.datname, r.rolname";

const DATABASES: &str = "
    SELECT json_build_object('name', datname, 'allows_connections', datallowconn, 'is_template', datistemplate,
        'connection_limit', datconnlimit, 'owner', pg_get_userbyid(datdba), 'encoding', pg_encoding_to_char(encoding),
        'collate', datcollate, 'ctype', datctype, 'provider', to_jsonb(d) ->> 'datlocprovider',
        'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'), 'rules', to_jsonb(d) ->> 'daticurules',
        'comment', shobj_description(oid, 'pg_database'),
        'grants', CASE WHEN datacl IS NOT NULL THEN (
            SELECT json_agg(json_build_object('grantor', pg_get_userbyid(a.grantor), 'role', r.rolname,
                    'privilege', a.privilege_type, 'is_grantable', a.is_grantable) ORDER BY a.grantor <> datdba)
            FROM aclexplode(datacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee) END)
    FROM pg_database d WHERE datconnlimit <> -2 AND datname <> 'template0' ORDER BY datname";

/// Settings whose values are lists of names, each quoted by itself (GUC_LIST_QUOTE of guc_tables.c).
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

impl Globals {
    /// Reads them. Verifiers only where the rules keep passwords.
    pub(in crate::masking) async fn read(connection: &mut Connection, rules: &Rules) -> Result<Globals, MaskingError> {
        let mut globals = Globals {
            roles: objects(connection, ROLES).await?,
            memberships: objects(connection, MEMBERSHIPS).await?,
            settings: objects(connection, SETTINGS).await?,
            databases: objects(connection, DATABASES).await?,
        };
        if rules.role_passwords == Kept::Keep {
            let statement = "SELECT rolname, rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL";
            let known = match connection.try_query(statement).await? {
                Ok(known) => known,
                // A managed server shows them to nobody.
                Err(_) if !rules.is_masking() => {
                    tracing::warn!("the source shows no password verifiers: log in through [[project.user]]");
                    Vec::new()
                }
                Err(message) => return Err(connection.refused(message).into()),
            };
            for row in &known {
                let name = field(Some(row), 0);
                for role in globals.roles.iter_mut().filter(|role| role.name == name) {
                    role.verifier = Some(field(Some(row), 1));
                }
            }
        }
        Ok(globals)
    }

    /// Makes roles and memberships.
    pub(in crate::masking) async fn make_roles(
        &self,
        fresh: &mut Connection,
        rules: &Rules,
    ) -> Result<(), MaskingError> {
        for role in &self.roles {
            let name = quote(&role.name);
            if !role.is_bootstrap {
                execute(fresh, &format!("CREATE ROLE {name}")).await?;
            }
            execute(fresh, &format!("ALTER ROLE {name} WITH {}", role.attributes)).await?;
            if let Some(verifier) = &role.verifier {
                execute(fresh, &format!("ALTER ROLE {name} PASSWORD {}", literal(verifier))).await?;
            }
            if let Some(comment) = role.comment.as_ref().filter(|_| rules.comments == Kept::Keep) {
                execute(fresh, &format!("COMMENT ON ROLE {name} IS {}", literal(comment))).await?;
            }
        }
        self.make_memberships(fresh).await
    }

    /// Makes superusers of all roles, until [`Globals::settle_roles`]: materialized views are filled as their owners, who may lack what a dump does not
    /// say. Not before grants are made, since a superuser's count as the owner's.
    pub(in crate::masking) async fn empower_roles(&self, fresh: &mut Connection) -> Result<(), MaskingError> {
        for role in &self.roles {
            execute(fresh, &format!("ALTER ROLE {} SUPERUSER", quote(&role.name))).await?;
        }
        Ok(())
    }

    /// Takes back what [`Globals::make_settings`] has made and [`Globals::empower_roles`] given: a copy that was cut off there goes on with sessions and
    /// roles as they were.
    pub(in crate::masking) async fn unmake_settings(&self, fresh: &mut Connection) -> Result<(), MaskingError> {
        // They may already act on this very session.
        execute(fresh, "SET ROLE NONE").await?;
        execute(fresh, "SET default_transaction_read_only = off").await?;
        execute(fresh, "DELETE FROM pg_catalog.pg_db_role_setting").await?;
        self.settle_roles(fresh).await
    }

    pub(in crate::masking) fn role_names(&self) -> Vec<&str> {
        self.roles.iter().map(|role| role.name.as_str()).collect()
    }

    /// Gives roles the attributes they have in the source.
    pub(in crate::masking) async fn settle_roles(&self, fresh: &mut Connection) -> Result<(), MaskingError> {
        for role in &self.roles {
            execute(fresh, &format!("ALTER ROLE {} WITH {}", quote(&role.name), role.attributes)).await?;
        }
        Ok(())
    }

    /// From PostgreSQL 16 on a grantor must have been granted before: what is refused is tried again while anything succeeds.
    async fn make_memberships(&self, fresh: &mut Connection) -> Result<(), MaskingError> {
        let mut waiting: Vec<&Membership> = self.memberships.iter().collect();
        while !waiting.is_empty() {
            let mut refused = Vec::new();
            for membership in &waiting {
                if fresh.try_query(&membership.statement()).await?.is_err() {
                    refused.push(*membership);
                }
            }
            if refused.len() == waiting.len() {
                return execute(fresh, &refused[0].statement()).await;
            }
            waiting = refused;
        }
        Ok(())
    }

    /// Makes settings of roles and databases, once all databases are there. Returns the custom ones that were left out, without values.
    pub(in crate::masking) async fn make_settings(
        &self,
        fresh: &mut Connection,
        keeps: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, MaskingError> {
        let mut left_out = Vec::new();
        for setting in &self.settings {
            let subject = match (&setting.role, &setting.database) {
                (Some(role), Some(database)) => format!("ROLE {} IN DATABASE {}", quote(role), quote(database)),
                (Some(role), None) => format!("ROLE {}", quote(role)),
                (None, Some(database)) => format!("DATABASE {}", quote(database)),
                (None, None) => "ROLE ALL".to_owned(),
            };
            for (name, value) in setting.settings.iter().filter_map(|entry| entry.split_once('=')) {
                if !keeps(name) {
                    left_out.push(format!("{name} of {}", subject.to_lowercase()));
                    continue;
                }
                let value = if LISTS.contains(&name) { list(value) } else { literal(value) };
                execute(fresh, &format!("ALTER {subject} SET {} TO {value}", quote(name))).await?;
            }
        }
        Ok(left_out)
    }

    /// Makes a database with its owner, encoding, collation and grants; of `template1`, which is there, the latter two.
    pub(in crate::masking) async fn make_database(
        &self,
        fresh: &mut Connection,
        database: &str,
        comments: Kept,
    ) -> Result<(), MaskingError> {
        let Some(entry) = self.databases.iter().find(|entry| entry.name == database) else { return Ok(()) };
        let name = quote(database);
        if database != "template1" {
            execute(fresh, &entry.create_statement()).await?;
        }
        if let Some(grants) = &entry.grants {
            execute(fresh, &format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC")).await?;
            execute(fresh, &format!("REVOKE ALL ON DATABASE {name} FROM {}", quote(&entry.owner))).await?;
            for grant in grants {
                let role = grant.role.as_deref().map_or("PUBLIC".to_owned(), quote);
                let option = if grant.is_grantable { " WITH GRANT OPTION" } else { "" };
                let statement = format!("GRANT {} ON DATABASE {name} TO {role}{option}", grant.privilege);
                // A superuser's grants are recorded as the owner's.
                if grant.grantor != entry.owner {
                    execute(fresh, &format!("SET ROLE {}", quote(&grant.grantor))).await?;
                }
                execute(fresh, &statement).await?;
                execute(fresh, "RESET ROLE").await?;
            }
        }
        match entry.comment.as_ref().filter(|_| comments == Kept::Keep) {
            Some(comment) => execute(fresh, &format!("COMMENT ON DATABASE {name} IS {}", literal(comment))).await,
            None => Ok(()),
        }
    }

    /// What of databases keeps people out: once everything is loaded.
    pub(in crate::masking) async fn make_flags(&self, fresh: &mut Connection) -> Result<(), MaskingError> {
        for database in
            self.databases.iter().filter(|database| database.allows_connections && database.name != "template1")
        {
            let name = quote(&database.name);
            if database.connection_limit != -1 {
                execute(fresh, &format!("ALTER DATABASE {name} CONNECTION LIMIT {}", database.connection_limit))
                    .await?;
            }
            if database.is_template {
                execute(fresh, &format!("ALTER DATABASE {name} IS_TEMPLATE true")).await?;
            }
        }
        Ok(())
    }
}

impl DatabaseEntry {
    fn create_statement(&self) -> String {
        let mut statement = format!(
            "CREATE DATABASE {} TEMPLATE template0 OWNER {} ENCODING {} LC_COLLATE {} LC_CTYPE {}",
            quote(&self.name),
            quote(&self.owner),
            literal(&self.encoding),
            literal(&self.collate),
            literal(&self.ctype),
        );
        let locale = literal(self.locale.as_deref().unwrap_or_default());
        match self.provider {
            Some('i') => statement += &format!(" LOCALE_PROVIDER icu ICU_LOCALE {locale}"),
            Some('b') => statement += &format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {locale}"),
            Some(_) => statement += " LOCALE_PROVIDER libc",
            None => {}
        }
        if let Some(rules) = &self.rules {
            statement += &format!(" ICU_RULES {}", literal(rules));
        }
        statement
    }
}

impl Membership {
    fn statement(&self) -> String {
        let options = match (self.inherit, self.set) {
            (Some(inherit), Some(set)) => format!(" WITH ADMIN {}, INHERIT {inherit}, SET {set}", self.admin),
            _ if self.admin => " WITH ADMIN OPTION".to_owned(),
            _ => String::new(),
        };
        let grantor =
            self.grantor.as_ref().map(|grantor| format!(" GRANTED BY {}", quote(grantor))).unwrap_or_default();
        format!("GRANT {} TO {}{options}{grantor}", quote(&self.role), quote(&self.member))
    }
}

/// The elements of a list, each as a constant.
fn list(value: &str) -> String {
    let mut elements = vec![String::new()];
    let mut is_quoted = false;
    for c in value.chars() {
        match c {
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => elements.push(String::new()),
            ' ' if !is_quoted => {}
            c => elements.last_mut().expect("there is a first").push(c),
        }
    }
    elements.iter().map(|element| literal(element)).collect::<Vec<_>>().join(", ")
}

/// Runs a statement whose objection holds no value of a row.
async fn execute(fresh: &mut Connection, statement: &str) -> Result<(), MaskingError> {
    fresh.try_query(statement).await?.map(drop).map_err(|message| MaskingError::Fresh {
        what: "a role or setting of the source cannot be made".to_owned(),
        reason: format!("{} (SQLSTATE {})", message.message, message.sqlstate),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_taken_apart_as_they_were_put_together() {
        assert_eq!(list("public, \"A, b\""), "'public', 'A, b'");
        assert_eq!(list("\"$user\", public"), "'$user', 'public'");
        assert_eq!(list("\"\""), "''");
    }
}
