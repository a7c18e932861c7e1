use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;

struct Of(Map<String, Value>);

impl Row for Of {
    fn walk(&self, path: &[Step]) -> Option<Value> {
        walk(&self.0, bare(path, Source::Devices))
    }

    fn whole(&self) -> Value {
        Value::Object(self.0.clone())
    }
}

fn row() -> Of {
    let Value::Object(row) = json!({
        "deviceId": "d-1",
        "status": "enabled",
        "lastActivityTime": "2026-11-29T10:00:05.5Z",
        "capabilities": { "iotEdge": false },
        "tags": { "site": "north", "floor": 3, "my-tag": true, "it's": 1, "list": [10, 20], "none": null },
        "properties": {
            "desired": { "rate": 2.5, "$version": 4 },
            "reported": { "big": 9_007_199_254_740_993_i64, "ok": true },
        },
    }) else {
        unreachable!()
    };
    Of(row)
}

#[track_caller]
fn check(condition: &str, is: bool) {
    let query = Query::parse(&format!("SELECT * FROM devices WHERE {condition}"));
    assert_eq!(query.expect(condition).admits(&row()), is, "{condition}");
}

#[test]
fn conditions_find_what_they_say() {
    for (condition, is) in [
        ("deviceId = 'd-1'", true),
        ("deviceId = \"d-1\"", true),
        ("DEVICES.deviceId = 'd-1'", true),
        ("deviceId <> 'd-1'", false),
        ("deviceId != 'd-2'", true),
        ("tags.floor = 3", true),
        ("tags.floor = 3.0", true),
        ("tags.floor > 2 AND tags.floor <= 3", true),
        ("tags.floor >= -1e3", true),
        ("3 < tags.floor", false),
        ("tags.floor = '3'", false),
        ("tags.site = 'north' OR tags.site = 'south'", true),
        ("tags.site IN ['south', 'north']", true),
        ("tags.site in ('south')", false),
        ("tags.site NOT IN ['south']", true),
        ("tags.site NIN ['north']", false),
        ("tags.site IN []", false),
        ("NOT (tags.site = 'south')", true),
        ("not not tags.floor = 3", true),
        ("tags.floor = 1 OR tags.floor = 2 AND tags.floor = 3", false),
        ("(tags.floor = 3 OR tags.floor = 2) AND tags.site = 'north'", true),
        ("is_defined(tags.site)", true),
        ("IS_DEFINED(tags.nowhere)", false),
        ("NOT IS_DEFINED(tags.nowhere)", true),
        ("IS_DEFINED(tags.none)", true),
        ("tags.none = null", true),
        ("tags.none != null", false),
        ("tags.nowhere = null", false),
        ("tags.my-tag", true),
        ("tags['my-tag'] = true", true),
        ("tags.[[my-tag]] = true", true),
        ("tags[[it's]] = 1", true),
        ("tags['it''s'] = 1", true),
        (r"tags['it\'s'] = 1", true),
        ("tags.list[1] = 20", true),
        ("tags.list = 10", false),
        ("tags = 'x'", false),
        ("properties.desired.rate < 3 and properties.desired.$version = 4", true),
        ("properties.reported.big = 9007199254740992", false),
        ("properties.reported.ok = true", true),
        ("properties.reported.ok > false", false),
        ("capabilities.iotEdge = true", false),
        ("lastActivityTime > '2026-11-29T10:00:05Z'", true),
        ("lastActivityTime <= '2026-11-29T10:00:05'", false),
        ("lastActivityTime < '2026-11-30T00:00:00+01:00'", true),
    ] {
        check(condition, is);
    }
}

#[test]
fn what_is_not_there_has_no_answer_whichever_way_it_is_asked() {
    for condition in [
        "tags.x = 1",
        "tags.x != 1",
        "NOT tags.x = 1",
        "NOT (tags.x = 1 AND tags.floor = 3)",
        "tags.x",
        "tags.x NOT IN [1]",
    ] {
        check(condition, false);
    }
    check("tags.x = 1 OR tags.floor = 3", true);
    check("NOT (tags.x = 1 AND tags.floor = 4)", true);
}

#[test]
fn fields_are_shown_by_their_last_name_or_another() {
    let show = |text: &str| Query::parse(text).expect(text).show(&row());
    assert_eq!(show("SELECT * FROM devices")["tags"]["floor"], 3);
    assert_eq!(
        show("select deviceId, tags.site AS place, properties.desired.rate, tags.nowhere from devices"),
        json!({ "deviceId": "d-1", "place": "north", "rate": 2.5 })
    );
    let count = Query::parse("SELECT COUNT() AS n FROM devices.modules WHERE tags.a = 1").expect("a count");
    assert_eq!((count.select, count.source), (Select::Count { name: "n".to_owned() }, Source::Modules));
    let top = Query::parse("SELECT TOP 5 * FROM devices.jobs").expect("some");
    assert_eq!((top.top, top.source), (Some(5), Source::Jobs));
}

#[test]
fn what_is_not_understood_says_where() {
    for (text, at, what) in [
        ("", 0, "SELECT"),
        ("SELECT", 6, "a name"),
        ("SELECT * FROM", 13, "a name"),
        ("SELECT * FROM modules", 21, "FROM can be"),
        ("SELECT * FROM devices WHERE", 27, "a name"),
        ("SELECT * FROM devices WHERE a = 'x", 32, "does not end"),
        ("SELECT * FROM devices WHERE a = [[x", 32, "]]"),
        ("SELECT * FROM devices WHERE (a = 1", 34, "`)`"),
        ("SELECT * FROM devices WHERE a = 1 b", 34, "should end"),
        ("SELECT * FROM devices WHERE a = 1 GROUP BY a", 40, "GROUP"),
        ("SELECT * FROM devices WHERE a + 1 = 2", 30, "arithmetic"),
        ("SELECT * FROM devices WHERE a ; 1", 30, "means nothing"),
        ("SELECT * FROM devices WHERE a IN 1", 33, "list"),
        ("SELECT * FROM devices WHERE a IN [b]", 34, "a list holds"),
        ("SELECT * FROM devices WHERE startswith(a, 'b')", 39, "IS_DEFINED"),
        ("SELECT MAX(a) FROM devices", 11, "COUNT()"),
        ("SELECT a, COUNT() FROM devices", 16, "COUNT()"),
        ("SELECT TOP x * FROM devices", 11, "whole number"),
    ] {
        let fault = Query::parse(text).expect_err(text);
        assert_eq!(fault.at, at, "{text}: {fault}");
        assert!(fault.what.contains(what), "{text}: {fault}");
    }
}

#[test]
fn a_job_is_for_all_devices_or_for_those_of_a_condition() {
    for (text, source, all) in [
        ("", Source::Devices, true),
        (" * ", Source::Devices, true),
        ("deviceId = 'd-1'", Source::Devices, false),
        ("deviceId IN ['d-1','d-2']", Source::Devices, false),
        ("SELECT * FROM devices WHERE tags.a = 1", Source::Devices, false),
        ("FROM devices.modules", Source::Modules, true),
    ] {
        let query = Query::of_job(text).expect(text);
        assert_eq!((query.source, query.condition.is_none()), (source, all), "{text}");
    }
    for bad in ["* *", "FROM devices.jobs", "SELECT deviceId FROM devices", "deviceId =", "FROM"] {
        Query::of_job(bad).expect_err(bad);
    }
}

#[test]
fn strings_made_to_hurt_are_refused_at_once() {
    let deep = "(".repeat(8_000);
    let nots = "NOT ".repeat(2_000);
    let long = "a".repeat(parse::TEXT_CHARS_MAX + 1);
    let path = "a.".repeat(4_000);
    let list = "1,".repeat(2_000);
    let fields = "a,".repeat(3_000);
    for text in [
        format!("SELECT * FROM devices WHERE {deep}a = 1"),
        format!("SELECT * FROM devices WHERE {nots}a = 1"),
        format!("SELECT * FROM devices WHERE {long}"),
        format!("SELECT * FROM devices WHERE {path}a = 1"),
        format!("SELECT * FROM devices WHERE a IN [{list}1]"),
        format!("SELECT {fields}a FROM devices"),
        "SELECT * FROM devices WHERE a = 1e999999".to_owned(),
        "SELECT * FROM devices WHERE 'a\\".to_owned(),
        "\u{0}\u{202e}\u{1F980}".to_owned(),
    ] {
        Query::parse(&text).expect_err("refused");
    }
    // Long, but flat: read, and answered without a stack.
    let wide = vec!["tags.floor = 3"; 400].join(" AND ");
    check(&wide, true);
    check(&vec!["tags.floor = 4"; 400].join(" OR "), false);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(
        any in ".{0,60}",
        like in "((SELECT|FROM|WHERE|devices|tags|a|\\.|\\*|,|\\(|\\)|\\[|\\]|\\[\\[|\\]\\]|=|!=|<|>=|AND|OR|NOT|IN|NIN|IS_DEFINED|COUNT|AS|TOP|'x'|'|\"|\\\\|1|-|1e5|null) ?){0,30}",
        condition in "((a|tags|\\.|\\(|\\)|\\[|\\]|=|<|AND|OR|NOT|IN|'x'|1|true) ){0,12}",
    ) {
        for text in [any.clone(), like, format!("SELECT * FROM devices WHERE {condition}"), format!("SELECT * FROM devices WHERE {any}")] {
            if let Ok(query) = Query::parse(&text) {
                let _ = query.admits(&row());
                let _ = query.show(&row());
            }
            let _ = Query::of_job(&text);
        }
    }

    /// Whatever a tag holds, a condition that says so finds it.
    #[test]
    fn a_text_is_found_by_itself(text in "\\PC{0,20}", quote in "['\"]") {
        let mut row = row();
        row.0.insert("t".to_owned(), Value::String(text.clone()));
        let written = text.replace('\\', "\\\\").replace(&quote, &format!("{quote}{quote}"));
        let query = Query::parse(&format!("SELECT * FROM devices WHERE t = {quote}{written}{quote}")).expect("a query");
        prop_assert!(query.admits(&row));
    }
}
