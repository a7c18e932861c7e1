//! What the hub itself says on the Event-Hubs endpoint: changes of twins, of identities, of connections. Only those of
//! the sources that `hub.event-sources` names: in Azure, they need a route.
//!
//! Source: "IoT Hub message routing, non-telemetry event schemas" (Microsoft).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use shared::clock::Clock;

use super::log::{Log, NewEvent, SystemProperties};
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
        let op = if news.change.replace { "replaceTwin" } else { "updateTwin" };
        let (version, desired_version, reported_version) = news.versions;
        let now = self.inner.clock.now().to_string();
        let section = |patch: &Value, version: i64| {
            let mut section = patch.as_object().cloned().unwrap_or_default();
            section.insert("$metadata".to_owned(), json!({ "$lastUpdated": now }));
            section.insert("$version".to_owned(), version.into());
            Value::Object(section)
        };
        let mut properties = Map::new();
        if let Some(desired) = &news.change.desired {
            properties.insert("desired".to_owned(), section(desired, desired_version));
        }
        if let Some(reported) = &news.reported {
            properties.insert("reported".to_owned(), section(reported, reported_version));
        }
        let mut body = Map::from_iter([("version".to_owned(), json!(version))]);
        if let Some(tags) = &news.change.tags {
            body.insert("tags".to_owned(), tags.clone());
        }
        if !properties.is_empty() {
            body.insert("properties".to_owned(), Value::Object(properties));
        }
        self.say(&news.who, "twinChangeEvents", "twinChangeNotification", op, &Value::Object(body)).await;
    }

    /// An identity was made or is gone. [`super::desk::Desk::heed`] sees to it, whoever changed the registry.
    pub async fn lifecycle(&self, who: &Who, happened: Happened, twin: &Twin) {
        if !self.tells(Source::DeviceLifecycle) {
            return;
        }
        let op = match (happened, &who.module) {
            (Happened::Created, None) => "createDeviceIdentity",
            (Happened::Created, Some(_)) => "createModuleIdentity",
            (_, None) => "deleteDeviceIdentity",
            (_, Some(_)) => "deleteModuleIdentity",
        };
        let mut body = json!({
            "deviceId": who.device,
            "etag": twin.etag,
            "version": twin.version,
            "properties": {
                "desired": twin.desired.to_json_with_metadata(),
                "reported": twin.reported.to_json_with_metadata(),
            },
        });
        if let Some(module) = &who.module {
            body["moduleId"] = json!(module);
        }
        self.say(who, "deviceLifecycleEvents", "deviceLifecycleNotification", op, &body).await;
    }

    /// A connection began or ended. The sequence number grows with each, so that the later of two is known.
    pub async fn connection(&self, who: &Who, happened: Happened) {
        if !self.tells(Source::ConnectionState) {
            return;
        }
        let op = if happened == Happened::Connected { "deviceConnected" } else { "deviceDisconnected" };
        let op = if who.module.is_some() { op.replace("device", "module") } else { op.to_owned() };
        let number = self.inner.given.fetch_add(1, Ordering::Relaxed);
        let micros = self.inner.clock.now().micros().max(0);
        // 52 hexadecimal digits that compare as texts do, as the service's.
        let body = json!({ "sequenceNumber": format!("{micros:032X}{number:020X}") });
        let (source, schema) = ("deviceConnectionStateEvents", "deviceConnectionStateNotification");
        self.say(who, source, schema, &op, &body).await;
    }

    async fn say(&self, who: &Who, source: &str, schema: &str, op: &str, body: &Value) {
        let inner = &*self.inner;
        let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut properties = vec![
            own("hubName", &inner.hub),
            own("deviceId", &who.device),
            own("opType", op),
            own("operationTimestamp", &inner.clock.now().to_string()),
            own("iothub-message-schema", schema),
        ];
        properties.extend(who.module.as_deref().map(|module| own("moduleId", module)));
        let event = NewEvent {
            device_id: who.device.clone(),
            module_id: who.module.clone(),
            message_source: source.to_owned(),
            system: SystemProperties {
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
