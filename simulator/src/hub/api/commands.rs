//! Cloud-to-device messages over HTTPS: sent, thrown away, and what became of them.

use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use percent_encoding::percent_decode_str;
use serde_json::json;
use shared::time::Timestamp;

use super::errors::{Code, Fault};
use super::{Answer, Api, Asked};
use crate::hub::commands::{Ack, Command, CommandFault};
use crate::hub::who::Who;

/// Before a property's name.
const PROPERTY: &str = "iothub-app-";

impl Api {
    pub(super) async fn send(&self, asked: &Asked) -> Result<Answer, Fault> {
        let to = asked.header("iothub-to").ok_or_else(|| Fault::argument("the header iothub-to is missing"))?;
        let who = receiver(to)?;
        self.known(&who)?;
        let command = command(asked, to)?;
        let sent = self.desk.send(&who, command).await;
        sent.map_err(|fault| fault_of(&fault))?;
        Ok(Answer::empty())
    }

    pub(super) async fn purge(&self, who: Who) -> Result<Answer, Fault> {
        self.known(&who)?;
        let purged = self.desk.commands.purge(&who).await.map_err(|error| Fault::server(error.to_string()))?;
        Ok(Answer::json(json!({
            "totalMessagesPurged": purged,
            "deviceId": who.device,
            "moduleId": who.module,
        })))
    }
}

/// Reads `/devices/{id}[/modules/{id}]/messages/deviceBound`.
fn receiver(to: &str) -> Result<Who, Fault> {
    let fault = || Fault::argument("iothub-to must be /devices/{id}/messages/deviceBound");
    let segments = to.trim_matches('/').split('/').map(|segment| percent_decode_str(segment).decode_utf8());
    let segments: Vec<_> = segments.take(8).collect::<Result<_, _>>().map_err(|_| fault())?;
    let is = |segment: &str, wanted: &str| segment.eq_ignore_ascii_case(wanted);
    match segments.iter().map(|segment| &**segment).collect::<Vec<_>>()[..] {
        [devices, id, messages, bound]
            if is(devices, "devices") && is(messages, "messages") && is(bound, "deviceBound") =>
        {
            Ok(Who { device: id.to_owned(), module: None })
        }
        [devices, id, modules, module, messages, bound]
            if is(devices, "devices")
                && is(modules, "modules")
                && is(messages, "messages")
                && is(bound, "deviceBound") =>
        {
            Ok(Who { device: id.to_owned(), module: Some(module.to_owned()) })
        }
        _ => Err(fault()),
    }
}

fn command(asked: &Asked, to: &str) -> Result<Command, Fault> {
    let text = |name: &str| asked.header(name).map(str::to_owned);
    let ack = asked.header("iothub-ack").unwrap_or("none");
    let ack = Ack::parse(ack).ok_or_else(|| Fault::argument("iothub-ack must be none, positive, negative or full"))?;
    let expiry = match asked.header("iothub-expiry") {
        None => None,
        Some(text) => {
            let at = Timestamp::parse_rfc3339(text);
            Some(at.ok_or_else(|| Fault::argument("iothub-expiry must be a time, as 2026-11-29T10:00:00Z"))?)
        }
    };
    let property = |(name, value): (&axum::http::HeaderName, &axum::http::HeaderValue)| {
        let name = name.as_str().strip_prefix(PROPERTY)?;
        Some((name.to_owned(), value.to_str().ok()?.to_owned()))
    };
    Ok(Command {
        message_id: text("iothub-messageid"),
        correlation_id: text("iothub-correlationid"),
        user_id: text("iothub-userid"),
        to: Some(to.to_owned()),
        content_type: text(CONTENT_TYPE.as_str()),
        content_encoding: text(CONTENT_ENCODING.as_str()),
        expiry,
        ack,
        properties: asked.headers.iter().filter_map(property).collect(),
        body: asked.body.clone(),
    })
}

fn fault_of(fault: &CommandFault) -> Fault {
    let code = match fault {
        CommandFault::Full => Code::DeviceMaximumQueueDepthExceeded,
        CommandFault::Quota => Code::IotHubQuotaExceeded,
        fault => Code::of_status(fault.status()),
    };
    Fault::new(code, fault.to_string())
}
