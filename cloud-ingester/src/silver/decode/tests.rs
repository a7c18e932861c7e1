use base64::Engine as _;
use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::json;
use shared::rules::TimeWindow;

use super::*;
use crate::silver::judge::{Rules, Unique, judge};

const NOW: i64 = 1_790_000_000_000_000;

fn event<'a>(device: &'a str, body: &'a [u8]) -> Event<'a> {
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
    }
}

fn show(event: &Event<'_>) -> String {
    let decoded = decode(event);
    let rules = Rules::new(TimeWindow::SILVER, Unique::default());
    let mut text = String::new();
    for row in decoded.rows {
        match judge(row, &event.origin, &rules) {
            Row::Reading(row) => {
                let id = row.numbered.as_ref().map_or_else(|| event.origin.id(row.index), Numbered::id);
                text += &format!("reading {id} {}.{}={}", row.device, row.metric, row.value);
                text += &row.unit.map(|unit| format!(" [{unit}]")).unwrap_or_default();
                text += &row.source_seq.map(|n| format!(" n={n}")).unwrap_or_default();
                text += &row.numbered.map(|it| format!(" high={}", it.high)).unwrap_or_default();
                text += &row.rescued.map(|rest| format!(" rescued={rest}")).unwrap_or_default();
            }
            Row::Refused(row) => {
                let id = row.numbered.as_ref().map_or_else(|| event.origin.id(row.index), Numbered::id);
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
                refused by silver g/00000000000000aa/2 ?.? ["undecodable: `v` is no number that a double can hold: 1e400 at line 1 column 32"] raw="{\"s\":2,\"d\":\"d\",\"m\":\"t\",\"v\":1e400,\"t\":1790000000000000}"
                reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            format!(r#"{{"s":2,"d":"d","m":"t","v":1,"t":{NOW},"s":3}}"#),
            expect![[r#"
            refused by silver 7/1/42/0 ?.? ["undecodable: duplicate field `s` at line 1 column 53"] raw="{\"s\":2,\"d\":\"d\",\"m\":\"t\",\"v\":1,\"t\":1790000000000000,\"s\":3}"
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
            refused by silver 7/1/42/0 ?.? ["undecodable: invalid value: integer `18446744073709551615`, expected i64 at line 1 column 25"] raw="{\"s\":18446744073709551615,\"d\":\"d\",\"m\":\"t\",\"v\":1,\"t\":1790000000000000}"
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
            refused by silver g/00000000000000aa/2 ?.? ["undecodable: missing field `t` at line 1 column 29"] raw="{\"s\":2,\"d\":\"d\",\"m\":\"t\",\"v\":1}"
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
            refused by silver 7/1/42/0 ?.? ["undecodable: invalid type: integer `17`, expected struct WireReading at line 1 column 2"] raw="17"
            reading g/00000000000000aa/1 d.t=1 high=9"#]],
        ),
        (
            "null".to_owned(),
            expect![[r#"
            refused by silver 7/1/42/0 ?.? ["undecodable: invalid type: null, expected struct WireReading at line 1 column 4"] raw="null"
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
            refused by silver 7/1/42/4 ?.? ["closing: neither `last` nor `mark`"] raw="{\"epoch\":\"00000000000000aa\",\"last\":null}"
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
            refused by silver 7/1/42/2 ?.? ["seq: 0 is below 1"] raw="{\"s\":0,\"d\":\"d\",\"reasons\":[]}"
            refused by silver g/00000000000000aa/3 ?.? ["undecodable: missing field `d` at line 1 column 7"] raw="{\"s\":3}""#]],
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
                r#"refused by silver 7/1/42/0 g.? ["undecodable: `epoch` of the Envelope: invalid type: integer `17`, expected a string at line 1 column 2"] raw="{\"v\":1,\"gw\":\"g\",\"epoch\":17}""#
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
                r#"refused by silver 7/1/42/0 g.? ["undecodable: `gw` of the Envelope: invalid type: sequence, expected a string at line 1 column 0"] raw="{\"v\":1,\"gw\":[\"g\"],\"epoch\":\"00000000000000aa\"}""#
            ]],
        ),
        (
            r#"{"v":1,"gw":"g","epoch":"00000000000000aa","readings":{}}"#,
            expect![[
                r#"refused by silver 7/1/42/0 g.? ["undecodable: `readings` of the Envelope: invalid type: map, expected a sequence at line 1 column 0"] raw="{\"v\":1,\"gw\":\"g\",\"epoch\":\"00000000000000aa\",\"readings\":{}}""#
            ]],
        ),
        (
            r#"{"v":1,"gw":"g","epoch":"00000000000000aa","high":"many"}"#,
            expect![[
                r#"refused by silver 7/1/42/0 g.? ["undecodable: `high` of the Envelope: invalid type: string \"many\", expected i64 at line 1 column 6"] raw="{\"v\":1,\"gw\":\"g\",\"epoch\":\"00000000000000aa\",\"high\":\"many\"}""#
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
        (
            "[]",
            expect![[
                r#"refused by silver 7/1/42/0 g.? ["undecodable: payload: not a JSON object (invalid type: sequence, expected a JSON object at line 1 column 0)"] raw="[]""#
            ]],
        ),
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
    let decoded = decode(&Event { packed: true, ..event("g", &bomb) });
    let [Row::Refused(row)] = &decoded.rows[..] else { panic!("{decoded:?}") };
    expect!["too-large: body has more than 8388608 bytes when unpacked"].assert_eq(&row.reasons[0]);
    let long = vec![b' '; envelope::UNPACKED_BYTES_MAX + 1];
    let decoded = decode(&event("g", &long));
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
            r#"reading g/00000000000000aa/1 d.t=1 high=9 rescued={"$envelope":{"big":"1e999","colour":"red"},"z":[1,{"a":null}]}"#
        ]],
    );
}

proptest! {
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
