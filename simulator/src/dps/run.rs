//! All of the service together: opens what it keeps, serves devices and HTTP, stops when told.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::registry::Registry as Metered;
use shared::cli::Exit;
use shared::clock::Clock;
use shared::http::{Health, ListenError};
use shared::shutdown::{Failure, Shutdown};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Door;
use super::config::Config;
use super::enrolments::{self, Book, Enrolments, EnrolmentsError};
use super::hubs::{Hubs, LinkedHub};
use super::listener::{self, Way};
use super::metrics::Metrics;
use super::registrations::Registrations;
use super::seats::Seats;
use super::service::Service;
use super::status::Books;
use super::throttle::Bucket;
use crate::hub::Link;
use crate::hub::ca::{self, CaError};

const GRACE: Duration = Duration::from_secs(15);

/// Why a provisioning service does not run.
#[derive(Debug, thiserror::Error)]
pub enum DpsError {
    /// Another one does.
    #[error("another provisioning service runs on {}; stop it, or choose another `dps.data-dir`", path.display())]
    Taken { path: PathBuf },
    /// The disk said no.
    #[error("{act} {}", path.display())]
    Disk { act: &'static str, path: PathBuf, source: io::Error },
    /// A port said no.
    #[error("listen on {addr}; choose another `{key}`")]
    Listen { addr: SocketAddr, key: &'static str, source: io::Error },
    /// Who may register.
    #[error(transparent)]
    Enrolments(#[from] EnrolmentsError),
    /// Certificates.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Health, metrics, status.
    #[error(transparent)]
    Http(#[from] ListenError),
}

impl DpsError {
    /// How the program ends for it.
    pub fn exit(&self) -> Exit {
        match self {
            DpsError::Enrolments(EnrolmentsError::Malformed { .. })
            | DpsError::Ca(CaError::Malformed { .. } | CaError::Issue { .. } | CaError::NoAuthority { .. }) => {
                Exit::Usage
            }
            _ => Exit::Retry,
        }
    }
}

/// Where a service stands.
pub(crate) struct Place {
    /// Devices dial this.
    pub(crate) listen: SocketAddr,
    /// Whom it gives devices to.
    pub(crate) hubs: Vec<LinkedHub>,
    /// The hub of the same file …
    pub(crate) own: Link,
    /// … and its identity: who trusts its authority trusts this service, too.
    pub(crate) identity: PathBuf,
}

/// Runs the service until `stop` is cancelled.
///
/// # Errors
/// If it cannot start.
pub(crate) async fn run(config: Config, place: Place, stop: CancellationToken) -> Result<(), Failure<DpsError>> {
    let hubs = Hubs::new(place.hubs);
    // The authority is there only then; and a device that is told of a hub may dial it at once.
    let started = async {
        place.own.started().await;
        hubs.started().await;
    };
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = started => {}
    }
    let mut tasks = Shutdown::new(stop, GRACE);
    let started = start(&config, place.listen, hubs, &place.identity, &mut tasks).await;
    // The lock is held until all have ended.
    let _lock = started.map_err(|error| Failure::Task { name: "start", error })?;
    let done = tasks.wait().await;
    tracing::info!("the provisioning service has stopped");
    done
}

async fn start(
    config: &Config,
    listen: SocketAddr,
    hubs: Hubs,
    identity: &Path,
    tasks: &mut Shutdown<DpsError>,
) -> Result<File, DpsError> {
    let clock = Clock::Real;
    let lock = lock(config)?.ok_or_else(|| DpsError::Taken { path: config.data_dir.clone() })?;
    let enrolments = Book::open(config.enrolments_file())?;
    let listens: Vec<SocketAddr> = [Some(listen), config.websocket_listen].into_iter().flatten().collect();
    let ips: Vec<_> = listens.iter().map(SocketAddr::ip).collect();
    let names = ca::server_names(&config.host_name, &ips, &config.server_names);
    let server = ca::provisioning_server(identity, &names, clock.now())?;
    let mut ports = vec![(bind(listen, "dps.listen").await?, Way::Plain)];
    if let Some(listen) = config.websocket_listen {
        ports.push((bind(listen, "dps.websocket-listen").await?, Way::WebSocket));
    }
    let path = config.registrations_file();
    let registrations =
        Registrations::open(path.clone()).map_err(|source| DpsError::Disk { act: "open", path, source })?;

    let mut metered = Metered::default();
    let (seats, health, stop) = (Seats::default(), Health::new(), tasks.token());
    let hub_names = hubs.names();
    let service = Arc::new(Service {
        enrolments,
        hubs,
        registrations,
        metrics: Metrics::new(&mut metered),
        clock,
        retry_after: config.retry_after.duration(),
        throttle: Mutex::new(Bucket::new(config.registrations_per_minute, Duration::from_secs(60))),
        underway: Mutex::new(HashMap::new()),
    });
    let books = Books {
        id_scope: config.id_scope.clone(),
        host_name: config.host_name.clone(),
        listens,
        service: Arc::clone(&service),
        seats: seats.clone(),
        loopback: config.http.listen.ip().is_loopback(),
    };
    let condition = health.condition("dps");
    let http = shared::http::serve(config.http.listen, health, Arc::new(metered), books.router(), stop.clone());
    tasks.spawn("dps-http", async move { Ok(http.await?) });
    let door = Door { id_scope: config.id_scope.clone(), limits: config.mqtt.clone(), seats, service, stop };
    let door = Arc::new(door);
    for (listener, way) in ports {
        let served = listener::serve(listener, way, Arc::clone(&server.device_tls), Arc::clone(&door));
        tasks.spawn("dps", async move {
            served.await;
            Ok(())
        });
    }
    condition.met();
    tracing::info!(
        host_name = config.host_name,
        id_scope = config.id_scope,
        %listen,
        websocket = config.websocket_listen.map(tracing::field::display),
        hubs = ?hub_names,
        ca = %server.ca_file.display(),
        "the provisioning service serves"
    );
    Ok(lock)
}

async fn bind(addr: SocketAddr, key: &'static str) -> Result<TcpListener, DpsError> {
    TcpListener::bind(addr).await.map_err(|source| DpsError::Listen { addr, key, source })
}

/// The enrolments of a service that may or may not be running; makes what is missing.
///
/// # Errors
/// If they cannot be read, understood or written.
pub(crate) fn prepare(config: &Config) -> Result<Arc<Enrolments>, DpsError> {
    Ok(Arc::new(enrolments::prepare(&config.enrolments_file())?))
}

/// The right to write in the data directory; `None` if somebody else has it.
fn lock(config: &Config) -> Result<Option<File>, DpsError> {
    let path = config.data_dir.join("lock");
    let disk = |act, path: &Path| {
        let path = path.to_owned();
        move |source| DpsError::Disk { act, path, source }
    };
    fs::create_dir_all(&config.data_dir).map_err(disk("create", &config.data_dir))?;
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(disk("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(DpsError::Disk { act: "lock", path, source }),
    }
}
