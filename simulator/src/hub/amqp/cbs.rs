//! `$cbs`: a peer shows tokens, each for one address; links are opened only under a token that covers them.
//!
//! A token is a shared-access signature made with a policy's key. It must name the policy, cover the address it is put
//! for, belong to this hub, and not have ended. There are two kinds of it, for two realms:
//!
//! |                            | its resource          | the key signs               | opens                           |
//! |----------------------------|-----------------------|-----------------------------|---------------------------------|
//! | Event-Hubs-compatible      | `sb://host/entity[/…]` | as the text it is           | the hub's partitions            |
//! | the IoT hub's own services | `host[/…]`            | after base64 is taken off it | `/messages/devicebound` and such |

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fe2o3_amqp_types::primitives::Value;
use shared::clock::Clock;
use shared::sas::{self, Key, Token};
use shared::time::Timestamp;
use tokio::sync::watch;

use super::address::{below, covers, host, path};
use super::request::{Request, Response};
use super::{AmqpHub, Policy};

/// What a shared-access token is called.
pub(super) const SAS: &str = "servicebus.windows.net:sastoken";
/// The same, as Microsoft's documents of IoT Hub call it.
const SAS_OF_IOT_HUB: &str = "azure-devices.net:sastoken";
/// Addresses one connection may hold tokens for. Microsoft's SDKs need a few per partition.
const GRANTS_MAX: usize = 1024;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Realm {
    /// The Event-Hubs-compatible endpoint.
    Events,
    /// The IoT hub itself: commands and what became of them.
    Hub,
}

/// What a token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) realm: Realm,
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

/// Whom tokens have to do with.
#[derive(Debug, Clone, Copy)]
pub(super) struct House<'a> {
    /// The Event-Hubs-compatible name.
    pub(super) entity: &'a str,
    /// The names the hub goes by.
    pub(super) hosts: &'a [String],
    pub(super) policies: &'a [Policy],
}

/// Judges a token put for an address.
pub(super) fn judge(kind: &str, audience: &str, token: &str, house: House<'_>, now_s: i64) -> Result<Grant, Refusal> {
    if ![SAS, SAS_OF_IOT_HUB].contains(&kind) {
        let description = format!("InvalidTokenType: tokens of type '{kind}' are not supported, use '{SAS}'");
        return Err(unauthorized(description));
    }
    let parsed = Token::parse(token);
    if let Ok(token) = &parsed
        && let Some(signed) = of_hub(&token.resource, house.hosts)
    {
        believe(token, house.policies, Policy::hub_key, now_s)?;
        let wanted = below(audience, house.hosts).filter(|wanted| covers(signed, wanted));
        let wanted = wanted.ok_or_else(|| foreign(token, audience))?;
        return Ok(Grant { realm: Realm::Hub, path: wanted.to_owned(), until_s: token.expiry_s, mark: None });
    }
    let wanted = path(audience);
    // A token for the namespace as a whole names no hub.
    if !wanted.is_empty() && !covers(house.entity, wanted) {
        let entity = house.entity;
        let description = format!("The messaging entity '{audience}' could not be found. This hub is '{entity}'.");
        return Err(Refusal { status: 404, description });
    }
    let token = parsed.map_err(|_| {
        unauthorized("MalformedToken: The credentials contained in the token are malformed.".to_owned())
    })?;
    believe(&token, house.policies, |policy| Some(policy.key()), now_s)?;
    let (signed_host, wanted_host) = (host(&token.resource), host(audience));
    let same_host = signed_host.is_empty() || wanted_host.is_empty() || signed_host.eq_ignore_ascii_case(wanted_host);
    if !same_host || !covers(path(&token.resource), wanted) {
        return Err(foreign(&token, audience));
    }
    Ok(Grant { realm: Realm::Events, path: wanted.to_owned(), until_s: token.expiry_s, mark: None })
}

/// The path of a token's resource, if the token is for the IoT hub: tokens for event hubs begin with a scheme.
fn of_hub<'a>(resource: &'a str, hosts: &[String]) -> Option<&'a str> {
    if resource.contains("://") { None } else { below(resource, hosts) }
}

/// Whether one of the keys of the policy it names signed the token, and it has not ended.
fn believe(
    token: &Token,
    policies: &[Policy],
    key: impl Fn(&Policy) -> Option<Key>,
    now_s: i64,
) -> Result<(), Refusal> {
    let Some(policy) = &token.policy else {
        return Err(unauthorized("MalformedToken: the token names no policy (skn).".to_owned()));
    };
    let mut known = policies.iter().filter(|known| known.name == *policy).peekable();
    if known.peek().is_none() {
        return Err(unauthorized(format!("InvalidSignature: there is no policy '{policy}'.")));
    }
    let keys: Vec<Key> = known.filter_map(key).collect();
    match token.check(&keys, now_s) {
        Ok(()) => Ok(()),
        Err(sas::Refusal::Expired { expiry_s, now_s }) => {
            let at = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1000));
            let (ended, now) = (at(expiry_s), at(now_s));
            Err(unauthorized(format!("ExpiredToken: The token is expired. It ended {ended}, now it is {now}.")))
        }
        Err(_) => Err(unauthorized("InvalidSignature: The token has an invalid signature.".to_owned())),
    }
}

fn unauthorized(description: String) -> Refusal {
    Refusal { status: 401, description }
}

fn foreign(token: &Token, audience: &str) -> Refusal {
    unauthorized(format!("InvalidAudience: the token is for '{}', not for '{audience}'.", token.resource))
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
    let now_s = hub.now_s();
    let kind = kind.unwrap_or_default();
    let policies = hub.policies();
    let judged = judge(&kind, &audience, token, hub.house(&policies), now_s).and_then(|grant| {
        let mut hasher = DefaultHasher::new();
        token.hash(&mut hasher);
        let mark = hasher.finish();
        // A token of the very same second is the same text though it was made anew, and may be a moment on its way.
        match hub.ended().get(&mark).is_some_and(|ended_s| *ended_s + 1 < now_s) {
            true => Err(Refusal { status: 401, description: "ExpiredToken: The token was ended.".to_owned() }),
            false => Ok(Grant { mark: Some(mark), ..grant }),
        }
    });
    match judged {
        Ok(grant) => {
            // Each as its service: SDKs of the one know no other success, nor do those of the other.
            let status = if grant.realm == Realm::Hub { 200 } else { 202 };
            tokens.grant(grant, now_s);
            let description = if status == 200 { "OK" } else { "Accepted" };
            Response { status, description: description.to_owned(), body: Value::Null }
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
        let same = |held: &Grant| held.realm == grant.realm && held.path.eq_ignore_ascii_case(&grant.path);
        grants.retain(|held| now_s < held.until_s && !same(held));
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
    pub(super) fn until(&self, realm: Realm, wanted: &str, now_s: i64) -> Option<i64> {
        self.latest(now_s, |grant| grant.realm == realm && covers(&grant.path, wanted))
    }

    /// Until when there is any token of a realm: enough for `$management`, whose address names no hub.
    pub(super) fn until_any_of(&self, realm: Realm, now_s: i64) -> Option<i64> {
        self.latest(now_s, |grant| grant.realm == realm)
    }

    /// Until when there is any token at all.
    pub(super) fn until_any(&self, now_s: i64) -> Option<i64> {
        self.latest(now_s, |_| true)
    }

    /// Returns when links to `wanted` are no longer allowed.
    pub(super) async fn expired(&self, realm: Realm, wanted: &str, clock: &Clock) {
        let mut changed = self.changed.subscribe();
        while let Some(until_s) = self.until(realm, wanted, clock.now().millis().div_euclid(1000)) {
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
        let hosts = ["h.example".to_owned(), "localhost".to_owned()];
        judge(SAS, audience, token, House { entity: "myhub", hosts: &hosts, policies: &policies() }, 1000)
    }

    fn hub_token(resource: &str, key: &str, policy: &str) -> String {
        sas::sign(resource, &Key::device(key).expect("base64"), 2000, Some(policy))
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
                let wanted = Grant { realm: Realm::Events, path: path.to_owned(), until_s: 1001, mark: None };
                assert_eq!(grant, Ok(wanted), "{resource} {audience}");
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
        let house = House { entity: "myhub", hosts: &[], policies: &policies() };
        assert_eq!(judge("jwt", ENTITY, "x", house, 0).expect_err("type").status, 401);
    }

    #[test]
    fn a_token_for_the_iot_hub_is_signed_with_the_decoded_key_and_opens_that_realm_alone() {
        for (resource, audience, path) in [
            ("h.example", "h.example", ""),
            ("h.example", "https://h.example", ""),
            ("h.example", "https://localhost", ""),
            ("LOCALHOST", "amqps://localhost:5671/messages/devicebound", "messages/devicebound"),
            ("h.example/messages", "h.example/messages/devicebound", "messages/devicebound"),
        ] {
            for key in ["cHJpbWFyeQ==", "c2Vjb25kYXJ5"] {
                let grant = check(audience, &hub_token(resource, key, "service"));
                let wanted = Grant { realm: Realm::Hub, path: path.to_owned(), until_s: 2000, mark: None };
                assert_eq!(grant, Ok(wanted), "{resource} {audience}");
            }
        }
        for (audience, token, says) in [
            ("h.example", hub_token("h.example", "d3Jvbmc=", "service"), "InvalidSignature"),
            ("h.example", token("h.example", "cHJpbWFyeQ==", 2000, Some("service")), "InvalidSignature"),
            ("h.example", hub_token("h.example", "cHJpbWFyeQ==", "nobody"), "no policy 'nobody'"),
            // Its key is no base64, so nothing can have been signed with it.
            ("h.example", hub_token("h.example", "cHJpbWFyeQ==", "other"), "InvalidSignature"),
            ("h.example", hub_token("h.example/devices/d", "cHJpbWFyeQ==", "service"), "InvalidAudience"),
            (ENTITY, hub_token("elsewhere", "cHJpbWFyeQ==", "service"), "InvalidSignature"),
            ("https://elsewhere", hub_token("h.example", "cHJpbWFyeQ==", "service"), "InvalidAudience"),
        ] {
            let refusal = check(audience, &token).expect_err(says);
            assert_eq!(refusal.status, 401, "{says}");
            assert!(refusal.description.contains(says), "{says}: {}", refusal.description);
        }
        let tokens = Tokens::default();
        tokens.grant(Grant { realm: Realm::Hub, path: String::new(), until_s: 10, mark: None }, 0);
        tokens.grant(Grant { realm: Realm::Events, path: String::new(), until_s: 20, mark: None }, 0);
        assert_eq!(tokens.until(Realm::Hub, "messages/devicebound", 0), Some(10));
        assert_eq!(tokens.until(Realm::Hub, "messages/devicebound", 10), None, "the other realm's does not help");
        assert_eq!((tokens.until_any_of(Realm::Hub, 10), tokens.until_any(10)), (None, Some(20)));
    }

    #[tokio::test]
    async fn a_renewed_token_keeps_the_link_and_an_ended_one_ends_it() {
        let hands = VirtualClock::at(Timestamp::from_millis(0));
        let clock = Clock::Virtual(hands.clone());
        let tokens = Arc::new(Tokens::default());
        let grant = |until_s| Grant { realm: Realm::Events, path: "myhub".to_owned(), until_s, mark: None };
        tokens.grant(grant(10), 0);
        let watch = tokio::spawn({
            let (tokens, clock) = (Arc::clone(&tokens), clock.clone());
            async move {
                tokens.expired(Realm::Events, "myhub/$management", &clock).await;
                clock.now().millis()
            }
        });
        hands.advance(Duration::from_secs(5));
        tokens.grant(grant(20), 5);
        hands.advance(Duration::from_secs(5));
        assert_eq!(tokens.until(Realm::Events, "myhub/x", 10), Some(20));
        assert_eq!(tokens.until(Realm::Events, "other", 10), None);
        tokio::task::yield_now().await;
        assert!(!watch.is_finished());
        hands.advance(Duration::from_secs(10));
        assert_eq!(watch.await.expect("no panic"), 20_000);
        assert_eq!(tokens.until_any(20), None);
    }
}
