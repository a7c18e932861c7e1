//! [p] Connection strings -> who the devices are, where their hub is.
//!
//! Two kinds of text: what `simulator hub connection-strings --json` prints, and connection strings, one per line, as
//! Azure's portal and command line give them. Errors name a line or a key, never a secret.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde::Deserialize;
use shared::reading::DeviceId;
use shared::sas;

/// Of MQTT over TLS at an IoT Hub.
pub(super) const PORT: u16 = 8883;

/// How a device shows that it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    pub(crate) key: sas::Key,
    /// The hub's policy that `key` belongs to; none where it is the device's own key.
    pub(crate) policy: Option<String>,
}

/// One device of a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: String,
    /// The hub's name, for user name and token.
    pub(crate) hub: String,
    /// What to dial, unless the configuration says so.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) proof: Proof,
    /// The connection string as it was given; the key is in it.
    #[cfg(feature = "azure-iot-sdk")]
    pub(super) text: shared::config::Secret,
}

#[cfg(feature = "azure-iot-sdk")]
impl Identity {
    /// The key as it stands in the connection string.
    pub(super) fn key_text(&self) -> Option<String> {
        let parts = self.text.reveal().split(';');
        let key = parts.filter_map(|part| part.trim().strip_prefix("SharedAccessKey="));
        key.map(|key| key.trim().to_owned()).next()
    }
}

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identities {
    /// In the order of the file.
    pub(crate) devices: Vec<Identity>,
    /// Where each of them stands.
    places: HashMap<String, usize>,
    /// Signs for devices that are not named; its `device` is empty.
    pub(crate) policy: Option<Identity>,
    /// Who vouches for the hub.
    pub(crate) ca_file: Option<PathBuf>,
}

/// Reads a file's text. Of a hub's JSON, only devices called `<name>-…` are taken: gateways are registered there, too.
///
/// # Errors
/// What is wrong, and in which line.
pub(crate) fn read(text: &str, name: &str) -> Result<Identities, String> {
    match text.trim_start().starts_with(['{', '[']) {
        true => of_hub(text, name),
        false => of_lines(text),
    }
}

fn of_lines(text: &str) -> Result<Identities, String> {
    let mut identities = Identities::default();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim().trim_start_matches('\u{feff}');
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let identity = identity(line).map_err(|fault| format!("line {number} {fault}"))?;
        match (identity.device.is_empty(), &identities.policy) {
            (true, None) => identities.policy = Some(identity),
            (true, Some(_)) => return Err(format!("line {number} is a second policy; one signs for all")),
            (false, _) if identities.places.contains_key(&identity.device) => {
                return Err(format!("line {number} names {} once more; a device has one connection", identity.device));
            }
            (false, _) => identities.push(identity),
        }
    }
    match identities.devices.is_empty() && identities.policy.is_none() {
        true => Err("holds no connection string; write e.g. `HostName=…;DeviceId=…;SharedAccessKey=…`".to_owned()),
        false => Ok(identities),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Hub {
    devices: BTreeMap<String, String>,
    mqtt: Dial,
    ca_file: PathBuf,
}

#[derive(Deserialize)]
struct Dial {
    host: String,
    port: u16,
}

fn of_hub(text: &str, name: &str) -> Result<Identities, String> {
    // The parser's own words are kept out: they may hold what stands in the file.
    let strange = |error: serde_json::Error| {
        format!("line {} is not what `simulator hub connection-strings --json` prints of one hub", error.line())
    };
    let hub: Hub = serde_json::from_str(text).map_err(strange)?;
    let prefix = format!("{name}-");
    let ours = hub.devices.iter().filter(|(id, text)| id.starts_with(&prefix) && !text.ends_with("x509=true"));
    let devices: Result<Vec<_>, String> = ours
        .map(|(id, text)| {
            let identity = identity(text).map_err(|fault| format!("device {id} {fault}"))?;
            Ok(Identity { host: hub.mqtt.host.clone(), port: hub.mqtt.port, ..identity })
        })
        .collect();
    let mut identities = Identities { ca_file: Some(hub.ca_file), ..Identities::default() };
    devices?.into_iter().for_each(|identity| identities.push(identity));
    match identities.devices.is_empty() {
        true => Err(format!(
            "holds no device called {prefix}… with a key; register some with `simulator hub register {prefix}0001`, or \
             in `hub.devices`"
        )),
        false => Ok(identities),
    }
}

fn identity(text: &str) -> Result<Identity, String> {
    let (mut hub, mut device, mut key, mut gateway, mut policy) = (None, None, None, None, None);
    for part in text.split(';').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').ok_or("is no connection string: a part of it has no `=`")?;
        let place = match name.trim() {
            "HostName" => &mut hub,
            "DeviceId" => &mut device,
            "SharedAccessKey" => &mut key,
            "SharedAccessKeyName" => &mut policy,
            "GatewayHostName" => &mut gateway,
            "x509" => return Err("is of a device with a certificate; here devices have keys".to_owned()),
            "ModuleId" => return Err("is of a module; only devices can be imitated".to_owned()),
            "Endpoint" => return Err("is of a service; devices have a `HostName`".to_owned()),
            // A secret may stand where a name should.
            _ => return Err("has a part that no device's connection string has".to_owned()),
        };
        *place = Some(value.trim());
    }
    let need = |value: Option<&str>, name: &str| {
        value.filter(|value| !value.is_empty()).map(str::to_owned).ok_or(format!("has no {name}"))
    };
    let hub = need(hub, "HostName")?;
    let key = sas::Key::device(&need(key, "SharedAccessKey")?).ok_or("has a SharedAccessKey that is not base64")?;
    let device = match policy {
        Some(_) if device.is_none() => String::new(),
        _ => need(device, "DeviceId")?,
    };
    if let (false, Some(fault)) = (device.is_empty(), DeviceId::fault(&device)) {
        return Err(format!("has a DeviceId that cannot be: {fault}"));
    }
    if device.contains(['/', '+', '#']) {
        return Err("has a DeviceId with `/`, `+` or `#`: it is a level of the topic".to_owned());
    }
    Ok(Identity {
        host: gateway.map_or_else(|| hub.clone(), str::to_owned),
        hub,
        port: PORT,
        device,
        proof: Proof { key, policy: policy.map(str::to_owned) },
        #[cfg(feature = "azure-iot-sdk")]
        text: shared::config::Secret::new(text),
    })
}

impl Identities {
    fn push(&mut self, identity: Identity) {
        self.places.insert(identity.device.clone(), self.devices.len());
        self.devices.push(identity);
    }

    /// Names of the first `count` devices, or of all; where a policy signs for any, `name` names those that have no
    /// string of their own.
    ///
    /// # Errors
    /// There are fewer.
    pub(crate) fn names(&self, count: Option<u64>, name: impl Fn(u64) -> String) -> Result<Vec<String>, String> {
        let mut names: Vec<String> = self.devices.iter().map(|one| one.device.clone()).collect();
        let count = match (count, &self.policy) {
            (Some(count), _) => usize::try_from(count).unwrap_or(usize::MAX),
            (None, None) => names.len(),
            (None, Some(_)) => return Err("holds a policy, which signs for any device; say `--devices N`".to_owned()),
        };
        if self.policy.is_some() {
            names.extend((0..count as u64).map(name).filter(|name| !self.places.contains_key(name)));
        }
        let there = names.len();
        if there < count {
            return Err(format!("holds {there} devices, {count} are asked for; register more, or ask for fewer"));
        }
        names.truncate(count);
        Ok(names)
    }

    /// Who the device `name` is; `None` if nobody has a key for it.
    pub(crate) fn identity(&self, name: &str) -> Option<Identity> {
        let own = self.places.get(name).map(|place| self.devices[*place].clone());
        own.or_else(|| self.policy.clone().map(|policy| Identity { device: name.to_owned(), ..policy }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn device(id: &str) -> String {
        format!("HostName=h.azure-devices.net;DeviceId={id};SharedAccessKey=c2VjcmV0")
    }

    /// Who is read, as `device@host:port of hub`, a policy's name behind `by`; or the fault.
    fn check(text: &str, count: Option<u64>, expected: &[&str]) {
        let found = read(text, "device").and_then(|read| {
            let names = read.names(count, |at| format!("device-{:04}", at + 1))?;
            Ok(names.iter().filter_map(|name| read.identity(name)).collect::<Vec<_>>())
        });
        let shown: Vec<String> = match found {
            Ok(all) => all
                .iter()
                .map(|one| {
                    let by = one.proof.policy.as_ref().map(|policy| format!(" by {policy}")).unwrap_or_default();
                    format!("{}@{}:{} of {}{by}", one.device, one.host, one.port, one.hub)
                })
                .collect(),
            Err(fault) => vec![fault],
        };
        assert_eq!(shown, expected, "{text}");
        assert!(!shown.concat().contains("c2VjcmV0"), "a key is never shown");
    }

    #[test]
    fn connection_strings_are_read_one_per_line() {
        let of = |id: &str| format!("{id}@h.azure-devices.net:8883 of h.azure-devices.net");
        let two = format!("# plant\n{}\r\n\n{};GatewayHostName=localhost\n", device("b"), device("a"));
        let local = "a@localhost:8883 of h.azure-devices.net";
        check(&two, None, &[&of("b"), local]);
        check(&two, Some(1), &[&of("b")]);
        check(&two, Some(3), &["holds 2 devices, 3 are asked for; register more, or ask for fewer"]);
        check(&format!("{}\n{0}", device("a")), None, &["line 2 names a once more; a device has one connection"]);
    }

    proptest! {
        #[test]
        fn no_file_makes_it_panic_or_shows_a_key(
            lines in proptest::collection::vec("(HostName|DeviceId|SharedAccessKey|SharedAccessKeyName|GatewayHostName|x509|[a-zA-Z]{0,9})?(=|==|)[ -~é]{0,12}(;|\n|)", 0..12),
            json in "[\\[{][\\[\\]{}\":,a-z0-9é\n]{0,80}",
        ) {
            for text in [lines.concat() + ";SharedAccessKey=c2VjcmV0", json] {
                match read(&text, "device") {
                    Ok(read) => drop(read.names(Some(3), |at| at.to_string())),
                    Err(fault) => prop_assert!(!fault.contains("c2VjcmV0"), "{}", fault),
                }
            }
        }
    }

    #[test]
    fn a_policy_signs_for_any_device() {
        let policy = "HostName=h;SharedAccessKeyName=device;SharedAccessKey=c2VjcmV0";
        check(policy, Some(2), &["device-0001@h:8883 of h by device", "device-0002@h:8883 of h by device"]);
        check(policy, None, &["holds a policy, which signs for any device; say `--devices N`"]);
    }

    #[test]
    fn of_a_hub_the_devices_of_the_fleet_are_taken_and_its_gateways_left_alone() {
        let hub = serde_json::json!({
            "devices": {
                "device-0001": device("device-0001"),
                "device-0002": "HostName=h;DeviceId=device-0002;x509=true",
                "gw-01": device("gw-01"),
            },
            "mqtt": {"host": "127.0.0.1", "port": 4711, "url": "mqtts://127.0.0.1:4711"},
            "ca-file": "/hub/ca.pem",
            "snippets": [],
        });
        check(&hub.to_string(), None, &["device-0001@127.0.0.1:4711 of h.azure-devices.net"]);
        assert_eq!(read(&hub.to_string(), "device").map(|read| read.ca_file), Ok(Some("/hub/ca.pem".into())));
        let none = read(&hub.to_string(), "press").expect_err("none is called so");
        assert!(none.contains("press-0001"), "{none}");
    }

    #[test]
    fn what_is_no_connection_string_is_refused_without_showing_it() {
        for (text, fault) in [
            ("", "holds no connection string; write e.g. `HostName=…;DeviceId=…;SharedAccessKey=…`"),
            ("c2VjcmV0", "line 1 is no connection string: a part of it has no `=`"),
            ("HostName=h;DeviceId=d", "line 1 has no SharedAccessKey"),
            ("HostName=h;SharedAccessKey=c2VjcmV0", "line 1 has no DeviceId"),
            ("DeviceId=d;SharedAccessKey=c2VjcmV0", "line 1 has no HostName"),
            ("HostName=h;DeviceId=d;SharedAccessKey=!", "line 1 has a SharedAccessKey that is not base64"),
            ("HostName=h;DeviceId=d;x509=true", "line 1 is of a device with a certificate; here devices have keys"),
            (
                "HostName=h;DeviceId=a/b;SharedAccessKey=c2VjcmV0",
                "line 1 has a DeviceId with `/`, `+` or `#`: it is a level of the topic",
            ),
            ("Endpoint=sb://h;SharedAccessKey=c2VjcmV0", "line 1 is of a service; devices have a `HostName`"),
            ("c2VjcmV0=1", "line 1 has a part that no device's connection string has"),
            ("[{}]", "line 1 is not what `simulator hub connection-strings --json` prints of one hub"),
        ] {
            check(text, None, &[fault]);
        }
    }
}
