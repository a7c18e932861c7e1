use proptest::prelude::*;
use serde_json::json;

use super::*;

fn file(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("enrolments.toml")
}

fn keys(enrolment: &Enrolment) -> (&str, &str) {
    match &enrolment.proof {
        Proof::Keys { primary, secondary } => (primary.reveal(), secondary.reveal()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_made_by_hand_is_completed_and_a_change_is_seen() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = r#"
        [[individual]]
        id = "Press-7"
        primary-key = "c2VjcmV0"
        device-id = "press 7".
        "#;
    fs::write(file(&dir), text).expect("written");
    let error = Book::open(file(&dir)).expect_err("not TOML").to_string();
    assert!(!error.contains("c2VjcmV0"), "{error}");

    let text = r#"
        [[individual]]
        id = "Press-7"
        primary-key = "c2VjcmV0"
        device-id = "press=7"
        hubs = ["east"]
        allocation = "static"
        reprovision-policy = "never"
        payload = { a = [1, 2.5, true, 2026-11-29] }
        initial-twin.tags = { hall = "3" }
        initial-twin.desired = { interval = { seconds = 5 } }
        [[groups]]
        id = "line-1"
        "#;
    fs::write(file(&dir), text).expect("written");
    let book = Book::open(file(&dir)).expect("read");
    let first = book.now();
    let press = first.individual("press-7").expect("ids are the same however they are written");
    assert_eq!((keys(press).0, press.device_id.as_deref()), ("c2VjcmV0", Some("press=7")));
    assert_eq!((press.allocation, press.reprovision), (Allocation::Static, Reprovision::Never));
    assert_eq!(press.payload, Some(json!({ "a": [1, 2.5, true, "2026-11-29"] })));
    let twin =
        InitialTwin { tags: Some(json!({ "hall": "3" })), desired: Some(json!({ "interval": { "seconds": 5 } })) };
    assert_eq!(press.initial_twin, twin);
    let line = first.group("LINE-1").expect("there");
    assert!(line.enabled && line.is_group && keys(line).0 != keys(line).1);

    // What was made is in the file: another reader finds the same.
    let again = prepare(&file(&dir)).expect("read");
    assert_eq!(keys(again.group("line-1").expect("there")), keys(line));
    assert_eq!(again.individual("press-7").expect("there").payload, press.payload);

    enroll(&file(&dir), Wish { id: "press-8".to_owned(), enabled: Some(false), ..Wish::default() }).expect("enrolled");
    assert!(!book.now().individual("press-8").expect("seen").enabled);
    fs::write(file(&dir), "nonsense").expect("written");
    assert!(book.now().individual("press-8").is_some(), "the old ones hold");
}

#[test]
fn what_is_enrolled_again_keeps_its_keys_and_what_was_not_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let wish = |id: &str| Wish { id: id.to_owned(), ..Wish::default() };
    let hubs = vec!["west".to_owned()];
    let first = enroll(&file(&dir), Wish { hubs: hubs.clone(), ..wish("d") }).expect("enrolled");
    let again = Wish { reprovision: Some(Reprovision::Reset), ..wish("D") };
    let second = enroll(&file(&dir), again).expect("enrolled");
    let (first, second) = (first.individual("d").expect("there"), second.individual("d").expect("there"));
    assert_eq!(keys(first), keys(second));
    assert_eq!((&second.hubs, second.reprovision), (&hubs, Reprovision::Reset));

    let thumbprint = Some(Thumbprint::sha256(b"certificate"));
    let by_certificate = Wish { auth: Some(Means::X509), thumbprint, ..wish("d") };
    let third = enroll(&file(&dir), by_certificate).expect("enrolled");
    let proof = &third.individual("d").expect("there").proof;
    assert!(matches!(proof, Proof::Thumbprints(known) if known[0].fits(b"certificate")), "{proof:?}");
    let untouched = fs::read_to_string(file(&dir)).expect("read");
    enroll(&file(&dir), wish("a/b")).expect_err("not an id");
    enroll(&file(&dir), Wish { auth: Some(Means::X509), is_group: true, ..wish("g") }).expect_err("no authority");
    assert_eq!(fs::read_to_string(file(&dir)).expect("read"), untouched);
}

#[test]
fn a_file_with_nonsense_says_what_and_shows_no_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let individual = |rest: &str| format!("[[individual]]\nid = \"d\"\n{rest}");
    let group = |rest: &str| format!("[[groups]]\nid = \"g\"\n{rest}");
    for (text, needle) in [
        ("[[individual]]\nid = \"a/b\"\n".to_owned(), "the id of individual enrolment `a/b`"),
        (individual("primary-key = \"?? secret\"\n"), "not base64"),
        (individual("primary_key = \"secret\"\n"), "unknown field"),
        (individual("auth = \"x509\"\nprimary-key = \"secret\"\n"), "need `auth = \"symmetric-key\"`"),
        (individual("auth = \"x509\"\n"), "no thumbprint"),
        (individual("auth = \"x509\"\nprimary-thumbprint = \"00\"\n"), "hexadecimal"),
        (individual("primary-thumbprint = \"00\"\n"), "has thumbprints"),
        (individual("authorities = [\"ca.pem\"]\n"), "has authorities"),
        (individual("device-id = \"a/b\"\n"), "the device id of"),
        (individual("hubs = [\"\"]\n"), "without a name"),
        (individual("allocation = \"lowest-latency\"\n"), "unknown variant"),
        (individual("initial-twin.tags = { \"a.b\" = 1 }\n"), "the initial twin of"),
        (individual(&format!("initial-twin.desired = {{ a = \"{}\" }}\n", "x".repeat(5_000))), "the initial twin of"),
        (individual(&individual("")), "twice"),
        (group("auth = \"x509\"\n"), "no authority"),
        (group("auth = \"x509\"\nauthorities = [\"absent.pem\"]\n"), "absent.pem"),
        (group("auth = \"x509\"\nprimary-thumbprint = \"00\"\n"), "has thumbprints"),
        (group("device-id = \"d\"\n"), "has a device id"),
        (group(&group("")), "twice"),
        ((0..101).map(|at| format!("[[groups]]\nid = \"g{at}\"\n")).collect(), "more than 100 groups"),
    ] {
        fs::write(file(&dir), &text).expect("written");
        let error = prepare(&file(&dir)).expect_err(&text).to_string();
        assert!(error.contains(needle) && !error.contains("secret"), "{error}");
    }
}

proptest! {
    #[test]
    fn no_file_makes_it_panic(
        key in "(id|auth|enabled|primary-key|primary-thumbprint|authorities|hubs|payload|initial-twin|allocation)",
        value in "(\"[ -~]{0,20}\"|[0-9]{1,3}|true|\\[\\]|\\[\"[a-z]{0,3}\"\\]|\\{tags = \\{a = 1\\}\\})",
        table in "(individual|groups|individual.initial-twin)",
        garbage in ".{0,60}",
    ) {
        let text = format!("[[individual]]\nid = \"d\"\n[[{table}]]\nid = \"e\"\n{key} = {value}\n");
        for text in [text, garbage] {
            let _ = File::understand(&text).map(|file| file.parse(|_| Ok(Authorities::default())));
        }
    }
}
