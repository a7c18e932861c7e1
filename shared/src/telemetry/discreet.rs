//! What is never logged, whatever the level: libraries that print the frames they carry. Tokens and passwords stand in them.

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The libraries, and the level that says most without a frame. rustls, hyper, h2 and reqwest print handshakes, sizes and
/// names only, and rumqttc packet ids.
const MOST: [(&str, Level); 3] =
    [("tungstenite", Level::DEBUG), ("fe2o3_amqp", Level::DEBUG), ("azure_core_amqp", Level::DEBUG)];

/// Lets nothing of it through. Beside the filter and not in it, so that no level undoes it.
pub(super) struct Discreet;

impl<S: Subscriber> Layer<S> for Discreet {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        is_allowed(metadata.target(), *metadata.level())
    }
}

fn is_allowed(target: &str, level: Level) -> bool {
    let within =
        |library: &str| target.strip_prefix(library).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    // What says more is greater.
    MOST.iter().all(|(library, most)| level <= *most || !within(library))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::Event;
    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<&'static str>>>);

    impl<S: Subscriber> Layer<S> for Heard {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().expect("no panic").push(event.metadata().target());
        }
    }

    #[test]
    fn no_level_prints_the_frames_of_a_library() {
        let heard = Heard::default();
        let filter = EnvFilter::new("trace,tungstenite=trace,tungstenite::protocol=trace,fe2o3_amqp::connection=trace");
        let layers = tracing_subscriber::registry().with(filter).with(Discreet).with(heard.clone());
        tracing::subscriber::with_default(layers, || {
            tracing::trace!(target: "tungstenite", "the payload");
            tracing::trace!(target: "tungstenite::protocol", "the payload");
            tracing::trace!(target: "fe2o3_amqp::connection::engine", "the frame");
            tracing::trace!(target: "azure_core_amqp::fe2o3::receiver", "the frame");
            tracing::debug!(target: "tungstenite::handshake", "done");
            tracing::trace!(target: "tungstenite_of_another", "a trifle");
            tracing::trace!(target: "edge_agent::uplink", "a trifle");
        });
        let heard = heard.0.lock().expect("no panic").clone();
        assert_eq!(heard, ["tungstenite::handshake", "tungstenite_of_another", "edge_agent::uplink"]);
    }
}
