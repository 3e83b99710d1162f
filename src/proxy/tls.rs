//! The server's certificate, and how TLS is offered.

use super::ProxyError;
use crate::settings::ServerSettings;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::pem::{Error, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// ALPN name of the Postgres protocol (`PG_ALPN_PROTOCOL` of `pqcomm.h`).
const APPLICATION_PROTOCOL: &[u8] = b"postgresql";

/// Reads the configured certificate and key, if any. Blocking.
pub(super) fn load(settings: &ServerSettings) -> Result<Option<TlsAcceptor>, ProxyError> {
    let (Some(certificate), Some(key)) = (&settings.tls_cert, &settings.tls_key) else { return Ok(None) };
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(|sections| sections.collect())
        .map_err(|error| unreadable(certificate, &error))?;
    let private_key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error))?;
    let unusable =
        |error: rustls::Error| ProxyError::Certificate { path: certificate.clone(), reason: error.to_string() };
    // The provider is named: the crate graph may hold several, and then rustls has no default.
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![APPLICATION_PROTOCOL.to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn unreadable(path: &Path, error: &Error) -> ProxyError {
    ProxyError::Pem { path: path.to_owned(), reason: error.to_string() }
}
