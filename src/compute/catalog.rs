//! What a running compute's catalogs say of its roles and databases.
//!
//! One short connection each, as a superuser and with only `pg_catalog` in the search path: what a branch's users have put
//! elsewhere must not run with these rights.

use super::ComputeError;
use crate::model::{Cluster, Database, Role, Secret};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, Row};

/// Longest time a connection and its queries may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(30);

/// Roles named `pg_…` are Postgres's own and cannot log in.
const ROLES: &str = "
    SELECT rolname::text, rolcanlogin, rolsuper, rolconnlimit, rolpassword,
           CASE WHEN rolvaliduntil <> 'infinity' THEN floor(extract(epoch FROM greatest(rolvaliduntil, 'epoch')))::bigint END
    FROM pg_authid WHERE rolname !~ '^pg_' ORDER BY rolname";

/// A `datconnlimit` of -2 marks a database whose DROP was interrupted; nobody can connect to it.
const DATABASES: &str = "
    SELECT datname::text, pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text,
           datallowconn AND datconnlimit <> -2, datistemplate
    FROM pg_database ORDER BY datname";

const SERVER: &str = "
    SELECT current_setting('server_version_num')::int / 10000, current_setting('server_version'), rolname::text
    FROM pg_authid WHERE oid = 10";

/// The roles as the running compute has them now.
pub async fn read_roles(socket: &Path, superuser: &str) -> Result<Vec<Role>, ComputeError> {
    query(socket, async { roles(&connect_anywhere(socket, superuser).await?).await }).await
}

/// The databases as the running compute has them now.
pub async fn read_databases(socket: &Path, superuser: &str) -> Result<Vec<Database>, ComputeError> {
    query(socket, async { databases(&connect_anywhere(socket, superuser).await?).await }).await
}

/// What base and branch manifests record of a cluster. `settings` is left empty. `run_as` is a superuser, for instance what
/// [`super::bootstrap_superuser`] found.
pub async fn read_cluster(socket: &Path, run_as: &str) -> Result<Cluster, ComputeError> {
    let read = async {
        let client = connect_anywhere(socket, run_as).await?;
        let server = client.query_one(SERVER, &[]).await?;
        Ok(Cluster {
            major: server.try_get::<_, i32>(0)? as u32,
            server_version: server.try_get(1)?,
            superuser: server.try_get(2)?,
            databases: databases(&client).await?,
            roles: roles(&client).await?,
            settings: BTreeMap::new(),
        })
    };
    query(socket, read).await
}

/// Where the next WAL record will stand: it moves when anything is written that a crash would keep.
pub async fn wal_position(socket: &Path, superuser: &str) -> Result<u64, ComputeError> {
    let read = async {
        let client = connect_anywhere(socket, superuser).await?;
        let row = client.query_one("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint", &[]).await?;
        row.try_get::<_, i64>(0).map(|position| position as u64)
    };
    query(socket, read).await
}

/// Connects to a database and asks it something, as a first client would.
pub async fn try_database(socket: &Path, superuser: &str, database: &str) -> Result<(), ComputeError> {
    let run = async {
        let client = connect(socket, superuser, database).await?;
        client.query("SELECT count(*) FROM pg_class WHERE relkind = 'r'", &[]).await.map(|_| ())
    };
    query(socket, run).await
}

/// Runs a checkpoint: everything written before is in the data files, and on disk, when it returns.
pub async fn checkpoint(socket: &Path, superuser: &str, limit: Duration) -> Result<(), ComputeError> {
    let run = async { connect_anywhere(socket, superuser).await?.batch_execute("CHECKPOINT").await };
    within(limit, socket, run).await
}

async fn query<T>(
    socket: &Path,
    read: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, ComputeError> {
    within(QUERY_TIMEOUT, socket, read).await
}

async fn within<T>(
    limit: Duration,
    socket: &Path,
    run: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, ComputeError> {
    match tokio::time::timeout(limit, run).await {
        Ok(outcome) => outcome.map_err(|source| ComputeError::Query { socket: socket.to_owned(), source }),
        Err(_) => Err(ComputeError::QueryTimeout { socket: socket.to_owned(), limit }),
    }
}

/// A connection to `postgres`, or to `template1` where someone dropped that.
async fn connect_anywhere(socket: &Path, user: &str) -> Result<Client, tokio_postgres::Error> {
    match connect(socket, user, "postgres").await {
        Err(error) if refuses_connections(&error) => connect(socket, user, "template1").await,
        connected => connected,
    }
}

/// A connection that ends when the client is dropped.
async fn connect(socket: &Path, user: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
    let run_dir = socket.parent().unwrap_or(Path::new("/"));
    let (client, connection) = tokio_postgres::Config::new()
        .host_path(run_dir)
        .port(5432)
        .user(user)
        .dbname(database)
        .application_name("offshoot")
        .options("-c search_path=pg_catalog -c client_encoding=UTF8")
        .connect(NoTls)
        .await?;
    tokio::spawn(connection);
    Ok(client)
}

/// There is no such database, or it has `ALLOW_CONNECTIONS false`.
fn refuses_connections(error: &tokio_postgres::Error) -> bool {
    matches!(error.code(), Some(&SqlState::INVALID_CATALOG_NAME | &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE))
}

async fn roles(client: &Client) -> Result<Vec<Role>, tokio_postgres::Error> {
    client.query(ROLES, &[]).await?.iter().map(role).collect()
}

fn role(row: &Row) -> Result<Role, tokio_postgres::Error> {
    Ok(Role {
        name: row.try_get(0)?,
        can_login: row.try_get(1)?,
        superuser: row.try_get(2)?,
        connection_limit: row.try_get(3)?,
        verifier: row.try_get::<_, Option<String>>(4)?.map(Secret::new),
        valid_until: row.try_get(5)?,
    })
}

async fn databases(client: &Client) -> Result<Vec<Database>, tokio_postgres::Error> {
    client.query(DATABASES, &[]).await?.iter().map(database).collect()
}

fn database(row: &Row) -> Result<Database, tokio_postgres::Error> {
    Ok(Database {
        name: row.try_get(0)?,
        encoding: row.try_get(1)?,
        collate: row.try_get(2)?,
        ctype: row.try_get(3)?,
        allow_connections: row.try_get(4)?,
        is_template: row.try_get(5)?,
    })
}
