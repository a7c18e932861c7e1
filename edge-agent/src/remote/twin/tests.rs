use proptest::prelude::*;
use serde_json::json;

use super::*;

fn twin() -> Twin {
    Twin::new(Backoff::new(Duration::from_secs(2), Duration::from_secs(300), 7))
}

fn rid(topic: &str) -> u64 {
    topic.split("$rid=").nth(1).expect("a rid").parse().expect("a number")
}

/// Asks for the twin and is given it.
fn given(twin: &mut Twin, document: &Json, now: Instant) -> Outcome {
    let (topic, _) = twin.next(now).expect("a question");
    assert!(topic.starts_with("$iothub/twin/GET/"), "{topic}");
    twin.answered(200, rid(&topic), document.to_string().as_bytes(), now)
}

fn ready(document: &Json, now: Instant) -> Twin {
    let mut twin = twin();
    twin.begin();
    given(&mut twin, document, now);
    twin
}

fn patched(twin: &mut Twin, patch: &Json) -> Outcome {
    twin.patched(None, patch.to_string().as_bytes())
}

#[test]
fn at_first_everything_that_is_desired_is_a_change_and_then_only_what_differs() {
    let now = Instant::now();
    let mut twin = twin();
    assert_eq!(twin.next(now), None, "not before it is subscribed");
    twin.begin();
    let outcome = given(
        &mut twin,
        &json!({ "desired": { "a": 1, "b": { "c": 2 }, "$version": 4 }, "reported": { "$version": 1 } }),
        now,
    );
    assert_eq!(outcome.changes, Some(vec![("a".into(), Some(json!(1))), ("b".into(), Some(json!({ "c": 2 })))]));
    assert_eq!((twin.version(), outcome.note), (Some(4), None));
    let outcome = patched(&mut twin, &json!({ "b": { "d": 3 }, "a": null, "$version": 5 }));
    assert_eq!(outcome.changes, Some(vec![("b".into(), Some(json!({ "c": 2, "d": 3 }))), ("a".into(), None)]));
    assert_eq!(patched(&mut twin, &json!({ "a": 9, "$version": 5 })).changes, None, "that version is known");
    assert_eq!(twin.version(), Some(5));
}

#[test]
fn what_was_changed_while_it_was_away_is_seen_on_return() {
    let now = Instant::now();
    let mut twin = ready(&json!({ "desired": { "a": 1, "$version": 4 } }), now);
    twin.end();
    assert_eq!(twin.next(now), None);
    twin.begin();
    let outcome = given(&mut twin, &json!({ "desired": { "a": 2, "$version": 9 } }), now);
    assert_eq!(outcome.note, Some(Note::ChangedMeanwhile { from: 4, to: 9 }));
    assert_eq!(outcome.changes, Some(vec![("a".into(), Some(json!(2)))]));
    twin.end();
    twin.begin();
    let outcome = given(&mut twin, &json!({ "desired": { "a": 2, "$version": 9 } }), now);
    assert_eq!((outcome.note, outcome.changes), (None, Some(vec![])));
}

#[test]
fn a_version_that_was_left_out_makes_it_read_the_twin_again() {
    let now = Instant::now();
    let mut twin = ready(&json!({ "desired": { "$version": 4 } }), now);
    let outcome = patched(&mut twin, &json!({ "a": 1, "$version": 6 }));
    assert_eq!((outcome.note, outcome.changes), (Some(Note::Missed { had: 4, came: 6 }), None));
    // What the hub read before that change does not do.
    assert_eq!(given(&mut twin, &json!({ "desired": { "$version": 5 } }), now).changes, None);
    assert_eq!(twin.next(now), None, "not at once");
    let later = now + Duration::from_secs(10);
    let outcome = given(&mut twin, &json!({ "desired": { "a": 1, "b": 2, "$version": 6 } }), later);
    assert_eq!(outcome.changes.map(|changes| changes.len()), Some(2));
    // A patch that comes while the document is asked for is not forgotten.
    twin.end();
    twin.begin();
    let (topic, _) = twin.next(later).expect("a question");
    patched(&mut twin, &json!({ "a": 2, "$version": 7 }));
    let stale = json!({ "desired": { "a": 1, "b": 2, "$version": 6 } }).to_string();
    assert_eq!(twin.answered(200, rid(&topic), stale.as_bytes(), later).changes, None);
    let outcome =
        given(&mut twin, &json!({ "desired": { "a": 2, "b": 2, "$version": 7 } }), later + Duration::from_secs(10));
    assert_eq!(outcome.changes, Some(vec![("a".into(), Some(json!(2)))]));
}

#[test]
fn what_is_wanted_is_written_once_together_and_only_where_it_differs() {
    let now = Instant::now();
    let mut twin = ready(
        &json!({ "desired": { "$version": 1 }, "reported": { "agent": { "v": 1, "old": 2 }, "$version": 3 } }),
        now,
    );
    twin.want("agent", json!({ "v": 2 }), now);
    twin.want("level", json!("info"), now);
    twin.want("absent", Json::Null, now);
    assert_eq!(twin.next(now), None, "it waits for company");
    let at = twin.deadline().expect("a deadline");
    let (topic, payload) = twin.next(at).expect("a patch");
    assert!(topic.starts_with("$iothub/twin/PATCH/properties/reported/?$rid="), "{topic}");
    let patch: Json = serde_json::from_slice(&payload).expect("json");
    assert_eq!(patch, json!({ "agent": { "v": 2, "old": null }, "level": "info" }));
    assert_eq!(twin.answered(204, rid(&topic), b"", at).written, Some(204));
    assert_eq!((twin.next(at + PAUSE), twin.deadline()), (None, None), "nothing more to say");
    // Said already, also by an earlier run.
    twin.end();
    twin.begin();
    given(
        &mut twin,
        &json!({ "desired": { "$version": 1 }, "reported": { "agent": { "v": 2 }, "level": "info" } }),
        at + PAUSE,
    );
    assert_eq!(twin.next(at + PAUSE * 9), None);
}

#[test]
fn a_throttled_write_waits_longer_each_time_and_a_refused_one_is_not_repeated() {
    let mut now = Instant::now();
    let mut twin = ready(&json!({ "desired": { "$version": 1 } }), now);
    twin.want("a", json!(1), now);
    for status in [429, 503, 429] {
        now = twin.deadline().expect("due");
        let (topic, _) = twin.next(now).expect("again");
        assert_eq!(twin.answered(status, rid(&topic), b"", now).note, Some(Note::Busy(status)));
        assert!(now + PAUSE <= twin.deadline().expect("later"));
    }
    now = twin.deadline().expect("due");
    let (topic, _) = twin.next(now).expect("again");
    assert_eq!(twin.answered(400, rid(&topic), b"", now).note, Some(Note::NotTaken(400)));
    assert_eq!((twin.next(now + ANSWER), twin.deadline()), (None, None));
    twin.want("a", json!(2), now);
    assert!(twin.next(now + PAUSE).is_some(), "something else is");
}

#[test]
fn a_hub_that_does_not_answer_is_asked_again_later_and_late_answers_mean_nothing() {
    let now = Instant::now();
    let mut twin = twin();
    twin.begin();
    let (topic, _) = twin.next(now).expect("a question");
    assert_eq!(twin.tick(now + ANSWER - PAUSE), None);
    assert_eq!(twin.tick(now + ANSWER), Some(Note::NoAnswer));
    let document = json!({ "desired": { "a": 1, "$version": 1 } }).to_string();
    assert_eq!(twin.answered(200, rid(&topic), document.as_bytes(), now), Outcome::default());
    let again = twin.deadline().expect("later");
    assert!(now + ANSWER < again && twin.next(again).is_some());
}

#[test]
fn documents_that_make_no_sense_change_nothing() {
    let now = Instant::now();
    for text in ["", "[]", "{}", r#"{"desired":[]}"#, r#"{"desired":{"$version":"x"}}"#] {
        let mut twin = twin();
        twin.begin();
        let (topic, _) = twin.next(now).expect("a question");
        let outcome = twin.answered(200, rid(&topic), text.as_bytes(), now);
        assert!(
            matches!(outcome, Outcome { note: Some(Note::Unreadable(_)), changes: None, .. }),
            "{text}: {outcome:?}"
        );
    }
    let mut twin = ready(&json!({ "desired": { "a": 1, "$version": 4 } }), now);
    let large = json!({ "a": "x".repeat(33 * 1024 + 10), "$version": 5 });
    let outcome = patched(&mut twin, &large);
    assert!(matches!(outcome.note, Some(Note::Unreadable(_))), "{outcome:?}");
    assert_eq!((twin.desired().get("a"), twin.version()), (Some(&json!(1)), Some(4)));
    assert!(twin.next(now).is_some_and(|(topic, _)| topic.contains("GET")), "the hub is asked what it is");
}

#[derive(Debug, Clone)]
enum Deed {
    Begin,
    End,
    Change(u8, u8, bool),
    Answer(u16),
    Want(u8, u8),
    Wait(u64),
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        Just(Deed::Begin),
        Just(Deed::End),
        (0..3u8, 0..3u8, any::<bool>()).prop_map(|(name, value, lost)| Deed::Change(name, value, lost)),
        prop_oneof![Just(200), Just(200), Just(429), Just(400), Just(503)].prop_map(Deed::Answer),
        (0..3u8, 0..3u8).prop_map(|(name, value)| Deed::Want(name, value)),
        (0..400u64).prop_map(Deed::Wait),
    ]
}

proptest! {
    /// Whatever is lost, throttled or cut off: once the hub answers again, both sides agree.
    #[test]
    fn in_the_end_both_sides_agree(deeds in proptest::collection::vec(deed(), 0..60)) {
        let mut now = Instant::now();
        let mut twin = twin();
        let (mut desired, mut version, mut reported) = (Section::new(), 1i64, Section::new());
        let mut up = false;
        let mut asked: Option<(String, Vec<u8>)> = None;
        let mut calm: Vec<Deed> = vec![Deed::End, Deed::Begin];
        calm.extend((0..8).flat_map(|_| [Deed::Wait(400), Deed::Answer(200)]));
        let last = deeds.len();
        for (at, deed) in deeds.into_iter().chain(calm).enumerate() {
            match deed {
                Deed::Begin if !up => {
                    up = true;
                    twin.begin();
                }
                Deed::End => {
                    (up, asked) = (false, None);
                    twin.end();
                }
                Deed::Change(name, value, lost) => {
                    version += 1;
                    let name = format!("p{name}");
                    desired.insert(name.clone(), json!(value));
                    if up && !lost {
                        twin.patched(Some(version), json!({ name: value, "$version": version }).to_string().as_bytes());
                    }
                }
                Deed::Answer(status) => {
                    if let Some((topic, payload)) = asked.take() {
                        let body = if topic.contains("GET") {
                            let mut whole = desired.clone();
                            whole.insert("$version".into(), json!(version));
                            json!({ "desired": whole, "reported": reported }).to_string()
                        } else {
                            if status == 200 {
                                let patch: Section = serde_json::from_slice(&payload).expect("json");
                                document::merge(&mut reported, &patch);
                            }
                            String::new()
                        };
                        twin.answered(status, rid(&topic), body.as_bytes(), now);
                    }
                }
                Deed::Want(name, value) => {
                    let value = if value == 0 { Json::Null } else { json!({ "v": value }) };
                    twin.want(&format!("w{name}"), value, now);
                }
                Deed::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    if twin.tick(now).is_some() {
                        asked = None;
                    }
                }
                Deed::Begin => {}
            }
            if let Some(question) = twin.next(now) {
                prop_assert!(asked.is_none(), "one question at a time");
                asked = Some(question);
            }
            let _ = (at, last);
        }
        prop_assert_eq!(twin.version(), Some(version));
        prop_assert_eq!(twin.desired(), &desired);
        prop_assert_eq!(document::difference(&reported, &twin.wanted), Section::new());
    }

    #[test]
    fn no_payload_makes_it_panic(payload in proptest::collection::vec(any::<u8>(), 0..60), status in any::<u16>(), like in "\\{\"(desired|\\$version|a)\":.{0,20}") {
        let now = Instant::now();
        let mut twin = ready(&json!({ "desired": { "$version": 1 } }), now);
        twin.patched(None, &payload);
        twin.patched(Some(i64::MAX), like.as_bytes());
        twin.end();
        twin.begin();
        if let Some((topic, _)) = twin.next(now) {
            twin.answered(status, rid(&topic), &payload, now);
        }
    }
}
