//! An HTTP proxy that lets us through by CONNECT.
//!
//! Source: RFC 9110, 9.3.6 (CONNECT) and 11.7 (Proxy-Authorization).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shared::config::Secret;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::Fault;

/// Longest head of an answer that is read.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Of what the proxy says, so much is repeated to people.
const WORDS_MAX: usize = 120;

/// A proxy. Its credentials are never printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    credentials: Option<Secret>,
}

/// What is wrong with a proxy's address. Never repeats it: there may be a password in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyFault {
    /// Of another kind.
    #[error("must begin with http://; proxies are asked in plain HTTP, the connection through them is TLS all the way")]
    Scheme,
    /// A user name in it.
    #[error("must not hold a user name or password; write them as `proxy-credentials`")]
    Credentials,
    /// Anything else.
    #[error("must be http://HOST:PORT, e.g. \"http://proxy.plant.local:3128\"")]
    Address,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Proxy {
    /// Reads `http://HOST:PORT`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ProxyFault> {
        let rest = text.strip_prefix("http://").ok_or(ProxyFault::Scheme)?;
        if rest.contains('@') {
            return Err(ProxyFault::Credentials);
        }
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or(ProxyFault::Address)?;
        let port: u16 = port.parse().map_err(|_| ProxyFault::Address)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let strange = |letter: char| letter.is_control() || letter.is_whitespace() || "/?#[]".contains(letter);
        if host.is_empty() || port == 0 || host.contains(strange) {
            return Err(ProxyFault::Address);
        }
        Ok(Self { host: host.to_owned(), port, credentials: None })
    }

    /// With `USER:PASSWORD`.
    pub fn with_credentials(self, credentials: Secret) -> Self {
        Self { credentials: Some(credentials), ..self }
    }

    /// Its host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn request(&self, host: &str, port: u16) -> String {
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
        if let Some(credentials) = &self.credentials {
            request += &format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(credentials.reveal()));
        }
        request + "\r\n"
    }

    /// Asks to be let through to `host`.
    pub(super) async fn ask(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        host: &str,
        port: u16,
    ) -> Result<(), Fault> {
        let fault = |text: String| Fault { reason: "proxy", text: format!("the proxy {self} {text}") };
        let broken = |error: std::io::Error| fault(format!("ended the connection: {error}"));
        stream.write_all(self.request(host, port).as_bytes()).await.map_err(broken)?;
        // Byte by byte: what follows the head is no longer the proxy's.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if HEAD_BYTES_MAX <= head.len() {
                return Err(fault("answers with no end".to_owned()));
            }
            head.push(stream.read_u8().await.map_err(broken)?);
        }
        judge(&head, host, port).map_err(fault)
    }
}

fn judge(head: &[u8], host: &str, port: u16) -> Result<(), String> {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse::<u16>().ok());
    let words: String = line.chars().filter(|letter| !letter.is_control()).take(WORDS_MAX).collect();
    match status {
        Some(200..=299) => Ok(()),
        Some(407) => {
            Err(format!("wants credentials ({words}); write `network.proxy-credentials`, or correct what is there"))
        }
        Some(_) => Err(format!("does not let us through to {host}:{port} ({words})")),
        None => Err(format!("does not speak HTTP ({words})")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_read_and_what_is_none_is_not_repeated() {
        for (text, host, port) in [
            ("http://proxy.plant.local:3128", "proxy.plant.local", 3128),
            ("http://10.0.0.1:80/", "10.0.0.1", 80),
            ("http://[fd00::1]:3128", "fd00::1", 3128),
        ] {
            let proxy = Proxy::parse(text).expect(text);
            assert_eq!((proxy.host(), proxy.port()), (host, port));
        }
        for (text, fault) in [
            ("https://p:1", ProxyFault::Scheme),
            ("p:3128", ProxyFault::Scheme),
            ("http://user:geheim@p:3128", ProxyFault::Credentials),
            ("http://p", ProxyFault::Address),
            ("http://p:0", ProxyFault::Address),
            ("http://:1", ProxyFault::Address),
            ("http://p:1/x", ProxyFault::Address),
            ("http://p\r\nX: y:1", ProxyFault::Address),
        ] {
            assert_eq!(Proxy::parse(text), Err(fault), "{text}");
            assert!(!fault.to_string().contains("geheim"));
        }
    }

    #[test]
    fn a_request_names_the_hub_and_shows_its_credentials_to_the_proxy_only() {
        let proxy = Proxy::parse("http://p:1").expect("one").with_credentials(Secret::new("user:geheim"));
        assert_eq!(
            proxy.request("h.azure-devices.net", 443),
            "CONNECT h.azure-devices.net:443 HTTP/1.1\r\nHost: h.azure-devices.net:443\r\n\
             Proxy-Authorization: Basic dXNlcjpnZWhlaW0=\r\n\r\n"
        );
        assert!(proxy.request("::1", 8883).starts_with("CONNECT [::1]:8883 "));
        let shown = format!("{proxy:?} {proxy}");
        assert!(!shown.contains("geheim") && !shown.contains("dXNlcjpnZWhlaW0"), "{shown}");
    }

    #[test]
    fn an_answer_lets_through_or_says_what_to_do() {
        for (head, part) in [
            ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "network.proxy-credentials"),
            ("HTTP/1.0 403 Forbidden\r\n\r\n", "does not let us through to h:443 (HTTP/1.0 403 Forbidden)"),
            ("SSH-2.0-x\r\n\r\n", "does not speak HTTP"),
            ("HTTP/1.1 abc\r\n\r\n", "does not speak HTTP"),
            ("\r\n\r\n", "does not speak HTTP"),
        ] {
            let said = judge(head.as_bytes(), "h", 443).expect_err(head);
            assert!(said.contains(part), "{said}");
        }
        assert_eq!(judge(b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n", "h", 443), Ok(()));
    }

    proptest! {
        #[test]
        fn no_answer_and_no_address_makes_it_panic(head in proptest::collection::vec(any::<u8>(), 0..80), text in "(http://)?.{0,30}(:[0-9]{0,6})?") {
            let _ = judge(&head, "h", 1);
            let _ = Proxy::parse(&text);
        }
    }
}
