//! Who a device says it is, judged against the registry.
//!
//! The user name is `{host}/{device}[/{module}]/[?]api-version=…&…`; every api-version will do, and none: Microsoft's first
//! SDKs wrote `{host}/{device}/DeviceClientType=…`, and are still about (in Node-RED's node for IoT Hub). The hub is the one the
//! user name and the token speak of, not the one TLS was opened to: a device may dial `localhost`.
//!
//! A password is a token, signed by the identity itself or, with `skn`, by a policy of the hub that may do so for any
//! device. Without a password, it is the certificate of the handshake that counts.

use std::time::Duration;

use shared::sas::{Refusal, Token};
use shared::time::Timestamp;
use shared::topic;

use super::certificates::{Authorities, CertificateFault, check_thumbprint};
use crate::gate::{Chain, ConnectReturnCode, Hello};
use crate::hub::devices::{Auth, Identities};
use crate::hub::who::Who;

/// How the service describes a connection, by its scope and by what it proved itself with. The texts are those that
/// events of real hubs carry.
const fn auth_method(scope: Scope, by_token: bool) -> &'static str {
    match (scope, by_token) {
        (Scope::Device, true) => r#"{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#,
        (Scope::Module, true) => r#"{"scope":"module","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#,
        (Scope::Hub, _) => r#"{"scope":"hub","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}"#,
        (Scope::Device, false) => {
            r#"{"scope":"device","type":"x509Certificate","issuer":"external","acceptingIpFilterRule":null}"#
        }
        (Scope::Module, false) => {
            r#"{"scope":"module","type":"x509Certificate","issuer":"external","acceptingIpFilterRule":null}"#
        }
    }
}

/// Whose right let a connection in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Device,
    Module,
    Hub,
}

/// A device or module that may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Guest {
    pub(super) device_id: String,
    pub(super) module_id: Option<String>,
    pub(super) generation_id: String,
    pub(super) auth_method: &'static str,
    /// `model-id` of the user name.
    pub(super) model_id: Option<String>,
    /// When its token ends; certificates are looked at once.
    pub(super) expires: Option<Timestamp>,
}

impl Guest {
    pub(super) fn who(&self) -> Who {
        Who { device: self.device_id.clone(), module: self.module_id.clone() }
    }

    /// `device` or `device/module`: one connection each.
    pub(super) fn client_id(&self) -> String {
        client_id(&self.device_id, self.module_id.as_deref())
    }
}

fn client_id(device: &str, module: Option<&str>) -> String {
    module.map_or_else(|| device.to_owned(), |module| format!("{device}/{module}"))
}

/// What a connection is judged by.
pub(super) struct Rules<'a> {
    /// Every name this hub goes by.
    pub(super) hosts: &'a [String],
    pub(super) known: &'a Identities,
    pub(super) authorities: &'a Authorities,
    /// A token that ended less than this ago still lets a device in: its clock may be behind.
    pub(super) clock_skew: Duration,
    pub(super) now: Timestamp,
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
    #[error("the token is signed with the policy `{0}`, which is unknown or may not sign for devices")]
    Policy(String),
    #[error("{0}")]
    Token(#[from] Refusal),
    #[error("{0}")]
    Certificate(#[from] CertificateFault),
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
            Denied::Certificate(fault) => fault.as_str(),
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
    let is_query = |part: &str| {
        part.is_empty() || ["?", "api-version=", "DeviceClientType="].iter().any(|begin| part.starts_with(begin))
    };
    let (module, query) = match (parts.next(), parts.next()) {
        (None, _) => (None, ""),
        (Some(third), None) if is_query(third) => (None, third),
        (Some(third), fourth) if !is_query(third) => (Some(third), fourth.unwrap_or_default()),
        // A query may hold slashes: it is all that follows the second one.
        (Some(_), Some(_)) => (None, text.splitn(3, '/').nth(2)?),
        (Some(_), None) => return None,
    };
    let whole = !host.is_empty() && !device.is_empty() && is_query(query);
    whole.then_some(UserName { host, device, module, query })
}

/// An identity the registry knows.
struct Found<'a> {
    device: &'a str,
    module: Option<&'a str>,
    enabled: bool,
    generation_id: &'a str,
    auth: &'a Auth,
}

fn find<'a>(known: &'a Identities, user: &UserName<'_>) -> Option<Found<'a>> {
    let device = known.device(user.device)?;
    Some(match user.module {
        None => Found {
            device: &device.id,
            module: None,
            enabled: device.enabled,
            generation_id: &device.generation_id,
            auth: &device.auth,
        },
        Some(module) => {
            let module = device.module(module)?;
            Found {
                device: &device.id,
                module: Some(&module.id),
                enabled: device.enabled && module.enabled,
                generation_id: &module.generation_id,
                auth: &module.auth,
            }
        }
    })
}

/// Judges a CONNECT; `chain` is what the client showed in its handshake.
pub(super) fn admit(hello: &Hello, chain: &Chain, rules: &Rules<'_>) -> Result<Guest, Denied> {
    let user = user_name(hello.user.as_deref().unwrap_or_default()).ok_or(Denied::UserName)?;
    if hello.client_id != client_id(user.device, user.module) {
        return Err(Denied::ClientId);
    }
    if !rules.is_us(user.host) {
        return Err(Denied::Host(user.host.to_owned()));
    }
    let found = find(rules.known, &user).ok_or(Denied::Unknown)?;
    let password = hello.password.as_ref().map(|token| token.reveal()).filter(|token| !token.is_empty());
    let (auth_method, expires) = match (password, found.auth) {
        (Some(password), _) => {
            let (scope, expires) = rules.check_token(password, &found)?;
            (auth_method(scope, true), Some(expires))
        }
        (None, Auth::Sas { .. }) => return Err(Denied::NoToken),
        (None, Auth::Thumbprint(known)) => {
            check_thumbprint(chain, known, rules.now)?;
            (auth_method(found.scope(), false), None)
        }
        (None, Auth::Ca) => {
            rules.authorities.check(chain, &hello.client_id, rules.now)?;
            (auth_method(found.scope(), false), None)
        }
    };
    if !found.enabled {
        return Err(Denied::Disabled);
    }
    let query = topic::parse_bag(user.query).unwrap_or_default();
    let model_id = query.into_iter().find_map(|(name, value)| (name == "model-id").then_some(value));
    Ok(Guest {
        device_id: found.device.to_owned(),
        module_id: found.module.map(str::to_owned),
        generation_id: found.generation_id.to_owned(),
        auth_method,
        model_id,
        expires,
    })
}

impl Found<'_> {
    const fn scope(&self) -> Scope {
        if self.module.is_some() { Scope::Module } else { Scope::Device }
    }

    /// `devices/{device}[/modules/{module}]`, in segments.
    fn path(&self) -> Vec<&str> {
        let mut path = vec!["devices", self.device];
        path.extend(self.module.into_iter().flat_map(|module| ["modules", module]));
        path
    }
}

impl Rules<'_> {
    fn is_us(&self, host: &str) -> bool {
        self.hosts.iter().any(|name| name.eq_ignore_ascii_case(host))
    }

    /// Whose right a token is, and when the connection it opens is to end.
    fn check_token(&self, text: &str, found: &Found<'_>) -> Result<(Scope, Timestamp), Denied> {
        let token = Token::parse(text)?;
        let policy = token.policy.is_some();
        if !self.covers(&token.resource, &found.path(), policy) {
            return Err(Denied::Resource(token.resource));
        }
        let (scope, keys) = match &token.policy {
            None => (found.scope(), found.auth.keys()),
            Some(name) => {
                let keys = self.known.policy(name).map(|policy| policy.device_keys()).unwrap_or_default();
                if keys.is_empty() {
                    return Err(Denied::Policy(name.clone()));
                }
                (Scope::Hub, keys)
            }
        };
        let (now_s, skew_s) = (self.now.micros().div_euclid(1_000_000), self.clock_skew.as_secs().cast_signed());
        token.check(&keys, now_s.saturating_sub(skew_s)).map_err(|refusal| match refusal {
            Refusal::Expired { expiry_s, .. } => Refusal::Expired { expiry_s, now_s },
            other => other,
        })?;
        let expires_s = match now_s < token.expiry_s {
            true => token.expiry_s,
            // It was let in although its token had ended; it has the rest of the allowance.
            false => token.expiry_s.saturating_add(skew_s),
        };
        Ok((scope, Timestamp::from_millis(expires_s.saturating_mul(1_000))))
    }

    /// True if a token for `resource` is one for the identity at `path`. What stands behind the identity in it does
    /// not matter (tools of Microsoft's put the api-version there); a policy's may stop before it.
    fn covers(&self, resource: &str, path: &[&str], policy: bool) -> bool {
        let mut segments = resource.trim_end_matches('/').split('/');
        if !segments.next().is_some_and(|host| self.is_us(host)) {
            return false;
        }
        let mut segments = segments.filter(|segment| !segment.is_empty());
        for wanted in path {
            match segments.next() {
                None => return policy,
                Some(segment) if segment == *wanted => {}
                Some(_) => return false,
            }
        }
        // A device's token is none for its modules, nor the other way round.
        segments.next().is_none_or(|next| next != "modules")
    }
}

#[cfg(test)]
mod tests;
