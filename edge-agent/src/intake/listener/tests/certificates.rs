//! TLS, and devices that show certificates. Those in `testdata/devices` are of one authority: `press-3` by its common
//! name, `press-4` by its DNS name, one without a name, and one that is revoked.

use std::path::Path;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

/// The listener's own certificate, and the authority of devices with what it has revoked.
pub(super) fn certify(config: &mut Config, dir: &Path) {
    for (name, text, setting) in [
        ("listener.pem", include_str!("../testdata/listener.pem"), &mut config.tls_cert),
        ("listener.key", include_str!("../testdata/listener.key"), &mut config.tls_key),
        ("devices.pem", include_str!("../testdata/devices/ca.pem"), &mut config.tls_client_ca),
        ("devices.crl", include_str!("../testdata/devices/crl.pem"), &mut config.tls_client_crl),
    ] {
        std::fs::write(dir.join(name), text).expect("write");
        *setting = Some(dir.join(name));
    }
}

/// The client of a device, with what it shows.
fn client(shows: Option<&str>) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(include_bytes!("../testdata/ca.pem")).expect("PEM");
    roots.add(authority).expect("an authority");
    let client = rustls::ClientConfig::builder().with_root_certificates(roots);
    match shows {
        None => client.with_no_client_auth(),
        Some(pem) => {
            let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM")];
            let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("PEM");
            client.with_client_auth_cert(chain, key).expect("a pair")
        }
    }
}

/// What a device says first.
pub(super) fn client_hello() -> Vec<u8> {
    let name = ServerName::try_from("localhost").expect("a name");
    let mut connection = rustls::ClientConnection::new(Arc::new(client(None)), name).expect("a client");
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).expect("written");
    hello
}

/// TLS as a device; what is refused in it may show itself only when something is read.
pub(super) async fn dial(address: SocketAddr, shows: Option<&str>) -> TlsStream<TcpStream> {
    shared::tls::install_provider();
    let stream = TcpStream::connect(address).await.expect("connects");
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(client(shows))).connect(name, stream).await.expect("encrypted")
}

const PRESS_3: &str = include_str!("../testdata/devices/press-3.pem");
const PRESS_4: &str = include_str!("../testdata/devices/press-4.pem");
const NAMELESS: &str = include_str!("../testdata/devices/nameless.pem");
const REVOKED: &str = include_str!("../testdata/devices/revoked.pem");

/// What comes back to these bytes until the listener hangs up; an alert of TLS is nothing.
async fn answered(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) -> Vec<u8> {
    let _ = stream.write_all(bytes).await;
    rest(stream).await
}

#[tokio::test]
async fn with_certificate_and_key_it_speaks_tls_and_nothing_else() {
    shared::tls::install_provider();
    let mut stand = stand(2, |config, dir| {
        certify(config, dir);
        (config.tls_client_ca, config.tls_client_crl) = (None, None);
    })
    .await;
    let (device, mut events) = stand.device("press-3");
    let tls = rumqttc::TlsConfiguration::Rustls(Arc::new(client(None)));
    events.mqtt_options.set_transport(rumqttc::Transport::tls_with_config(tls));
    device.publish("telemetry/press-3", QoS::AtLeastOnce, false, "x").await.expect("queued");
    connected(&mut events).await;
    until(&mut events, |event| matches!(event, Event::Outgoing(Outgoing::Publish(1)))).await;
    stand.message().await.ack.done();
    until(&mut events, |event| matches!(event, Event::Incoming(Packet::PubAck(_)))).await;

    let mut plain = stand.raw().await;
    let got = answer(&mut plain, &connect(60)).await;
    assert!(!got.starts_with(&CONNACK), "{got:?}");
    stand.until_refused("tls", 1).await;
}

#[tokio::test]
async fn a_certificate_says_who_a_device_is_whatever_it_says_itself() {
    let mut stand = stand(8, |config, dir| {
        certify(config, dir);
        config.anonymous = false;
        config.right = vec![Right { user: None, topic: "t/{user}".into() }];
        shared::tls::install_provider();
    })
    .await;
    // CONNECT says that it is somebody else.
    let user: &[u8] = &[0, 7, b'p', b'r', b'e', b's', b's', b'-', b'9'];
    let claims = [&[0x10, 22, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x82, 0, 60, 0, 1, b'd'][..], user].concat();
    for (pem, own, other) in [(PRESS_3, "t/press-3", "t/press-9"), (PRESS_4, "t/press-4", "t/press-3")] {
        let mut stream = dial(stand.address, Some(pem)).await;
        stream.write_all(&[claims.clone(), publish_to(own, 1)].concat()).await.expect("written");
        expect_bytes(&mut stream, &CONNACK).await;
        let message = stand.message().await;
        assert_eq!(message.topic, own);
        message.ack.done();
        expect_bytes(&mut stream, &[0x40, 2, 0, 1]).await;
        stream.write_all(&publish_to(other, 2)).await.expect("written");
        assert_eq!(rest(&mut stream).await, b"", "{other} is not its own");
    }
    assert_eq!(stand.metrics.of("listener").barred(), 2);
}

#[tokio::test]
async fn a_certificate_that_is_missing_revoked_or_nameless_lets_nobody_in() {
    shared::tls::install_provider();
    let stand = stand(8, |config, dir| {
        certify(config, dir);
        config.anonymous = false;
    })
    .await;
    for (shows, reason, count) in [(None, "tls", 1), (Some(REVOKED), "tls", 2), (Some(NAMELESS), "certificate-name", 1)]
    {
        let mut stream = dial(stand.address, shows).await;
        assert_eq!(answered(&mut stream, &connect(60)).await, b"", "{reason}");
        stand.until_refused(reason, count).await;
    }
    let mut good = dial(stand.address, Some(PRESS_3)).await;
    good.write_all(&connect(60)).await.expect("written");
    expect_bytes(&mut good, &CONNACK).await;
}

#[tokio::test]
async fn beside_certificates_passwords_may_let_in_too() {
    shared::tls::install_provider();
    let stand = stand(8, |config, dir| {
        certify(config, dir);
        config.anonymous = false;
        let path = dir.join("passwords");
        std::fs::write(&path, include_str!("../testdata/passwords")).expect("write");
        config.password_file = Some(path);
    })
    .await;
    let mut neither = dial(stand.address, None).await;
    assert_eq!(answered(&mut neither, &connect(60)).await, [0x20, 2, 0, 4]);
    let login =
        [&[0x10, 30, 0, 4, b'M', b'Q', b'T', b'T', 4, 0xc2, 0, 60, 0, 1, b'd', 0, 7][..], b"press-3\0\x06secret"];
    let mut user = dial(stand.address, None).await;
    user.write_all(&login.concat()).await.expect("written");
    expect_bytes(&mut user, &CONNACK).await;
    let mut certified = dial(stand.address, Some(PRESS_4)).await;
    certified.write_all(&connect(60)).await.expect("written");
    expect_bytes(&mut certified, &CONNACK).await;
}

#[tokio::test]
async fn who_is_slow_with_tls_is_closed() {
    shared::tls::install_provider();
    let stand = stand(2, |config, dir| {
        certify(config, dir);
        config.connect_timeout = Span::new(Duration::from_secs(1));
    })
    .await;
    let mut silent = stand.raw().await;
    assert_eq!(rest(&mut silent).await, b"");
    // A record that says it has 16 KB, of which a little comes.
    let mut half = stand.raw().await;
    half.write_all(&[0x16, 3, 1, 0x3f, 0xff, 1, 0, 0x3f, 0xfb, 3, 3]).await.expect("written");
    assert_eq!(rest(&mut half).await, b"");
    let mut shaken = dial(stand.address, Some(PRESS_3)).await;
    assert_eq!(rest(&mut shaken).await, b"", "and no CONNECT after it");
    stand.until_refused("connect-timeout", 3).await;
}
