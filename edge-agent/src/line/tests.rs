//! Lines through a small proxy and into a small WebSocket server, on loopback.

use std::sync::{Arc, Mutex};

use shared::config::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use super::websocket::Bytestream;
use super::*;

/// What a proxy was asked, head by head.
pub(crate) type Asked = Arc<Mutex<Vec<String>>>;

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("bound").port();
    (listener, port)
}

/// A proxy that lets through to loopback, whoever asks, or says this.
pub(crate) async fn proxy(refusal: Option<&'static str>) -> (Proxy, Asked) {
    let (listener, port) = listener().await;
    let asked = Asked::default();
    let all = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let all = all.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.expect("a head"));
                }
                let head = String::from_utf8(head).expect("text");
                let target = head.split(' ').nth(1).expect("a target").to_owned();
                all.lock().expect("no panic").push(head);
                if let Some(refusal) = refusal {
                    let _ = client.write_all(refusal.as_bytes()).await;
                    return;
                }
                let Ok(mut server) = TcpStream::connect(target).await else { return };
                client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.expect("written");
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (Proxy::parse(&format!("http://127.0.0.1:{port}")).expect("an address"), asked)
}

/// Gives what comes in WebSocket messages to a server on `port`, as the hub does at 443.
#[expect(clippy::result_large_err, reason = "the library's own signature")]
pub(crate) async fn websocket_before(port: u16) -> u16 {
    let (listener, front) = listener().await;
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let check = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
                    let offered = request.headers().get("Sec-WebSocket-Protocol").expect("a subprotocol");
                    assert_eq!((request.uri().path(), offered.as_bytes()), ("/$iothub/websocket", &b"mqtt"[..]));
                    response.headers_mut().insert("Sec-WebSocket-Protocol", offered.clone());
                    Ok(response)
                };
                let Ok(socket) = tokio_tungstenite::accept_hdr_async(client, check).await else { return };
                let mut server = TcpStream::connect(("127.0.0.1", port)).await.expect("the server is there");
                let _ = copy_bidirectional(&mut Bytestream::new(socket), &mut server).await;
            });
        }
    });
    front
}

async fn echo() -> u16 {
    let (listener, port) = listener().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    port
}

fn dial(port: u16, way: Way, proxy: Option<Proxy>) -> Dial {
    Dial { host: "127.0.0.1".into(), port, way, proxy, tls: None, timeout: Duration::from_secs(20) }
}

#[tokio::test]
async fn bytes_go_both_ways_through_a_proxy_and_in_websocket_messages() {
    let (proxy, asked) = proxy(None).await;
    let proxy = proxy.with_credentials(Secret::new("gw-01:geheim"));
    let plain = echo().await;
    let web = websocket_before(plain).await;
    for (port, way, proxy) in [
        (plain, Way::Mqtt, Some(proxy.clone())),
        (web, Way::WebSocket, None),
        (web, Way::WebSocket, Some(proxy.clone())),
    ] {
        let line = dial(port, way, proxy).lay().await.unwrap_or_else(|fault| panic!("{way:?}: {fault:?}"));
        let (mut read, mut write) = tokio::io::split(line);
        let sent: Vec<u8> = (0..3_000_000u32).map(|at| at.to_le_bytes()[at as usize % 3]).collect();
        let mut came = vec![0; sent.len()];
        let writing = async {
            write.write_all(&sent).await.expect("written");
            write.flush().await.expect("flushed");
        };
        tokio::join!(writing, async { read.read_exact(&mut came).await.map(drop).expect("read") });
        assert!(came == sent, "{way:?}");
    }
    let asked = asked.lock().expect("no panic").clone();
    assert_eq!(asked.len(), 2);
    assert!(asked[0].starts_with(&format!("CONNECT 127.0.0.1:{plain} HTTP/1.1\r\n")), "{asked:?}");
    assert!(asked[0].contains("Proxy-Authorization: Basic Z3ctMDE6Z2VoZWlt\r\n"), "{asked:?}");
}

#[tokio::test]
async fn a_line_that_is_not_laid_says_where_it_ended() {
    let (wants, _) = proxy(Some("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")).await;
    let (silent, _) = proxy(Some("")).await;
    let (endless, _) = proxy(Some(Box::leak("x".repeat(20_000).into_boxed_str()))).await;
    let nobody = listener().await.1;
    let page = {
        let (listener, port) = listener().await;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 64];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n").await;
            }
        });
        port
    };
    let port = echo().await;
    for (dial, reason, part) in [
        (dial(port, Way::Mqtt, Some(wants)), "proxy", "network.proxy-credentials"),
        (dial(port, Way::Mqtt, Some(silent)), "proxy", "ended the connection"),
        (dial(port, Way::Mqtt, Some(endless)), "proxy", "no end"),
        (dial(nobody, Way::WebSocket, None), "network", "refused"),
        (dial(page, Way::WebSocket, None), "websocket", "HTTP 302"),
    ] {
        let fault = dial.probe().await.expect_err(part);
        assert_eq!(fault.reason, reason, "{fault:?}");
        assert!(fault.text.contains(part), "{fault:?}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for_for_ever() {
    let (listener, port) = listener().await;
    let dial = Dial { timeout: Duration::from_millis(50), ..dial(port, Way::WebSocket, None) };
    let fault = dial.probe().await.expect_err("nobody answers");
    assert_eq!(fault.reason, "timeout");
    drop(listener);
}
