//! AMQP over WebSocket (OASIS AMQP WebSocket Binding): the upgrade of a port where nothing else is spoken. Microsoft's
//! SDKs dial `/$servicebus/websocket` and ask for the subprotocol `amqp`, or `AMQPWSB10`, its older name.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};

use crate::gate::websocket::{self, Spoken, WsIo};

const PATH: &str = "/$servicebus/websocket";

/// What is answered to a request: the subprotocol that will be spoken, or why none is.
fn judge(path: &str, offered: &[&str]) -> Result<&'static str, (StatusCode, &'static str)> {
    if !websocket::is_at(path, PATH) {
        return Err((StatusCode::NOT_FOUND, "there is only /$servicebus/websocket"));
    }
    let chosen = websocket::choose(offered, &[Spoken::Amqp]).map(|(name, _)| name);
    chosen.ok_or((StatusCode::BAD_REQUEST, websocket::offer(&[Spoken::Amqp])))
}

#[expect(clippy::result_large_err, reason = "the type is the library's")]
fn upgrade(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offered = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offered: Vec<&str> = offered.filter_map(|value| value.to_str().ok()).collect();
    match judge(request.uri().path(), &offered) {
        Ok(subprotocol) => {
            response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
            Ok(response)
        }
        Err((status, why)) => {
            let mut refusal = ErrorResponse::new(Some(why.to_owned()));
            *refusal.status_mut() = status;
            Err(refusal)
        }
    }
}

/// Answers the upgrade; what follows is a stream of bytes.
///
/// # Errors
/// If the peer does not ask for AMQP over WebSocket; it has been told.
pub(super) async fn accept<S>(stream: S) -> Result<WsIo<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = Some(websocket::config(websocket::MESSAGE_BYTES_MAX));
    let socket = tokio_tungstenite::accept_hdr_async_with_config(stream, upgrade, config).await?;
    Ok(WsIo::new(socket))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(super::super::tests::fuzz())]

        #[test]
        fn whatever_is_asked_for_only_amqp_is_spoken(
            path in prop_oneof![Just(PATH.to_owned()), "[ -~é]{0,30}"],
            offered in proptest::collection::vec("(amqp|AMQPWSB10|[ -~é]{0,9})([, ]|)([ -~é]{0,5})", 0..4),
        ) {
            let offered: Vec<&str> = offered.iter().map(String::as_str).collect();
            if let Ok(spoken) = judge(&path, &offered) {
                prop_assert!(["amqp", "AMQPWSB10"].contains(&spoken));
                prop_assert!(offered.concat().to_lowercase().contains(&spoken.to_lowercase()));
            }
        }
    }

    #[test]
    fn a_request_is_for_amqp_on_the_one_path() {
        for (path, offered, is) in [
            ("/$servicebus/websocket", &["amqp"][..], Ok("amqp")),
            ("/$ServiceBus/WebSocket/", &["mqtt, AMQP"], Ok("amqp")),
            ("/$servicebus/websocket", &[], Err(400)),
            ("/$servicebus/websocket", &["mqtt"], Err(400)),
            ("/", &["amqp"], Err(404)),
            ("/$iothub/websocket", &["amqp"], Err(404)),
        ] {
            let judged = judge(path, offered).map_err(|(status, _)| status.as_u16());
            assert_eq!(judged, is, "{path} {offered:?}");
        }
    }
}
