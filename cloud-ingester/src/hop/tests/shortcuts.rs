//! What makes hops cheaper changes nothing: what was seen is kept beside the tables, large windows are put aside, and models
//! that run by the clock are computed beside the others.

use std::time::Duration;

use serde_json::json;

use super::kit::{EPOCH, Kit, NOW, SECOND, envelope, event};
use crate::hop::Settings;
use crate::lake::Table;
use crate::silver::{Seen, rebuild};

/// Forty Events of one gateway from `from` on: readings of two metrics, now and then a repeat, a refusal, a gap.
async fn fill(kit: &Kit, from: i64) {
    let mut events = vec![];
    for at in from..from + 40 {
        let seq = 2 * at + 1;
        let seq = if at % 7 == 3 { seq - 2 } else { seq };
        let mut body = envelope(seq + 1, &[(seq, "a", at as f64, at * 90), (seq + 1, "b", 0.5, at * 90)]);
        if at % 10 == 4 {
            body["gaps"] = json!([{"epoch": EPOCH, "from": seq + 500, "to": seq + 501, "reason": "disk-bound", "readings": {"d": 2}}]);
        }
        if at % 10 == 6 {
            body["readings"][1]["t"] = json!(NOW + 900 * 86_400 * SECOND);
        }
        events.push(event(at, "g", &body));
    }
    for part in events.chunks(8) {
        kit.store(part).await;
    }
}

async fn from_the_tables(kit: &Kit) -> Seen {
    let view = |table| kit.lake.view(table);
    let [readings, quarantine, gaps] = [
        view(Table::SilverReadings).await.expect("a view"),
        view(Table::SilverQuarantine).await.expect("a view"),
        view(Table::SilverGaps).await.expect("a view"),
    ];
    rebuild(&readings, &quarantine, &gaps).await.expect("read")
}

fn recalling() -> Settings {
    Settings { note_every: Duration::ZERO, ..Kit::settings() }
}

/// Deletes the first file of silver.readings: whoever reads it fails.
async fn without_the_first_readings(kit: &Kit) -> (std::path::PathBuf, Vec<u8>) {
    let readings = kit.lake.view(Table::SilverReadings).await.expect("a view");
    let change = readings.change(1).await.expect("the log");
    let first = readings.changes(0).await.expect("the log").into_iter().flat_map(|change| change.adds).next();
    let add = change.adds.into_iter().next().or(first).expect("rows");
    let root = kit.lake.location().local().expect("a directory").join(Table::SilverReadings.path());
    let path = root.join(&add.path);
    let bytes = std::fs::read(&path).expect("a file");
    std::fs::remove_file(&path).expect("deleted");
    (path, bytes)
}

#[tokio::test]
async fn what_was_seen_comes_from_its_note_and_the_rows_since() {
    let kit = Kit::new().await;
    let mut hops = kit.hops_with(recalling()).await.expect("takes over");
    fill(&kit, 0).await;
    kit.settle(&mut hops).await;
    let expected = hops.totals();
    drop(hops);
    // Rows that came after the note.
    let never = Settings { note_every: Duration::from_secs(1 << 30), ..Kit::settings() };
    let mut hops = kit.hops_with(never.clone()).await.expect("takes over");
    hops.noted = Some(tokio::time::Instant::now());
    fill(&kit, 40).await;
    kit.settle(&mut hops).await;
    assert_ne!(hops.totals(), expected);
    drop(hops);

    let whole = from_the_tables(&kit).await;
    let (path, bytes) = without_the_first_readings(&kit).await;
    let hops = kit.hops_with(never.clone()).await.expect("takes over without reading what the note knows");
    let recalled = hops.memory.as_ref().expect("remembered").seen.clone();
    assert_eq!(recalled.kept(), whole.kept());
    drop(hops);

    let note = kit.lake.location().local().expect("a directory").join("silver/_seen/latest");
    let mut damaged = std::fs::read(&note).expect("a note");
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&note, damaged).expect("written");
    assert!(kit.hops_with(never.clone()).await.is_err(), "a damaged note sends to the tables, where a file is missing");
    std::fs::write(path, bytes).expect("put back");
    let hops = kit.hops_with(never).await.expect("takes over");
    assert_eq!(hops.memory.as_ref().expect("remembered").seen.kept(), whole.kept());
}

#[tokio::test]
async fn a_note_from_before_a_refresh_is_not_believed() {
    let kit = Kit::new().await;
    let mut hops = kit.hops_with(recalling()).await.expect("takes over");
    fill(&kit, 0).await;
    kit.settle(&mut hops).await;
    let path = "silver/_seen/latest";
    let old = kit.lake.get_beside(path).await.expect("read").expect("a note");
    hops.full_refresh(Table::SilverReadings).await.expect("refreshes");
    kit.settle(&mut hops).await;
    drop(hops);
    kit.lake.put_beside(path, old).await.expect("written");
    let hops = kit.hops_with(recalling()).await.expect("takes over");
    assert_eq!(hops.memory.as_ref().expect("remembered").seen.kept(), from_the_tables(&kit).await.kept());
}

#[tokio::test]
async fn windows_of_rows_put_aside_are_the_same() {
    let mut all = vec![];
    for window_rows in [u64::MAX, 20, 3, 1] {
        let kit = Kit::new().await;
        let mut hops = kit.hops_with(Settings { window_rows, ..Kit::settings() }).await.expect("takes over");
        for from in [0, 40] {
            fill(&kit, from).await;
            kit.settle(&mut hops).await;
        }
        all.push(kit.everything().await);
    }
    for (at, tables) in all.iter().enumerate().skip(1) {
        assert_eq!(&all[0], tables, "{at}");
    }
}

#[tokio::test]
async fn a_model_by_the_clock_is_computed_beside_the_hops_and_comes_to_the_same() {
    let kit = Kit::new().await;
    let mut hops = kit.hops_with(Kit::settings()).await.expect("takes over");
    fill(&kit, 0).await;
    kit.settle(&mut hops).await;
    let expected = kit.everything().await;
    drop(hops);

    let kit = Kit::new().await;
    let mut hops = kit.hops_with(Settings { beside: true, ..Kit::settings() }).await.expect("takes over");
    fill(&kit, 0).await;
    let hours = async |kit: &Kit| kit.lake.view(Table::GoldMetric1h).await.expect("a view").rows();
    let mut silver_first = false;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while hours(&kit).await == 0 {
        assert!(tokio::time::Instant::now() < deadline, "never committed");
        let report = hops.round().await.expect("a round");
        silver_first |= report.silver.is_some() && hours(&kit).await == 0;
    }
    assert!(silver_first, "silver does not wait for it");
    kit.settle(&mut hops).await;
    assert_eq!(kit.everything().await, expected);
}
