//! All of the hub together: opens what it keeps, serves both sides and HTTP, stops when told or when its log stops.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry as Metered;
use shared::cli::Exit;
use shared::clock::{Clock, Skew};
use shared::http::{Health, ListenError};
use shared::notify;
use shared::shutdown::{Failure, Shutdown};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::amqp::{self, AmqpHub, Wrapping};
use super::api::Api;
use super::api::jobs::{self, Jobs};
use super::ca::{self, CaError};
use super::changes::Changes;
use super::commands::Commands;
use super::config::Config;
use super::desk::{Desk, Parts};
use super::devices::{Identities, Registry, RegistryError, Right};
use super::faults::{self, Faults};
use super::https;
use super::link::Link;
use super::log::{AppendError, Log, OpenError, Options};
use super::meter::{Meter, MeterError};
use super::metrics::Metrics;
use super::mqtt::{self, Authorities, Door, Seats, Sessions};
use super::status::Books;
use super::twins::Twins;
use crate::gate;

const GRACE: Duration = Duration::from_secs(15);

/// Why a hub does not run.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Another one does.
    #[error("another hub{holder} runs on {}; stop it, or choose another `hub.data-dir`", path.display())]
    Taken { path: PathBuf, holder: String },
    /// The disk said no.
    #[error("{act} {}", path.display())]
    Disk { act: &'static str, path: PathBuf, source: io::Error },
    /// A port said no.
    #[error("listen on {addr}; choose another `{key}`")]
    Listen { addr: SocketAddr, key: &'static str, source: io::Error },
    /// Identities.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Certificates.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// What was metered today.
    #[error(transparent)]
    Meter(#[from] MeterError),
    /// The log cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log stopped while the hub ran.
    #[error("{0}; start the hub again, and it begins a new incarnation if the log is gone")]
    Stopped(#[from] AppendError),
    /// Health, metrics, status.
    #[error(transparent)]
    Http(#[from] ListenError),
}

impl HubError {
    /// How the program ends for it.
    pub fn exit(&self) -> Exit {
        match self {
            HubError::Registry(RegistryError::Malformed { .. })
            | HubError::Ca(CaError::Malformed { .. } | CaError::Issue { .. } | CaError::NoAuthority { .. })
            | HubError::Open(OpenError::NotALog { .. } | OpenError::Partitions { .. }) => Exit::Usage,
            _ => Exit::Retry,
        }
    }
}

/// Runs a hub until `stop` is cancelled; what was taken by then is stored and acknowledged. `link` tells others when it
/// runs.
///
/// # Errors
/// If it cannot start, or its log stops.
pub async fn run(config: Config, link: Link, stop: CancellationToken) -> Result<(), Failure<HubError>> {
    let mut tasks = Shutdown::new(stop, GRACE);
    let started = start(&config, &mut tasks).await;
    // The lock is held until all have ended.
    let (_lock, desk) = started.map_err(|error| Failure::Task { name: "start", error })?;
    link.set(desk);
    notify::ready();
    let done = tasks.wait().await;
    notify::stopping();
    tracing::info!("the hub has stopped");
    done
}

async fn start(config: &Config, tasks: &mut Shutdown<HubError>) -> Result<(File, Desk), HubError> {
    let skew = Skew::default();
    let clock = Clock::Skewed(skew.clone());
    let faults = Faults::new(config.faults.clone());
    let lock =
        lock(config)?.ok_or_else(|| HubError::Taken { path: config.data_dir.clone(), holder: holder(config) })?;
    let identity = config.identity_dir();
    let registry = Registry::prepare(config.registry_file(), &config.devices)?;
    let listens = [Some(config.mqtt_listen), config.amqps_listen, config.amqp_websocket_listen, config.https_listen];
    let ips: Vec<_> = listens.into_iter().flatten().map(|listen| listen.ip()).collect();
    let names = ca::server_names(&config.host_name, &ips, &config.server_names);
    let server = ca::server(&identity, &names, clock.now())?;
    let mut cas = config.device_cas.clone();
    cas.push(ca::device_ca_file(&identity));
    let authorities = Authorities::read(&cas)?;
    // Ports first: a hub that cannot serve makes no log.
    let mqtt_listener = listen(config.mqtt_listen, "hub.mqtt-listen").await?;
    let amqp_listener = listen(config.amqp_listen, "hub.amqp-listen").await?;
    let mut amqp_listeners = vec![(config.amqp_listen, "hub.amqp-listen", amqp_listener, Wrapping::Plain)];
    if let Some(addr) = config.amqps_listen {
        let key = "hub.amqps-listen";
        amqp_listeners.push((addr, key, listen(addr, key).await?, Wrapping::Tls(Arc::clone(&server.tls))));
    }
    if let Some(addr) = config.amqp_websocket_listen {
        let key = "hub.amqp-websocket-listen";
        amqp_listeners.push((addr, key, listen(addr, key).await?, Wrapping::WebSocket(Arc::clone(&server.tls))));
    }
    let https_listener = match config.https_listen {
        Some(addr) => Some(listen(addr, "hub.https-listen").await?),
        None => None,
    };
    let log = Log::open(&config.log_dir(), &options(config, &clock, &faults))?;
    let path = config.sessions_file();
    let sessions = Sessions::open(path.clone()).map_err(|source| HubError::Disk { act: "open", path, source })?;
    let path = config.twins_file();
    let twins = Twins::open(path.clone(), clock.clone());
    let twins = twins.map_err(|source| HubError::Disk { act: "open", path, source })?;

    let mut metered = Metered::default();
    let metrics = Metrics::new(&mut metered);
    let https_books = gate::Books::new(metered.sub_registry_with_prefix("hub_https"));
    let path = config.seen_file();
    let seats = Seats::open(path.clone(), clock.clone());
    let seats = seats.map_err(|source| HubError::Disk { act: "open", path, source })?;
    let health = Health::new();
    let meter = Meter::open(config.data_dir.join("meter.json"))?;
    let limits = meter.limits(&config.limits);
    let path = config.commands_file();
    let commands =
        Commands::open(path.clone(), clock.clone(), config.commands.limits(), registry.clone(), seats.clone());
    let commands = commands.map_err(|source| HubError::Disk { act: "open", path, source })?;
    let changes = Changes::new(log.clone(), &config.name, &config.event_sources, clock.clone());
    let desk = Desk::new(Parts {
        registry: registry.clone(),
        twins,
        commands,
        changes,
        seats,
        limits: limits.clone(),
        faults: faults.clone(),
        clock: clock.clone(),
        hosts: names,
        metrics: Arc::clone(&metrics),
    });
    let setup = amqp::Setup {
        name: config.name.clone(),
        desk: desk.clone(),
        policies: {
            let registry = registry.clone();
            Arc::new(move || policies(&registry.now()))
        },
        consumer_groups: config.consumer_groups.clone(),
        limits: config.amqp.limits(),
    };
    let amqp = AmqpHub::new(log.clone(), setup, clock.clone());
    let stop = tasks.token();

    let books = Books {
        name: config.name.clone(),
        host_name: config.host_name.clone(),
        log: log.clone(),
        desk: desk.clone(),
        sessions: sessions.clone(),
        amqp: amqp.clone(),
        loopback: config.http.listen.ip().is_loopback(),
    };
    let condition = health.condition("hub");
    let http = shared::http::serve(config.http.listen, health, Arc::new(metered), books.router(), stop.clone());
    tasks.spawn("http", async move { Ok(http.await?) });

    let door = Arc::new(Door {
        desk: desk.clone(),
        authorities,
        sessions,
        log: log.clone(),
        limits: config.mqtt.clone(),
        ended: mqtt::Ended::default(),
        metrics,
        stop: stop.clone(),
    });
    let hands = faults::Hands { log: log.clone(), amqp: amqp.clone(), skew };
    tasks.spawn("faults", {
        let stop = stop.clone();
        async move {
            faults::run(faults, hands, stop).await;
            Ok(())
        }
    });
    tasks.spawn("meter", {
        let stop = stop.clone();
        async move { Ok(meter.keep(limits, stop).await?) }
    });
    tasks.spawn("desk", {
        let (desk, stop, path) = (desk.clone(), stop.clone(), config.data_dir.clone());
        async move {
            desk.run(stop).await.map_err(|source| HubError::Disk { act: "keep twins and commands in", path, source })
        }
    });
    let tls = Arc::clone(&server.device_tls);
    if let Some(listener) = https_listener {
        let path = config.jobs_file();
        let jobs = Jobs::open(path.clone()).map_err(|source| HubError::Disk { act: "open", path, source })?;
        let api = Arc::new(Api { desk: door.desk.clone(), jobs });
        tasks.spawn("jobs", {
            let (api, stop) = (Arc::clone(&api), stop.clone());
            async move {
                jobs::run(api, stop).await;
                Ok(())
            }
        });
        let (door, gate) = (Arc::clone(&door), config.https.gate(https_books, stop.clone()));
        let idle_timeout = config.https.idle_timeout.duration();
        let port = Arc::new(https::Port { api, door, amqp: amqp.clone(), idle_timeout, gate });
        let tls = Arc::clone(&tls);
        tasks.spawn("https", async move {
            https::serve(listener, tls, port).await;
            Ok(())
        });
    }
    tasks.spawn("mqtt", async move {
        mqtt::serve(mqtt_listener, tls, door).await;
        Ok(())
    });
    for (addr, key, listener, wrapping) in amqp_listeners {
        let served = amqp::serve(listener, wrapping, amqp.clone(), stop.clone());
        tasks.spawn("amqp", async move { served.await.map_err(|source| HubError::Listen { addr, key, source }) });
    }
    let partitions = log.partition_count();
    let created_at = log.created_at();
    tasks.spawn("log", async move {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            () = log.stopped().cancelled_owned() => {
                let trouble = log.trouble().expect("a log stops for a reason");
                tracing::error!(%trouble, "events cannot be stored any more");
                Err(trouble.into())
            }
        }
    });
    condition.met();
    tracing::info!(
        host_name = config.host_name,
        created_at,
        partitions,
        mqtt = %config.mqtt_listen,
        amqp = %config.amqp_listen,
        ca = %server.ca_file.display(),
        "the hub serves"
    );
    Ok((lock, desk))
}

/// The identities of a hub that may or may not be running; makes what is missing if it is not.
///
/// # Errors
/// If they cannot be read, understood or written.
pub(super) fn identities(config: &Config) -> Result<Arc<Identities>, HubError> {
    let registry = match lock(config)? {
        Some(_lock) => {
            ca::prepare(&config.identity_dir(), Clock::Real.now())?;
            Registry::prepare(config.registry_file(), &config.devices)?
        }
        None => Registry::open(config.registry_file())?,
    };
    Ok(registry.now())
}

/// The right to write in the data directory; `None` if somebody else has it.
fn lock(config: &Config) -> Result<Option<File>, HubError> {
    let path = config.data_dir.join("lock");
    let disk = |act, path: &PathBuf| {
        let path = path.clone();
        move |source| HubError::Disk { act, path, source }
    };
    fs::create_dir_all(&config.data_dir).map_err(disk("create", &config.data_dir))?;
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(disk("open", &path))?;
    match file.try_lock() {
        Ok(()) => {
            // For whoever comes second; the lock is what counts.
            let _ = file.set_len(0).and_then(|()| write!(&file, "{}", std::process::id()));
            Ok(Some(file))
        }
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(HubError::Disk { act: "lock", path, source }),
    }
}

/// The process that has the data directory, as it says itself.
fn holder(config: &Config) -> String {
    let pid = fs::read_to_string(config.data_dir.join("lock")).unwrap_or_default();
    match pid.trim().parse::<u32>() {
        Ok(pid) => format!(" (process {pid})"),
        Err(_) => String::new(),
    }
}

fn options(config: &Config, clock: &Clock, faults: &Faults) -> Options {
    Options {
        retention_time: config.retention_time.map(|time| time.duration()),
        retention_bytes: config.retention_size.map(|size| size.bytes()),
        fsync: config.fsync,
        faults: faults.clone(),
        ..Options::new(config.partitions, clock.clone())
    }
}

fn policies(identities: &Identities) -> Vec<amqp::Policy> {
    let both = |policy: &super::devices::Policy| {
        [&policy.primary_key, &policy.secondary_key].map(|key| amqp::Policy::new(&policy.name, key.reveal()))
    };
    identities.policies.iter().filter(|policy| policy.may(Right::ServiceConnect)).flat_map(both).collect()
}

async fn listen(addr: SocketAddr, key: &'static str) -> Result<TcpListener, HubError> {
    TcpListener::bind(addr).await.map_err(|source| HubError::Listen { addr, key, source })
}
