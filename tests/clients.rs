//! What goes over the wire: names, logins, errors, and everything of the protocol that clients use.

mod fixture;

use bytes::Bytes;
use fixture::*;
use futures::{SinkExt, StreamExt, TryStreamExt, pin_mut};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::str::FromStr;
use std::time::{Duration, Instant};
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{AsyncMessage, Config, NoTls};

fn config(shop: &Shop, role: (&str, &str), database: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(shop.node.port()).user(role.0).password(role.1).dbname(database);
    config
}

// ---- names

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_can_be_named_in_three_ways() {
    let shop = Fixture::new().start();
    shop.psql("shop@x", "create table me as select 'x'::text as name");
    assert_eq!(psql(&shop.url("shop%40x"), "select name from me"), "x", "libpq decodes an URL");
    let keywords = format!("host=127.0.0.1 port={} user={} password={} dbname=", shop.node.port(), APP.0, APP.1);
    assert_eq!(psql(&format!("{keywords}shop@x"), "select name from me"), "x");
    assert_eq!(
        psql(&format!("{keywords}shop%40x"), "select name from me"),
        "x",
        "a literal %40, as several drivers send it"
    );
    let option = format!("{keywords}shop options='-c offshoot.branch=x -c work_mem=5MB'");
    assert_eq!(psql(&option, "select name, current_setting('work_mem') from me"), "x|5MB");

    let client = connect_with(&config(&shop, APP, "shop%40x")).await.expect("a literal %40 is an @");
    assert_eq!(client.query_one("select name from me", &[]).await.expect("it reads").get::<_, String>(0), "x");
    let client = connect_with(config(&shop, APP, "shop").options("-c offshoot.branch=x"))
        .await
        .expect("the option names the branch");
    assert_eq!(client.query_one("select name from me", &[]).await.expect("it reads").get::<_, String>(0), "x");
    assert_eq!(shop.node.branches().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_a_branch_says_how_to_write_one() {
    let shop = Fixture::new().start();
    let error = refusal(&shop.url("shop")).await;
    assert_eq!(error.code(), &SqlState::INVALID_CATALOG_NAME, "{error:?}");
    assert!(text_of(&error).contains("shop@"), "the hint shows a name that works: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_database_lists_the_known_ones() {
    let shop = Fixture::new().start();
    let error = refusal(&shop.url("shopp@x")).await;
    assert_eq!(error.code(), &SqlState::INVALID_CATALOG_NAME, "{error:?}");
    let text = text_of(&error);
    assert!(text.contains("shopp") && text.contains("shop") && text.contains("analytics"), "{error:?}");
    assert!(error.hint().is_some(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_could_leave_their_place_are_refused() {
    let shop = Fixture::new().start();
    for name in ["../x", "-x", "a b", "x/", "a//b", "a/../b", &"x".repeat(64)] {
        let error = refusal_with(&config(&shop, APP, &format!("shop@{name}"))).await;
        assert!(["3D000", "42602"].contains(&error.code().code()), "{name:?}: {error:?}");
    }
    let error = refusal_with(&config(&shop, APP, "shop@")).await;
    assert!(["3D000", "42602"].contains(&error.code().code()), "{error:?}");
    assert_eq!(shop.node.branches().len(), 0, "none of them made a branch");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_without_a_base_says_how_to_get_one() {
    let shop = Fixture::new().without_import().start();
    let error = refusal(&shop.url("shop@x")).await;
    assert!(["3D000", "55000", "57P03", "28P01"].contains(&error.code().code()), "{error:?}");
    assert!(text_of(&error).contains("offshoot import"), "{error:?}");
}

fn text_of(error: &DbError) -> String {
    format!("{} {} {}", error.message(), error.detail().unwrap_or_default(), error.hint().unwrap_or_default())
}

// ---- logging in

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_an_unknown_role_look_the_same_and_make_nothing() {
    let shop = Fixture::new().start();
    let wrong = refusal(&shop.node.url(("app", "wrong"), "shop@x")).await;
    let unknown = refusal(&shop.node.url(("nobody", "wrong"), "shop@x")).await;
    let no_password = refusal(&shop.node.url(("tester", "wrong"), "shop@x")).await;
    for error in [&wrong, &unknown, &no_password] {
        assert_eq!(error.code(), &SqlState::INVALID_PASSWORD, "{error:?}");
    }
    let of = |error: &DbError, name: &str| text_of(error).replace(name, "ROLE");
    assert_eq!(of(&wrong, "app"), of(&unknown, "nobody"));
    assert_eq!(of(&wrong, "app"), of(&no_password, "tester"));
    assert_eq!(shop.node.branches().len(), 0, "who is not let in causes no work");
    assert!(shop.node.processes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_made_in_a_branch_logs_in_to_that_branch_awake_and_asleep() {
    let shop = Fixture::new().idle_timeout("1s").start();
    let postgres = shop.node.url(POSTGRES, "shop@x");
    psql(&postgres, "create role made login password 'made-pw'; alter role app password 'other-pw'");
    let made = shop.node.url(("made", "made-pw"), "shop@x");
    let changed = shop.node.url(("app", "other-pw"), "shop@x");
    assert_eq!(psql(&made, "select current_user"), "made");
    assert_eq!(psql(&changed, "select current_user"), "app");
    shop.node.wait_asleep("shop@x");
    assert_eq!(psql(&made, "select current_user"), "made");
    shop.node.wait_asleep("shop@x");
    assert_eq!(psql(&changed, "select current_user"), "app");
    assert_eq!(refusal(&shop.url("shop@x")).await.code(), &SqlState::INVALID_PASSWORD, "the former password is none");
    assert_eq!(refusal(&shop.node.url(("made", "made-pw"), "shop@y")).await.code(), &SqlState::INVALID_PASSWORD);
    assert_eq!(shop.psql("shop@y", "select current_user"), "app", "another branch has the base's roles");

    psql(&postgres, "drop role made");
    assert_eq!(refusal(&made).await.code(), &SqlState::INVALID_PASSWORD, "awake");
    shop.node.wait_asleep("shop@x");
    assert_eq!(refusal(&made).await.code(), &SqlState::INVALID_PASSWORD, "asleep");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_may_not_is_enforced_before_its_branch_is_reached() {
    let shop = Fixture::new().start();
    let postgres = shop.node.url(POSTGRES, "shop@x");
    psql(
        &postgres,
        "create role cannot nologin password 'pw'; create role past login password 'pw' valid until '2020-01-01'",
    );
    psql(
        &postgres,
        "create role later login password 'pw' valid until '2100-01-01'; create role single login password 'pw' connection limit 1",
    );
    let url = |role: &str| shop.node.url((role, "pw"), "shop@x");
    assert_eq!(refusal(&url("cannot")).await.code().code(), "28000");
    assert_eq!(refusal(&url("past")).await.code(), &SqlState::INVALID_PASSWORD);
    assert_eq!(psql(&url("later"), "select 1"), "1");
    let held = connect(&url("single")).await.expect("one may");
    assert_eq!(refusal(&url("single")).await.code(), &SqlState::TOO_MANY_CONNECTIONS);
    drop(held);
    until("the connection to be free again", 10, || try_psql(&url("single"), "select 1").ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_config_lets_in_a_role_that_has_no_password() {
    let users = "[[project.user]]\nname = \"tester\"\npassword_env = \"SHOP_TESTER_PASSWORD\"";
    let shop = Fixture::new().project(users).environment("SHOP_TESTER_PASSWORD", "from the environment").start();
    let client =
        connect_with(&config(&shop, ("tester", "from the environment"), "shop@x")).await.expect("it is let in");
    assert_eq!(
        client.query_one("select current_user::text", &[]).await.expect("it reads").get::<_, String>(0),
        "tester"
    );
    let wrong = refusal_with(&config(&shop, ("tester", "something else"), "shop@x")).await;
    assert_eq!(wrong.code(), &SqlState::INVALID_PASSWORD);
    assert!(!shop.node.log().contains("from the environment"));
}

#[test]
fn a_client_that_says_nothing_is_cut_off() {
    let shop = Fixture::new().server("handshake_timeout = \"2s\"").start();
    let mut silent = TcpStream::connect(("127.0.0.1", shop.node.port())).expect("it listens");
    silent.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket takes a timeout");
    let start = Instant::now();
    let mut rest = Vec::new();
    let _ = silent.read_to_end(&mut rest);
    assert!(start.elapsed() < Duration::from_secs(10), "cut off after {:?}", start.elapsed());
    assert_eq!(shop.psql("shop@x", "select 1"), "1", "others are served");
}

#[test]
fn garbage_is_answered_by_closing() {
    let shop = Fixture::new().start();
    let huge = [0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0];
    let garbage: [&[u8]; 5] = [b"GET / HTTP/1.1\r\n\r\n", &[0; 64], &[0xff; 64], &huge, &[0, 0, 0, 8, 0, 0, 0, 0]];
    for bytes in garbage {
        let mut stream = TcpStream::connect(("127.0.0.1", shop.node.port())).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket takes a timeout");
        stream.write_all(bytes).expect("it reads");
        let mut rest = Vec::new();
        let closed = stream.read_to_end(&mut rest);
        let timed_out = closed
            .is_err_and(|error| matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut));
        assert!(!timed_out, "{bytes:?} left the connection open");
    }
    assert_eq!(shop.psql("shop@x", "select 1"), "1");
}

// ---- TLS

/// A certificate for 127.0.0.1 and localhost that signs itself, and its key.
fn certificate(scratch: &Scratch) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
        .expect("a certificate can be made");
    let (cert, key) = (scratch.join("tls.crt"), scratch.join("tls.key"));
    std::fs::write(&cert, made.cert.pem()).expect("the scratch folder is writable");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("the scratch folder is writable");
    format!("tls_cert = {cert:?}\ntls_key = {key:?}\n")
}

#[test]
fn clients_may_use_tls_and_can_be_made_to() {
    let files = Scratch::new();
    let lines = certificate(&files);
    let trusted = files.join("tls.crt");
    let shop = Fixture::new().server(&lines).start();
    let keywords = |node: &Node, mode: &str| {
        format!(
            "host=localhost hostaddr=127.0.0.1 port={} user={} password={} dbname=shop@x sslmode={mode} sslrootcert={}",
            node.port(),
            APP.0,
            APP.1,
            trusted.display()
        )
    };
    for mode in ["disable", "prefer", "require", "verify-full"] {
        let answer = psql_command(&keywords(&shop.node, mode))
            .args(["-c", "\\conninfo", "-c", "select 41 + 1"])
            .output()
            .expect("psql runs");
        let printed = String::from_utf8_lossy(&answer.stdout).into_owned();
        assert!(printed.contains("42"), "{mode}: {printed} {}", String::from_utf8_lossy(&answer.stderr));
        assert_eq!(printed.contains("SSL"), mode != "disable", "{mode}: {printed}");
    }
    let strict = Fixture::new().server(&format!("{lines}require_tls = true\n")).start();
    assert_eq!(psql(&keywords(&strict.node, "require"), "select 1"), "1");
    let error = try_psql(&keywords(&strict.node, "disable"), "select 1").expect_err("plaintext is refused");
    assert!(error.to_uppercase().contains("TLS") || error.to_uppercase().contains("SSL"), "{error}");
}

#[test]
fn without_a_certificate_tls_is_declined_as_postgres_declines_it() {
    let shop = Fixture::new().start();
    let url = |mode: &str| format!("{}?sslmode={mode}", shop.url("shop@x"));
    assert_eq!(psql(&url("prefer"), "select 1"), "1");
    assert!(try_psql(&url("require"), "select 1").expect_err("there is none").contains("SSL"));
}

// ---- after the handshake

#[test]
fn startup_parameters_reach_the_compute() {
    let shop = Fixture::new().start();
    let url = format!(
        "{}?application_name=my%20tool&client_encoding=LATIN1&options=-c%20statement_timeout%3D7s",
        shop.url("shop@x")
    );
    let settings = "select current_setting('application_name'), current_setting('client_encoding'), current_setting('statement_timeout')";
    assert_eq!(psql(&url, settings), "my tool|LATIN1|7s");
}

#[test]
fn ctrl_c_in_psql_cancels_its_statement_and_no_other() {
    let shop = Fixture::new().start();
    let sleeping = |marker: &str| {
        let mut command = psql_command(&shop.url("shop@x"));
        command.args([
            "-v",
            "ON_ERROR_STOP=0",
            "-c",
            &format!("select pg_sleep(100) /* {marker} */"),
            "-c",
            "select 'still here'",
        ]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("psql runs")
    };
    let (cancelled, other) = (sleeping("first"), sleeping("second"));
    let active = "select count(*) from pg_stat_activity where query like '%pg_sleep(100)%' and state = 'active' and pid <> pg_backend_pid()";
    until("both to sleep", 30, || (psql(&shop.node.url(POSTGRES, "shop@x"), active) == "2").then_some(()));
    signal(cancelled.id() as i32, Signal::SIGINT);
    let output = within("a cancelled psql", 20, || cancelled.wait_with_output().expect("psql ends"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("canceling statement due to user request"), "{output:?}");
    assert_eq!(psql(&shop.node.url(POSTGRES, "shop@x"), active), "1", "the other sleeps on");
    signal(other.id() as i32, Signal::SIGINT);
    within("the other psql", 20, || other.wait_with_output().expect("psql ends"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_key_is_good_for_its_own_session_only() {
    let shop = Fixture::new().start();
    let (mine, theirs) =
        (connect(&shop.url("shop@x")).await.expect("in"), connect(&shop.url("shop@y")).await.expect("in"));
    let sleeping = tokio::spawn(async move { theirs.query("select pg_sleep(3)", &[]).await.map(|_| ()) });
    let token = mine.cancel_token();
    let slept = tokio::spawn(async move { mine.query("select pg_sleep(60)", &[]).await.map(|_| ()) });
    tokio::time::sleep(Duration::from_millis(500)).await;
    token.cancel_query(NoTls).await.expect("a cancel request is taken");
    let cancelled = tokio::time::timeout(Duration::from_secs(20), slept)
        .await
        .expect("in time")
        .expect("no panic")
        .expect_err("cancelled");
    assert_eq!(cancelled.code(), Some(&SqlState::QUERY_CANCELED));
    sleeping.await.expect("no panic").expect("another branch's session is left alone, whatever its pid");
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_goes_both_ways_in_bulk() {
    let shop = Fixture::new().start();
    let client = connect(&shop.url("shop@x")).await.expect("in");
    client.batch_execute("create table bulk (n int, filler text)").await.expect("a table can be made");
    let sink = client.copy_in::<_, Bytes>("copy bulk from stdin").await.expect("copy in begins");
    pin_mut!(sink);
    let filler = "x".repeat(500);
    for chunk in 0..100 {
        let rows: String = (chunk * 1000..(chunk + 1) * 1000).map(|n| format!("{n}\t{filler}\n")).collect();
        sink.send(Bytes::from(rows)).await.expect("copy in goes on");
    }
    assert_eq!(sink.finish().await.expect("copy in ends"), 100_000);
    let stream = client.copy_out("copy bulk to stdout").await.expect("copy out begins");
    let bytes = stream.try_fold(0, |sum, chunk| async move { Ok(sum + chunk.len()) }).await.expect("copy out goes on");
    assert!(bytes > 50_000_000, "{bytes}");
    let rows = client.query("select n, filler from bulk", &[]).await.expect("a large result");
    assert_eq!(rows.len(), 100_000);

    let failed = client.copy_in::<_, Bytes>("copy bulk from stdin").await.expect("copy in begins");
    pin_mut!(failed);
    failed.send(Bytes::from_static(b"no number\tx\n")).await.expect("the error comes at the end");
    assert_eq!(failed.finish().await.expect_err("refused").code(), Some(&SqlState::INVALID_TEXT_REPRESENTATION));
    assert_eq!(
        client.query_one("select count(*) from bulk", &[]).await.expect("the session goes on").get::<_, i64>(0),
        100_000
    );
}

#[test]
fn psql_copies_files() {
    let shop = Fixture::new().start();
    let (out, back) = (shop.scratch.join("out.csv"), "create table back (like customers)");
    let copy_out = format!("\\copy customers to '{}' csv", out.display());
    let copy_in = format!("\\copy back from '{}' csv", out.display());
    let done = psql_command(&shop.url("shop@x"))
        .args(["-c", &copy_out, "-c", back, "-c", &copy_in])
        .output()
        .expect("psql runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert_eq!(
        shop.psql("shop@x", "select count(*) from (select * from back except select * from customers) d, back"),
        "0"
    );
    assert_eq!(shop.psql("shop@x", "select count(*) from back"), "1500");
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_reach_listeners_of_the_same_branch() {
    let shop = Fixture::new().start();
    let listener = Config::from_str(&shop.url("shop@x")).expect("valid");
    let (client, mut connection) = listener.connect(NoTls).await.expect("in");
    let (sender, mut heard) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = futures::stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = sender.send(notification.payload().to_owned());
            }
        }
    });
    client.batch_execute("listen news").await.expect("it listens");
    shop.psql("shop@y", "notify news, 'from another branch'");
    shop.psql("shop@x", "notify news, 'hello'");
    let payload = tokio::time::timeout(Duration::from_secs(10), heard.recv())
        .await
        .expect("in time")
        .expect("the connection lives");
    assert_eq!(payload, "hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_and_pipelined_statements_and_transactions_work() {
    let shop = Fixture::new().start();
    let mut client = connect(&shop.url("shop@x")).await.expect("in");
    let statement = client.prepare("select id, card_number from customers where id = $1").await.expect("prepared");
    let ids: Vec<i64> = (1..=200).collect();
    let ask = |id: i64| {
        let (client, statement) = (&client, &statement);
        async move { client.query_one(statement, &[&id]).await }
    };
    let answers = futures::future::join_all(ids.iter().map(|id| ask(*id))).await;
    for (id, row) in ids.iter().zip(answers) {
        assert_eq!(row.expect("one row").get::<_, i64>(0), *id);
    }
    let transaction = client.transaction().await.expect("begun");
    transaction.execute("delete from order_items", &[]).await.expect("deleted");
    transaction.rollback().await.expect("rolled back");
    let left = client.query_one("select count(*) > 0 from order_items", &[]).await.expect("it reads");
    assert!(left.get::<_, bool>(0));
    let error = client.query_one("select 1 / 0", &[]).await.expect_err("refused");
    assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO));
}

#[test]
fn psycopg_works() {
    let shop = Fixture::new().start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixture/psycopg_works.py");
    assert_eq!(psycopg(&script, &shop.url("shop@x")).trim(), "ok");
}

#[test]
fn pgbench_works_in_every_mode() {
    let shop = Fixture::new().start();
    let url = shop.url("shop@x");
    assert!(pgbench(&url, &["-i", "-s", "1", "-q"]).status.success());
    for mode in ["simple", "extended", "prepared"] {
        let output = pgbench(&url, &["-n", "-c", "4", "-j", "2", "-t", "50", "-M", mode]);
        assert!(output.status.success(), "{mode}: {}", String::from_utf8_lossy(&output.stderr));
        let output = pgbench(&url, &["-n", "-S", "-C", "-c", "4", "-t", "10", "-M", mode]);
        assert!(output.status.success(), "{mode}, reconnecting: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_query_of_a_client_that_is_gone_does_not_keep_its_branch_awake() {
    let shop = Fixture::new().idle_timeout("1s").start();
    let mut psql = psql_command(&shop.url("shop@x"))
        .args(["-c", "create table begun ()", "-c", "select pg_sleep(600)"])
        .spawn()
        .expect("psql runs");
    until("psql to begin", 30, || try_psql(&shop.url("shop@x"), "table begun").ok());
    psql.kill().expect("a child can be killed");
    psql.wait().expect("a child can be waited for");
    shop.node.wait_asleep("shop@x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_node_says_so() {
    let mut shop = Fixture::new().start();
    let client = connect(&shop.url("shop@x")).await.expect("in");
    let sleeping = tokio::spawn(async move { client.query("select pg_sleep(100)", &[]).await.map(|_| ()) });
    tokio::time::sleep(Duration::from_millis(300)).await;
    shop.node.stop();
    let error = sleeping.await.expect("no panic").expect_err("the session is ended");
    if let Some(code) = error.code() {
        assert!(code.code().starts_with("57P"), "{error:?}");
    }
    shop.node.start();
    assert_eq!(shop.psql("shop@x", "select 1"), "1");
}
