//! What each side needs to connect, ready to paste.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::Serialize;

use super::config::Config;
use super::devices::Identities;

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
    /// By device id.
    devices: BTreeMap<String, String>,
    /// By policy.
    services: BTreeMap<String, String>,
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
        let service = |policy: &super::devices::Policy| {
            let text = format!(
                "Endpoint={};SharedAccessKeyName={};SharedAccessKey={};EntityPath={}",
                Dial::new("sb", config.amqp_listen).url,
                policy.name,
                policy.primary_key.reveal(),
                config.name
            );
            (policy.name.clone(), text)
        };
        Self {
            host_name: config.host_name.clone(),
            event_hub: config.name.clone(),
            ca_file: std::path::absolute(&ca_file).unwrap_or(ca_file),
            mqtt: Dial::new("mqtts", config.mqtt_listen),
            amqps: config.amqps_listen.map(|listen| Dial::new("amqps", listen)),
            devices: identities.devices.iter().map(device).collect(),
            services: identities.policies.iter().map(service).collect(),
            amqp,
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
        match &self.amqps {
            None => writeln!(out, "Services dial {}", self.amqp.url)?,
            Some(amqps) => {
                writeln!(out, "Services dial {}, or {} and trust {}", self.amqp.url, amqps.url, self.ca_file.display())?
            }
        }
        for text in self.services.values() {
            writeln!(out, "  {text}")?;
        }
        writeln!(
            out,
            "Microsoft's SDKs for Python and Node want `;UseDevelopmentEmulator=true` behind it for {}; the",
            self.amqp.url
        )?;
        writeln!(out, "one for Rust is given {} as its custom endpoint.", self.amqp.url)
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
    }
}
