//! Asks a program's HTTP face.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value as Json;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The body of `GET path`, if it is answered with 200.
pub fn get(addr: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    // HTTP/1.0: the answer ends with the connection, so that nothing has to be counted.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.lines().next()?.contains(" 200 ").then(|| body.to_owned())
}

/// True if the program says it is ready.
pub fn is_ready(addr: SocketAddr) -> bool {
    get(addr, "/readyz").is_some()
}

/// What the program's `/status` says.
pub fn status(addr: SocketAddr) -> Option<Json> {
    serde_json::from_str(&get(addr, "/status")?).ok()
}
