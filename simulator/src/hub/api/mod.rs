//! The service API: what back ends script against, over HTTPS, as Microsoft's SDKs ask for it.
//!
//! ```text
//! request ── calls ── auth ──> devices, bulk, statistics   the registry
//!                         ├──> twins, methods, commands    what speaks with devices
//!                         └──> query, jobs                 many at once
//! ```
//!
//! Never: an answer to a request whose policy lacks the right; a body that is not bounded; a key or a token in a log.

mod calls; // [p] what is asked

mod auth; // [p] who may

mod errors; // [p] how no is said

mod wire; // [p] identities as JSON

mod devices; // the registry

mod bulk; // a hundred at once

mod twins; // tags and properties

mod methods; // questions to devices

mod commands; // messages to devices

mod query; // [p] the query language

mod pages; // [p] a part of many

mod rows; // what queries are about

mod queries; // many at once

pub(super) mod jobs; // many at once, at a time

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH,
};
use axum::http::{Request, Response, StatusCode};
use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use self::calls::{Call, NoCall};
use self::errors::{Code, Fault};
use self::jobs::Jobs;
use self::wire::Presence;
use super::desk::Desk;
use super::devices::IfMatch;
use super::who::Who;

/// How long a body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The service side of a hub as HTTPS shows it.
pub(super) struct Api {
    pub(super) desk: Desk,
    pub(super) jobs: Jobs,
}

/// A request that is understood and allowed.
struct Asked {
    /// Of the address.
    query: Vec<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
}

/// What is answered.
struct Answer {
    status: StatusCode,
    body: Option<Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Api {
    /// Answers a request, whatever it is.
    pub(super) async fn answer(self: &Arc<Self>, request: Request<Body>) -> Response<Body> {
        let begun = Instant::now();
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let mut policy = String::new();
        let response = match self.try_answer(request, &mut policy).await {
            Ok(answer) => answer.response(),
            Err(fault) => self.refusal(&fault),
        };
        let (status, ms) = (response.status().as_u16(), begun.elapsed().as_millis());
        tracing::debug!(%method, path = %path.escape_debug(), status, policy, ms, "answered a service");
        response
    }

    async fn try_answer(self: &Arc<Self>, request: Request<Body>, policy: &mut String) -> Result<Answer, Fault> {
        let (head, body) = request.into_parts();
        let no_call = |no: NoCall| match no {
            NoCall::Malformed => Fault::argument("the path cannot be read"),
            NoCall::Nothing => Fault::new(Code::GenericNotFound, "there is nothing at this path"),
            NoCall::Method => {
                Fault::new(Code::GenericMethodNotAllowed, "this cannot be done with what is at this path")
            }
        };
        let segments = calls::segments(head.uri.path()).map_err(no_call)?;
        let query = head.uri.query().unwrap_or_default().as_bytes();
        let query: Vec<_> = url::form_urlencoded::parse(query).into_owned().collect();
        check_version(&query)?;
        let call = calls::read(&head.method, &segments).map_err(no_call)?;
        let authorization = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let known = self.desk.registry.now();
        let now_s = self.desk.clock.now().millis().div_euclid(1_000);
        let rules = auth::Rules { hosts: &self.desk.hosts, known: &known, now_s };
        *policy = auth::admit(authorization, &segments, call.rights(), &rules).map_err(|denied| {
            tracing::info!(%denied, "refused a service");
            Fault::new(Code::IotHubUnauthorizedAccess, format!("Unauthorized: {denied}"))
        })?;
        drop(known);
        let body = read_body(body, &head.headers, call.body_bytes_max()).await?;
        self.perform(call, Asked { query, headers: head.headers, body }).await
    }

    async fn perform(self: &Arc<Self>, call: Call, asked: Asked) -> Result<Answer, Fault> {
        let now = self.desk.clock.now();
        if call.operation().is_some_and(|operation| !self.desk.limits.lock().operation(now, operation)) {
            return Err(Fault::new(Code::ThrottlingException, "more operations than `hub.limits` lets through"));
        }
        match call {
            Call::Devices => self.devices(&asked),
            Call::Bulk => self.bulk(&asked).await,
            Call::GetDevice(id) => self.get_device(&id),
            Call::PutDevice(id) => self.put_device(id, &asked).await,
            Call::DeleteDevice(id) => self.delete(Who { device: id, module: None }, &asked).await,
            Call::Modules(id) => self.modules(&id),
            Call::GetModule(who) => self.get_module(&who),
            Call::PutModule(who) => self.put_module(who, &asked).await,
            Call::DeleteModule(who) => self.delete(who, &asked).await,
            Call::DeviceStatistics => Ok(self.device_statistics()),
            Call::ServiceStatistics => Ok(self.service_statistics()),
            Call::Unsupported(what) => {
                Err(Fault::new(Code::FeatureNotSupported, format!("this hub does not imitate {what}")))
            }
            Call::GetTwin(who) => self.get_twin(&who),
            Call::PatchTwin(who) => self.write_twin(&who, &asked, false).await,
            Call::PutTwin(who) => self.write_twin(&who, &asked, true).await,
            Call::Method(who) => self.method(&who, &asked).await,
            Call::Send => self.send(&asked).await,
            Call::Purge(who) => self.purge(who).await,
            Call::Query => self.query(&asked).await,
            Call::GetJob(id) => self.get_job(&id),
            Call::PutJob(id) => self.put_job(id, &asked).await,
            Call::CancelJob(id) => self.cancel_job(&id).await,
            Call::Jobs => self.list_jobs(&asked),
        }
    }

    fn refusal(&self, fault: &Fault) -> Response<Body> {
        let tracking = tracking_id();
        if fault.code == Code::ServerError {
            tracing::error!(tracking, what = fault.message, "a service was answered with an error of the hub");
        }
        let mut response = Response::new(Body::from(fault.body(&tracking, self.desk.clock.now())));
        *response.status_mut() = fault.code.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        if let Ok(code) = HeaderValue::from_str(&format!("{:?}", fault.code)) {
            headers.insert(HeaderName::from_static("iothub-errorcode"), code);
        }
        response
    }

    /// What the hub knows of an identity beside the registry.
    fn presence(&self, who: &Who, generation_id: &str) -> Presence {
        let (connected, last) = self.desk.seats.seen(who, generation_id);
        let (changed, active) = (last.map(|last| last.changed), last.map(|last| last.active));
        Presence { connected, changed, active, messages: self.desk.commands.depth(who) }
    }
}

impl Asked {
    /// The body, read.
    fn json<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let code = if error.is_data() { Code::ArgumentInvalid } else { Code::IotHubFormatError };
            Fault::new(code, format!("the body cannot be understood: {error}"))
        })
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    fn if_match(&self) -> Option<IfMatch> {
        self.header(IF_MATCH.as_str()).map(IfMatch::read)
    }
}

impl Answer {
    fn json(body: Value) -> Self {
        Self { status: StatusCode::OK, body: Some(body), headers: vec![] }
    }

    fn empty() -> Self {
        Self { status: StatusCode::NO_CONTENT, body: None, headers: vec![] }
    }

    fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }

    fn with_etag(self, etag: &str) -> Self {
        self.with(ETAG, &format!("\"{etag}\""))
    }

    fn response(self) -> Response<Body> {
        let mut response = Response::new(self.body.as_ref().map_or_else(Body::empty, |body| body.to_string().into()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if self.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        }
        headers.extend(self.headers);
        response
    }
}

/// The service demands a version; every one of its form will do.
fn check_version(query: &[(String, String)]) -> Result<(), Fault> {
    let version = query.iter().find(|(name, _)| name.eq_ignore_ascii_case("api-version")).map(|(_, value)| value);
    let Some(version) = version else {
        return Err(Fault::new(Code::InvalidProtocolVersion, "the parameter api-version is missing"));
    };
    let date = version.strip_suffix("-preview").unwrap_or(version).as_bytes();
    let fits = date.len() == 10
        && date
            .iter()
            .enumerate()
            .all(|(at, byte)| if at == 4 || at == 7 { *byte == b'-' } else { byte.is_ascii_digit() });
    match fits {
        true => Ok(()),
        false => Err(Fault::new(Code::InvalidProtocolVersion, "the api-version is not supported")),
    }
}

async fn read_body(body: Body, headers: &HeaderMap, bytes_max: usize) -> Result<Bytes, Fault> {
    let too_large = || Fault::new(Code::MessageTooLarge, format!("the body has more than {bytes_max} bytes"));
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes_max < bytes) {
        return Err(too_large());
    }
    let read = async {
        let (mut chunks, mut whole) = (body.into_data_stream(), vec![]);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| Fault::argument("the body ended before it was whole"))?;
            if bytes_max - whole.len() < chunk.len() {
                return Err(too_large());
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(Bytes::from(whole))
    };
    let slow = |_| Fault::new(Code::GenericTimeout, "the body took too long");
    timeout(BODY_TIMEOUT, read).await.map_err(slow)?
}

/// Tells an answer from all others.
fn tracking_id() -> String {
    let mut bytes = [0; 16];
    // It is for people only.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
