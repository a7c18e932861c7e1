//! Whom the agent's outgoing TLS connections trust: the authorities in one file, or the machine's own.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};

use crate::identity::Certificate;

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
    /// The machine's own authorities were asked for and are not there.
    #[error("find this machine's certificate authorities; install `ca-certificates`, or name a `ca-file`")]
    NoSystemFile,
    /// The file cannot be read.
    #[error("read the certificate authorities in {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file holds none.
    #[error("find a certificate in {path}: it must hold PEM blocks `BEGIN CERTIFICATE`")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// A TLS client that trusts the authorities in `ca_file` and no others; without it `SSL_CERT_FILE`, else the machine's.
///
/// # Errors
/// No authority can be had: the operator must act.
pub fn client(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TrustError> {
    let roots = roots(ca_file)?;
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

/// As [`client`], and it shows `certificate`, if there is one.
///
/// # Errors
/// As [`client`].
pub fn client_as(ca_file: Option<&Path>, certificate: Option<&Certificate>) -> Result<Arc<ClientConfig>, TrustError> {
    let Some(certificate) = certificate else { return client(ca_file) };
    let builder = ClientConfig::builder().with_root_certificates(roots(ca_file)?);
    let resolver = SingleCertAndKey::from(certificate.certified());
    Ok(Arc::new(builder.with_client_cert_resolver(Arc::new(resolver))))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, TrustError> {
    let path = match ca_file {
        Some(path) => path.to_owned(),
        None => std::env::var_os("SSL_CERT_FILE")
            .map(PathBuf::from)
            .or_else(|| SYSTEM_FILES.iter().map(PathBuf::from).find(|path| path.exists()))
            .ok_or(TrustError::NoSystemFile)?,
    };
    let unreadable = |source| TrustError::Read { path: path.clone(), source };
    let file = File::open(&path).map_err(unreadable)?;
    let certificates =
        rustls_pemfile::certs(&mut BufReader::new(file)).collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    let mut roots = RootCertStore::empty();
    // A bundle of a distribution may hold a few that rustls cannot read; those are trusted by nobody here.
    let (added, _ignored) = roots.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(TrustError::Empty { path });
    }
    Ok(roots)
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
