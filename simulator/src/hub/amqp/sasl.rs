//! SASL as the service offers it. All but PLAIN let anybody in: rights come from tokens put to `$cbs` afterwards. PLAIN
//! carries a policy's name and key, as for an event hub, or `policy@sas.root.hub` and a token, as for an IoT hub; it opens
//! everything of the one or of the other that the policy may.

use std::sync::Arc;

use fe2o3_amqp::acceptor::SaslAcceptor;
use fe2o3_amqp::acceptor::sasl_acceptor::SaslServerFrame;
use fe2o3_amqp_types::primitives::{Array, Symbol};
use fe2o3_amqp_types::sasl::{SaslCode, SaslInit, SaslOutcome, SaslResponse};

use super::cbs::{self, Grant, House, Realm, Tokens};
use super::{AmqpHub, Policy};

/// Between the policy's name and the hub's.
const ROOT: &str = "@sas.root.";

/// The mechanisms of one connection.
#[derive(Clone)]
pub(super) struct Mechanisms {
    hub: AmqpHub,
    tokens: Arc<Tokens>,
}

impl std::fmt::Debug for Mechanisms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mechanisms")
    }
}

impl Mechanisms {
    pub(super) fn new(hub: AmqpHub, tokens: Arc<Tokens>) -> Self {
        Self { hub, tokens }
    }
}

impl SaslAcceptor for Mechanisms {
    fn mechanisms(&self) -> Array<Symbol> {
        Array::from(["MSSBCBS", "ANONYMOUS", "PLAIN", "EXTERNAL"].map(Symbol::from).to_vec())
    }

    fn on_init(&mut self, init: SaslInit) -> SaslServerFrame {
        let response = init.initial_response.map(|response| response.into_vec()).unwrap_or_default();
        let ok = match init.mechanism.as_str() {
            "MSSBCBS" | "ANONYMOUS" | "EXTERNAL" => true,
            "PLAIN" => {
                let (policies, now_s) = (self.hub.policies(), self.hub.now_s());
                let grant = plain(&response, self.hub.house(&policies), now_s);
                let ok = grant.is_some();
                if let Some(grant) = grant {
                    self.tokens.grant(grant, now_s);
                }
                ok
            }
            _ => false,
        };
        outcome(if ok { SaslCode::Ok } else { SaslCode::Auth })
    }

    fn on_response(&mut self, _: SaslResponse) -> SaslServerFrame {
        // No mechanism here challenges, so there is nothing to respond to.
        outcome(SaslCode::Sys)
    }
}

fn outcome(code: SaslCode) -> SaslServerFrame {
    SaslServerFrame::Outcome(SaslOutcome { code, additional_data: None })
}

/// `authorization NUL name NUL secret`.
fn plain(response: &[u8], house: House<'_>, now_s: i64) -> Option<Grant> {
    let mut parts = response.split(|byte| *byte == 0);
    let (Some(_), Some(name), Some(secret), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    if let Some((policy, _)) = std::str::from_utf8(name).ok().and_then(|name| name.split_once(ROOT)) {
        let token = std::str::from_utf8(secret).ok()?;
        let named: Vec<Policy> = house.policies.iter().filter(|known| known.name == policy).cloned().collect();
        let house = House { policies: &named, ..house };
        // Of a hub with several names the token says which it is for.
        let grants = house.hosts.iter().filter_map(|host| cbs::judge(cbs::SAS, host, token, house, now_s).ok());
        return grants.into_iter().find(|grant| grant.realm == Realm::Hub);
    }
    let known = |policy: &Policy| policy.name.as_bytes() == name && policy.has_key(secret);
    let grant = Grant { realm: Realm::Events, path: String::new(), until_s: i64::MAX, mark: None };
    house.policies.iter().any(known).then_some(grant)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::sas::{self, Key};

    use super::*;

    proptest! {
        #![proptest_config(super::super::tests::fuzz())]

        #[test]
        fn no_response_that_was_not_made_with_a_key_lets_anybody_in(
            response in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..40),
        ) {
            let (hosts, policies) = (["h".to_owned()], [Policy::new("service", "a key")]);
            let house = House { entity: "myhub", hosts: &hosts, policies: &policies };
            prop_assert!(plain(&response, house, 0).is_none());
        }
    }

    #[test]
    fn only_a_right_key_or_token_brings_rights_and_only_of_its_realm() {
        let hosts = ["h.example".to_owned(), "localhost".to_owned()];
        let policies = [Policy::new("service", "a2V5"), Policy::new("service", "c2Vjb25k")];
        let house = House { entity: "myhub", hosts: &hosts, policies: &policies };
        let token = |host: &str, key: &str, policy: &str, until_s| {
            sas::sign(host, &Key::device(key).expect("base64"), until_s, Some(policy))
        };
        let root = |token: String| format!("\0service@sas.root.myhub\0{token}").into_bytes();
        for (what, response, is) in [
            ("the key", b"\0service\0a2V5".to_vec(), Some(Realm::Events)),
            ("the second key", b"who\0service\0c2Vjb25k".to_vec(), Some(Realm::Events)),
            ("a wrong key", b"\0service\0wrong".to_vec(), None),
            ("a wrong name", b"\0other\0a2V5".to_vec(), None),
            ("no key", b"\0service".to_vec(), None),
            ("nothing", vec![], None),
            ("a token", root(token("h.example", "a2V5", "service", 100)), Some(Realm::Hub)),
            (
                "a token for another name of the hub",
                root(token("localhost", "c2Vjb25k", "service", 100)),
                Some(Realm::Hub),
            ),
            ("a token by a wrong key", root(token("h.example", "d3Jvbmc=", "service", 100)), None),
            ("a token by another policy", root(token("h.example", "a2V5", "other", 100)), None),
            ("a token that has ended", root(token("h.example", "a2V5", "service", 10)), None),
            ("a token of elsewhere", root(token("elsewhere", "a2V5", "service", 100)), None),
            ("the key where a token is wanted", b"\0service@sas.root.myhub\0a2V5".to_vec(), None),
        ] {
            let grant = plain(&response, house, 50);
            assert_eq!(grant.map(|grant| grant.realm), is, "{what}");
        }
    }
}
