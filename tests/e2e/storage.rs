//! The lake on Azure's storage (Azurite), behind a proxy that loses answers, refuses, resets, waits and cuts listings,
//! with the ingester killed in between: nothing is lost, nothing is there twice. A disk that fills up in mid-commit.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::proxy::Proxy;
use tests::stack::Part;
use tests::wait;

use crate::azurite::Azurite;
use crate::scenario::{Scenario, launcher};

/// Starts the ingester as systemd would: again and again until it stays. `way`: the variable that names its storage.
fn start_until_it_stays(scenario: &mut Scenario, way: &[(&str, &str)]) {
    let started = wait::until(Duration::from_secs(180), || scenario.stack.start_with(Part::Ingester, &[], way).ok());
    started.unwrap_or_else(|| panic!("the ingester does not start\n{}", scenario.tail(Part::Ingester)));
}

/// Waits until the lake has all; an ingester that gave up is started again.
fn finish_and_prove(scenario: &mut Scenario, lake: &str, way: &[(&str, &str)]) {
    let ended = scenario.stack.wait_end(Part::Devices, Duration::from_secs(120));
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}\n{}", scenario.tail(Part::Devices));
    let caught_up = wait::until(Duration::from_secs(240), || {
        if scenario.stack.ended(Part::Ingester).is_some() {
            start_until_it_stays(scenario, way);
        }
        (scenario.stack.has_drained() && scenario.stack.has_caught_up()).then_some(())
    });
    assert!(caught_up.is_some(), "the lake does not catch up\n{}", scenario.books());
    for part in [Part::Agent, Part::Ingester, Part::Hub] {
        let ended = scenario.stack.stop(part);
        assert!(ended.is_some_and(|s| s.success()), "the {} ended {ended:?}\n{}", part.as_str(), scenario.tail(part));
    }
    let (holds, said) = scenario.verify_at(lake, &["--held", "0"]);
    assert!(holds, "{said}\n{}", scenario.tail(Part::Ingester));
}

/// One seed: faults at the proxy, three `kill -9`.
fn check(seed: u64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let azurite = Azurite::start(folder.path());
    let proxy = Proxy::start(azurite.addr(), seed, 60).expect("a proxy");
    let (lake, config) = (azurite.lake(), azurite.config());
    // What reads the lake for the proof goes to Azurite itself.
    let (variable, url) = azurite.variable();
    let mut scenario = Scenario::started_by(launcher().with(variable, &url), &format!("storage-{seed}"), &config);
    let by_proxy = format!("http://{}", proxy.addr);
    let way: &[(&str, &str)] = &[(variable, &by_proxy)];
    scenario.start(Part::Hub);
    start_until_it_stays(&mut scenario, way);
    scenario.start(Part::Agent);
    scenario.start_devices_for(20);
    for kill in 0..3 {
        // Not at the same point of its rounds.
        std::thread::sleep(Duration::from_millis(2_000 + (seed * 7 + kill * 13) % 17 * 150));
        scenario.stack.kill(Part::Ingester);
        start_until_it_stays(&mut scenario, way);
    }
    finish_and_prove(&mut scenario, lake, way);
    let struck = proxy.struck();
    assert!(5 < struck.values().sum::<u64>(), "seed {seed} met {struck:?} only");
}

#[test]
fn behind_a_storage_that_fails_a_killed_ingester_loses_nothing_and_counts_nothing_twice_seed_1() {
    check(1);
}

#[test]
fn behind_a_storage_that_fails_a_killed_ingester_loses_nothing_and_counts_nothing_twice_seed_2() {
    check(2);
}

#[test]
#[ignore = "the first two of five seeds are tried with each run"]
fn behind_a_storage_that_fails_a_killed_ingester_loses_nothing_and_counts_nothing_twice_seeds_3_to_5() {
    (3..=5).for_each(check);
}

/// A disk of a few megabytes; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir_all(at).expect("a folder");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(at).status();
        assert!(mounted.is_ok_and(|status| status.success()), "only root mounts a disk");
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
#[ignore = "needs root: it mounts a small disk"]
fn a_disk_that_fills_up_in_mid_commit_loses_nothing_once_there_is_room_again() {
    let mut scenario = Scenario::new("disk-full");
    let lake = scenario.stack.layout.lake();
    let disk = SmallDisk::mount(&lake);
    scenario.start_all();
    scenario.start_devices_for(40);
    scenario.wait_for_silver(50);
    let filler = lake.join("filler");
    for killed in [false, true] {
        let said =
            |scenario: &Scenario, what: &str| scenario.log(Part::Ingester).lines().filter(|l| l.contains(what)).count();
        let noticed = said(&scenario, "trying again");
        let zeros = std::fs::File::open("/dev/zero").expect("zeros");
        let filled = std::io::copy(&mut &zeros, &mut std::fs::File::create(&filler).expect("a file"));
        assert!(filled.is_err(), "the disk is full");
        scenario.wait_for("word of the full disk", |scenario| (noticed < said(scenario, "trying again")).then_some(()));
        if killed {
            scenario.stack.kill(Part::Ingester);
            // It may wait, or end and be started again: as long as there is no room.
            let noticed = said(&scenario, "No space left");
            scenario.stack.spawn(Part::Ingester, &[], &[]).expect("the ingester starts");
            scenario.wait_for("end or word of it", |scenario| {
                let ended = scenario.stack.ended(Part::Ingester).is_some();
                (ended || noticed < said(scenario, "No space left")).then_some(())
            });
        }
        std::fs::remove_file(&filler).expect("removed");
        if scenario.stack.ended(Part::Ingester).is_some() {
            start_until_it_stays(&mut scenario, &[]);
        }
        let before = scenario.count("SELECT count(*) AS n FROM silver.readings").unwrap_or(0);
        scenario.wait_for_silver(before + 1);
    }
    finish_and_prove(&mut scenario, &lake.display().to_string(), &[]);
    // Before the folder it lies in.
    drop(disk);
}
