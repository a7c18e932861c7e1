//! What this machine says of itself: disk, memory, heat, power, the width of its terminal.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use rustix::fs::{statfs, statvfs};
use serde::Serialize;
use shared::time::Timestamp;

/// File systems that end with the power: tmpfs and ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];
/// Where Linux names its sensors of voltage.
const HWMON: &str = "/sys/class/hwmon";
/// Where it tells how warm the processor is, in thousandths of a degree.
const THERMAL: &str = "/sys/class/thermal/thermal_zone0/temp";

/// The file system of the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Disk {
    /// Bytes that may be written by us.
    pub(crate) free: u64,
    /// Bytes in all.
    pub(crate) total: u64,
}

/// The file system that holds `path`, or would if it were there; `None` where the system does not tell.
pub(crate) fn disk(path: &Path) -> Option<Disk> {
    let stat = statvfs(standing(path)).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Some(Disk { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
}

/// Whether what is written to `path` is gone with the power.
pub(crate) fn is_in_memory(path: &Path) -> bool {
    let kind = statfs(standing(path)).map(|stat| stat.f_type);
    kind.is_ok_and(|kind| u64::try_from(kind).is_ok_and(|kind| IN_MEMORY.contains(&kind)))
}

/// The nearest folder above, or the file itself, that is there.
fn standing(path: &Path) -> PathBuf {
    let there = path.ancestors().filter(|above| !above.as_os_str().is_empty()).find(|above| above.exists());
    there.map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Bytes of memory this process has.
pub(crate) fn resident() -> Option<u64> {
    resident_of(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Columns and rows of the terminal standard output goes to.
pub(crate) fn terminal() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some((usize::from(size.ws_col), usize::from(size.ws_row))).filter(|(columns, rows)| 0 < *columns && 0 < *rows)
}

/// Whether a Raspberry Pi says that its power is too weak; `None` where there is nobody to say it.
pub(crate) fn is_under_voltage() -> Option<bool> {
    under_voltage_in(Path::new(HWMON))
}

fn under_voltage_in(folder: &Path) -> Option<bool> {
    let text = |path: PathBuf| std::fs::read_to_string(path).map(|text| text.trim().to_owned());
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let alarms =
        entries.map(|entry| entry.path()).filter(|path| text(path.join("name")).is_ok_and(|n| n == "rpi_volt"));
    alarms.filter_map(|path| text(path.join("in0_lcrit_alarm")).ok()).map(|alarm| alarm != "0").next()
}

/// Degrees Celsius of the processor.
pub(crate) fn heat() -> Option<f64> {
    let thousandths: f64 = std::fs::read_to_string(THERMAL).ok()?.trim().parse().ok()?;
    Some(thousandths / 1_000.0)
}

/// Gauges of the machine: `edge_machine_*`. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    disk_free: Gauge,
    disk: Gauge,
    resident: Gauge,
}

impl Metrics {
    /// Registers everything under `edge_machine_`, which agent this is (`edge_info`), and since when it runs.
    pub(crate) fn register(registry: &mut Registry, started: Timestamp) -> Self {
        let metrics = Self::default();
        registry.register("edge", "This agent", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        let since: Gauge<f64, AtomicU64> = Gauge::default();
        since.set(started.micros() as f64 / 1e6);
        registry.register("process_start_time_seconds", "When this process started, since the Unix epoch", since);
        let at = registry.sub_registry_with_prefix("edge_machine");
        at.register("disk_free_bytes", "Bytes free where the outbox lies", metrics.disk_free.clone());
        at.register("disk_bytes", "Bytes in all where the outbox lies", metrics.disk.clone());
        at.register("resident_bytes", "Bytes of memory of this process", metrics.resident.clone());
        metrics
    }

    /// As of now.
    pub(crate) fn show(&self, disk: Option<Disk>, resident: Option<u64>) {
        let set = |gauge: &Gauge, bytes: u64| {
            gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        };
        if let Some(disk) = disk {
            set(&self.disk_free, disk.free);
            set(&self.disk, disk.total);
        }
        if let Some(resident) = resident {
            set(&self.resident, resident);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_of_a_file_that_is_not_there_yet_is_its_folders() {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = disk(&dir.path().join("a/b/outbox.db")).expect("a file system");
        assert!(0 < disk.total && disk.free <= disk.total, "{disk:?}");
        assert!(is_in_memory(Path::new("/dev/shm/outbox.db")) || !Path::new("/dev/shm").exists());
        assert!(!is_in_memory(Path::new("/proc/outbox.db")));
        assert_eq!(standing(Path::new("outbox-that-is-not-there.db")), Path::new("."));
    }

    #[test]
    fn memory_is_read_from_the_kernels_text() {
        assert_eq!(resident_of("Name:\tedge\nVmRSS:\t    8192 kB\nThreads:\t4\n"), Some(8_388_608));
        for odd in ["", "VmRSS:\t kB", "VmRSS: 1 MB", "VmRSS: 99999999999999999999 kB"] {
            assert_eq!(resident_of(odd), None, "{odd}");
        }
        assert!(resident().is_some_and(|bytes| 0 < bytes));
    }

    #[test]
    fn a_weak_power_supply_is_seen_where_a_pi_tells() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(under_voltage_in(dir.path()), None);
        for (folder, name, alarm) in [("hwmon0", "cpu_thermal\n", "1\n"), ("hwmon1", "rpi_volt\n", "0\n")] {
            let at = dir.path().join(folder);
            std::fs::create_dir(&at).expect("a folder");
            std::fs::write(at.join("name"), name).expect("written");
            std::fs::write(at.join("in0_lcrit_alarm"), alarm).expect("written");
        }
        assert_eq!(under_voltage_in(dir.path()), Some(false));
        std::fs::write(dir.path().join("hwmon1/in0_lcrit_alarm"), "1\n").expect("written");
        assert_eq!(under_voltage_in(dir.path()), Some(true));
    }
}
