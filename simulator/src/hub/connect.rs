//! What each side needs to connect, ready to paste.

mod snippets;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::Serialize;

use self::snippets::{Facts, Snippet};
use super::amqp::DEFAULT_GROUP;
use super::config::Config;
use super::devices::{Identities, Policy};

/// Everything a client must be told. Holds secrets.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Connect {
    host_name: String,
    /// Name of the Event-Hubs-compatible endpoint.
    event_hub: String,
    ca_file: PathBuf,
    mqtt: Dial,
    amqp: Dial,
    amqps: Option<Dial>,
    amqp_websocket: Option<Dial>,
    consumer_groups: Vec<String>,
    /// By device id.
    devices: BTreeMap<String, String>,
    /// By policy.
    services: BTreeMap<String, String>,
    /// For the policy services are meant to use.
    snippets: Vec<Snippet>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Dial {
    host: String,
    port: u16,
    url: String,
}

impl Dial {
    fn new(scheme: &str, listen: SocketAddr) -> Self {
        let ip = match listen.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => IpAddr::from([127, 0, 0, 1]),
            IpAddr::V6(_) => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]),
        };
        let url = format!("{scheme}://{}", SocketAddr::new(ip, listen.port()));
        Self { host: ip.to_string(), port: listen.port(), url }
    }

    /// `host:port`.
    fn endpoint(&self) -> String {
        self.url.split_once("://").map_or(&*self.url, |(_, endpoint)| endpoint).to_owned()
    }
}

impl Connect {
    pub(super) fn new(config: &Config, identities: &Identities) -> Self {
        let ca_file = super::ca::ca_file(&config.identity_dir());
        let amqp = Dial::new("amqp", config.amqp_listen);
        let device = |device: &super::devices::Device| {
            let text = format!(
                "HostName={};DeviceId={};SharedAccessKey={}",
                config.host_name,
                device.id,
                device.primary_key.reveal()
            );
            (device.id.clone(), text)
        };
        let keys = |policy: &Policy| {
            let (name, key) = (&policy.name, policy.primary_key.reveal());
            format!("SharedAccessKeyName={name};SharedAccessKey={key};EntityPath={}", config.name)
        };
        let service = |policy: &Policy| {
            let text = format!("Endpoint={};{}", Dial::new("sb", config.amqp_listen).url, keys(policy));
            (policy.name.clone(), text)
        };
        let ca_file = std::path::absolute(&ca_file).unwrap_or(ca_file);
        let amqps = config.amqps_listen.map(|listen| Dial::new("amqps", listen));
        let amqp_websocket = config.amqp_websocket_listen.map(|listen| Dial::new("wss", listen));
        let snippets = identities.policies.first().map(|policy| {
            snippets::snippets(&Facts {
                plain: amqp.endpoint(),
                tls: amqps.as_ref().map(Dial::endpoint),
                websocket: amqp_websocket.as_ref().map(Dial::endpoint),
                rest: keys(policy),
                ca_file: &ca_file.display().to_string(),
            })
        });
        let mut consumer_groups = config.consumer_groups.clone();
        if !consumer_groups.iter().any(|group| group.eq_ignore_ascii_case(DEFAULT_GROUP)) {
            consumer_groups.insert(0, DEFAULT_GROUP.to_owned());
        }
        Self {
            host_name: config.host_name.clone(),
            event_hub: config.name.clone(),
            mqtt: Dial::new("mqtts", config.mqtt_listen),
            devices: identities.devices.iter().map(device).collect(),
            services: identities.policies.iter().map(service).collect(),
            snippets: snippets.unwrap_or_default(),
            consumer_groups,
            ca_file,
            amqp,
            amqps,
            amqp_websocket,
        }
    }

    /// For people.
    pub(super) fn print(&self, out: &mut impl io::Write) -> io::Result<()> {
        writeln!(out, "Devices dial {} and trust {}", self.mqtt.url, self.ca_file.display())?;
        for text in self.devices.values() {
            writeln!(out, "  {text}")?;
        }
        if self.devices.is_empty() {
            writeln!(out, "  none is registered; write e.g. `hub.devices = [\"gw-01\"]`")?;
        }
        let ways = [Some(&self.amqp), self.amqps.as_ref(), self.amqp_websocket.as_ref()].into_iter().flatten();
        let ways: Vec<_> = ways.map(|dial| dial.url.as_str()).collect();
        writeln!(out, "Services dial {}", ways.join(", or "))?;
        for text in self.services.values() {
            writeln!(out, "  {text}")?;
        }
        writeln!(out, "  consumer groups: {}", self.consumer_groups.join(", "))?;
        for snippet in &self.snippets {
            writeln!(out, "\n{}, {}", snippet.sdk, snippet.way)?;
            if let Some(environment) = &snippet.environment {
                writeln!(out, "  {environment}")?;
            }
            writeln!(out, "  {}", snippet.code)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use shared::config::Secret;

    use super::*;
    use crate::hub::devices::{Device, Policy};

    #[test]
    fn strings_are_ready_to_paste() {
        let config = crate::config::Config::load(None).expect("the default").hub;
        let secret = |text: &str| Secret::new(text);
        let identities = Identities {
            devices: vec![Device {
                id: "gw-01".to_owned(),
                enabled: true,
                generation_id: "1".to_owned(),
                primary_key: secret("a2V5"),
                secondary_key: secret("b2xk"),
            }],
            policies: vec![Policy {
                name: "service".to_owned(),
                primary_key: secret("a2V5"),
                secondary_key: secret("b2xk"),
            }],
        };
        let connect = serde_json::to_value(Connect::new(&config, &identities)).expect("JSON");
        assert_eq!(
            connect["devices"]["gw-01"],
            "HostName=local-hub.azure-devices.net;DeviceId=gw-01;SharedAccessKey=a2V5"
        );
        assert_eq!(
            connect["services"]["service"],
            "Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=service;SharedAccessKey=a2V5;EntityPath=local-hub"
        );
        assert_eq!((&connect["mqtt"]["host"], &connect["mqtt"]["port"]), (&"127.0.0.1".into(), &8883.into()));
        assert_eq!(connect["amqp"]["url"], "amqp://127.0.0.1:5672");
        assert_eq!(connect["consumer-groups"], serde_json::json!(["$Default"]));
        assert_eq!(connect["snippets"].as_array().map(Vec::len), Some(3), "of the default, one port for each SDK");
    }
}
