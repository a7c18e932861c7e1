//! The hub's own certificate authorities: one for the server certificate it issues to itself, one for devices.
//!
//! Authorities are made once and kept, so that clients are told to trust theirs once. The server's certificate is
//! issued again when the names it must carry change, or a month before it ends. A device's is issued on demand.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use shared::time::Timestamp;
use time::{Duration, OffsetDateTime};

use super::devices::{Thumbprint, write_private, write_public};
use super::mqtt::AnyCertificate;

const CA_DAYS: i64 = 3650;
/// Some clients refuse more.
const SERVER_DAYS: i64 = 397;
const RENEW_DAYS: i64 = 30;
/// Of whom there may be a certificate: the hub, and a provisioning service beside it.
const SERVERS: [&str; 2] = ["server", "dps-server"];

/// The authority or the certificate cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// The disk said no.
    #[error("{act} {}", path.display())]
    Disk { act: &'static str, path: PathBuf, source: io::Error },
    /// A file holds something else.
    #[error("{} is not what this hub wrote ({what}); delete it with the other *.pem beside it, and clients must be \
             told the new ca.pem", path.display())]
    Malformed { path: PathBuf, what: String },
    /// A name cannot stand in a certificate.
    #[error("issue a certificate for {names:?}: {what}")]
    Issue { names: Vec<String>, what: String },
    /// What is to vouch for devices does not.
    #[error("{} is not the PEM of certificate authorities ({what}); see `hub.device-cas`", path.display())]
    NoAuthority { path: PathBuf, what: String },
}

/// What the server shows, and what clients must trust.
#[derive(Debug, Clone)]
pub(crate) struct ServerIdentity {
    /// PEM of the authority, for clients.
    pub(crate) ca_file: PathBuf,
    /// For services.
    pub(crate) tls: Arc<rustls::ServerConfig>,
    /// For devices, which may show a certificate.
    pub(crate) device_tls: Arc<rustls::ServerConfig>,
}

/// A device's certificate, as issued.
#[derive(Debug)]
pub(crate) struct DeviceCertificate {
    pub(crate) certificate_file: PathBuf,
    pub(crate) key_file: PathBuf,
    pub(crate) thumbprint: Thumbprint,
}

/// Beside the server's certificate: what it was issued for.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Issued {
    names: Vec<String>,
    /// Unix seconds.
    not_after: i64,
}

/// The file clients are to trust.
pub(crate) fn ca_file(directory: &Path) -> PathBuf {
    directory.join("ca.pem")
}

/// The hub's own authority for devices.
pub(super) fn device_ca_file(directory: &Path) -> PathBuf {
    directory.join("device-ca.pem")
}

/// Where the certificate of a device, or of one of its modules, and its key lie.
pub(crate) fn device_files(directory: &Path, device: &str, module: Option<&str>) -> (PathBuf, PathBuf) {
    // No id holds a plus.
    let stem = module.map_or_else(|| device.to_owned(), |module| format!("{device}+{module}"));
    // Keys lie apart: beside each other, the key of one could have the name of another's certificate.
    (directory.join(format!("devices/{stem}.pem")), directory.join(format!("device-keys/{stem}.pem")))
}

/// All names the server goes by: the ones everybody dials, those of this hub, and the machine's.
pub(crate) fn server_names(host_name: &str, listens: &[IpAddr], more: &[String]) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), host_name.to_owned()];
    names.extend(fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned()));
    names.extend(listens.iter().filter(|ip| !ip.is_unspecified()).map(IpAddr::to_string));
    names.extend(more.iter().cloned());
    names.retain(|name| !name.is_empty());
    names.sort();
    names.dedup();
    names
}

/// Makes the authorities in `directory` where there are none.
///
/// # Errors
/// If the files cannot be read, understood or written.
pub(super) fn prepare(directory: &Path, now: Timestamp) -> Result<(), CaError> {
    let there = |stem: &str| {
        [format!("{stem}.pem"), format!("{stem}-key.pem")].iter().all(|file| directory.join(file).exists())
    };
    if !there("ca") {
        SERVERS.iter().try_for_each(|stem| forget_server(directory, stem))?;
        make_authority(directory, "ca", "IoT Medallion local hub authority", now)?;
    }
    if !there("device-ca") {
        make_authority(directory, "device-ca", "IoT Medallion local hub device authority", now)?;
    }
    Ok(())
}

/// Makes `{stem}.pem` and `{stem}-key.pem`.
fn make_authority(directory: &Path, stem: &str, name: &str, now: Timestamp) -> Result<(), CaError> {
    let (certificate, key) = (directory.join(format!("{stem}.pem")), directory.join(format!("{stem}-key.pem")));
    let issue = |error: rcgen::Error| CaError::Issue { names: vec![], what: error.to_string() };
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(issue)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = validity(now, CA_DAYS);
    let signed = params.self_signed(&pair).map_err(issue)?;
    write(&key, &pair.serialize_pem(), write_private)?;
    write(&certificate, &signed.pem(), write_public)
}

/// Issues a certificate to a device or module, valid for `days` from now: signed by the hub's authority for devices,
/// or by itself.
///
/// # Errors
/// If the files cannot be read, understood or written.
pub(super) fn issue_device(
    directory: &Path,
    device: &str,
    module: Option<&str>,
    by_authority: bool,
    days: u32,
    now: Timestamp,
) -> Result<DeviceCertificate, CaError> {
    prepare(directory, now)?;
    let name = module.map_or_else(|| device.to_owned(), |module| format!("{device}/{module}"));
    let signer = by_authority.then(|| issuer(directory, "device-ca")).transpose()?;
    issue_leaf(&name, signer.as_ref(), device_files(directory, device, module), days, now)
}

/// Makes an authority for the devices of a group in `directory`, if there is none; gives its file.
///
/// # Errors
/// If the files cannot be written.
pub(crate) fn group_authority(directory: &Path, group: &str, now: Timestamp) -> Result<PathBuf, CaError> {
    let stem = group_stem(group);
    if !has_group_authority(directory, group) {
        make_authority(directory, &stem, &format!("IoT Medallion authority of the group {group}"), now)?;
    }
    Ok(directory.join(format!("{stem}.pem")))
}

/// True if there is an authority for the devices of a group in `directory`, with its key.
pub(crate) fn has_group_authority(directory: &Path, group: &str) -> bool {
    let stem = group_stem(group);
    [format!("{stem}.pem"), format!("{stem}-key.pem")].iter().all(|file| directory.join(file).exists())
}

/// Issues a certificate to a device that is to register, signed by a group's authority or by itself.
///
/// # Errors
/// If the files cannot be read, understood or written.
pub(crate) fn issue_member(
    directory: &Path,
    registration_id: &str,
    group: Option<&str>,
    days: u32,
    now: Timestamp,
) -> Result<DeviceCertificate, CaError> {
    let signer = group.map(|group| issuer(directory, &group_stem(group))).transpose()?;
    issue_leaf(registration_id, signer.as_ref(), device_files(directory, registration_id, None), days, now)
}

fn group_stem(group: &str) -> String {
    // A folder for each: beside each other, the key of one could have the name of another's certificate.
    format!("groups/{group}/authority")
}

fn issue_leaf(
    name: &str,
    signer: Option<&Issuer<'_, KeyPair>>,
    (certificate_file, key_file): (PathBuf, PathBuf),
    days: u32,
    now: Timestamp,
) -> Result<DeviceCertificate, CaError> {
    let fault = |error: rcgen::Error| CaError::Issue { names: vec![name.to_owned()], what: error.to_string() };
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fault)?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let (not_before, not_after) = validity(now, i64::from(days));
    // Of no days it has ended already: somebody wants to see it refused.
    (params.not_before, params.not_after) = (not_before, not_after - Duration::SECOND);
    let signed = match signer {
        Some(signer) => params.signed_by(&pair, signer),
        None => params.self_signed(&pair),
    };
    let signed = signed.map_err(fault)?;
    write(&key_file, &pair.serialize_pem(), write_private)?;
    write(&certificate_file, &signed.pem(), write_public)?;
    Ok(DeviceCertificate { certificate_file, key_file, thumbprint: Thumbprint::sha256(signed.der()) })
}

fn issuer(directory: &Path, stem: &str) -> Result<Issuer<'static, KeyPair>, CaError> {
    let (path, key_path) = (directory.join(format!("{stem}.pem")), directory.join(format!("{stem}-key.pem")));
    let pair = KeyPair::from_pem(&read(&key_path)?).map_err(|error| malformed(&key_path, error))?;
    Issuer::from_ca_cert_pem(&read(&path)?, pair).map_err(|error| malformed(&path, error))
}

/// What stands beside the server's certificate does not vouch for it any more.
fn forget_server(directory: &Path, stem: &str) -> Result<(), CaError> {
    let path = directory.join(format!("{stem}.json"));
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(CaError::Disk { act: "delete", path, source }),
        _ => Ok(()),
    }
}

/// The server's certificate for `names`, issued if there is none that fits.
///
/// # Errors
/// If the files cannot be read, understood or written, or a name cannot stand in a certificate.
pub(super) fn server(directory: &Path, names: &[String], now: Timestamp) -> Result<ServerIdentity, CaError> {
    server_called(SERVERS[0], directory, names, now)
}

/// The same for a provisioning service beside the hub, which has names of its own.
///
/// # Errors
/// As [`server`].
pub(crate) fn provisioning_server(
    directory: &Path,
    names: &[String],
    now: Timestamp,
) -> Result<ServerIdentity, CaError> {
    server_called(SERVERS[1], directory, names, now)
}

fn server_called(stem: &str, directory: &Path, names: &[String], now: Timestamp) -> Result<ServerIdentity, CaError> {
    prepare(directory, now)?;
    let issued_file = directory.join(format!("{stem}.json"));
    let issued = fs::read(&issued_file).ok().and_then(|bytes| serde_json::from_slice::<Issued>(&bytes).ok());
    let fits = issued.is_some_and(|issued| {
        issued.names == names && now.micros() / 1_000_000 < issued.not_after - RENEW_DAYS * 86_400
    });
    let (certificate, key) = (directory.join(format!("{stem}.pem")), directory.join(format!("{stem}-key.pem")));
    if !(fits && certificate.exists() && key.exists()) {
        issue(stem, directory, names, now)?;
        tracing::info!(?names, "issued the server's certificate");
    }

    let chain = CertificateDer::pem_file_iter(&certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| malformed(&certificate, error))?;
    let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| malformed(&key, error))?;
    let fault = |error: rustls::Error| malformed(&certificate, error);
    let builder = rustls::ServerConfig::builder;
    let tls = builder().with_no_client_auth().with_single_cert(chain.clone(), private.clone_key()).map_err(fault)?;
    let device_tls = builder().with_client_cert_verifier(AnyCertificate::new());
    let device_tls = device_tls.with_single_cert(chain, private).map_err(fault)?;
    Ok(ServerIdentity { ca_file: ca_file(directory), tls: Arc::new(tls), device_tls: Arc::new(device_tls) })
}

fn issue(stem: &str, directory: &Path, names: &[String], now: Timestamp) -> Result<(), CaError> {
    let ca = issuer(directory, "ca")?;
    let fault = |error: rcgen::Error| CaError::Issue { names: names.to_vec(), what: error.to_string() };
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fault)?;
    let mut params = CertificateParams::new(names).map_err(fault)?;
    params.distinguished_name.push(DnType::CommonName, "IoT Medallion local hub");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    (params.not_before, params.not_after) = validity(now, SERVER_DAYS);
    let issued = Issued { names: names.to_vec(), not_after: params.not_after.unix_timestamp() };
    let signed = params.signed_by(&pair, &ca).map_err(fault)?;

    forget_server(directory, stem)?;
    write(&directory.join(format!("{stem}-key.pem")), &pair.serialize_pem(), write_private)?;
    write(&directory.join(format!("{stem}.pem")), &signed.pem(), write_public)?;
    // Last: it vouches for the others.
    let issued = serde_json::to_string(&issued).expect("texts and a number are JSON");
    write(&directory.join(format!("{stem}.json")), &issued, write_public)
}

/// From a day ago, for clocks that are behind.
fn validity(now: Timestamp, days: i64) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::from_unix_timestamp(now.micros() / 1_000_000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    (now - Duration::DAY, now + Duration::days(days))
}

fn read(path: &Path) -> Result<String, CaError> {
    fs::read_to_string(path).map_err(|source| CaError::Disk { act: "read", path: path.to_owned(), source })
}

fn write(path: &Path, text: &str, write: fn(&Path, &[u8]) -> io::Result<()>) -> Result<(), CaError> {
    let disk = |source| CaError::Disk { act: "write", path: path.to_owned(), source };
    write(path, text.as_bytes()).map_err(disk)
}

fn malformed(path: &Path, error: impl std::fmt::Display) -> CaError {
    CaError::Malformed { path: path.to_owned(), what: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_stays_and_the_server_certificate_follows_the_names() {
        shared::tls::install_provider();
        let dir = tempfile::tempdir().expect("a directory");
        let now = Timestamp::from_millis(1_795_000_000_000);
        let certificate = || fs::read(dir.path().join("server.pem")).expect("there");
        let authority = || fs::read(ca_file(dir.path())).expect("there");
        let names = server_names("hub.azure-devices.net", &["127.0.0.2".parse().expect("ip")], &[]);
        server(dir.path(), &names, now).expect("issued");
        let (first, trusted) = (certificate(), authority());
        server(dir.path(), &names, now).expect("kept");
        assert_eq!(certificate(), first);
        let more = server_names("hub.azure-devices.net", &[], &["other.example".to_owned()]);
        server(dir.path(), &more, now).expect("issued again");
        let second = certificate();
        assert_ne!(second, first);
        server(dir.path(), &more, now.plus(std::time::Duration::from_secs(380 * 86_400))).expect("issued again");
        assert_ne!(certificate(), second);
        assert_eq!(authority(), trusted);
    }
}
