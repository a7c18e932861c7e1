//! The packs of RFC 8428, sections 5 and 6, and what they resolve to; and packs that nobody should send.

use crate::presilver::format::shown::Reader;
use crate::presilver::mapping::{Format, Mapping};

fn check(payload: &str, lines: &[&str]) {
    assert_eq!(Reader::of("senml/{device}", Format::Senml).lines("senml/gw", payload), lines, "{payload}");
}

#[test]
fn a_name_without_a_base_is_the_metric_of_the_topics_device() {
    check(
        r#"[{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1}]"#,
        &["gw urn:dev:ow:10e2073a01080063 = 23.1 Cel"],
    );
}

#[test]
fn base_fields_hold_for_the_records_behind_and_times_add_up() {
    check(
        r#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"voltage","u":"V","v":120.1},{"n":"current","u":"A","v":1.2}]"#,
        &["urn:dev:ow:10e2073a01080063 voltage = 120.1 V", "urn:dev:ow:10e2073a01080063 current = 1.2 A"],
    );
    check(
        r#"[{"bn":"urn:dev:ow:10e2073a0108006:","bt":1.276020076001e+09,"bu":"A","bver":5,"n":"voltage","u":"V","v":120.1},
            {"n":"current","t":-5,"v":1.2},{"n":"current","t":-4,"v":1.3},{"n":"current","v":1.7}]"#,
        &[
            "urn:dev:ow:10e2073a0108006 voltage = 120.1 V at 2010-06-08T18:01:16.001Z",
            "urn:dev:ow:10e2073a0108006 current = 1.2 A at 2010-06-08T18:01:11.001Z",
            "urn:dev:ow:10e2073a0108006 current = 1.3 A at 2010-06-08T18:01:12.001Z",
            "urn:dev:ow:10e2073a0108006 current = 1.7 A at 2010-06-08T18:01:16.001Z",
        ],
    );
}

/// The RFC's moving sensor: every record has the one name, and units tell apart what it measures.
#[test]
fn records_without_a_name_have_the_base_name() {
    check(
        r#"[{"bn":"urn:dev:ow:10e2073a01080063","bt":1.320067464e+09,"bu":"%RH","v":20},{"u":"lon","v":24.30621},
            {"u":"lat","v":60.07965},{"t":60,"v":20.3},{"u":"%EL","t":150,"v":98}]"#,
        &[
            "urn:dev:ow:10e2073a01080063 urn:dev:ow:10e2073a01080063 = 20 %RH at 2011-10-31T13:24:24Z",
            "urn:dev:ow:10e2073a01080063 urn:dev:ow:10e2073a01080063 = 24.30621 lon at 2011-10-31T13:24:24Z",
            "urn:dev:ow:10e2073a01080063 urn:dev:ow:10e2073a01080063 = 60.07965 lat at 2011-10-31T13:24:24Z",
            "urn:dev:ow:10e2073a01080063 urn:dev:ow:10e2073a01080063 = 20.3 %RH at 2011-10-31T13:25:24Z",
            "urn:dev:ow:10e2073a01080063 urn:dev:ow:10e2073a01080063 = 98 %EL at 2011-10-31T13:26:54Z",
        ],
    );
}

#[test]
fn every_type_of_value_is_taken_but_data() {
    check(
        r#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"temp","u":"Cel","v":23.1},{"n":"label","vs":"Machine Room"},
            {"n":"open","vb":false},{"n":"nfc-reader","vd":"aGkgCg"}]"#,
        &[
            "urn:dev:ow:10e2073a01080063 temp = 23.1 Cel",
            "urn:dev:ow:10e2073a01080063 label = \"Machine Room\"",
            "urn:dev:ow:10e2073a01080063 open = false",
            "urn:dev:ow:10e2073a01080063 nfc-reader ![type: data (`vd`), which are neither number, boolean nor text]",
        ],
    );
}

#[test]
fn a_new_base_name_begins_a_new_device_and_leaves_the_other_bases() {
    check(
        r#"[{"bn":"2001:db8::2/","bt":1.320078429e+09,"n":"temperature","u":"Cel","v":27.2},{"n":"humidity","u":"%RH","v":80},
            {"bn":"2001:db8::1/","n":"temperature","u":"Cel","v":12.3}]"#,
        &[
            "2001:db8::2 temperature = 27.2 Cel at 2011-10-31T16:27:09Z",
            "2001:db8::2 humidity = 80 %RH at 2011-10-31T16:27:09Z",
            "2001:db8::1 temperature = 12.3 Cel at 2011-10-31T16:27:09Z",
        ],
    );
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
        &["d p = 101.5 W", "d p.sum = 1002 W", "d q = 100 W", "d q.sum = 1000 W", "d r = \"on\" W", "d r.sum = 1000 W"],
    );
    check(r#"[{"n":"e","u":"J","s":3.5}]"#, &["gw e.sum = 3.5 J"]);
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

#[test]
fn a_pack_that_would_be_read_wrong_is_refused_as_a_whole() {
    for (payload, why) in [
        (r#"{"n":"a","v":1}"#, "not a list of SenML records"),
        ("[1]", "no SenML record: 1"),
        ("[]", "holds no metric"),
        (r#"[{"bn":"d:"}]"#, "holds no metric"),
        (r#"[{"bver":11,"n":"a","v":1}]"#, "SenML of version 11, 10 is known"),
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
    let current = |value: &str, second: u32| {
        format!("urn:dev:ow:10e2073a0108006 current = {value} A at 2010-06-08T18:01:{second}.001Z")
    };
    let mut expected = vec!["urn:dev:ow:10e2073a0108006 voltage = 120.1 V at 2010-06-08T18:01:16.001Z".to_owned()];
    expected.extend(
        [("1.2", 11), ("1.3", 12), ("1.4", 13), ("1.5", 14), ("1.6", 15), ("1.7", 16)].map(|(v, s)| current(v, s)),
    );
    assert_eq!(lines, expected);
}
