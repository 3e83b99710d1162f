//! Logging in: passwords, certificates, and what a client that fails may learn.

use crate::model::Secret;
use crate::proxy::fixture::{Postgres, RunningProxy, TestUpstream, printed};
use crate::proxy::message;
use crate::proxy::tests::raw_client::RawClient;
use crate::settings::{ProjectSettings, ServerSettings, UserSettings};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[tokio::test]
async fn a_password_opens_its_role_and_no_other() {
    let postgres = Postgres::start().await;
    let upstream = postgres.upstream();
    let proxy = RunningProxy::start(upstream.clone()).await;

    for user in ["ann", "old"] {
        let client = proxy.connect(user, "shop@b").await.expect("logged in");
        let row = client.query_one("SELECT current_user::text, current_database()::text", &[]).await.expect("answered");
        assert_eq!((row.get(0), row.get(1)), (user, "shop"));
        let output = proxy.psql(user, "shop@b", "", "SELECT current_user").await;
        assert_eq!(printed(&output), (user.to_owned(), String::new()));
    }
    let opens = upstream.opens.load(Ordering::SeqCst);
    for user in ["ann", "old", "nobody", "nologin", "expired", "nopassword"] {
        let password = if matches!(user, "ann" | "old" | "nologin") { "wrong" } else { user };
        let Err(error) = proxy.connect_as(user, password, "shop@b").await else { panic!("{user} was let in") };
        let error = error.as_db_error().expect("an error from the proxy").clone();
        assert_eq!(error.code().code(), "28P01");
        assert_eq!(error.message(), format!("password authentication failed for user \"{user}\""));
    }
    for user in ["nologin", "oldnologin"] {
        let Err(error) = proxy.connect(user, "shop@b").await else { panic!("{user} was let in") };
        let error = error.as_db_error().expect("an error from the proxy");
        assert_eq!(
            (error.code().code(), error.message()),
            ("28000", &*format!("role \"{user}\" is not permitted to log in"))
        );
    }
    assert_eq!(upstream.opens.load(Ordering::SeqCst), opens, "a login that failed opened a branch");
}

/// The shape of a whole failed login: type and length of each message, and what is not random in them.
async fn failed_login(proxy: &RunningProxy, user: &str) -> (Vec<(u8, usize)>, String) {
    let mut client = RawClient::connect(proxy).await;
    client.start(0, user, "shop@b").await;
    client.prove("wrong").await;
    let (kind, error) = client.read().await;
    assert!(kind == b'E' && String::from_utf8_lossy(&error).contains("C28P01"));
    assert_eq!(client.tcp.read(&mut [0]).await.expect("closed"), 0);
    let challenge = String::from_utf8_lossy(&client.received[1].1).into_owned();
    let salt = challenge.split_once(",s=").expect("a salt").1.to_owned();
    (client.received.iter().map(|(kind, body)| (*kind, body.len())).collect(), salt)
}

#[tokio::test]
async fn a_failed_login_does_not_tell_who_exists() {
    let postgres = Postgres::start().await;
    let proxy = RunningProxy::start(postgres.upstream()).await;
    let (known, known_salt) = failed_login(&proxy, "ann").await;
    for user in ["bob", "single", "nologin", "expired", "nopassword"] {
        let (shape, salt) = failed_login(&proxy, user).await;
        // The name itself is in the error.
        let mut expected = known.clone();
        expected[2].1 += user.len() - "ann".len();
        assert_eq!(shape, expected, "{user}");
        let (salt_text, iterations) = salt.split_once(",i=").expect("iterations");
        assert_eq!((STANDARD.decode(salt_text).expect("base 64").len(), iterations), (16, "4096"), "{user}");
        assert_eq!(failed_login(&proxy, user).await.1, salt, "{user} gets another salt each time");
    }
    assert_eq!(failed_login(&proxy, "ann").await.1, known_salt);
}

#[tokio::test]
async fn the_config_lets_in_a_role_that_has_no_password() {
    let postgres = Postgres::start().await;
    let user = |name: &str, verifier: Option<&str>, password: Option<&str>| UserSettings {
        name: name.to_owned(),
        verifier: verifier.map(Secret::new),
        password_env: None,
        password: password.map(Secret::new),
    };
    let written = postgres_protocol::password::scram_sha_256(b"written");
    let project = ProjectSettings {
        name: "demo".parse().expect("valid"),
        idle_timeout: Duration::from_secs(1),
        upload_interval: None,
        durability: Default::default(),
        max_branches: 1,
        max_delta_bytes: None,
        source: None,
        masking: None,
        trusted_signers: Vec::new(),
        allow_raw: false,
        parameters: Default::default(),
        users: vec![
            user("nopassword", None, Some("given")),
            user("ann", Some(&written), None),
            user("nobody", None, Some("given")),
        ],
    };
    let proxy = RunningProxy::with(postgres.upstream(), ServerSettings::default(), &[project], Duration::ZERO).await;
    assert!(proxy.connect_as("nopassword", "given", "shop@b").await.is_ok());
    assert!(proxy.connect_as("ann", "written", "shop@b").await.is_ok());
    assert!(proxy.connect_as("ann", "ann", "shop@b").await.is_err());
    assert!(proxy.connect_as("nobody", "given", "shop@b").await.is_err());
}

/// A proxy with a certificate of its own, and the path of it.
async fn tls_proxy(upstream: TestUpstream, dir: &tempfile::TempDir, require_tls: bool) -> (RunningProxy, String) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("made");
    let certificate = dir.path().join("cert.pem");
    let key = dir.path().join("key.pem");
    std::fs::write(&certificate, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let settings = ServerSettings {
        tls_cert: Some(certificate.clone()),
        tls_key: Some(key),
        require_tls,
        ..ServerSettings::default()
    };
    let proxy = RunningProxy::with(upstream, settings, &[], Duration::ZERO).await;
    (proxy, certificate.display().to_string())
}

#[tokio::test]
async fn a_session_under_tls() {
    let postgres = Postgres::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    let (proxy, certificate) = tls_proxy(postgres.upstream(), &dir, true).await;
    let verified = format!("sslmode=verify-full sslrootcert={certificate}");
    let output = proxy
        .psql("ann", "shop@b", &verified, "SELECT sum(length(repeat('x', 1000))) FROM generate_series(1, 9999)")
        .await;
    assert_eq!(printed(&output), ("9999000".to_owned(), String::new()));
    let big = proxy.psql("ann", "shop@b", &verified, "SELECT repeat('x', 3000000)").await;
    assert_eq!(printed(&big).0.len(), 3_000_000);
    let (_, complaint) = printed(&proxy.psql("ann", "shop@b", "sslmode=disable", "SELECT 1").await);
    assert!(complaint.contains("encrypted connections only"), "{complaint}");
    let (_, complaint) = printed(&proxy.psql("ann", "shop", &verified, "SELECT 1").await);
    assert!(complaint.contains("shop@NAME"), "{complaint}");
}

#[tokio::test]
async fn tls_from_the_first_byte_needs_its_application_protocol() {
    let dir = tempfile::tempdir().expect("a directory");
    let (proxy, certificate) = tls_proxy(TestUpstream::without_compute(dir.path()), &dir, true).await;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).expect("PEM")).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    for (protocol, answer) in [(Some(b"postgresql".to_vec()), b'R'), (None, b'E')] {
        let mut config = config.clone();
        config.alpn_protocols.extend(protocol);
        let tcp = TcpStream::connect(proxy.address).await.expect("connected");
        let name = "localhost".try_into().expect("a name");
        let mut client = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("encrypted");
        let mut startup = BytesMut::new();
        message::put_startup(&mut startup, &[(b"user", b"ann"), (b"database", b"shop@b")]);
        client.write_all(&startup).await.expect("sent");
        assert_eq!(client.read_u8().await.expect("answered"), answer);
    }
}

#[tokio::test]
async fn bytes_sent_before_tls_do_not_pass_for_encrypted_ones() {
    let dir = tempfile::tempdir().expect("a directory");
    let upstream = TestUpstream::without_compute(dir.path());
    let (proxy, _) = tls_proxy(upstream, &dir, false).await;
    let mut startup = BytesMut::new();
    message::put_startup(&mut startup, &[(b"user", b"ann"), (b"database", b"shop@b")]);
    let mut client = TcpStream::connect(proxy.address).await.expect("connected");
    let injected = [&[0, 0, 0, 8, 4, 210, 22, 47][..], &startup].concat();
    client.write_all(&injected).await.expect("sent");
    let mut answer = Vec::new();
    // The proxy closes while our bytes are unread, which may reset the connection.
    let _ = client.read_to_end(&mut answer).await;
    // At most a TLS alert after the agreement to TLS: no message of the protocol.
    assert_eq!(answer.first(), Some(&b'S'));
    assert!(matches!(answer.get(1), None | Some(0x15)), "{answer:?}");
}
