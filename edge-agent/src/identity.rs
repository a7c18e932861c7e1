//! Who we are to the hub and to the provisioning service: a key that signs tokens, or a certificate shown in TLS.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use shared::config::{SecretError, SecretSource};
use shared::sas;

/// How we prove ourselves.
#[derive(Debug, Clone)]
pub enum Identity {
    /// By tokens that this key signs.
    Key(sas::Key),
    /// By a certificate, in the TLS handshake.
    Certificate(Certificate),
}

impl Identity {
    /// The certificate, if it is one.
    pub fn certificate(&self) -> Option<&Certificate> {
        match self {
            Identity::Certificate(certificate) => Some(certificate),
            Identity::Key(_) => None,
        }
    }
}

/// A certificate with its chain and its private key, which is never printed.
#[derive(Clone)]
pub struct Certificate(Arc<CertifiedKey>);

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificate(***)")
    }
}

/// The certificate or its key cannot be used. Never holds the key.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Only one of the two is set.
    #[error("and `private-key` belong together; write both, or neither")]
    Half,
    /// The certificate's file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It holds no certificate.
    #[error("holds no certificate: {path} must hold PEM blocks `BEGIN CERTIFICATE`, ours first")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The key cannot be read.
    #[error("has a `private-key` that cannot be had: cannot {0}")]
    Secret(#[from] SecretError),
    /// The key is none.
    #[error("has a `private-key` that is none: it must be PEM, `BEGIN PRIVATE KEY`, without a passphrase")]
    Key,
    /// The two do not fit.
    #[error("and `private-key` do not belong together: the key is not that of the certificate")]
    Strangers,
}

impl Certificate {
    /// What the two settings name; `None` where neither is set.
    ///
    /// # Errors
    /// One of them is missing or unusable, or they do not belong together.
    pub fn of(file: Option<&Path>, key: Option<&SecretSource>) -> Result<Option<Self>, CertificateError> {
        match (file, key) {
            (None, None) => Ok(None),
            (Some(file), Some(key)) => Self::load(file, key).map(Some),
            _ => Err(CertificateError::Half),
        }
    }

    fn load(file: &Path, key: &SecretSource) -> Result<Self, CertificateError> {
        let text = std::fs::read(file).map_err(|source| CertificateError::Read { path: file.to_owned(), source })?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok).collect();
        if chain.is_empty() {
            return Err(CertificateError::Empty { path: file.to_owned() });
        }
        let key = key.read()?;
        let key = PrivateKeyDer::from_pem_slice(key.reveal().as_bytes()).map_err(|_| CertificateError::Key)?;
        let provider = rustls::crypto::ring::default_provider();
        match CertifiedKey::from_der(chain, key, &provider) {
            Ok(certified) => Ok(Self(Arc::new(certified))),
            Err(rustls::Error::InconsistentKeys(_)) => Err(CertificateError::Strangers),
            Err(_) => Err(CertificateError::Key),
        }
    }

    /// For TLS.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        self.0.clone()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use shared::config::Secret;

    use super::*;

    /// A self-signed certificate of `gw-01` and its key; made for these tests, and of use for nothing else.
    pub(crate) const CERTIFICATE: &str = include_str!("testdata/gw-01.pem");
    pub(crate) const KEY: &str = include_str!("testdata/gw-01.key");
    const OTHER_KEY: &str = include_str!("testdata/other.key");

    #[test]
    fn a_certificate_goes_with_its_own_key_only_and_no_fault_shows_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("gw-01.pem");
        std::fs::write(&file, CERTIFICATE).expect("written");
        let inline = |text: &str| SecretSource::Inline(Secret::new(text));
        let good = Certificate::of(Some(&file), Some(&inline(KEY))).expect("good").expect("one");
        assert_eq!(format!("{:?}", Identity::Certificate(good)), "Certificate(Certificate(***))");
        assert!(matches!(Certificate::of(None, None), Ok(None)));

        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "nothing").expect("written");
        let absent = dir.path().join("absent.pem");
        for (file, key, part) in [
            (Some(&file), None, "belong together"),
            (None, Some(KEY), "belong together"),
            (Some(&file), Some(OTHER_KEY), "not that of the certificate"),
            (Some(&file), Some("no PEM"), "that is none"),
            (Some(&empty), Some(KEY), "holds no certificate"),
            (Some(&absent), Some(KEY), "cannot read"),
        ] {
            let key = key.map(inline);
            let error = Certificate::of(file.map(PathBuf::as_path), key.as_ref()).expect_err(part).to_string();
            assert!(error.contains(part) && !error.contains("PRIVATE KEY-----"), "{error}");
        }
    }
}
