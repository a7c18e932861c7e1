//! `/healthz`, `/readyz`, `/metrics`, and whatever router the program adds (`/status`).
//!
//! On loopback only names of this machine are answered to: a page of somebody else's, open in a browser here, may have its
//! own name point to 127.0.0.1 and would then be let in by the browser.
//!
//! Whoever reaches the address costs little: connections are bounded, and who holds one without asking gives way.

mod line; // connections

mod seats; // [p] who is served, who gives way

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What a program is waiting for before it counts as ready. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Health {
    conditions: Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>,
}

/// One condition of readiness; it holds until told otherwise is false: it begins unmet.
#[derive(Debug, Clone)]
pub struct Condition {
    name: &'static str,
    health: Health,
}

/// The listening address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("listen on {addr} for HTTP: {source}; choose another `http.listen`")]
pub struct ListenError {
    /// The address that was asked for.
    pub addr: SocketAddr,
    /// Why.
    pub source: std::io::Error,
}

impl Health {
    /// No conditions: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition; it is unmet ("starting") until it is set.
    pub fn condition(&self, name: &'static str) -> Condition {
        let condition = Condition { name, health: self.clone() };
        condition.set(Err("starting".to_owned()));
        condition
    }

    /// True if every condition is met.
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(Result::is_ok)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Result<(), String>>> {
        self.conditions.lock().expect("no thread panics while it holds the conditions")
    }
}

impl Condition {
    /// Met.
    pub fn met(&self) {
        self.set(Ok(()));
    }

    /// Not met, and why.
    pub fn unmet(&self, why: impl Into<String>) {
        self.set(Err(why.into()));
    }

    fn set(&self, state: Result<(), String>) {
        self.health.lock().insert(self.name, state);
    }
}

/// A router that answers `GET /status` with what `books` gives, as JSON.
pub fn status<F, Books, Answer>(books: F) -> Router
where
    F: Fn() -> Answer + Clone + Send + Sync + 'static,
    Answer: Future<Output = Books> + Send,
    Books: Serialize,
{
    Router::new().route(
        "/status",
        get(move || {
            let answer = books();
            async move { Json(answer.await) }
        }),
    )
}

/// Serves until `stop`, then lets requests under way finish.
///
/// # Errors
/// The address cannot be had.
pub async fn serve(
    addr: SocketAddr,
    health: Health,
    registry: Arc<Registry>,
    extra: Router,
    stop: CancellationToken,
) -> Result<(), ListenError> {
    serve_on(bind(addr).await?, health, registry, extra, stop).await;
    Ok(())
}

/// A listener at `addr`: as long as it is there no other process on this machine has the address.
///
/// # Errors
/// The address cannot be had.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(addr).await.map_err(|source| ListenError { addr, source })
}

/// As [`serve`], on a listener that is there.
pub async fn serve_on(
    listener: TcpListener,
    health: Health,
    registry: Arc<Registry>,
    extra: Router,
    stop: CancellationToken,
) {
    let addr = listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
    let router = router(health, registry).merge(extra);
    let router = if addr.ip().is_loopback() { router.layer(middleware::from_fn(to_our_names)) } else { router };
    line::serve(listener, router, line::BOUNDS, stop).await;
}

fn router(health: Health, registry: Arc<Registry>) -> Router {
    let ready = Router::new().route("/readyz", get(readyz)).with_state(health);
    let metrics = Router::new().route("/metrics", get(metrics)).with_state(registry);
    Router::new().route("/healthz", get(async || "ok\n")).merge(ready).merge(metrics)
}

async fn to_our_names(request: Request, next: Next) -> Response {
    let asked = request.uri().host().or_else(|| request.headers().get(header::HOST)?.to_str().ok());
    match asked {
        Some(host) if !is_ours(host) => {
            let text =
                "this address answers to localhost only; a proxy in front of it must set the header Host to that\n";
            (StatusCode::MISDIRECTED_REQUEST, text).into_response()
        }
        _ => next.run(request).await,
    }
}

/// True for what no name server of somebody else can have a say in: addresses, `localhost`, names without a dot, and
/// those of the local network.
fn is_ours(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host
            .rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
            .map_or(host, |(name, _)| name),
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || !name.contains('.') || name.ends_with(".localhost") || name.ends_with(".local")
}

async fn readyz(State(health): State<Health>) -> Response {
    let conditions: BTreeMap<_, _> = health
        .lock()
        .iter()
        .map(|(name, state)| (*name, state.as_ref().err().cloned().unwrap_or_else(|| "ok".to_owned())))
        .collect();
    let code = if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(conditions)).into_response()
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("encode the metrics: {error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn fetch(addr: SocketAddr, path: &str) -> String {
        fetch_of(addr, "x", path).await
    }

    async fn fetch_of(addr: SocketAddr, host: &str, path: &str) -> String {
        let mut stream = loop {
            match tokio::net::TcpStream::connect(addr).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        let code = answer.split(' ').nth(1).unwrap_or_default().to_owned();
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        format!("{code} {}", body.trim())
    }

    #[tokio::test]
    async fn the_four_faces_answer_and_stop_with_the_token() {
        let free =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        let (health, stop) = (Health::new(), CancellationToken::new());
        let hub = health.condition("hub");
        let mut registry = Registry::default();
        let rows = prometheus_client::metrics::counter::Counter::<u64>::default();
        registry.register("edge_outbox_stored", "rows stored", rows.clone());
        rows.inc_by(3);
        let books = status(async || BTreeMap::from([("held", 7)]));
        let server = tokio::spawn(serve(free, health, Arc::new(registry), books, stop.clone()));

        assert_eq!(fetch(free, "/healthz").await, "200 ok");
        assert_eq!(fetch(free, "/readyz").await, r#"503 {"hub":"starting"}"#);
        hub.met();
        assert_eq!(fetch(free, "/readyz").await, r#"200 {"hub":"ok"}"#);
        assert_eq!(fetch(free, "/status").await, r#"200 {"held":7}"#);
        assert!(fetch(free, "/metrics").await.contains("edge_outbox_stored_total 3"));
        assert_eq!(fetch_of(free, &free.to_string(), "/healthz").await, "200 ok");
        let stranger = fetch_of(free, "rebound.example:80", "/status").await;
        assert!(stranger.starts_with("421 this address answers to localhost"), "{stranger}");
        stop.cancel();
        server.await.expect("no panic").expect("a clean end");
    }

    #[test]
    fn a_name_that_a_stranger_can_point_here_is_not_ours() {
        for ours in
            ["localhost", "LOCALHOST:9101", "127.0.0.1:9101", "[::1]:9101", "[::1]", "gw-01", "gw-01.local:80", ""]
        {
            assert!(is_ours(ours), "{ours}");
        }
        for other in ["evil.example", "evil.example:9101", "127.0.0.1.evil.example", "localhost.evil.example.", "a.b:x"]
        {
            assert!(!is_ours(other), "{other}");
        }
    }
}
