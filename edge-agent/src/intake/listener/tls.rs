//! The listener's certificate and key.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

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
    let server = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|error| wrong(error.to_string()))?;
    Ok(Some(TlsAcceptor::from(Arc::new(server))))
}

fn open(path: &Path, setting: &'static str) -> Result<BufReader<File>, ListenerError> {
    let file = File::open(path).map_err(|source| ListenerError::Read { path: path.to_owned(), setting, source })?;
    Ok(BufReader::new(file))
}
