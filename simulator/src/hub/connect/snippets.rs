//! [p] What to write into a program, for each of Microsoft's SDKs and each way to the hub: for devices, for the Event
//! Hubs endpoint, for the service API; and into a shell, without any SDK.

use serde::Serialize;

/// One SDK and one way to reach the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Snippet {
    /// The package.
    pub(super) sdk: &'static str,
    /// `mqtt`, `plain`, `tls`, `websocket` or `https`.
    pub(super) way: &'static str,
    /// What the process needs in its environment.
    pub(super) environment: Option<String>,
    /// To paste. Holds a secret.
    pub(super) code: String,
}

/// A device that proves itself by a key.
pub(super) struct Device<'a> {
    pub(super) id: &'a str,
    /// What the hub calls itself.
    pub(super) hub: &'a str,
    /// Its connection string.
    pub(super) text: &'a str,
    /// The address that is dialled …
    pub(super) host: &'a str,
    /// … and the port for MQTT.
    pub(super) port: u16,
    /// Whether MQTT in WebSocket messages is spoken where SDKs dial: at port 443.
    pub(super) websocket: bool,
    /// A shared-access token.
    pub(super) token: String,
}

/// The port that device SDKs dial, and no other.
const MQTT_PORT: u16 = 8883;

/// What the snippets are made of.
pub(super) struct Facts<'a> {
    /// One of the devices.
    pub(super) device: Option<Device<'a>>,
    /// `host:port` without TLS.
    pub(super) plain: String,
    /// `host:port` with TLS.
    pub(super) tls: Option<String>,
    /// `host:port` with WebSocket in TLS.
    pub(super) websocket: Option<String>,
    /// `SharedAccessKeyName=…;SharedAccessKey=…;EntityPath=…`.
    pub(super) rest: String,
    /// `HostName=…;SharedAccessKeyName=…;SharedAccessKey=…` of the service API, and whether it is at port 443.
    pub(super) api: Option<(String, bool)>,
    /// PEM.
    pub(super) ca_file: &'a str,
}

/// A snippet for each SDK and each way there is.
pub(super) fn snippets(facts: &Facts<'_>) -> Vec<Snippet> {
    let Facts { plain, rest, ca_file, .. } = facts;
    let emulator = format!("Endpoint=sb://{plain};{rest};UseDevelopmentEmulator=true");
    // The host is not dialled: the custom endpoint is.
    let text = |endpoint: &str| {
        let host = endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host);
        format!("Endpoint=sb://{host};{rest}")
    };
    let snippet = |sdk, way, environment: Option<String>, code: String| Snippet { sdk, way, environment, code };
    let trust = |variable: &str| Some(format!("{variable}={ca_file}"));

    let python = |way, endpoint: &str, transport: &str| {
        let code = format!(
            "EventHubConsumerClient.from_connection_string(\"{}\", \"$Default\", custom_endpoint_address=\"sb://{endpoint}\", \
             transport_type=TransportType.{transport}, connection_verify=\"{ca_file}\")",
            text(endpoint)
        );
        snippet("Python azure-eventhub", way, None, code)
    };
    let node = |way, endpoint: &str, more: &str| {
        let code = format!(
            "new EventHubConsumerClient(\"$Default\", \"{}\", {{ customEndpointAddress: \"sb://{endpoint}\"{more} }})",
            text(endpoint)
        );
        snippet("Node @azure/event-hubs", way, trust("NODE_EXTRA_CA_CERTS"), code)
    };
    let rust = |way, environment, scheme: &str, endpoint: &str| {
        let code = format!(
            "ConsumerClient::builder().with_custom_endpoint(\"{scheme}://{endpoint}\".to_owned())\
             .open_with_connection_string(\"{}\", None).await?",
            text(endpoint)
        );
        snippet("Rust azure_messaging_eventhubs", way, environment, code)
    };
    let constructor = |code: String| format!("EventHubConsumerClient.from_connection_string(\"{code}\", \"$Default\")");

    let plain = [
        snippet("Python azure-eventhub", "plain", None, constructor(emulator.clone())),
        snippet(
            "Node @azure/event-hubs",
            "plain",
            None,
            format!("new EventHubConsumerClient(\"$Default\", \"{emulator}\")"),
        ),
        rust("plain", None, "amqp", plain),
    ];
    let tls = facts.tls.iter().flat_map(|endpoint| {
        [
            python("tls", endpoint, "Amqp"),
            node("tls", endpoint, ""),
            rust("tls", trust("SSL_CERT_FILE"), "amqps", endpoint),
        ]
    });
    let websocket = facts.websocket.iter().flat_map(|endpoint| {
        [
            python("websocket", endpoint, "AmqpOverWebsocket"),
            node("websocket", endpoint, ", webSocketOptions: { webSocket: WebSocket }"),
        ]
    });
    let https = facts.api.iter().flat_map(|(text, standard)| {
        let code = format!("IoTHubRegistryManager.from_connection_string(\"{text}\")");
        let python = snippet("Python azure-iot-hub", "https", trust("REQUESTS_CA_BUNDLE"), code);
        // It dials port 443 and no other.
        let code = format!("Registry.fromConnectionString(\"{text}\")");
        let node = snippet("Node azure-iothub", "https", trust("NODE_EXTRA_CA_CERTS"), code);
        [Some(python), Some(node).filter(|_| *standard)].into_iter().flatten()
    });
    let devices = facts.device.iter().flat_map(|device| device_snippets(device, ca_file));
    let mut all: Vec<_> = devices.chain(plain).chain(tls).chain(websocket).chain(https).collect();
    all.sort_by_key(|snippet| {
        ["P", "N", "R"].iter().position(|first| snippet.sdk.starts_with(first)).unwrap_or(usize::MAX)
    });
    all
}

fn device_snippets(device: &Device<'_>, ca_file: &str) -> Vec<Snippet> {
    let Device { id, hub, text, host, port, websocket, token } = device;
    // What the hub calls itself nobody has to resolve.
    let text = if hub == host { (*text).to_owned() } else { format!("{text};GatewayHostName={host}") };
    let python = |way, more: &str| Snippet {
        sdk: "Python azure-iot-device",
        way,
        environment: None,
        code: format!(
            "IoTHubDeviceClient.create_from_connection_string(\"{text}\", \
             server_verification_cert=open(\"{ca_file}\").read(){more})"
        ),
    };
    let node = |way, transport: &str| Snippet {
        sdk: "Node azure-iot-device-mqtt",
        way,
        environment: Some(format!("NODE_EXTRA_CA_CERTS={ca_file}")),
        code: format!("Client.fromConnectionString(\"{text}\", {transport})"),
    };
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let by_hand = Snippet {
        sdk: "mosquitto_pub, and whatever takes client id, user name and password; the token holds for a day",
        way: "mqtt",
        environment: None,
        code: format!(
            "mosquitto_pub -h {host} -p {port} --cafile {} -i {} -u {} -P '{token}' -t {} -q 1 -m '{{\"n\": 1}}'",
            quoted(ca_file),
            quoted(id),
            quoted(&format!("{hub}/{id}/?api-version=2021-04-12")),
            quoted(&format!("devices/{id}/messages/events/")),
        ),
    };
    let mqtt = (*port == MQTT_PORT).then(|| [python("mqtt", ""), node("mqtt", "Mqtt")]);
    let in_websocket = websocket.then(|| [python("websocket", ", websockets=True"), node("websocket", "MqttWs")]);
    mqtt.into_iter().chain(in_websocket).flatten().chain([by_hand]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sdk_has_each_way_there_is() {
        let facts = Facts {
            device: None,
            plain: "127.0.0.1:5672".to_owned(),
            tls: Some("127.0.0.1:5671".to_owned()),
            websocket: Some("127.0.0.1:443".to_owned()),
            rest: "SharedAccessKeyName=service;SharedAccessKey=a2V5;EntityPath=hub".to_owned(),
            api: Some(("HostName=127.0.0.1;SharedAccessKeyName=iothubowner;SharedAccessKey=a2V5".to_owned(), true)),
            ca_file: "/ca.pem",
        };
        let all = snippets(&facts);
        let ways: Vec<_> =
            all.iter().map(|one| format!("{} {}", one.sdk.split(' ').next().unwrap_or_default(), one.way)).collect();
        let expected = ["Python", "Node", "Rust"]
            .map(|sdk| ["plain", "tls", "websocket", "https"].map(|way| format!("{sdk} {way}")));
        let expected: Vec<_> = expected
            .concat()
            .into_iter()
            .filter(|way| !["Rust websocket", "Rust https"].contains(&way.as_str()))
            .collect();
        assert_eq!(ways, expected, "the Rust SDK speaks no WebSocket");
        assert_eq!(
            all[0].code,
            "EventHubConsumerClient.from_connection_string(\"Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=service;\
             SharedAccessKey=a2V5;EntityPath=hub;UseDevelopmentEmulator=true\", \"$Default\")"
        );
        assert_eq!(all[9].environment.as_deref(), Some("SSL_CERT_FILE=/ca.pem"));
        assert!(all[9].code.contains("amqps://127.0.0.1:5671"), "{}", all[9].code);

        let (plain, rest) = ("[::1]:5672".to_owned(), facts.rest.clone());
        let six = snippets(&Facts {
            device: None,
            plain,
            tls: Some("[::1]:5671".to_owned()),
            websocket: None,
            api: None,
            rest,
            ..facts
        });
        assert!(six[5].code.contains("amqps://[::1]:5671") && six[5].code.contains("sb://[::1];"), "{}", six[5].code);

        let alone = snippets(&Facts { tls: None, websocket: None, api: None, ..facts });
        assert!(alone.iter().all(|one| one.way == "plain") && alone.len() == 3);
    }
    #[test]
    fn devices_have_what_dials_where_the_hub_listens() {
        let device = || Device {
            id: "it's",
            hub: "hub.azure-devices.net",
            text: "HostName=hub.azure-devices.net;DeviceId=it's;SharedAccessKey=a2V5",
            host: "127.0.0.2",
            port: 8883,
            websocket: true,
            token: "SharedAccessSignature sr=…".to_owned(),
        };
        let shown = |device: Device<'_>| -> Vec<(String, String)> {
            let of = |one: Snippet| {
                (format!("{} {}", one.sdk.split([' ', ',']).next().unwrap_or_default(), one.way), one.code)
            };
            device_snippets(&device, "/ca.pem").into_iter().map(of).collect()
        };
        let all = shown(device());
        let ways: Vec<_> = all.iter().map(|(way, _)| way.as_str()).collect();
        assert_eq!(ways, ["Python mqtt", "Node mqtt", "Python websocket", "Node websocket", "mosquitto_pub mqtt"]);
        assert_eq!(
            all[0].1,
            "IoTHubDeviceClient.create_from_connection_string(\"HostName=hub.azure-devices.net;DeviceId=it's;\
             SharedAccessKey=a2V5;GatewayHostName=127.0.0.2\", server_verification_cert=open(\"/ca.pem\").read())"
        );
        assert_eq!(
            all[4].1,
            "mosquitto_pub -h 127.0.0.2 -p 8883 --cafile '/ca.pem' -i 'it'\\''s' \
             -u 'hub.azure-devices.net/it'\\''s/?api-version=2021-04-12' -P 'SharedAccessSignature sr=…' \
             -t 'devices/it'\\''s/messages/events/' -q 1 -m '{\"n\": 1}'"
        );
        let named = shown(Device { hub: "127.0.0.2", ..device() });
        assert!(!named[0].1.contains("Gateway"), "{}: the host name leads there by itself", named[0].1);
        let elsewhere = shown(Device { port: 18883, websocket: false, ..device() });
        assert!(matches!(&elsewhere[..], [(_, by_hand)] if by_hand.contains("-p 18883")), "no SDK dials that port");
    }
}
