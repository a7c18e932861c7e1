//! Views as they are seen. `UPDATE_EXPECT=1` writes them anew; read them then.

use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn status() -> Json {
    let ago: Vec<u64> = (0..120).rev().map(|at| at * 10).collect();
    let wave = |at: u64| (at % 60) as f64 * 4.0;
    json!({
        "version": "0.1.0", "gateway": "gw-01", "now": "2026-11-24T03:58:00Z", "uptime_s": 273_600, "clock_plausible": true,
        "hub": {"name": "medallion.azure-devices.net", "last_error": null},
        "outbox": {"stored": 1_205_979, "acked": 1_204_775, "given_up": 0, "held": 1_204, "duplicates": 12, "gaps_held": 0,
                   "closings_held": 1, "bytes": 364_904_448u64, "bytes_max": 1u64 << 30, "full": null},
        "rates": {"over_s": 10.0, "messages": 51.2, "refused": 0.7, "stored": 203.4, "sent": 263.9},
        "outlook": {"is": "draining", "empty_in_s": 20},
        "disk": {"free": 5_476_083_302u64, "total": 31_138_512_896u64}, "memory": 9_541_000,
        "presilver": {"received": 300_000, "readings": 1_190_000, "rejected": 15_979},
        "uplink": {"link": "catching-up", "envelopes_in_flight": 3, "last_error": null},
        "remote": {"state": "hearing", "log_level": "debug", "log_level_until": "2026-11-24T04:08:00Z"},
        "errors": [
            {"level": "warn", "text": "no connection to the hub: connection refused host=hub", "times": 14, "ago_s": 130, "at": ""},
            {"level": "error", "text": "x".repeat(200), "times": 1, "ago_s": 90_000, "at": ""},
        ],
        "hour": {"ago_s": ago, "stored": (0..120).map(wave).collect::<Vec<_>>(), "sent": vec![0; 120],
                 "held": (0..120).map(|at| at * 10).collect::<Vec<_>>()},
    })
}

fn check(status: &Json, style: Style, expected: Expect) {
    expected.assert_eq(&framed(&view(status, &style)).replace('\u{1b}', "␛"));
}

/// Every line behind a bar: what begins with a blank would lose it in an expectation.
fn framed(seen: &str) -> String {
    seen.lines().map(|line| format!("|{line}\n")).collect()
}

const WIDE: Style = Style { columns: 100, rows: 40, colour: false, utf8: true };

#[test]
fn a_backlog_that_drains() {
    check(
        &status(),
        WIDE,
        expect![[r#"
            | gw-01  ● catching up                                                   edge-agent 0.1.0, up 3 d 4 h
            | ───────────────────────────────────────────────────────────────────────────────────────────────────
            | hub       medallion.azure-devices.net
            | in        203 rows/s                                  ▂▂▃▄▅▆▇▇▂▃▄▅▆▇█  at most 236
            | out       264 rows/s                                  ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁  
            | backlog   1,204 rows                                  ▂▂▂▂▃▃▄▄▅▅▆▆▇▇█  empty in 20 s
            | outbox    ███████░░░░░░░░░░░░░  34.0 %  348 MiB of 1.0 GiB
            | disk      ████████████████░░░░  82.4 %  5.1 GiB free of 29 GiB
            | books     1,205,979 stored = 1,204,775 acknowledged + 0 given up + 1,204 held
            |           12 duplicates; 0 gaps and 1 closings wait
            | judged    300,000 messages: 1,190,000 readings, 15,979 refused (1.3 %)
            | remote    hearing, log level debug until 2026-11-24T04:08:00Z
            |
            | Last warnings and errors
            |        2 min ago  14 times: no connection to the hub: connection refused host=hub
            |      1 d 1 h ago  xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
        "#]],
    );
}

#[test]
fn a_narrow_serial_console_without_colours_and_letters() {
    check(
        &status(),
        Style { columns: 48, rows: 24, colour: false, utf8: false },
        expect![[r#"
            | gw-01  * catching up
            | -----------------------------------------------
            | hub       medallion.azure-devices.net
            | in        203 rows/s      at most 236
            | out       264 rows/s      
            | backlog   1,204 rows      empty in 20 s
            | outbox    ###.......  34.0 %  348 MiB of 1.0 G~
            | disk      ########..  82.4 %  5.1 GiB free of ~
            | books     1,205,979 stored = 1,204,775 acknowl~
            |           12 duplicates; 0 gaps and 1 closings~
            | judged    300,000 messages: 1,190,000 readings~
            | remote    hearing, log level debug until 2026-~
            |
            | Last warnings and errors
            |        2 min ago  14 times: no connection to t~
            |      1 d 1 h ago  xxxxxxxxxxxxxxxxxxxxxxxxxxxx~
        "#]],
    );
}

#[test]
fn all_is_well_in_colour() {
    let mut status = status();
    status["uplink"]["link"] = json!("live");
    status["outlook"] = json!({"is": "keeping-up"});
    (status["errors"], status["hour"]) = (json!([]), json!(null));
    check(
        &status,
        Style { columns: 80, rows: 24, colour: true, utf8: true },
        expect![[r#"
            | gw-01  ␛[32m● live␛[0m                                      ␛[2medge-agent 0.1.0, up 3 d 4 h␛[0m
            |␛[2m ───────────────────────────────────────────────────────────────────────────────␛[0m
            |␛[2m hub       ␛[0mmedallion.azure-devices.net
            |␛[2m in        ␛[0m203 rows/s      
            |␛[2m out       ␛[0m264 rows/s      
            |␛[2m backlog   ␛[0m1,204 rows      ␛[32mon its way␛[0m
            |␛[2m outbox    ␛[0m␛[32m███████␛[0m␛[2m░░░░░░░░░░░░░␛[0m  34.0 %  348 MiB of 1.0 GiB
            |␛[2m disk      ␛[0m␛[32m████████████████␛[0m␛[2m░░░░␛[0m  82.4 %  5.1 GiB free of 29 GiB
            |␛[2m books     ␛[0m1,205,979 stored = 1,204,775 acknowledged + 0 given up + 1,204 held
            |␛[2m           ␛[0m␛[2m12 duplicates; 0 gaps and 1 closings wait␛[0m
            |␛[2m judged    ␛[0m300,000 messages: 1,190,000 readings, 15,979 refused (1.3 %)
            |␛[2m remote    ␛[0mhearing, log level debug until 2026-11-24T04:08:00Z
        "#]],
    );
}

#[test]
fn a_full_outbox_a_wrong_clock_and_no_hub_come_first() {
    let mut status = status();
    status["uplink"] = json!({"link": "offline", "last_error": "Connection refused (os error 111)"});
    status["hub"] = json!({"name": null, "last_error": "the service is away"});
    status["broker"] = json!({"broker": "localhost port 1883", "connected": false, "last_error": "Connection refused"});
    status["outbox"]["full"] = json!("outbox is at `outbox.bytes-max`");
    (status["clock_plausible"], status["now"]) = (json!(false), json!("1970-01-01T00:00:07Z"));
    status["outlook"] = json!({"is": "full"});
    status["sensors"] = json!([
        {"sensor": "bme280 at /dev/i2c-1 0x76", "state": "failing", "last_error": "no answer"},
        {"sensor": "sht4x", "state": "reading", "last_error": null},
    ]);
    let seen = view(&status, &WIDE);
    let head: Vec<&str> = seen.lines().take(7).collect();
    expect![[r#"
        | gw-01  ● offline                                                       edge-agent 0.1.0, up 3 d 4 h
        | ───────────────────────────────────────────────────────────────────────────────────────────────────
        | FULL      devices are not acknowledged: outbox is at `outbox.bytes-max`
        | CLOCK     it says 1970-01-01T00:00:07Z, which cannot be: set it
        | hub       none yet: the service is away
        |           Connection refused (os error 111)
        | broker    localhost port 1883: Connection refused
    "#]]
    .assert_eq(&framed(&head.join("\n")));
    assert!(!seen.contains("growing") && seen.contains("bme280 at /dev/i2c-1 0x76: no answer"), "{seen}");
    expect!["1970-01-01T00:00:07Z gw-01: offline, in 203/s, out 264/s, 1204 held, full; FULL: outbox is at `outbox.bytes-max`"].assert_eq(&line(&status));
    status["outlook"] = json!({"is": "growing", "full_in_s": 4_200});
    assert!(view(&status, &WIDE).contains("growing, full in 1 h 10 min"));
}

#[test]
fn plain_lines_hold_the_same() {
    let mut out = Vec::new();
    print_now(&mut out, &status()).expect("written");
    let said = String::from_utf8(out).expect("text").replace(&"x".repeat(200), "xx");
    expect![[r#"
        rates     203 rows/s in, 264 rows/s out, 51.2 messages/s, 0.7 refused/s, over 10 s
        backlog   1204 rows, empty in 20 s
        disk      5.1 GiB free of 29 GiB
        warn      2 min ago, 14 times: no connection to the hub: connection refused host=hub
        error     1 d 1 h ago, once: xx
    "#]]
    .assert_eq(&said);
    let mut out = Vec::new();
    print_now(&mut out, &json!({"gateway": "of an earlier version"})).expect("written");
    assert!(out.is_empty());
}

#[test]
fn what_others_said_cannot_steer_the_terminal() {
    let mut status = status();
    for pointer in ["/gateway", "/hub/name", "/remote/log_level", "/errors/0/text", "/version"] {
        *status.pointer_mut(pointer).expect("there") = json!("\u{1b}[2J\u{7}\n\u{9b}");
    }
    let seen = view(&status, &WIDE);
    assert!(!seen.replace('\n', "").contains(char::is_control), "{seen:?}");
}

proptest! {
    #[test]
    fn it_fits_any_terminal_and_any_status_is_shown(columns in 0usize..200, utf8: bool, link in ".{0,200}", hub in ".{0,200}", number: u64) {
        let mut status = status();
        (status["uplink"]["link"], status["hub"]["name"]) = (json!(link), json!(hub));
        (status["outbox"]["held"], status["outbox"]["bytes"]) = (json!(number), json!(number));
        let style = Style { columns: columns.max(40), rows: 24, colour: false, utf8 };
        let seen = view(&status, &style);
        let head = 1; // the name and the link are shown whole
        prop_assert!(seen.lines().skip(head).all(|line| line.chars().count() <= style.columns), "{}", seen);
        let _ = view(&json!({"outbox": number, "hour": {"ago_s": "x"}}), &Style { columns, ..style });
    }
}
