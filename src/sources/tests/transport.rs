//! Reaching a source, and TLS as `sslmode` asks for it.

use super::*;
use crate::compute::fixture::MAJOR;
use rcgen::{CertificateParams, KeyPair, generate_simple_self_signed};
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn an_unreachable_source_says_where_it_was_looked_for() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = refusal(&format!("postgres://me@127.0.0.1:{port}/x")).await;
    assert!(
        matches!(error, ImportError::Unreachable { .. }) && error.to_string().contains(&port.to_string()),
        "{error}"
    );
    let error = refusal("host=/nowhere user=me").await;
    assert!(matches!(error, ImportError::Unreachable { .. }), "{error}");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let error = refusal(&format!("postgres://me@127.0.0.1:{port}/x?connect_timeout=1")).await;
    assert!(matches!(error, ImportError::ConnectTimeout { .. }), "{error}");
}

#[tokio::test]
async fn of_several_hosts_the_first_that_answers_is_taken() {
    let server = TestServer::start(MAJOR, &[]).await;
    let source = format!("host=/nowhere,{} port={} user=boot", server.sockets().display(), server.port);
    copy_into(&source, MemorySink::default()).await.unwrap();
}

#[tokio::test]
async fn tls_verifies_as_much_as_it_is_asked_to() {
    let fixture = Fixture::new(MAJOR).await;
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["db.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    let stranger = generate_simple_self_signed(vec!["db.example".to_owned()]).unwrap();
    let write = |name: &str, pem: String, mode: u32| {
        let path = fixture.path().join(name);
        std::fs::write(&path, pem).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&path, Some(fixture.identity.uid), Some(fixture.identity.gid)).unwrap();
        path.display().to_string()
    };
    let (root, other_root) = (write("crt", certificate.pem(), 0o644), write("other", stranger.cert.pem(), 0o644));
    let key = write("key", key.serialize_pem(), 0o600);
    let files = [format!("ssl_cert_file={root}"), format!("ssl_key_file={key}")];
    let server = TestServer::on(fixture, &["ssl=on", &files[0], &files[1]]).await;
    server.execute(ROLES).await;

    let url = |options: &str| format!("{}?{options}", server.tcp("scram", "right"));
    for accepted in
        ["sslmode=prefer", "sslmode=require", "sslmode=disable", &format!("sslmode=verify-ca&sslrootcert={root}")]
    {
        copy_into(&url(accepted), MemorySink::default()).await.unwrap();
    }
    for refused in [
        format!("sslmode=verify-full&sslrootcert={root}"),
        format!("sslmode=verify-ca&sslrootcert={other_root}"),
        "sslmode=verify-ca".to_owned(),
    ] {
        let error = refusal(&url(&refused)).await;
        assert!(matches!(error, ImportError::Tls { .. }), "{refused}: {error}");
    }
    let error = refusal(&url("sslmode=verify-ca&sslrootcert=/nowhere.pem")).await;
    assert!(matches!(error, ImportError::RootCertificates { .. }), "{error}");

    let named = format!(
        "host=db.example hostaddr=127.0.0.1 port={} user=scram password=right sslmode=verify-full sslrootcert={root}",
        server.port
    );
    copy_into(&named, MemorySink::default()).await.unwrap();
}

#[tokio::test]
async fn a_source_without_tls_is_refused_when_tls_is_required() {
    let server = TestServer::start(MAJOR, &[]).await;
    let error = refusal(&format!("{}?sslmode=require", server.tcp("scram", "right"))).await;
    assert!(matches!(error, ImportError::TlsRefused { .. }), "{error}");
}
