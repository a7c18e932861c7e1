//! The page about inputs shows what is so: its settings are loaded, its samples judged, its output compared.

use super::*;
use crate::config::LAYERS;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/inputs.md");

/// A fenced block of the page: its kind, where its text begins and ends.
fn blocks(page: &str) -> Vec<(String, std::ops::Range<usize>)> {
    let mut blocks = Vec::new();
    let mut at = 0;
    let mut open: Option<(String, usize)> = None;
    for line in page.split_inclusive('\n') {
        let next = at + line.len();
        if let Some(kind) = line.strip_prefix("```") {
            match open.take() {
                Some((kind, begin)) => blocks.push((kind, begin..at)),
                None => open = Some((kind.trim().to_owned(), next)),
            }
        }
        at = next;
    }
    blocks
}

fn output(settings: &str, samples: &str) -> String {
    let config: Config = match shared::config::load_from(&LAYERS, Some(("docs/inputs.md", settings)), &[]) {
        Ok(config) => config,
        Err(errors) => panic!("{settings}\n{errors}"),
    };
    let received = Timestamp::parse_rfc3339("2026-11-23T10:00:00Z").expect("a time");
    let judge = Judge::new(&config.presilver);
    let mut all = Samples { judge, received, clock_known_good: true, json: false, sums: [0; 4] };
    let mut out = Vec::new();
    for (index, line) in samples.lines().enumerate() {
        all.line(index + 1, line.as_bytes(), &mut out).expect("memory takes all");
    }
    String::from_utf8(out).expect("text")
}

/// With `UPDATE_EXPECT=1` the page is written anew instead.
#[test]
fn the_page_about_inputs_shows_what_samples_become() {
    let mut page = std::fs::read_to_string(PAGE).expect("docs/inputs.md");
    let found = blocks(&page);
    let mut shown = 0;
    let mut anew = Vec::new();
    for window in found.windows(3) {
        let [(toml, settings), (text, samples), (console, expected)] = window else { continue };
        if (toml.as_str(), text.as_str(), console.as_str()) != ("toml", "text", "console") {
            continue;
        }
        shown += 1;
        let output = output(&page[settings.clone()], &page[samples.clone()]);
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            anew.push((expected.clone(), output));
        } else {
            assert_eq!(output, page[expected.clone()], "run this test with UPDATE_EXPECT=1, and read what it wrote");
        }
    }
    assert!(12 <= shown, "every format has settings, samples and what becomes of them: {shown}");
    for (range, output) in anew.into_iter().rev() {
        page.replace_range(range, &output);
        std::fs::write(PAGE, &page).expect("written");
    }
}

#[test]
fn bytes_are_written_in_hex_or_base64_and_anything_else_is_text() {
    for (text, bytes) in [
        ("hex:00 ff", Ok(&[0, 255][..])),
        ("base64:AP8=", Ok(&[0, 255])),
        ("hex:0", Err("hex")),
        ("hex:zz", Err("hex")),
        ("base64:*", Err("base64")),
        ("21.5", Ok(b"21.5")),
    ] {
        match (bytes_of(text.as_bytes()), bytes) {
            (Ok(read), Ok(bytes)) => assert_eq!(&*read, bytes, "{text}"),
            (Err(why), Err(what)) => assert!(why.contains(&format!("is not {what}")), "{text}: {why}"),
            (read, _) => panic!("{text}: {read:?}"),
        }
    }
    let said = output("", "telemetry/d/a hex:zz");
    assert!(said.starts_with("   1  note      sample: what follows `hex:` is not hex"), "{said}");
    assert!(said.contains("read as text\n   1  rejected  d "), "{said}");
}

#[test]
fn a_time_that_silver_refuses_is_told_with_what_it_may_have_been_meant_to_be() {
    for (time, words) in [
        ("1795427999", Some("1000000 times as much is 2026-11-23T09:59:59Z: is it in seconds or milliseconds?")),
        ("1795427999000", Some("1000 times as much is 2026-11-23T09:59:59Z")),
        ("1795427999000000", None),
        ("\"1999-01-01T00:00:00Z\"", Some("is more than 34560000 s before 2026-11-23T10:00:00Z: silver refuses that")),
    ] {
        let said = output("", &format!(r#"telemetry/d {{"ts":{time},"a":1}}"#));
        let mut lines = said.lines();
        assert!(lines.next().is_some_and(|line| line.starts_with("   1  reading   d a = 1 at ")), "{said}");
        let note = lines.next().filter(|line| line.starts_with("   1  note      age: "));
        assert_eq!(note.is_some(), words.is_some(), "{said}");
        assert!(words.is_none_or(|words| note.is_some_and(|note| note.contains(words))), "{said}");
    }
}
