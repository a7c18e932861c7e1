//! `$cbs`: a peer shows tokens, each for one address; links are opened only under a token that covers them.
//!
//! A token is a shared-access signature made with a policy's key, which is used as the text it is. It must name the
//! policy, cover the address it is put for, belong to this hub, and not have ended.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fe2o3_amqp_types::primitives::Value;
use shared::clock::Clock;
use shared::sas::{self, Key, Token};
use shared::time::Timestamp;
use tokio::sync::watch;

use super::address::{covers, host, path};
use super::request::{Request, Response};
use super::{AmqpHub, Policy};

const SAS: &str = "servicebus.windows.net:sastoken";
/// Addresses one connection may hold tokens for. Microsoft's SDKs need a few per partition.
const GRANTS_MAX: usize = 1024;

/// What a token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    /// Path of the address, without host.
    pub(super) path: String,
    /// When it ends, in Unix seconds.
    pub(super) until_s: i64,
    /// Tells the token from others, not what it says; a key has none.
    pub(super) mark: Option<u64>,
}

/// Why a token is not taken: the status code and what to tell the peer. Never holds the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: i32,
    pub(super) description: String,
}

/// Judges a token put for an address.
pub(super) fn judge(
    kind: &str,
    audience: &str,
    token: &str,
    entity: &str,
    policies: &[Policy],
    now_s: i64,
) -> Result<Grant, Refusal> {
    let unauthorized = |description: String| Refusal { status: 401, description };
    if kind != SAS {
        return Err(unauthorized(format!("InvalidTokenType: tokens of type '{kind}' are not supported, use '{SAS}'")));
    }
    let wanted = path(audience);
    // A token for the namespace as a whole names no hub.
    if !wanted.is_empty() && !covers(entity, wanted) {
        let description = format!("The messaging entity '{audience}' could not be found. This hub is '{entity}'.");
        return Err(Refusal { status: 404, description });
    }
    let token = Token::parse(token).map_err(|_| {
        unauthorized("MalformedToken: The credentials contained in the token are malformed.".to_owned())
    })?;
    let Some(policy) = &token.policy else {
        return Err(unauthorized("MalformedToken: the token names no policy (skn).".to_owned()));
    };
    let mut keys = policies.iter().filter(|known| known.name == *policy).map(Policy::key).peekable();
    if keys.peek().is_none() {
        return Err(unauthorized(format!("InvalidSignature: there is no policy '{policy}'.")));
    }
    let keys: Vec<Key> = keys.collect();
    match token.check(&keys, now_s) {
        Ok(()) => {}
        Err(sas::Refusal::Expired { expiry_s, now_s }) => {
            let at = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1000));
            let (ended, now) = (at(expiry_s), at(now_s));
            return Err(unauthorized(format!(
                "ExpiredToken: The token is expired. It ended {ended}, now it is {now}."
            )));
        }
        Err(_) => return Err(unauthorized("InvalidSignature: The token has an invalid signature.".to_owned())),
    }
    let (signed_host, wanted_host) = (host(&token.resource), host(audience));
    let same_host = signed_host.is_empty() || wanted_host.is_empty() || signed_host.eq_ignore_ascii_case(wanted_host);
    if !same_host || !covers(path(&token.resource), wanted) {
        let description = format!("InvalidAudience: the token is for '{}', not for '{audience}'.", token.resource);
        return Err(unauthorized(description));
    }
    Ok(Grant { path: wanted.to_owned(), until_s: token.expiry_s, mark: None })
}

/// Answers one `put-token`.
pub(super) fn answer(request: &Request, hub: &AmqpHub, tokens: &Tokens) -> Response {
    let (operation, kind) = (request.text("operation"), request.text("type"));
    let (Some(audience), Some(token)) = (request.text("name"), request.token.as_deref()) else {
        return Response::refused(400, "put-token needs the property 'name' and a token as body");
    };
    if operation.as_deref() != Some("put-token") {
        return Response::refused(501, "the only operation is put-token");
    }
    let now_s = hub.clock().now().millis().div_euclid(1000);
    let kind = kind.unwrap_or_default();
    let judged = judge(&kind, &audience, token, hub.name(), &hub.policies(), now_s).and_then(|grant| {
        let mut hasher = DefaultHasher::new();
        token.hash(&mut hasher);
        let mark = hasher.finish();
        // A token of the very same second is the same text though it was made anew.
        match hub.ended().get(&mark).is_some_and(|ended_s| *ended_s < now_s) {
            true => Err(Refusal { status: 401, description: "ExpiredToken: The token was ended.".to_owned() }),
            false => Ok(Grant { mark: Some(mark), ..grant }),
        }
    });
    match judged {
        Ok(grant) => {
            tokens.grant(grant, now_s);
            Response { status: 202, description: "Accepted".to_owned(), body: Value::Null }
        }
        Err(refusal) => {
            tracing::warn!(audience = %audience, why = %refusal.description, "refused a token");
            hub.books().tokens_refused();
            Response::refused(refusal.status, refusal.description)
        }
    }
}

/// The tokens of one connection.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    grants: Mutex<Vec<Grant>>,
    changed: watch::Sender<()>,
}

impl Tokens {
    /// Takes a token; it replaces the one for the same address.
    pub(super) fn grant(&self, grant: Grant, now_s: i64) {
        let mut grants = self.lock();
        grants.retain(|held| now_s < held.until_s && !held.path.eq_ignore_ascii_case(&grant.path));
        if GRANTS_MAX <= grants.len() {
            grants.remove(0);
        }
        grants.push(grant);
        drop(grants);
        self.changed.send_replace(());
    }

    /// Ends all tokens, and gives what they allowed.
    pub(super) fn end(&self) -> Vec<Grant> {
        let ended = std::mem::take(&mut *self.lock());
        self.changed.send_replace(());
        ended
    }

    /// Until when links to `wanted` are allowed, in Unix seconds; `None` if they are not.
    pub(super) fn until(&self, wanted: &str, now_s: i64) -> Option<i64> {
        self.latest(now_s, |grant| covers(&grant.path, wanted))
    }

    /// Until when there is any token at all: enough for `$management`, whose address names no hub.
    pub(super) fn until_any(&self, now_s: i64) -> Option<i64> {
        self.latest(now_s, |_| true)
    }

    /// Returns when links to `wanted` are no longer allowed.
    pub(super) async fn expired(&self, wanted: &str, clock: &Clock) {
        let mut changed = self.changed.subscribe();
        while let Some(until_s) = self.until(wanted, clock.now().millis().div_euclid(1000)) {
            let until = Timestamp::from_millis(until_s.saturating_mul(1000));
            tokio::select! {
                () = clock.sleep_until(Some(until)) => {}
                // The sender lives in `self`, so waiting cannot fail.
                _ = changed.changed() => {}
            }
        }
    }

    fn latest(&self, now_s: i64, fits: impl Fn(&Grant) -> bool) -> Option<i64> {
        self.lock().iter().filter(|grant| now_s < grant.until_s && fits(grant)).map(|grant| grant.until_s).max()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Grant>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use shared::clock::VirtualClock;

    use super::*;

    const ENTITY: &str = "sb://h.example/myhub";

    fn policies() -> Vec<Policy> {
        let policy = |name, key| Policy::new(name, key);
        vec![policy("service", "cHJpbWFyeQ=="), policy("service", "c2Vjb25kYXJ5"), policy("other", "another key")]
    }

    fn token(resource: &str, key: &str, until_s: i64, policy: Option<&str>) -> String {
        sas::sign(resource, &Key::service(key), until_s, policy)
    }

    fn check(audience: &str, token: &str) -> Result<Grant, Refusal> {
        judge(SAS, audience, token, "myhub", &policies(), 1000)
    }

    #[test]
    fn a_token_is_taken_for_its_address_and_what_lies_below() {
        let partition = "amqps://h.example/myhub/ConsumerGroups/$Default/Partitions/1";
        for (resource, audience, path) in [
            (ENTITY, ENTITY, "myhub"),
            (ENTITY, partition, "myhub/ConsumerGroups/$Default/Partitions/1"),
            (ENTITY, "sb://H.EXAMPLE:5671/MyHub/$management", "MyHub/$management"),
            (partition, partition, "myhub/ConsumerGroups/$Default/Partitions/1"),
            ("sb://h.example/", partition, "myhub/ConsumerGroups/$Default/Partitions/1"),
            ("sb://h.example", "sb://h.example", ""),
            ("myhub", ENTITY, "myhub"),
        ] {
            for key in ["cHJpbWFyeQ==", "c2Vjb25kYXJ5"] {
                let grant = check(audience, &token(resource, key, 1001, Some("service")));
                assert_eq!(
                    grant,
                    Ok(Grant { path: path.to_owned(), until_s: 1001, mark: None }),
                    "{resource} {audience}"
                );
            }
        }
    }

    #[test]
    fn a_token_is_refused_and_told_why() {
        let good = |resource: &str| token(resource, "cHJpbWFyeQ==", 2000, Some("service"));
        for (audience, token, status, says) in [
            (ENTITY, token(ENTITY, "wrong", 2000, Some("service")), 401, "InvalidSignature"),
            (ENTITY, token(ENTITY, "another key", 2000, Some("service")), 401, "InvalidSignature"),
            (ENTITY, token(ENTITY, "cHJpbWFyeQ==", 2000, Some("nobody")), 401, "no policy 'nobody'"),
            (ENTITY, token(ENTITY, "cHJpbWFyeQ==", 2000, None), 401, "names no policy"),
            (ENTITY, token(ENTITY, "cHJpbWFyeQ==", 1000, Some("service")), 401, "ExpiredToken"),
            (ENTITY, "SharedAccessSignature nonsense".to_owned(), 401, "MalformedToken"),
            (ENTITY, String::new(), 401, "MalformedToken"),
            ("sb://h.example/another", good("sb://h.example/another"), 404, "could not be found"),
            (ENTITY, good("sb://h.example/myhub/ConsumerGroups/g"), 401, "InvalidAudience"),
            (ENTITY, good("sb://elsewhere/myhub"), 401, "InvalidAudience"),
            ("sb://h.example/", good(ENTITY), 401, "InvalidAudience"),
        ] {
            let refusal = check(audience, &token).expect_err(says);
            assert_eq!(refusal.status, status, "{says}");
            assert!(refusal.description.contains(says), "{says}: {}", refusal.description);
            assert!(!refusal.description.contains("sig="), "{says}");
        }
        assert_eq!(judge("jwt", ENTITY, "x", "myhub", &policies(), 0).expect_err("type").status, 401);
    }

    #[tokio::test]
    async fn a_renewed_token_keeps_the_link_and_an_ended_one_ends_it() {
        let hands = VirtualClock::at(Timestamp::from_millis(0));
        let clock = Clock::Virtual(hands.clone());
        let tokens = Arc::new(Tokens::default());
        let grant = |until_s| Grant { path: "myhub".to_owned(), until_s, mark: None };
        tokens.grant(grant(10), 0);
        let watch = tokio::spawn({
            let (tokens, clock) = (Arc::clone(&tokens), clock.clone());
            async move {
                tokens.expired("myhub/$management", &clock).await;
                clock.now().millis()
            }
        });
        hands.advance(Duration::from_secs(5));
        tokens.grant(grant(20), 5);
        hands.advance(Duration::from_secs(5));
        assert_eq!(tokens.until("myhub/x", 10), Some(20));
        assert_eq!(tokens.until("other", 10), None);
        tokio::task::yield_now().await;
        assert!(!watch.is_finished());
        hands.advance(Duration::from_secs(10));
        assert_eq!(watch.await.expect("no panic"), 20_000);
        assert_eq!(tokens.until_any(20), None);
    }
}
