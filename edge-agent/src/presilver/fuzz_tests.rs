//! Every payload parser against what becomes of its corpus when bytes of it are turned, cut, doubled and mixed.
//!
//! On stable Rust, the same inputs every time. An input that broke something once goes into `corpora/`, one line each:
//! topic, tab, payload (`hex:…` where it is no text). [`INPUTS`] of each format in every run, [`INPUTS_MANY`] under
//! `cargo verify -- --all`; `FUZZ_INPUTS` says another number.

use shared::config::{Check, Layers, Mistakes};
use shared::payload::TEXT_BYTES_MAX;
use shared::reading::{DEVICE_BYTES_MAX, METRIC_BYTES_MAX, Value};
use shared::time::Timestamp;

use super::judge::{Judge, Judged, Publish};
use super::{Config, Verdict};
use crate::outbox::HeldItem;

const INPUTS: u64 = 20_000;
const INPUTS_MANY: u64 = 10_000_000;
/// A longer input adds nothing but time.
const BYTES_MAX: usize = 4_096;
/// More verdicts than metrics are allowed: those are of rules.
const VERDICTS_MAX: usize = 5_100;

/// A format: its mappings and its corpus.
struct Target {
    settings: &'static str,
    corpus: &'static str,
}

const TARGETS: [(&str, Target); 11] = [
    ("object", Target { settings: "", corpus: include_str!("../../corpora/object.txt") }),
    ("value", Target { settings: "", corpus: include_str!("../../corpora/value.txt") }),
    (
        "json",
        Target {
            settings: r#"
                [[presilver.mapping]]
                topic = "json/{device}"
                format = "json"
                time = "at"
                time-unit = "s"
                n = "count"
                separator = "."
                leave-out = ["door.*"]
                [[presilver.mapping]]
                topic = "records/{site}"
                format = "json"
                records = "data.*"
                device = "{site}-{.sensor}"
                metric = "{.sensor|*}"
                value = "v"
                unit = "unit"
                nulls = "leave-out"
                time-unit = "ms"
                [[presilver.mapping]]
                topic = "fields/{device}"
                format = "json"
                [presilver.mapping.fields]
                temperature = { at = "env.t", unit = "Cel", scale = 0.01 }
                humidity = "env.h"
            "#,
            corpus: include_str!("../../corpora/json.txt"),
        },
    ),
    (
        "cbor",
        Target {
            settings: r#"
                [[presilver.mapping]]
                topic = "cbor/{device}"
                format = "cbor"
                separator = "."
            "#,
            corpus: include_str!("../../corpora/cbor.txt"),
        },
    ),
    (
        "senml",
        Target {
            settings: r#"
                [[presilver.mapping]]
                topic = "senml/{device}"
                format = "senml"
            "#,
            corpus: include_str!("../../corpora/senml.txt"),
        },
    ),
    (
        "senml-cbor",
        Target {
            settings: r#"
                [[presilver.mapping]]
                topic = "senmlc/{device}"
                format = "senml-cbor"
            "#,
            corpus: include_str!("../../corpora/senml-cbor.txt"),
        },
    ),
    (
        "sparkplug",
        Target {
            settings: r##"
                [[presilver.mapping]]
                topic = "spBv1.0/#"
                format = "sparkplug"
            "##,
            corpus: include_str!("../../corpora/sparkplug.txt"),
        },
    ),
    (
        "homie",
        Target {
            settings: r##"
                [[presilver.mapping]]
                topic = "homie/#"
                format = "homie"
            "##,
            corpus: include_str!("../../corpora/homie.txt"),
        },
    ),
    (
        "zigbee2mqtt",
        Target {
            settings: r##"
                [[presilver.mapping]]
                topic = "zigbee2mqtt/#"
                format = "zigbee2mqtt"
            "##,
            corpus: include_str!("../../corpora/zigbee2mqtt.txt"),
        },
    ),
    (
        "tasmota",
        Target {
            settings: r#"
                [[presilver.mapping]]
                topic = "tele/{device}/{kind}"
                format = "tasmota"
            "#,
            corpus: include_str!("../../corpora/tasmota.txt"),
        },
    ),
    (
        "plain",
        Target {
            settings: r#"
                [[presilver.mapping]]
                topic = "plain/{device}/{metric}"
                format = "plain"
                metric = "{metric}"
            "#,
            corpus: include_str!("../../corpora/plain.txt"),
        },
    ),
];

/// The other sections are not looked at here.
#[derive(serde::Deserialize)]
struct Loose {
    presilver: Config,
    #[serde(flatten)]
    _rest: std::collections::BTreeMap<String, serde::de::IgnoredAny>,
}

impl Check for Loose {
    fn check(&self, mistakes: &mut Mistakes) {
        self.presilver.check(mistakes);
    }
}

fn judge_of(settings: &str) -> Judge {
    let layers = Layers { default: crate::config::DEFAULT, env_prefix: "EDGE" };
    let config: Loose = shared::config::load_from(&layers, Some(("fuzz.toml", settings)), &[]).expect("no mistake");
    Judge::new(&config.presilver)
}

/// Marsaglia's xorshift: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Below `end`; 0 if that is 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % (end.max(1) as u64)).unwrap_or_default()
    }
}

/// Bytes that have a meaning somewhere: signs, lengths, breaks, quotes, brackets.
const TELLING: [u8; 24] = [
    0, 1, 0x18, 0x1b, 0x1f, 0x5f, 0x7f, 0x80, 0x9f, 0xbf, 0xc1, 0xf9, 0xfb, 0xff, b'"', b'{', b'}', b'[', b']', b',',
    b':', b'-', b'e', b'9',
];

fn mutate(dice: &mut Dice, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..1 + dice.below(4) {
        let at = dice.below(bytes.len());
        match dice.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
            1 if !bytes.is_empty() => bytes[at] = TELLING[dice.below(TELLING.len())],
            2 => bytes.insert(at, TELLING[dice.below(TELLING.len())]),
            3 => {
                let end = (at + 1 + dice.below(8)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + 1 + dice.below(32)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            5 => bytes.truncate(at),
            6 => {
                let from = dice.below(other.len());
                let end = (from + 1 + dice.below(32)).min(other.len());
                bytes.splice(at..at, other[from..end].iter().copied());
            }
            _ => {
                let figures = dice.roll().to_string();
                bytes.splice(at..at, figures.bytes());
            }
        }
    }
    bytes.truncate(BYTES_MAX);
}

fn bytes_of(text: &str) -> Vec<u8> {
    let Some(hex) = text.strip_prefix("hex:") else { return text.as_bytes().to_vec() };
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

fn corpus(text: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let entry = |line: &str| {
        let (topic, payload) = line.split_once('\t').expect("a tab behind the topic");
        (topic.as_bytes().to_vec(), bytes_of(payload))
    };
    text.lines().filter(|line| !line.is_empty()).map(entry).collect()
}

/// What must hold of every message, whatever it is.
fn faults(judged: &Judged) -> Vec<String> {
    let mut faults = Vec::new();
    let mut expect = |holds: bool, what: &str| {
        if !holds {
            faults.push(what.to_owned());
        }
    };
    expect(!judged.verdicts.is_empty() || !judged.left_out.is_empty(), "nothing vanishes");
    expect(judged.verdicts.len() <= VERDICTS_MAX, "the number of verdicts is bounded");
    for Verdict { item, .. } in &judged.verdicts {
        match item {
            HeldItem::Reading(reading) => {
                let fine = match &reading.value {
                    Value::Number(number) => number.is_finite(),
                    Value::Text(text) => text.len() <= TEXT_BYTES_MAX,
                    Value::Bool(_) => true,
                };
                expect(fine, "a number is finite, a text is short");
                let metric = reading.metric.as_str();
                expect(!metric.is_empty() && metric.len() <= METRIC_BYTES_MAX, "a metric has a name");
                let device = reading.device.as_str();
                expect(!device.is_empty() && device.len() <= DEVICE_BYTES_MAX, "a device has a name");
                expect(reading.event_time.is_printable(), "a time has a year");
            }
            HeldItem::Rejected { rejected, .. } => {
                expect(!rejected.reasons.is_empty(), "a refusal has reasons");
                expect(rejected.reasons.iter().all(|reason| reason.contains(": ")), "a reason has its kind");
            }
        }
    }
    faults
}

fn run(inputs: u64) {
    let inputs = std::env::var("FUZZ_INPUTS").ok().and_then(|text| text.parse().ok()).unwrap_or(inputs);
    let only = std::env::var("FUZZ_FORMAT").ok();
    for (name, target) in TARGETS {
        if only.as_deref().is_some_and(|only| only != name) {
            continue;
        }
        let corpus = corpus(target.corpus);
        let mut judge = judge_of(target.settings);
        let received = Timestamp::parse_rfc3339("2026-11-23T10:00:00Z").expect("a time");
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        for input in 0..inputs {
            let (topic, payload) = &corpus[dice.below(corpus.len())];
            let other = &corpus[dice.below(corpus.len())];
            let (mut topic, mut payload) = (topic.clone(), payload.clone());
            match dice.below(16) {
                0 => {} // as it is: what is remembered goes on
                1 => mutate(&mut dice, &mut topic, &other.0),
                _ => mutate(&mut dice, &mut payload, &other.1),
            }
            let topic = String::from_utf8_lossy(&topic);
            let publish =
                Publish { topic: &topic, payload: &payload, cut: None, received, clock_known_good: true, again: false };
            let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| judge.judge(&publish)));
            let faults = match &judged {
                Ok(judged) => faults(judged),
                Err(_) => vec!["a panic".to_owned()],
            };
            let shown = if faults.is_empty() { &[][..] } else { &payload[..] };
            let hex: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
            assert!(
                faults.is_empty(),
                "{name}, input {input}: {faults:?}; into corpora/{name}.txt:\n{topic}\thex:{hex}"
            );
        }
    }
}

#[test]
fn no_mutated_payload_of_any_format_panics_vanishes_or_passes_a_bound() {
    run(INPUTS);
}

#[test]
#[ignore = "ten million inputs of each format take long"]
fn ten_million_mutated_payloads_of_every_format_neither_panic_nor_vanish_nor_pass_a_bound() {
    run(INPUTS_MANY);
}
