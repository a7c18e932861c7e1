//! The service: source -> bronze -> hops, and its HTTP face.
//!
//! Several may run on one hub and one lake. Each reads the partitions it has claimed and commits them to bronze; one of
//! them holds the lease of the hops, the others stand by for it.
//!
//! Stops at the head: the source sees the token, bronze ends when the source's channel closes and commits what it
//! holds, then the claims are given back; the hops end after a last round over that. The HTTP face goes last.

mod standby; // one holds the lease of the hops, the others wait for it

mod hops; // round after round, requests in between

mod progress; // ready means that things move; lag of every partition

mod place; // where only one ingester can run at a time

mod face; // /status and /hop

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use prometheus_client::registry::Registry;
use shared::blame::Blame;
use shared::clock::Clock;
use shared::http::{Health, ListenError};
use shared::notify::{self, Pulses};
use shared::shutdown::{Failure, Shutdown};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use self::face::{Requests, face};
use self::hops::{HopMetrics, Looks};
pub use self::hops::{HopRequest, Maintain, obey, tell, tell_upkeep};
use self::progress::{Progressing, Streams};
use self::standby::Standby;
use crate::bronze::stage::{Committed, Metrics, Stage};
use crate::config::Config;
use crate::gold;
use crate::hop::{HopError, Hops, Settings};
use crate::lake::{Holder, Lake, LakeError, Lease, Running, Table};
use crate::source::claims::Member;
use crate::source::eventhubs::{self, LakeOwnership, Progress, Wiring};
use crate::source::{Arrival, Books, SourceError, Stream, Told, flow};
use crate::status;

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
    /// What was asked for can't be done as it was said.
    #[error("{0}")]
    Asked(String),
    /// The hub does not say what is needed.
    #[error("ask the hub: {0}")]
    Hub(String),
    /// Somebody else is at it.
    #[error("{0}")]
    Busy(String),
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
            Self::Asked(_) => Blame::Config,
            Self::Hub(_) | Self::Busy(_) => Blame::Peer,
            Self::Signals(_) => Blame::Bug,
            Self::Stopped(_, blame) => *blame,
        }
    }
}

/// How hops work under this configuration.
#[must_use]
pub fn settings(config: &Config) -> Settings {
    Settings {
        window: config.window(),
        unique: config.unique(),
        mappings: config.silver.mapping.clone(),
        rules: config.silver.rule.clone(),
        catalogue: config.silver.catalogue.as_ref().map(crate::config::Catalogue::source),
        limits: config.limits(),
        patience: config.patience(),
        upkeep: config.upkeep(),
        beside: true,
        ..Settings::default()
    }
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
    let (lake, settings) = open(config).await?;
    let lease = Lease::acquire(&lake, &Holder::this(program, http)).await?;
    lake.create_tables().await?;
    let hops = Hops::take_over(Arc::clone(&lake), lease, settings).await?;
    Ok((lake, hops))
}

/// The lake with the tables of users' models, and how hops work on it.
async fn open(config: &Config) -> Result<(Arc<Lake>, Settings), RunError> {
    let location = config.location()?;
    location.prepare()?;
    let (lake, own) = gold::models::open(location, config.gold.models.as_deref()).await?;
    for mistake in &own.mistakes {
        tracing::error!(%mistake, "a model is left out; the others go on");
    }
    Ok((Arc::new(lake), Settings { own: own.models, ..settings(config) }))
}

/// Runs until `stop`.
///
/// # Errors
/// What stopped it otherwise.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), RunError> {
    let target = config.target()?;
    let listen = config.http.listen;
    // Before anything is claimed: that we have the address tells that who had it before is gone.
    let listener = shared::http::bind(listen).await?;
    let (lake, settings) = open(&config).await?;
    lake.create_tables().await?;
    let mut holder = Holder::this("cloud-ingester run", Some(listen.to_string()));
    let me = Member { run: holder.run.clone(), place: place::of(&holder.host, listen) };
    holder.place = Some(me.place.clone());
    let running = Running::show(&lake, &me.run)?;

    let mut registry = Registry::default();
    let source_books = Books::register(&mut registry);
    let bronze_metrics = Metrics::register(&mut registry);
    let hop_metrics = HopMetrics::register(&mut registry);
    let health = Health::new();
    let hub_ready = health.condition("hub");
    let clock = Clock::Real;
    let pulses = Pulses::default();

    let (events, from_source) = flow::channel::<Arrival>(config.hub.bytes_ahead.as_usize());
    let (told, mut heard) = mpsc::unbounded_channel::<Told>();
    let (committed, changed) = watch::channel(Committed::default());
    let (requests, asked) = mpsc::channel(8);
    let hub: Arc<Mutex<BTreeMap<Stream, Told>>> = Arc::default();
    let looks = Looks::default();
    let (keeper, claimed) = eventhubs::keeper(
        Arc::new(LakeOwnership::new(Arc::clone(&lake))),
        me,
        config.timing(),
        target.consumer_group.clone(),
    );
    let progressing = Progressing {
        streams: Streams::new(Arc::clone(&hub), changed.clone(), claimed.watch()),
        looks: looks.clone(),
        bronze: health.condition("bronze"),
        claims: health.condition("claims"),
        hops: health.condition("hops"),
        stalled_after: config.http.stalled_after.duration(),
        metrics: progress::Metrics::register(&mut registry),
        room: events.room(),
    };
    let registry = Arc::new(registry);

    let mut all = Shutdown::<RunError>::new(stop.clone(), config.stop.grace.duration());
    let http_stop = CancellationToken::new();
    let requests = Requests { to: requests, token: config.token()? };
    let face = face(Arc::clone(&lake), progressing.streams.clone(), health.clone(), requests);
    let (health_of_face, registry_of_face, stop_of_face) = (health, Arc::clone(&registry), http_stop.clone());
    all.spawn("http", async move {
        shared::http::serve_on(listener, health_of_face, registry_of_face, face, stop_of_face).await;
        Ok(())
    });
    let standing = Standby {
        lake: Arc::clone(&lake),
        holder,
        settings,
        committed: changed,
        peers: claimed.watch(),
        asked,
        pause: config.hops.pause.duration(),
        metrics: hop_metrics,
        looks,
        stop: stop.clone(),
        http: http_stop,
        pulse: pulses.add("hops"),
    };
    let wiring = Wiring {
        progress: FromBronze(Arc::clone(&lake)),
        downstream: events,
        claimed,
        told,
        books: source_books,
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
    let stage =
        Stage { lake, limits: config.cut(), clock, committed, metrics: bronze_metrics, pulse: pulses.add("bronze") };
    let committing = CancellationToken::new();
    let committed_all = committing.clone().drop_guard();
    all.spawn("bronze", async move {
        // However it ends: nothing more will come of what is claimed.
        let _committed_all = committed_all;
        Ok(stage.run(from_source).await?)
    });
    let (stop_of_claims, pulse_of_claims) = (stop.clone(), pulses.add("claims"));
    all.spawn("claims", async move {
        let _running = running;
        keeper.run(stop_of_claims, committing, pulse_of_claims).await;
        Ok(())
    });
    all.spawn("hops", standing.run());
    let stop_of_progress = stop.clone();
    all.spawn("progress", async move {
        progressing.run(stop_of_progress).await;
        Ok(())
    });
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
