//! A port of plain TCP that leads through WebSocket to one of ours: rumqttc, as it is built here, speaks none.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use super::websocket::WsIo;

/// Opens a bridge to `path` at `to`; gives this end's address.
pub(crate) async fn bridge(to: SocketAddr, tls: rustls::ClientConfig, path: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let tls = tls.clone();
            tokio::spawn(async move {
                let mut far = upgraded(to, tls, path).await;
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    addr
}

/// A stream of MQTT in WebSocket messages.
pub(crate) async fn upgraded(to: SocketAddr, tls: rustls::ClientConfig, path: &str) -> WsIo<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(to).await.expect("connected");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, socket).await.expect("encrypted");
    let mut request = format!("wss://localhost{path}").into_client_request().expect("a request");
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    let (socket, _) = Box::pin(tokio_tungstenite::client_async(request, stream)).await.expect("upgraded");
    WsIo::new(socket)
}
