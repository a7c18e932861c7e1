//! What the hub itself says on the Event-Hubs endpoint: changes of twins, of identities, of connections. Only those of
//! the sources that `hub.event-sources` names: in Azure, they need a route.
//!
//! Source: "IoT Hub message routing, non-telemetry event schemas" (Microsoft).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::clock::Clock;
use shared::time::Timestamp;

use super::log::{Log, NewEvent, SystemProperties};
use super::twins::metadata_of;
use super::twins::{Twin, TwinNews};
use super::who::Who;

/// A kind of event; in config by these names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// `twinChangeEvents`
    TwinChanges,
    /// `deviceLifecycleEvents`
    DeviceLifecycle,
    /// `deviceConnectionStateEvents`
    ConnectionState,
}

/// What happened to an identity or a connection; serialized, the service's `opType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// An identity was made.
    Created,
    /// An identity is gone.
    Deleted,
    /// A connection began.
    Connected,
    /// A connection ended.
    Disconnected,
}

/// Says what happens; clones are the same.
#[derive(Clone)]
pub struct Changes {
    inner: Arc<Inner>,
}

struct Inner {
    log: Log,
    hub: String,
    sources: Vec<Source>,
    clock: Clock,
    given: AtomicU64,
}

impl Changes {
    /// Events about the hub of this name, of these sources, into `log`.
    pub fn new(log: Log, hub: &str, sources: &[Source], clock: Clock) -> Self {
        let inner = Inner { log, hub: hub.to_owned(), sources: sources.to_vec(), clock, given: AtomicU64::new(0) };
        Self { inner: Arc::new(inner) }
    }

    /// True if this source is switched on.
    pub fn tells(&self, source: Source) -> bool {
        self.inner.sources.contains(&source)
    }

    /// A twin was changed.
    pub async fn twin_changed(&self, news: &TwinNews) {
        if !self.tells(Source::TwinChanges) {
            return;
        }
        let (op, body) = match &news.whole {
            Some(twin) => ("replaceTwin", whole(&news.who, twin)),
            None => ("updateTwin", patch(news)),
        };
        self.say(&news.who, "twinChangeEvents", "twinChangeNotification", op, news.at, &body).await;
    }

    /// An identity was made or is gone. [`super::desk::Desk::heed`] sees to it, whoever changed the registry.
    pub async fn lifecycle(&self, who: &Who, happened: Happened, twin: &Twin) {
        if !self.tells(Source::DeviceLifecycle) {
            return;
        }
        let op = if happened == Happened::Created { "createDeviceIdentity" } else { "deleteDeviceIdentity" };
        let (schema, now) = ("deviceLifecycleNotification", self.inner.clock.now());
        self.say(who, "deviceLifecycleEvents", schema, op, now, &whole(who, twin)).await;
    }

    /// A connection began or ended. The sequence number grows with each, so that the later of two is known.
    pub async fn connection(&self, who: &Who, happened: Happened) {
        if !self.tells(Source::ConnectionState) {
            return;
        }
        let op = if happened == Happened::Connected { "deviceConnected" } else { "deviceDisconnected" };
        let now = self.inner.clock.now();
        // The time, or the next number after the last where that is not later. 256 bits, in hexadecimal digits.
        let after = |last: u64| u64::try_from(now.micros()).unwrap_or_default().max(last + 1);
        let last = self.inner.given.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(after(last)));
        let number = after(last.unwrap_or_else(|last| last));
        let body = json!({ "sequenceNumber": format!("{number:064X}") });
        let (source, schema) = ("deviceConnectionStateEvents", "deviceConnectionStateNotification");
        self.say(who, source, schema, op, now, &body).await;
    }

    async fn say(&self, who: &Who, source: &str, schema: &str, op: &str, at: Timestamp, body: &Value) {
        let inner = &*self.inner;
        let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut properties = vec![
            own("hubName", &inner.hub),
            own("deviceId", &who.device),
            own("opType", op),
            own("operationTimestamp", &at.to_string()),
            own("iothub-message-schema", schema),
        ];
        properties.extend(who.module.as_deref().map(|module| own("moduleId", module)));
        let event = NewEvent {
            device_id: who.device.clone(),
            module_id: who.module.clone(),
            message_source: source.to_owned(),
            system: SystemProperties {
                correlation_id: Some(correlation_id()),
                user_id: Some(inner.hub.clone()),
                content_type: Some("application/json".to_owned()),
                content_encoding: Some("utf-8".to_owned()),
                ..SystemProperties::default()
            },
            properties,
            body: body.to_string().into(),
            ..NewEvent::default()
        };
        // Nobody waits for the fsync: a log that fails stops the hub.
        drop(inner.log.submit(event).await);
    }
}

/// What became of a twin by a patch: its version, and of each section what the patch set, and when.
fn patch(news: &TwinNews) -> Value {
    let (version, desired_version, reported_version) = news.versions;
    let section = |patch: &Value, version: i64, stamped: Option<i64>| {
        let mut section = patch.as_object().cloned().unwrap_or_default();
        section.retain(|name, _| !name.starts_with('$'));
        let metadata = metadata_of(&section, news.at, stamped);
        section.insert("$metadata".to_owned(), metadata);
        section.insert("$version".to_owned(), version.into());
        Value::Object(section)
    };
    let mut properties = Map::new();
    if let Some(desired) = news.change.desired.as_ref().filter(|_| news.told.is_some()) {
        properties.insert("desired".to_owned(), section(desired, desired_version, Some(desired_version)));
    }
    if let Some(reported) = &news.reported {
        properties.insert("reported".to_owned(), section(reported, reported_version, None));
    }
    let mut body = Map::from_iter([("version".to_owned(), json!(version))]);
    if let Some(tags) = &news.change.tags {
        body.insert("tags".to_owned(), tags.clone());
    }
    if !properties.is_empty() {
        body.insert("properties".to_owned(), Value::Object(properties));
    }
    Value::Object(body)
}

/// A twin and whose it is.
fn whole(who: &Who, twin: &Twin) -> Value {
    let mut body = json!({
        "deviceId": who.device,
        "etag": twin.etag,
        "version": twin.version,
        "tags": twin.tags,
        "properties": {
            "desired": twin.desired.to_json_with_metadata(),
            "reported": twin.reported.to_json_with_metadata(),
        },
    });
    if let Some(module) = &who.module {
        body["moduleId"] = json!(module);
    }
    body
}

/// Tells an event from all others.
fn correlation_id() -> String {
    let mut bytes = [0; 8];
    // It is for people only.
    let _ = getrandom::fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
