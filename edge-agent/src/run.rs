//! Wire the stages, run them, drain them.

use std::sync::Arc;
use std::time::Duration;

use shared::blame::Blame;
use shared::clock::Clock;
use shared::http::{self, Health, ListenError};
use shared::notify;
use shared::shutdown::{Failure, Shutdown};
use shared::telemetry::{Log, Registry};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::homing::{self, Means};
use crate::hub::SourceError;
use crate::intake::broker::BrokerError;
use crate::intake::listener::ListenerError;
use crate::led::{self, Shows};
use crate::outbox::lock::{Lock, LockError};
use crate::outbox::store::{Opened, StoreError};
use crate::outbox::{Outbox, OutboxError};
use crate::presilver::gateway::Gateway;
use crate::remote::kept::{Good, Keeper};
use crate::remote::settings::Devices;
use crate::remote::{Agent, Remote};
use crate::status::Reporter;
use crate::uplink::UplinkError;
use crate::{intake, machine, outbox, page, presilver, remote, sensors, uplink};

/// After `stop`, this long presilver may take to store what intake had taken.
const STORE_GRACE: Duration = Duration::from_secs(6);
/// Beyond that and the uplink's drain, this long everything may take to end.
const LAST_GRACE: Duration = Duration::from_secs(10);
/// How often health is looked at and the watchdog's pulse is given.
const LOOK: Duration = Duration::from_secs(1);

/// Why the agent stopped, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No hub to send to.
    #[error(transparent)]
    Hub(#[from] SourceError),
    /// Another agent runs on this outbox.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The outbox cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The outbox's writer ended; it said why.
    #[error("go on: {0}")]
    Writer(Arc<StoreError>),
    /// A stage lost the outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The broker's settings cannot be used.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The listener cannot listen.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// The uplink cannot work.
    #[error(transparent)]
    Uplink(#[from] UplinkError),
    /// Health and metrics cannot be served.
    #[error(transparent)]
    Http(#[from] ListenError),
    /// A stage panicked.
    #[error("{0}")]
    Stage(String),
    /// Stages did not end in time: a disk or a hub that answers too slowly.
    #[error("{0}")]
    Late(String),
}

impl RunError {
    /// Who must act.
    pub fn blame(&self) -> Blame {
        match self {
            RunError::Hub(_) | RunError::Broker(_) | RunError::Listener(_) | RunError::Http(_) => Blame::Config,
            RunError::Uplink(UplinkError::Trust(_)) => Blame::Config,
            RunError::Lock(LockError::Held { .. }) => Blame::Peer,
            RunError::Lock(LockError::Io { .. }) => Blame::Config,
            RunError::Store(error) => error.blame(),
            RunError::Writer(error) => error.blame(),
            RunError::Outbox(_) | RunError::Uplink(UplinkError::Outbox(_)) => Blame::Peer,
            RunError::Stage(_) => Blame::Bug,
            RunError::Late(_) => Blame::Peer,
        }
    }
}

/// Runs the agent until `stop` is cancelled or a stage fails, and drains it. `log` is what it logs to.
///
/// # Errors
/// What kept it from starting, or the first thing that went wrong.
pub async fn run(config: Config, log: Log, stop: CancellationToken) -> Result<(), RunError> {
    let clock = Clock::Real;
    let started = clock.now();
    let source = config.source()?;
    // By this name a broker knows us from run to run, whatever a provisioning service calls us.
    let gateway = source.known().gateway;
    let known = watch::Sender::new(source.known());
    if let Some(parent) = config.outbox.path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(|source| LockError::Io { path: parent.to_owned(), source })?;
    }
    let lock = Lock::take(&config.outbox.path, "run", clock.now())?;

    let mut registry = Registry::default();
    let machine_metrics = machine::Metrics::register(&mut registry, started);
    let intake_metrics = intake::Metrics::register(&mut registry);
    let sensor_metrics = sensors::Metrics::register(&mut registry);
    let presilver_metrics = presilver::Metrics::register(&mut registry);
    let outbox_metrics = outbox::Metrics::register(&mut registry);
    let uplink_metrics = uplink::Metrics::register(&mut registry);
    let remote_metrics = remote::Metrics::register(&mut registry);

    let mut judging = config.presilver.clone();
    if !config.sensors.is_empty() {
        judging.mapping.insert(0, sensors::mapping());
    }
    let mut judge = presilver::Judge::new(&judging);
    let devices: Devices = config.sensors.iter().map(|sensor| sensor.device.clone()).collect();
    let good = if config.remote.enabled { remote::kept::read(&config.outbox.path, &devices) } else { Good::default() };
    judge.judge_by(good.settings.rules.as_deref());
    let (rules_to, rules) = watch::channel(good.settings.rules.clone().map(Arc::from));
    let (intervals_to, intervals) = watch::channel(sensors::Intervals::new(good.settings.sensors.clone()));
    let digests = judge.clone();
    let machine = Gateway::new(config.presilver.clock);
    let outbox = {
        let (settings, rules) = (config.outbox.clone(), judge.digest().to_owned());
        let opening = tokio::task::spawn_blocking(move || Outbox::open(&settings, &rules, outbox_metrics));
        let (outbox, opened) = opening.await.map_err(|error| RunError::Stage(error.to_string()))??;
        report(&opened);
        outbox
    };
    tracing::info!(%gateway, epoch = %outbox.epoch(), rules = judge.digest(), hub = known.borrow().name, "agent started");

    let health = Health::new();
    let room = health.condition("outbox");
    let reporter = Reporter::new(
        &config,
        known.subscribe(),
        &outbox,
        (intake_metrics.broker(), &presilver_metrics),
        (uplink_metrics.status(), remote_metrics.status(), sensor_metrics.clone()),
        (log.recent, machine_metrics, started),
    );
    let uplink_status = uplink_metrics.status();
    let remote = Remote::new(
        &config.remote,
        Agent {
            epoch: outbox.epoch(),
            good,
            rules: rules_to,
            devices,
            intervals: intervals_to,
            digest: Arc::new(move |rules| digests.digest_of(rules)),
            keeper: Keeper::new(&config.outbox.path),
        },
        Gateway::new(config.presilver.clock),
        clock.clone(),
        (&config.log.level, log.switch),
        reporter.of_running(),
        remote_metrics,
    );
    let mut all = Shutdown::new(stop.clone(), STORE_GRACE + config.uplink.drain.duration() + LAST_GRACE);
    let (head, tail) = (CancellationToken::new(), CancellationToken::new());

    let (messages, judged) = mpsc::channel(intake::CAPACITY);
    let mut senders = intake::Senders::default();
    if config.intake.broker.enabled {
        let (way_back, asks) = intake::Senders::channel();
        senders = way_back;
        let learns = judge.learns();
        let (settings, gateway) = (config.intake.broker.clone(), gateway.clone());
        let (messages, stop, metrics, clock) = (messages.clone(), stop.clone(), intake_metrics.clone(), clock.clone());
        all.spawn("intake of the broker", async move {
            Ok(intake::run_broker(settings, &gateway, clock, messages, (asks, learns), stop, metrics).await?)
        });
    }
    if config.intake.listener.enabled {
        let settings = config.intake.listener.clone();
        let (messages, stop, metrics, clock) = (messages.clone(), stop.clone(), intake_metrics.clone(), clock.clone());
        all.spawn("intake of the listener", async move {
            Ok(intake::run_listener(settings, clock, messages, stop, metrics).await?)
        });
    }
    if !config.sensors.is_empty() {
        let (sensors, messages, metrics) = (config.sensors.clone(), messages.clone(), sensor_metrics.clone());
        let (stop, clock) = (stop.clone(), clock.clone());
        all.spawn("sensors", async move {
            sensors::run(sensors, intervals, clock, messages, stop, metrics).await;
            Ok(())
        });
    }
    drop(messages);

    all.spawn("presilver and seal", {
        let (outbox, clock, stop, head) = (outbox.clone(), clock.clone(), stop.clone(), head.clone());
        async move {
            // Whatever happens here, the uplink must learn that nothing more comes.
            let _told = head.drop_guard();
            let rows = (outbox.clone(), senders);
            let judging = presilver::run((judge, rules), machine, clock, judged, rows, presilver_metrics);
            let late = async {
                stop.cancelled().await;
                tokio::time::sleep(STORE_GRACE).await;
            };
            tokio::select! {
                judged = judging => judged?,
                () = late => tracing::warn!("some messages found no room in time; they are not acknowledged, so their senders repeat them"),
            }
            outbox.seal().await?;
            Ok(())
        }
    });
    all.spawn("uplink", {
        let (outbox, clock, config, head) = (outbox.clone(), clock.clone(), config.clone(), head.clone());
        let tail = tail.clone();
        async move {
            let _told = tail.drop_guard();
            let means = Means { outbox, clock, metrics: uplink_metrics, remote };
            Ok(Box::pin(homing::run(&config, source, means, &known, &head)).await?)
        }
    });
    all.spawn("outbox", {
        let (outbox, tail) = (outbox.clone(), tail.clone());
        async move {
            tokio::select! {
                error = outbox.failed() => Err(RunError::Writer(error)),
                () = tail.cancelled() => Ok(()),
            }
        }
    });
    all.spawn("http", {
        let (faces, tail, addr) = (page::router(&reporter), tail.clone(), config.http.listen);
        async move { Ok(http::serve(addr, health, Arc::new(registry), faces, tail).await?) }
    });
    all.spawn("desk", {
        let (path, outbox, tail) = (config.outbox.path.clone(), outbox.clone(), tail.clone());
        let status = reporter.json();
        async move {
            outbox::desk::serve(path, outbox, status, tail).await;
            Ok(())
        }
    });
    all.spawn("led", {
        let (outbox, link, settings, tail) = (outbox.clone(), uplink_status.clone(), config.led.clone(), tail.clone());
        let look = move || {
            let full = outbox.view().full.is_some();
            Shows::of(link.borrow().link, full, sensor_metrics.any_fails())
        };
        async move {
            led::run(settings, look, tail).await;
            Ok(())
        }
    });
    let pulses = notify::Pulses::default();
    all.spawn("look", {
        let (outbox, pulse, tail) = (outbox.clone(), pulses.add("outbox"), tail.clone());
        async move {
            while tail.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
                reporter.look();
                // An answer is the sign of life: the writer has gone through a round.
                if outbox.answers().await {
                    pulse.beat();
                }
                match outbox.view().full {
                    None => room.met(),
                    Some(why) => room.unmet(why),
                }
            }
            Ok(())
        }
    });
    all.spawn("watchdog", {
        let tail = tail.clone();
        async move {
            notify::watchdog(pulses, tail).await;
            Ok(())
        }
    });
    notify::ready();

    let ended = all.wait().await;
    notify::stopping();
    let view = outbox.view();
    outbox.close().await;
    drop(lock);
    tracing::info!(held = view.books.held, acked = view.books.acked, stored = view.books.stored, "agent stopped");
    ended.map_err(RunError::from)
}

impl From<Failure<RunError>> for RunError {
    fn from(failure: Failure<RunError>) -> Self {
        match failure {
            Failure::Task { error, .. } => error,
            panicked @ Failure::Panicked { .. } => RunError::Stage(panicked.to_string()),
            late @ Failure::GraceOver { .. } => RunError::Late(late.to_string()),
        }
    }
}

fn report(opened: &Opened) {
    if let Some((path, why)) = &opened.moved_aside {
        tracing::error!(moved_to = %path.display(), why, "the outbox could not be read: it was moved aside, a new one begins");
    }
    if let Some(path) = &opened.side_moved_aside {
        tracing::error!(
            moved_to = %path.display(),
            "the side file could not be read: it was moved aside; a loss of the database before now could not be named"
        );
    }
    if opened.side_absent {
        tracing::warn!("no side file beside the outbox: a loss of the database before now could not be named");
    }
    for (epoch, known) in &opened.lost {
        tracing::error!(%epoch, known, "rows of an earlier run are not in this outbox: its end is reported, what is missing will be named");
    }
    if 0 < opened.held {
        tracing::info!(rows = opened.held, "rows of earlier runs go first");
    }
}

#[cfg(test)]
mod tests {
    use shared::cli::Exit;

    use super::*;

    #[test]
    fn stages_that_do_not_end_in_time_are_no_bug_and_a_panic_is_one() {
        let late = Failure::GraceOver { names: vec!["uplink"], grace: LAST_GRACE };
        let panicked = Failure::Panicked { name: "uplink", message: "index out of bounds".into() };
        for (failure, exit) in [(late, Exit::Retry), (panicked, Exit::Bug)] {
            let error = RunError::from(failure);
            assert_eq!(Exit::from(error.blame()), exit, "{error}");
        }
    }
}
