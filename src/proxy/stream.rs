//! The client's side of a connection: a TCP socket, bare or under TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Longest time that the last message to a client may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// Most bytes that are read and thrown away while a client takes in its last message.
const FAREWELL_DISCARD_MAX: usize = 1 << 20;

/// A client's socket.
pub(super) enum ClientStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// While a TLS handshake owns the socket, and after one that failed: reads end, writes fail.
    Gone,
}

impl ClientStream {
    /// Whether TLS is on.
    pub(super) fn is_secure(&self) -> bool {
        matches!(self, ClientStream::Tls(_))
    }

    /// The first byte that the client sent, left in place; `None` at the end of the stream. Before TLS only.
    pub(super) async fn peek(&self) -> io::Result<Option<u8>> {
        let ClientStream::Plain(tcp) = self else { return Ok(None) };
        let mut first = [0];
        Ok((tcp.peek(&mut first).await? > 0).then_some(first[0]))
    }

    /// Puts TLS over the plain socket. Nothing may have been read ahead: bytes that were sent in clear would otherwise
    /// pass for encrypted ones (CVE-2021-23214).
    pub(super) async fn start_tls(&mut self, acceptor: &TlsAcceptor) -> io::Result<()> {
        let ClientStream::Plain(tcp) = std::mem::replace(self, ClientStream::Gone) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        *self = ClientStream::Tls(Box::new(acceptor.accept(tcp).await?));
        Ok(())
    }

    /// Whether the client negotiated an application protocol (ALPN) under TLS.
    pub(super) fn has_application_protocol(&self) -> bool {
        matches!(self, ClientStream::Tls(tls) if tls.get_ref().1.alpn_protocol().is_some())
    }

    /// Writes `bytes` and flushes.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes).await?;
        self.flush().await
    }

    /// Sends a last message and closes, within [`FAREWELL_TIMEOUT`]. What the client still sends is read and dropped
    /// for that long: closing with unread input would reset the connection and could destroy the message on its way.
    pub(super) async fn part_with(mut self, last_words: &[u8]) {
        let farewell = async {
            self.send(last_words).await?;
            self.shutdown().await?;
            let mut discarded = 0;
            let mut buffer = vec![0; 4096];
            while discarded < FAREWELL_DISCARD_MAX {
                match self.read(&mut buffer).await? {
                    0 => break,
                    read => discarded += read,
                }
            }
            io::Result::Ok(())
        };
        // A client that does not take its last message has nothing more to lose.
        let _ = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await;
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Plain(tcp) => Pin::new(tcp).poll_read(cx, buffer),
            ClientStream::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
            ClientStream::Gone => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            ClientStream::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            ClientStream::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
            ClientStream::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            ClientStream::Tls(tls) => Pin::new(tls).poll_flush(cx),
            ClientStream::Gone => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            ClientStream::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            ClientStream::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
            ClientStream::Gone => Poll::Ready(Ok(())),
        }
    }
}
