//! The simulator's own load, as its users have it: `simulator devices --direct`, readings of four metrics in each message.
//! It is to be so light that benchmarks measure the others.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value as Json;

use super::machine::Reading;
use super::servers::Hub;
use super::table::whole;
use super::{BenchError, Plan, say};
use crate::program;

/// What the issue of the hub wants of one process, in readings a second.
const WANTED: u32 = 50_000;
const CONNECTIONS: u32 = 100;
/// Connecting, and the first burst.
const WARM_UP: usize = 3;
const NAME: &str = "devices";

/// Runs devices beside the hub and prints what they reached, and what they took.
///
/// # Errors
/// They do not start, or end.
pub(super) fn run(plan: &Plan, hub: &Hub) -> Result<(), BenchError> {
    let failed = |source| BenchError::Start { name: NAME, source };
    let seconds = (plan.seconds * f64::from(plan.rounds)).ceil().max(2.0) as usize;
    let credentials = hub.credentials.display().to_string();
    let (rate, devices, length) = (WANTED.to_string(), CONNECTIONS.to_string(), (WARM_UP + seconds + 1).to_string());
    let mut child = Command::new(&plan.binary)
        .args(["--as", "simulator", "devices", "--direct", &credentials, "--json"])
        .args(["--rate", &rate, "--devices", &devices, "--seconds", &length])
        .env(program::LEAVE_WITH_PARENT, "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let ids = [child.id(), hub.child.id()];
    // A line each second.
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut lines = lines.map_while(Result::ok).filter_map(|line| serde_json::from_str::<Json>(&line).ok());
    let values = |line: Option<Json>| line.and_then(|line| line["values"].as_u64());
    let begun = values(lines.nth(WARM_UP - 1)).ok_or(BenchError::Order)?;
    let reading = Reading::take(&ids);
    let done = values(lines.nth(seconds - 1)).ok_or(BenchError::Order)?;
    let cores = reading.since(&ids);
    let last = lines.last().ok_or(BenchError::Order)?;
    let ended = child.wait().map_err(failed)?;
    let of = |name: &str| last[name].as_u64().unwrap_or(0);
    say(&format!(
        "direct: {} readings/s from one `simulator devices` over {CONNECTIONS} connections; wanted {}\n  \
         {:.2} cores of its own, {:.2} of the hub's; in all {} sends, {} acknowledged, {}\n",
        whole((done - begun) as f64 / seconds as f64),
        whole(f64::from(WANTED)),
        cores.processes[0],
        cores.processes[1],
        whole(of("sends") as f64),
        whole(of("acked") as f64),
        if ended.success() { "ended well" } else { "ended badly" },
    ));
    Ok(())
}
