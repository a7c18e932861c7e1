//! Whom devices trust to be their hub: the authorities in one file, or the machine's own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// Where Linux distributions keep the authorities they trust; the first that exists is taken.
const SYSTEM_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// No authority can be had.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The machine's own were asked for and are not there.
    #[error("find this machine's certificate authorities; install `ca-certificates`, or name a file with --ca-file")]
    NoSystemFile,
    /// The file cannot be read.
    #[error("read the certificate authorities in {path}: {fault}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        fault: String,
    },
    /// The file holds none.
    #[error("find a certificate in {path}: it must hold PEM blocks `BEGIN CERTIFICATE`")]
    Empty {
        /// Which file.
        path: PathBuf,
    },
}

/// A TLS client that trusts the authorities in `ca_file` and no others; without it `SSL_CERT_FILE`, else the machine's.
pub(super) fn client(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TrustError> {
    let path = match ca_file {
        Some(path) => path.to_owned(),
        None => std::env::var_os("SSL_CERT_FILE")
            .map(PathBuf::from)
            .or_else(|| SYSTEM_FILES.iter().map(PathBuf::from).find(|path| path.exists()))
            .ok_or(TrustError::NoSystemFile)?,
    };
    let unreadable = |fault: String| TrustError::Read { path: path.clone(), fault };
    let bytes = std::fs::read(&path).map_err(|error| unreadable(error.to_string()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let certificates = certificates.map_err(|error| unreadable(error.to_string()))?;
    let mut roots = RootCertStore::empty();
    // A bundle of a distribution may hold a few that rustls cannot read; those are trusted by nobody here.
    let (added, _ignored) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(TrustError::Empty { path });
    }
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_named() {
        shared::tls::install_provider();
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("ca.pem");
        assert!(matches!(client(Some(&path)), Err(TrustError::Read { .. })));
        std::fs::write(&path, "nothing").expect("write");
        assert!(matches!(client(Some(&path)), Err(TrustError::Empty { .. })));
    }
}
