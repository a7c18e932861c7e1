//! JSON of many shapes, and what mappings make of it.

use std::collections::BTreeMap;

use crate::presilver::format::shown::Reader;
use crate::presilver::mapping::{Field, Format, Mapping, Nulls, TimeUnit};

const TOPIC: &str = "line/{device}";

fn json() -> Mapping {
    Mapping { topic: TOPIC.into(), format: Format::Json, ..Mapping::default() }
}

fn check(mapping: Mapping, payload: &str, lines: &[&str]) {
    assert_eq!(Reader::with(mapping).lines("line/p", payload), lines, "{payload}");
}

#[test]
fn members_are_metrics_and_nested_ones_with_a_separator_too() {
    let payload = r#"{"ts":"2026-11-23T10:00:00Z","n":4,"a":{"b":{"c":1,"d":[true,{"v":2,"u":"V"}]},"v":3},"e.f":"x"}"#;
    check(
        Mapping { separator: Some("/".into()), ..json() },
        payload,
        &[
            "p a/b/c = 1 at 2026-11-23T10:00:00Z n=4",
            "p a/b/d/0 = true at 2026-11-23T10:00:00Z n=4",
            "p a/b/d/1 = 2 V at 2026-11-23T10:00:00Z n=4",
            "p a/v = 3 at 2026-11-23T10:00:00Z n=4",
            "p e.f = \"x\" at 2026-11-23T10:00:00Z n=4",
        ],
    );
    check(
        json(),
        r#"{"a":{"b":1},"c":[1],"d":{"v":2,"u":"V"}}"#,
        &[
            "p a ![type: an object; what is in it is taken with a `separator` in its mapping]",
            "p c ![type: neither number, boolean nor text]",
            "p d = 2 V",
        ],
    );
    check(json(), "{}", &["! payload: holds no metric"]);
    check(json(), "5", &["! payload: not an object: 5"]);
    check(Mapping { metric: Some("level".into()), ..json() }, "5", &["p level = 5"]);
}

#[test]
fn what_stands_twice_or_is_of_another_kind_costs_as_little_as_it_can() {
    for (payload, lines) in [
        (r#"{"a":1,"a":2,"b":3}"#, &["p a ![name: the metric stands twice]", "p b = 3"][..]),
        (r#"{"a":1,"b":3,"a":1,"a":"x"}"#, &["p a ![name: the metric stands twice]", "p b = 3"]),
        (r#"{"":1,"":2,"b":3}"#, &["p  ![name: the metric name is empty]", "p b = 3"]),
        (r#"{"ts":1,"ts":2,"a":1}"#, &["p a = 1 ![time: `ts` stands twice in the payload]"]),
        (r#"{"n":1.5,"a":1}"#, &["p a = 1 ![number: `n` is no whole number: 1.5]"]),
        (
            r#"{"ts":"2026-11-23T10:00:00","a":1}"#,
            &["p a = 1 ![time: has no offset from UTC: \"2026-11-23T10:00:00\"; write `time-offset` into its mapping]"],
        ),
        (r#"{"ts":null,"n":null,"a":1}"#, &["p a = 1"]),
        (r#"{"":1,"a":1}"#, &["p  ![name: the metric name is empty]", "p a = 1"]),
    ] {
        check(json(), payload, lines);
    }
}

#[test]
fn a_null_beside_a_value_a_flattened_name_and_a_cbor_map_are_no_way_around_that() {
    let twice = "p a ![name: the metric stands twice]";
    let nulls = Mapping { nulls: Some(Nulls::LeaveOut), ..json() };
    check(nulls.clone(), r#"{"a":null,"a":2}"#, &[twice, "left out a: null"]);
    check(nulls.clone(), r#"{"a":2,"a":null}"#, &[twice, "left out a: null"]);
    check(nulls, r#"{"a":null,"a":null}"#, &["left out a: null", "left out a: null"]);
    let flat = Mapping { separator: Some(".".into()), ..json() };
    check(flat, r#"{"a":{"b":1},"a.b":2,"c":3}"#, &["p a.b ![name: the metric stands twice]", "p c = 3"]);
    let mut cbor = Reader::with(Mapping { format: Format::Cbor, ..json() });
    assert_eq!(cbor.lines("line/p", b"\xa3\x61a\x01\x61a\x02\x61b\x03"), [twice, "p b = 3"]);
}

#[test]
fn every_star_stands_for_members_and_elements_and_what_encloses_a_record_holds_for_it() {
    let by_name = Mapping {
        records: Some("*".into()),
        device: Some("{device}-{*}".into()),
        leave_out: vec!["fw".into()],
        ..json()
    };
    check(
        by_name,
        r#"{"oven":{"t":200,"fw":"1"},"press":{"t":60}}"#,
        &["p-oven t = 200", "p-press t = 60", "left out fw: leave-out"],
    );
    let one_value = Mapping {
        records: Some("groups.*.values.*".into()),
        device: Some("{.id|device}".into()),
        metric: Some("{.name|.kind}".into()),
        value: Some("x".into()),
        unit: Some("unit".into()),
        time: Some("at".into()),
        time_unit: Some(TimeUnit::S),
        nulls: Some(Nulls::LeaveOut),
        ..json()
    };
    check(
        one_value.clone(),
        r#"{"at":1795428000,"unit":"V","groups":[{"id":"g1","kind":"k","values":[{"x":1},{"x":2,"name":"m","unit":"A","at":1795428001}]},
            {"kind":"k","values":[{"x":null},{},{"x":3}]}]}"#,
        &[
            "g1 k = 1 V at 2026-11-23T10:00:00Z",
            "g1 m = 2 A at 2026-11-23T10:00:01Z",
            "p k ![type: a record without its value] at 2026-11-23T10:00:00Z",
            "p k = 3 V at 2026-11-23T10:00:00Z",
            "left out k: null",
        ],
    );
    check(one_value.clone(), r#"{"groups":{}}"#, &["! payload: no record at `groups.*.values.*`"]);
    let many = format!(r#"{{"groups":[{{"values":[{}]}}]}}"#, vec!["{}"; 1_001].join(","));
    check(one_value, &many, &["! payload: more than 1000 records"]);
}

#[test]
fn fields_name_what_is_taken_with_unit_and_factor() {
    let more =
        |at: &str, unit: &str, scale: f64| Field::More { at: at.into(), unit: Some(unit.into()), scale: Some(scale) };
    let fields = BTreeMap::from([
        ("temperature".to_owned(), more("/env/t.1", "Cel", 0.1)),
        ("humidity".to_owned(), Field::At("env.h".into())),
        ("state".to_owned(), more("s", "", 2.0)),
        ("far".to_owned(), more("far", "m", 1e300)),
        ("gone".to_owned(), Field::At("not.there".into())),
    ]);
    check(
        Mapping { fields, ..json() },
        r#"{"env":{"t.1":215,"h":{"v":40,"u":"%"}},"s":"on","far":1e300,"other":1}"#,
        &[
            "p far ![type: 1e300 times 1e300 is more than a double can hold]",
            "p humidity = 40 %",
            "p state ![type: \"on\" cannot be multiplied by 2]",
            "p temperature = 21.5 Cel",
        ],
    );
}
