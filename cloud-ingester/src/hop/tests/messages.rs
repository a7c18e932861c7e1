//! Devices whose messages have ids of their own: a repeat is no row, whenever it comes.

use std::time::Duration;

use serde_json::json;

use super::kit::{Kit, NOW, SECOND, Stored, event};
use crate::hop::{Hops, Settings};
use crate::lake::Table;
use crate::silver::Unique;

const HOUR: i64 = 3_600;

fn settings() -> Settings {
    let unique = Unique { devices: vec!["press-*".into()], horizon: Duration::from_secs(24 * 3_600) };
    Settings { unique, ..Kit::settings() }
}

/// Message `id` of `device`, in place `sequence`, so many seconds after [`NOW`].
fn message(sequence: i64, device: &str, id: &str, second: i64) -> Stored {
    let body = json!({"n": id.len(), "temperature": {"v": 21.5, "u": "Cel"}, "door": true, "broken": {}});
    let enqueued = NOW + second * SECOND;
    Stored { message_id: Some(id.to_owned()), enqueued, ..event(sequence, device, &body) }
}

/// Rows of each device in readings and quarantine, and what was counted.
async fn books(kit: &Kit, hops: &Hops) -> (Vec<String>, u64, u64) {
    let sql = "select device_id || ' ' || count(*) as n from \
               (select device_id from silver.readings union all select device_id from silver.quarantine) \
               group by device_id order by device_id";
    let asked = kit.ask(sql).await;
    let rows = asked.lines().skip(3).filter(|line| line.starts_with("| "));
    let rows = rows.map(|line| line.trim_matches(['|', ' ']).to_owned()).collect();
    (rows, hops.totals().decoded, hops.totals().duplicates)
}

#[tokio::test]
async fn a_message_that_comes_again_is_a_duplicate_also_after_a_restart_and_after_a_refresh() {
    let kit = Kit::new().await;
    let mut hops = kit.hops_with(settings()).await.expect("takes over");
    kit.store(&[message(1, "press-1", "a", 0), message(2, "press-1", "a", 1), message(3, "pump-1", "a", 2)]).await;
    kit.settle(&mut hops).await;
    assert_eq!(books(&kit, &hops).await, (vec!["press-1 3".into(), "pump-1 3".into()], 9, 3));

    // The next holder knows it from bronze, and knows nothing of what silver has not read.
    hops.into_lease().release().await;
    kit.store(&[message(4, "press-1", "a", HOUR), message(5, "press-1", "b", HOUR), message(6, "pump-1", "a", 3)])
        .await;
    let mut hops = kit.hops_with(settings()).await.expect("takes over");
    kit.settle(&mut hops).await;
    let all = (vec!["press-1 6".into(), "pump-1 6".into()], 18, 6);
    assert_eq!(books(&kit, &hops).await, all);

    let before = kit.ask("select * from silver.readings order by reading_id").await;
    hops.full_refresh(Table::SilverReadings).await.expect("refreshed");
    assert_eq!(books(&kit, &hops).await, all);
    assert_eq!(kit.ask("select * from silver.readings order by reading_id").await, before);
}

#[tokio::test]
async fn beyond_the_horizon_the_same_message_is_another_one() {
    let kit = Kit::new().await;
    let mut hops = kit.hops_with(settings()).await.expect("takes over");
    kit.store(&[message(1, "press-1", "a", 0)]).await;
    kit.store(&[message(2, "press-1", "a", 24 * HOUR), message(3, "press-1", "a", 48 * HOUR + 1)]).await;
    kit.settle(&mut hops).await;
    assert_eq!(books(&kit, &hops).await, (vec!["press-1 6".into()], 9, 3));
}
