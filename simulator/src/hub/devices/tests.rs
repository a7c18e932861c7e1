use proptest::prelude::*;

use super::*;

#[test]
fn keys_are_made_once_and_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("identity/devices.toml");
    let first = Registry::prepare(path.clone(), &["gw-01".to_owned()]).expect("made").now();
    let second = Registry::prepare(path, &["gw-01".to_owned(), "gw-02".to_owned()]).expect("read").now();
    let (old, new) = (first.device("gw-01").expect("there"), second.device("gw-01").expect("there"));
    let keys = |device: &Device| match &device.auth {
        Auth::Sas { primary_key, secondary_key } => (primary_key.clone(), secondary_key.clone()),
        other => panic!("{other:?}"),
    };
    assert_eq!(keys(old), keys(new));
    assert_eq!(old.generation_id, new.generation_id);
    assert_eq!(second.devices.len(), 2);
    let service = second.policy(SERVICE_POLICY).expect("there");
    assert!(service.may(Right::ServiceConnect) && service.device_keys().is_empty());
    assert_eq!(second.policy(DEVICE_POLICY).expect("there").device_keys().len(), 2);
    assert_ne!(keys(old).0, keys(old).1);
}

#[test]
fn a_file_made_by_hand_is_completed_and_a_change_is_seen() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("devices.toml");
    fs::write(&path, "[[devices]]\nid = \"d\"\nprimary-key = \"c2VjcmV0\"\n").expect("written");
    let registry = Registry::prepare(path.clone(), &[]).expect("read");
    let device = registry.now().device("d").expect("there").clone();
    assert!(device.enabled);
    assert_eq!(device.auth.primary_key().map(Secret::reveal), Some("c2VjcmV0"));
    assert_eq!(device.auth.keys().len(), 2);

    let text = fs::read_to_string(&path).expect("read").replace("enabled = true", "enabled = false # for now");
    fs::write(&path, text).expect("written");
    assert!(!registry.now().device("d").expect("there").enabled);
    fs::write(&path, "nonsense").expect("written");
    assert!(registry.now().device("d").is_some(), "the old one holds");
}

#[test]
fn a_registry_with_nonsense_says_what_and_shows_no_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("devices.toml");
    for (text, needle) in [
        ("[[devices]]\nid = \"a/b\"\n", "the id of device `a/b`"),
        ("[[devices]]\nid = \"d\"\nprimary-key = \"?? secret\"\n", "not base64"),
        ("[[devices]]\nid = \"d\"\n[[devices]]\nid = \"d\"\n", "twice"),
        ("[[devices]]\nid = \"d\"\nprimary_key = \"secret\"\n", "unknown field"),
        ("[[devices]]\nid = \"d\"\nauth = \"x509-ca\"\nprimary-key = \"secret\"\n", "need `auth = \"sas\"`"),
        ("[[devices]]\nid = \"d\"\nauth = \"x509-thumbprint\"\n", "no thumbprint"),
        ("[[devices]]\nid = \"d\"\nprimary-thumbprint = \"00\"\n", "need `auth = \"x509-thumbprint\"`"),
        ("[[devices]]\nid = \"d\"\nauth = \"x509-thumbprint\"\nprimary-thumbprint = \"00\"\n", "hexadecimal"),
        ("[[devices]]\nid = \"d\"\n[[devices.modules]]\nid = \"m/n\"\n", "the id of module `m/n`"),
        ("[[devices]]\nid = \"d\"\nmodules = [{ id = \"m\" }, { id = \"m\" }]\n", "twice"),
        ("[[devices]]\nid = \"d\"\nmodules = [{ id = \"m\", modules = [{ id = \"n\" }] }]\n", "only devices"),
        ("[[policies]]\nname = \"p\"\nrights = [\"Everything\"]\n", "unknown variant"),
        ("[[policies]]\nname = \"p\"\nrights = []\nprimary-key = \"\"\n", "a key of the policy `p`"),
        ("[[policies]]\nname = \"p\"\nrights = []\nsecondary-key = \"?? secret\"\n", "a key of the policy `p`"),
    ] {
        fs::write(&path, text).expect("written");
        let error = Registry::prepare(path.clone(), &[]).expect_err(text).to_string();
        assert!(error.contains(needle) && !error.contains("secret"), "{error}");
    }
}

#[test]
fn what_is_registered_while_the_hub_runs_is_known_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("devices.toml");
    let registry = Registry::prepare(path.clone(), &["d".to_owned()]).expect("made");
    let thumbprint = Thumbprint::sha256(b"certificate");
    register(&path, "d", Some("m"), Means::Sas, None).expect("registered");
    register(&path, "x", None, Means::X509Thumbprint, Some(&thumbprint)).expect("registered");
    register(&path, "y", None, Means::X509Ca, None).expect("registered");
    let now = registry.now();
    let module = now.device("d").and_then(|device| device.module("m")).expect("there");
    assert_eq!(module.auth.keys().len(), 2);
    let x509 = &now.device("x").expect("there").auth;
    assert!(matches!(x509, Auth::Thumbprint(known) if known[0].fits(b"certificate") && !known[0].fits(b"other")));
    assert!(matches!(now.device("y").expect("there").auth, Auth::Ca));

    register(&path, "x", None, Means::Sas, None).expect("given keys");
    assert!(registry.now().device("x").expect("there").auth.primary_key().is_some());
    let untouched = fs::read_to_string(&path).expect("read");
    register(&path, "a/b", None, Means::Sas, None).expect_err("not an id");
    assert_eq!(fs::read_to_string(&path).expect("read"), untouched);
}

#[test]
fn what_is_provisioned_has_the_given_proof_and_keeps_its_modules() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("devices.toml");
    register(&path, "d", Some("m"), Means::Sas, None).expect("registered");
    let registry = Registry::open(path.clone()).expect("made");
    let before = registry.now().device("d").expect("there").generation_id.clone();
    let (primary_key, secondary_key) = (Secret::new("a2V5"), Secret::new("b2xk"));
    provision(&path, "d", &Auth::Sas { primary_key, secondary_key }).expect("provisioned");
    let now = registry.now();
    let device = now.device("d").expect("there");
    assert_eq!(device.auth.primary_key().map(Secret::reveal), Some("a2V5"));
    assert!(device.module("m").is_some() && device.generation_id == before);

    let known = vec![Thumbprint::sha256(b"one"), Thumbprint::sha256(b"two")];
    provision(&path, "d", &Auth::Thumbprint(known)).expect("provisioned");
    provision(&path, "e", &Auth::Ca).expect("provisioned");
    let now = registry.now();
    assert!(matches!(&now.device("d").expect("there").auth, Auth::Thumbprint(known) if known[1].fits(b"two")));
    assert!(matches!(now.device("e").expect("there").auth, Auth::Ca));
    remove(&path, "d").expect("removed");
    remove(&path, "stranger").expect("nothing to do");
    assert!(registry.now().device("d").is_none() && registry.now().device("e").is_some());
}

#[test]
fn of_those_who_register_at_once_none_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("devices.toml");
    let registry = Registry::prepare(path.clone(), &[]).expect("made");
    std::thread::scope(|all| {
        for at in 0..8 {
            let path = &path;
            all.spawn(move || register(path, &format!("d{at}"), None, Means::Sas, None).expect("registered"));
        }
    });
    assert_eq!(registry.now().devices.len(), 8);
}

#[test]
fn thumbprints_are_read_as_tools_print_them() {
    let sha1 = "a9:99:3e:36:47:06:81:6a:ba:3e:25:71:78:50:c2:6c:9c:d0:d8:9d";
    assert!(Thumbprint::parse(sha1).expect("SHA-1").fits(b"abc"));
    let sha256 = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";
    let read = Thumbprint::parse(sha256).expect("SHA-256");
    assert!(read.fits(b"abc") && read.to_string() == sha256);
    for bad in ["", "a9", &sha1[1..], "g999993e364706816aba3e25717850c26c9cd0d89d"] {
        assert_eq!(Thumbprint::parse(bad), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn no_registry_makes_it_panic(
        key in "(id|auth|enabled|primary-key|primary-thumbprint|modules|rights|name)",
        value in "(\"[ -~]{0,20}\"|[0-9]{1,3}|true|\\[\\]|\\[\"[a-z]{0,3}\"\\])",
        table in "(policies|devices|devices.modules)",
        garbage in ".{0,60}",
    ) {
        let text = format!("[[devices]]\nid = \"d\"\n[[{table}]]\nid = \"e\"\n{key} = {value}\n");
        for text in [text, garbage] {
            let _ = File::understand(&text).map(File::parse);
        }
    }
}
