//! The flags of `cargo demo`.

use std::path::PathBuf;

use clap::Parser;

/// The whole product on this machine: devices, gateway, local IoT Hub, lake. Ends with the proof that every reading
/// arrived once; status 0 only if it holds.
#[derive(Debug, Clone, Parser)]
#[command(name = "cargo demo", version)]
pub(super) struct Args {
    /// How long the devices send, in seconds. A replay ends by itself; with this flag, after so many seconds at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: Option<u64>,

    /// How many devices.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub devices: u32,

    /// Readings per second, of all devices together.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,

    /// Replay this recording (CSV) instead of making readings up. Without [sim.replay] in --config its times are
    /// shifted so that it ends now.
    #[arg(long, value_name = "FILE")]
    pub replay: Option<PathBuf>,

    /// Settings: TOML with the tables [edge], [ingest] and [sim], each as that program's own file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Where everything is kept [default: iot-medallion-demo in the folder for temporary files].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    /// Go on with what an earlier demo left in the directory, instead of starting afresh.
    #[arg(long)]
    pub keep: bool,
}

impl Args {
    /// How long the devices send where the flag does not say: half a minute; a replay has no limit.
    pub(super) fn seconds_limit(&self) -> Option<u64> {
        match (&self.replay, self.seconds) {
            (Some(_), limit) => limit,
            (None, limit) => Some(limit.unwrap_or(30)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_send_half_a_minute_unless_told_and_a_replay_to_its_end() {
        for (args, seconds) in [
            (&["cargo demo"][..], Some(30)),
            (&["cargo demo", "--seconds", "5"], Some(5)),
            (&["cargo demo", "--replay", "a.csv"], None),
            (&["cargo demo", "--replay", "a.csv", "--seconds", "5"], Some(5)),
        ] {
            assert_eq!(Args::parse_from(args).seconds_limit(), seconds, "{args:?}");
        }
    }
}
