//! A connection to a source: reaching it, TLS, and whole messages in and out. Logging in is in `login`.
//!
//! `tokio_postgres` knows no replication protocol, so this is a client of our own, for simple queries and COPY OUT only.
//! Messages are slices of the read buffer: bulk data is not copied on its way to the pages.

use super::conninfo::{Endpoint, Server};
use super::error::ServerMessage;
use super::{ImportError, login};
use bytes::BytesMut;
use postgres_protocol::message::backend::{ErrorFields, Header, Message};
use postgres_protocol::message::frontend;
use rustls_pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::fallible_iterator::FallibleIterator;
use tokio_rustls::TlsConnector;

/// Longest time to reach and log in to one address, unless the source says `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest silence. A server says nothing while it writes the checkpoint that a backup begins with.
const STALL_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Room to read into: eight of the server's COPY messages (`SINK_BUFFER_LENGTH` of basebackup.c).
const READ_BUFFER: usize = 256 * 1024;
/// No message we expect is nearly as long.
const MESSAGE_MAX: i32 = 16 * 1024 * 1024;

/// One row of a simple query's result.
pub(crate) type Row = Vec<Option<String>>;

/// What a connection is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose<'a> {
    /// Physical replication: `replication=true`.
    Replication,
    /// Ordinary queries in this database.
    Queries(&'a str),
}

/// An authenticated session that waits for a command.
pub(crate) struct Connection {
    pub(super) stream: Box<dyn Stream>,
    pub(super) received: BytesMut,
    /// For errors.
    pub target: String,
    pub user: String,
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for T {}

impl Connection {
    /// Connects to the first address that can be reached.
    pub(crate) async fn open(server: &Server, purpose: Purpose<'_>) -> Result<Connection, ImportError> {
        let mut failure = None;
        for endpoint in server.endpoints() {
            let limit = server.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
            match timeout(limit, Connection::open_at(server, &endpoint, purpose)).await {
                Err(_) => failure = Some(ImportError::ConnectTimeout { target: endpoint.to_string(), limit }),
                Ok(Err(error @ ImportError::Unreachable { .. })) => failure = Some(error),
                Ok(opened) => return opened,
            }
        }
        Err(failure.expect("a server has at least one address"))
    }

    async fn open_at(server: &Server, endpoint: &Endpoint, purpose: Purpose<'_>) -> Result<Connection, ImportError> {
        let target = endpoint.to_string();
        let unreachable = |source| ImportError::Unreachable { target: target.clone(), source };
        let stream: Box<dyn Stream> = match &endpoint.host {
            Host::Unix(folder) => {
                let path = folder.join(format!(".s.PGSQL.{}", endpoint.port));
                Box::new(UnixStream::connect(path).await.map_err(unreachable)?)
            }
            Host::Tcp(host) => {
                let address = endpoint.address.map_or_else(|| host.clone(), |address| address.to_string());
                let stream = reach(&address, endpoint.port).await.map_err(unreachable)?;
                if server.tls.is_wanted() { encrypt(stream, server, host, &target).await? } else { Box::new(stream) }
            }
        };
        let mut connection = Connection { stream, received: BytesMut::new(), target, user: server.user() };
        login::log_in(&mut connection, server, endpoint, purpose).await?;
        Ok(connection)
    }

    /// Sends what `write` puts into the buffer.
    pub(super) async fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), ImportError> {
        let mut message = BytesMut::new();
        let sent = match write(&mut message) {
            Ok(()) => self.stream.write_all(&message).await,
            Err(error) => Err(error),
        };
        sent.map_err(|source| self.disconnected(source))
    }

    /// The next message that is neither a notice nor a changed setting. Cancel safe: what was read of it stays in the buffer.
    pub(super) async fn receive(&mut self) -> Result<Message, ImportError> {
        loop {
            let header = Header::parse(&self.received).map_err(|error| self.protocol(error))?;
            if let Some(header) = header.filter(|header| header.len() > MESSAGE_MAX) {
                return Err(self.protocol(format!("a message of {} bytes", header.len())));
            }
            // Its length does not count the type byte.
            if header.is_none_or(|header| self.received.len() <= header.len() as usize) {
                self.read().await?;
                continue;
            }
            match Message::parse(&mut self.received).map_err(|error| self.protocol(error))? {
                Some(Message::ParameterStatus(_)) | None => {}
                Some(Message::NoticeResponse(notice)) => {
                    tracing::info!(target = self.target, "{}", server_message(notice.fields()).message);
                }
                Some(message) => return Ok(message),
            }
        }
    }

    pub(super) async fn read(&mut self) -> Result<(), ImportError> {
        self.received.reserve(READ_BUFFER);
        match timeout(STALL_TIMEOUT, self.stream.read_buf(&mut self.received)).await {
            Err(_) => Err(ImportError::Stalled { target: self.target.clone(), limit: STALL_TIMEOUT }),
            Ok(Ok(0)) => Err(self.disconnected(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => read.map(drop).map_err(|source| self.disconnected(source)),
        }
    }

    /// Sends commands without waiting for their answers.
    pub(super) async fn send_commands(&mut self, commands: &[String]) -> Result<(), ImportError> {
        self.send(|buffer| commands.iter().try_for_each(|command| frontend::query(command, buffer))).await
    }

    /// The answer to one command, until the server is ready for the next: its rows, or what the server objects to.
    pub(super) async fn answer(&mut self) -> Result<Result<Vec<Row>, ServerMessage>, ImportError> {
        let mut answer = Ok(Vec::new());
        loop {
            match self.receive().await? {
                Message::DataRow(body) => {
                    let row = row(body.ranges(), body.buffer()).map_err(|error| self.protocol(error))?;
                    if let Ok(rows) = &mut answer {
                        rows.push(row);
                    }
                }
                Message::ErrorResponse(body) => answer = Err(server_message(body.fields())),
                Message::ReadyForQuery(_) => return Ok(answer),
                Message::RowDescription(_) | Message::CommandComplete(_) | Message::EmptyQueryResponse => {}
                _ => return Err(self.unexpected("the answer to a command")),
            }
        }
    }

    /// One of several results that a command answers with.
    pub(super) async fn result(&mut self) -> Result<Vec<Row>, ImportError> {
        let mut rows = Vec::new();
        loop {
            match self.receive().await? {
                Message::RowDescription(_) => {}
                Message::DataRow(body) => {
                    rows.push(row(body.ranges(), body.buffer()).map_err(|error| self.protocol(error))?);
                }
                Message::CommandComplete(_) => return Ok(rows),
                Message::ErrorResponse(body) => return Err(self.refused(server_message(body.fields()))),
                _ => return Err(self.unexpected("a result")),
            }
        }
    }

    /// What the server's objection means here.
    pub(crate) fn refused(&self, message: ServerMessage) -> ImportError {
        message.into_error(&self.target, &self.user)
    }

    /// The server breaks the protocol.
    pub(super) fn protocol(&self, reason: impl ToString) -> ImportError {
        ImportError::Protocol { target: self.target.clone(), reason: reason.to_string() }
    }

    pub(super) fn unexpected(&self, instead_of: &str) -> ImportError {
        self.protocol(format!("an unexpected message instead of {instead_of}"))
    }

    pub(super) fn disconnected(&self, source: io::Error) -> ImportError {
        ImportError::Disconnected { target: self.target.clone(), source }
    }
}

/// Text and code of an ErrorResponse or NoticeResponse.
pub(super) fn server_message(mut fields: ErrorFields<'_>) -> ServerMessage {
    let mut message = ServerMessage::default();
    while let Ok(Some(field)) = fields.next() {
        let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => message.sqlstate = value,
            b'M' => message.message = value,
            b'c' | b'd' | b'n' => message.objects.push(value),
            _ => {}
        }
    }
    message
}

fn row(
    ranges: impl FallibleIterator<Item = Option<std::ops::Range<usize>>, Error = io::Error>,
    buffer: &[u8],
) -> io::Result<Row> {
    ranges.map(|range| Ok(range.map(|range| String::from_utf8_lossy(&buffer[range]).into_owned()))).collect()
}

/// The first of a host's addresses that answers.
async fn reach(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in lookup_host((host, port)).await? {
        match reach_address(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

async fn reach_address(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_keepalive(true)?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks for TLS (Postgres manual, "SSL Session Encryption"). The answer is read by itself, so that nothing sent
/// before the handshake can be taken for what came after it.
async fn encrypt(
    mut stream: TcpStream,
    server: &Server,
    host: &str,
    target: &str,
) -> Result<Box<dyn Stream>, ImportError> {
    let failed = |source| ImportError::Tls { target: target.to_owned(), source };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(failed)?;
    match stream.read_u8().await.map_err(failed)? {
        b'S' => {
            let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(io::Error::other(error)))?;
            let connector = TlsConnector::from(server.tls.client_config()?);
            Ok(Box::new(connector.connect(name, stream).await.map_err(failed)?))
        }
        b'N' if server.tls.may_do_without() => Ok(Box::new(stream)),
        b'N' => Err(ImportError::TlsRefused { target: target.to_owned() }),
        _ => Err(ImportError::Protocol { target: target.to_owned(), reason: "no answer to SSLRequest".to_owned() }),
    }
}
