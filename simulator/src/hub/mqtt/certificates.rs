//! Devices that prove themselves by a certificate.
//!
//! TLS takes any certificate whose private key the client shows to hold, and none at all: which one a device must
//! have is known only when CONNECT says who it is. There it is judged, as the service does: dates and thumbprint of a
//! certificate that nobody vouches for; or a chain to an authority the hub trusts, and the device's id as its common
//! name.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, PeerMisbehaved, RootCertStore, SignatureScheme,
};
use shared::time::Timestamp;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::gate::Chain;
use crate::hub::ca::CaError;
use crate::hub::devices::Thumbprint;

/// The service's own limit of authorities.
pub(in crate::hub) const AUTHORITIES_MAX: usize = 25;

/// Why a certificate proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateFault {
    #[error("there is no certificate")]
    Absent,
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("the certificate is not valid yet, or not any more")]
    Dates,
    #[error("the certificate has another thumbprint than the device")]
    Thumbprint,
    #[error("no authority this hub trusts vouches for the certificate ({0})")]
    Authority(String),
    #[error("the certificate's common name is not the device's id")]
    Name,
}

impl CertificateFault {
    /// As it stands in metrics.
    pub(crate) const fn as_str(&self) -> &'static str {
        match self {
            CertificateFault::Absent => "no-certificate",
            CertificateFault::Unreadable => "certificate-unreadable",
            CertificateFault::Dates => "certificate-expired",
            CertificateFault::Thumbprint => "certificate-thumbprint",
            CertificateFault::Authority(_) => "certificate-authority",
            CertificateFault::Name => "certificate-name",
        }
    }
}

/// Judges a certificate against the thumbprints a device has.
pub(crate) fn check_thumbprint(
    chain: &[CertificateDer<'_>],
    known: &[Thumbprint],
    now: Timestamp,
) -> Result<(), CertificateFault> {
    let own = chain.first().ok_or(CertificateFault::Absent)?;
    if !known.iter().any(|thumbprint| thumbprint.fits(own)) {
        return Err(CertificateFault::Thumbprint);
    }
    let (_, read) = X509Certificate::from_der(own).map_err(|_| CertificateFault::Unreadable)?;
    let (from, to) = (read.validity().not_before.timestamp(), read.validity().not_after.timestamp());
    let now_s = now.micros().div_euclid(1_000_000);
    if (from..=to).contains(&now_s) { Ok(()) } else { Err(CertificateFault::Dates) }
}

/// Judges whether `name` is a certificate's common name.
pub(crate) fn check_name(own: &CertificateDer<'_>, name: &str) -> Result<(), CertificateFault> {
    let (_, read) = X509Certificate::from_der(own).map_err(|_| CertificateFault::Unreadable)?;
    let mut names = read.subject().iter_common_name().filter_map(|common_name| common_name.as_str().ok());
    if names.any(|common_name| common_name == name) { Ok(()) } else { Err(CertificateFault::Name) }
}

/// The authorities that may sign for devices.
#[derive(Debug, Clone, Default)]
pub(crate) struct Authorities(Option<Arc<dyn ClientCertVerifier>>);

impl Authorities {
    /// Reads PEM files, each with one certificate or more.
    ///
    /// # Errors
    /// If a file cannot be read or holds something else.
    pub(crate) fn read(files: &[PathBuf]) -> Result<Self, CaError> {
        let mut roots = RootCertStore::empty();
        for path in files {
            let malformed = |what: String| CaError::NoAuthority { path: path.clone(), what };
            let found: Result<Chain, _> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
            let found = found.map_err(|error| malformed(error.to_string()))?;
            if found.is_empty() {
                return Err(malformed("it holds no certificate".to_owned()));
            }
            for certificate in found {
                roots.add(certificate).map_err(|error| malformed(error.to_string()))?;
            }
        }
        if roots.is_empty() {
            return Ok(Self(None));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self(Some(verifier.expect("there is an authority"))))
    }

    /// Judges the certificate of `name`.
    pub(crate) fn check(
        &self,
        chain: &[CertificateDer<'_>],
        name: &str,
        now: Timestamp,
    ) -> Result<(), CertificateFault> {
        let [own, others @ ..] = chain else { return Err(CertificateFault::Absent) };
        let none = || CertificateFault::Authority("none is trusted".to_owned());
        let since = Duration::from_secs(now.micros().div_euclid(1_000_000).try_into().unwrap_or(0));
        let verified =
            self.0.as_ref().ok_or_else(none)?.verify_client_cert(own, others, UnixTime::since_unix_epoch(since));
        verified.map_err(|error| match error {
            rustls::Error::InvalidCertificate(
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. },
            ) => CertificateFault::Dates,
            rustls::Error::InvalidCertificate(CertificateError::BadEncoding) => CertificateFault::Unreadable,
            other => CertificateFault::Authority(other.to_string()),
        })?;
        check_name(own, name)
    }
}

/// Takes any certificate, but only from who holds its key.
///
/// rustls' own way to ask for the key reads all of the certificate, and takes version 3 of X.509 alone. The devices of
/// Microsoft's tutorial have version 1: it is what `openssl x509 -req` makes where it is given no extensions.
#[derive(Debug)]
pub(in crate::hub) struct AnyCertificate(WebPkiSupportedAlgorithms);

impl AnyCertificate {
    pub(in crate::hub) fn new() -> Arc<Self> {
        Arc::new(Self(rustls::crypto::ring::default_provider().signature_verification_algorithms))
    }
}

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None: the client is to show what it has.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let own = read(cert)?;
        let key: &[u8] = &own.public_key().subject_public_key.data;
        let offered = self.0.mapping.iter().find(|(scheme, _)| *scheme == dss.scheme);
        let (_, algorithms) = offered.ok_or(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)?;
        // Of what the name may stand for in TLS 1.2, a key is of one kind.
        if algorithms.iter().any(|algorithm| algorithm.verify_signature(key, message, dss.signature()).is_ok()) {
            Ok(HandshakeSignatureValid::assertion())
        } else {
            Err(CertificateError::BadSignature.into())
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let own = read(cert)?;
        let key = SubjectPublicKeyInfoDer::from(own.public_key().raw);
        rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

fn read<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    let (_, read) = X509Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding)?;
    Ok(read)
}
