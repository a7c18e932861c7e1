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

#[tokio::test]
async fn a_mistake_in_the_catalogue_is_told_while_it_lasts() {
    let kit = Kit::new().await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("devices.csv");
    // A history may stand in it, as in silver.devices: what is over is passed over.
    write(&path, "device_id,name,valid_to\nd,Old,2020-01-01T00:00:00Z\nd,Press,\n");
    let settings = Settings { catalogue: Some(Source::File(path.clone())), ..Kit::settings() };
    let mut hops = kit.hops_with(settings).await.expect("takes over");
    hops.round().await.expect("a round");
    assert_eq!(kit.lake.troubles().len(), 0, "{:?}", kit.lake.troubles());
    write(&path, "device_id,name,timezone\nd,Press,Mars/Olympus\n");
    hops.round().await.expect("a round");
    let told = kit.lake.troubles().get("silver.catalogue").cloned().unwrap_or_default();
    assert!(told.contains("devices.csv:2: timezone") && told.contains("stays as it was read last"), "{told}");
    write(&path, "device_id,name,timezone\nd,Press,Europe/Berlin\n");
    hops.round().await.expect("a round");
    assert_eq!(kit.lake.troubles().len(), 0, "{:?}", kit.lake.troubles());
}

const SITES: &str = "-- target = \"gold.sites\"
-- mode = \"window\"
-- keys = [\"site\"]
-- [window]
-- kind = \"tumbling\"
-- size = \"1m\"
select site, window_start, window_end, count(*) as readings from windowed group by site, window_start, window_end
";

const ALL_SITES: &str = "-- target = \"gold.all_sites\"
-- mode = \"full\"
select site, count(*) as readings from readings group by site
";

#[tokio::test]
async fn a_device_of_whichever_gateway_is_known_wherever_gold_looks_and_its_own_gateway_goes_before() {
    let (kit, settings) = Kit::with_models(&[("sites.sql", SITES), ("all_sites.sql", ALL_SITES)]).await;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("devices.csv");
    write(&path, "device_id,site,expected_interval_s\nd,Ulm,30\n");
    let settings = Settings { catalogue: Some(Source::File(path.clone())), ..settings };
    let mut hops = kit.hops_with(settings.clone()).await.expect("takes over");
    kit.store(&[event(1, "g", &envelope(2, &[(1, "t", 1.0, 0), (2, "t", 1.0, 10)]))]).await;
    kit.settle(&mut hops).await;
    let asked = "select s.site as a, f.site as b, h.expected from gold.sites s, gold.all_sites f, gold.device_health h";
    expect![[r#"
        +-----+-----+----------+
        | a   | b   | expected |
        +-----+-----+----------+
        | Ulm | Ulm | 2880.0   |
        +-----+-----+----------+"#]]
    .assert_eq(&kit.ask(asked).await);
    let traced = crate::gold::trace::Asked {
        table: "gold.sites".to_owned(),
        keys: vec!["site=Ulm".to_owned()],
        window: Some("2026-11-23T10:00:00Z".to_owned()),
    };
    let found = crate::gold::trace::find(&kit.lake, &settings.own, super::kit::LIMITS, &traced).await.expect("asked");
    assert_eq!(found.expect("a row").origin.readings.len(), 2);

    write(&path, "gateway_id,device_id,site,expected_interval_s\n,d,Ulm,30\ng,d,Berlin,60\n");
    kit.settle(&mut hops).await;
    expect![[r#"
        +--------+--------+----------+
        | a      | b      | expected |
        +--------+--------+----------+
        | Berlin | Berlin | 1440.0   |
        +--------+--------+----------+"#]]
    .assert_eq(&kit.ask(asked).await);
}
