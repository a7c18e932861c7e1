//! [p] Identities as the service writes and reads them.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use shared::config::Secret;
use shared::time::Timestamp;

use super::errors::Fault;
use crate::hub::devices::{Auth, AuthDraft, Device, Draft, Module, Thumbprint};

/// What the service writes where nothing happened yet.
pub(super) const NEVER: &str = "0001-01-01T00:00:00Z";

/// What the hub knows of an identity beside the registry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Presence {
    pub(super) connected: bool,
    /// When it last came or went.
    pub(super) changed: Option<Timestamp>,
    /// When it last came, or was heard.
    pub(super) active: Option<Timestamp>,
    /// Messages that wait for it.
    pub(super) messages: usize,
}

impl Presence {
    pub(super) const fn state(&self) -> &'static str {
        if self.connected { "Connected" } else { "Disconnected" }
    }
}

/// A time as the service writes it.
pub(super) fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| NEVER.to_owned(), |at| at.to_string())
}

/// `enabled` or `disabled`.
pub(super) const fn status(enabled: bool) -> &'static str {
    if enabled { "enabled" } else { "disabled" }
}

/// `sas`, `selfSigned` or `certificateAuthority`.
pub(super) const fn auth_type(auth: &Auth) -> &'static str {
    match auth {
        Auth::Sas { .. } => "sas",
        Auth::Thumbprint(_) => "selfSigned",
        Auth::Ca => "certificateAuthority",
    }
}

/// Both thumbprints, or nulls.
pub(super) fn thumbprints(auth: &Auth) -> Value {
    let known = match auth {
        Auth::Thumbprint(known) => known.as_slice(),
        Auth::Sas { .. } | Auth::Ca => &[],
    };
    let at = |at: usize| known.get(at).map(Thumbprint::to_string);
    json!({ "primaryThumbprint": at(0), "secondaryThumbprint": at(1) })
}

/// A device as `GET /devices/{id}` shows it. Holds secrets.
pub(super) fn device(device: &Device, presence: &Presence) -> Value {
    let mut shown = Map::new();
    shown.insert("deviceId".to_owned(), json!(device.id));
    identity(&mut shown, &device.generation_id, &device.etag(), &device.auth, presence);
    shown.insert("status".to_owned(), json!(status(device.enabled)));
    shown.insert("statusReason".to_owned(), json!(device.record.status_reason));
    shown.insert("statusUpdatedTime".to_owned(), json!(time(device.record.status_updated)));
    shown.insert("capabilities".to_owned(), json!({ "iotEdge": device.record.iot_edge }));
    if let Some(scope) = &device.record.scope {
        shown.insert("deviceScope".to_owned(), json!(scope));
    }
    Value::Object(shown)
}

/// A module as `GET /devices/{id}/modules/{id}` shows it. Holds secrets.
pub(super) fn module(device_id: &str, module: &Module, presence: &Presence) -> Value {
    let mut shown = Map::new();
    shown.insert("moduleId".to_owned(), json!(module.id));
    shown.insert("managedBy".to_owned(), json!(module.record.managed_by));
    shown.insert("deviceId".to_owned(), json!(device_id));
    identity(&mut shown, &module.generation_id, &module.etag(), &module.auth, presence);
    Value::Object(shown)
}

fn identity(shown: &mut Map<String, Value>, generation_id: &str, etag: &str, auth: &Auth, presence: &Presence) {
    let (primary, secondary) = match auth {
        Auth::Sas { primary_key, secondary_key } => (Some(primary_key.reveal()), Some(secondary_key.reveal())),
        Auth::Thumbprint(_) | Auth::Ca => (None, None),
    };
    let authentication = json!({
        "symmetricKey": { "primaryKey": primary, "secondaryKey": secondary },
        "x509Thumbprint": thumbprints(auth),
        "type": auth_type(auth),
    });
    for (name, value) in [
        ("generationId", json!(generation_id)),
        ("etag", json!(etag)),
        ("connectionState", json!(presence.state())),
        ("connectionStateUpdatedTime", json!(time(presence.changed))),
        ("lastActivityTime", json!(time(presence.active))),
        ("cloudToDeviceMessageCount", json!(presence.messages)),
        ("authentication", authentication),
    ] {
        shown.insert(name.to_owned(), value);
    }
}

/// An identity as a service describes it: of a device, a module, or in a bulk. What it says beside is of no account:
/// SDKs send back all they were given.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Described {
    /// In a bulk it is called `id`.
    #[serde(alias = "id")]
    pub(super) device_id: Option<String>,
    pub(super) module_id: Option<String>,
    /// In a bulk it is called `eTag`.
    #[serde(alias = "eTag")]
    pub(super) etag: Option<String>,
    pub(super) import_mode: Option<String>,
    status: Option<String>,
    status_reason: Option<String>,
    authentication: Option<Authentication>,
    capabilities: Option<Capabilities>,
    device_scope: Option<String>,
    managed_by: Option<String>,
    #[serde(rename = "twinETag")]
    pub(super) twin_etag: Option<String>,
    pub(super) tags: Option<Value>,
    pub(super) properties: Option<Properties>,
}

/// Of a twin, as services write them.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Properties {
    pub(super) desired: Option<Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authentication {
    #[serde(rename = "type")]
    kind: Option<String>,
    symmetric_key: Option<SymmetricKey>,
    x509_thumbprint: Option<X509Thumbprint>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SymmetricKey {
    primary_key: Option<String>,
    secondary_key: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct X509Thumbprint {
    primary_thumbprint: Option<String>,
    secondary_thumbprint: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Capabilities {
    iot_edge: Option<bool>,
}

impl Described {
    /// What it makes of an identity.
    pub(super) fn draft(&self) -> Result<Draft, Fault> {
        let enabled = match self.status.as_deref() {
            None => None,
            Some(status) if status.eq_ignore_ascii_case("enabled") => Some(true),
            Some(status) if status.eq_ignore_ascii_case("disabled") => Some(false),
            Some(_) => return Err(Fault::argument("status must be enabled or disabled")),
        };
        Ok(Draft {
            auth: self.authentication.as_ref().map(Authentication::draft).transpose()?,
            enabled,
            status_reason: self.status_reason.clone(),
            iot_edge: self.capabilities.as_ref().and_then(|capabilities| capabilities.iot_edge).unwrap_or_default(),
            scope: self.device_scope.clone().filter(|scope| !scope.is_empty()),
            managed_by: self.managed_by.clone(),
        })
    }
}

impl Authentication {
    fn draft(&self) -> Result<AuthDraft, Fault> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let x509 = self.x509_thumbprint.clone().unwrap_or_default();
        let thumbprints: Vec<_> =
            [given(&x509.primary_thumbprint), given(&x509.secondary_thumbprint)].into_iter().flatten().collect();
        // Without a type, as the SDK for Node guesses it.
        let guess = if thumbprints.is_empty() { "sas" } else { "selfSigned" };
        let kind = self.kind.as_deref().unwrap_or(guess);
        if kind.eq_ignore_ascii_case("sas") {
            let keys = self.symmetric_key.clone().unwrap_or_default();
            return Ok(AuthDraft::Sas {
                primary_key: given(&keys.primary_key).map(Secret::new),
                secondary_key: given(&keys.secondary_key).map(Secret::new),
            });
        }
        if kind.eq_ignore_ascii_case("selfSigned") {
            let read = thumbprints.iter().map(|text| {
                let fault = "a thumbprint must be 40 (SHA-1) or 64 (SHA-256) hexadecimal digits";
                Thumbprint::parse(text).ok_or_else(|| Fault::argument(fault))
            });
            return Ok(AuthDraft::Thumbprint(read.collect::<Result<_, _>>()?));
        }
        if kind.eq_ignore_ascii_case("certificateAuthority") {
            return Ok(AuthDraft::Ca);
        }
        Err(Fault::argument("authentication.type must be sas, selfSigned or certificateAuthority"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(text: &str) -> Result<Draft, Fault> {
        serde_json::from_str::<Described>(text).expect("a description").draft()
    }

    #[test]
    fn descriptions_of_every_sdk_are_read() {
        let node = r#"{"deviceId":"d","status":"Disabled","authentication":{"symmetricKey":{"primaryKey":"","secondaryKey":null},
            "x509Thumbprint":{"primaryThumbprint":null}},"capabilities":{},"etag":"x","connectionState":"disconnected"}"#;
        let read = draft(node).expect("read");
        assert_eq!(read.enabled, Some(false));
        assert!(matches!(read.auth, Some(AuthDraft::Sas { primary_key: None, secondary_key: None })));
        let python = r#"{"deviceId":"d","authentication":{"type":"selfSigned","x509Thumbprint":
            {"primaryThumbprint":"a9993e364706816aba3e25717850c26c9cd0d89d"}},"capabilities":{"iotEdge":true}}"#;
        let read = draft(python).expect("read");
        assert!(matches!(&read.auth, Some(AuthDraft::Thumbprint(known)) if known.len() == 1) && read.iot_edge);
        assert!(draft("{}").expect("read").auth.is_none());
        assert!(matches!(
            draft(r#"{"authentication":{"type":"certificateAuthority"}}"#).expect("read").auth,
            Some(AuthDraft::Ca)
        ));
        let bulk: Described = serde_json::from_str(r#"{"id":"d","eTag":"e","importMode":"create"}"#).expect("read");
        assert_eq!((bulk.device_id.as_deref(), bulk.etag.as_deref()), (Some("d"), Some("e")));
        for bad in [
            r#"{"status":"off"}"#,
            r#"{"authentication":{"type":"none"}}"#,
            r#"{"authentication":{"x509Thumbprint":{"primaryThumbprint":"zz"}}}"#,
        ] {
            draft(bad).expect_err(bad);
        }
    }
}
