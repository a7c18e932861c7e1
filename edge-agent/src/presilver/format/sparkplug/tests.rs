//! Bytes as the npm package `sparkplug-payload` 1.0.3 of Eclipse Tahu writes them, and others.

use expect_test::{Expect, expect};

use super::*;
use crate::presilver::format::shown::{Reader, show};
use crate::presilver::mapping::{Format, Mapping};

const NBIRTH: &str = "0880d8c1a28c3412120a0562645365711880d8c1a28c342008580412210a144e6f646520436f6e74726f6c2f526562697274681880d8c1a28c34200b700012150a06557074696d6510011880d8c1a28c34200758111800";
const DBIRTH: &str = "0881d8c1a28c3412310a0b54656d706572617475726510021881d8c1a28c3420094a120a07656e67556e69741207080c4203c2b04365c3f5aa41121d0a05436f756e7410031881d8c1a28c34200458fbffffffffffffffff0112190a064f666673657410041881d8c1a28c34200150ffffffff0f12180a05537461746510051881d8c1a28c34200c7a0469646c6512190a0553696e636510061881d8c1a28c34200d5880d8c1a28c3412200a055461626c651881d8c1a28c3420108a010d0801120161180322040a02080112130a035261771881d8c1a28c342011820102010212130a04476f6e6510071881d8c1a28c34200a38011801";
const DDATA: &str = "08e8dfc1a28c341210100218e7dfc1a28c342009650000ac41120d100318e7dfc1a28c34200458071214100718e8dfc1a28c34200a69000000000000d03f1802";
const DDATA_AFTER_A_GAP: &str = "08d0e7c1a28c341210100218d0e7c1a28c342009650000b4411809";
const DDEATH: &str = "08b8efc1a28c34180a";
const NDEATH: &str = "0880d8c1a28c34120b0a05626453657120085804";
/// A command as that package writes it.
const REBIRTH_COMMAND: &str = "0880d8c1a28c3412210a144e6f646520436f6e74726f6c2f526562697274681880d8c1a28c34200b7001";

const TIME_MS: i64 = 1_790_000_000_000;

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

fn plan() -> Plan {
    let mapping = Mapping { topic: "spBv1.0/#".into(), format: Format::Sparkplug, ..Mapping::default() };
    Plan::new(&mapping).expect("no fault")
}

/// An edge node's messages, in their order.
struct Host {
    nodes: Nodes,
    now: Timestamp,
}

impl Host {
    fn new() -> Self {
        Self { nodes: Nodes::default(), now: Timestamp::from_millis(TIME_MS) }
    }

    fn born() -> Self {
        let mut host = Self::new();
        host.take("NBIRTH/n", NBIRTH);
        host.take("DBIRTH/n/d", DBIRTH);
        host
    }

    fn take(&mut self, kind: &str, hex: &str) -> String {
        self.take_bytes(kind, &bytes(hex))
    }

    fn take_bytes(&mut self, kind: &str, payload: &[u8]) -> String {
        match self.nodes.take(&plan(), &BTreeMap::new(), (&format!("spBv1.0/g/{kind}"), payload), self.now) {
            Ok(taken) => show(&taken).join("\n"),
            Err(unreadable) => format!("unreadable: {unreadable}"),
        }
    }
}

fn check(shown: &str, expected: Expect) {
    expected.assert_eq(shown);
}

#[test]
fn a_birth_gives_names_types_and_values_and_data_may_then_name_aliases_only() {
    let mut host = Host::new();
    check(
        &host.take("NBIRTH/n", NBIRTH),
        expect![[r#"
        g/n online = true at 2026-09-21T14:13:20Z n=4
        g/n Uptime = 17 at 2026-09-21T14:13:20Z
        left out bdSeq: control
        left out Node Control/Rebirth: control"#]],
    );
    check(
        &host.take("DBIRTH/n/d", DBIRTH),
        expect![[r#"
        g/n/d online = true at 2026-09-21T14:13:20.001Z
        g/n/d Temperature = 21.37 Cel at 2026-09-21T14:13:20.001Z
        g/n/d Count = -5 at 2026-09-21T14:13:20.001Z
        g/n/d Offset = -1 at 2026-09-21T14:13:20.001Z
        g/n/d State = "idle" at 2026-09-21T14:13:20.001Z
        g/n/d Since = "2026-09-21T14:13:20Z" at 2026-09-21T14:13:20.001Z
        g/n/d Table ![type: DataSet is neither number, boolean nor text] at 2026-09-21T14:13:20.001Z
        g/n/d Raw ![type: Bytes is neither number, boolean nor text] at 2026-09-21T14:13:20.001Z
        left out Gone: null"#]],
    );
    check(
        &host.take("DDATA/n/d", DDATA),
        expect![[r#"
        g/n/d Temperature = 21.5 Cel at 2026-09-21T14:13:20.999Z
        g/n/d Count = 7 at 2026-09-21T14:13:20.999Z
        g/n/d Gone = 0.25 at 2026-09-21T14:13:21Z"#]],
    );
}

#[test]
fn a_number_that_was_left_out_is_told_and_a_rebirth_is_asked_for_once_a_minute() {
    let mut host = Host::born();
    host.take("DDATA/n/d", DDATA);
    check(
        &host.take("DDATA/n/d", DDATA_AFTER_A_GAP),
        expect![[r#"
        g/n/d Temperature = 22.5 Cel at 2026-09-21T14:13:22Z
        note sparkplug-gap: edge node g/n left out 6 of its numbers (or more by 256s): 9 instead of 3
        asks on spBv1.0/g/NCMD/n"#]],
    );
    check(
        &host.take("DDATA/n/d", DDATA),
        expect![[r#"
        g/n/d Temperature = 21.5 Cel at 2026-09-21T14:13:20.999Z
        g/n/d Count = 7 at 2026-09-21T14:13:20.999Z
        g/n/d Gone = 0.25 at 2026-09-21T14:13:21Z
        note sparkplug-repeat: edge node g/n repeats number 2"#]],
    );
    host.now = host.now.plus(Duration::from_secs(30));
    assert!(!host.take("NDATA/other/x", "").contains("asks"), "a malformed topic is no reason");
    let mut stranger = |now| {
        host.now = now;
        host.take("DDATA/new/d", DDATA)
    };
    let begun = Timestamp::from_millis(TIME_MS);
    for (seconds, asks) in [(0, true), (59, false), (60, true), (61, false)] {
        let said = stranger(begun.plus(Duration::from_secs(seconds)));
        assert_eq!(said.contains("asks on spBv1.0/g/NCMD/new"), asks, "{seconds}: {said}");
    }
}

#[test]
fn data_without_a_birth_is_refused_by_the_alias_it_names() {
    check(
        &Host::new().take("DDATA/n/d", DDATA),
        expect![[r#"
        g/n/d alias 2 ![name: its alias was named by no birth that was seen; a rebirth is asked for] at 2026-09-21T14:13:20.999Z
        g/n/d alias 3 ![name: its alias was named by no birth that was seen; a rebirth is asked for] at 2026-09-21T14:13:20.999Z
        g/n/d alias 7 ![name: its alias was named by no birth that was seen; a rebirth is asked for] at 2026-09-21T14:13:21Z
        note sparkplug-no-birth: edge node g/n sends data, and no birth of it was seen
        asks on spBv1.0/g/NCMD/n"#]],
    );
}

#[test]
fn deaths_end_what_a_birth_began_unless_they_are_those_of_an_earlier_life() {
    let mut host = Host::born();
    let later = NDEATH.replace("5804", "5803");
    check(&host.take("NDEATH/n", &later), expect!["left out whole message: stale-death"]);
    check(
        &host.take("NDEATH/n", NDEATH),
        expect![[r#"
        g/n online = false by its clock 2026-09-21T14:13:20Z n=4
        g/n/d online = false by its clock 2026-09-21T14:13:20Z n=4"#]],
    );
    assert!(host.take("DDATA/n/d", DDATA).contains("sparkplug-no-birth"));
    let mut host = Host::born();
    host.take("DDATA/n/d", DDATA);
    host.take("DDATA/n/d", DDATA_AFTER_A_GAP);
    check(&host.take("DDEATH/n/d", DDEATH), expect!["g/n/d online = false at 2026-09-21T14:13:23Z"]);
}

#[test]
fn the_request_for_a_rebirth_is_written_as_eclipse_tahu_writes_it() {
    let now = Timestamp::from_millis(TIME_MS);
    let Ok(topic) = parse("spBv1.0/g/DDATA/n/d") else { panic!("a topic") };
    assert_eq!(rebirth(&topic, now).payload, bytes(REBIRTH_COMMAND));
}

#[test]
fn an_alias_that_two_metrics_have_is_believed_for_neither() {
    let mut host = Host::new();
    // Uptime's alias 1 for temperature, too.
    host.take("NBIRTH/n", NBIRTH);
    let twice = DBIRTH.replace("0a0b54656d70657261747572651002", "0a0b54656d70657261747572651001");
    assert!(host.take("DBIRTH/n/d", &twice).contains("sparkplug-alias-twice"));
    let data = DDATA.replace("1210100218", "1210100118");
    assert!(host.take("DDATA/n/d", &data).contains("name: its alias is that of two metrics"));
}

#[test]
fn what_is_no_sparkplug_is_unreadable_and_what_is_no_data_is_left_out() {
    let mut host = Host::born();
    for (kind, hex, part) in [
        ("DDATA/n/d", "ff", "not Sparkplug B"),
        ("DDATA/n/d", "08ffffffffffffffffff7f", "not Sparkplug B"),
        ("DDATA/n/d", "12ffffffffffffffffff01", "not Sparkplug B"),
        ("DDATA/n/d", "1205ff", "not Sparkplug B"),
        ("DDATA/n/d", "12020aff", "in a metric"),
        ("DDATA/n", DDATA, "no Sparkplug topic"),
        ("NOISE/n", DDATA, "no Sparkplug topic"),
        (&format!("NDATA/{}", "n".repeat(200)), DDATA, "no Sparkplug topic"),
        ("NDATA/n\u{7}", DDATA, "no Sparkplug topic"),
        ("NCMD/n", DDATA, "left out whole message: command"),
        ("DDATA/n/d", "2212535042", "not Sparkplug B"),
        ("DDATA/n/d", "221253504256312e305f434f4d50524553534544", "compressed"),
    ] {
        let said = host.take(kind, hex);
        assert!(said.contains(part), "{kind} {hex}: {said}");
    }
    let many = [0x12, 0x00].repeat(METRICS_MAX + 1);
    assert!(host.take_bytes("DDATA/n/d", &many).contains("more than 5000 metrics"));
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut host = Host::new();
    for index in 0..NODES_MAX {
        host.take(&format!("NBIRTH/n{index}"), NBIRTH);
    }
    assert!(host.take("NBIRTH/more", NBIRTH).contains("more than 1000 edge nodes"));
    assert!(!host.take("NBIRTH/n0", NBIRTH).contains("more than"), "those who were there are heard");
    let before = host.nodes.remembered;
    for device in 0..50 {
        host.take(&format!("DBIRTH/n0/d{device}"), DBIRTH);
    }
    assert!(before < host.nodes.remembered);
    host.take("NDEATH/n0", NDEATH);
    assert!(host.nodes.remembered < before, "the dead are forgotten");
}

#[test]
fn edge_nodes_of_one_name_behind_two_bridges_are_two() {
    let mapping = Mapping {
        topic: "{site}/spBv1.0/#".into(),
        format: Format::Sparkplug,
        device: Some("{site}-{node}-{device}".into()),
        node: Some("{site}-{node}".into()),
        ..Mapping::default()
    };
    let mut reader = Reader::with(mapping);
    reader.lines("north/spBv1.0/g/NBIRTH/n", bytes(NBIRTH));
    reader.lines("north/spBv1.0/g/DBIRTH/n/d", bytes(DBIRTH));
    let known = reader.lines("north/spBv1.0/g/DDATA/n/d", bytes(DDATA));
    assert_eq!(known[0], "north-n-d Temperature = 21.5 Cel at 2026-09-21T14:13:20.999Z");
    let unknown = reader.lines("south/spBv1.0/g/DDATA/n/d", bytes(DDATA));
    assert_eq!(unknown.last().map(String::as_str), Some("asks on south/spBv1.0/g/NCMD/n"));
}

/// Eclipse Tahu's client for Node never counts its deaths, and its last will is the same for all its life.
#[test]
fn deaths_after_two_births_are_two_even_where_their_bytes_are_the_same() {
    let mut host = Host::new();
    host.take("NBIRTH/n", NBIRTH);
    let first = host.take("NDEATH/n", NDEATH);
    assert_eq!(host.take("NDEATH/n", NDEATH), first, "a repeat");
    // Born again a second later.
    host.take("NBIRTH/n", &NBIRTH.replacen("0880d8", "08e8df", 1));
    assert_ne!(host.take("NDEATH/n", NDEATH), first);
}
