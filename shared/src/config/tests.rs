use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use serde::Deserialize;

use super::*;

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "read through Debug")]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Config {
    hub: Hub,
    outbox: Outbox,
    #[serde(default)]
    mapping: Vec<Mapping>,
    #[serde(default)]
    rules: BTreeMap<String, f64>,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "read through Debug")]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Hub {
    host: String,
    port: u16,
    connection_string: Option<SecretSource>,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "read through Debug")]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Outbox {
    bytes_max: Size,
    linger: Span,
    mode: Mode,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    Full,
    Normal,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "read through Debug")]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Mapping {
    topic: String,
    depth: Option<u8>,
}

impl Check for Config {
    fn check(&self, mistakes: &mut Mistakes) {
        mistakes.within("outbox", |mistakes| {
            mistakes.ensure(
                1024 <= self.outbox.bytes_max.bytes(),
                "bytes-max",
                "must be at least 1KiB, write e.g. \"64MiB\"",
            );
        });
        for (at, mapping) in self.mapping.iter().enumerate() {
            mistakes.ensure(!mapping.topic.is_empty(), format!("mapping[{at}].topic"), "must not be empty");
        }
    }
}

const LAYERS: Layers = Layers {
    default: r#"
[hub]
host = "localhost"
port = 8883

[outbox]
bytes-max = "64MiB"
linger = "1s"
mode = "full"
"#,
    env_prefix: "EDGE",
};

fn check(file: &str, environment: &[(&str, &str)], expected: Expect) {
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned()))).collect();
    let said = match load_from::<Config>(&LAYERS, Some(("edge.toml", file)), &environment) {
        Ok(config) => format!("{config:?}\n"),
        Err(errors) => format!("{errors}\n"),
    };
    expected.assert_eq(&said);
}

#[test]
fn a_file_overrides_the_default_and_the_environment_overrides_both() {
    check(
        "[hub]\nport = 1\n[outbox]\nlinger = \"1m30s\"\n[rules]\ntemperature = 1.5",
        &[
            ("EDGE__HUB__PORT", "2"),
            ("EDGE__OUTBOX__BYTES_MAX", "1GiB"),
            ("EDGE__HUB__CONNECTION_STRING", "HostName=h;DeviceId=d;SharedAccessKey=c2VjcmV0"),
            ("EDGE__MAPPING", r#"[{ topic = "a/b" }]"#),
        ],
        expect![[r#"
            Config { hub: Hub { host: "localhost", port: 2, connection_string: Some(Inline(***)) }, outbox: Outbox { bytes_max: Size(1073741824), linger: Span(90s), mode: Full }, mapping: [Mapping { topic: "a/b", depth: None }], rules: {"temperature": 1.5} }
        "#]],
    );
}

#[test]
fn every_mistake_is_reported_at_once_with_its_line_and_what_to_write() {
    check(
        r#"
[hub]
port = 70000
hosst = "h"

[outbox]
max-bytes = "1GB"
bytes-max = "12B"
linger = 30
mode = "ful"

[[mapping]]
topic = ""
[[mapping]]
depth = 300
"#,
        &[("EDGE__HUB__HOST", "10"), ("EDGE__OUTBOX__LINGERS", "1s"), ("EDGE__HUB__PORT__X", "1")],
        expect![[r#"
            the configuration has 11 mistakes:
              edge.toml:3: hub.port: invalid value: integer `70000`, expected a whole number from 0 to 65535; the default is 8883
              edge.toml:4: hub.hosst: unknown key `hosst`; did you mean `host`? known here: host, port, connection-string
              edge.toml:7: outbox.max-bytes: unknown key `max-bytes`; did you mean `bytes-max`? known here: bytes-max, linger, mode
              edge.toml:8: outbox.bytes-max: must be at least 1KiB, write e.g. "64MiB"
              edge.toml:9: outbox.linger: invalid type: integer `30`, expected a duration with its unit in quotes, e.g. "30s", "250ms", "10m", "24h", "400d"; the default is "1s"
              edge.toml:10: outbox.mode: unknown choice `ful`; did you mean `full`? known here: full, normal
              edge.toml:13: mapping[0].topic: must not be empty
              edge.toml:14: mapping[1].topic: missing; write `topic = …` here
              edge.toml:15: mapping[1].depth: invalid value: integer `300`, expected a whole number from 0 to 255
              environment variable EDGE__HUB__PORT__X: hub.port.x: `hub.port` holds no keys of its own; set it as a whole
              environment variable EDGE__OUTBOX__LINGERS: outbox.lingers: unknown key `lingers`; did you mean `linger`? known here: bytes-max, linger, mode
        "#]],
    );
}

#[test]
fn a_text_that_is_not_toml_is_reported_with_its_line_and_nothing_is_guessed_from_the_rest() {
    check(
        "[hub]\nport = = 3\n\n[outbox]\nlinger = 5\n",
        &[],
        expect![[r#"
        the configuration has a mistake:
          edge.toml:2: not TOML: extra `=`, expected nothing
    "#]],
    );
}

#[test]
fn a_secret_is_never_repeated() {
    check(
        "",
        &[("EDGE__HUB__CONNECTION_STRING", "12345")],
        expect![[r#"
        Config { hub: Hub { host: "localhost", port: 8883, connection_string: Some(Inline(***)) }, outbox: Outbox { bytes_max: Size(67108864), linger: Span(1s), mode: Full }, mapping: [], rules: {} }
    "#]],
    );
    check(
        "",
        &[("EDGE__HUB__CONNECTION_STRING", "[12345")],
        expect![[r#"
        Config { hub: Hub { host: "localhost", port: 8883, connection_string: Some(Inline(***)) }, outbox: Outbox { bytes_max: Size(67108864), linger: Span(1s), mode: Full }, mapping: [], rules: {} }
    "#]],
    );
    check(
        "",
        &[("EDGE__HUB__CONNECTION_STRING", "[12345]")],
        expect![[r#"
        Config { hub: Hub { host: "localhost", port: 8883, connection_string: Some(Inline(***)) }, outbox: Outbox { bytes_max: Size(67108864), linger: Span(1s), mode: Full }, mapping: [], rules: {} }
    "#]],
    );
    check(
        "[hub]\nconnection-string = 12345",
        &[],
        expect![[r#"
        the configuration has a mistake:
          edge.toml:2: hub.connection-string: a secret is a text in quotes, { file = "PATH" }, { env = "NAME" } or { credential = "NAME" }
    "#]],
    );
    check(
        "[hub]\nconnection-string = { fil = \"12345\" }",
        &[],
        expect![[r#"
        the configuration has a mistake:
          edge.toml:2: hub.connection-string: a secret is a text in quotes, { file = "PATH" }, { env = "NAME" } or { credential = "NAME" }
    "#]],
    );
}

#[test]
fn units_are_written_out_and_printed_back() {
    for (text, printed) in
        [("30s", "30s"), ("250ms", "250ms"), ("90m", "1h30m"), ("400d", "400d"), ("1h 30m", "1h30m"), ("0s", "0s")]
    {
        assert_eq!(text.parse::<Span>().map(|span| span.to_string()), Ok(printed.to_owned()), "{text}");
    }
    for (text, bytes, printed) in
        [("64MiB", 64 << 20, "64MiB"), ("10 MB", 10_000_000, "10MB"), ("4096B", 4096, "4KiB"), ("0B", 0, "0B")]
    {
        let size: Size = text.parse().expect(text);
        assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, printed), "{text}");
    }
    for bad in ["", "30", "s", "-1s", "1.5h", "3 weeks", "99999999999999999999d", "9999999999999d"] {
        assert!(bad.parse::<Span>().is_err(), "{bad}");
        assert!(bad.parse::<Size>().is_err(), "{bad}");
    }
}

#[test]
fn a_secret_is_read_from_a_file_without_its_line_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    std::fs::write(&path, "s3cret\r\n").expect("a file");
    assert_eq!(SecretSource::File(path.clone()).read().expect("the secret").reveal(), "s3cret");
    std::fs::write(&path, "\n").expect("a file");
    assert!(SecretSource::File(path).read().is_err());
}
