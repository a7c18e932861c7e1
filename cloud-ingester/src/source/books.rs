//! The source's books.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// What came from the hub, and what became of the connections to it. Handed down = received, less what ended with its
/// connection and came again on the next.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// Events that came.
    pub(super) received: Counter,
    /// Their bytes, about.
    pub(super) received_bytes: Counter,
    /// Events handed to bronze, gaps of the hub's retention among them.
    pub(super) sent: Counter,
    /// Connections that were made.
    pub(super) connections: Counter,
    /// Connections that failed.
    pub(super) failed: Counter,
    /// Partitions the hub let another reader have.
    pub(super) stolen: Counter,
}

impl Books {
    /// Books under `ingest_source`.
    pub fn register(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("ingest_source");
        let books = Self::default();
        for (name, help, counter) in [
            ("received", "Events from the hub; some come again on the next connection", &books.received),
            ("received_bytes", "Bytes of the Events from the hub", &books.received_bytes),
            ("sent", "Events handed to bronze", &books.sent),
            ("connections", "Connections to the hub that were made", &books.connections),
            ("failed", "Connections to the hub that failed", &books.failed),
            ("stolen", "Partitions the hub let another reader have", &books.stolen),
        ] {
            registry.register(name, help, counter.clone());
        }
        books
    }
}
