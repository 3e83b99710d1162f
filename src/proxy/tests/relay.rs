//! The relay between two sockets of the test's own.

use crate::proxy::message::put_backend_key;
use crate::proxy::relay::{RelayEnd, Relayed, relay};
use crate::proxy::scanner::MessageScanner;
use crate::proxy::stream::ClientStream;
use crate::proxy::tests::raw_client::message;
use bytes::BytesMut;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A relay with both of its peers in our hands.
struct Bench {
    client: TcpStream,
    compute: UnixStream,
    stop: oneshot::Sender<()>,
    relayed: JoinHandle<(Relayed, bool)>,
}

async fn bench(early: &[u8]) -> Bench {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
    let (accepted, _) = listener.accept().await.expect("accepted");
    let (mut proxied, compute) = UnixStream::pair().expect("a pair");
    let (stop, stopped) = oneshot::channel();
    let early = early.to_vec();
    let relayed = tokio::spawn(async move {
        let mut scanner = MessageScanner::new();
        let mut accepted = ClientStream::Plain(accepted);
        let stopped = async {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let relayed = relay(&mut accepted, &mut proxied, &mut scanner, early, stopped).await;
        (relayed, scanner.at_boundary())
    });
    Bench { client, compute, stop, relayed }
}

async fn end(relayed: JoinHandle<(Relayed, bool)>) -> (Relayed, bool) {
    tokio::time::timeout(Duration::from_secs(10), relayed).await.expect("in time").expect("no panic")
}

#[tokio::test]
async fn early_bytes_come_first() {
    let Bench { mut client, mut compute, relayed, .. } = bench(&[7; 10_000]).await;
    client.write_all(b"later").await.expect("sent");
    client.shutdown().await.expect("shut");
    let mut received = Vec::new();
    compute.read_to_end(&mut received).await.expect("received");
    assert_eq!((received.len(), &received[10_000..]), (10_005, &b"later"[..]));
    drop(compute);
    let (relayed, _) = end(relayed).await;
    assert!(matches!(relayed.end, RelayEnd::ClientClosed), "{:?}", relayed.end);
    assert_eq!(relayed.bytes_to_compute, 10_005);
}

#[tokio::test]
async fn both_directions_flow_at_once_and_unchanged() {
    const BYTES: usize = 20 << 20;
    let Bench { client, compute, relayed, .. } = bench(&[]).await;
    let pattern = |seed: usize| (0..BYTES).map(move |at| (at * 31 + seed + at / 1000) as u8).collect::<Vec<u8>>();
    let (mut client_reads, mut client_writes) = client.into_split();
    let (mut compute_reads, mut compute_writes) = compute.into_split();
    let (up, down) = (pattern(1), message(b'D', &pattern(2)));
    let (sent_up, sent_down) = (up.clone(), down.clone());
    tokio::spawn(async move {
        client_writes.write_all(&sent_up).await.expect("sent");
        client_writes.shutdown().await.expect("shut");
    });
    tokio::spawn(async move {
        compute_writes.write_all(&sent_down).await.expect("sent");
        compute_writes
    });
    let (mut got_up, mut got_down) = (Vec::new(), vec![0; down.len()]);
    let (first, second) = tokio::join!(compute_reads.read_to_end(&mut got_up), client_reads.read_exact(&mut got_down));
    assert!(first.is_ok() && second.is_ok());
    assert!(got_up == up && got_down == down, "bytes changed on their way");
    drop(compute_reads);
    let (relayed, at_boundary) = end(relayed).await;
    assert!(at_boundary);
    assert_eq!((relayed.bytes_to_client, relayed.bytes_to_compute), (down.len() as u64, up.len() as u64));
}

#[tokio::test]
async fn the_end_of_a_compute_is_unexplained_only_if_nobody_explained_it() {
    let cases: [(&[u8], Vec<u8>, bool); 3] = [
        (b"Q\0\0\0\x05\0", message(b'Z', b"I"), true),
        (b"Q\0\0\0\x05\0", message(b'E', b"SFATAL\0\0"), false),
        (b"X\0\0\0\x04", message(b'Z', b"I"), false),
    ];
    for (from_client, from_compute, expected) in cases {
        let Bench { mut client, mut compute, relayed, stop: _stop } = bench(&[]).await;
        client.write_all(from_client).await.expect("sent");
        compute.read_exact(&mut vec![0; from_client.len()]).await.expect("received");
        compute.write_all(&from_compute).await.expect("sent");
        drop(compute);
        let (relayed, at_boundary) = end(relayed).await;
        assert!(at_boundary);
        assert!(matches!(relayed.end, RelayEnd::ComputeClosed { unexplained } if unexplained == expected));
        client.read_exact(&mut vec![0; from_compute.len()]).await.expect("received");
    }
}

#[tokio::test]
async fn a_compute_that_hangs_up_on_a_sending_client_is_heard_out() {
    let Bench { mut client, mut compute, relayed, .. } = bench(&[]).await;
    let error = message(b'E', b"SFATAL\0\0");
    compute.write_all(&error).await.expect("sent");
    drop(compute);
    // Whatever of this is still taken: the error has to arrive.
    let _ = client.write_all(&[0; 1 << 20]).await;
    let mut received = vec![0; error.len()];
    client.read_exact(&mut received).await.expect("received");
    assert_eq!(received, error);
    let (relayed, _) = end(relayed).await;
    assert!(matches!(relayed.end, RelayEnd::ComputeClosed { unexplained: false }), "{:?}", relayed.end);
}

#[tokio::test]
async fn a_stop_leaves_whole_messages_behind() {
    let Bench { mut client, mut compute, relayed, stop } = bench(&[]).await;
    let mut key = BytesMut::new();
    put_backend_key(&mut key, 1, &[1, 2, 3, 4]);
    compute.write_all(&key).await.expect("sent");
    client.read_exact(&mut vec![0; key.len()]).await.expect("received");
    stop.send(()).expect("it runs");
    let (relayed, at_boundary) = end(relayed).await;
    assert!(matches!(relayed.end, RelayEnd::Stopped));
    assert!(at_boundary && relayed.unsent.is_empty());
}
