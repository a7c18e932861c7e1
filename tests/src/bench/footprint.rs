//! What the hub needs of memory: with every device connected and idle, and while much goes through.

use super::child::Child;
use super::intake;
use super::machine::{self, Reading};
use super::outlet;
use super::servers::{DEVICES, Hub};
use super::speak::Line;
use super::table::{mebibytes, percent, whole};
use super::{BenchError, Plan, say};

/// What the issue of the hub wants.
const WANTED: u64 = 1024 * 1024 * 1024;
const KEEP_ALIVE_S: u16 = 20;
/// Every device pings in it.
const IDLE_S: f64 = 15.0;
/// Larger messages than of the other measurements: what counts is what goes through.
const BODY: usize = 4096;
const CONNECTIONS: usize = 100;
const WINDOW: usize = 16;

/// Connects every device and prints what the hub then needs.
///
/// # Errors
/// A program does not start, or ends.
pub(super) fn idle(plan: &Plan, hub: &Hub) -> Result<(), BenchError> {
    let resident = || machine::resident(hub.child.id()).ok_or(BenchError::Order);
    let (before, _) = resident()?;
    let args = [
        "bench",
        "idle",
        "--credentials",
        &hub.credentials.display().to_string(),
        "--addr",
        &hub.mqtt.to_string(),
        "--connections",
        &DEVICES.to_string(),
        "--keep-alive-s",
        &KEEP_ALIVE_S.to_string(),
        "--measure-s",
        &IDLE_S.to_string(),
    ];
    let mut devices = Child::start("idle", &plan.directory, &plan.binary, &args)?;
    devices.begun()?;
    let ids = [hub.child.id()];
    let reading = Reading::take(&ids);
    let Line::End { count, took, .. } = devices.line()? else { return Err(BenchError::Order) };
    let cores = reading.since(&ids);
    let (after, anonymous) = resident()?;
    devices.dismiss();
    say(&format!(
        "idle: {} devices over TLS, keep-alive {KEEP_ALIVE_S} s, {} pings/s answered with {:.2} cores; wanted below {}\n  \
         resident: {} before, {} with them ({} of it not files), {:.1} KiB each\n",
        whole(DEVICES as f64),
        whole(count as f64 / took.as_secs_f64()),
        cores.processes[0],
        mebibytes(WANTED),
        mebibytes(before),
        mebibytes(after),
        mebibytes(anonymous),
        after.saturating_sub(before) as f64 / DEVICES as f64 / 1024.0,
    ));
    Ok(())
}

/// Sends `plan.bytes` through the hub, a reader behind, and prints its memory at each tenth.
///
/// # Errors
/// A program does not start, or ends.
pub(super) fn flat(plan: &Plan, hub: &Hub) -> Result<(), BenchError> {
    let mut reader = Child::start("reader", &plan.directory, &plan.binary, &{
        let mut args = outlet::reader(&hub.service, &hub.amqp.to_string());
        args.extend(["--measure-s".to_owned(), "0".to_owned()]);
        args
    })?;
    reader.begun()?;
    let mut args = intake::load(&hub.credentials, hub.mqtt, CONNECTIONS, WINDOW, BODY);
    args.extend(["--bytes".to_owned(), plan.bytes.to_string()]);
    let mut load = Child::start("load", &plan.directory, &plan.binary, &args)?;
    load.begun()?;
    let mut tenths = vec![];
    let end = loop {
        match load.line()? {
            Line::Mark => tenths.push(machine::resident(hub.child.id()).ok_or(BenchError::Order)?),
            end => break end,
        }
    };
    let Line::End { count, took, .. } = end else { return Err(BenchError::Order) };
    let delivered = hub.delivered();
    load.dismiss();
    reader.dismiss();
    let shown = |which: fn(&(u64, u64)) -> u64| {
        let all: Vec<String> = tenths.iter().map(|tenth| format!("{:.0}", which(tenth) as f64 / 1048576.0)).collect();
        all.join(" ")
    };
    let gigabytes = (count * BODY as u64) as f64 / 1e9;
    say(&format!(
        "flat: {gigabytes:.1} GB in {BODY} B messages through the hub, a reader behind, at {:.0} MB/s ({} messages/s, {} read meanwhile)\n  \
         resident at each tenth, MiB: {}\n  of it not files, MiB:        {}\n",
        gigabytes * 1e3 / took.as_secs_f64(),
        whole(count as f64 / took.as_secs_f64()),
        percent(delivered.unwrap_or(0) as f64 / count as f64),
        shown(|tenth| tenth.0),
        shown(|tenth| tenth.1),
    ));
    Ok(())
}
