//! Logging in to a source: startup and the authentication methods that pg_hba.conf may ask for (Postgres manual, "Start-up").

use super::connection::{Connection, Purpose, server_message};
use super::conninfo::{Endpoint, Server};
use super::{ImportError, passfile};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use tokio_postgres::config;
use tokio_postgres::fallible_iterator::FallibleIterator;

/// Takes a fresh connection to where it waits for a command.
pub(super) async fn log_in(
    connection: &mut Connection,
    server: &Server,
    endpoint: &Endpoint,
    purpose: Purpose<'_>,
) -> Result<(), ImportError> {
    let user = connection.user.clone();
    let (kind, database) = match purpose {
        Purpose::Replication => (("replication", "true"), "replication"),
        Purpose::Queries(database) => (("database", database), database),
    };
    let mut parameters = vec![("user", user.as_str()), kind, ("application_name", "offshoot")];
    parameters.extend(server.config.get_options().map(|options| ("options", options)));
    connection.send(|buffer| frontend::startup_message(parameters.iter().copied(), buffer)).await?;

    let password = passfile::password(server, endpoint, &user, database);
    authenticate(connection, server, password.as_deref()).await?;
    loop {
        match connection.receive().await? {
            Message::BackendKeyData(_) => {}
            Message::ReadyForQuery(_) => return Ok(()),
            Message::ErrorResponse(body) => return Err(connection.refused(server_message(body.fields()))),
            _ => return Err(connection.unexpected("the end of the startup")),
        }
    }
}

async fn authenticate(
    connection: &mut Connection,
    server: &Server,
    password: Option<&[u8]>,
) -> Result<(), ImportError> {
    loop {
        let (target, user) = (connection.target.clone(), connection.user.clone());
        let unsupported =
            |method: &str| ImportError::AuthenticationMethod { target: target.clone(), method: method.to_owned() };
        let needed = || password.ok_or(ImportError::NoPassword { target: target.clone(), user: user.clone() });
        match connection.receive().await? {
            Message::AuthenticationOk => return Ok(()),
            Message::AuthenticationCleartextPassword => {
                let password = needed()?;
                connection.send(|buffer| frontend::password_message(password, buffer)).await?;
            }
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(user.as_bytes(), needed()?, body.salt());
                connection.send(|buffer| frontend::password_message(hash.as_bytes(), buffer)).await?;
            }
            Message::AuthenticationSasl(body) => {
                if server.config.get_channel_binding() == config::ChannelBinding::Require {
                    return Err(unsupported("SCRAM with channel binding"));
                }
                check_mechanisms(connection, &body)?;
                scram(connection, needed()?).await?;
            }
            Message::ErrorResponse(body) => return Err(connection.refused(server_message(body.fields()))),
            Message::AuthenticationGss | Message::AuthenticationKerberosV5 => return Err(unsupported("GSSAPI")),
            Message::AuthenticationSspi => return Err(unsupported("SSPI")),
            _ => return Err(connection.unexpected("a request to authenticate")),
        }
    }
}

fn check_mechanisms(connection: &Connection, body: &AuthenticationSaslBody) -> Result<(), ImportError> {
    let offered: Vec<&str> = body.mechanisms().collect().map_err(|error| connection.protocol(error))?;
    if offered.contains(&SCRAM_SHA_256) {
        return Ok(());
    }
    Err(ImportError::AuthenticationMethod { target: connection.target.clone(), method: offered.join(", ") })
}

/// SCRAM-SHA-256 (RFC 7677), without channel binding. A server that does not know the verifier of the password is refused at
/// its last message.
async fn scram(connection: &mut Connection, password: &[u8]) -> Result<(), ImportError> {
    let mut exchange = ScramSha256::new(password, ChannelBinding::unsupported());
    connection.send(|buffer| frontend::sasl_initial_response(SCRAM_SHA_256, exchange.message(), buffer)).await?;
    match connection.receive().await? {
        Message::AuthenticationSaslContinue(body) => {
            exchange.update(body.data()).map_err(|error| connection.protocol(error))?;
        }
        Message::ErrorResponse(body) => return Err(connection.refused(server_message(body.fields()))),
        _ => return Err(connection.unexpected("a SCRAM challenge")),
    }
    connection.send(|buffer| frontend::sasl_response(exchange.message(), buffer)).await?;
    match connection.receive().await? {
        Message::AuthenticationSaslFinal(body) => {
            exchange.finish(body.data()).map_err(|error| connection.protocol(error))
        }
        Message::ErrorResponse(body) => Err(connection.refused(server_message(body.fields()))),
        _ => Err(connection.unexpected("the end of SCRAM")),
    }
}
