//! A client that speaks message by message, for what no driver does.

use crate::proxy::fixture::RunningProxy;
use crate::proxy::message;
use bytes::BytesMut;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

pub(super) struct RawClient {
    pub tcp: TcpStream,
    /// Type and body of every message so far.
    pub received: Vec<(u8, Vec<u8>)>,
}

impl RawClient {
    pub(super) async fn connect(proxy: &RunningProxy) -> RawClient {
        let tcp = TcpStream::connect(proxy.address).await.expect("connected");
        RawClient { tcp, received: Vec::new() }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).await.expect("sent");
    }

    pub(super) async fn read(&mut self) -> (u8, Vec<u8>) {
        let message = message::read_message(&mut self.tcp, 1 << 20).await.expect("answered");
        self.received.push(message.clone());
        message
    }

    /// The body of the next message of type `kind`, and nothing of those before it.
    pub(super) async fn read_until(&mut self, kind: u8) -> Vec<u8> {
        loop {
            match self.read().await {
                (b'E', error) if kind != b'E' => panic!("{}", String::from_utf8_lossy(&error)),
                (found, body) if found == kind => return body,
                _ => {}
            }
        }
    }

    /// The startup packet of protocol 3.`minor`.
    pub(super) async fn start(&mut self, minor: u16, user: &str, database: &str) {
        let mut packet = BytesMut::new();
        message::put_startup(&mut packet, &[(b"user", user.as_bytes()), (b"database", database.as_bytes())]);
        packet[6..8].copy_from_slice(&minor.to_be_bytes());
        self.send(&packet).await;
    }

    /// The client's part of SCRAM-SHA-256, up to its proof.
    pub(super) async fn prove(&mut self, password: &str) {
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        self.read_until(b'R').await;
        let length = (scram.message().len() as u32).to_be_bytes();
        let first = [b"SCRAM-SHA-256\0", &length[..], scram.message()].concat();
        self.send(&message(b'p', &first)).await;
        let challenge = self.read_until(b'R').await;
        scram.update(&challenge[4..]).expect("a valid challenge");
        self.send(&message(b'p', scram.message())).await;
    }
}

/// A message of type `kind`.
pub(super) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}
