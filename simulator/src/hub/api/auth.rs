//! [p] Who may call: whoever shows a token that a policy of the hub signed, which covers what is asked for, has not
//! ended, and whose policy has the right. A device's own token opens nothing here.

use shared::sas::{Refusal, Token};

use crate::hub::devices::{Identities, Right};

/// What a request is judged by.
pub(super) struct Rules<'a> {
    /// Every name this hub goes by.
    pub(super) hosts: &'a [String],
    pub(super) known: &'a Identities,
    pub(super) now_s: i64,
}

/// Why a request is refused. Never holds a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Denied {
    #[error("there is no Authorization header")]
    Absent,
    #[error("only shared access signatures are taken")]
    Kind,
    #[error("the token names no policy (skn), a device's token is none for the service")]
    NoPolicy,
    #[error("there is no policy '{0}'")]
    Policy(String),
    #[error("the token is for '{0}'")]
    Resource(String),
    #[error("the policy '{policy}' lacks the right {right:?}")]
    Right { policy: String, right: Right },
    #[error("{0}")]
    Token(#[from] Refusal),
}

/// The policy a request comes under.
pub(super) fn admit(
    authorization: Option<&str>,
    path: &[String],
    rights: &[Right],
    rules: &Rules<'_>,
) -> Result<String, Denied> {
    let text = authorization.ok_or(Denied::Absent)?.trim();
    if !text.starts_with("SharedAccessSignature ") {
        return Err(Denied::Kind);
    }
    let token = Token::parse(text)?;
    let name = token.policy.clone().ok_or(Denied::NoPolicy)?;
    let policy = rules.known.policy(&name).ok_or_else(|| Denied::Policy(name.clone()))?;
    token.check(&policy.keys(), rules.now_s)?;
    if !covers(&token.resource, path, rules.hosts) {
        return Err(Denied::Resource(token.resource));
    }
    match rights.iter().any(|right| policy.may(*right)) {
        true => Ok(name),
        false => Err(Denied::Right { policy: name, right: rights.first().copied().unwrap_or(Right::ServiceConnect) }),
    }
}

/// True if a token for `resource` is one for `path`: it names this hub, or something in it that holds the path. The
/// port that was dialled may stand behind the host.
fn covers(resource: &str, path: &[String], hosts: &[String]) -> bool {
    let mut segments = resource.trim_end_matches('/').split('/');
    let host = segments.next().unwrap_or_default();
    let is_us = |host: &str| hosts.iter().any(|name| name.eq_ignore_ascii_case(host));
    let bare = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    if !is_us(host) && !bare.is_some_and(|(host, _)| is_us(host.trim_start_matches('[').trim_end_matches(']'))) {
        return false;
    }
    let mut path = path.iter();
    segments.all(|segment| path.next().is_some_and(|wanted| wanted == segment))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::config::Secret;
    use shared::sas::{Key, sign};

    use super::*;
    use crate::hub::devices::Policy;

    const KEY: &str = "a2V5IG9mIGEgcG9saWN5";

    fn known() -> Identities {
        let mut known = Identities::default();
        for (name, rights) in [
            (
                "iothubowner",
                vec![Right::RegistryRead, Right::RegistryWrite, Right::ServiceConnect, Right::DeviceConnect],
            ),
            ("service", vec![Right::ServiceConnect]),
            ("device", vec![Right::DeviceConnect]),
        ] {
            let (primary_key, secondary_key) = (Secret::new(KEY), Secret::new("b3RoZXI="));
            known.policies.push(Policy { name: name.to_owned(), rights, primary_key, secondary_key });
        }
        known
    }

    fn judged(token: Option<&str>, path: &str, right: Right) -> Result<String, Denied> {
        let (hosts, known) = (["hub.azure-devices.net".to_owned(), "127.0.0.1".to_owned()], known());
        let path: Vec<_> = path.split('/').map(str::to_owned).collect();
        admit(token, &path, &[right], &Rules { hosts: &hosts, known: &known, now_s: 1_000 })
    }

    fn token(resource: &str, expiry_s: i64, policy: Option<&str>) -> String {
        sign(resource, &Key::device(KEY).expect("base64"), expiry_s, policy)
    }

    #[test]
    fn a_token_counts_for_what_it_names_and_what_is_below() {
        for resource in [
            "hub.azure-devices.net",
            "HUB.azure-devices.net/",
            "127.0.0.1:8443",
            "127.0.0.1/devices",
            "127.0.0.1/devices/d",
        ] {
            let token = token(resource, 2_000, Some("iothubowner"));
            assert_eq!(
                judged(Some(&token), "devices/d", Right::RegistryRead),
                Ok("iothubowner".to_owned()),
                "{resource}"
            );
        }
        for resource in ["elsewhere", "hub.azure-devices.net/twins", "127.0.0.1/devices/d/modules", "127.0.0.1:x", ""] {
            let token = token(resource, 2_000, Some("iothubowner"));
            let refused = judged(Some(&token), "devices/d", Right::RegistryRead);
            assert!(matches!(refused, Err(Denied::Resource(_))), "{resource}: {refused:?}");
        }
    }

    #[test]
    fn without_a_right_or_a_policys_signature_nobody_may() {
        let hub = "127.0.0.1";
        let service = token(hub, 2_000, Some("service"));
        assert!(judged(Some(&service), "twins/d", Right::ServiceConnect).is_ok());
        assert!(matches!(judged(Some(&service), "devices", Right::RegistryRead), Err(Denied::Right { .. })));
        let device = token(hub, 2_000, Some("device"));
        assert!(matches!(judged(Some(&device), "twins/d", Right::ServiceConnect), Err(Denied::Right { .. })));
        let other = sign(hub, &Key::service("wrong"), 2_000, Some("iothubowner"));
        let text_as_key = sign(hub, &Key::service(KEY), 2_000, Some("iothubowner"));
        for (shown, why) in [
            (None, "no Authorization"),
            (Some("Bearer abc".to_owned()), "only shared"),
            (Some("SharedAccessSignature nonsense".to_owned()), "not a shared-access token"),
            (Some(token("127.0.0.1/devices/d", 2_000, None)), "a device's token"),
            (Some(token(hub, 2_000, Some("nobody"))), "no policy"),
            (Some(token(hub, 1_000, Some("iothubowner"))), "expired"),
            (Some(other), "signature"),
            (Some(text_as_key), "signature"),
        ] {
            let denied = judged(shown.as_deref(), "devices/d", Right::RegistryRead).expect_err(why).to_string();
            assert!(denied.contains(why) && !denied.contains("sig="), "{why}: {denied}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(any in ".{0,60}", resource in ".{0,40}") {
            let _ = judged(Some(&any), "devices", Right::RegistryRead);
            let _ = judged(Some(&token(&resource, 2_000, Some("iothubowner"))), "devices", Right::RegistryRead);
        }
    }
}
