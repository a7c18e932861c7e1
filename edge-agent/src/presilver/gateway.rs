//! This machine's clocks: is the wall clock known good, and how long is it since the boot.

use std::path::Path;
use std::time::Instant;

use shared::time::Timestamp;

use super::config::ClockTrust;
use crate::outbox::BootTime;

/// Before this program was written; a clock that stands there was never set.
const PLAUSIBLE_MIN: Timestamp = Timestamp::from_micros(1_767_225_600_000_000); // 2026-01-01
/// A clock that stands here was set wrong.
const PLAUSIBLE_MAX: Timestamp = Timestamp::from_micros(4_102_444_800_000_000); // 2100-01-01
/// How often systemd-timesyncd is asked.
const ASK_EVERY_S: u64 = 5;
/// Exists while systemd-timesyncd runs.
const TIMESYNC: &str = "/run/systemd/timesync";

/// The gateway's clocks.
#[derive(Debug)]
pub struct Gateway {
    trust: ClockTrust,
    boot: [u8; 16],
    uptime_us: i64,
    began: Instant,
    asked: Option<(Instant, bool)>,
}

impl Gateway {
    /// Reads boot id and uptime; zeros where the kernel does not tell.
    pub fn new(trust: ClockTrust) -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            trust,
            boot: boot_id(&read("/proc/sys/kernel/random/boot_id")).unwrap_or_default(),
            uptime_us: uptime_us(&read("/proc/uptime")).unwrap_or_default(),
            began: Instant::now(),
            asked: None,
        }
    }

    /// Now, on the clock that never jumps.
    pub fn boot_time(&self) -> BootTime {
        let since = i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX);
        BootTime { boot: self.boot, monotonic_us: self.uptime_us.saturating_add(since) }
    }

    /// Whether the wall clock, which says `now`, is known good.
    pub fn is_known_good(&mut self, now: Timestamp) -> bool {
        match self.trust {
            ClockTrust::Trusted => true,
            ClockTrust::Auto => is_plausible(now) && self.is_set(),
        }
    }

    fn is_set(&mut self) -> bool {
        match self.asked {
            Some((at, set)) if at.elapsed().as_secs() < ASK_EVERY_S => set,
            _ => {
                let set = timesync_agrees(Path::new(TIMESYNC));
                self.asked = Some((Instant::now(), set));
                set
            }
        }
    }
}

/// True where the year can be right.
pub fn is_plausible(now: Timestamp) -> bool {
    PLAUSIBLE_MIN <= now && now < PLAUSIBLE_MAX
}

/// True if systemd-timesyncd does not run, or says that the clock is set.
fn timesync_agrees(folder: &Path) -> bool {
    !folder.exists() || folder.join("synchronized").exists()
}

fn boot_id(text: &str) -> Option<[u8; 16]> {
    let digits: Vec<u8> = text
        .trim()
        .chars()
        .filter(|c| *c != '-')
        .map(|c| c.to_digit(16).and_then(|d| d.try_into().ok()))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] * 16 + pair[1]).collect();
    bytes.try_into().ok()
}

fn uptime_us(text: &str) -> Option<i64> {
    let (seconds, hundredths) = text.split_whitespace().next()?.split_once('.')?;
    let (seconds, hundredths): (i64, i64) = (seconds.parse().ok()?, hundredths.parse().ok()?);
    Some(seconds * 1_000_000 + hundredths * 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_texts_are_read() {
        assert_eq!(boot_id("00ff0102-0304-0506-0708-090a0b0c0d0e\n").map(|id| id[1]), Some(0xff));
        assert_eq!(boot_id("zz"), None);
        assert_eq!(boot_id(""), None);
        assert_eq!(uptime_us("350735.47 234388.90\n"), Some(350_735_470_000));
        assert_eq!(uptime_us(""), None);
    }

    #[test]
    fn the_clock_is_good_only_in_a_plausible_year_and_when_timesyncd_agrees() {
        for (text, plausible) in
            [("1970-01-01T00:00:10Z", false), ("2026-11-23T00:00:00Z", true), ("2100-01-01T00:00:00Z", false)]
        {
            assert_eq!(is_plausible(Timestamp::parse_rfc3339(text).expect("a time")), plausible, "{text}");
        }
        let dir = tempfile::tempdir().expect("a directory");
        assert!(timesync_agrees(&dir.path().join("absent")));
        assert!(!timesync_agrees(dir.path()));
        std::fs::write(dir.path().join("synchronized"), "").expect("written");
        assert!(timesync_agrees(dir.path()));
    }

    #[test]
    fn the_boot_clock_goes_forward() {
        let gateway = Gateway::new(ClockTrust::Auto);
        let first = gateway.boot_time();
        assert!(first.monotonic_us <= gateway.boot_time().monotonic_us);
    }
}
