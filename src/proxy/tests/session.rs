//! Sessions with a real Postgres behind them: parameters, bulk data, cancel requests, and every way to end.

use crate::branch::BranchError;
use crate::proxy::fixture::{Postgres, RunningProxy, TestUpstream, eventually, printed};
use crate::proxy::tests::raw_client::{RawClient, message};
use crate::settings::ServerSettings;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use nix::sys::signal::Signal;
use sha2::{Digest, Sha256};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

#[tokio::test]
async fn startup_parameters_reach_the_compute() {
    let postgres = Postgres::start().await;
    let proxy = RunningProxy::start(postgres.upstream()).await;
    let options = r"application_name='a b' options='-c offshoot.branch=b -c my.words=x\\ y --geqo=off'";
    let query = "SELECT current_setting('application_name'), current_setting('my.words'), current_setting('geqo')";
    let output = proxy.psql("ann", "shop", options, query).await;
    assert_eq!(printed(&output), ("a b|x y|off".to_owned(), String::new()));
}

#[tokio::test]
async fn the_computes_own_refusals_pass_through() {
    let postgres = Postgres::start().await;
    let upstream = postgres.upstream();
    let proxy = RunningProxy::start(upstream.clone()).await;
    let code = |result: Result<Client, tokio_postgres::Error>| result.err().and_then(|error| error.code().cloned());
    assert_eq!(code(proxy.connect("ann", "lost@b").await), Some(SqlState::INVALID_CATALOG_NAME));
    let _first = proxy.connect("single", "shop@b").await.expect("logged in");
    assert_eq!(code(proxy.connect("single", "shop@b").await), Some(SqlState::TOO_MANY_CONNECTIONS));
    let (_, complaint) = printed(&proxy.psql("single", "shop@b", "", "SELECT 1").await);
    assert!(complaint.contains("too many connections for role \"single\""), "{complaint}");
    eventually("refused sessions end", async || upstream.awake.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test]
async fn a_branch_that_cannot_be_had_says_why() {
    let postgres = Postgres::start().await;
    let failing = BranchError::TooManyBranches { project: "demo".to_owned(), limit: 3 };
    let upstream = TestUpstream { opening_fails: Some(failing), ..postgres.upstream() };
    let proxy = RunningProxy::start(upstream).await;
    let (_, complaint) = printed(&proxy.psql("ann", "shop@b", "", "SELECT 1").await);
    assert!(complaint.contains("3 branches") && complaint.contains("offshoot branch list demo"), "{complaint}");
}

#[tokio::test]
async fn fifty_megabytes_arrive_as_they_were_sent() {
    const ROW: usize = 1000;
    const ROWS: usize = 50_000;
    let postgres = Postgres::start().await;
    let proxy = RunningProxy::start(postgres.upstream()).await;
    let client = proxy.connect("ann", "shop@b").await.expect("logged in");
    client.batch_execute("CREATE UNLOGGED TABLE t (line text)").await.expect("made");

    let mut sent = Sha256::new();
    let mut sink = Box::pin(client.copy_in::<_, Bytes>("COPY t FROM STDIN").await.expect("begun"));
    for batch in 0..ROWS / 100 {
        let lines: String = (0..100).map(|line| format!("{:0width$}\n", batch * 100 + line, width = ROW)).collect();
        sent.update(&lines);
        sink.send(Bytes::from(lines)).await.expect("sent");
    }
    assert_eq!(sink.as_mut().finish().await.expect("finished"), ROWS as u64);

    let mut received = Sha256::new();
    let mut stream = Box::pin(client.copy_out("COPY t TO STDOUT").await.expect("begun"));
    while let Some(piece) = stream.next().await {
        received.update(piece.expect("received"));
    }
    assert_eq!(sent.finalize(), received.finalize());
    let rows = client.query("SELECT line FROM t LIMIT 5000", &[]).await.expect("read");
    assert_eq!(rows.len(), 5000);
}

#[tokio::test]
async fn a_cancel_request_stops_its_own_query_only() {
    let postgres = Postgres::start().await;
    let proxy = RunningProxy::start(postgres.upstream()).await;
    let victim = proxy.connect("ann", "shop@b").await.expect("logged in");
    let other = proxy.connect("ann", "shop@b").await.expect("logged in");
    let begun = Instant::now();
    let token = victim.cancel_token();
    let canceling = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        token.cancel_query(NoTls).await.expect("sent");
    };
    let (slept, undisturbed, ()) =
        tokio::join!(victim.batch_execute("SELECT pg_sleep(30)"), other.batch_execute("SELECT pg_sleep(1)"), canceling);
    assert_eq!(slept.err().and_then(|error| error.code().cloned()), Some(SqlState::QUERY_CANCELED));
    undisturbed.expect("slept through");
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(victim.batch_execute("SELECT 1").await.is_ok());
}

#[tokio::test]
async fn a_client_knows_its_backend_by_its_process_id() {
    let postgres = Postgres::start().await;
    let proxy = RunningProxy::start(postgres.upstream()).await;
    let mut client = RawClient::connect(&proxy).await;
    client.start(0, "ann", "shop@b").await;
    client.prove("ann").await;
    let key = client.read_until(b'K').await;
    let told = i32::from_be_bytes(key[..4].try_into().expect("a process id"));
    client.read_until(b'Z').await;
    client.send(&message(b'Q', b"SELECT pg_backend_pid()\0")).await;
    // One column, as text: its count, its length, itself.
    let row = client.read_until(b'D').await;
    assert_eq!(String::from_utf8_lossy(&row[6..]), told.to_string());
    client.read_until(b'Z').await;

    let other = proxy.connect("ann", "shop@b").await.expect("logged in");
    let ended = other.query_one("SELECT pg_terminate_backend($1)", &[&told]).await.expect("answered");
    assert!(ended.get::<_, bool>(0));
    assert!(String::from_utf8_lossy(&client.read_until(b'E').await).contains("C57P01"));
}

#[tokio::test]
async fn a_client_of_a_newer_protocol_cancels_with_a_longer_key() {
    let postgres = Postgres::start().await;
    let proxy = RunningProxy::start(postgres.upstream()).await;
    let mut client = RawClient::connect(&proxy).await;
    client.start(2, "ann", "shop@b").await;
    client.prove("ann").await;
    let key = client.read_until(b'K').await;
    assert_eq!(key.len(), 4 + 32);
    client.read_until(b'Z').await;
    client.send(&message(b'Q', b"SELECT pg_sleep(30)\0")).await;

    let cancel = async |key: &[u8]| {
        let mut canceler = RawClient::connect(&proxy).await;
        canceler.send(&[&(8 + key.len() as u32).to_be_bytes()[..], &[4, 210, 22, 46], key].concat()).await;
        assert_eq!(canceler.tcp.read(&mut [0]).await.expect("closed"), 0);
    };
    cancel(&key[..8]).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    cancel(&key).await;
    let error = client.read_until(b'E').await;
    assert!(String::from_utf8_lossy(&error).contains("C57014"));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_client_that_only_stops_sending_gets_its_answer() {
    let postgres = Postgres::start().await;
    let proxy = RunningProxy::start(postgres.upstream()).await;
    let mut client = RawClient::connect(&proxy).await;
    client.start(0, "ann", "shop@b").await;
    client.prove("ann").await;
    client.read_until(b'Z').await;
    client.send(&message(b'Q', b"SELECT pg_sleep(0.3), 'the answer'\0")).await;
    client.tcp.shutdown().await.expect("shut");
    let row = client.read_until(b'D').await;
    assert!(row.ends_with(b"the answer"));
    client.read_until(b'Z').await;
    assert_eq!(client.tcp.read(&mut [0]).await.expect("closed"), 0);
}

/// Waits until `sessions` of them sleep for half a minute.
async fn sleeping(postgres: &Postgres, sessions: i64) {
    let watcher = postgres.superuser().await;
    eventually("they sleep", async || {
        let query = "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep.30.$'";
        watcher.query_one(query, &[]).await.expect("counted").get::<_, i64>(0) == sessions
    })
    .await;
}

#[tokio::test]
async fn psql_cancels_with_an_interrupt() {
    let postgres = Postgres::start().await;
    let proxy = RunningProxy::start(postgres.upstream()).await;
    let interrupt = async {
        sleeping(&postgres, 1).await;
        proxy.signal_psql(Signal::SIGINT);
    };
    let (output, ()) = tokio::join!(proxy.psql("ann", "shop@b", "", "SELECT pg_sleep(30)"), interrupt);
    let (_, complaint) = printed(&output);
    assert!(complaint.contains("57014"), "{complaint}");
}

#[tokio::test]
async fn notifications_arrive_by_themselves() {
    let postgres = Postgres::start().await;
    let proxy = RunningProxy::start(postgres.upstream()).await;
    let (listener, mut connection) = proxy.config("ann", "ann", "shop@b").connect(NoTls).await.expect("logged in");
    let (told, mut notified) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(message) = futures::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let Ok(tokio_postgres::AsyncMessage::Notification(notification)) = message {
                told.send(notification.payload().to_owned()).await.expect("somebody waits");
            }
        }
    });
    listener.batch_execute("LISTEN news").await.expect("listens");
    let speaker = proxy.connect("ann", "shop@b").await.expect("logged in");
    speaker.batch_execute("NOTIFY news, 'rain'").await.expect("notified");
    let payload = tokio::time::timeout(Duration::from_secs(5), notified.recv()).await.expect("in time");
    assert_eq!(payload.as_deref(), Some("rain"));
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_session() {
    let postgres = Postgres::start().await;
    let upstream = postgres.upstream();
    let proxy = RunningProxy::start(upstream.clone()).await;
    let client = proxy.connect("ann", "shop@b").await.expect("logged in");
    client.batch_execute("BEGIN").await.expect("begun");
    assert_eq!(upstream.awake.load(Ordering::SeqCst), 1);
    drop(client);
    eventually("the session ends", async || upstream.awake.load(Ordering::SeqCst) == 0).await;
    eventually("the backend ends", async || postgres.sessions().await == 0).await;

    // Without a word, in the middle of its own data.
    let (client, connection) = proxy.config("ann", "ann", "shop@b").connect(NoTls).await.expect("logged in");
    let connection = tokio::spawn(connection);
    let reading = client.query_raw("SELECT repeat('x', 1000000) FROM generate_series(1, 100)", Vec::<i32>::new()).await;
    connection.abort();
    drop(reading);
    eventually("the session ends", async || upstream.awake.load(Ordering::SeqCst) == 0).await;
    eventually("the backend ends", async || postgres.sessions().await == 0).await;
}

#[tokio::test]
async fn a_query_outlives_its_client_by_moments_only() {
    let postgres = Postgres::start().await;
    let upstream = postgres.upstream();
    let proxy = RunningProxy::start(upstream.clone()).await;
    let query = message(b'Q', b"SELECT pg_sleep(30)\0");
    let login = async || {
        let mut client = RawClient::connect(&proxy).await;
        client.start(0, "ann", "shop@b").await;
        client.prove("ann").await;
        client.read_until(b'Z').await;
        client
    };
    let (mut reset, mut half_closed) = (login().await, login().await);
    reset.send(&query).await;
    half_closed.send(&query).await;
    let gone = async {
        sleeping(&postgres, 3).await;
        proxy.signal_psql(Signal::SIGKILL);
        reset.tcp.set_zero_linger().expect("set");
        drop(reset);
        half_closed.tcp.shutdown().await.expect("shut");
        let error = half_closed.read_until(b'E').await;
        assert!(String::from_utf8_lossy(&error).contains("C57014"));
    };
    let (_, ()) = tokio::join!(proxy.psql("ann", "shop@b", "", "SELECT pg_sleep(30)"), gone);
    eventually("the backends end", async || postgres.sessions().await == 0).await;
    eventually("their branches may sleep", async || upstream.awake.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn what_a_client_asked_for_with_its_last_breath_is_done() {
    let postgres = Postgres::start().await;
    let upstream = postgres.upstream();
    let proxy = RunningProxy::start(upstream.clone()).await;
    let mut client = RawClient::connect(&proxy).await;
    client.start(0, "ann", "shop@b").await;
    client.prove("ann").await;
    client.read_until(b'Z').await;
    client.send(&message(b'Q', b"SELECT pg_sleep(1); CREATE TABLE done ()\0")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.tcp.set_zero_linger().expect("set");
    drop(client);
    eventually("the session ends", async || upstream.awake.load(Ordering::SeqCst) == 0).await;
    let client = proxy.connect("ann", "shop@b").await.expect("logged in");
    client.batch_execute("SELECT FROM done").await.expect("the table is there");
}

#[tokio::test]
async fn a_client_that_leaves_while_its_branch_opens_is_not_waited_for() {
    let postgres = Postgres::start().await;
    let upstream = TestUpstream { opening: Duration::from_secs(60), ..postgres.upstream() };
    let proxy = RunningProxy::start(upstream.clone()).await;
    let config = proxy.config("ann", "ann", "shop@b");
    let connecting = tokio::spawn(async move { config.connect(NoTls).await.map(|_| ()) });
    eventually("the branch opens", async || upstream.in_opening.load(Ordering::SeqCst) == 1).await;
    connecting.abort();
    eventually("nobody waits for it", async || upstream.in_opening.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_branches_that_open() {
    let postgres = Postgres::start().await;
    let upstream = TestUpstream { opening: Duration::from_secs(60), ..postgres.upstream() };
    let grace = Duration::from_secs(60);
    let mut proxy = RunningProxy::with(upstream.clone(), ServerSettings::default(), &[], grace).await;
    let config = proxy.config("ann", "ann", "shop@b");
    let connecting = tokio::spawn(async move { config.connect(NoTls).await.map(|_| ()) });
    eventually("the branch opens", async || upstream.in_opening.load(Ordering::SeqCst) == 1).await;
    proxy.stop();
    let refused = connecting.await.expect("no panic").expect_err("it is stopping");
    assert_eq!(refused.code().map(SqlState::code), Some("57P03"));
    proxy.ended().await;
}

#[tokio::test]
async fn a_compute_that_dies_is_explained() {
    let mut postgres = Postgres::start().await;
    let proxy = RunningProxy::start(postgres.upstream()).await;
    let client = proxy.connect("ann", "shop@b").await.expect("logged in");
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.expect("answered").get(0);
    let waiting = client.batch_execute("SELECT pg_sleep(30)");
    let killing = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("killed");
    };
    let (died, ()) = tokio::join!(waiting, killing);
    let error = died.expect_err("the backend was killed");
    let error = error.as_db_error().expect("an error from the proxy");
    assert_eq!((error.code().code(), error.message()), ("57P01", "the branch's compute ended"));

    postgres.kill();
    let refused = proxy.connect("ann", "shop@b").await.expect_err("nobody is there");
    assert_eq!(refused.code().map(SqlState::code), Some("57P03"));
}

#[tokio::test]
async fn a_stop_refuses_new_clients_and_gives_the_others_time() {
    let postgres = Postgres::start().await;
    let grace = Duration::from_secs(3);
    let mut proxy = RunningProxy::with(postgres.upstream(), ServerSettings::default(), &[], grace).await;
    let finishing = proxy.connect("ann", "shop@b").await.expect("logged in");
    let lasting = proxy.connect("ann", "shop@b").await.expect("logged in");
    proxy.stop();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let refused = proxy.connect("ann", "shop@b").await.expect_err("it is stopping");
    assert_eq!(refused.code().map(SqlState::code), Some("57P03"));
    finishing.batch_execute("SELECT pg_sleep(0.5)").await.expect("there was time");
    drop(finishing);
    let ended = lasting.batch_execute("SELECT pg_sleep(30)").await.expect_err("the grace is over");
    assert_eq!(ended.code().map(SqlState::code), Some("57P01"));
    proxy.ended().await;
}
