use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::CertificateDer;
use shared::config::Secret;
use shared::sas::{self, Key};
use time::OffsetDateTime;

use super::*;
use crate::hub::ca;
use crate::hub::devices::{Device, Module, Policy, Record, Right, Thumbprint};

const KEY: &str = "c2VjcmV0IGtleSBvZiBhIGRldmljZQ==";
const MODULE_KEY: &str = "a2V5IG9mIGEgbW9kdWxl";
const POLICY_KEY: &str = "a2V5IG9mIGEgcG9saWN5";
const NOW_S: i64 = 1_795_000_000;
const SKEW: Duration = Duration::from_secs(300);
const HUB: &str = "hub.azure-devices.net";

fn sas_of(key: &str) -> Auth {
    Auth::Sas { primary_key: Secret::new("b3RoZXI="), secondary_key: Secret::new(key) }
}

fn device(id: &str, enabled: bool, auth: Auth) -> Device {
    let record = Record::default();
    let (id, generation_id, module_id) = (id.to_owned(), "7".to_owned(), "m".to_owned());
    let module = Module {
        id: module_id,
        enabled: true,
        generation_id: "8".to_owned(),
        auth: sas_of(MODULE_KEY),
        record: record.clone(),
    };
    Device { id, enabled, generation_id, auth, modules: vec![module], record }
}

fn known(x509: Auth) -> Identities {
    let mut known = Identities::default();
    for device in [device("d-1", true, sas_of(KEY)), device("off", false, sas_of(KEY)), device("x", true, x509)] {
        assert!(known.add(device));
    }
    for (name, right) in [("device", Right::DeviceConnect), ("service", Right::ServiceConnect)] {
        known.policies.push(Policy {
            name: name.to_owned(),
            rights: vec![right],
            primary_key: Secret::new(POLICY_KEY),
            secondary_key: Secret::new("b3RoZXI="),
        });
    }
    known
}

fn token(resource: &str, key: &str, expiry_s: i64, policy: Option<&str>) -> String {
    sas::sign(resource, &Key::device(key).expect("base64"), expiry_s, policy)
}

fn hello(client_id: &str, user: &str, password: Option<String>) -> Hello {
    Hello {
        client_id: client_id.to_owned(),
        user: Some(user.to_owned()),
        password: password.map(Secret::new),
        clean: true,
        will: None,
    }
}

fn judge(client_id: &str, user: &str, password: Option<String>) -> Result<Guest, Denied> {
    let hosts = [HUB.to_owned(), "localhost".to_owned()];
    let rules = Rules {
        hosts: &hosts,
        known: &known(Auth::Ca),
        authorities: &Authorities::default(),
        clock_skew: SKEW,
        now: Timestamp::from_millis(NOW_S * 1_000),
    };
    admit(&hello(client_id, user, password), &vec![], &rules)
}

#[test]
fn user_names_of_all_sdks_are_read() {
    for (user, device, module) in [
        ("h/d/?api-version=2021-04-12&DeviceClientType=azure-iot-device%2F2.14.0", "d", None),
        ("h/d/?api-version=2019-10-01&DeviceClientType=a/b/c", "d", None),
        ("h/d/?api-version=2018-06-30", "d", None),
        ("h/d/api-version=2016-11-14/DeviceClientType=x", "d", None),
        ("h/d/DeviceClientType=azure-iot-device%2F1.0.14", "d", None),
        ("h/d/DeviceClientType=azure-iot-device%2F1.1.0&api-version=2016-11-14", "d", None),
        ("h/d/", "d", None),
        ("h/d", "d", None),
        ("h/d/m/?api-version=2021-04-12", "d", Some("m")),
        ("h/d/m/?api-version=2021-04-12&x=a/b", "d", Some("m")),
    ] {
        let read = user_name(user).expect(user);
        assert_eq!((read.host, read.device, read.module), ("h", device, module), "{user}");
    }
    assert_eq!(user_name("h/?a/?a/b").expect("a query").query, "?a/b");
    for user in ["", "h", "/d", "h//?api-version=1", "h/d/m/rest"] {
        assert_eq!(user_name(user), None, "{user}");
    }
}

proptest! {
    #[test]
    fn no_user_name_makes_it_panic(text in ".{0,60}", tail in "[a-z/?=&%.-]{0,40}") {
        let _ = user_name(&text);
        let _ = user_name(&tail);
        let _ = judge(&text, &format!("{HUB}/{tail}"), Some(text.clone()));
    }

    #[test]
    fn no_token_but_a_good_one_lets_a_device_in(
        resource in "(hub.azure-devices.net|localhost|x)?/?(devices)?/?(d-1|d)?/?(modules/m)?",
        key in prop::sample::select(vec![KEY, MODULE_KEY, POLICY_KEY, "d3Jvbmc="]),
        end in -1_000i64..1_000,
        policy in prop::option::of(prop::sample::select(vec!["device", "service", "none"])),
    ) {
        let text = token(&resource, key, NOW_S + end, policy);
        let let_in = judge("d-1", "localhost/d-1/", Some(text)).is_ok();
        let own = key == KEY && policy.is_none() && resource.trim_end_matches('/').ends_with("/devices/d-1");
        let hub = key == POLICY_KEY && policy == Some("device");
        if let_in {
            prop_assert!((own || hub) && -300 < end, "{resource} {key} {end} {policy:?}");
        }
    }
}

#[test]
fn a_device_comes_in_with_its_own_token_only() {
    let user = &format!("{HUB}/d-1/?api-version=2021-04-12&model-id=dtmi%3Aa%3B1");
    let resource = &format!("{HUB}/devices/d-1");
    let good = token(resource, KEY, NOW_S + 1, None);
    let guest = judge("d-1", user, Some(good.clone())).expect("admitted");
    assert_eq!((guest.device_id.as_str(), guest.generation_id.as_str()), ("d-1", "7"));
    assert_eq!(guest.model_id.as_deref(), Some("dtmi:a;1"));
    assert_eq!(guest.expires, Some(Timestamp::from_millis((NOW_S + 1) * 1_000)));
    assert!(guest.auth_method.contains(r#""scope":"device","type":"sas""#));

    for resource in ["Localhost/devices/d-1", "localhost/devices/d-1/", "localhost/devices/d-1/api-version=2016-11-14"]
    {
        let password = token(resource, KEY, NOW_S + 9, None);
        assert!(judge("d-1", "LOCALHOST/d-1/", Some(password)).is_ok(), "{resource}");
    }

    let long_ago = NOW_S - 300;
    let expired = Refusal::Expired { expiry_s: long_ago, now_s: NOW_S };
    let other = "localhost/devices/off";
    for (client_id, user, password, denied) in [
        ("d-1", "d-1", Some(good.clone()), Denied::UserName),
        ("", user, Some(good.clone()), Denied::ClientId),
        ("d-2", user, Some(good.clone()), Denied::ClientId),
        ("d-1", "other/d-1/", Some(good.clone()), Denied::Host("other".to_owned())),
        ("d-2", "localhost/d-2/", Some(good.clone()), Denied::Unknown),
        ("d-1/n", "localhost/d-1/n/", Some(good.clone()), Denied::Unknown),
        ("d-1", user, None, Denied::NoToken),
        ("d-1", user, Some("x".to_owned()), Denied::Token(Refusal::Malformed)),
        ("d-1", user, Some(token(resource, "d3Jvbmc=", NOW_S + 9, None)), Denied::Token(Refusal::Signature)),
        ("d-1", user, Some(token(resource, KEY, long_ago, None)), Denied::Token(expired)),
        ("d-1", user, Some(token(HUB, KEY, NOW_S + 9, None)), Denied::Resource(HUB.to_owned())),
        ("d-1", user, Some(token(other, KEY, NOW_S + 9, None)), Denied::Resource(other.to_owned())),
        ("off", "localhost/off/", Some(token(other, KEY, NOW_S + 9, None)), Denied::Disabled),
        ("x", "localhost/x/", Some(token("localhost/devices/x", KEY, NOW_S + 9, None)), Refusal::Signature.into()),
        ("x", "localhost/x/", None, Denied::Certificate(CertificateFault::Absent)),
    ] {
        assert_eq!(judge(client_id, user, password), Err(denied.clone()), "{denied}");
    }
    assert_eq!(Denied::Token(Refusal::Signature).code(), ConnectReturnCode::NotAuthorized);
}

#[test]
fn a_device_whose_clock_is_behind_comes_in_for_the_rest_of_the_allowance() {
    let resource = &format!("{HUB}/devices/d-1");
    for (ends_in, closes_in) in [(100, Some(100)), (0, Some(300)), (-299, Some(1)), (-300, None)] {
        let guest = judge("d-1", &format!("{HUB}/d-1/"), Some(token(resource, KEY, NOW_S + ends_in, None)));
        let expires = guest.ok().and_then(|guest| guest.expires);
        assert_eq!(expires.map(|at| at.millis() / 1_000 - NOW_S), closes_in, "{ends_in}");
    }
}

#[test]
fn a_module_comes_in_with_its_own_token_only() {
    let user = "localhost/d-1/m/?api-version=2021-04-12";
    let resource = "localhost/devices/d-1/modules/m";
    let guest = judge("d-1/m", user, Some(token(resource, MODULE_KEY, NOW_S + 9, None))).expect("admitted");
    assert_eq!((guest.client_id().as_str(), guest.module_id.as_deref()), ("d-1/m", Some("m")));
    assert_eq!(guest.generation_id, "8");
    assert!(guest.auth_method.contains(r#""scope":"module""#));

    for (client_id, resource, key) in [
        ("d-1/m", "localhost/devices/d-1", MODULE_KEY),
        ("d-1/m", resource, KEY),
        ("d-1", resource, MODULE_KEY),
        ("d-1", resource, KEY),
    ] {
        let user = format!("localhost/{client_id}/?api-version=2021-04-12");
        assert!(
            judge(client_id, &user, Some(token(resource, key, NOW_S + 9, None))).is_err(),
            "{client_id} {resource}"
        );
    }
}

#[test]
fn a_policy_that_may_connect_devices_signs_for_any_of_them() {
    let user = "localhost/d-1/";
    for (resource, key, policy, comes_in) in [
        ("localhost/devices/d-1", POLICY_KEY, "device", true),
        ("localhost/devices", POLICY_KEY, "device", true),
        ("localhost", POLICY_KEY, "device", true),
        ("localhost/devices/d-2", POLICY_KEY, "device", false),
        ("localhost/devices/d-1", KEY, "device", false),
        ("localhost/devices/d-1", POLICY_KEY, "service", false),
        ("localhost/devices/d-1", POLICY_KEY, "nobody", false),
    ] {
        let judged = judge("d-1", user, Some(token(resource, key, NOW_S + 9, Some(policy))));
        assert_eq!(judged.is_ok(), comes_in, "{resource} {policy}: {judged:?}");
        assert!(judged.is_err() || judged.is_ok_and(|guest| guest.auth_method.contains(r#""scope":"hub""#)));
    }
}

fn self_signed(name: &str, from_s: i64, to_s: i64) -> CertificateDer<'static> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let at = |s: i64| OffsetDateTime::from_unix_timestamp(s).expect("in range");
    (params.not_before, params.not_after) = (at(from_s), at(to_s));
    params.self_signed(&KeyPair::generate().expect("a key")).expect("signed").der().clone()
}

fn show(auth: Auth, authorities: &Authorities, chain: Chain) -> Result<Guest, Denied> {
    let hosts = ["localhost".to_owned()];
    let now = Timestamp::from_millis(NOW_S * 1_000);
    let rules = Rules { hosts: &hosts, known: &known(auth), authorities, clock_skew: SKEW, now };
    admit(&hello("x", "localhost/x/?api-version=2021-04-12", None), &chain, &rules)
}

#[test]
fn a_certificate_with_a_known_thumbprint_lets_in_while_it_is_valid() {
    let good = self_signed("anything", NOW_S - 10, NOW_S + 10);
    let sha1 = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, &good);
    let colons = sha1.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    let other = Thumbprint::sha256(b"other");
    for known in [Thumbprint::sha256(&good), Thumbprint::parse(&colons).expect("SHA-1")] {
        let guest = show(Auth::Thumbprint(vec![other.clone(), known]), &Authorities::default(), vec![good.clone()]);
        let guest = guest.expect("admitted");
        assert_eq!(guest.expires, None);
        assert!(guest.auth_method.contains(r#""type":"x509Certificate""#));
    }
    for (chain, fault) in [
        (vec![], CertificateFault::Absent),
        (vec![self_signed("x", NOW_S - 10, NOW_S + 10)], CertificateFault::Thumbprint),
        (vec![CertificateDer::from(vec![1, 2, 3])], CertificateFault::Thumbprint),
    ] {
        let shown = show(Auth::Thumbprint(vec![Thumbprint::sha256(&good)]), &Authorities::default(), chain);
        assert_eq!(shown, Err(Denied::Certificate(fault)));
    }
    for (from, to) in [(NOW_S - 10, NOW_S - 1), (NOW_S + 1, NOW_S + 10)] {
        let dated = self_signed("x", from, to);
        let shown = show(Auth::Thumbprint(vec![Thumbprint::sha256(&dated)]), &Authorities::default(), vec![dated]);
        assert_eq!(shown, Err(Denied::Certificate(CertificateFault::Dates)));
    }
}

#[test]
fn a_certificate_of_a_trusted_authority_lets_in_whom_it_names() {
    let dir = tempfile::tempdir().expect("a directory");
    let issue = |id: &str, by_authority, days, ago_s: i64| {
        let then = Timestamp::from_millis((NOW_S - ago_s) * 1_000);
        let issued = ca::issue_device(dir.path(), id, None, by_authority, days, then).expect("issued");
        read(&issued.certificate_file)
    };
    fn read(path: &std::path::Path) -> Chain {
        use rustls::pki_types::pem::PemObject as _;
        CertificateDer::pem_file_iter(path).expect("PEM").collect::<Result<_, _>>().expect("certificates")
    }
    let good = issue("x", true, 1, 0);
    let authorities = Authorities::read(&[ca::device_ca_file(dir.path())]).expect("an authority");
    assert!(show(Auth::Ca, &authorities, good.clone()).is_ok());
    let fault = |chain: Chain, authorities: &Authorities| match show(Auth::Ca, authorities, chain) {
        Err(Denied::Certificate(fault)) => fault.as_str(),
        other => panic!("{other:?}"),
    };
    assert_eq!(fault(vec![], &authorities), "no-certificate");
    assert_eq!(fault(good.clone(), &Authorities::default()), "certificate-authority");
    assert_eq!(fault(issue("x", false, 1, 0), &authorities), "certificate-authority");
    assert_eq!(fault(issue("y", true, 1, 0), &authorities), "certificate-name");
    assert_eq!(fault(issue("x", true, 1, 3 * 86_400), &authorities), "certificate-expired");
    assert_eq!(fault(vec![CertificateDer::from(vec![1, 2, 3])], &authorities), "certificate-unreadable");
    let missing = [dir.path().join("none.pem")];
    assert!(Authorities::read(&missing).expect_err("none").to_string().contains("none.pem"));
}
