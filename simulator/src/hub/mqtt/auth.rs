//! Who a device says it is, judged against the registry.
//!
//! The user name is `{host}/{device}[/{module}]/[?]api-version=…&…`; every api-version will do. The hub is the one the
//! user name and the token speak of, not the one TLS was opened to: a device may dial `localhost`.

use mqtt_protocol_core::mqtt::result_code::ConnectReturnCode;
use shared::sas::{Refusal, Token};
use shared::time::Timestamp;
use shared::topic;

use super::session::Hello;
use crate::hub::devices::Identities;

/// How the service describes a connection that signed with a device's key.
const AUTH_METHOD: &str = r#"{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#;

/// A device that may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Guest {
    pub(super) device_id: String,
    pub(super) generation_id: String,
    pub(super) auth_method: &'static str,
    /// `model-id` of the user name.
    pub(super) model_id: Option<String>,
    /// When its token ends.
    pub(super) expires: Timestamp,
}

/// Why a device may not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("the user name is not `host/device/?api-version=…`")]
    UserName,
    #[error("the client id is not the device of the user name")]
    ClientId,
    #[error("the user name speaks of the hub `{0}`, not of this one")]
    Host(String),
    #[error("the device is not registered")]
    Unknown,
    #[error("the device is disabled")]
    Disabled,
    #[error("there is no token")]
    NoToken,
    #[error("the token is for `{0}`")]
    Resource(String),
    #[error("the token is signed with the policy `{0}`, not with a key of the device")]
    Policy(String),
    #[error("{0}")]
    Token(#[from] Refusal),
    #[error("the will's topic is not one of the device's own")]
    Will,
}

impl Denied {
    /// As it stands in metrics.
    pub(super) const fn as_str(&self) -> &'static str {
        match self {
            Denied::UserName => "user-name",
            Denied::ClientId => "client-id",
            Denied::Host(_) => "host",
            Denied::Unknown => "unknown-device",
            Denied::Disabled => "disabled-device",
            Denied::NoToken => "no-token",
            Denied::Resource(_) => "token-resource",
            Denied::Policy(_) => "token-policy",
            Denied::Token(Refusal::Malformed) => "token-malformed",
            Denied::Token(Refusal::Expired { .. }) => "token-expired",
            Denied::Token(Refusal::Signature) => "token-signature",
            Denied::Will => "will",
        }
    }

    /// As the device is told.
    pub(super) const fn code(&self) -> ConnectReturnCode {
        match self {
            Denied::UserName => ConnectReturnCode::BadUserNameOrPassword,
            Denied::ClientId => ConnectReturnCode::IdentifierRejected,
            _ => ConnectReturnCode::NotAuthorized,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct UserName<'a> {
    host: &'a str,
    device: &'a str,
    module: Option<&'a str>,
    query: &'a str,
}

fn user_name(text: &str) -> Option<UserName<'_>> {
    let mut parts = text.splitn(4, '/');
    let (host, device) = (parts.next()?, parts.next()?);
    let is_query = |part: &str| part.is_empty() || part.starts_with('?') || part.starts_with("api-version=");
    let (module, query) = match (parts.next(), parts.next()) {
        (None, _) => (None, ""),
        (Some(third), None) if is_query(third) => (None, third),
        (Some(third), fourth) if !is_query(third) => (Some(third), fourth.unwrap_or_default()),
        // A query may hold slashes.
        (Some(third), Some(_)) => (None, &text[text.find(third)?..]),
        (Some(_), None) => return None,
    };
    let whole = !host.is_empty() && !device.is_empty() && is_query(query);
    whole.then_some(UserName { host, device, module, query })
}

/// Judges a CONNECT. `hosts` are all names this hub goes by.
pub(super) fn admit(hello: &Hello, hosts: &[String], known: &Identities, now: Timestamp) -> Result<Guest, Denied> {
    let user = user_name(hello.user.as_deref().unwrap_or_default()).ok_or(Denied::UserName)?;
    let client_id = match user.module {
        Some(module) => format!("{}/{module}", user.device),
        None => user.device.to_owned(),
    };
    if hello.client_id != client_id {
        return Err(Denied::ClientId);
    }
    let is_us = |host: &str| hosts.iter().any(|name| name.eq_ignore_ascii_case(host));
    if !is_us(user.host) {
        return Err(Denied::Host(user.host.to_owned()));
    }
    // The registry knows devices, not their modules.
    let device = known.device(user.device).filter(|_| user.module.is_none()).ok_or(Denied::Unknown)?;
    let token = hello.password.as_ref().map(|token| token.reveal()).filter(|token| !token.is_empty());
    let token = Token::parse(token.ok_or(Denied::NoToken)?)?;
    let fits = token
        .resource
        .split_once('/')
        .is_some_and(|(host, path)| is_us(host) && path.strip_prefix("devices/").is_some_and(|id| id == device.id));
    if !fits {
        return Err(Denied::Resource(token.resource));
    }
    if let Some(policy) = token.policy {
        return Err(Denied::Policy(policy));
    }
    token.check(&device.keys(), now.micros().div_euclid(1_000_000))?;
    if !device.enabled {
        return Err(Denied::Disabled);
    }
    let query = topic::parse_bag(user.query).unwrap_or_default();
    let model_id = query.into_iter().find_map(|(name, value)| (name == "model-id").then_some(value));
    Ok(Guest {
        device_id: device.id.clone(),
        generation_id: device.generation_id.clone(),
        auth_method: AUTH_METHOD,
        model_id,
        expires: Timestamp::from_millis(token.expiry_s.saturating_mul(1_000)),
    })
}

#[cfg(test)]
mod tests {
    use shared::config::Secret;
    use shared::sas::{self, Key};

    use super::*;
    use crate::hub::devices::Device;

    const KEY: &str = "c2VjcmV0IGtleSBvZiBhIGRldmljZQ==";
    const NOW_S: i64 = 1_000;

    fn known() -> Identities {
        let device = |id: &str, enabled| Device {
            id: id.to_owned(),
            enabled,
            generation_id: "7".to_owned(),
            primary_key: Secret::new("b3RoZXI="),
            secondary_key: Secret::new(KEY),
        };
        Identities { devices: vec![device("d-1", true), device("off", false)], policies: vec![] }
    }

    fn token(resource: &str, key: &str, expiry_s: i64, policy: Option<&str>) -> String {
        sas::sign(resource, &Key::device(key).expect("base64"), expiry_s, policy)
    }

    fn judge(client_id: &str, user: &str, password: Option<String>) -> Result<Guest, Denied> {
        let hello = Hello {
            client_id: client_id.to_owned(),
            user: Some(user.to_owned()),
            password: password.map(Secret::new),
            will: None,
        };
        let hosts = ["hub.azure-devices.net".to_owned(), "localhost".to_owned()];
        admit(&hello, &hosts, &known(), Timestamp::from_millis(NOW_S * 1_000))
    }

    #[test]
    fn user_names_of_all_sdks_are_read() {
        for (user, device, module) in [
            ("h/d/?api-version=2021-04-12&DeviceClientType=azure-iot-device%2F2.14.0", "d", None),
            ("h/d/?api-version=2019-10-01&DeviceClientType=a/b/c", "d", None),
            ("h/d/?api-version=2018-06-30", "d", None),
            ("h/d/api-version=2016-11-14/DeviceClientType=x", "d", None),
            ("h/d/", "d", None),
            ("h/d", "d", None),
            ("h/d/m/?api-version=2021-04-12", "d", Some("m")),
            ("h/d/m/?api-version=2021-04-12&x=a/b", "d", Some("m")),
        ] {
            let read = user_name(user).expect(user);
            assert_eq!((read.host, read.device, read.module), ("h", device, module), "{user}");
        }
        for user in ["", "h", "/d", "h//?api-version=1", "h/d/m/rest"] {
            assert_eq!(user_name(user), None, "{user}");
        }
    }

    #[test]
    fn a_device_comes_in_with_its_own_token_only() {
        let user = "hub.azure-devices.net/d-1/?api-version=2021-04-12&model-id=dtmi%3Aa%3B1";
        let resource = "hub.azure-devices.net/devices/d-1";
        let good = token(resource, KEY, NOW_S + 1, None);
        let guest = judge("d-1", user, Some(good.clone())).expect("admitted");
        assert_eq!((guest.device_id.as_str(), guest.generation_id.as_str()), ("d-1", "7"));
        assert_eq!(guest.model_id.as_deref(), Some("dtmi:a;1"));
        assert_eq!(guest.expires, Timestamp::from_millis((NOW_S + 1) * 1_000));
        assert!(judge("d-1", "LOCALHOST/d-1/", Some(token("Localhost/devices/d-1", KEY, 2_000, None))).is_ok());

        let expired = Refusal::Expired { expiry_s: NOW_S, now_s: NOW_S };
        for (client_id, user, password, denied) in [
            ("d-1", "d-1", Some(good.clone()), Denied::UserName),
            ("d-2", user, Some(good.clone()), Denied::ClientId),
            ("d-1", "other/d-1/", Some(good.clone()), Denied::Host("other".to_owned())),
            ("d-2", "localhost/d-2/", Some(good.clone()), Denied::Unknown),
            ("d-1/m", "localhost/d-1/m/", Some(good.clone()), Denied::Unknown),
            ("d-1", user, None, Denied::NoToken),
            ("d-1", user, Some("x".to_owned()), Denied::Token(Refusal::Malformed)),
            ("d-1", user, Some(token(resource, "d3Jvbmc=", 2_000, None)), Denied::Token(Refusal::Signature)),
            ("d-1", user, Some(token(resource, KEY, NOW_S, None)), Denied::Token(expired)),
            ("d-1", user, Some(token(resource, KEY, 2_000, Some("p"))), Denied::Policy("p".to_owned())),
            (
                "d-1",
                user,
                Some(token("localhost/devices/off", KEY, 2_000, None)),
                Denied::Resource("localhost/devices/off".to_owned()),
            ),
            ("off", "localhost/off/", Some(token("localhost/devices/off", KEY, 2_000, None)), Denied::Disabled),
        ] {
            assert_eq!(judge(client_id, user, password), Err(denied.clone()), "{denied}");
        }
        assert_eq!(Denied::Token(Refusal::Signature).code(), ConnectReturnCode::NotAuthorized);
    }
}
