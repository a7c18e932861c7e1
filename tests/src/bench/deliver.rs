//! Messages that somebody made beforehand, out of a file, at QoS 1 over TLS: those of each device in the file's order.
//!
//! The file: a line of JSON, `{"device": …, "properties": …, "bytes": N}`, then N bytes, the body; and so on. The properties
//! stand in the topic as they are.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use super::dial::Credentials;
use super::mqtt::{self, Publish};

/// Unacknowledged publishes of one device.
const WINDOW: usize = 64;
/// It takes no longer.
const KEEP_ALIVE_S: u16 = 600;

/// Arguments of the delivery.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What `simulator hub connection-strings --json` printed
    #[arg(long)]
    credentials: PathBuf,
    /// The hub
    #[arg(long)]
    addr: SocketAddr,
    /// The messages
    #[arg(long)]
    file: PathBuf,
}

/// Appends a message to such a file.
///
/// # Errors
/// It cannot be written.
pub fn write(out: &mut impl Write, device: &str, properties: &str, body: &[u8]) -> io::Result<()> {
    let head = json!({"device": device, "properties": properties, "bytes": body.len()});
    writeln!(out, "{head}")?;
    out.write_all(body)
}

/// The publishes of each device.
fn read(file: &Path) -> io::Result<BTreeMap<String, Vec<Publish>>> {
    let mut input = BufReader::new(std::fs::File::open(file)?);
    let mut all: BTreeMap<String, Vec<Publish>> = BTreeMap::new();
    let mut line = String::new();
    while 0 < input.read_line(&mut line)? {
        let head: Json = serde_json::from_str(&line)?;
        let part = |name: &str| head[name].as_str().ok_or_else(|| io::Error::other(format!("no {name}: {head}")));
        let bytes = head["bytes"].as_u64().and_then(|bytes| usize::try_from(bytes).ok());
        let mut body = vec![0; bytes.ok_or_else(|| io::Error::other(format!("no bytes: {head}")))?];
        input.read_exact(&mut body)?;
        let device = part("device")?.to_owned();
        let publish = Publish::new(&format!("devices/{device}/messages/events/{}", part("properties")?), &body);
        all.entry(device).or_default().push(publish);
        line.clear();
    }
    Ok(all)
}

/// Publishes all; done when all are acknowledged.
pub(super) async fn run(args: Args) -> io::Result<()> {
    let credentials = Credentials::read(&args.credentials)?;
    let mut devices = JoinSet::new();
    for (device, messages) in read(&args.file)? {
        let stream = credentials.connect(args.addr, &credentials.who(&device)?, KEEP_ALIVE_S, true).await?;
        devices.spawn(send(stream, messages));
    }
    while let Some(ended) = devices.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    Ok(())
}

async fn send(mut stream: TlsStream<TcpStream>, messages: Vec<Publish>) -> io::Result<()> {
    let (mut out, mut inbox) = (vec![], bytes::BytesMut::with_capacity(4 * 1024));
    let (mut sent, mut acknowledged) = (0, 0);
    while acknowledged < messages.len() {
        while sent < messages.len() && sent - acknowledged < WINDOW {
            let id = u16::try_from(sent % 60_000 + 1).unwrap_or(1);
            messages[sent].push(&mut out, id);
            sent += 1;
        }
        stream.write_all(&out).await?;
        stream.flush().await?;
        out.clear();
        if stream.read_buf(&mut inbox).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some(seen) = mqtt::first(&inbox) {
            acknowledged += usize::from(seen.kind == mqtt::PUBACK_KIND);
            let length = seen.length;
            bytes::Buf::advance(&mut inbox, length);
        }
    }
    stream.write_all(&mqtt::DISCONNECT).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("messages");
        let mut out = vec![];
        for (device, body) in [("a", &b"{}\n"[..]), ("b", b""), ("a", b"\x00\xff\n\n")] {
            write(&mut out, device, "%24.mid=1", body).expect("written");
        }
        std::fs::write(&path, out).expect("a file");
        let found = read(&path).expect("read");
        let counts: Vec<_> = found.iter().map(|(device, messages)| (device.as_str(), messages.len())).collect();
        assert_eq!(counts, [("a", 2), ("b", 1)]);
        let mut bytes = vec![];
        found["a"][1].push(&mut bytes, 1);
        assert!(bytes.ends_with(b"\x00\xff\n\n"), "{bytes:?}");
    }
}
