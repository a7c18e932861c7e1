//! One line in, verdicts out.

use expect_test::{Expect, expect};
use shared::config::{Check, Layers, Mistakes};
use shared::reading::TimeQuality;

use super::*;

const RULES: &str = r#"
    [[presilver.rule]]
    metric = "temperature"
    type = "number"
    min = -40.0
    max = 150.0
    unit = "Cel"
    [[presilver.rule]]
    metric = "CO*"
    missing-values = [-200]
    [[presilver.rule]]
    device = "press-*"
    metric = "temperature"
    required = true
"#;

fn received() -> Timestamp {
    Timestamp::parse_rfc3339("2026-11-23T10:00:00Z").expect("a time")
}

/// The other sections are not looked at here.
#[derive(serde::Deserialize)]
struct Loose {
    presilver: Config,
    #[serde(flatten)]
    _rest: BTreeMap<String, serde::de::IgnoredAny>,
}

impl Check for Loose {
    fn check(&self, mistakes: &mut Mistakes) {
        self.presilver.check(mistakes);
    }
}

fn judge_with(text: &str) -> Judge {
    let layers = Layers { default: crate::config::DEFAULT, env_prefix: "EDGE" };
    let config: Loose = shared::config::load_from(&layers, Some(("edge.toml", text)), &[]).expect("no mistake");
    Judge::new(&config.presilver)
}

fn verdicts(topic: &str, payload: &[u8]) -> Vec<Verdict> {
    judge_with(RULES)
        .judge(&Publish { topic, payload, cut: None, received: received(), clock_known_good: true, again: false })
        .verdicts
}

fn show(verdicts: &[Verdict]) -> String {
    let show = |verdict: &Verdict| match &verdict.item {
        HeldItem::Reading(reading) => format!(
            "{} {}={}{} {}",
            reading.device,
            reading.metric,
            reading.value,
            reading.unit.as_ref().map(|unit| format!("[{unit}]")).unwrap_or_default(),
            reading.time_quality.as_str()
        ),
        HeldItem::Rejected { rejected, .. } => format!(
            "{} {} rejected: {}",
            rejected.device,
            rejected.metric.as_ref().map_or("-", |metric| metric.as_str()),
            rejected.reasons.join(" | ")
        ),
    };
    verdicts.iter().map(show).collect::<Vec<_>>().join("\n")
}

fn check(topic: &str, payload: &str, expected: Expect) {
    expected.assert_eq(&show(&verdicts(topic, payload.as_bytes())));
}

#[test]
fn each_metric_is_judged_on_its_own_with_all_its_reasons() {
    check(
        "telemetry/oven",
        r#"{"ts":"2026-11-23T09:59:59Z","n":1,"temperature":21.5,"CO(GT)":-200,"door":true}"#,
        expect![[r#"
            oven temperature=21.5[Cel] device
            oven CO(GT) rejected: missing-value: -200
            oven door=true device"#]],
    );
    check(
        "telemetry/oven",
        r#"{"temperature":{"v":900,"u":"K"}}"#,
        expect!["oven temperature rejected: unit: K instead of Cel | range: 900 > 150 K"],
    );
}

#[test]
fn a_required_metric_that_is_missing_is_a_refusal_of_that_metric() {
    check(
        "telemetry/press-3",
        r#"{"n":1,"rpm":3}"#,
        expect![[r#"
            press-3 rpm=3 gateway
            press-3 temperature rejected: required: the payload holds no `temperature`"#]],
    );
    check("telemetry/press-3", r#"{"n":1,"temperature":3}"#, expect!["press-3 temperature=3[Cel] gateway"]);
    check("telemetry/press-3/rpm", "3", expect!["press-3 rpm=3 gateway"]);
}

#[test]
fn a_time_ahead_of_a_good_clock_is_skew() {
    check(
        "telemetry/d",
        r#"{"ts":"2026-11-23T11:00:01Z","a":1}"#,
        expect![
            "d a rejected: skew: 2026-11-23T11:00:01Z is more than 3600 s ahead of the gateway's clock, 2026-11-23T10:00:00Z"
        ],
    );
    check("telemetry/d", r#"{"ts":"2026-11-23T11:00:00Z","a":1}"#, expect!["d a=1 device"]);
    let publish = Publish {
        topic: "telemetry/d",
        payload: br#"{"ts":"2099-01-01T00:00:00Z","a":1,"b":2}"#,
        cut: None,
        received: received(),
        clock_known_good: false,
        again: false,
    };
    assert_eq!(show(&judge_with(RULES).judge(&publish).verdicts), "d a=1 device\nd b=2 device");
}

#[test]
fn without_a_time_of_its_own_a_reading_has_the_gateways_time_and_says_how_good_it_is() {
    for (good, quality) in [(true, TimeQuality::Gateway), (false, TimeQuality::GatewayUnsynced)] {
        let publish = Publish {
            topic: "telemetry/d/a",
            payload: b"1",
            cut: None,
            received: received(),
            clock_known_good: good,
            again: false,
        };
        let verdicts = judge_with("").judge(&publish).verdicts;
        let HeldItem::Reading(reading) = &verdicts[0].item else { panic!("a reading") };
        assert_eq!((reading.event_time, reading.time_quality), (received(), quality));
    }
}

#[test]
fn what_cannot_be_read_as_a_whole_is_one_refusal_with_its_bytes() {
    for (topic, payload) in [
        ("telemetry/d", &b"\xff\xfe"[..]),
        ("telemetry/d", b""),
        ("telemetry/d", b"{\"a\":1"),
        ("telemetry/d", b"{\"a\":1}{"),
        ("telemetry/d", b"[1,2]"),
        ("telemetry/d/m", b"NaN"),
        ("telemetry/d/m", b""),
        ("other/d", b"{\"a\":1}"),
        ("telemetry", b"1"),
        ("telemetry/d/m/x", b"1"),
        ("telemetry/a\u{7}b", b"{\"a\":1}"),
    ] {
        let verdicts = verdicts(topic, payload);
        let [Verdict { item: HeldItem::Rejected { rejected, raw_len, .. }, key: None }] = &verdicts[..] else {
            panic!("{topic} {payload:?}: {}", show(&verdicts))
        };
        assert_eq!((rejected.raw.as_slice(), *raw_len), (payload, i64::try_from(payload.len()).expect("short")));
        assert_eq!(rejected.topic, topic);
    }
}

#[test]
fn a_number_sent_as_a_text_does_not_pass_a_range() {
    let mut judge = judge_with("[[presilver.rule]]\nmetric = \"temperature\"\nmax = 150.0\nunit = \"Cel\"");
    let (topic, received) = ("telemetry/d", received());
    let payload = br#"{"temperature":"900","state":"idle"}"#;
    let publish = Publish { topic, payload, cut: None, received, clock_known_good: true, again: false };
    let seen = show(&judge.judge(&publish).verdicts);
    let fault = "type: \"900\" is no number, and `min` or `max` asks for one";
    assert_eq!(seen, format!("d temperature rejected: {fault}\nd state=\"idle\" gateway"));
}

#[test]
fn whatever_the_format_a_bad_name_is_no_unreadable_payload() {
    let long = "m".repeat(129);
    let json = |name: &str| format!(r#"{{"n":1,"{name}":1,"ok":2}}"#).into_bytes();
    let senml = |name: &str| format!(r#"[{{"bn":"","n":"{name}","v":1}},{{"n":"ok","v":2}}]"#).into_bytes();
    let cbor = |name: &str| {
        let length = [0x78, name.len() as u8];
        [&[0xa2][..], &length, name.as_bytes(), &[1, 0x62, b'o', b'k', 2]].concat()
    };
    let one = |format: &str| format!("[[presilver.mapping]]\ntopic = \"x/{{device}}\"\nformat = \"{format}\"");
    for (name, escaped) in [("", ""), ("a\u{1}b", r"a\u0001b"), (long.as_str(), long.as_str())] {
        for (format, payload) in
            [("object", json(escaped)), ("json", json(escaped)), ("cbor", cbor(name)), ("senml", senml(escaped))]
        {
            let mut judge = judge_with(&one(format));
            let (topic, payload, received) = ("x/d", &payload[..], received());
            let publish = Publish { topic, payload, cut: None, received, clock_known_good: true, again: false };
            let verdicts = judge.judge(&publish).verdicts;
            let [
                Verdict { item: HeldItem::Rejected { rejected, .. }, .. },
                Verdict { item: HeldItem::Reading(ok), .. },
            ] = &verdicts[..]
            else {
                panic!("{format} {name:?}: {}", show(&verdicts))
            };
            assert_eq!(rejected.metric, Some(MetricName::nearest(name)), "{format}");
            assert_eq!(ok.metric.as_str(), "ok", "{format}");
        }
    }
}

#[test]
fn of_several_devices_in_a_payload_one_with_a_bad_name_costs_its_own_values() {
    let mut judge = judge_with(
        "[[presilver.mapping]]\ntopic = \"x/{site}\"\nformat = \"json\"\nrecords = \"*\"\ndevice = \"{.id}\"",
    );
    let (topic, received) = ("x/s", received());
    let payload = br#"[{"id":"a","t":1},{"id":"b\u0001","t":2,"u":3}]"#;
    let publish = Publish { topic, payload, cut: None, received, clock_known_good: true, again: false };
    let seen = show(&judge.judge(&publish).verdicts);
    let fault = "rejected: name: the device name holds a control character";
    assert_eq!(seen, format!("a t=1 gateway\n- t {fault}\n- u {fault}"));
}

#[test]
fn strange_names_and_numbers_cost_only_themselves() {
    let long = "m".repeat(129);
    let payload = format!(r#"{{"n":1,"{long}":1,"a\u0000b":2,"":3,"huge":1e999,"ok":1e6,"ok":2,"nan":NaN}}"#);
    assert_eq!(verdicts("telemetry/d", payload.as_bytes()).len(), 1, "NaN is no JSON");
    let payload = payload.replace(r#","nan":NaN"#, "");
    let verdicts = verdicts("telemetry/d", payload.as_bytes());
    expect![[r#"
        d mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm… rejected: name: the metric name has 129 bytes, 128 are allowed
        d a\u{0}b rejected: name: the metric name holds a control character
        d (empty) rejected: name: the metric name is empty
        d huge rejected: type: no number that a double can hold: 1e999
        d ok rejected: name: the metric stands twice"#]]
    .assert_eq(&show(&verdicts).replace("gateway", "device"));
    let keys: std::collections::HashSet<_> = verdicts.iter().filter_map(|verdict| verdict.key).collect();
    assert_eq!(keys.len(), verdicts.len(), "each has a key of its own");
}

#[test]
fn a_large_payload_is_bounded_in_what_it_makes() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(500_000), "]".repeat(500_000));
    assert_eq!(verdicts("telemetry/d", deep.as_bytes()).len(), 1);
    let many: Vec<String> = (0..1_000).map(|index| format!("\"m{index}\":\"{}\"", "x".repeat(5_000))).collect();
    let payload = format!("{{\"n\":1,{}}}", many.join(","));
    let verdicts = verdicts("telemetry/d", payload.as_bytes());
    let copied: usize = verdicts
        .iter()
        .map(|verdict| match &verdict.item {
            HeldItem::Rejected { rejected, raw_len, .. } => {
                assert_eq!(*raw_len, i64::try_from(payload.len()).expect("fits"));
                let beginning = &payload.as_bytes()[..BEGINNING_BYTES];
                assert!(rejected.raw.starts_with(beginning), "each tells whose number it is");
                rejected.raw.len()
            }
            HeldItem::Reading(_) => 0,
        })
        .sum();
    assert_eq!(verdicts.len(), 1_000);
    let beginnings = verdicts.len() * BEGINNING_BYTES;
    assert!(copied <= payload.len() + COPIES_BYTES_MAX + RAW_BYTES_MAX + beginnings, "{copied}");
    let topic = format!("telemetry/{}", "é".repeat(30_000));
    let verdicts = self::verdicts(&topic, b"{\"a\":1}");
    let HeldItem::Rejected { rejected, .. } = &verdicts[0].item else { panic!("a refusal") };
    assert!(rejected.topic.len() <= TOPIC_BYTES_MAX + 3);
}

#[test]
fn a_repeat_has_the_same_key_and_anything_else_another() {
    let key = |payload: &str| verdicts("telemetry/d", payload.as_bytes())[0].key;
    let first = key(r#"{"n":1,"a":1}"#);
    assert!(first.is_some());
    assert_eq!(first, key(r#"{"a":1.0, "n":1}"#));
    for other in [
        r#"{"n":2,"a":1}"#,
        r#"{"n":1,"a":2}"#,
        r#"{"n":1,"b":1}"#,
        r#"{"n":1,"a":true}"#,
        r#"{"n":1,"a":"1"}"#,
        r#"{"n":1,"ts":1795428000000000,"a":1}"#,
        r#"{"ts":1,"a":1}"#,
        r#"{"n":1,"a":null}"#,
    ] {
        assert!(key(other).is_some() && key(other) != first, "{other}");
    }
    assert_eq!(key(r#"{"a":1}"#), None);
}

#[test]
fn a_repeat_of_an_unreadable_payload_is_known_by_the_number_before_its_fault() {
    let key = |payload: &str| verdicts("telemetry/d", payload.as_bytes())[0].key;
    let torn = key(r#"{"ts":1795428000000000,"n":7,"a":{"v"#);
    assert!(torn.is_some());
    assert_eq!(torn, key(r#"{"ts":1795428000000000,"n":7,"a":{"v"#));
    assert!(key(r#"{"n":7}"#).is_some() && key(r#"{"n":7}"#) != torn);
    assert_eq!(key(r#"{"a":{"v"#), None);
}

#[test]
fn the_digest_names_rules_mappings_and_limits() {
    let digests: std::collections::HashSet<_> = [
        "",
        RULES,
        "[presilver]\nmax-ahead = \"2h\"",
        "[presilver]\nmax-age = \"2h\"",
        "[[presilver.mapping]]\ntopic = \"a/{device}\"",
    ]
    .iter()
    .map(|text| judge_with(text).digest().to_owned())
    .collect();
    assert_eq!(digests.len(), 5);
    assert_eq!(judge_with("").digest(), judge_with("[presilver]\nclock = \"trusted\"").digest());
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_judge_panic(topic in "(telemetry/)?.{0,20}", payload: Vec<u8>) {
        verdicts(&topic, &payload);
    }

    #[test]
    fn no_json_makes_the_judge_panic(text in r#"\{"(ts|n|a|temperature)":[-0-9a-z"\[\]{}:.,eE+]{0,30}\}"#) {
        assert!(!verdicts("telemetry/press-1", text.as_bytes()).is_empty());
    }
}

#[test]
fn a_number_that_stands_twice_speaks_against_every_value() {
    let twice = verdicts("telemetry/d", br#"{"n":1,"ts":"2026-11-23T10:00:00Z","a":1,"b":2,"n":2}"#);
    assert_eq!(twice.len(), 2);
    for verdict in &twice {
        let HeldItem::Rejected { rejected, .. } = &verdict.item else { panic!("{verdict:?}") };
        assert_eq!(rejected.reasons, ["number: `n` stands twice in the payload"]);
        assert_eq!(rejected.source_seq, None);
        assert!(verdict.key.is_some(), "its time is there");
    }
}

#[test]
fn of_what_is_too_large_the_beginning_is_kept_and_nothing_believed() {
    let cut = crate::intake::Cut { bytes: 5_000_000, sha256: "ab".repeat(32) };
    for (topic, device) in [("telemetry/d", "d"), ("no mapping", "-"), (&format!("telemetry/{}", "d".repeat(200)), "-")]
    {
        for again in [false, true] {
            let payload = br#"{"n":1,"temperature":21.5,"text":"..."#;
            let (cut, received) = (Some(&cut), received());
            let publish = Publish { topic, payload, cut, received, clock_known_good: true, again };
            let judged = judge_with(RULES).judge(&publish);
            assert!(judged.notes[0].text.contains("5000000 bytes"), "{:?}", judged.notes);
            let Some(verdict) = judged.verdicts.first() else {
                assert!(again && judged.left_out.len() == 1, "a retained one is not refused at every connection");
                continue;
            };
            let HeldItem::Rejected { rejected, raw_len, raw_sha256 } = &verdict.item else { panic!("{verdict:?}") };
            assert_eq!((rejected.device.as_str(), &rejected.metric, *raw_len), (device, &None, 5_000_000));
            assert_eq!((&rejected.raw[..], raw_sha256), (&payload[..], &"ab".repeat(32)));
            assert_eq!(
                rejected.reasons,
                [format!(
                    "too-large: 5000000 bytes, more than `intake.broker.max-packet`; the first {} are kept",
                    payload.len()
                )]
            );
        }
    }
}

#[test]
fn what_is_ignored_is_ignored_however_large_it_is() {
    let cut = crate::intake::Cut { bytes: 5_000_000, sha256: String::new() };
    let mut judge = judge_with("[[presilver.mapping]]\ntopic = \"noise/#\"\nformat = \"ignore\"");
    let (topic, payload, cut, received) = ("noise/a", &b"..."[..], Some(&cut), received());
    let judged = judge.judge(&Publish { topic, payload, cut, received, clock_known_good: true, again: false });
    assert_eq!((judged.verdicts, judged.notes, judged.left_out[0].why), (vec![], vec![], "ignored"));
}

#[test]
fn what_was_here_before_is_learned_from_and_not_stored() {
    let mut judge = judge_with("[[presilver.mapping]]\ntopic = \"homie/#\"\nformat = \"homie\"");
    let mut judged = |topic: &str, payload: &str, again: bool| {
        let payload = payload.as_bytes();
        let judged =
            judge.judge(&Publish { topic, payload, cut: None, received: received(), clock_known_good: true, again });
        let left_out: Vec<_> = judged.left_out.iter().map(|left| left.why).collect();
        (show(&judged.verdicts), left_out)
    };
    assert_eq!(judged("homie/d/n/a/$unit", "V", true), (String::new(), vec!["again"]));
    assert_eq!(judged("homie/d/n/a", "1", true), (String::new(), vec!["again"]));
    assert_eq!(judged("homie/d/n/a", "2", false), ("d n/a=2[V] gateway".to_owned(), vec![]));
}
