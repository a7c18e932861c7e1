//! Devices in WebSocket messages, at the port of the service API.

use super::*;
use crate::gate::bridge::{bridge, upgraded};
use crate::hub::https::tests::Served;

fn through(stand: &Stand, bridge: SocketAddr, device: &str, token: String) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(device, "127.0.0.1", bridge.port());
    options.set_credentials(format!("{HOST}/{device}/?api-version=2021-04-12"), token);
    options.set_max_packet_size(1 << 20, 1 << 20);
    let _ = stand;
    AsyncClient::new(options, 8)
}

#[tokio::test]
async fn over_websocket_devices_are_the_same_as_over_8883() {
    let served = Served::open().await;
    let stand = &served.stand;
    let bridge = bridge(served.addr, served.tls(), "/$iothub/websocket?iothub-no-client-cert=true").await;
    let (client, mut device) = through(stand, bridge, "d-1", stand.token("d-1", FAR));
    connected(&mut device).await.expect("admitted");
    client.publish(events("d-1"), QoS::AtLeastOnce, false, vec![7; 200 * 1024]).await.expect("queued");
    acknowledged(&mut device).await.expect("acknowledged");
    assert_eq!(stand.stored("d-1").await.len(), 1);
    assert_eq!(stand.door.desk.seats.devices(), ["d-1"]);

    let (_other, mut refused) = through(stand, bridge, "d-1", stand.token("d-2", FAR));
    connected(&mut refused).await.expect_err("another device's token");

    // The one over 8883 takes the seat of the one over WebSocket.
    let (_direct, mut direct) = stand.good("d-1");
    connected(&mut direct).await.expect("admitted");
    acknowledged(&mut device).await.expect_err("taken over");
    served.close().await;
}

#[tokio::test]
async fn a_certificate_counts_over_websocket_too() {
    use rustls::pki_types::PrivateKeyDer;

    use crate::hub::devices::{self, Means};

    let served = Served::open().await;
    let stand = &served.stand;
    let issued = ca::issue_device(stand.dir.path(), "x-ca", None, true, 1, Clock::Real.now()).expect("issued");
    devices::register(&stand.dir.path().join("devices.toml"), "x-ca", None, Means::X509Ca, None).expect("registered");
    let chain = CertificateDer::pem_file_iter(&issued.certificate_file).expect("PEM").collect::<Result<_, _>>();
    let tls = rustls::ClientConfig::builder()
        .with_root_certificates(stand.roots())
        .with_client_auth_cert(chain.expect("PEM"), PrivateKeyDer::from_pem_file(&issued.key_file).expect("PEM"))
        .expect("a pair");
    let mut stream = upgraded(served.addr, tls, "/$iothub/websocket").await;
    let user = format!("{HOST}/x-ca/?api-version=2021-04-12");
    let body = [&text("MQTT")[..], &[4, 0x82, 0, 60], &text("x-ca"), &text(&user)].concat();
    stream.write_all(&packet(0x10, body)).await.expect("written");
    stream.flush().await.expect("sent");
    let mut connack = [0; 4];
    timeout(PATIENCE, stream.read_exact(&mut connack)).await.expect("in time").expect("answered");
    assert_eq!(connack, [0x20, 2, 0, 0]);
    served.close().await;
}
