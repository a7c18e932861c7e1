use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use shared::config::Secret;

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
    let policies: Vec<_> = second.policies.iter().map(|policy| policy.name.as_str()).collect();
    assert_eq!(policies, ["service", "device", "iothubowner", "registryRead", "registryReadWrite"]);
}

#[test]
fn a_generation_left_out_by_hand_is_the_same_at_every_reading_and_after_a_start() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("devices.toml");
    let registry = Registry::prepare(path.clone(), &["a".to_owned()]).expect("made");
    let text = fs::read_to_string(&path).expect("read");
    let of = |registry: &Registry, id: &str| registry.now().device(id).expect("there").generation_id.clone();
    let a = of(&registry, "a");
    let mut seen = vec![];
    for more in ["\n", "\n# again\n"] {
        fs::write(&path, format!("{text}[[devices]]\nid = \"b\"\n[[devices]]\nid = \"c\"\n{more}")).expect("written");
        seen.push((of(&registry, "b"), of(&registry, "c")));
    }
    let again = Registry::prepare(path, &[]).expect("read");
    seen.push((of(&again, "b"), of(&again, "c")));
    assert!(seen.iter().all(|both| *both == seen[0]) && seen[0].0 != seen[0].1, "{seen:?}");
    assert_eq!(of(&again, "a"), a);
}

#[test]
fn a_registry_from_before_there_was_an_api_gets_the_policies_for_it_and_one_of_its_own_making_does_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("devices.toml");
    let policy = |name: &str, right: &str| {
        let key = "primary-key = \"a2V5\"\nsecondary-key = \"a2V5\"";
        format!("[[policies]]\nname = \"{name}\"\nrights = [\"{right}\"]\n{key}\n")
    };
    let of_old = policy("service", "ServiceConnect") + &policy("device", "DeviceConnect");
    fs::write(&path, &of_old).expect("written");
    let known = Registry::prepare(path.clone(), &[]).expect("read").now();
    assert_eq!(known.policies.len(), 5);
    assert_eq!(known.policies[0].primary_key.reveal(), "a2V5");
    assert!(known.policy(OWNER_POLICY).expect("there").may(Right::RegistryWrite));
    fs::write(&path, policy("service", "ServiceConnect")).expect("written");
    assert_eq!(Registry::prepare(path, &[]).expect("read").now().policies.len(), 1);
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

fn edit(device: &str, module: Option<&str>, change: Change) -> Edit {
    Edit { device: device.to_owned(), module: module.map(str::to_owned), change }
}

/// What became of each.
fn edited(registry: &Registry, edits: Vec<Edit>) -> Vec<Result<Edited, EditFault>> {
    registry.edit(edits, Timestamp::from_millis(1_000)).expect("written")
}

fn one(registry: &Registry, device: &str, module: Option<&str>, change: Change) -> Result<Edited, EditFault> {
    edited(registry, vec![edit(device, module, change)]).remove(0)
}

fn a_device(edited: Result<Edited, EditFault>) -> Device {
    match edited {
        Ok(Edited::Device(device)) => device,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_service_makes_changes_and_takes_away_and_the_file_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("devices.toml");
    let registry = Registry::prepare(path.clone(), &["by-hand".to_owned()]).expect("made");
    let draft =
        || Draft { status_reason: Some("a \"new\" one\\\n\u{7f}é".to_owned()), iot_edge: true, ..Draft::default() };
    let made = a_device(one(&registry, "d", None, Change::Create(draft())));
    assert!(
        made.enabled && made.record.scope.as_deref().is_some_and(|scope| scope.starts_with("ms-azure-iot-edge://d-"))
    );
    assert_eq!(one(&registry, "d", None, Change::Create(draft())).err(), Some(EditFault::DeviceExists("d".to_owned())));

    let off = Draft { enabled: Some(false), ..Draft::default() };
    let stale = IfMatch::Etag("stale".to_owned());
    let refused = one(&registry, "d", None, Change::Update(off.clone(), stale.clone()));
    assert_eq!(refused.err(), Some(EditFault::Etag(made.etag())));
    let good = IfMatch::Etag(made.etag());
    let changed = a_device(one(&registry, "d", None, Change::Update(off.clone(), good.clone())));
    assert_eq!(changed.auth.primary_key(), made.auth.primary_key(), "keys stay unless others are given");
    assert_eq!((changed.enabled, changed.record.status_updated), (false, Some(Timestamp::from_millis(1_000))));
    assert_eq!(changed.generation_id, made.generation_id);
    let refused = one(&registry, "d", None, Change::Update(off, good));
    assert_eq!(refused.err(), Some(EditFault::Etag(changed.etag())), "the same again is another state");

    for at in 0..file::MODULES_MAX {
        let made = one(&registry, "d", Some(&format!("m{at}")), Change::Create(Draft::default()));
        assert!(matches!(made, Ok(Edited::Module(_))), "{made:?}");
    }
    let full = one(&registry, "d", Some("one-more"), Change::Create(Draft::default()));
    assert_eq!(full.err(), Some(EditFault::TooManyModules("d".to_owned())));
    let twice = one(&registry, "d", Some("m0"), Change::Create(Draft::default()));
    assert!(matches!(twice, Err(EditFault::ModuleExists(..))));
    assert!(matches!(one(&registry, "d", Some("m0"), Change::Delete(stale)), Err(EditFault::Etag(_))));
    assert!(matches!(one(&registry, "d", Some("m0"), Change::Delete(IfMatch::Any)), Ok(Edited::Gone)));
    assert!(matches!(one(&registry, "d", Some("m0"), Change::Delete(IfMatch::Any)), Err(EditFault::NoModule(..))));

    // Somebody else reads the same, a hub that is started later too.
    let again = Registry::open(path.clone()).expect("read").now();
    assert_eq!(again.device("d").expect("there").etag(), changed.etag());
    assert_eq!(again.device("d").expect("there").modules.len(), file::MODULES_MAX - 1);
    assert!(again.device("by-hand").is_some());

    assert!(matches!(one(&registry, "d", None, Change::Delete(IfMatch::Any)), Ok(Edited::Gone)));
    let gone = Change::Update(Draft::default(), IfMatch::Any);
    assert_eq!(one(&registry, "d", None, gone).err(), Some(EditFault::NoDevice("d".to_owned())));
    assert!(registry.now().device("by-hand").is_some() && registry.now().device("d").is_none());
    assert!(Registry::open(path).expect("read").now().device("d").is_none());
}

#[test]
fn what_is_wrong_in_a_batch_does_not_keep_the_rest_from_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("devices.toml");
    let registry = Registry::prepare(path.clone(), &["d".to_owned(), "e".to_owned(), "f".to_owned()]).expect("made");
    let key = |bytes: usize| Some(Secret::new(STANDARD.encode(vec![7; bytes])));
    let keys = |bytes| {
        let auth = AuthDraft::Sas { primary_key: key(bytes), secondary_key: None };
        Change::Create(Draft { auth: Some(auth), ..Draft::default() })
    };
    let nothing = Change::Create(Draft { auth: Some(AuthDraft::Thumbprint(vec![])), ..Draft::default() });
    let long = Change::Create(Draft { status_reason: Some("é".repeat(129)), ..Draft::default() });
    let done = edited(
        &registry,
        vec![
            edit("new", None, keys(32)),
            edit("a/b", None, keys(32)),
            edit("short-key", None, keys(15)),
            edit("long-key", None, keys(65)),
            edit("no-thumbprint", None, nothing),
            edit("long", None, long),
            edit("d", None, Change::Delete(IfMatch::Any)),
            edit("d", Some("m"), Change::Create(Draft::default())),
            edit("f", None, Change::Delete(IfMatch::Any)),
            edit("f", None, keys(16)),
            edit("nowhere", Some("m"), Change::Create(Draft::default())),
        ],
    );
    let said: Vec<_> = done.iter().map(Result::is_ok).collect();
    assert_eq!(said, [true, false, false, false, false, false, true, false, true, true, false]);
    let ids = |known: &Identities| known.devices().iter().map(|device| device.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&registry.now()), ["e", "new", "f"]);
    assert_eq!(ids(&Registry::open(path).expect("read").now()), ["e", "new", "f"]);
}

#[test]
fn a_slip_of_somebodys_hand_is_not_written_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("devices.toml");
    let registry = Registry::prepare(path.clone(), &["d".to_owned()]).expect("made");
    let good = fs::read_to_string(&path).expect("read");
    let slip = good.replace("enabled = true", "enabled = treu");
    fs::write(&path, &slip).expect("written");
    assert!(registry.now().device("d").is_some(), "the old one holds");
    for _ in 0..2 {
        let change = edit("e", None, Change::Create(Draft::default()));
        registry.edit(vec![change], Timestamp::from_millis(0)).expect_err("refused");
    }
    assert_eq!(fs::read_to_string(&path).expect("read"), slip);
    fs::write(&path, good.replace("id = \"d\"", "id = \"x\"")).expect("written");
    one(&registry, "e", None, Change::Create(Draft::default())).expect("made");
    let now = registry.now();
    assert!(now.device("x").is_some() && now.device("e").is_some() && now.device("d").is_none());
}

#[test]
fn of_services_and_people_who_change_it_at_once_none_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("devices.toml");
    let registry = Registry::prepare(path.clone(), &[]).expect("made");
    std::thread::scope(|all| {
        for at in 0..4 {
            let (path, registry) = (&path, &registry);
            all.spawn(move || register(path, &format!("p{at}"), None, Means::Sas, None).expect("registered"));
            all.spawn(move || one(registry, &format!("s{at}"), None, Change::Create(Draft::default())).expect("made"));
        }
    });
    assert_eq!(registry.now().devices.len(), 8);
}

#[test]
#[ignore = "a measurement: ten thousand devices, one by one and by the hundred"]
fn ten_thousand_devices_are_made_in_reasonable_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("devices.toml");
    let registry = Registry::prepare(path.clone(), &[]).expect("made");
    let took = |name: &str, since: std::time::Instant| eprintln!("{name}: {:?}", since.elapsed());
    let begun = std::time::Instant::now();
    for hundred in 0..100 {
        let made =
            (0..100).map(|at| edit(&format!("d-{}", 100 * hundred + at), None, Change::Create(Draft::default())));
        assert!(edited(&registry, made.collect()).iter().all(Result::is_ok));
    }
    took("10,000 by the hundred", begun);
    let begun = std::time::Instant::now();
    for at in 0..100 {
        one(&registry, &format!("e-{at}"), None, Change::Create(Draft::default())).expect("made");
    }
    took("100 more, one by one", begun);
    let begun = std::time::Instant::now();
    let known = Registry::open(path.clone()).expect("read").now();
    took("read again", begun);
    assert_eq!(known.devices.len(), 10_100);
    eprintln!("{} bytes", fs::metadata(&path).expect("there").len());
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
    /// Whatever texts a service writes down, they are read again.
    #[test]
    fn what_is_written_is_read_again(reason in "\\PC{0,30}", control in "[\u{0}-\u{1f}\u{7f}\"\\\\]{0,8}", edge in any::<bool>()) {
        let mut known = Identities::default();
        let draft = Draft {
            status_reason: Some(format!("{reason}{control}")),
            iot_edge: edge,
            enabled: Some(edge),
            ..Draft::default()
        };
        let thumbprints = vec![Thumbprint::sha256(b"a"), Thumbprint::sha256(b"b")];
        let x509 = Draft { auth: Some(AuthDraft::Thumbprint(thumbprints)), ..Draft::default() };
        let ca = Draft { auth: Some(AuthDraft::Ca), managed_by: Some("it's \"me\"".to_owned()), ..Draft::default() };
        let edits = vec![
            edit("d", None, Change::Create(draft)),
            edit("d", Some("m"), Change::Create(ca)),
            edit("x", None, Change::Create(x509)),
        ];
        let done = edit::apply(&mut known, edits, Timestamp::from_millis(5));
        prop_assert!(done.iter().all(Result::is_ok));
        let again = File::understand(&text::of(&known)).and_then(File::parse).expect("read again");
        for (before, after) in known.devices().iter().zip(again.devices()) {
            prop_assert_eq!(before.etag(), after.etag());
            prop_assert_eq!(&before.record, &after.record);
            prop_assert_eq!(before.modules.len(), after.modules.len());
        }
        let module = |known: &Identities| known.device("d").and_then(|device| device.module("m")).map(Module::etag);
        prop_assert_eq!(module(&known), module(&again));
    }

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
