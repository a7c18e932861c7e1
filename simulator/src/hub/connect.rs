//! What each side needs to connect, ready to paste.

mod snippets;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::Serialize;
use shared::sas::{self, Key};
use shared::time::Timestamp;

use self::snippets::{Facts, Snippet};
use super::amqp::DEFAULT_GROUP;
use super::config::Config;
use super::devices::{Auth, Identities, Policy, Right};
use crate::dps;

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
    /// The REST API, and WebSocket for devices.
    https: Option<Dial>,
    consumer_groups: Vec<String>,
    /// Status, health, metrics.
    http: String,
    /// By device id.
    devices: BTreeMap<String, String>,
    /// By `device/module`.
    modules: BTreeMap<String, String>,
    /// By device id or `device/module`: those who prove themselves by a certificate that `hub register` issued.
    certificates: BTreeMap<String, Certificate>,
    /// By policy: who may sign for any device.
    device_policies: BTreeMap<String, String>,
    /// By policy: of the hub as a whole, for its REST API and the SDKs of its service side.
    policies: BTreeMap<String, String>,
    /// By policy: of the Event-Hubs-compatible endpoint.
    services: BTreeMap<String, String>,
    /// For the first device that has a key, and for the policy services are meant to use.
    snippets: Vec<Snippet>,
    /// The provisioning service beside the hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) provisioning: Option<dps::Connect>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Certificate {
    certificate_file: PathBuf,
    key_file: PathBuf,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Dial {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) url: String,
}

impl Dial {
    pub(crate) fn new(scheme: &str, listen: SocketAddr) -> Self {
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

/// How long the token of a snippet holds, in seconds.
const TOKEN_LIFE_S: i64 = 24 * 60 * 60;

impl Connect {
    pub(super) fn new(config: &Config, identities: &Identities, now: Timestamp) -> Self {
        let ca_file = super::ca::ca_file(&config.identity_dir());
        let amqp = Dial::new("amqp", config.amqp_listen);
        let proof = |auth: &Auth| match auth.primary_key() {
            Some(key) => format!("SharedAccessKey={}", key.reveal()),
            // As Microsoft's SDKs for .NET, Java and Node want it.
            None => "x509=true".to_owned(),
        };
        let host = &config.host_name;
        let (mut devices, mut modules, mut certificates) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let identity_dir = config.identity_dir();
        let mut show = |name: &str, device: &str, module: Option<&str>| {
            let (certificate, key) = super::ca::device_files(&identity_dir, device, module);
            if certificate.exists() && key.exists() {
                let files = Certificate { certificate_file: absolute(certificate), key_file: absolute(key) };
                certificates.insert(name.to_owned(), files);
            }
        };
        for device in identities.devices() {
            let id = &device.id;
            devices.insert(id.clone(), format!("HostName={host};DeviceId={id};{}", proof(&device.auth)));
            if device.auth.primary_key().is_none() {
                show(id, id, None);
            }
            for module in &device.modules {
                let name = format!("{id}/{}", module.id);
                if module.auth.primary_key().is_none() {
                    show(&name, id, Some(&module.id));
                }
                let text = format!("HostName={host};DeviceId={id};ModuleId={};{}", module.id, proof(&module.auth));
                modules.insert(name, text);
            }
        }
        let of_hub = |host: &str, policy: &Policy| {
            let (name, key) = (&policy.name, policy.primary_key.reveal());
            format!("HostName={host};SharedAccessKeyName={name};SharedAccessKey={key}")
        };
        let policy = |policy: &Policy| (policy.name.clone(), of_hub(host, policy));
        let keys = |policy: &Policy| {
            let (name, key) = (&policy.name, policy.primary_key.reveal());
            format!("SharedAccessKeyName={name};SharedAccessKey={key};EntityPath={}", config.name)
        };
        let service = |policy: &Policy| {
            let text = format!("Endpoint={};{}", Dial::new("sb", config.amqp_listen).url, keys(policy));
            (policy.name.clone(), text)
        };
        let ca_file = absolute(ca_file);
        let amqps = config.amqps_listen.map(|listen| Dial::new("amqps", listen));
        let amqp_websocket = config.amqp_websocket_listen.map(|listen| Dial::new("wss", listen));
        let https = config.https_listen.map(|listen| Dial::new("https", listen));
        let owner = identities.policies.iter().find(|policy| policy.may(Right::RegistryWrite));
        // SDKs dial the HostName: here it is where the hub listens.
        let api = https.as_ref().zip(owner).map(|(dial, owner)| match dial.port {
            443 => (of_hub(&dial.host, owner), true),
            _ => (of_hub(&dial.endpoint(), owner), false),
        });
        let mqtt = Dial::new("mqtts", config.mqtt_listen);
        let device = identities.devices().iter().find_map(|device| {
            let key = Key::device(device.auth.primary_key()?.reveal())?;
            let until_s = now.micros().div_euclid(1_000_000) + TOKEN_LIFE_S;
            Some(snippets::Device {
                id: &device.id,
                hub: host,
                text: devices.get(&device.id)?,
                host: &mqtt.host,
                port: mqtt.port,
                websocket: https.as_ref().is_some_and(|https| https.port == 443 && https.host == mqtt.host),
                token: sas::sign(&sas::device_resource(host, &device.id), &key, until_s, None),
            })
        });
        let having = |right: Right| identities.policies.iter().filter(move |policy| policy.may(right));
        let snippets = having(Right::ServiceConnect).next().map(|policy| {
            snippets::snippets(&Facts {
                device,
                plain: amqp.endpoint(),
                tls: amqps.as_ref().map(Dial::endpoint),
                websocket: amqp_websocket.as_ref().map(Dial::endpoint),
                rest: keys(policy),
                api,
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
            mqtt,
            http: Dial::new("http", config.http.listen).url,
            devices,
            modules,
            certificates,
            device_policies: having(Right::DeviceConnect).map(policy).collect(),
            policies: identities.policies.iter().map(policy).collect(),
            services: having(Right::ServiceConnect).map(service).collect(),
            snippets: snippets.unwrap_or_default(),
            provisioning: None,
            consumer_groups,
            ca_file,
            amqp,
            amqps,
            amqp_websocket,
            https,
        }
    }

    /// For people.
    pub(super) fn print(&self, out: &mut impl io::Write) -> io::Result<()> {
        writeln!(out, "Devices dial {} and trust {}", self.mqtt.url, self.ca_file.display())?;
        for text in self.devices.values().chain(self.modules.values()) {
            writeln!(out, "  {text}")?;
        }
        for (name, Certificate { certificate_file, key_file }) in &self.certificates {
            writeln!(out, "  {name}: {} and {}", certificate_file.display(), key_file.display())?;
        }
        if self.devices.is_empty() {
            writeln!(out, "  none is registered; write e.g. `hub.devices = [\"gw-01\"]`")?;
        }
        if let Some(provisioning) = &self.provisioning {
            provisioning.print(out)?;
        }
        let ways = [Some(&self.amqp), self.amqps.as_ref(), self.amqp_websocket.as_ref()].into_iter().flatten();
        let ways: Vec<_> = ways.map(|dial| dial.url.as_str()).collect();
        writeln!(out, "Services dial {}", ways.join(", or "))?;
        for text in self.services.values() {
            writeln!(out, "  {text}")?;
        }
        writeln!(out, "  consumer groups: {}", self.consumer_groups.join(", "))?;
        writeln!(out, "  Microsoft's SDKs want to be told more; ready to paste, below")?;
        match &self.https {
            Some(https) => writeln!(out, "Back ends dial {} for the REST API", https.url)?,
            None => writeln!(out, "Back ends have no REST API; write e.g. `hub.https-listen = \"127.0.0.1:443\"`")?,
        }
        for text in self.policies.values() {
            writeln!(out, "  {text}")?;
        }
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

pub(crate) fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use shared::config::Secret;

    use super::*;
    use crate::hub::devices::{Device, Module, Policy, Record};

    #[test]
    fn strings_are_ready_to_paste() {
        let config = crate::config::Config::load(None).expect("the default").hub;
        let secret = |text: &str| Secret::new(text);
        let keys = || Auth::Sas { primary_key: secret("a2V5"), secondary_key: secret("b2xk") };
        let policy = |name: &str, right| Policy {
            name: name.to_owned(),
            rights: vec![right],
            primary_key: secret("a2V5"),
            secondary_key: secret("b2xk"),
        };
        let policies = vec![policy("service", Right::ServiceConnect), policy("device", Right::DeviceConnect)];
        let mut identities = Identities::default();
        identities.policies = policies;
        let (id, generation_id, record) = ("m".to_owned(), "2".to_owned(), Record::default());
        let module = Module { id, enabled: true, generation_id, auth: keys(), record };
        for (id, auth, modules) in [("gw-01", keys(), vec![module]), ("gw-02", Auth::Ca, vec![])] {
            let (id, generation_id, record) = (id.to_owned(), "1".to_owned(), Record::default());
            assert!(identities.add(Device { id, enabled: true, generation_id, auth, modules, record }));
        }
        let now = Timestamp::from_micros(0);
        let connect = serde_json::to_value(Connect::new(&config, &identities, now)).expect("JSON");
        assert_eq!(
            connect["devices"]["gw-01"],
            "HostName=local-hub.azure-devices.net;DeviceId=gw-01;SharedAccessKey=a2V5"
        );
        assert_eq!(connect["devices"]["gw-02"], "HostName=local-hub.azure-devices.net;DeviceId=gw-02;x509=true");
        assert_eq!(
            connect["modules"]["gw-01/m"],
            "HostName=local-hub.azure-devices.net;DeviceId=gw-01;ModuleId=m;SharedAccessKey=a2V5"
        );
        assert_eq!(
            connect["device-policies"]["device"],
            "HostName=local-hub.azure-devices.net;SharedAccessKeyName=device;SharedAccessKey=a2V5"
        );
        assert_eq!(
            connect["policies"]["service"],
            connect["device-policies"]["device"].as_str().expect("text").replace("=device;", "=service;")
        );
        assert!(connect["services"]["device"].is_null());
        assert_eq!(
            connect["services"]["service"],
            "Endpoint=sb://127.0.0.1:5672;SharedAccessKeyName=service;SharedAccessKey=a2V5;EntityPath=local-hub"
        );
        assert_eq!((&connect["mqtt"]["host"], &connect["mqtt"]["port"]), (&"127.0.0.1".into(), &8883.into()));
        assert_eq!(connect["amqp"]["url"], "amqp://127.0.0.1:5672");
        assert_eq!(connect["consumer-groups"], serde_json::json!(["$Default"]));
        let snippets = connect["snippets"].as_array().expect("a list");
        assert_eq!(snippets.len(), 6, "of the default, one port for each SDK, and what needs none");
        let by_hand = snippets[5]["code"].as_str().expect("text");
        assert!(by_hand.contains("-i 'gw-01'") && by_hand.contains("&se=86400'"), "{by_hand}");
    }
}
