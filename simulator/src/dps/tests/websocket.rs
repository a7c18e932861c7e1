//! Devices in WebSocket messages, and what else comes to their port.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::gate::bridge::{bridge, upgraded};

/// As Microsoft's SDKs dial it.
const PATH: &str = "/$iothub/websocket";
const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

impl Stand {
    /// As [`Stand::options`], by the other port.
    async fn options_over_websocket(&self, id: &str, shows: &Shows) -> MqttOptions {
        let bridge = bridge(self.websocket, self.tls(shows), PATH).await;
        let mut options = MqttOptions::new(id, "127.0.0.1", bridge.port());
        let login = self.options(id, shows).credentials().expect("a user name");
        options.set_credentials(login.username, login.password);
        options.set_max_packet_size(1 << 20, 1 << 20);
        options
    }

    async fn dial_websocket(&self) -> TlsStream<TcpStream> {
        let socket = TcpStream::connect(self.websocket).await.expect("connected");
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(self.tls(&Shows::Nothing))).connect(name, socket).await.expect("TLS")
    }

    /// What these bytes are answered until the service hangs up.
    async fn hung_up(&self, bytes: &[u8]) -> String {
        let mut socket = self.dial_websocket().await;
        // The service may hang up while we write: that is what is asked of it.
        let _ = socket.write_all(bytes).await;
        let mut rest = vec![];
        let _ = timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("hung up on");
        String::from_utf8_lossy(&rest).into_owned()
    }
}

#[tokio::test]
async fn over_websocket_devices_register_by_key_and_certificate_as_over_8883() {
    let stand = Stand::open(Setup::default()).await;
    let own = stand.dir.path().join("identity");
    let issued = ca::issue_member(&own, "by-certificate", None, 1, Clock::Real.now()).expect("issued");
    let thumbprint = Some(issued.thumbprint.clone());
    stand.enroll(Wish { auth: Some(Means::X509), thumbprint, ..wish("by-certificate") });
    for (id, shows) in [("by-key", stand.by_key("by-key")), ("by-certificate", Shows::Certificate(issued))] {
        let options = stand.options_over_websocket(id, &shows).await;
        let device = stand.connect_with(options, QoS::AtLeastOnce).await.expect("admitted");
        let body = stand.register_over(device, id).await;
        assert_eq!(stand.homes(id), [state(&body)["assignedHub"].as_str().expect("a hub")]);
    }

    let wrong = stand.token("by-key", &Secret::new("d3Jvbmc="));
    let options = stand.options_over_websocket("by-key", &wrong).await;
    let stranger = stand.connect_with(options, QoS::AtLeastOnce).await.expect("admitted, to be told no");
    assert_eq!(stand.register_over(stranger, "by-key").await["errorCode"], json!(401_000));

    // The one over 8883 takes the seat of the one over WebSocket.
    let shows = stand.token("by-key", &stand.key("by-key"));
    let options = stand.options_over_websocket("by-key", &shows).await;
    let first = stand.connect_with(options, QoS::AtLeastOnce).await.expect("admitted");
    let _second = stand.connect("by-key", &shows).await.expect("admitted");
    first.closed().await;
    stand.close().await;
}

#[tokio::test]
async fn what_asks_for_no_mqtt_in_websocket_is_told_what_there_is_or_hung_up_on() {
    let mut setup = Setup::default();
    setup.limits.connect_timeout = Span::new(Duration::from_millis(700));
    let stand = Stand::open(setup).await;
    let get = |path: &str, headers: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    let long = format!("X-Long: {}\r\n", "x".repeat(300 * 1024));
    for (what, request, status) in [
        ("a page", get("/", ""), "404"),
        ("the service's HTTP API", get("/0ne0000CAFE/registrations/d/register?api-version=2021-06-01", ""), "404"),
        ("nothing of WebSocket", get(PATH, ""), "400"),
        ("no subprotocol", get(PATH, UPGRADE), "400"),
        ("another subprotocol", get(PATH, &format!("{UPGRADE}Sec-WebSocket-Protocol: amqp\r\n")), "400"),
        ("another path", get("/$servicebus/websocket", &format!("{UPGRADE}Sec-WebSocket-Protocol: mqtt\r\n")), "404"),
        ("a head without end", get(PATH, &long), "431"),
        ("no HTTP", "\u{10}\u{e}\0\u{4}MQTT\u{4}\u{2}\0<\0\0".to_owned(), "400"),
    ] {
        let said = stand.hung_up(request.as_bytes()).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {said}");
    }
    for silence in ["", "GET /$iothub/websocket HT"] {
        stand.hung_up(silence.as_bytes()).await;
    }
    assert_eq!(stand.count("registrations_total{outcome=\"assigned\"}"), 0);

    // Upgraded, and then nothing, text, or a message that no device has to send.
    let granted = get(PATH, &format!("{UPGRADE}Sec-WebSocket-Protocol: mqtt\r\n"));
    for frames in [
        &b""[..],
        b"\x82\x85\0\0\0\0\x10",
        b"\x81\x81\0\0\0\0x",
        b"\x82\xff\0\0\0\0\x40\0\0\0\0\0\0\0",
        b"\xff\xff\xff",
    ] {
        let said = stand.hung_up(&[granted.as_bytes(), frames].concat()).await;
        assert!(said.starts_with("HTTP/1.1 101 "), "{said}");
    }
    let mut device = upgraded(stand.websocket, stand.tls(&Shows::Nothing), PATH).await;
    device.write_all(&vec![0x10; 200 * 1024]).await.expect("written");
    let _ = device.flush().await;
    let _ = timeout(PATIENCE, device.read_to_end(&mut vec![])).await.expect("hung up on");
    // It is counted once we have been hung up on. Silence ends by either of two times, which are the same.
    let counted = async {
        while stand.count("closed_total{reason=\"no-websocket\"}") < 8
            || stand.count("closed_total{reason=\"connect-timeout\"}") == 0
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, counted).await.expect("all of them are counted, with their reasons");

    // It is as well as before.
    let shows = stand.by_key("d");
    let options = stand.options_over_websocket("d", &shows).await;
    stand.connect_with(options, QoS::AtLeastOnce).await.expect("admitted");
    stand.close().await;
}
