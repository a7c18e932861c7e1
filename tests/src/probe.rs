//! Asks a program's HTTP face.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value as Json;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The body of `GET path`, if it is answered with 200.
pub fn get(addr: SocketAddr, path: &str) -> Option<String> {
    let (status, body) = ask(addr, "GET", path, "")?;
    (status == 200).then_some(body)
}

/// Status and body of the answer to `POST path` with a JSON body.
pub fn post(addr: SocketAddr, path: &str, body: &Json) -> Option<(u16, String)> {
    ask(addr, "POST", path, &body.to_string())
}

fn ask(addr: SocketAddr, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    // HTTP/1.0: the answer ends with the connection, so that nothing has to be counted.
    let length = body.len();
    let head = format!("Host: {addr}\r\nContent-Type: application/json\r\nContent-Length: {length}");
    write!(stream, "{method} {path} HTTP/1.0\r\n{head}\r\n\r\n{body}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.lines().next()?.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// True if the program says it is ready.
pub fn is_ready(addr: SocketAddr) -> bool {
    get(addr, "/readyz").is_some()
}

/// What the program's `/status` says.
pub fn status(addr: SocketAddr) -> Option<Json> {
    serde_json::from_str(&get(addr, "/status")?).ok()
}
