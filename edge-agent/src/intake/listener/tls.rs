//! TLS: the listener's certificate and key, and what devices show of themselves.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Config, ListenerError};

/// What speaks TLS, if the settings name a certificate and a key.
pub(super) fn acceptor(config: &Config) -> Result<Option<TlsAcceptor>, ListenerError> {
    let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
    let wrong = |what: String| ListenerError::Tls { cert: cert.clone(), key: key.clone(), what };
    let chain: Vec<CertificateDer<'static>> = rustls_pemfile::certs(&mut open(cert, "tls-cert")?)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(format!("the certificate is not PEM: {error}")))?;
    let private: PrivateKeyDer<'static> = rustls_pemfile::private_key(&mut open(key, "tls-key")?)
        .map_err(|error| wrong(format!("the key is not PEM: {error}")))?
        .ok_or_else(|| wrong("the key file holds no private key".to_owned()))?;
    let server = match verifier(config)? {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(verifier) => ServerConfig::builder().with_client_cert_verifier(verifier),
    };
    let server = server.with_single_cert(chain, private).map_err(|error| wrong(error.to_string()))?;
    Ok(Some(TlsAcceptor::from(Arc::new(server))))
}

/// Who judges the certificates of devices. Where there is no other way in, a device without one does not get through
/// the handshake.
fn verifier(config: &Config) -> Result<Option<Arc<dyn ClientCertVerifier>>, ListenerError> {
    let Some(path) = &config.tls_client_ca else { return Ok(None) };
    let wrong = |path: &Path, what: String| ListenerError::ClientCa { path: path.to_owned(), what };
    let mut roots = RootCertStore::empty();
    for authority in rustls_pemfile::certs(&mut open(path, "tls-client-ca")?) {
        let authority = authority.map_err(|error| wrong(path, format!("it is not PEM: {error}")))?;
        roots.add(authority).map_err(|error| wrong(path, error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong(path, "it holds no certificate".to_owned()));
    }
    let mut builder = WebPkiClientVerifier::builder(Arc::new(roots));
    if let Some(path) = &config.tls_client_crl {
        let revoked: Vec<CertificateRevocationListDer<'static>> =
            rustls_pemfile::crls(&mut open(path, "tls-client-crl")?)
                .collect::<Result<_, _>>()
                .map_err(|error| wrong(path, format!("it is not PEM: {error}")))?;
        if revoked.is_empty() {
            return Err(wrong(path, "it holds no list of revoked certificates".to_owned()));
        }
        // An authority without a list revokes nothing.
        builder = builder.with_crls(revoked).only_check_end_entity_revocation().allow_unknown_revocation_status();
    }
    if !config.certificate_only() {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map(Some).map_err(|error| wrong(path, error.to_string()))
}

fn open(path: &Path, setting: &'static str) -> Result<BufReader<File>, ListenerError> {
    let file = File::open(path).map_err(|source| ListenerError::Read { path: path.to_owned(), setting, source })?;
    Ok(BufReader::new(file))
}

/// What a certificate calls its owner: the common name, else the first DNS name.
pub(super) fn name_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    let common = read.subject().iter_common_name().find_map(|name| name.as_str().ok());
    let common = common.filter(|name| !name.is_empty()).map(str::to_owned);
    common.or_else(|| {
        let names = read.subject_alternative_name().ok()??.value.general_names.iter();
        names.into_iter().find_map(|name| match name {
            GeneralName::DNSName(name) if !name.is_empty() => Some((*name).to_owned()),
            _ => None,
        })
    })
}
