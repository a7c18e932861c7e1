//! An HTTP proxy that fails as networks and storages do, between a program and its object store.
//!
//! Draws what befalls a request from its seed: commits to a Delta log often, renewals of a lease now and then, other
//! requests rarely, so that programs get on. One request per connection.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What befalls a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It lands; the connection ends before the answer.
    LostAnswer,
    /// It lands and is answered 503: sent again, it finds itself there.
    UnavailableAfter,
    /// The connection ends before it is passed on.
    Reset,
    /// It takes long.
    Slow,
    /// A listing lacks its newest names.
    CutListing,
}

#[derive(Debug)]
struct Plan {
    state: u64,
    left: u64,
    struck: BTreeMap<Fault, u64>,
}

impl Plan {
    fn below(&mut self, end: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    fn draw(&mut self, request: &Request) -> Option<Fault> {
        let commit =
            request.method == "PUT" && request.target.contains("/_delta_log/") && request.target.contains(".json");
        let lease = request.method == "PUT" && request.target.contains("/_leases/");
        let list = request.method == "GET" && request.target.contains("comp=list");
        let often = match () {
            () if commit => 4,
            () if lease => 4,
            () if list => 60,
            () => 150,
        };
        if self.left == 0 || self.below(often) != 0 {
            return None;
        }
        self.left -= 1;
        let faults = match () {
            () if commit || lease => &[Fault::LostAnswer, Fault::UnavailableAfter, Fault::Reset, Fault::Slow][..],
            () if list => &[Fault::CutListing, Fault::Reset],
            () => &[Fault::Reset, Fault::Slow],
        };
        let at = usize::try_from(self.below(faults.len() as u64)).unwrap_or(0);
        *self.struck.entry(faults[at]).or_default() += 1;
        Some(faults[at])
    }
}

/// A proxy that listens until the process ends.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub addr: SocketAddr,
    plan: Arc<Mutex<Plan>>,
}

impl Proxy {
    /// Listens on a free port and passes on to `upstream`; `faults` requests at most meet one.
    ///
    /// # Errors
    /// There is no free port.
    pub fn start(upstream: SocketAddr, seed: u64, faults: u64) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let plan = Arc::new(Mutex::new(Plan { state: seed, left: faults, struck: BTreeMap::new() }));
        let shared = Arc::clone(&plan);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let plan = Arc::clone(&shared);
                // Whoever breaks off breaks off.
                std::thread::spawn(move || drop(serve(client, upstream, &plan)));
            }
        });
        Ok(Self { addr, plan })
    }

    /// How often each fault struck so far.
    ///
    /// # Panics
    /// Never: nobody panics while drawing.
    pub fn struck(&self) -> BTreeMap<Fault, u64> {
        self.plan.lock().expect("nobody panics while drawing").struck.clone()
    }
}

#[derive(Debug)]
struct Request {
    method: String,
    target: String,
    head: Vec<u8>,
    body: Vec<u8>,
}

fn serve(mut client: TcpStream, upstream: SocketAddr, plan: &Mutex<Plan>) -> io::Result<()> {
    let Some(request) = read_request(&client)? else { return Ok(()) };
    let fault = plan.lock().expect("nobody panics while drawing").draw(&request);
    match fault {
        Some(Fault::Reset) => return client.shutdown(Shutdown::Both),
        Some(Fault::Slow) => std::thread::sleep(Duration::from_secs(2)),
        _ => {}
    }
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(&request.head)?;
    server.write_all(&request.body)?;
    let mut answer = vec![];
    server.read_to_end(&mut answer)?;
    match fault {
        Some(Fault::LostAnswer) => client.shutdown(Shutdown::Both),
        Some(Fault::UnavailableAfter) => {
            client.write_all(b"HTTP/1.1 503 Server Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        }
        Some(Fault::CutListing) => client.write_all(&cut(&answer)),
        _ => client.write_all(&answer),
    }
}

/// One request, its `Connection` set to end with it.
fn read_request(client: &TcpStream) -> io::Result<Option<Request>> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut words = first.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut head = first.into_bytes();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(0);
        }
        if !name.eq_ignore_ascii_case("connection") {
            head.extend(line.as_bytes());
        }
    }
    head.extend(b"Connection: close\r\n\r\n");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { method, target, head, body }))
}

/// A listing without its last two names.
fn cut(answer: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return answer.to_vec() };
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let mut body = if chunked { unchunked(body) } else { body.to_owned() };
    for _ in 0..2 {
        let last = body.rfind("<Blob>").zip(body.rfind("</Blob>"));
        if let Some((from, to)) = last {
            body.replace_range(from..to + "</Blob>".len(), "");
        }
    }
    let kept = head.lines().filter(|line| {
        let name = line.split(':').next().unwrap_or_default();
        !["transfer-encoding", "content-length"].iter().any(|gone| name.eq_ignore_ascii_case(gone))
    });
    let head: Vec<&str> = kept.collect();
    format!("{}\r\nContent-Length: {}\r\n\r\n{body}", head.join("\r\n"), body.len()).into_bytes()
}

fn unchunked(body: &str) -> String {
    let mut out = String::new();
    let mut rest = body;
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = after.get(..size).filter(|_| 0 < size) else { break };
        out += chunk;
        rest = after.get(size + 2..).unwrap_or_default();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_listing_is_a_whole_answer_without_its_newest_names() {
        let body = "<L><Blobs><Blob>a</Blob><Blob>b</Blob><Blob>c</Blob></Blobs></L>";
        let chunked =
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let cut = String::from_utf8(cut(chunked.as_bytes())).expect("text");
        let expected = "<L><Blobs><Blob>a</Blob></Blobs></L>";
        assert_eq!(cut, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{expected}", expected.len()));
    }
}
