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
        ("hex:00 ff", &[0, 255][..]),
        ("base64:AP8=", &[0, 255]),
        ("hex:0", b"hex:0"),
        ("hex:xy", b"hex:xy"),
        ("base64:*", b"base64:*"),
        ("21.5", b"21.5"),
    ] {
        assert_eq!(&*bytes_of(text.as_bytes()), bytes, "{text}");
    }
}
