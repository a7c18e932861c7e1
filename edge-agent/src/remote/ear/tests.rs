use proptest::prelude::*;
use serde_json::json;

use super::*;

fn devices() -> Devices {
    ["hall", "press"].map(str::to_owned).into()
}

fn ear() -> Ear {
    Ear::new("info", devices(), Good::default(), Backoff::new(Duration::from_secs(2), Duration::from_secs(300), 7))
}

/// What an ear says, with answers as a hub would give them.
struct Hub {
    ear: Ear,
    now: Instant,
    todo: Vec<Do>,
    reported: Section,
}

impl Hub {
    fn new() -> Self {
        Self { ear: ear(), now: Instant::now(), todo: vec![], reported: Section::new() }
    }

    fn step(&mut self, notice: Notice<'_>) -> &mut Self {
        let todo = self.ear.step(notice, self.now);
        self.todo.extend(todo);
        self
    }

    /// Connected, subscribed, and the twin read.
    fn connect(&mut self, desired: Json) -> &mut Self {
        self.step(Notice::Connected);
        assert!(self.take().contains(&Do::Subscribe));
        self.step(Notice::Subscribed { granted: true });
        self.give(desired)
    }

    /// Answers the question for the twin.
    fn give(&mut self, desired: Json) -> &mut Self {
        let topic = self.said().pop().expect("a question").0;
        assert!(topic.starts_with("$iothub/twin/GET/"), "{topic}");
        let body = json!({ "desired": desired, "reported": self.reported }).to_string();
        self.answer_to(&topic, 200, &body)
    }

    fn answer_to(&mut self, topic: &str, status: u16, body: &str) -> &mut Self {
        let rid = topic.split("$rid=").nth(1).expect("a rid");
        let answer = format!("$iothub/twin/res/{status}/?$rid={rid}");
        self.step(Notice::Said);
        self.step(Notice::Heard { topic: &answer, payload: body.as_bytes() })
    }

    /// Waits for the write of reported properties, and takes it.
    fn write(&mut self) -> Json {
        self.now = self.ear.deadline().expect("a write is due");
        self.step(Notice::Tick);
        let (topic, payload) = self.said().pop().expect("a write");
        assert!(topic.starts_with("$iothub/twin/PATCH/properties/reported/"), "{topic}");
        let patch: Section = serde_json::from_slice(&payload).expect("json");
        super::super::document::merge(&mut self.reported, &patch);
        self.answer_to(&topic, 204, "");
        Json::Object(patch)
    }

    fn desire(&mut self, patch: Json) -> &mut Self {
        let topic = "$iothub/twin/PATCH/properties/desired/?$version=0";
        self.step(Notice::Heard { topic, payload: patch.to_string().as_bytes() })
    }

    fn call(&mut self, method: &str, payload: &str) -> (String, Json) {
        let topic = format!("$iothub/methods/POST/{method}/?$rid=c1");
        self.step(Notice::Heard { topic: &topic, payload: payload.as_bytes() });
        let (topic, payload) = self.said().pop().expect("an answer");
        self.step(Notice::Said);
        (topic, serde_json::from_slice(&payload).expect("json"))
    }

    fn take(&mut self) -> Vec<Do> {
        std::mem::take(&mut self.todo)
    }

    fn said(&mut self) -> Vec<(String, Vec<u8>)> {
        let todo = self.todo.extract_if(.., |todo| matches!(todo, Do::Say { .. }));
        todo.map(|todo| if let Do::Say { topic, payload } = todo { (topic, payload) } else { unreachable!() }).collect()
    }

    fn levels(&mut self) -> Vec<String> {
        let todo = self.take();
        todo.into_iter()
            .filter_map(|todo| if let Do::SetLevel { level, .. } = todo { Some(level) } else { None })
            .collect()
    }

    /// Sets put in force: version, number of rules, linger.
    fn sets(&mut self) -> Vec<(i64, Option<usize>, Option<Duration>)> {
        let todo = self.todo.extract_if(.., |todo| matches!(todo, Do::Apply { .. }));
        todo.map(|todo| {
            let Do::Apply { settings, version, desired } = todo else { unreachable!() };
            assert_eq!(settings::read(&desired, &devices()).as_ref(), Ok(&settings), "what is kept says the same");
            (version, settings.rules.map(|rules| rules.len()), settings.linger)
        })
        .collect()
    }

    fn codes(&self) -> Vec<(&str, u64)> {
        let code = |name: &&'static str| Some((*name, self.reported.get(*name)?["ac"].as_u64()?));
        settings::NAMES.iter().filter_map(code).collect()
    }

    fn is_quiet(&mut self) -> bool {
        self.now += Duration::from_secs(10);
        self.step(Notice::Tick);
        self.said().is_empty() && self.ear.deadline().is_none()
    }
}

#[test]
fn a_desired_level_is_applied_and_reported_as_plug_and_play_wants_it() {
    let mut hub = Hub::new();
    hub.step(Notice::Agent(json!({ "version": "1" })));
    hub.connect(json!({ "log-level": "debug", "$version": 3 }));
    assert_eq!(hub.levels(), ["debug"]);
    let patch = hub.write();
    let ack = json!({ "value": "debug", "ac": 200, "av": 3, "ad": "applied" });
    assert_eq!(patch, json!({ "agent": { "version": "1" }, "log-level": ack }), "one write for all");
    hub.desire(json!({ "log-level": "warn", "$version": 4 }));
    assert_eq!((hub.levels(), &hub.write()["log-level"]["av"]), (vec!["warn".to_owned()], &json!(4)));
    assert!(hub.is_quiet());
    // Nothing is said again on the next connection, where nothing changed.
    hub.step(Notice::Lost { closed: true }).connect(json!({ "log-level": "warn", "$version": 4 }));
    assert!(hub.levels().is_empty() && hub.is_quiet());
    hub.desire(json!({ "log-level": null, "$version": 5 }));
    assert_eq!((hub.levels(), hub.write()), (vec!["info".to_owned()], json!({ "log-level": null })));
}

#[test]
fn a_level_that_cannot_be_is_refused_and_the_last_good_one_stays() {
    let mut hub = Hub::new();
    hub.connect(json!({ "log-level": "debug", "$version": 1 }));
    hub.write();
    hub.levels();
    for (version, wish) in [(2, json!("verbose")), (3, json!(7)), (4, json!({ "a": 1 })), (5, json!("x".repeat(600)))] {
        hub.desire(json!({ "log-level": wish, "$version": version }));
        assert!(hub.levels().is_empty(), "{wish}");
        hub.write();
        let ack = &hub.reported["log-level"];
        assert_eq!((&ack["ac"], &ack["av"]), (&json!(400), &json!(version)), "{ack}");
        assert!(ack["ad"].as_str().is_some_and(|ad| ad.contains("`debug` stays")), "{ack}");
    }
    assert_eq!(hub.ear.levels().in_force(), "debug");
}

#[test]
fn a_set_is_in_force_whole_or_not_at_all_and_the_last_good_one_stays() {
    let mut hub = Hub::new();
    hub.connect(json!({ "rules": [{ "max": 1 }], "intervals": { "linger": "5s" }, "$version": 3 }));
    hub.write();
    assert_eq!(hub.sets(), [(3, Some(1), Some(Duration::from_secs(5)))]);
    assert_eq!(hub.codes(), [("rules", 200), ("intervals", 200)]);

    // One mistake, and a good change beside it.
    hub.desire(json!({ "rules": [{ "max": 1 }, { "min": 2, "max": 1 }], "log-level": "debug", "$version": 4 }));
    hub.write();
    assert_eq!(hub.codes(), [("log-level", 409), ("rules", 400), ("intervals", 200)]);
    let ad = hub.reported["rules"]["ad"].as_str().expect("words").to_owned();
    assert!(ad.starts_with("rule 1: `min`") && ad.ends_with("the set of version 3 stays in force"), "{ad}");
    assert!(hub.reported["log-level"]["ad"].as_str().is_some_and(|ad| ad.contains("`rules` of the same set")));
    assert!(hub.sets().is_empty() && hub.levels().is_empty());
    assert!(hub.ear.refused().is_some_and(|why| why.contains("version 4")));
    // On the next connection nothing is said again.
    hub.step(Notice::Lost { closed: false });
    hub.connect(json!({
        "rules": [{ "max": 1 }, { "min": 2, "max": 1 }], "intervals": { "linger": "5s" }, "log-level": "debug", "$version": 4,
    }));
    assert!(hub.sets().is_empty() && hub.is_quiet());

    // Put right: all of it counts, also what waited.
    hub.desire(json!({ "rules": [], "$version": 5 }));
    hub.write();
    assert_eq!(hub.codes(), [("log-level", 200), ("rules", 200), ("intervals", 200)]);
    assert_eq!(hub.sets(), [(5, Some(0), Some(Duration::from_secs(5)))]);
    assert_eq!((hub.levels(), hub.ear.refused()), (vec!["debug".to_owned()], None));
    hub.desire(json!({ "rules": null, "intervals": null, "log-level": null, "$version": 6 }));
    assert_eq!(hub.write(), json!({ "rules": null, "intervals": null, "log-level": null }));
    assert_eq!((hub.sets(), hub.levels()), (vec![(6, None, None)], vec!["info".to_owned()]));
}

#[test]
fn a_set_of_an_earlier_run_is_in_force_until_the_twin_says_otherwise() {
    let settings = Settings { level: Some("warn".into()), rules: Some(vec![]), ..Settings::default() };
    let good = Good { settings, version: Some(8), is_cut: false };
    let begin = || {
        let ear = Ear::new(
            "info",
            devices(),
            good.clone(),
            Backoff::new(Duration::from_secs(2), Duration::from_secs(300), 7),
        );
        Hub { ear, ..Hub::new() }
    };
    let mut hub = begin();
    assert_eq!(hub.ear.levels().in_force(), "warn");
    hub.connect(json!({ "log-level": "warn", "rules": [], "$version": 8 }));
    assert!(hub.sets().is_empty() && hub.levels().is_empty(), "it is in force already");
    // One that cannot be leaves it so; a twin that says nothing ends it.
    let mut hub = begin();
    hub.connect(json!({ "log-level": "loud", "rules": [], "$version": 9 }));
    assert!(hub.sets().is_empty() && hub.levels().is_empty());
    let mut hub = begin();
    hub.connect(json!({ "$version": 10 }));
    assert_eq!((hub.sets(), hub.levels()), (vec![(10, None, None)], vec!["info".to_owned()]));
}

#[test]
fn sensors_intervals_are_of_the_set_and_name_what_is_there() {
    let mut hub = Hub::new();
    let intervals = |hub: &Hub| {
        hub.ear.good().settings.sensors.iter().map(|(name, every)| (name.clone(), every.as_secs())).collect::<Vec<_>>()
    };
    hub.connect(json!({ "intervals": { "sensors": { "hall": "5s" } }, "$version": 1 }));
    hub.write();
    assert_eq!((intervals(&hub), hub.codes()), (vec![("hall".to_owned(), 5)], vec![("intervals", 200)]));
    hub.desire(json!({ "intervals": { "sensors": { "yard": "1s" } }, "$version": 2 }));
    hub.write();
    let ad = hub.reported["intervals"]["ad"].as_str().expect("words").to_owned();
    assert!(ad.contains("counts as `yard`; there are: `hall`, `press`; the set of version 1 stays in force"), "{ad}");
    assert_eq!((intervals(&hub), hub.codes()), (vec![("hall".to_owned(), 5)], vec![("intervals", 400)]));
    // `null` takes the wrong one out, and another one back to what is configured.
    hub.desire(json!({ "intervals": { "sensors": { "yard": null, "hall": null, "press": "7s" } }, "$version": 3 }));
    hub.write();
    assert_eq!((intervals(&hub), hub.codes()), (vec![("press".to_owned(), 7)], vec![("intervals", 200)]));
    hub.desire(json!({ "intervals": null, "$version": 4 }));
    assert_eq!((hub.write(), intervals(&hub)), (json!({ "intervals": null }), vec![]));
}

#[test]
fn what_was_left_out_of_a_kept_set_is_refused_by_name_and_the_rest_stays_until_it_is_put_right() {
    let settings = Settings { rules: Some(vec![]), ..Settings::default() };
    let good = Good { settings, version: Some(8), is_cut: true };
    let ear = Ear::new("info", devices(), good, Backoff::new(Duration::from_secs(2), Duration::from_secs(300), 7));
    let mut hub = Hub { ear, ..Hub::new() };
    hub.connect(json!({ "rules": [], "intervals": { "sensors": { "gone": "1s" } }, "$version": 8 }));
    hub.write();
    assert_eq!((hub.sets(), hub.codes()), (vec![], vec![("rules", 409), ("intervals", 400)]));
    assert_eq!(hub.ear.good().settings.rules, Some(vec![]), "it stays");
    hub.desire(json!({ "intervals": null, "$version": 9 }));
    hub.write();
    assert_eq!((hub.sets(), hub.codes()), (vec![(9, Some(0), None)], vec![("rules", 200)]), "kept anew, whole");
}

#[test]
fn a_flush_is_answered_once_it_is_told_what_became_of_it_and_few_are_under_way() {
    let mut hub = Hub::new();
    hub.connect(json!({ "$version": 1 }));
    for n in 0..FLUSHES_MAX + 1 {
        let topic = format!("$iothub/methods/POST/flush/?$rid=f{n}");
        hub.step(Notice::Heard { topic: &topic, payload: b"" });
    }
    let (topic, _) = hub.said().pop().expect("one too many");
    assert_eq!(topic, format!("$iothub/methods/res/429/?$rid=f{FLUSHES_MAX}"));
    hub.step(Notice::Said);
    let todo = hub.take();
    assert!(todo.contains(&Do::Flush { rid: "f0".into(), within: Duration::from_secs(10) }), "{todo:?}");
    hub.step(Notice::Flushed { rid: "f0".into(), status: 200, body: json!({ "drained": true }) });
    assert_eq!(hub.said().pop().expect("an answer").0, "$iothub/methods/res/200/?$rid=f0");
    // The answer goes before the connection does.
    hub.step(Notice::Said).take();
    hub.step(Notice::Heard { topic: "$iothub/methods/POST/restart-uplink/?$rid=r", payload: b"null" });
    let todo = hub.take();
    let at = |wanted: &dyn Fn(&Do) -> bool| todo.iter().position(wanted).expect("there");
    assert!(at(&|todo| matches!(todo, Do::Say { .. })) < at(&|todo| *todo == Do::Restart), "{todo:?}");
}

#[test]
fn unknown_properties_are_answered_once_and_taken_back_when_they_go() {
    let mut hub = Hub::new();
    hub.connect(json!({ "interval": 5, "deep": { "a": "x".repeat(300) }, "a b": 1, "agent": 1, "$version": 2 }));
    let patch = hub.write();
    let words = "this version of the agent has no such property";
    assert_eq!(
        patch,
        json!({
            "interval": { "value": 5, "ac": 404, "av": 2, "ad": words },
            "deep": { "ac": 404, "av": 2, "ad": words },
        })
    );
    assert!(hub.is_quiet());
    // A new run, which finds them reported.
    let reported = hub.reported.clone();
    let mut hub = Hub::new();
    hub.reported = reported;
    hub.reported.insert("theirs".into(), json!({ "x": 1 }));
    hub.connect(json!({ "interval": 5, "$version": 4 }));
    assert_eq!(hub.write(), json!({ "deep": null, "interval": { "av": 4 } }), "what is not ours is left alone");
    hub.desire(json!({ "interval": null, "$version": 5 }));
    assert_eq!(hub.write(), json!({ "interval": null }));
    // Many are bounded.
    let many: Section = (0..500).map(|n| (format!("p{n}"), json!("v".repeat(40)))).collect();
    let mut many = Json::Object(many);
    many["$version"] = json!(6);
    hub.desire(many);
    let patch = hub.write();
    let acks = patch.as_object().expect("an object").len();
    assert!(acks <= UNKNOWN_MAX && patch.to_string().len() < 32 * 1024, "{acks}");
}

#[test]
fn a_call_changes_the_level_for_a_while_and_the_twins_word_ends_that() {
    let mut hub = Hub::new();
    hub.connect(json!({ "log-level": "warn", "$version": 1 }));
    hub.write();
    hub.levels();
    let (topic, body) = hub.call("log-level", r#"{"level":"trace","for":"10m"}"#);
    assert_eq!(topic, "$iothub/methods/res/200/?$rid=c1");
    assert_eq!(body, json!({ "level": "trace", "before": "warn", "for": "10m" }));
    assert_eq!(hub.levels(), ["trace"]);
    hub.now += Duration::from_secs(600);
    hub.step(Notice::Tick);
    assert_eq!(hub.levels(), ["warn"]);
    hub.call("log-level", r#"{"level":"debug"}"#);
    hub.desire(json!({ "log-level": "error", "$version": 2 }));
    assert_eq!(hub.levels(), ["debug", "error"]);
    hub.call("log-level", r#"{"level":"debug"}"#);
    assert_eq!(hub.call("log-level", r#"{"level":null}"#).1["level"], "error");
    // It ends by itself, also while the hub is away.
    hub.call("log-level", r#"{"level":"debug","for":"1m"}"#);
    hub.step(Notice::Lost { closed: false });
    hub.levels();
    hub.now += Duration::from_secs(60);
    hub.step(Notice::Tick);
    assert_eq!(hub.levels(), ["error"]);
}

#[test]
fn calls_that_make_no_sense_are_told_so() {
    let mut hub = Hub::new();
    hub.connect(json!({ "$version": 1 }));
    let (topic, body) = hub.call("reboot", "null");
    assert_eq!(topic, "$iothub/methods/res/404/?$rid=c1");
    assert!(body["error"].as_str().is_some_and(|text| text.contains("`reboot`")), "{body}");
    let (topic, body) = hub.call("log-level", "{");
    assert!(topic.contains("/res/400/") && body["error"].is_string(), "{topic} {body}");
    hub.step(Notice::Heard { topic: "$iothub/methods/POST/status/?$rid=s9", payload: b"" });
    assert!(hub.take().contains(&Do::SayStatus { rid: "s9".into() }));
}

#[test]
fn a_flood_of_calls_is_answered_a_few_at_a_time_and_beyond_a_bound_not_at_all() {
    let mut hub = Hub::new();
    hub.connect(json!({ "$version": 1 }));
    for n in 0..1_000 {
        let topic = format!("$iothub/methods/POST/status/?$rid={n}");
        hub.step(Notice::Heard { topic: &topic, payload: b"" });
    }
    let answers = |todo: &[Do]| todo.iter().filter(|todo| matches!(todo, Do::SayStatus { .. })).count();
    let todo = hub.take();
    assert_eq!(answers(&todo), SAID_MAX);
    let dropped = todo.iter().filter(|todo| **todo == Do::Count(Count::CallDropped)).count();
    assert_eq!(dropped, 1_000 - SAID_MAX - CALLS_MAX);
    assert_eq!(todo.iter().filter(|todo| **todo == Do::Note(Note::CallsDropped)).count(), 1, "one line for all");
    for _ in 0..1_000 {
        hub.step(Notice::Said);
    }
    assert_eq!(answers(&hub.take()), CALLS_MAX);
}

#[test]
fn a_hub_that_closes_rather_than_hear_of_twins_is_spared() {
    let mut hub = Hub::new();
    for _ in 0..CLOSED_MAX {
        hub.step(Notice::Connected);
        assert!(hub.take().contains(&Do::Subscribe));
        hub.step(Notice::Lost { closed: true });
    }
    assert!(hub.take().contains(&Do::Note(Note::Deaf)));
    hub.step(Notice::Connected);
    assert!(hub.take().is_empty() && hub.ear.state() == "deaf");
    hub.now = hub.ear.deadline().expect("it tries again");
    hub.step(Notice::Tick);
    assert_eq!(hub.take(), [Do::Subscribe]);
    // A network that breaks is no such hub, and an answer forgives.
    for _ in 0..9 {
        hub.step(Notice::Lost { closed: false }).connect(json!({ "$version": 1 }));
        hub.step(Notice::Lost { closed: true });
        hub.step(Notice::Connected).step(Notice::Lost { closed: false });
    }
    hub.take();
    hub.step(Notice::Connected);
    assert_eq!(hub.take(), [Do::Subscribe]);
}

#[test]
fn a_hub_that_does_not_answer_or_says_no_is_just_not_heard() {
    let mut hub = Hub::new();
    hub.step(Notice::Connected);
    hub.now = hub.ear.deadline().expect("patience");
    hub.step(Notice::Tick);
    assert!(hub.take().contains(&Do::Note(Note::NoSuback)));
    assert_eq!(hub.ear.deadline(), None);
    hub.step(Notice::Subscribed { granted: true });
    assert_eq!(hub.said().len(), 1, "late is not too late");
    hub.step(Notice::Lost { closed: false }).step(Notice::Connected).step(Notice::Subscribed { granted: false });
    assert!(hub.take().contains(&Do::Note(Note::NotGranted)));
    assert_eq!((hub.ear.state(), hub.ear.deadline()), ("refused", None));
}

proptest! {
    #[test]
    fn whatever_comes_it_neither_panics_nor_says_too_much_at_once(
        comings in proptest::collection::vec((
            0..9u8,
            "(\\$iothub/)?(twin/res/[0-9]{1,3}|twin/PATCH/properties/desired|methods/POST/(status|log-level|flush|restart-uplink|x))/(\\?\\$(rid|version)=[0-9]{0,3})?",
            "(\\{\"(desired|reported|log-level|rules|intervals|level|\\$version)\":)?(\\{\"\\$version\":[0-9]|\"debug\"|[0-9]|.{0,10})?(\\}){0,2}",
        ), 0..60),
    ) {
        let (mut ear, mut now, mut flying) = (ear(), Instant::now(), 0usize);
        for (kind, topic, payload) in comings {
            let notice = match kind {
                0 => Notice::Connected,
                1 => Notice::Subscribed { granted: true },
                2 => Notice::Lost { closed: true },
                3 => { now += Duration::from_secs(61); Notice::Tick }
                4 if 0 < flying => Notice::Said,
                _ => Notice::Heard { topic: &topic, payload: payload.as_bytes() },
            };
            match notice {
                Notice::Connected | Notice::Lost { .. } => flying = 0,
                Notice::Said => flying -= 1,
                _ => {}
            }
            let todo = ear.step(notice, now);
            flying += todo.iter().filter(|todo| matches!(todo, Do::Say { .. } | Do::SayStatus { .. })).count();
            prop_assert!(flying <= SAID_MAX);
        }
    }
}
