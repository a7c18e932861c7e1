//! [p] What a request for WebSocket is answered.

use axum::body::Body;
use axum::http::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::{Method, Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::websocket::{self, Spoken};

/// A request that is granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) spoken: Spoken,
    subprotocol: &'static str,
    /// Answers the request's key.
    accept: String,
}

/// Which of `speaks` will be spoken, or why nothing will.
pub(super) fn judge(
    method: &Method,
    headers: &HeaderMap,
    speaks: &[Spoken],
) -> Result<Accepted, (StatusCode, &'static str)> {
    let holds = |name: HeaderName, wanted: &str| {
        let texts = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        texts.flat_map(|text| text.split(',')).any(|text| text.trim().eq_ignore_ascii_case(wanted))
    };
    if method != Method::GET || !holds(UPGRADE, "websocket") || !holds(CONNECTION, "upgrade") {
        return Err((StatusCode::BAD_REQUEST, "here is WebSocket, and nothing else"));
    }
    if !holds(SEC_WEBSOCKET_VERSION, "13") {
        return Err((StatusCode::UPGRADE_REQUIRED, "WebSocket is spoken in version 13"));
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY) else {
        return Err((StatusCode::BAD_REQUEST, "there is no Sec-WebSocket-Key"));
    };
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offered: Vec<&str> = offered.filter_map(|value| value.to_str().ok()).collect();
    let chosen = websocket::choose(&offered, speaks);
    let (subprotocol, spoken) = chosen.ok_or((StatusCode::BAD_REQUEST, websocket::offer(speaks)))?;
    Ok(Accepted { spoken, subprotocol, accept: derive_accept_key(key.as_bytes()) })
}

impl Accepted {
    /// What is answered; from then on messages are exchanged.
    pub(super) fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(self.subprotocol));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_request_is_granted_if_it_is_whole_and_speaks_what_we_do() {
        // The example of RFC 6455.
        let whole = [
            ("upgrade", "WebSocket"),
            ("connection", "keep-alive, Upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "mqtt"),
        ];
        let both = [Spoken::Mqtt, Spoken::Amqp];
        let accepted = judge(&Method::GET, &headers(&whole), &both).expect("granted");
        assert_eq!((accepted.spoken, accepted.subprotocol), (Spoken::Mqtt, "mqtt"));
        assert_eq!(accepted.response().headers()[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for without in 0..whole.len() {
            let mut some = whole.to_vec();
            some.remove(without);
            judge(&Method::GET, &headers(&some), &both).expect_err(whole[without].0);
        }
        judge(&Method::POST, &headers(&whole), &both).expect_err("not POST");
        judge(&Method::GET, &headers(&whole), &[Spoken::Amqp]).expect_err("no MQTT there");
    }
}
