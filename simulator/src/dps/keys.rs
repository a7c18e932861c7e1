//! [p] Keys that a group's devices are given: HMAC-SHA256 of the registration id by the group's key, both base64.
//!
//! Source: Azure IoT DPS, "Symmetric key attestation", group enrolments.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use shared::config::Secret;

/// The key of one device of a group; `None` if the group's is not base64 or empty.
pub(super) fn of_device(group_key: &Secret, registration_id: &str) -> Option<Secret> {
    let key = STANDARD.decode(group_key.reveal().trim()).ok().filter(|key| !key.is_empty())?;
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), registration_id.as_bytes());
    Some(Secret::new(STANDARD.encode(tag.as_ref())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of Microsoft's documentation (How to provision devices using symmetric key enrollment groups).
    #[test]
    fn the_key_is_that_of_the_documented_example() {
        let group = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw==";
        let device = of_device(&Secret::new(group), "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6").expect("a key");
        assert_eq!(device.reveal(), "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc=");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_and_each_device_has_a_key_of_its_own(key in ".{0,60}", one in ".{0,20}", other in ".{0,20}") {
            let _ = of_device(&Secret::new(key.as_str()), &one);
            let key = Secret::new(STANDARD.encode(key + "."));
            let (first, second) = (of_device(&key, &one), of_device(&key, &other));
            let same = first.expect("a key").reveal() == second.expect("a key").reveal();
            prop_assert_eq!(same, one == other);
        }
    }
}
