//! [p] What to write into a program, for each of Microsoft's Event Hubs SDKs and each way to the hub, and for those of
//! the service API.

use serde::Serialize;

/// One SDK and one way to reach the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Snippet {
    /// The package.
    pub(super) sdk: &'static str,
    /// `plain`, `tls`, `websocket` or `https`.
    pub(super) way: &'static str,
    /// What the process needs in its environment.
    pub(super) environment: Option<String>,
    /// To paste. Holds a secret.
    pub(super) code: String,
}

/// What the snippets are made of.
pub(super) struct Facts<'a> {
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
    let mut all: Vec<_> = plain.into_iter().chain(tls).chain(websocket).chain(https).collect();
    all.sort_by_key(|snippet| ["P", "N", "R"].iter().position(|first| snippet.sdk.starts_with(first)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sdk_has_each_way_there_is() {
        let facts = Facts {
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
        let six =
            snippets(&Facts { plain, tls: Some("[::1]:5671".to_owned()), websocket: None, api: None, rest, ..facts });
        assert!(six[5].code.contains("amqps://[::1]:5671") && six[5].code.contains("sb://[::1];"), "{}", six[5].code);

        let alone = snippets(&Facts { tls: None, websocket: None, api: None, ..facts });
        assert!(alone.iter().all(|one| one.way == "plain") && alone.len() == 3);
    }
}
