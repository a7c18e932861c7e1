//! silver.devices follows its catalogue.

use std::path::Path;

use expect_test::{Expect, expect};
use shared::time::Timestamp;

use super::kit::{Kit, NOW, SECOND, envelope, event};
use crate::hop::catalogue::Source;
use crate::hop::{Hops, Settings};

async fn check(kit: &Kit, hops: &mut Hops, expected: Expect) {
    kit.settle(hops).await;
    let sql = "select gateway_id, device_id, name, timezone, valid_from = timestamp_micros(0) as always, \
               valid_to is null as now from silver.devices order by device_id, valid_from";
    expected.assert_eq(&kit.ask(sql).await);
}

/// Another second's file, whatever the file system's clock counts in.
fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("written");
}

#[tokio::test]
async fn devices_follow_their_catalogue_and_a_bad_one_changes_nothing() {
    let kit = Kit::new().await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("devices.csv");
    let settings = Settings { catalogue: Some(Source::File(path.clone())), ..Kit::settings() };
    // There is none yet: that is said in the log, and nothing stops.
    let mut hops = kit.hops_with(settings.clone()).await.expect("takes over");
    kit.store(&[event(1, "g", &envelope(1, &[(1, "t", 1.0, 0)]))]).await;
    check(
        &kit,
        &mut hops,
        expect![[r#"
        +------------+-----------+------+----------+--------+-----+
        | gateway_id | device_id | name | timezone | always | now |
        +------------+-----------+------+----------+--------+-----+
        +------------+-----------+------+----------+--------+-----+"#]],
    )
    .await;
    write(&path, "device_id,name,timezone\nd,Press,Europe/Berlin\ne,Pump,\n");
    check(
        &kit,
        &mut hops,
        expect![[r#"
        +------------+-----------+-------+---------------+--------+------+
        | gateway_id | device_id | name  | timezone      | always | now  |
        +------------+-----------+-------+---------------+--------+------+
        | *          | d         | Press | Europe/Berlin | true   | true |
        | *          | e         | Pump  |               | true   | true |
        +------------+-----------+-------+---------------+--------+------+"#]],
    )
    .await;
    write(&path, "device_id,name,timezone\nd,Press,Europe/Nowhere\n");
    check(
        &kit,
        &mut hops,
        expect![[r#"
        +------------+-----------+-------+---------------+--------+------+
        | gateway_id | device_id | name  | timezone      | always | now  |
        +------------+-----------+-------+---------------+--------+------+
        | *          | d         | Press | Europe/Berlin | true   | true |
        | *          | e         | Pump  |               | true   | true |
        +------------+-----------+-------+---------------+--------+------+"#]],
    )
    .await;
    drop(hops);
    // The next holder knows them from the table.
    let mut hops = kit.hops_with(settings).await.expect("takes over");
    let found = hops.catalogue().as_of("g", "d", Timestamp::from_micros(NOW)).cloned();
    assert_eq!(found.and_then(|device| device.name).as_deref(), Some("Press"));
    write(&path, "device_id,name,timezone\nd,Press 1,Europe/Berlin\n");
    check(
        &kit,
        &mut hops,
        expect![[r#"
        +------------+-----------+---------+---------------+--------+-------+
        | gateway_id | device_id | name    | timezone      | always | now   |
        +------------+-----------+---------+---------------+--------+-------+
        | *          | d         | Press   | Europe/Berlin | true   | false |
        | *          | d         | Press 1 | Europe/Berlin | false  | true  |
        | *          | e         | Pump    |               | true   | false |
        +------------+-----------+---------+---------------+--------+-------+"#]],
    )
    .await;
    let version = hops.catalogue().version();
    kit.store(&[event(2, "g", &envelope(2, &[(2, "t", 1.0, 0)]))]).await;
    kit.settle(&mut hops).await;
    let readings = kit.lake.view(crate::lake::Table::SilverReadings).await.expect("a view");
    let change = readings.change(readings.version()).await.expect("a change");
    assert_eq!(crate::hop::Plan::of(&change.info).and_then(|plan| plan.catalogue), Some(version));
}

#[tokio::test]
async fn a_catalogue_may_be_a_delta_table() {
    let (kit, other) = (Kit::new().await, Kit::new().await);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("devices.toml");
    write(&path, "[[device]]\ndevice = \"d\"\nname = \"Press\"\nexpected-interval = \"10s\"\n");
    let theirs = Settings { catalogue: Some(Source::File(path)), ..Kit::settings() };
    let mut hops = other.hops_with(theirs).await.expect("takes over");
    other.settle(&mut hops).await;
    let url = other.lake.location().local().expect("a directory").join("silver/devices").display().to_string();
    let ours = Settings { catalogue: Some(Source::Table(url)), ..Kit::settings() };
    let mut hops = kit.hops_with(ours).await.expect("takes over");
    check(
        &kit,
        &mut hops,
        expect![[r#"
        +------------+-----------+-------+----------+--------+------+
        | gateway_id | device_id | name  | timezone | always | now  |
        +------------+-----------+-------+----------+--------+------+
        | *          | d         | Press |          | true   | true |
        +------------+-----------+-------+----------+--------+------+"#]],
    )
    .await;
    let device = hops.catalogue().as_of("g", "d", Timestamp::from_micros(NOW + SECOND)).cloned().expect("known");
    assert_eq!(device.expected_interval_s, Some(10.0));
    let rows = kit.lake.view(crate::lake::Table::SilverReadings).await.expect("a view").rows();
    assert_eq!(rows, 0);
}
