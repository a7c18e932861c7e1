//! Shared-access tokens: `SharedAccessSignature sr={resource}&sig={signature}&se={expiry}[&skn={policy}]`.
//!
//! The signature is HMAC-SHA256 over the resource *as it stands in the token* (percent-encoded), a line feed and the
//! expiry. A device's key is base64 that is decoded first; a service policy's key is used as the text it is.
//! Source: Azure IoT Hub, "Control access with shared access signatures"; verified against Microsoft's SDKs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::Sha256;

const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const SCHEME: &str = "SharedAccessSignature ";

/// The bytes that sign and check. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Key {
    /// A device's key: base64. `None` if it is not.
    pub fn device(base64: &str) -> Option<Self> {
        STANDARD.decode(base64.trim()).ok().filter(|bytes| !bytes.is_empty()).map(Self)
    }

    /// A service policy's key: its text as it is.
    pub fn service(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }

    /// The key that a device of an enrolment group has, this being the group's: HMAC-SHA256 of its registration id.
    /// Source: Azure IoT Hub Device Provisioning Service, "Symmetric key attestation", group enrolments.
    #[must_use]
    pub fn derived(&self, registration_id: &str) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(registration_id.as_bytes());
        Self(mac.finalize().into_bytes().to_vec())
    }

    fn mac(&self, resource: &str, expiry_s: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(resource.as_bytes());
        mac.update(b"\n");
        mac.update(expiry_s.as_bytes());
        mac
    }
}

/// The resource of a device: `{hub}/devices/{device}`.
pub fn device_resource(hub: &str, device: &str) -> String {
    format!("{hub}/devices/{device}")
}

/// The resource of a registration with the provisioning service: `{id scope}/registrations/{registration id}`.
pub fn registration_resource(id_scope: &str, registration_id: &str) -> String {
    format!("{id_scope}/registrations/{registration_id}")
}

/// Signs a token for `resource` (not yet encoded) that holds until `expiry_s`, in Unix seconds.
pub fn sign(resource: &str, key: &Key, expiry_s: i64, policy: Option<&str>) -> String {
    let resource = utf8_percent_encode(resource, ENCODED).to_string();
    let expiry = expiry_s.to_string();
    let signature = STANDARD.encode(key.mac(&resource, &expiry).finalize().into_bytes());
    let signature = utf8_percent_encode(&signature, ENCODED);
    let mut token = format!("{SCHEME}sr={resource}&sig={signature}&se={expiry}");
    if let Some(policy) = policy {
        token.push_str("&skn=");
        token.extend(utf8_percent_encode(policy, ENCODED));
    }
    token
}

/// A token as read, not yet believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// The resource, decoded.
    pub resource: String,
    /// When it ends, in Unix seconds.
    pub expiry_s: i64,
    /// The policy that signed it.
    pub policy: Option<String>,
    resource_as_sent: String,
    expiry_as_sent: String,
    signature: Vec<u8>,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It cannot be read.
    #[error("not a shared-access token")]
    Malformed,
    /// It ended.
    #[error("the token expired at {expiry_s} (Unix seconds), it is {now_s}")]
    Expired {
        /// When it ended, in Unix seconds.
        expiry_s: i64,
        /// What time it is here, in Unix seconds.
        now_s: i64,
    },
    /// The key did not sign it.
    #[error("the signature does not fit the key")]
    Signature,
}

impl Token {
    /// Reads a token.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let fields = text.strip_prefix(SCHEME).ok_or(Refusal::Malformed)?;
        let (mut resource, mut signature, mut expiry, mut policy) = (None, None, None, None);
        for field in fields.trim().split('&') {
            let (name, value) = field.split_once('=').ok_or(Refusal::Malformed)?;
            match name {
                "sr" => resource = Some(value),
                "sig" => signature = Some(decoded(value)?),
                "se" => expiry = Some(value),
                "skn" => policy = Some(decoded(value)?).filter(|p| !p.is_empty()),
                _ => {}
            }
        }
        let (resource, expiry) = (resource.ok_or(Refusal::Malformed)?, expiry.ok_or(Refusal::Malformed)?);
        Ok(Self {
            resource: decoded(resource)?,
            expiry_s: expiry.parse().map_err(|_| Refusal::Malformed)?,
            policy,
            resource_as_sent: resource.to_owned(),
            expiry_as_sent: expiry.to_owned(),
            signature: STANDARD.decode(signature.ok_or(Refusal::Malformed)?).map_err(|_| Refusal::Malformed)?,
        })
    }

    /// Believes the token if one of `keys` signed it and it has not ended at `now_s` (Unix seconds).
    pub fn check<'a>(&self, keys: impl IntoIterator<Item = &'a Key>, now_s: i64) -> Result<(), Refusal> {
        let signed = keys
            .into_iter()
            .any(|key| key.mac(&self.resource_as_sent, &self.expiry_as_sent).verify_slice(&self.signature).is_ok());
        if !signed {
            Err(Refusal::Signature)
        } else if self.expiry_s <= now_s {
            Err(Refusal::Expired { expiry_s: self.expiry_s, now_s })
        } else {
            Ok(())
        }
    }
}

fn decoded(text: &str) -> Result<String, Refusal> {
    percent_decode_str(text).decode_utf8().map(|text| text.into_owned()).map_err(|_| Refusal::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn device_key() -> Key {
        Key::device("c2VjcmV0IGtleSBvZiBhIGRldmljZQ==").expect("base64")
    }

    #[test]
    fn the_key_of_a_groups_device_is_the_one_microsofts_tools_compute() {
        // The pair of Microsoft's own documents: group key, registration id, and what `az iot dps compute-device-key` gives.
        let group =
            Key::device("8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==");
        let made = group.expect("base64").derived("sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6");
        assert_eq!(STANDARD.encode(&made.0), "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=");
    }

    #[test]
    fn a_token_is_believed_by_the_key_that_signed_it_until_it_ends() {
        let text = sign(&device_resource("hub.azure-devices.net", "gw-01"), &device_key(), 1_000, None);
        let token = Token::parse(&text).expect("well-formed");
        assert_eq!((token.resource.as_str(), token.expiry_s), ("hub.azure-devices.net/devices/gw-01", 1_000));
        assert_eq!(token.check([&device_key()], 999), Ok(()));
        assert_eq!(token.check([&device_key()], 1_000), Err(Refusal::Expired { expiry_s: 1_000, now_s: 1_000 }));
        assert_eq!(token.check([&Key::service("other")], 0), Err(Refusal::Signature));
        assert_eq!(token.check([&Key::service("other"), &device_key()], 0), Ok(()), "the secondary key counts too");
    }

    #[test]
    fn the_signature_is_over_the_resource_as_it_was_sent() {
        let key = Key::service("policy key");
        let text = sign("sb://hub/events", &key, 10, Some("reader")).replace("%3A%2F%2F", "%3a%2f%2f");
        let token = Token::parse(&text).expect("well-formed");
        assert_eq!(token.check([&key], 0), Err(Refusal::Signature), "another spelling is another text");
        assert_eq!(token.policy.as_deref(), Some("reader"));
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for bad in [
            "",
            "SharedAccessSignature ",
            "sr=a&sig=b&se=1",
            "SharedAccessSignature sr=a&sig=YQ==",
            "SharedAccessSignature sr=a&sig=YQ==&se=x",
            "SharedAccessSignature sr=%FF&sig=YQ==&se=1",
        ] {
            assert_eq!(Token::parse(bad), Err(Refusal::Malformed), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(any in ".{0,80}", like in "(sr|sig|se|skn|x|&|=|%[0-9A-Fa-f]{0,2}|[a-z0-9]){0,30}") {
            let _ = Token::parse(&any);
            if let Ok(token) = Token::parse(&format!("{SCHEME}{like}")) {
                let _ = token.check([&device_key()], 0);
            }
        }

        #[test]
        fn what_was_signed_is_read_again_and_believed(
            resource in ".{0,30}",
            expiry in 1i64..i64::MAX,
            policy in proptest::option::of(".{1,10}"),
        ) {
            let token = Token::parse(&sign(&resource, &device_key(), expiry, policy.as_deref())).expect("well-formed");
            prop_assert_eq!((&token.resource, &token.policy, token.expiry_s), (&resource, &policy, expiry));
            prop_assert_eq!(token.check([&device_key()], expiry - 1), Ok(()));
            prop_assert_eq!(token.check([&Key::service("other")], 0), Err(Refusal::Signature));
        }

        /// Whatever is changed in a token, it is refused, or says what it said before.
        #[test]
        fn a_token_that_was_tampered_with_is_not_believed(at in 0usize..200, to in proptest::char::range(' ', '~')) {
            let good = sign("hub/devices/d", &device_key(), 1_000, None);
            let mut text: Vec<char> = good.chars().collect();
            let at = at % text.len();
            text[at] = to;
            let text: String = text.into_iter().collect();
            if let Ok(token) = Token::parse(&text)
                && token.check([&device_key()], 0).is_ok()
            {
                prop_assert_eq!((token.resource.as_str(), token.expiry_s), ("hub/devices/d", 1_000));
            }
        }
    }
}
