//! `simulator devices`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use shared::cli::{Exit, fail};
use shared::config::{SecretSource, Span};
use tokio_util::sync::CancellationToken;

use super::counters::{Counters, Progress};
use super::dial::Dial;
use super::direct::Through;
use super::progress::{self, Face, Scale};
use super::{Config, FleetError, broker};

/// Where devices connect; what is given here goes before the configuration.
#[derive(Debug, Clone, clap::Args)]
pub struct BrokerArgs {
    /// Broker, or the gateway's own listener: mqtt://HOST:PORT or mqtts://HOST:PORT
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// User name of all devices
    #[arg(long)]
    user: Option<String>,
    /// File that holds their password
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Certificates (PEM) that vouch for the broker, for mqtts; or for the hub
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

impl BrokerArgs {
    /// The section `[broker]` with these arguments before it.
    pub(crate) fn over(self, mut config: broker::Config) -> broker::Config {
        config.url = self.broker.unwrap_or(config.url);
        config.user = self.user.or(config.user);
        config.password = self.password_file.map(SecretSource::File).or(config.password);
        config.ca_file = self.ca_file.or(config.ca_file);
        config
    }
}

/// Arguments of `devices`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    broker: BrokerArgs,
    /// Without a gateway: each device its own connection to the IoT Hub of FILE, which holds what `simulator hub
    /// connection-strings --json` prints, or devices' connection strings, one per line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["broker", "user", "password_file"])]
    direct: Option<PathBuf>,
    /// With --direct, which client devices have: rumqttc sends at QoS 1; azure-iot-sdk at QoS 0, best effort, and only
    /// in a build with the feature `azure-iot-sdk`
    #[arg(long, value_enum, requires = "direct")]
    through: Option<Through>,
    /// How many devices; with --direct the first N of its file, without it all
    #[arg(long, value_name = "N")]
    devices: Option<u64>,
    /// Values (readings) per second of the whole fleet; a send holds one of each metric
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
    /// How long; without it until told to stop
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// All that is drawn comes from it
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Where to note what is sent; the same file again goes on with it
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Progress and outcome as lines of JSON
    #[arg(long)]
    json: bool,
}

/// Runs the fleet.
pub(crate) fn main(program: &str, args: Args, broker: broker::Config, mut config: Config) -> ExitCode {
    config.count = args.devices.unwrap_or(config.count);
    config.rate = args.rate.unwrap_or(config.rate);
    config.run_for = args.seconds.map(|seconds| Span::new(Duration::from_secs(seconds))).or(config.run_for);
    config.seed = args.seed.unwrap_or(config.seed);
    config.ledger = args.ledger.or(config.ledger);
    config.direct.file = args.direct.or(config.direct.file);
    config.direct.through = args.through.unwrap_or(config.direct.through);
    config.direct.ca_file = args.broker.ca_file.clone().or(config.direct.ca_file);
    let broker = args.broker.over(broker);
    let face = if args.json { Face::Json } else { Face::People };
    let checked = crate::cli::recheck(program, |mistakes| {
        if config.direct.file.is_none() {
            mistakes.within("broker", |mistakes| broker.check(mistakes));
        }
        mistakes.within("devices", |mistakes| config.check(mistakes));
    });
    if let Err(code) = checked {
        return code;
    }
    let dial = match dial(&config, args.devices, &broker) {
        Ok(dial) => dial,
        Err(error) => return fail(program, &error, exit(&error)),
    };
    let devices = match &dial {
        Dial::Broker(_) => config.count,
        Dial::Hub(hub) => hub.names().len() as u64,
    };
    let scale = Scale { devices, sends: None };
    let counters = Arc::new(Counters::default());
    let ran = crate::cli::block_on(async {
        let stop = CancellationToken::new();
        shared::shutdown::on_signals(stop.clone())?;
        Ok(tokio::select! {
            done = super::run(&config, dial, Arc::clone(&counters), stop) => done,
            () = progress::show(&counters, scale, face) => unreachable!("progress is shown for ever"),
        })
    });
    match ran {
        Ok(Ok(progress)) => {
            match face {
                Face::Json => progress::json(&progress),
                Face::People => progress::say(&progress::total(&progress)),
            }
            outcome(program, &progress)
        }
        Ok(Err(error)) => fail(program, &error, exit(&error)),
        Err(error) => fail(program, &error, Exit::Bug),
    }
}

/// Reads whatever is needed to connect.
fn dial(config: &Config, count: Option<u64>, broker: &broker::Config) -> Result<Dial, FleetError> {
    Ok(match &config.direct.file {
        None => Dial::Broker(broker.open()?),
        Some(file) => {
            let hub = config.direct.open(file, &config.name, count, |device| config.name_of(device))?;
            Dial::Hub(Box::new(hub))
        }
    })
}

/// 0 where all is acknowledged; else says how to go on.
pub(crate) fn outcome(program: &str, progress: &Progress) -> ExitCode {
    let why = progress.trouble.as_deref().map(|trouble| format!(" ({trouble})")).unwrap_or_default();
    let text = match (progress.connects, progress.unacked) {
        (0, _) if progress.trouble.is_some() => format!("no connection could be made{why}"),
        (_, 0) => return Exit::Ok.into(),
        (_, unacked) => {
            format!("{unacked} sends are not acknowledged{why}; run again with the same ledger to go on with them")
        }
    };
    fail(program, &std::io::Error::other(text), Exit::Retry)
}

/// Who must act on what stopped a fleet.
pub(crate) fn exit(error: &FleetError) -> Exit {
    match error {
        FleetError::Broker(_)
        | FleetError::Direct(_)
        | FleetError::Ledger(super::ledger::LedgerError::Other { .. }) => Exit::Usage,
        FleetError::Ledger(_) => Exit::Retry,
        FleetError::Device(_) => Exit::Bug,
    }
}
