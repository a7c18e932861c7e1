//! Devices and modules by certificate, over real TLS.

use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::*;
use crate::hub::ca::DeviceCertificate;
use crate::hub::devices::{self, Means, Thumbprint};

impl Stand {
    fn issue(&self, device: &str, module: Option<&str>, auth: Means, days: u32) -> DeviceCertificate {
        let by_authority = auth == Means::X509Ca;
        let issued = ca::issue_device(self.dir.path(), device, module, by_authority, days, Clock::Real.now());
        let issued = issued.expect("issued");
        let thumbprint = Some(&issued.thumbprint).filter(|_| !by_authority);
        let path = self.dir.path().join("devices.toml");
        devices::register(&path, device, module, auth, thumbprint).expect("registered");
        issued
    }

    /// A client that shows a certificate and no token, over one version of TLS.
    fn showing(
        &self,
        client_id: &str,
        (certificate, key): (&Path, &Path),
        tls: &'static rustls::SupportedProtocolVersion,
    ) -> (AsyncClient, EventLoop) {
        let mut options = self.options(client_id, String::new());
        let chain = CertificateDer::pem_file_iter(certificate).expect("PEM").collect::<Result<_, _>>().expect("PEM");
        let key = PrivateKeyDer::from_pem_file(key).expect("PEM");
        let key = rustls::crypto::ring::sign::any_supported_type(&key).expect("a key");
        // Whether they belong together is for the hub to see.
        let pair = SingleCertAndKey::from(CertifiedKey::new(chain, key));
        let tls = rustls::ClientConfig::builder_with_protocol_versions(&[tls])
            .with_root_certificates(self.roots())
            .with_client_cert_resolver(Arc::new(pair));
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls))));
        AsyncClient::new(options, 8)
    }
}

#[tokio::test]
async fn certificates_let_devices_and_modules_in_over_both_versions_of_tls() {
    let stand = Stand::open(limits()).await;
    for (device, module, auth) in [
        ("x-thumb", None, Means::X509Thumbprint),
        ("x-ca", None, Means::X509Ca),
        ("d-1", Some("m-thumb"), Means::X509Thumbprint),
        ("d-1", Some("m-ca"), Means::X509Ca),
    ] {
        let issued = stand.issue(device, module, auth, 1);
        let (client_id, topic) = match module {
            None => (device.to_owned(), events(device)),
            Some(module) => {
                (format!("{device}/{module}"), format!("devices/{device}/modules/{module}/messages/events/"))
            }
        };
        let files = (issued.certificate_file.as_path(), issued.key_file.as_path());
        for tls in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let (client, mut events) = stand.showing(&client_id, files, tls);
            connected(&mut events).await.expect("admitted");
            client.publish(&topic, QoS::AtLeastOnce, false, "x").await.expect("queued");
            acknowledged(&mut events).await.expect("acknowledged");
        }
        let stored = stand.stored(device).await;
        let last = stored.last().expect("stored");
        assert_eq!(last.module_id.as_deref(), module);
        assert!(last.auth_method.contains("x509Certificate"), "{}", last.auth_method);
    }
    stand.close().await;
}

#[tokio::test]
async fn a_certificate_of_another_or_none_or_an_old_one_does_not() {
    let stand = Stand::open(limits()).await;
    let other = stand.issue("x-other", None, Means::X509Ca, 1);
    stand.issue("x-ca", None, Means::X509Ca, 1);
    stand.issue("x-thumb", None, Means::X509Thumbprint, 1);
    let old = stand.issue("x-old", None, Means::X509Ca, 0);
    let old_self = stand.issue("x-old-self", None, Means::X509Thumbprint, 0);
    for (device, shown, reason) in [
        ("x-ca", &other, "certificate-name"),
        ("x-thumb", &other, "certificate-thumbprint"),
        ("x-old", &old, "certificate-expired"),
        ("x-old-self", &old_self, "certificate-expired"),
        ("d-1", &other, "no-token"),
    ] {
        let files = (shown.certificate_file.as_path(), shown.key_file.as_path());
        let (_client, mut events) = stand.showing(device, files, &rustls::version::TLS13);
        let refused = connected(&mut events).await.expect_err(device);
        let code = ConnectReturnCode::NotAuthorized;
        assert!(
            matches!(&refused, ConnectionError::ConnectionRefused(found) if *found == code),
            "{device}: {refused:?}"
        );
        let counted = async {
            while stand.count("closed", reason) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, counted).await.expect(reason);
    }
    let (_client, mut events) = stand.device("x-ca", String::new());
    connected(&mut events).await.expect_err("no certificate");
    stand.close().await;
}

/// The head and the value of the first item of DER, and what follows it.
fn item(der: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let head = match der.get(1)? {
        length @ ..=0x7f => (2, usize::from(*length)),
        0x81 => (3, usize::from(*der.get(2)?)),
        _ => (4, usize::from(u16::from_be_bytes([*der.get(2)?, *der.get(3)?]))),
    };
    let (item, rest) = der.split_at_checked(head.0 + head.1)?;
    Some((item, &item[head.0..], rest))
}

fn sequence(value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("short").to_be_bytes();
    [&[0x30, 0x82], &length[..], value].concat()
}

/// A certificate as version 1 of X.509 has it: with neither version nor extensions. Nobody vouches for it any more.
fn as_version_1(certificate: &[u8]) -> Vec<u8> {
    let (_, all, _) = item(certificate).expect("DER");
    let (_, mut left, signature) = item(all).expect("what is signed");
    let mut kept = Vec::new();
    while let Some((item, _, rest)) = item(left) {
        if ![0xa0, 0xa3].contains(&item[0]) {
            kept.extend_from_slice(item);
        }
        left = rest;
    }
    sequence(&[sequence(&kept), signature.to_vec()].concat())
}

#[tokio::test]
async fn a_certificate_of_version_1_lets_its_device_in_over_both_versions_of_tls() {
    let stand = Stand::open(limits()).await;
    let issued = stand.issue("x-thumb", None, Means::X509Thumbprint, 1);
    let certificate = as_version_1(&CertificateDer::from_pem_file(&issued.certificate_file).expect("PEM"));
    let path = stand.dir.path().join("devices.toml");
    let thumbprint = Thumbprint::sha256(&certificate);
    devices::register(&path, "x-thumb", None, Means::X509Thumbprint, Some(&thumbprint)).expect("registered");
    let text = BASE64_STANDARD.encode(&certificate);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    std::fs::write(&issued.certificate_file, pem).expect("written");
    let other = stand.issue("x-other", None, Means::X509Thumbprint, 1);
    for tls in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let (_client, mut events) = stand.showing("x-thumb", (&issued.certificate_file, &issued.key_file), tls);
        connected(&mut events).await.expect("admitted");
        let (_client, mut events) = stand.showing("x-thumb", (&issued.certificate_file, &other.key_file), tls);
        connected(&mut events).await.expect_err("the certificate is no secret, its key is");
    }
    stand.close().await;
}
