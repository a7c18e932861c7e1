//! The packs of RFC 8428, sections 5.1.1 to 5.1.7 and 6, as they stand there, and what they resolve to; what its text says
//! beside; and packs that nobody should send.

use crate::presilver::format::shown::Reader;
use crate::presilver::mapping::{Format, Mapping};

fn check(payload: &str, lines: &[&str]) {
    assert_eq!(Reader::of("senml/{device}", Format::Senml).lines("senml/gw", payload), lines, "{payload}");
}

/// A section of RFC 8428, its example as it stands there, and what that becomes.
type Example = (&'static str, &'static str, &'static [&'static str]);

const EXAMPLES: &[Example] = &[
    (
        "5.1.1 single data point",
        r#"[{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1}]"#,
        &["gw urn:dev:ow:10e2073a01080063 = 23.1 Cel"],
    ),
    (
        "5.1.2 multiple data points, now",
        r#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"voltage","u":"V","v":120.1},{"n":"current","u":"A","v":1.2}]"#,
        &["urn:dev:ow:10e2073a01080063 voltage = 120.1 V", "urn:dev:ow:10e2073a01080063 current = 1.2 A"],
    ),
    (
        "5.1.2 multiple data points, of the last seconds",
        r#"[{"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,"bu":"A","bver":5,"n":"voltage","u":"V","v":120.1},
            {"n":"current","t":-5,"v":1.2},{"n":"current","t":-4,"v":1.3},{"n":"current","t":-3,"v":1.4},
            {"n":"current","t":-2,"v":1.5},{"n":"current","t":-1,"v":1.6},{"n":"current","v":1.7}]"#,
        LAST_SECONDS,
    ),
    (
        "5.1.2 the stream of measurements, as far as it is printed",
        r#"[{"bn":"urn:dev:ow:10e2073a01080063","bt":1.320067464e+09,"bu":"%RH","v":21.2},{"t":10,"v":21.3},{"t":20,"v":21.4},
            {"t":30,"v":21.4},{"t":40,"v":21.5},{"t":50,"v":21.5},{"t":60,"v":21.5},{"t":70,"v":21.6},{"t":80,"v":21.7}]"#,
        &[
            "urn:dev:ow:10e2073a01080063 urn:dev:ow:10e2073a01080063 = 21.2 %RH at 2011-10-31T13:24:24Z",
            "urn:dev:ow:10e2073a01080063 urn:dev:ow:10e2073a01080063 = 21.3 %RH at 2011-10-31T13:24:34Z",
            "urn:dev:ow:10e2073a01080063 urn:dev:ow:10e2073a01080063 = 21.4 %RH at 2011-10-31T13:24:44Z",
            "urn:dev:ow:10e2073a01080063 urn:dev:ow:10e2073a01080063 = 21.4 %RH at 2011-10-31T13:24:54Z",
            "urn:dev:ow:10e2073a01080063 urn:dev:ow:10e2073a01080063 = 21.5 %RH at 2011-10-31T13:25:04Z",
            "urn:dev:ow:10e2073a01080063 urn:dev:ow:10e2073a01080063 = 21.5 %RH at 2011-10-31T13:25:14Z",
            "urn:dev:ow:10e2073a01080063 urn:dev:ow:10e2073a01080063 = 21.5 %RH at 2011-10-31T13:25:24Z",
            "urn:dev:ow:10e2073a01080063 urn:dev:ow:10e2073a01080063 = 21.6 %RH at 2011-10-31T13:25:34Z",
            "urn:dev:ow:10e2073a01080063 urn:dev:ow:10e2073a01080063 = 21.7 %RH at 2011-10-31T13:25:44Z",
        ],
    ),
    (
        "5.1.5 multiple data types",
        r#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"temp","u":"Cel","v":23.1},{"n":"label","vs":"Machine Room"},
            {"n":"open","vb":false},{"n":"nfc-reader","vd":"aGkgCg"}]"#,
        &[
            "urn:dev:ow:10e2073a01080063 temp = 23.1 Cel",
            "urn:dev:ow:10e2073a01080063 label = \"Machine Room\"",
            "urn:dev:ow:10e2073a01080063 open = false",
            "urn:dev:ow:10e2073a01080063 nfc-reader ![type: data (`vd`), which are neither number, boolean nor text]",
        ],
    ),
    (
        "5.1.6 collection of resources",
        r#"[{"bn":"2001:db8::2/","bt":1.320078429e+09,"n":"temperature","u":"Cel","v":25.2},{"n":"humidity","u":"%RH","v":30},
            {"bn":"2001:db8::1/","n":"temperature","u":"Cel","v":12.3},{"n":"humidity","u":"%RH","v":67}]"#,
        &[
            "2001:db8::2 temperature = 25.2 Cel at 2011-10-31T16:27:09Z",
            "2001:db8::2 humidity = 30 %RH at 2011-10-31T16:27:09Z",
            "2001:db8::1 temperature = 12.3 Cel at 2011-10-31T16:27:09Z",
            "2001:db8::1 humidity = 67 %RH at 2011-10-31T16:27:09Z",
        ],
    ),
    (
        "5.1.7 a thermostat",
        r#"[{"bn":"urn:dev:ow:10e2073a01080063:"},{"n":"temp","u":"Cel","v":23.1},{"n":"heat","u":"/","v":1},
            {"n":"fan","u":"/","v":0}]"#,
        &[
            "urn:dev:ow:10e2073a01080063 temp = 23.1 Cel",
            "urn:dev:ow:10e2073a01080063 heat = 1 /",
            "urn:dev:ow:10e2073a01080063 fan = 0 /",
        ],
    ),
    (
        "5.1.7 two lights on",
        r#"[{"bt":1.320078429e+09,"bu":"/","n":"2001:db8::3","v":1},{"n":"2001:db8::4","v":1}]"#,
        &["gw 2001:db8::3 = 1 / at 2011-10-31T16:27:09Z", "gw 2001:db8::4 = 1 / at 2011-10-31T16:27:09Z"],
    ),
    (
        "5.1.7 two lights off",
        r#"[{"bt":1.320078429e+09,"bu":"/","n":"2001:db8::3","v":0.5},{"n":"2001:db8::4","v":0.5},
            {"n":"2001:db8::3","t":0.1,"v":0},{"n":"2001:db8::4","t":0.1,"v":0}]"#,
        &[
            "gw 2001:db8::3 = 0.5 / at 2011-10-31T16:27:09Z",
            "gw 2001:db8::4 = 0.5 / at 2011-10-31T16:27:09Z",
            "gw 2001:db8::3 = 0 / at 2011-10-31T16:27:09.1Z",
            "gw 2001:db8::4 = 0 / at 2011-10-31T16:27:09.1Z",
        ],
    ),
];

/// Of the second pack of section 5.1.2, and of the bytes of section 6, which are the same pack.
const LAST_SECONDS: &[&str] = &[
    "urn:dev:ow:10e2073a0108006 voltage = 120.1 V at 2010-06-08T18:01:16.001Z",
    "urn:dev:ow:10e2073a0108006 current = 1.2 A at 2010-06-08T18:01:11.001Z",
    "urn:dev:ow:10e2073a0108006 current = 1.3 A at 2010-06-08T18:01:12.001Z",
    "urn:dev:ow:10e2073a0108006 current = 1.4 A at 2010-06-08T18:01:13.001Z",
    "urn:dev:ow:10e2073a0108006 current = 1.5 A at 2010-06-08T18:01:14.001Z",
    "urn:dev:ow:10e2073a0108006 current = 1.6 A at 2010-06-08T18:01:15.001Z",
    "urn:dev:ow:10e2073a0108006 current = 1.7 A at 2010-06-08T18:01:16.001Z",
];

/// Section 5.1.3: of a device that moves every record has the one name, and units tell apart what it measures.
const MOVING: &str = r#"[{"bn":"urn:dev:ow:10e2073a01080063","bt":1.320067464e+09,"bu":"%RH","v":20},{"u":"lon","v":24.30621},
    {"u":"lat","v":60.07965},{"t":60,"v":20.3},{"u":"lon","t":60,"v":24.30622},{"u":"lat","t":60,"v":60.07965},
    {"t":120,"v":20.7},{"u":"lon","t":120,"v":24.30623},{"u":"lat","t":120,"v":60.07966},{"u":"%EL","t":150,"v":98},
    {"t":180,"v":21.2},{"u":"lon","t":180,"v":24.30628},{"u":"lat","t":180,"v":60.07967}]"#;

/// Section 5.1.4: the same, resolved.
const RESOLVED: &str = r#"[{"n":"urn:dev:ow:10e2073a01080063","u":"%RH","t":1.320067464e+09,"v":20},
    {"n":"urn:dev:ow:10e2073a01080063","u":"lon","t":1.320067464e+09,"v":24.30621},
    {"n":"urn:dev:ow:10e2073a01080063","u":"lat","t":1.320067464e+09,"v":60.07965},
    {"n":"urn:dev:ow:10e2073a01080063","u":"%RH","t":1.320067524e+09,"v":20.3},
    {"n":"urn:dev:ow:10e2073a01080063","u":"lon","t":1.320067524e+09,"v":24.30622},
    {"n":"urn:dev:ow:10e2073a01080063","u":"lat","t":1.320067524e+09,"v":60.07965},
    {"n":"urn:dev:ow:10e2073a01080063","u":"%RH","t":1.320067584e+09,"v":20.7},
    {"n":"urn:dev:ow:10e2073a01080063","u":"lon","t":1.320067584e+09,"v":24.30623},
    {"n":"urn:dev:ow:10e2073a01080063","u":"lat","t":1.320067584e+09,"v":60.07966},
    {"n":"urn:dev:ow:10e2073a01080063","u":"%EL","t":1.320067614e+09,"v":98},
    {"n":"urn:dev:ow:10e2073a01080063","u":"%RH","t":1.320067644e+09,"v":21.2},
    {"n":"urn:dev:ow:10e2073a01080063","u":"lon","t":1.320067644e+09,"v":24.30628},
    {"n":"urn:dev:ow:10e2073a01080063","u":"lat","t":1.320067644e+09,"v":60.07967}]"#;

#[test]
fn the_examples_of_the_rfc_become_what_they_stand_for() {
    for (section, payload, lines) in EXAMPLES {
        assert_eq!(Reader::of("senml/{device}", Format::Senml).lines("senml/gw", payload), *lines, "{section}");
    }
}

#[test]
fn a_pack_and_what_the_rfc_resolves_it_to_are_the_same_readings() {
    let mapping = || Mapping {
        topic: "senml/{device}".into(),
        format: Format::Senml,
        device: Some("{name}".into()),
        metric: Some("{name}".into()),
        ..Mapping::default()
    };
    let lines = Reader::with(mapping()).lines("senml/gw", MOVING);
    assert_eq!(lines, Reader::with(mapping()).lines("senml/gw", RESOLVED));
    assert_eq!(lines.len(), 13);
    for (at, line) in [(1, "24.30621 lon at 2011-10-31T13:24:24Z"), (9, "98 %EL at 2011-10-31T13:26:54Z")] {
        assert!(lines[at].ends_with(line), "{}", lines[at]);
    }
}

#[test]
fn a_time_below_two_to_the_28_is_relative_to_now() {
    check(
        r#"[{"bn":"d:","bt":-60,"n":"a","v":1},{"n":"a","t":-0.5,"v":2},{"n":"a","t":60,"v":3},{"n":"a","t":70,"v":4}]"#,
        &["d a = 1 -60 s from now", "d a = 2 -60.5 s from now", "d a = 3", "d a = 4 +10 s from now"],
    );
    check(r#"[{"n":"a","t":268435455,"v":1}]"#, &["gw a = 1 +268435455 s from now"]);
    check(r#"[{"n":"a","t":268435456,"v":1}]"#, &["gw a = 1 at 1978-07-04T21:24:16Z"]);
    check(r#"[{"n":"a","t":1e18,"v":1}]"#, &["gw a = 1 ![time: outside the years 1 to 9999: 1000000000000000000]"]);
    check(r#"[{"n":"a","t":"now","v":1}]"#, &["gw a = 1 ![time: type: `t` is no number: \"now\"]"]);
}

#[test]
fn base_values_and_base_sums_are_added_and_stand_for_what_is_not_there() {
    check(
        r#"[{"bn":"d:","bv":100,"bs":1000,"bu":"W","n":"p","v":1.5,"s":2},{"n":"q"},{"n":"r","vs":"on"}]"#,
        &[
            "d p = 101.5 W",
            "d p.sum = 1002 W.s",
            "d q = 100 W",
            "d q.sum = 1000 W.s",
            "d r = \"on\" W",
            "d r.sum = 1000 W.s",
        ],
    );
    check(
        r#"[{"n":"e","u":"A","s":3.5},{"n":"on","u":"/","s":60},{"n":"x","s":1}]"#,
        &["gw e.sum = 3.5 A.s", "gw on.sum = 60 s", "gw x.sum = 1"],
    );
    check(r#"[{"bv":1.7e308,"n":"e","v":1.7e308}]"#, &["gw e ![type: inf is no finite number]"]);
}

#[test]
fn a_value_that_cannot_be_meant_costs_only_itself() {
    check(
        r#"[{"n":"a","v":"1"},{"n":"b","vb":1},{"n":"c","v":1,"vs":"1"},{"n":"d"},{"n":"e","v":1,"v":2},
            {"n":"f","u":5,"v":1},{"n":"","v":1},{"n":"g","v":1,"x":true}]"#,
        &[
            "gw a ![type: `v` is no number: \"1\"]",
            "gw b ![type: `vb` is not what its name says: 1]",
            "gw c ![type: a record with more than one value]",
            "gw d ![type: a record without a value]",
            "gw e ![type: `v` stands twice in the record]",
            "gw f ![unit: is no text]",
            "gw  ![name: the metric name is empty]",
            "gw g = 1",
        ],
    );
}

/// Sections 4.3 and 4.4: what is not known is ignored, an update time is no value, versions up to ours are read.
#[test]
fn what_need_not_be_understood_is_ignored() {
    check(
        r#"[{"bver":10,"bn":"d:","bfoo":1,"n":"a","v":1,"ut":600,"foo":"bar"},{"bver":1e1,"n":"b","vb":true}]"#,
        &["d a = 1", "d b = true"],
    );
}

#[test]
fn a_pack_that_would_be_read_wrong_is_refused_as_a_whole() {
    for (payload, why) in [
        (r#"{"n":"a","v":1}"#, "not a list of SenML records"),
        ("[1]", "no SenML record: 1"),
        ("[]", "holds no metric"),
        (r#"[{"bn":"d:"}]"#, "holds no metric"),
        (r#"[{"bver":11,"n":"a","v":1}]"#, "SenML of version 11, 10 is known"),
        (r#"[{"bver":"10","n":"a","v":1}]"#, "`bver` is no number"),
        (r#"[{"n":"a","v":1},{"brate_":3}]"#, "`brate_` must be understood, and is not"),
        (r#"[{"n":"a","v":1},{"n":"b","v":2,"rate_":3}]"#, "`rate_` must be understood, and is not"),
        (r#"[{"bn":5,"n":"a","v":1}]"#, "`bn` is no text: 5"),
        (r#"[{"bt":"now","n":"a","v":1}]"#, "`bt` is no number"),
        (r#"[{"bn":"a","bn":"b","n":"a","v":1}]"#, "`bn` stands twice in a record"),
        (r#"[{"n":["a"],"v":1}]"#, "`n` is no text: a list"),
    ] {
        let lines = Reader::of("senml/{device}", Format::Senml).lines("senml/gw", payload);
        assert!(
            matches!(&lines[..], [line] if line.starts_with("! payload: ") && line.contains(why)),
            "{payload}: {lines:?}"
        );
    }
}

#[test]
fn names_are_put_together_as_the_mapping_says() {
    let mapping = Mapping {
        topic: "senml/{site}".into(),
        format: Format::Senml,
        device: Some("{site}".into()),
        metric: Some("{name}".into()),
        leave_out: vec!["*:battery".into()],
        ..Mapping::default()
    };
    assert_eq!(
        Reader::with(mapping).lines("senml/north", r#"[{"bn":"urn:dev:1:","n":"t","v":1},{"n":"battery","v":2}]"#),
        ["north urn:dev:1:t = 1", "left out urn:dev:1:battery: leave-out"]
    );
}

/// Section 6: the second pack of section 5.1.2 with integers as labels.
#[test]
fn the_cbor_of_the_rfc_is_the_pack_that_it_stands_for() {
    let hex = "87a721781b75726e3a6465763a6f773a3130653230373361303130383030363a22fb41d303a15b001062236141200500\
               67766f6c7461676501615602fb405e066666666666a3006763757272656e74062402fb3ff3333333333333a3006763757272\
               656e74062302fb3ff4cccccccccccda3006763757272656e74062202fb3ff6666666666666a3006763757272656e74062102\
               f93e00a3006763757272656e74062002fb3ff999999999999aa3006763757272656e74060002fb3ffb333333333333";
    let bytes: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect();
    let lines = Reader::of("senml/{device}", Format::SenmlCbor).lines("senml/gw", &bytes);
    assert_eq!(lines, LAST_SECONDS);
}
