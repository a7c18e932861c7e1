use base64::Engine as _;
use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::json;
use shared::rules::TimeWindow;

use shared::time::Timestamp;

use super::*;
use crate::silver::judge::{Rules, Unique, judge};

const NOW: i64 = 1_790_000_000_000_000;

pub(in crate::silver) fn event<'a>(device: &'a str, body: &'a [u8]) -> Event<'a> {
    Event {
        origin: Origin {
            hub: "hub".into(),
            incarnation: 7,
            partition_id: 1,
            sequence_number: 42,
            enqueued: Some(Timestamp::from_micros(NOW)),
            ingested: Timestamp::from_micros(NOW),
        },
        body,
        packed: false,
        device: Some(device),
        message_id: None,
        message_source: Some("Telemetry"),
        hub_retention: false,
        properties: Properties::None,
        replay: None,
    }
}

fn show(event: &Event<'_>) -> String {
    show_by(event, &Rules::new(TimeWindow::SILVER, Unique::default()))
}

fn show_by(event: &Event<'_>, rules: &Rules) -> String {
    let decoded = decode(event, rules);
    let mut text = String::new();
    for mut row in decoded.rows {
        judge(&mut row, &event.origin, rules);
        match row {
            Row::Reading(row) => {
                let id = row.id(&event.origin);
                text += &format!("reading {id} {}.{}={}", row.device, row.metric, row.value);
                text += &row.unit.map(|unit| format!(" [{unit}]")).unwrap_or_default();
                text += &row.source_seq.map(|n| format!(" n={n}")).unwrap_or_default();
                text += &row.numbered.map(|it| format!(" high={}", it.high)).unwrap_or_default();
                text += &row.rescued.map(|rest| format!(" rescued={rest}")).unwrap_or_default();
            }
            Row::Refused(row) => {
                let id = row.id(&event.origin);
                let of = |part: Option<String>| part.unwrap_or_else(|| "?".into()).escape_debug().to_string();
                text += &format!("refused by {} {id} {}.{}", row.by.as_str(), of(row.device), of(row.metric));
                text += &format!(" {:?} raw={:?}", row.reasons, String::from_utf8_lossy(&row.raw));
                if row.raw_len != length(&row.raw) {
                    text += &format!(" of {}", row.raw_len);
                }
            }
        }
        text += "\n";
    }
    for gap in decoded.gaps {
        let of = |part: Option<String>| part.unwrap_or_else(|| "?".into());
        text +=
            &format!("gap {} {}/{} {}..{}\n", gap.kind.as_str(), of(gap.gateway_id), of(gap.epoch), gap.from, gap.to);
    }
    text.trim_end().to_owned()
}

fn check(body: &str, expected: Expect) {
    expected.assert_eq(&show(&event("g", body.as_bytes())));
}

/// An Envelope of gateway `g` around some members.
fn enveloped(members: &str) -> String {
    format!(r#"{{"v":1,"gw":"g","epoch":"00000000000000aa","high":9,{members}}}"#)
}

#[test]
fn an_envelope_is_its_readings_refusals_gaps_and_closings() {
    let raw = base64::engine::general_purpose::STANDARD.encode(r#"{"t":900}"#);
    check(
        &enveloped(&format!(
            r#""rules":"r","readings":[{{"s":1,"d":"d","m":"t","v":21.5,"u":"Cel","t":{NOW},"n":5}},{{"s":2,"d":"d","m":"on","vb":true,"t":{NOW}}},{{"s":3,"d":"d","m":"state","vs":"idle","t":{NOW}}}],"rejected":[{{"s":4,"d":"d","m":"t","topic":"telemetry/d","reasons":["range: 900 > 150"],"raw":"{raw}","raw_len":9}}],"gaps":[{{"epoch":"00000000000000aa","from":5,"to":6,"reason":"dropped"}}],"closed":[{{"epoch":"00000000000000bb","last":7}},{{"epoch":"00000000000000cc","last":null,"mark":3}}]"#
        )),
        expect![[r#"
            reading g/00000000000000aa/1 d.t=21.5 [Cel] n=5 high=9
            reading g/00000000000000aa/2 d.on=true high=9
            reading g/00000000000000aa/3 d.state="idle" high=9
            refused by edge g/00000000000000aa/4 d.t ["range: 900 > 150"] raw="{\"t\":900}"
            gap given-up g/00000000000000aa 5..6
            gap closed g/00000000000000bb 1..7
            gap unknown-loss g/00000000000000cc 1..3"#]],
    );
}

#[test]
fn one_element_that_cannot_be_read_costs_only_itself() {
    let good = format!(r#"{{"s":1,"d":"d","m":"t","v":1,"t":{NOW}}}"#);
    for (bad, expected) in [
        (
            format!(r#"{{"s":2,"d":"d","m":"t","v":1e400,"t":{NOW}}}"#),
            expect![[r#"
                refused by silver g/00000000000000aa/2 d.t ["type: `v` is no number that a double can hold: 1e400"] raw="{\"s\":2,\"d\":\"d\",\"m\":\"t\",\"v\":1e400,\"t\":1790000000000000}"
                reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            format!(r#"{{"s":2,"d":"d","m":"t","v":1,"t":{NOW},"s":3}}"#),
            expect![[r#"
                refused by silver 7/1/42/0 d.t ["type: `s` stands twice"] raw="{\"s\":2,\"d\":\"d\",\"m\":\"t\",\"v\":1,\"t\":1790000000000000,\"s\":3}"
                reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            format!(r#"{{"s":0,"d":"d","m":"t","v":1,"t":{NOW}}}"#),
            expect![[r#"
            refused by silver 7/1/42/0 d.t ["seq: 0 is below 1"] raw="{\"s\":0,\"d\":\"d\",\"m\":\"t\",\"v\":1,\"t\":1790000000000000}"
            reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            format!(r#"{{"s":-9223372036854775808,"d":"d","m":"t","v":1,"t":{NOW}}}"#),
            expect![[r#"
            refused by silver 7/1/42/0 d.t ["seq: -9223372036854775808 is below 1"] raw="{\"s\":-9223372036854775808,\"d\":\"d\",\"m\":\"t\",\"v\":1,\"t\":1790000000000000}"
            reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            format!(r#"{{"s":18446744073709551615,"d":"d","m":"t","v":1,"t":{NOW}}}"#),
            expect![[r#"
                refused by silver 7/1/42/0 d.t ["type: `s` is no whole number of 64 bits: 18446744073709551615"] raw="{\"s\":18446744073709551615,\"d\":\"d\",\"m\":\"t\",\"v\":1,\"t\":1790000000000000}"
                reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            format!(r#"{{"s":9223372036854775807,"d":"d","m":"t","v":1,"t":{NOW}}}"#),
            expect![[r#"
            reading g/00000000000000aa/9223372036854775807 d.t=1 high=9223372036854775807
            reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            r#"{"s":2,"d":"d","m":"t","v":1}"#.to_owned(),
            expect![[r#"
                refused by silver g/00000000000000aa/2 d.t ["type: there is no `t`"] raw="{\"s\":2,\"d\":\"d\",\"m\":\"t\",\"v\":1}"
                reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            format!(r#"{{"s":2,"d":"d","m":"t","t":{NOW}}}"#),
            expect![[r#"
            refused by silver g/00000000000000aa/2 d.t ["type: not exactly one of v, vb and vs"] raw="{\"s\":2,\"d\":\"d\",\"m\":\"t\",\"t\":1790000000000000}"
            reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            format!(r#"{{"s":2,"d":"d","m":"t","v":1,"vs":"x","t":{NOW}}}"#),
            expect![[r#"
            refused by silver g/00000000000000aa/2 d.t ["type: not exactly one of v, vb and vs"] raw="{\"s\":2,\"d\":\"d\",\"m\":\"t\",\"v\":1,\"vs\":\"x\",\"t\":1790000000000000}"
            reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            format!(r#"{{"s":2,"d":"","m":"a\u0000b","v":1,"u":"a\nb","t":{NOW}}}"#),
            expect![[r#"
                refused by silver g/00000000000000aa/2 .a\0b ["name: the device name is empty", "name: the metric name holds a control character", "unit: longer than 64 bytes, or holds a control character"] raw="{\"s\":2,\"d\":\"\",\"m\":\"a\\u0000b\",\"v\":1,\"u\":\"a\\nb\",\"t\":1790000000000000}"
                reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            r#"{"s":2,"d":"d","m":"t","v":1,"t":9223372036854775807}"#.to_owned(),
            expect![[r#"
            refused by silver g/00000000000000aa/2 d.t ["ahead: 9223372036854775807us is more than 3600 s after 2026-09-21T14:13:20Z"] raw="{\"s\":2,\"d\":\"d\",\"m\":\"t\",\"v\":1,\"t\":9223372036854775807}"
            reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            r#"{"s":2,"d":"d","m":"t","v":1,"t":-9223372036854775808}"#.to_owned(),
            expect![[r#"
            refused by silver g/00000000000000aa/2 d.t ["age: -9223372036854775808us is more than 34560000 s before 2026-09-21T14:13:20Z"] raw="{\"s\":2,\"d\":\"d\",\"m\":\"t\",\"v\":1,\"t\":-9223372036854775808}"
            reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            format!(r#"{{"s":2,"d":"d","m":"t","v":-1e308,"t":{NOW},"r":9223372036854775807}}"#),
            expect![[r#"
            reading g/00000000000000aa/2 d.t=-100000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 high=9
            reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            format!(r#"{{"s":2,"d":"d'\"","m":"m'","vs":"a\u0000'\"","u":"'","t":{NOW}}}"#),
            expect![[r#"
            reading g/00000000000000aa/2 d'".m'="a\0'\"" ['] high=9
            reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            "17".to_owned(),
            expect![[r#"
                refused by silver 7/1/42/0 ?.? ["undecodable: invalid type: integer `17`, expected a JSON object at line 1 column 2"] raw="17"
                reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            "null".to_owned(),
            expect![[r#"
                refused by silver 7/1/42/0 ?.? ["undecodable: invalid type: null, expected a JSON object at line 1 column 4"] raw="null"
                reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
    ] {
        check(&enveloped(&format!(r#""readings":[{bad},{good}]"#)), expected);
    }
}

#[test]
fn gaps_and_closings_that_cannot_be_read_go_to_quarantine_without_a_seq() {
    check(
        &enveloped(
            r#""gaps":[{"epoch":"00000000000000aa","from":9,"to":3},{"epoch":"00000000000000aa","from":0,"to":3},{"epoch":"x","from":1,"to":3}],"closed":[{"epoch":"00000000000000aa","last":0},{"epoch":"00000000000000aa","last":null},{"epoch":"00000000000000aa","last":null,"mark":-1},{"epoch":"00000000000000aa","last":null,"mark":0}]"#,
        ),
        expect![[r#"
            refused by silver 7/1/42/0 ?.? ["gap: 9..3 is no range of seqs"] raw="{\"epoch\":\"00000000000000aa\",\"from\":9,\"to\":3}"
            refused by silver 7/1/42/1 ?.? ["gap: 0..3 is no range of seqs"] raw="{\"epoch\":\"00000000000000aa\",\"from\":0,\"to\":3}"
            refused by silver 7/1/42/2 ?.? ["undecodable: gap: an epoch is 16 lower-case hex digits, not \"x\" at line 1 column 12"] raw="{\"epoch\":\"x\",\"from\":1,\"to\":3}"
            refused by silver 7/1/42/3 ?.? ["closing: an epoch cannot end at seq 0"] raw="{\"epoch\":\"00000000000000aa\",\"last\":0}"
            refused by silver 7/1/42/4 ?.? ["closing: neither `last` nor `mark`: {\"epoch\":\"00000000000000aa\",\"last\":null}"] raw="{\"epoch\":\"00000000000000aa\",\"last\":null}"
            refused by silver 7/1/42/5 ?.? ["closing: no mark can be at seq -1"] raw="{\"epoch\":\"00000000000000aa\",\"last\":null,\"mark\":-1}"
            gap unknown-loss g/00000000000000aa 1..0"#]],
    );
}

#[test]
fn an_edge_refusal_keeps_its_bytes_whatever_they_are() {
    check(
        &enveloped(
            r#""rejected":[{"s":1,"d":"d","reasons":["payload: not JSON"],"raw":"!!no base64!!","raw_len":-5},{"s":2,"d":"d","reasons":[],"raw":"AAE=","raw_len":70000},{"s":0,"d":"d","reasons":[]},{"s":3}]"#,
        ),
        expect![[r#"
            refused by edge g/00000000000000aa/1 d.? ["payload: not JSON"] raw="!!no base64!!"
            refused by edge g/00000000000000aa/2 d.? [] raw="\0\u{1}" of 70000
            refused by silver 7/1/42/2 d.? ["seq: 0 is below 1"] raw="{\"s\":0,\"d\":\"d\",\"reasons\":[]}"
            refused by silver g/00000000000000aa/3 ?.? ["type: there is no `d`", "type: there is no `reasons`"] raw="{\"s\":3}""#]],
    );
}

#[test]
fn an_event_is_refused_as_a_whole_only_where_nothing_of_it_can_be_trusted() {
    for (body, expected) in [
        (
            r#"{"v":1,"gw":"other","epoch":"00000000000000aa"}"#,
            expect![[
                r#"refused by silver 7/1/42/0 g.? ["identity: the Envelope says \"other\", the hub says \"g\""] raw="{\"v\":1,\"gw\":\"other\",\"epoch\":\"00000000000000aa\"}""#
            ]],
        ),
        (
            r#"{"v":1,"gw":"g","epoch":"AA"}"#,
            expect![[
                r#"refused by silver 7/1/42/0 g.? ["undecodable: an epoch is 16 lower-case hex digits, not \"AA\""] raw="{\"v\":1,\"gw\":\"g\",\"epoch\":\"AA\"}""#
            ]],
        ),
        (
            r#"{"v":1,"gw":"g","epoch":17}"#,
            expect![[
                r#"refused by silver 7/1/42/0 g.? ["undecodable: the Envelope: type: `epoch` is no text: 17"] raw="{\"v\":1,\"gw\":\"g\",\"epoch\":17}""#
            ]],
        ),
        (
            r#"{"v":2,"gw":"g","epoch":"00000000000000aa"}"#,
            expect![[
                r#"refused by silver 7/1/42/0 g.? ["undecodable: Envelope version 2 is not known, 1 is"] raw="{\"v\":2,\"gw\":\"g\",\"epoch\":\"00000000000000aa\"}""#
            ]],
        ),
        (
            r#"{"v":1,"gw":["g"],"epoch":"00000000000000aa"}"#,
            expect![[
                r#"refused by silver 7/1/42/0 g.? ["undecodable: the Envelope: type: `gw` is no text: [\"g\"]"] raw="{\"v\":1,\"gw\":[\"g\"],\"epoch\":\"00000000000000aa\"}""#
            ]],
        ),
        (
            r#"{"v":1,"gw":"g","epoch":"00000000000000aa","readings":{}}"#,
            expect![[
                r#"refused by silver 7/1/42/0 g.? ["undecodable: the Envelope: type: `readings` is no list"] raw="{\"v\":1,\"gw\":\"g\",\"epoch\":\"00000000000000aa\",\"readings\":{}}""#
            ]],
        ),
        (
            r#"{"v":1,"gw":"g","epoch":"00000000000000aa","high":"many"}"#,
            expect![[
                r#"refused by silver 7/1/42/0 g.? ["undecodable: the Envelope: type: `high` is no whole number: \"many\""] raw="{\"v\":1,\"gw\":\"g\",\"epoch\":\"00000000000000aa\",\"high\":\"many\"}""#
            ]],
        ),
        (
            r#"{"v":1,"gw":"g","#,
            expect![[
                r#"refused by silver 7/1/42/0 g.? ["undecodable: payload: not a JSON object (EOF while parsing a value at line 1 column 16)"] raw="{\"v\":1,\"gw\":\"g\",""#
            ]],
        ),
        (
            "",
            expect![[
                r#"refused by silver 7/1/42/0 g.? ["undecodable: payload: not a JSON object (EOF while parsing a value at line 1 column 0)"] raw="""#
            ]],
        ),
        ("[]", expect![[r#"refused by silver 7/1/42/0 g.? ["undecodable: payload: holds no message"] raw="[]""#]]),
    ] {
        check(body, expected);
    }
    expect![[r#"refused by silver 7/1/42/0 g.? ["undecodable: payload: not UTF-8 from byte 0"] raw="��""#]]
        .assert_eq(&show(&event("g", b"\xff\xfe")));
    let dash = r#"{"v":1,"gw":"-","epoch":"00000000000000aa"}"#;
    expect![[r#"refused by silver 7/1/42/0 -.? ["identity: \"-\" stands for direct devices and cannot be a gateway"] raw="{\"v\":1,\"gw\":\"-\",\"epoch\":\"00000000000000aa\"}""#]].assert_eq(&show(&event("-", dash.as_bytes())));
}

#[test]
fn a_body_that_does_not_unpack_is_refused_with_its_bytes() {
    let torn = Event { packed: true, ..event("g", b"(\xb5/\xfdtorn") };
    expect![[
        r#"refused by silver 7/1/42/0 g.? ["undecodable: body is not Zstandard: incomplete frame"] raw="(�/�torn""#
    ]]
    .assert_eq(&show(&torn));
    let bomb = envelope::compress(&vec![0; envelope::UNPACKED_BYTES_MAX + 1]);
    let decoded =
        decode(&Event { packed: true, ..event("g", &bomb) }, &Rules::new(TimeWindow::SILVER, Unique::default()));
    let [Row::Refused(row)] = &decoded.rows[..] else { panic!("{decoded:?}") };
    expect!["too-large: body has more than 8388608 bytes when unpacked"].assert_eq(&row.reasons[0]);
    let long = vec![b' '; envelope::UNPACKED_BYTES_MAX + 1];
    let decoded = decode(&event("g", &long), &Rules::new(TimeWindow::SILVER, Unique::default()));
    let [Row::Refused(row)] = &decoded.rows[..] else { panic!("{decoded:?}") };
    expect!["too-large: 8388609 bytes"].assert_eq(&row.reasons[0]);
}

#[test]
fn a_direct_device_is_read_by_the_default_mapping_under_the_hubs_id() {
    check(
        r#"{"ts":"2026-09-21T14:13:20Z","n":7,"temperature":{"v":21.5,"u":"Cel"},"door":true,"bad":null}"#,
        expect![[r#"
            reading 7/1/42/0 g.temperature=21.5 [Cel] n=7
            reading 7/1/42/1 g.door=true n=7
            refused by silver 7/1/42/2 g.bad ["type: null"] raw="{\"ts\":\"2026-09-21T14:13:20Z\",\"n\":7,\"temperature\":{\"v\":21.5,\"u\":\"Cel\"},\"door\":true,\"bad\":null}""#]],
    );
    check(r#"{"temperature":1}"#, expect!["reading 7/1/42/0 g.temperature=1"]);
    check(
        r#"{"ts":"2020-01-01T00:00:00Z","temperature":1}"#,
        expect![[
            r#"refused by silver 7/1/42/0 g.temperature ["age: 2020-01-01T00:00:00Z is more than 34560000 s before 2026-09-21T14:13:20Z"] raw="{\"ts\":\"2020-01-01T00:00:00Z\",\"temperature\":1}""#
        ]],
    );
    check(
        r#"{"ts":"yesterday","temperature":1}"#,
        expect![[
            r#"refused by silver 7/1/42/0 g.temperature ["time: neither RFC 3339 nor whole microseconds: \"yesterday\""] raw="{\"ts\":\"yesterday\",\"temperature\":1}""#
        ]],
    );
    check(
        r#"{"n":1,"n":2,"temperature":1}"#,
        expect![[
            r#"refused by silver 7/1/42/0 g.temperature ["number: `n` stands twice in the payload"] raw="{\"n\":1,\"n\":2,\"temperature\":1}""#
        ]],
    );
    check(
        r#"{"t":1,"door":true,"t":2}"#,
        expect![[r#"
            refused by silver 7/1/42/0 g.t ["name: the metric stands twice"] raw="{\"t\":1,\"door\":true,\"t\":2}"
            reading 7/1/42/1 g.door=true
            refused by silver 7/1/42/2 g.t ["name: the metric stands twice"] raw="{\"t\":1,\"door\":true,\"t\":2}""#]],
    );
}

#[test]
fn what_is_no_telemetry_stays_in_bronze() {
    let body = json!({"temperature": 1}).to_string();
    let change = Event { message_source: Some("deviceLifecycleEvents"), ..event("g", body.as_bytes()) };
    assert_eq!(show(&change), "");
    let silent = Event { message_source: None, ..event("g", body.as_bytes()) };
    assert!(show(&silent).starts_with("reading"));
}

#[test]
fn only_the_ingester_itself_can_tell_of_events_the_hub_let_expire() {
    let body = br#"{"from":3,"to":41}"#;
    let own = Event { hub_retention: true, device: None, ..event("", body) };
    expect!["gap hub-retention ?/? 3..41"].assert_eq(&show(&own));
    let forged = Event { hub_retention: true, ..event("g", body) };
    expect![[r#"
        reading 7/1/42/0 g.from=3
        reading 7/1/42/1 g.to=41"#]]
    .assert_eq(&show(&forged));
    let broken = Event { hub_retention: true, device: None, ..event("", b"{}") };
    expect![[r#"refused by silver 7/1/42/0 ?.? ["undecodable: hub-retention: missing field `from` at line 1 column 2"] raw="{}""#]].assert_eq(&show(&broken));
}

#[test]
fn fields_of_later_versions_are_kept() {
    check(
        &enveloped(&format!(
            r#""colour":"red","big":1e999,"readings":[{{"s":1,"d":"d","m":"t","v":1,"t":{NOW},"z":[1,{{"a":null}}]}}]"#
        )),
        expect![[
            r#"reading g/00000000000000aa/1 d.t=1 high=9 rescued={"z":[1,{"a":null}],"$envelope":{"colour":"red","big":1e999}}"#
        ]],
    );
}

/// By mappings and rules as a config file has them.
fn check_by(config: &str, body: &str, expected: Expect) {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Silver {
        #[serde(default)]
        mapping: Vec<crate::silver::Mapping>,
        #[serde(default)]
        rule: Vec<shared::rules::Rule>,
    }
    let silver: Silver = toml::from_str(config).expect("mappings and rules");
    let rules = Rules::with(TimeWindow::SILVER, Unique::default(), silver.mapping, silver.rule);
    assert_eq!(Rules::parse(rules.text()).expect("as it was kept").digest(), rules.digest());
    expected.assert_eq(&show_by(&event("pi", body.as_bytes()), &rules));
}

#[test]
fn messages_of_the_raspberry_pi_simulator_are_read_by_the_example() {
    #[derive(serde::Deserialize)]
    struct Example {
        silver: toml::Value,
    }
    let example = include_str!("../../../examples/raspberry-pi-simulator.toml");
    let example: Example = toml::from_str(example).expect("TOML");
    let silver = toml::to_string(&example.silver).expect("TOML");
    let one = r#"{"messageId":1,"deviceId":"Raspberry Pi Web Client","temperature":27.3,"humidity":66.1}"#;
    check_by(
        &silver,
        one,
        expect![[r#"
        reading 7/1/42/0 pi.temperature=27.3 [Cel] n=1 rescued={"deviceId":"Raspberry Pi Web Client"}
        reading 7/1/42/1 pi.humidity=66.1 [%] n=1 rescued={"deviceId":"Raspberry Pi Web Client"}"#]],
    );
    check_by(
        &silver,
        &format!("[{one},\n{}]", one.replace("27.3", "99")),
        expect![[r#"
        reading 7/1/42/0 pi.temperature=27.3 [Cel] n=1 rescued={"deviceId":"Raspberry Pi Web Client"}
        reading 7/1/42/1 pi.humidity=66.1 [%] n=1 rescued={"deviceId":"Raspberry Pi Web Client"}
        refused by silver 7/1/42/2 pi.temperature ["range: 99 > 85 Cel"] raw="{\"messageId\":1,\"deviceId\":\"Raspberry Pi Web Client\",\"temperature\":99,\"humidity\":66.1}"
        reading 7/1/42/3 pi.humidity=66.1 [%] n=1 rescued={"deviceId":"Raspberry Pi Web Client"}"#]],
    );
    check_by(&silver, r#"{"temperature":27.3}"#, expect!["reading 7/1/42/0 pi.temperature=27.3"]);
}

#[test]
fn a_mapping_says_where_everything_stands() {
    let nested = r#"
        [[mapping]]
        device = "pi"
        content = { "/type" = "climate" }
        messages = "/readings"
        device-name = "/meta/id"
        time = "/at"
        time-unit = "ms"
        n = "/no"
        metrics = "/values"
        units = { t = "Cel" }
    "#;
    let body = r#"{"type":"climate","meta":{"id":"p-1","fw":"1.0"},"readings":[{"at":1790000000000,"no":1,"values":{"t":21.50,"ok":true},"x":1.0},{"at":1790000001000,"no":"two","values":{"t":{"v":2,"u":"K","acc":0.10}}},{"values":7},8]}"#;
    check_by(
        nested,
        body,
        expect![[r#"
        reading 7/1/42/0 p-1.t=21.5 [Cel] n=1 rescued={"x":1.0,"$message":{"type":"climate","meta":{"id":"p-1","fw":"1.0"}}}
        reading 7/1/42/1 p-1.ok=true n=1 rescued={"x":1.0,"$message":{"type":"climate","meta":{"id":"p-1","fw":"1.0"}}}
        refused by silver 7/1/42/2 p-1.t ["number: `no` is no whole number: \"two\""] raw="{\"at\":1790000001000,\"no\":\"two\",\"values\":{\"t\":{\"v\":2,\"u\":\"K\",\"acc\":0.10}}}"
        refused by silver 7/1/42/3 pi.? ["payload: no object stands at /values"] raw="{\"values\":7}"
        refused by silver 7/1/42/4 pi.? ["payload: not a JSON object (invalid type: integer `8`, expected a JSON object at line 1 column 1)"] raw="8""#]],
    );
    // What the mapping does not fit is read as without one.
    check_by(
        nested,
        r#"{"type":"other","t":1}"#,
        expect![[r#"
        reading 7/1/42/0 pi.type="other"
        reading 7/1/42/1 pi.t=1"#]],
    );
    let long = r#"
        [[mapping]]
        device = "*"
        metric = "/name"
        value = "/val"
        unit = "/uom"
        [[rule]]
        metric = "t"
        max = 30.0
        unit = "Cel"
        [[rule]]
        device = "pi"
        metric = "p"
        required = true
    "#;
    check_by(
        long,
        r#"[{"name":"t","val":21,"q":"good"},{"name":"t","val":31,"uom":"K"},{"name":"p","val":null},{"val":1}]"#,
        expect![[r#"
            reading 7/1/42/0 pi.t=21 [Cel] rescued={"q":"good"}
            refused by silver 7/1/42/1 pi.p ["required: the payload holds no `p`"] raw="{\"name\":\"t\",\"val\":21,\"q\":\"good\"}"
            refused by silver 7/1/42/2 pi.t ["unit: K instead of Cel", "range: 31 > 30 K"] raw="{\"name\":\"t\",\"val\":31,\"uom\":\"K\"}"
            refused by silver 7/1/42/3 pi.p ["required: the payload holds no `p`"] raw="{\"name\":\"t\",\"val\":31,\"uom\":\"K\"}"
            refused by silver 7/1/42/4 pi.p ["type: null"] raw="{\"name\":\"p\",\"val\":null}"
            refused by silver 7/1/42/5 pi.? ["payload: nothing stands at /name"] raw="{\"val\":1}""#]],
    );
}

#[test]
fn the_refusals_of_one_event_do_not_multiply_its_bytes() {
    let members: Vec<String> = (0..900).map(|at| format!("\"m{at}\":[{}]", "1,".repeat(100) + "1")).collect();
    let body = format!("{{{}}}", members.join(","));
    let decoded = decode(&event("g", body.as_bytes()), &Rules::new(TimeWindow::SILVER, Unique::default()));
    let raw = |row: &Row<'_>| match row {
        Row::Refused(row) => row.raw.len(),
        Row::Reading(_) => panic!("a list is no value"),
    };
    assert_eq!(decoded.rows.len(), 900);
    assert_eq!(raw(&decoded.rows[0]), body.len());
    let all: usize = decoded.rows.iter().map(raw).sum();
    assert!(all < body.len() + 256 * 1024 + body.len() * 2, "{all} bytes of {}", body.len());
}

/// JSON as somebody might write it: numbers of any length, names that stand twice, nesting.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?",
        "\"[a-zA-Z0-9 é]{0,12}\"",
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|all| format!("[{}]", all.join(", "))),
            prop::collection::vec(("[a-z]{1,3}", inner), 0..4).prop_map(|all| {
                let members: Vec<String> =
                    all.into_iter().map(|(name, value)| format!("\"{name}\" : {value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

/// Members of later versions: their names are told from ours by `x_`.
fn unknown() -> impl Strategy<Value = Vec<(String, String)>> {
    prop::collection::vec(("x_[a-z]{1,3}", json_text()), 0..3)
}

fn with(members: &[String], unknown: &[(String, String)]) -> String {
    let unknown = unknown.iter().map(|(name, value)| format!("\"{name}\":{value}"));
    let all: Vec<String> = members.iter().cloned().chain(unknown).collect();
    format!("{{{}}}", all.join(","))
}

/// All that is kept of an Event outside the columns that have a name.
fn kept(body: &str) -> (String, usize) {
    let decoded = decode(&event("g", body.as_bytes()), &Rules::new(TimeWindow::SILVER, Unique::default()));
    let mut kept = String::new();
    for row in &decoded.rows {
        match row {
            Row::Reading(row) => kept += row.rescued.as_deref().unwrap_or_default(),
            Row::Refused(row) => {
                kept += row.rescued.as_deref().unwrap_or_default();
                kept += &String::from_utf8_lossy(&row.raw);
            }
        }
        kept.push('\n');
    }
    for gap in &decoded.gaps {
        kept += gap.rescued.as_deref().unwrap_or_default();
        kept.push('\n');
    }
    (kept, decoded.rows.len() + decoded.gaps.len())
}

proptest! {
    #[test]
    fn any_json_is_rows_and_no_byte_of_an_unknown_field_is_lost(
        readings in prop::collection::vec((1_i64..99, prop::option::of(json_text()), unknown()), 0..4),
        rejected in prop::collection::vec((1_i64..99, unknown()), 0..2),
        gaps in prop::collection::vec(unknown(), 0..2),
        closed in prop::collection::vec(unknown(), 0..2),
        around in unknown(),
        any in json_text(),
    ) {
        let list = |name: &str, all: Vec<String>| format!("\"{name}\":[{}]", all.join(","));
        // `v` may hold anything: what is no number is refused with all its bytes.
        let reading = |(s, v, more): &(i64, Option<String>, Vec<(String, String)>)| {
            let v = v.as_ref().map(|v| format!("\"v\":{v}"));
            let own = [format!("\"s\":{s}"), "\"d\":\"d\"".to_owned(), "\"m\":\"m\"".to_owned(), format!("\"t\":{NOW}")];
            with(&own.into_iter().chain(v).collect::<Vec<_>>(), more)
        };
        let refusal = |(s, more): &(i64, Vec<(String, String)>)| {
            with(&[format!("\"s\":{s}"), "\"d\":\"d\"".to_owned(), "\"reasons\":[\"r\"]".to_owned()], more)
        };
        let epoch = "\"epoch\":\"00000000000000aa\"".to_owned();
        let gap = |more: &Vec<(String, String)>| with(&[epoch.clone(), "\"from\":1".to_owned(), "\"to\":2".to_owned()], more);
        let closing = |more: &Vec<(String, String)>| with(&[epoch.clone(), "\"last\":2".to_owned()], more);
        let body = with(
            &[
                "\"v\":1".to_owned(),
                "\"gw\":\"g\"".to_owned(),
                epoch.clone(),
                list("readings", readings.iter().map(reading).collect()),
                list("rejected", rejected.iter().map(refusal).collect()),
                list("gaps", gaps.iter().map(gap).collect()),
                list("closed", closed.iter().map(closing).collect()),
            ],
            &around,
        );
        let (text, rows) = kept(&body);
        let elements = readings.len() + rejected.len() + gaps.len() + closed.len();
        let alone = elements == 0 && !around.is_empty();
        prop_assert_eq!(rows, elements + usize::from(alone), "{}", body);
        let inner = readings.iter().flat_map(|(.., more)| more).chain(rejected.iter().flat_map(|(_, more)| more));
        let inner = inner.chain(gaps.iter().flatten()).chain(closed.iter().flatten());
        for (name, value) in inner.chain(&around) {
            let member = format!("\"{name}\":{value}");
            prop_assert!(text.contains(&member), "{} of {} in {}", member, body, text);
        }
        for (_, v, _) in &readings {
            if let Some(v) = v.as_ref().filter(|v| shared::payload::number_of(v).is_none() && *v != "null") {
                prop_assert!(text.contains(&format!("\"v\":{v}")), "{} in {}", v, text);
            }
        }
        // And as a message of a direct device, whatever it is.
        prop_assert!(kept(&any).1 != 0, "{}", any);
        let (text, _) = kept(&format!("{{\"a\":{{\"v\":1,\"x\":{any}}},\"b\":{any}}}"));
        prop_assert!(text.contains(&format!("\"x\":{any}")), "{} in {}", any, text);
    }

    #[test]
    fn nothing_in_a_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        show(&event("g", &body));
    }

    #[test]
    fn nothing_in_an_envelope_makes_it_panic(members in "[\\[\\]{}\":,a-z0-9.eE+\\- \\\\]{0,80}", s in any::<i64>(), t in any::<i64>(), high in any::<i64>(), to in any::<i64>()) {
        show(&event("g", enveloped(&members).as_bytes()));
        let body = json!({
            "v": 1, "gw": "g", "epoch": "00000000000000aa", "high": high,
            "readings": [{"s": s, "d": "d", "m": "m", "v": 1, "t": t, "r": t, "n": s}],
            "gaps": [{"epoch": "00000000000000aa", "from": s, "to": to}],
            "closed": [{"epoch": "00000000000000aa", "last": to}, {"epoch": "00000000000000aa", "last": null, "mark": s}],
        });
        show(&event("g", body.to_string().as_bytes()));
    }
}
