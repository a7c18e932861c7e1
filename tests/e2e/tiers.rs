//! What a tier meters and refuses, and that the hub's memory is that of its connections, not of what goes through.

use std::fs;
use std::net::Ipv4Addr;

use tests::{probe, wait};

use crate::hubs::{Hub, PATIENCE};

/// Messages of 3,000 bytes are six blocks on `free`, and one on the others.
const BODY: usize = 3_000;

#[test]
fn a_tier_meters_by_its_blocks_shows_the_days_count_and_keeps_it_over_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    for (profile, quota, block, blocks) in
        [("free", 8_000, 512, 6), ("s1", 400_000, 4_096, 1), ("s2", 6_000_000, 4_096, 1)]
    {
        let limits = format!("[hub.limits]\nprofile = \"{profile}\"\n");
        let hub = Hub::new(dir.path(), profile, Ipv4Addr::LOCALHOST, &limits);
        let running = hub.start();
        let sent = hub.load(BODY, 30 * BODY as u64);
        assert!(sent.status.success(), "{profile}: {}", String::from_utf8_lossy(&sent.stderr));
        let counted = || {
            let (stored, metered) = (hub.number("/events/stored")?, hub.number("/limits/metered-today")?);
            (30 <= stored && metered == blocks * stored).then_some(metered)
        };
        let Some(metered) = wait::until(PATIENCE, counted) else {
            panic!("{profile}: {:?}", probe::status(hub.http));
        };
        assert_eq!(hub.number("/limits/quota"), Some(quota), "{profile}");
        assert_eq!(hub.number("/limits/metered-bytes"), Some(block), "{profile}");
        // A kill loses at most a second of the count.
        let kept = dir.path().join(profile);
        let written = |count: u64| {
            let files = fs::read_dir(&kept).ok()?.filter_map(Result::ok);
            let mut texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
            texts.any(|text| text.contains(&format!("\"used\":{count}"))).then_some(())
        };
        assert!(wait::until(PATIENCE, || written(metered)).is_some(), "{profile}: {metered} is nowhere in {kept:?}");
        drop(running);
        let _running = hub.start();
        assert_eq!(hub.number("/limits/metered-today"), Some(metered), "{profile}");
    }
}

#[test]
fn the_free_tiers_day_ends_at_its_quota() {
    let dir = tempfile::tempdir().expect("a folder");
    let limits = "[hub.limits]\nprofile = \"free\"\npatience = \"1s\"\n";
    let hub = Hub::new(dir.path(), "free", Ipv4Addr::LOCALHOST, limits);
    let _running = hub.start();
    // 391 blocks each: twenty fit into the day.
    let sent = hub.load(200_000, 40 * 200_000);
    assert!(!sent.status.success(), "its connections were closed");
    assert_eq!(hub.number("/events/stored"), Some(20));
    assert_eq!(hub.number("/limits/metered-today"), Some(20 * 391));
    let metrics = probe::get(hub.http, "/metrics").expect("metrics");
    assert!(metrics.contains("hub_closed_total{reason=\"quota\"}"), "{metrics}");
}

#[test]
fn memory_does_not_grow_with_what_goes_through() {
    let dir = tempfile::tempdir().expect("a folder");
    let hub = Hub::new(dir.path(), "flat", Ipv4Addr::LOCALHOST, "retention-size = \"64MiB\"\n");
    let running = hub.start();
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{}/status", running.0.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok().map(|kib| kib >> 10)
    };
    let mut seen = vec![];
    for _ in 0..3 {
        let sent = hub.load(16_000, 100_000_000);
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
        seen.push(resident().expect("it runs"));
    }
    eprintln!("{seen:?} MiB resident after each 100 MB");
    assert!(300_000_000 <= hub.number("/events/stored").expect("a count") * 16_000);
    // Retention comes by once a second, and a second of load is more than it keeps.
    let given_up = || hub.number("/events/bytes").filter(|bytes| *bytes < 100_000_000);
    assert!(
        wait::until(PATIENCE, given_up).is_some(),
        "retention gives up the rest: {:?}",
        hub.number("/events/bytes")
    );
    assert!(seen[2] < seen[0] + 64, "{seen:?} MiB");
}
