//! Everything before authentication, spoken byte by byte; no compute is reachable.

use crate::proxy::fixture::{RunningProxy, TestUpstream};
use crate::proxy::message;
use crate::settings::ServerSettings;
use bytes::BytesMut;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSSENC_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

async fn proxy(settings: ServerSettings) -> RunningProxy {
    RunningProxy::with(TestUpstream::without_compute(Path::new("/nowhere")), settings, &[], Duration::ZERO).await
}

async fn connect(proxy: &RunningProxy) -> TcpStream {
    TcpStream::connect(proxy.address).await.expect("connected")
}

fn startup(parameters: &[(&str, &str)]) -> BytesMut {
    let parameters: Vec<_> = parameters.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let mut packet = BytesMut::new();
    message::put_startup(&mut packet, &parameters);
    packet
}

/// Everything until the proxy closes, with zero bytes made visible.
async fn answer(client: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut answer)).await;
    read.expect("closed in time").ok();
    String::from_utf8_lossy(&answer).replace('\0', "|")
}

async fn answer_to(proxy: &RunningProxy, bytes: &[u8]) -> String {
    let mut client = connect(proxy).await;
    client.write_all(bytes).await.expect("sent");
    answer(&mut client).await
}

#[tokio::test]
async fn encryption_that_is_not_there_is_declined() {
    let proxy = proxy(ServerSettings::default()).await;
    let mut client = connect(&proxy).await;
    for request in [GSSENC_REQUEST, SSL_REQUEST] {
        client.write_all(&request).await.expect("sent");
        assert_eq!(client.read_u8().await.expect("answered"), b'N');
    }
    client.write_all(&startup(&[("user", "ann"), ("database", "shop@b")])).await.expect("sent");
    assert_eq!(client.read_u8().await.expect("answered"), b'R');
}

#[tokio::test]
async fn what_is_no_startup_packet_is_refused() {
    let proxy = proxy(ServerSettings::default()).await;
    assert!(answer_to(&proxy, b"GET / HTTP/1.1\r\n\r\n").await.contains("C08P01"));
    assert!(answer_to(&proxy, &[0, 0, 0x27, 0x15, 0, 3, 0, 0]).await.contains("C08P01"));
    assert!(answer_to(&proxy, &[0, 0, 0, 7, 0, 3, 0]).await.contains("C08P01"));
    assert!(answer_to(&proxy, &[0, 0, 0, 9, 0, 2, 0, 0, 0]).await.contains("C0A000"));
    // Cancel requests with a key that nobody has, and with half a key.
    assert_eq!(answer_to(&proxy, &[0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 1, 2, 3, 4]).await, "");
    assert!(answer_to(&proxy, &[0, 0, 0, 13, 4, 210, 22, 46, 0, 0, 0, 1, 1]).await.contains("C08P01"));
}

#[tokio::test]
async fn the_longest_startup_packet_is_taken() {
    let proxy = proxy(ServerSettings::default()).await;
    let empty = startup(&[("user", "ann"), ("application_name", "")]);
    // The length word itself does not count.
    let most = "x".repeat(10_000 - (empty.len() - 4));
    let longest = startup(&[("user", "ann"), ("application_name", &most)]);
    assert!(answer_to(&proxy, &longest).await.contains("C3D000"));
    let longer = startup(&[("user", "ann"), ("application_name", &(most + "x"))]);
    assert!(answer_to(&proxy, &longer).await.contains("C08P01"));
}

#[tokio::test]
async fn names_that_mean_nothing_are_explained() {
    let proxy = proxy(ServerSettings::default()).await;
    let plain = answer_to(&proxy, &startup(&[("user", "ann"), ("database", "shop")])).await;
    assert!(plain.contains("C3D000") && plain.contains("connect to \"shop@NAME\""), "{plain}");
    let unknown = answer_to(&proxy, &startup(&[("user", "ann"), ("database", "x@b")])).await;
    assert!(unknown.contains("C3D000") && unknown.contains("known databases: shop, lost"), "{unknown}");
    let bad = answer_to(&proxy, &startup(&[("user", "ann"), ("database", "shop@a b")])).await;
    assert!(bad.contains("C42602"), "{bad}");
    let nobody = answer_to(&proxy, &startup(&[("database", "shop@b")])).await;
    assert!(nobody.contains("C28000"), "{nobody}");
}

#[tokio::test]
async fn a_newer_protocol_is_negotiated_down() {
    let proxy = proxy(ServerSettings::default()).await;
    let mut packet = startup(&[("user", "ann"), ("database", "shop@b"), ("_pq_.new", "1")]);
    packet[6..8].copy_from_slice(&9999u16.to_be_bytes());
    let mut client = connect(&proxy).await;
    client.write_all(&packet).await.expect("sent");
    let (kind, body) = message::read_message(&mut client, 100).await.expect("answered");
    assert_eq!((kind, body.as_slice()), (b'v', &b"\0\x03\0\x02\0\0\0\x01_pq_.new\0"[..]));
    assert_eq!(client.read_u8().await.expect("answered"), b'R');
}

#[tokio::test]
async fn only_scram_is_offered_and_only_scram_is_taken() {
    let proxy = proxy(ServerSettings::default()).await;
    let mut client = connect(&proxy).await;
    client.write_all(&startup(&[("user", "ann"), ("database", "shop@b")])).await.expect("sent");
    let (kind, body) = message::read_message(&mut client, 100).await.expect("answered");
    assert_eq!((kind, body.as_slice()), (b'R', &b"\0\0\0\x0aSCRAM-SHA-256\0\0"[..]));
    client.write_all(b"p\0\0\0\x1aSCRAM-SHA-256-PLUS\0\0\0\0\0").await.expect("sent");
    assert!(answer(&mut client).await.contains("C08P01"));
}

#[tokio::test]
async fn a_handshake_ends_in_time_wherever_it_stands() {
    let proxy = proxy(ServerSettings { handshake_timeout: Duration::from_millis(300), ..Default::default() }).await;
    let packet = startup(&[("user", "ann"), ("database", "shop@b")]);
    for sent in [&b""[..], &SSL_REQUEST[..3], &SSL_REQUEST, &packet[..packet.len() - 1], &packet] {
        let begun = Instant::now();
        answer_to(&proxy, sent).await;
        let lasted = begun.elapsed();
        assert!((Duration::from_millis(250)..Duration::from_secs(5)).contains(&lasted), "{lasted:?}");
    }
}

#[tokio::test]
async fn one_handshake_too_many_is_refused() {
    let proxy = proxy(ServerSettings { max_handshakes: 2, ..Default::default() }).await;
    let packet = startup(&[("user", "ann"), ("database", "shop@b")]);
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut client = connect(&proxy).await;
        client.write_all(&packet).await.expect("sent");
        assert_eq!(client.read_u8().await.expect("answered"), b'R');
        waiting.push(client);
    }
    let refused = answer_to(&proxy, &packet).await;
    assert!(refused.contains("C53300") && refused.contains("max_handshakes"), "{refused}");
    waiting.pop();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut client = connect(&proxy).await;
    client.write_all(&packet).await.expect("sent");
    assert_eq!(client.read_u8().await.expect("answered"), b'R');
}

#[tokio::test]
async fn garbage_of_any_kind_leaves_the_proxy_standing() {
    let proxy = proxy(ServerSettings::default()).await;
    let entropy = crate::model::Entropy::seeded(7);
    for _ in 0..200 {
        let mut garbage = vec![0; (entropy.bits() % 64) as usize];
        entropy.fill(&mut garbage);
        // Half of them with a length that fits.
        if garbage.len() > 8 && entropy.bits().is_multiple_of(2) {
            let length = garbage.len() as u32;
            garbage[..4].copy_from_slice(&length.to_be_bytes());
            garbage[4..8].copy_from_slice(&[0, 3, 0, 0]);
        }
        let mut client = connect(&proxy).await;
        client.write_all(&garbage).await.expect("sent");
        client.shutdown().await.expect("closed");
        answer(&mut client).await;
    }
    assert!(answer_to(&proxy, &startup(&[("user", "a")])).await.contains("C3D000"));
}
