use expect_test::{Expect, expect};

use super::*;

fn second(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

/// Rows as `gateway/device name [from, to)`, in seconds.
fn show(rows: &[Row]) -> String {
    let seconds = |time: Timestamp| (time.micros() / 1_000_000).to_string();
    let line = |row: &Row| {
        let Device { gateway, device, name, .. } = &row.device;
        let to = row.to.map_or("..".to_owned(), seconds);
        format!("{gateway}/{device} {} [{}, {to})", name.as_deref().unwrap_or("?"), seconds(row.from))
    };
    rows.iter().map(line).collect::<Vec<_>>().join("; ")
}

/// Reads one catalogue after the other, each 100 seconds after the one before.
fn check(catalogues: &[&str], expected: Expect) -> Vec<Row> {
    let mut rows = vec![];
    for (at, text) in (1..).zip(catalogues) {
        let entries = csv(&format!("device_id,name,valid_from\n{text}")).expect("a catalogue");
        if let Some(new) = follow(&rows, &entries, second(at * 100)) {
            rows = new;
        }
        assert_eq!(follow(&rows, &entries, second(at * 100 + 1)), None, "the same catalogue changes nothing");
    }
    expected.assert_eq(&show(&rows));
    rows
}

#[test]
fn rows_hold_from_a_change_to_the_next() {
    check(&["a,A,\nb,B,\n"], expect!["*/a A [0, ..); */b B [0, ..)"]);
    check(&["a,A,\nb,B,\n", "a,A2,\n"], expect!["*/a A [0, 200); */a A2 [200, ..); */b B [0, 200)"]);
    check(&["a,A,\n", "", "a,A,\n"], expect!["*/a A [0, 200); */a A [300, ..)"]);
    check(&["a,A,1970-01-01T00:00:50Z\n"], expect!["*/a A [50, ..)"]);
    check(&["a,A,\n", "a,B,1970-01-01T00:01:40Z\n"], expect!["*/a A [0, 100); */a B [100, ..)"]);
    check(
        &["a,A,\n", "a,B,1970-01-01T00:01:40Z\n", "a,B,1970-01-01T00:00:40Z\n"],
        expect!["*/a A [0, 40); */a B [40, ..)"],
    );
}

#[test]
fn rows_are_read_back_from_the_table_as_they_were_written() {
    let rows = check(&["a,A,\n", "a,A2,\n", ""], expect!["*/a A [0, 200); */a A2 [200, 300)"]);
    assert_eq!(super::rows(&batch(&rows)), rows);
}

#[test]
fn a_catalogue_in_toml_says_the_same_as_one_in_csv() {
    let toml = toml(
        "[[device]]\ndevice = \"a\"\ngateway = \"gw\"\nname = \"A\"\nsite = \"Ulm\"\ntimezone = \"Europe/Berlin\"\n\
         expected-interval = \"10s\"\nvalid-from = \"2026-01-31T00:00:00Z\"\n[[device]]\ndevice = \"b\"\n",
    );
    let csv = csv("gateway_id,device_id,name,site,timezone,expected_interval_s,valid_from\n\
                   gw,a,A,Ulm,Europe/Berlin,10,2026-01-31T00:00:00Z\n,b,,,,,\n");
    assert_eq!(toml.expect("TOML"), csv.expect("CSV"));
}

#[test]
fn mistakes_are_told_with_their_lines() {
    let told = |mistakes: Result<Vec<Entry>, Vec<Mistake>>| {
        let mistakes = mistakes.expect_err("mistakes");
        mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    expect![[r#"
        3: device "a" stands in line 1 already
        5: timezone "Mars/Base" is not known; write e.g. "Europe/Berlin""#]]
    .assert_eq(&told(toml(
        "[[device]]\ndevice = \"a\"\n[[device]]\ndevice = \"a\"\n[[device]]\ndevice = \"b\"\ntimezone = \"Mars/Base\"\n",
    )));
    expect!["3: unknown field `colour`, expected one of `device`, `gateway`, `name`, `site`, `area`, `timezone`, `expected-interval`, `valid-from`"].assert_eq(&told(toml("[[device]]\ndevice = \"a\"\ncolour = \"red\"\n")));
    expect![[r#"
        1: the column "color" is not known; known are ["device_id", "gateway_id", "name", "site", "area", "timezone", "expected_interval_s", "valid_from", "valid_to"]
        2: the expected interval must be above 0, write e.g. 10
        3: name: the device name is empty
        4: expected_interval_s "often" is no number
        5: CSV error: record 4 (line: 5, byte: 54): found record with 1 fields, but the previous record has 3 fields"#]].assert_eq(&told(csv("device_id,expected_interval_s,color\na,0,\n,5,\nb,often,\nc\n")));
}
