//! Clients that ask nothing, or take nothing.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Bytes;
use axum::routing::{any, get};
use hyper::body::Frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const SOON: Duration = Duration::from_secs(30);
/// What a client may have said that then goes silent: nothing, half a head, half a body, a whole request and no more.
const HALVES: [&str; 4] = [
    "",
    "GET /healthz HTTP/1.1\r\nHost: x\r\nX-",
    "POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx",
    "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
];

/// An answer without end, which tells when nobody gives it any more.
struct Endless {
    _told: tokio_util::sync::DropGuard,
}

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024])))))
    }
}

/// A server with such bounds; `/slow` takes longer than anybody's patience.
async fn serve_within(bounds: Bounds) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let router = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/slow", any(async move || sleep(3 * bounds.patience).await));
    tokio::spawn(serve(listener, router, bounds, CancellationToken::new()));
    addr
}

/// A connection that has said so much and says no more.
async fn held(addr: SocketAddr, said: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.expect("a connection");
    stream.write_all(said.as_bytes()).await.expect("said");
    stream
}

/// All that comes until the server closes; a reset counts as closed.
async fn rest(stream: &mut TcpStream) -> String {
    let mut came = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut came)).await.expect("it is closed");
    String::from_utf8_lossy(&came).into_owned()
}

async fn ask(addr: SocketAddr, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let said = rest(&mut held(addr, &request).await).await;
    said.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn those_who_hold_connections_and_ask_nothing_keep_nobody_from_being_answered() {
    // Nobody's patience ends while this is looked at.
    let bounds = Bounds { connections: 8, patience: Duration::from_secs(3_600) };
    let addr = serve_within(bounds).await;
    let mut crowd = Vec::new();
    for number in 0..5 * bounds.connections {
        crowd.push(held(addr, HALVES[number % HALVES.len()]).await);
        assert_eq!(ask(addr, "/healthz").await, "200", "after {number}");
    }
    // All but so many had to leave.
    for stream in crowd.iter_mut().take(4 * bounds.connections) {
        rest(stream).await;
    }
}

#[tokio::test]
async fn who_takes_too_long_is_shown_out_and_who_is_kept_waiting_is_not() {
    let addr = serve_within(Bounds { connections: 64, patience: Duration::from_millis(300) }).await;
    for half in HALVES {
        rest(&mut held(addr, half).await).await;
    }
    assert_eq!(ask(addr, "/slow").await, "200", "after three times that patience");
}

#[tokio::test]
async fn an_answer_that_is_not_taken_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let given_up = CancellationToken::new();
    let told = given_up.clone();
    let endless = Router::new().route("/", get(async move || Body::new(Endless { _told: told.drop_guard() })));
    let bounds = Bounds { connections: 64, patience: Duration::from_millis(300) };
    tokio::spawn(serve(listener, endless, bounds, CancellationToken::new()));
    let deaf = held(addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    timeout(SOON, given_up.cancelled()).await.expect("it is given up");
    drop(deaf);
}

#[tokio::test]
async fn a_request_is_no_larger_than_it_need_be() {
    let addr = serve_within(BOUNDS).await;
    let (body, long) = ("x".repeat(BODY_BYTES_MAX + 1), "x".repeat(2 * HEAD_BYTES_MAX));
    for (request, code) in [
        (format!("POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()), "413"),
        (format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n"), "431"),
    ] {
        let mut stream = TcpStream::connect(addr).await.expect("a connection");
        // It may be closed before all of it is said.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, format!("HTTP/1.1 {code}").as_bytes());
    }
    assert_eq!(ask(addr, "/healthz").await, "200");
}
