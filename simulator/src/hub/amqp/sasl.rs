//! SASL as the service offers it. All but PLAIN let anybody in: rights come from tokens put to `$cbs` afterwards. PLAIN
//! carries a policy's name and key, and opens everything that policy may.

use std::sync::Arc;

use fe2o3_amqp::acceptor::SaslAcceptor;
use fe2o3_amqp::acceptor::sasl_acceptor::SaslServerFrame;
use fe2o3_amqp_types::primitives::{Array, Symbol};
use fe2o3_amqp_types::sasl::{SaslCode, SaslInit, SaslOutcome, SaslResponse};

use super::cbs::{Grant, Tokens};
use super::{Policies, Policy};

/// The mechanisms of one connection.
#[derive(Clone)]
pub(super) struct Mechanisms {
    policies: Policies,
    tokens: Arc<Tokens>,
}

impl std::fmt::Debug for Mechanisms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mechanisms")
    }
}

impl Mechanisms {
    pub(super) fn new(policies: Policies, tokens: Arc<Tokens>) -> Self {
        Self { policies, tokens }
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
                let ok = plain(&response, &(self.policies)());
                if ok {
                    self.tokens.grant(Grant { path: String::new(), until_s: i64::MAX, mark: None }, 0);
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

/// `authorization NUL policy NUL key`.
fn plain(response: &[u8], policies: &[Policy]) -> bool {
    let mut parts = response.split(|byte| *byte == 0);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(name), Some(key), None) => {
            policies.iter().any(|policy| policy.name.as_bytes() == name && policy.has_key(key))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(super::super::tests::fuzz())]

        #[test]
        fn no_response_that_was_not_made_with_a_key_lets_anybody_in(
            response in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..40),
        ) {
            prop_assert!(!plain(&response, &[Policy::new("service", "a key")]));
        }
    }

    fn code(mechanism: &str, response: &[u8]) -> (SaslCode, bool) {
        let tokens = Arc::new(Tokens::default());
        let policies = || vec![Policy::new("service", "key"), Policy::new("service", "second")];
        let mut mechanisms = Mechanisms::new(Arc::new(policies), Arc::clone(&tokens));
        let init = SaslInit {
            mechanism: Symbol::from(mechanism),
            initial_response: Some(response.to_vec().into()),
            hostname: None,
        };
        let SaslServerFrame::Outcome(outcome) = mechanisms.on_init(init) else { panic!("no challenge is made") };
        (outcome.code, tokens.until_any(0).is_some())
    }

    #[test]
    fn only_plain_with_a_right_key_brings_rights() {
        for (mechanism, response, is) in [
            ("ANONYMOUS", &b""[..], (SaslCode::Ok, false)),
            ("MSSBCBS", b"", (SaslCode::Ok, false)),
            ("EXTERNAL", b"anything", (SaslCode::Ok, false)),
            ("PLAIN", b"\0service\0key", (SaslCode::Ok, true)),
            ("PLAIN", b"who\0service\0second", (SaslCode::Ok, true)),
            ("PLAIN", b"\0service\0wrong", (SaslCode::Auth, false)),
            ("PLAIN", b"\0other\0key", (SaslCode::Auth, false)),
            ("PLAIN", b"\0service", (SaslCode::Auth, false)),
            ("PLAIN", b"", (SaslCode::Auth, false)),
            ("SCRAM-SHA-256", b"", (SaslCode::Auth, false)),
        ] {
            assert_eq!(code(mechanism, response), is, "{mechanism} {response:?}");
        }
    }
}
