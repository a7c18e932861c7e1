//! A hub on a free port, and Microsoft's SDK pointed at it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use azure_messaging_eventhubs::{
    ConsumerClient, EventHubsError, EventReceiver, OpenReceiverOptions, RetryOptions, StartLocation, StartPosition,
};
use bytes::Bytes;
use futures::StreamExt as _;
use shared::clock::Clock;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::{AmqpHub, Limits, Policy, Setup, Status, Wrapping, serve};
use crate::config::Config;
use crate::hub::commands::{Ack, Command};
use crate::hub::desk::{Desk, Stood};
use crate::hub::devices::Registry;
use crate::hub::limits::{self, SharedLimits};
use crate::hub::log::{Log, NewEvent, Options, SystemProperties};
use crate::hub::metrics::Metrics;
use crate::hub::who::Who;

pub(super) const NAME: &str = "myhub";
pub(super) const POLICY: &str = "service";
pub(super) const KEY: &str = "c2VydmljZSBrZXk=";
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct TestHub {
    pub(super) log: Log,
    desk: Desk,
    pub(super) hub: AmqpHub,
    pub(super) port: u16,
    stop: CancellationToken,
    serving: JoinHandle<std::io::Result<()>>,
}

impl TestHub {
    pub(super) async fn start(directory: &Path) -> Self {
        Self::start_with(directory, 0, Limits::default(), Clock::Real).await
    }

    pub(super) async fn start_with(directory: &Path, port: u16, limits: Limits, clock: Clock) -> Self {
        shared::tls::install_provider();
        let options = Options::new(2, Clock::Real);
        let log = Log::open(&directory.join("log"), &options).expect("a log");
        let desk = desk(directory, &log);
        let setup = Setup {
            name: NAME.to_owned(),
            desk: desk.clone(),
            policies: Arc::new(|| vec![Policy::new(POLICY, KEY)]),
            consumer_groups: vec!["second".to_owned()],
            limits,
        };
        let hub = AmqpHub::new(log.clone(), setup, clock);
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, Wrapping::Plain, hub.clone(), stop.clone()));
        Self { log, desk, hub, port, stop, serving }
    }

    /// Returns once the books say so.
    pub(super) async fn until(&self, holds: impl Fn(&Status) -> bool) {
        while !holds(&self.hub.status()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.serving.await.expect("no panic").expect("served");
    }

    pub(super) fn consumer_with(
        &self,
        name: &str,
        key: &str,
    ) -> impl Future<Output = Result<ConsumerClient, EventHubsError>> {
        let text =
            format!("Endpoint=sb://localhost/;SharedAccessKeyName={name};SharedAccessKey={key};EntityPath={NAME}");
        let builder = ConsumerClient::builder()
            .with_custom_endpoint(format!("amqp://127.0.0.1:{}", self.port))
            .with_retry_options(RetryOptions { max_retries: 0, ..RetryOptions::default() });
        async move { builder.open_with_connection_string(&text, None).await }
    }

    pub(super) async fn consumer(&self) -> ConsumerClient {
        within(self.consumer_with(POLICY, KEY)).await.expect("connected")
    }

    /// Appends events to the partition of `device`, numbered in their bodies.
    pub(super) async fn fill(&self, device: &str, count: usize) {
        let mut appendings = vec![];
        for number in 0..count {
            appendings.push(self.log.submit(event(device, format!("event {number}"))).await);
        }
        for mut appending in appendings {
            appending.wait().await.expect("stored");
        }
    }

    /// How many commands wait for the device.
    pub(super) fn depth(&self) -> usize {
        self.desk.commands.depth(&Who::device(DEVICE))
    }

    /// Takes what waits for the device.
    pub(super) fn take(&self) -> Vec<Vec<u8>> {
        let mut bodies = vec![];
        while let Some((lock, command)) = self.desk.commands.next_for(&Who::device(DEVICE)).expect("readable") {
            bodies.push(command.body.to_vec());
            self.desk.commands.complete(&Who::device(DEVICE), lock).expect("written");
        }
        bodies
    }

    /// Has services told of a command.
    pub(super) async fn tell(&self, message_id: &str) {
        let command = Command { message_id: Some(message_id.to_owned()), ack: Ack::Full, ..Command::default() };
        self.desk.commands.send(&Who::device(DEVICE), command).await.expect("stored");
        assert_eq!(self.take().len(), 1);
    }

    /// A device whose events go to a partition.
    pub(super) fn device_of(&self, partition: u32) -> String {
        (0..).map(|n| format!("gw-{n}")).find(|id| self.log.partition_of(id) == partition).expect("there are many")
    }
}

fn desk(directory: &Path, log: &Log) -> Desk {
    let registry = Registry::prepare(directory.join("devices.toml"), &[DEVICE.to_owned()]).expect("a registry");
    let tier = Config::load(None).expect("the default").hub.limits;
    Desk::stand(Stood {
        directory,
        registry,
        log: log.clone(),
        limits: SharedLimits::new(limits::Limits::new(tier, limits::Metered::default())),
        hosts: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
        metrics: Metrics::new(&mut prometheus_client::registry::Registry::default()),
        sources: vec![],
    })
}

pub(super) fn event(device: &str, body: String) -> NewEvent {
    NewEvent {
        device_id: device.to_owned(),
        auth_method: r#"{"scope":"device","type":"sas","issuer":"iothub"}"#.to_owned(),
        auth_generation_id: "638".to_owned(),
        message_source: "Telemetry".to_owned(),
        system: SystemProperties {
            message_id: Some(format!("mid {body}")),
            content_type: Some("application/json".to_owned()),
            content_encoding: Some("utf-8".to_owned()),
            ..SystemProperties::default()
        },
        properties: vec![("enc".to_owned(), "zstd".to_owned()), ("é".to_owned(), "x=y&z".to_owned())],
        body: Bytes::from(body),
        ..NewEvent::default()
    }
}

pub(super) fn from(location: StartLocation, inclusive: bool) -> OpenReceiverOptions {
    OpenReceiverOptions {
        start_position: Some(StartPosition { location, inclusive }),
        ..OpenReceiverOptions::default()
    }
}

pub(super) async fn receiver(consumer: &ConsumerClient, partition: u32, options: OpenReceiverOptions) -> EventReceiver {
    within(consumer.open_receiver_on_partition(partition.to_string(), Some(options))).await.expect("attached")
}

/// Sequence numbers of the next events.
pub(super) async fn next(receiver: &EventReceiver, count: usize) -> Vec<i64> {
    let mut events = receiver.stream_events();
    let mut numbers = vec![];
    while numbers.len() < count {
        let event = within(events.next()).await.expect("the stream goes on").expect("an event");
        numbers.push(event.sequence_number().expect("always there"));
    }
    numbers
}

/// The error a receiver ends with.
pub(super) async fn end(receiver: &EventReceiver) -> EventHubsError {
    let mut events = receiver.stream_events();
    within(async {
        loop {
            if let Err(error) = events.next().await.expect("the stream goes on") {
                return error;
            }
        }
    })
    .await
}

/// A device that may be commanded.
pub(super) const DEVICE: &str = "gw-1";

/// A test that hangs fails.
pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// An error with everything that led to it.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(|cause| format!("{cause:?} | ")).collect()
}
