//! What Linux says of processes and of the machine: `/proc`, read at the two ends of a measurement.

use std::time::{Duration, Instant};

/// The kernel tells processor time in hundredths of a second. Source: proc(5), USER_HZ.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time used up to an instant.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    at: Instant,
    processes: Vec<u64>,
    machine: u64,
}

/// Processors used between two readings, 1.0 = one whole processor.
#[derive(Debug, Clone, Default)]
pub(super) struct Cores {
    /// Of each process, in the order asked.
    pub(super) processes: Vec<f64>,
    /// Of everything else on the machine, the kernel and its disk threads too.
    pub(super) others: f64,
}

impl Reading {
    /// Reads the clocks of `pids` and of the machine; a process that is gone counts as having done nothing.
    pub(super) fn take(pids: &[u32]) -> Self {
        let processes = pids.iter().map(|pid| process_ticks(*pid).unwrap_or(0)).collect();
        Self { at: Instant::now(), processes, machine: machine_ticks().unwrap_or(0) }
    }

    /// What was used since.
    pub(super) fn since(&self, pids: &[u32]) -> Cores {
        let now = Self::take(pids);
        let seconds = (now.at - self.at).max(Duration::from_millis(1)).as_secs_f64();
        let cores = |now: u64, before: u64| now.saturating_sub(before) as f64 / TICKS_PER_SECOND / seconds;
        let processes: Vec<f64> =
            now.processes.iter().zip(&self.processes).map(|(now, before)| cores(*now, *before)).collect();
        let others = (cores(now.machine, self.machine) - processes.iter().sum::<f64>()).max(0.0);
        Cores { processes, others }
    }
}

/// User and system time of a process.
fn process_ticks(pid: u32) -> Option<u64> {
    of_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The 14th and 15th field; the second, the program's name, may hold spaces and parentheses.
fn of_stat(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Everything the processors did but wait.
fn machine_ticks() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let fields = stat.lines().next()?.split_whitespace().skip(1).map(str::parse::<u64>);
    let fields: Vec<u64> = fields.collect::<Result<_, _>>().ok()?;
    // user nice system idle iowait irq softirq steal; guest time is in user already
    Some(fields.iter().take(8).sum::<u64>() - fields.get(3)? - fields.get(4)?)
}

/// Resident memory of a process, in bytes: all of it, and the part that is no file.
pub(super) fn resident(pid: u32) -> Option<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    Some((field("VmRSS")?, field("RssAnon")?))
}

/// The load average of the last minute.
pub(super) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// Processors, and what they call themselves.
pub(super) fn describe() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{count} processors ({})", model.unwrap_or("unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 100 0 0 0 120 34 0 0 20 0 4 0 1 2 3";
        assert_eq!(of_stat(stat), Some(154));
        assert_eq!(of_stat("7 (a"), None);
    }

    #[test]
    fn this_process_is_known() {
        let pid = std::process::id();
        assert!(process_ticks(pid).is_some() && machine_ticks().is_some());
        assert!(resident(pid).is_some_and(|(all, anonymous)| anonymous <= all));
    }
}
