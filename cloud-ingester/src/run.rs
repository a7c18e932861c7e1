//! The service: source -> bronze -> hops, and its HTTP face.
//!
//! Stops at the head: the source sees the token, bronze ends when the source's channel closes and commits what it
//! holds, the hops end after a last round over that. The HTTP face goes last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use shared::blame::Blame;
use shared::clock::Clock;
use shared::http::{Health, ListenError};
use shared::notify::{self, Pulse, Pulses};
use shared::shutdown::{Failure, Shutdown};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::bronze::stage::{Committed, Metrics, Stage};
use crate::config::Config;
use crate::hop::{HopError, Hops, Report, Settings};
use crate::lake::{Holder, Lake, LakeError, Lease, Table};
use crate::source::eventhubs::{self, Progress, Wiring};
use crate::source::{Event, SourceError, Stream, Told};
use crate::status;

/// Events between the source and bronze; while bronze commits they wait here, and when it is full the hub waits.
pub const EVENTS_AHEAD: usize = 256;

/// While nothing comes the tables are looked at this often: somebody else may have written them.
const IDLE_ROUND: Duration = Duration::from_secs(5);

/// Why the service stopped, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The lake.
    #[error(transparent)]
    Lake(#[from] LakeError),
    /// A hop.
    #[error(transparent)]
    Hop(#[from] HopError),
    /// The hub.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The HTTP face.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The connection string.
    #[error(transparent)]
    Secret(#[from] shared::config::SecretError),
    /// Signals can't be heard.
    #[error("listen for signals: {0}")]
    Signals(#[source] std::io::Error),
    /// A task panicked or did not end.
    #[error("{0}")]
    Stopped(String, Blame),
}

impl RunError {
    /// Who must act.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Lake(error) => error.blame(),
            Self::Hop(error) => error.blame(),
            Self::Source(SourceError::Lake(error)) => error.blame(),
            Self::Source(SourceError::Regressed { .. }) => Blame::Peer,
            Self::Source(SourceError::Config(_)) | Self::Listen(_) | Self::Secret(_) => Blame::Config,
            Self::Signals(_) => Blame::Bug,
            Self::Stopped(_, blame) => *blame,
        }
    }
}

/// How hops work under this configuration.
#[must_use]
pub fn settings(config: &Config) -> Settings {
    Settings { window: config.window(), limits: config.limits(), ..Settings::default() }
}

/// What one request asks of the running hops.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct HopRequest {
    /// A table to fill anew, by its full name; without one, hops run as they always do.
    #[serde(default)]
    pub full_refresh: Option<String>,
}

struct Asked {
    request: HopRequest,
    answer: oneshot::Sender<Result<String, String>>,
}

/// What bronze holds, asked from the tables.
struct FromBronze(Arc<Lake>);

impl Progress for FromBronze {
    async fn committed(&self, stream: &Stream) -> Result<Option<i64>, LakeError> {
        self.0.txn(Table::BronzeMessages, &stream.app_id()).await
    }

    async fn last_incarnation(&self, hub: &str) -> Result<Option<i64>, LakeError> {
        status::last_incarnation(&self.0.view(Table::BronzeMessages).await?, hub).await
    }
}

/// Opens the lake, creates its tables, takes its lease and finishes what an earlier holder left half done.
///
/// # Errors
/// [`LakeError::LeaseHeld`] by whom, or what the lake says.
pub async fn take_over(config: &Config, program: &str, http: Option<String>) -> Result<(Arc<Lake>, Hops), RunError> {
    let location = config.location()?;
    location.prepare()?;
    let lake = Arc::new(Lake::open(location)?);
    let lease = Lease::acquire(&lake, &Holder::this(program, http)).await?;
    lake.create_tables().await?;
    let hops = Hops::take_over(Arc::clone(&lake), lease, settings(config)).await?;
    Ok((lake, hops))
}

/// Runs until `stop`.
///
/// # Errors
/// What stopped it otherwise.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), RunError> {
    let target = config.target()?;
    let grace = config.stop.grace.duration();
    let listen = config.http.listen;
    let (lake, hops) = Box::pin(take_over(&config, "cloud-ingester run", Some(listen.to_string()))).await?;
    tracing::info!(lake = %lake.location().root(), "the lake is ours");

    let mut registry = Registry::default();
    let bronze_metrics = Metrics::register(&mut registry);
    let hop_metrics = HopMetrics::register(&mut registry);
    let registry = Arc::new(registry);
    let health = Health::new();
    let hub_ready = health.condition("hub");
    let clock = Clock::Real;
    let pulses = Pulses::default();

    let (events, from_source) = mpsc::channel::<Event>(EVENTS_AHEAD);
    let (told, mut heard) = mpsc::unbounded_channel::<Told>();
    let (committed, changed) = watch::channel(Committed::default());
    let (requests, asked) = mpsc::channel(8);
    let hub: Arc<Mutex<BTreeMap<Stream, Told>>> = Arc::default();

    let mut all = Shutdown::<RunError>::new(stop.clone(), grace);
    let http_stop = CancellationToken::new();
    let face = face(Arc::clone(&lake), Arc::clone(&hub), health.clone(), requests);
    let (health_of_face, registry_of_face, stop_of_face) = (health.clone(), Arc::clone(&registry), http_stop.clone());
    all.spawn("http", async move {
        Ok(shared::http::serve(listen, health_of_face, registry_of_face, face, stop_of_face).await?)
    });
    let wiring = Wiring {
        progress: FromBronze(Arc::clone(&lake)),
        downstream: events,
        told,
        ready: hub_ready,
        clock: clock.clone(),
        stop: stop.clone(),
    };
    all.spawn("source", async move { Ok(eventhubs::run(target, wiring).await?) });
    all.spawn("listener", async move {
        while let Some(told) = heard.recv().await {
            let mut hub = hub.lock().expect("no thread panics while it holds this");
            // Of a hub that was created anew only the new one is there to be read.
            hub.retain(|stream, _| stream.hub != told.stream.hub || stream.incarnation == told.stream.incarnation);
            hub.insert(told.stream.clone(), told);
        }
        Ok(())
    });
    let stage = Stage {
        lake: Arc::clone(&lake),
        limits: config.cut(),
        clock,
        committed,
        metrics: bronze_metrics,
        pulse: pulses.add("bronze"),
    };
    all.spawn("bronze", async move { Ok(stage.run(from_source).await?) });
    let pause = config.hops.pause.duration();
    let hold = Hold { stop: stop.clone(), http: http_stop, pulse: pulses.add("hops") };
    all.spawn("hops", hop_loop(hops, changed, asked, pause, hop_metrics, hold));

    let stop_of_watchdog = stop.clone();
    all.spawn("watchdog", async move {
        notify::watchdog(pulses, stop_of_watchdog).await;
        Ok(())
    });
    notify::ready();
    let ended = all.wait().await;
    notify::stopping();
    ended.map_err(|failure| match failure {
        Failure::Task { error, .. } => error,
        other @ Failure::Panicked { .. } => RunError::Stopped(other.to_string(), Blame::Bug),
        other @ Failure::GraceOver { .. } => RunError::Stopped(other.to_string(), Blame::Peer),
    })
}

/// Rates of the hops.
#[derive(Clone, Debug)]
struct HopMetrics {
    rounds: Counter,
    readings: Counter,
    quarantined: Counter,
    duplicates: Counter,
    failed: Counter,
}

impl HopMetrics {
    fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("ingest_hops");
        let metrics = Self {
            rounds: Counter::default(),
            readings: Counter::default(),
            quarantined: Counter::default(),
            duplicates: Counter::default(),
            failed: Counter::default(),
        };
        registry.register("rounds", "Rounds that had something to do", metrics.rounds.clone());
        registry.register("readings", "Rows committed to silver.readings", metrics.readings.clone());
        registry.register("quarantined", "Rows committed to silver.quarantine", metrics.quarantined.clone());
        registry.register("duplicates", "Readings that were seen before", metrics.duplicates.clone());
        registry.register("failed", "Rounds that failed and were tried again", metrics.failed.clone());
        metrics
    }

    fn count(&self, report: &Report) {
        self.rounds.inc();
        if let Some(silver) = report.silver.filter(|silver| !silver.refreshed) {
            self.readings.inc_by(silver.readings);
            self.quarantined.inc_by(silver.quarantined);
            self.duplicates.inc_by(silver.moved.duplicates);
        }
    }
}

/// What the hops hold while they run. Ends the HTTP face when they have ended, however they did.
struct Hold {
    stop: CancellationToken,
    http: CancellationToken,
    pulse: Pulse,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.http.cancel();
    }
}

async fn hop_loop(
    mut hops: Hops,
    mut committed: watch::Receiver<Committed>,
    mut asked: mpsc::Receiver<Asked>,
    pause: Duration,
    metrics: HopMetrics,
    hold: Hold,
) -> Result<(), RunError> {
    let mut open = true;
    loop {
        hold.pulse.beat();
        while let Ok(asked) = asked.try_recv() {
            answer(&mut hops, asked, &metrics).await?;
        }
        committed.borrow_and_update();
        let idle = match hops.round().await {
            Ok(report) if report.is_idle() => true,
            Ok(report) => {
                metrics.count(&report);
                tracing::debug!(?report, "hops");
                false
            }
            Err(error) => {
                patience(error.into())?;
                metrics.failed.inc();
                tokio::time::sleep(Duration::from_secs(2)).await;
                continue;
            }
        };
        if !open && idle {
            hops.into_lease().release().await;
            return Ok(());
        }
        if !open {
            continue;
        }
        // In haste while stopping; else rows are worth more together.
        if !idle {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = hold.stop.cancelled() => {}
            }
        }
        if idle {
            tokio::select! {
                changed = committed.changed() => open = changed.is_ok(),
                Some(asked) = asked.recv() => answer(&mut hops, asked, &metrics).await?,
                () = tokio::time::sleep(IDLE_ROUND) => {}
            }
        }
    }
}

/// Passes on what no new attempt can mend.
fn patience(error: RunError) -> Result<(), RunError> {
    let lost = matches!(
        error,
        RunError::Hop(HopError::Lake(LakeError::LeaseLost { .. })) | RunError::Lake(LakeError::LeaseLost { .. })
    );
    if lost || error.blame() != Blame::Peer {
        return Err(error);
    }
    tracing::warn!(%error, "hops failed; trying again");
    Ok(())
}

async fn answer(hops: &mut Hops, asked: Asked, metrics: &HopMetrics) -> Result<(), RunError> {
    tracing::info!(request = ?asked.request, "asked to hop");
    let done = obey(hops, &asked.request).await;
    let told = match &done {
        Ok(report) => {
            metrics.count(report);
            Ok(tell(report))
        }
        Err(error) => Err(error.to_string()),
    };
    // Whoever asked may be gone.
    let _ = asked.answer.send(told);
    match done {
        Err(error @ HopError::NoTarget(_)) => {
            tracing::warn!(%error, "refused");
            Ok(())
        }
        Err(error) => patience(error.into()),
        Ok(_) => Ok(()),
    }
}

/// Does what a request asks: a full refresh, or rounds until nothing is new.
///
/// # Errors
/// What the hop says.
pub async fn obey(hops: &mut Hops, request: &HopRequest) -> Result<Report, HopError> {
    let Some(name) = &request.full_refresh else {
        let mut sum = Report::default();
        let stop = CancellationToken::new();
        hops.run_all(&stop, |report| sum = add(std::mem::take(&mut sum), report)).await?;
        return Ok(sum);
    };
    let target = Table::named(name).ok_or_else(|| HopError::NoTarget(name.clone()))?;
    hops.full_refresh(target).await
}

fn add(mut sum: Report, report: &Report) -> Report {
    let silver = match (sum.silver, report.silver) {
        (Some(mut before), Some(now)) => {
            before.versions += now.versions;
            before.readings += now.readings;
            before.quarantined += now.quarantined;
            before.gaps += now.gaps;
            before.moved.duplicates += now.moved.duplicates;
            before.refreshed |= now.refreshed;
            Some(before)
        }
        (before, now) => now.or(before),
    };
    sum.silver = silver;
    sum.gold.extend(report.gold.iter().copied());
    sum
}

/// A report in words.
#[must_use]
pub fn tell(report: &Report) -> String {
    if report.is_idle() {
        return "nothing was new".to_owned();
    }
    let mut lines = vec![];
    if let Some(silver) = &report.silver {
        lines.push(format!(
            "silver: {} versions of bronze, {} readings, {} quarantined, {} gaps, {} duplicates{}",
            silver.versions,
            silver.readings,
            silver.quarantined,
            silver.gaps,
            silver.moved.duplicates,
            if silver.refreshed { " (all anew)" } else { "" }
        ));
    }
    for gold in &report.gold {
        let anew = if gold.refreshed { " (all anew)" } else { "" };
        lines.push(format!("{}: {} rows computed{anew}", gold.table.full_name(), gold.rows));
    }
    lines.join("\n")
}

/// `/status` and `/hop`.
fn face(
    lake: Arc<Lake>,
    hub: Arc<Mutex<BTreeMap<Stream, Told>>>,
    health: Health,
    requests: mpsc::Sender<Asked>,
) -> Router {
    let books = shared::http::status(move || {
        let (lake, hub, live) = (Arc::clone(&lake), Arc::clone(&hub), health.is_ready());
        async move {
            let told = hub.lock().expect("no thread panics while it holds this").clone();
            match status::read(&lake, status::Hub::Heard { live, told: &told }).await {
                Ok(status) => serde_json::to_value(status).unwrap_or_default(),
                Err(error) => serde_json::json!({ "error": error.to_string() }),
            }
        }
    });
    let hop = Router::new().route("/hop", axum::routing::post(hop)).with_state(requests);
    books.merge(hop)
}

async fn hop(State(requests): State<mpsc::Sender<Asked>>, Json(request): Json<HopRequest>) -> Response {
    let (answer, answered) = oneshot::channel();
    if requests.send(Asked { request, answer }).await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    match answered.await {
        Ok(Ok(told)) => (StatusCode::OK, told + "\n").into_response(),
        Ok(Err(why)) => (StatusCode::CONFLICT, why + "\n").into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response(),
    }
}
