//! TLS towards a source, as libpq's `sslmode` asks for it.
//!
//! `require` and `prefer` encrypt and verify nothing, like libpq's; `verify-ca` wants a chain to a trusted root, `verify-full` the
//! host's name too. The roots are those of `sslrootcert`, or the system's bundle.

use super::ImportError;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where distributions keep the certificates they trust: Debian, Red Hat, SUSE, Alpine.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// `sslmode` (Postgres manual, "SSL Support" of libpq).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TlsMode {
    Disable,
    Prefer,
    Require,
    VerifyCa(RootCertificates),
    VerifyFull(RootCertificates),
}

/// `sslrootcert`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum RootCertificates {
    #[default]
    System,
    File(PathBuf),
}

impl RootCertificates {
    fn path(&self) -> &Path {
        match self {
            RootCertificates::File(path) => path,
            RootCertificates::System => {
                let found = SYSTEM_BUNDLES.iter().map(Path::new).find(|bundle| bundle.exists());
                found.unwrap_or(Path::new(SYSTEM_BUNDLES[0]))
            }
        }
    }
}

impl TlsMode {
    /// Whether a server that offers no TLS will do.
    pub(super) fn may_do_without(&self) -> bool {
        matches!(self, TlsMode::Disable | TlsMode::Prefer)
    }

    /// Whether to ask for TLS at all.
    pub(super) fn is_wanted(&self) -> bool {
        *self != TlsMode::Disable
    }

    /// The same for a program that uses libpq.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let (mode, roots) = match self {
            TlsMode::Disable => ("disable", None),
            TlsMode::Prefer => ("prefer", None),
            TlsMode::Require => ("require", None),
            TlsMode::VerifyCa(roots) => ("verify-ca", Some(roots)),
            TlsMode::VerifyFull(roots) => ("verify-full", Some(roots)),
        };
        let mut variables = vec![("PGSSLMODE", mode.to_owned())];
        if let Some(roots) = roots {
            // Before PostgreSQL 16, libpq does not know the system's bundle by that name.
            variables.push(("PGSSLROOTCERT", roots.path().display().to_string()));
        }
        variables
    }

    pub(super) fn client_config(&self) -> Result<Arc<ClientConfig>, ImportError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match self {
            TlsMode::Disable | TlsMode::Prefer | TlsMode::Require => Arc::new(NoVerification(provider.clone())),
            TlsMode::VerifyCa(roots) => Arc::new(AnyName(verifier(roots, &provider)?)),
            TlsMode::VerifyFull(roots) => verifier(roots, &provider)?,
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default versions")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

fn verifier(
    roots: &RootCertificates,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, ImportError> {
    let path = roots.path();
    let unusable = |reason: String| ImportError::RootCertificates { path: path.to_owned(), reason };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))? {
        // Bundles hold certificates that are too old to be parsed; what is not added is not trusted.
        let _ = store.add(certificate.map_err(|error| unusable(error.to_string()))?);
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
        .build()
        .map_err(|error| unusable(error.to_string()))
}

/// Encryption without knowing who is at the other end.
#[derive(Debug)]
struct NoVerification(Arc<CryptoProvider>);

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A chain to a trusted root, whatever name the certificate bears.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use CertificateError::{NotValidForName, NotValidForNameContext};
        match self.0.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is checked last, once the chain has been found good.
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
