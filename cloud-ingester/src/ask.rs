//! One HTTP request to a service of ours on this network; not a client for the world.

use std::io::{Error, ErrorKind};

use shared::config::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer is a few lines of text, or a status.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Posts JSON, with a token where there is one; gives the status code and the body.
///
/// # Errors
/// Nobody listens at `addr`, or what answers is not HTTP.
pub(crate) async fn post(addr: &str, path: &str, json: &str, token: Option<&Secret>) -> std::io::Result<(u16, String)> {
    let length = json.len();
    let shown = token.map(|token| format!("Authorization: Bearer {}\r\n", token.reveal())).unwrap_or_default();
    let head = format!("Content-Type: application/json\r\nContent-Length: {length}\r\n{shown}");
    exchange(addr, &format!("POST {path} HTTP/1.1\r\nHost: {addr}\r\n{head}Connection: close\r\n\r\n{json}")).await
}

/// Gets what lies at `path`: the status code and the body.
///
/// # Errors
/// As [`post`].
pub(crate) async fn get(addr: &str, path: &str) -> std::io::Result<(u16, String)> {
    exchange(addr, &format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")).await
}

async fn exchange(addr: &str, request: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = vec![];
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    parse(&String::from_utf8_lossy(&answer)).ok_or_else(|| Error::new(ErrorKind::InvalidData, "no HTTP answer"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((code, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_code_and_a_body() {
        let answer = "HTTP/1.1 409 Conflict\r\ncontent-length: 3\r\n\r\nno\n";
        assert_eq!(parse(answer), Some((409, "no\n".to_owned())));
        assert_eq!(parse("SSH-2.0"), None);
    }
}
