//! `azure_messaging_eventhubs`, unmodified. It takes the hub's authority from `SSL_CERT_FILE` alone.

use std::time::{Duration, UNIX_EPOCH};

use azure_messaging_eventhubs::error::ErrorKind;
use azure_messaging_eventhubs::models::ReceivedEventData;
use azure_messaging_eventhubs::{
    ConsumerClient, EventHubsError, OpenReceiverOptions, RetryOptions, StartLocation, StartPosition,
};
use futures::StreamExt as _;

use shared::clock::Clock;

use super::hub::{Hub, Mine};
use super::processor;

/// For one question or event.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is tried, in the words of the other SDKs' scripts.
pub(super) const FEATURES: [&str; 16] = [
    "properties",
    "earliest",
    "latest",
    "offset",
    "sequence-number",
    "enqueued-time",
    "owner-level",
    "consumer-groups",
    "checkpoint-store",
    "large-message",
    "plain",
    "tls",
    "wrong-key",
    "unknown-partition",
    "annotations",
    "snippets",
];

/// Tries one; the error says how it does not work.
pub(super) fn attempt(feature: &str) -> Result<(), String> {
    let hub = Hub::from_env()?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(trial(feature, &hub))
}

async fn trial(feature: &str, hub: &Hub) -> Result<(), String> {
    let from = |location, inclusive| StartPosition { location, inclusive };
    match feature {
        "properties" => properties(hub).await,
        "earliest" | "plain" => {
            let mine = hub.publish(5, "")?;
            let got =
                read(&client(hub, "/amqp/url", None).await?, &mine, from(StartLocation::Earliest, false), 5).await?;
            equal(&numbers(&mine, &got), &[0, 1, 2, 3, 4])
        }
        "tls" => {
            let mine = hub.publish(5, "")?;
            let got = read(&client(hub, "/amqps/url", None).await?, &mine, mine.start(), 5).await?;
            equal(&numbers(&mine, &got), &[0, 1, 2, 3, 4])
        }
        "latest" => latest(hub).await,
        "offset" => {
            starts(hub, |event| StartLocation::Offset(event.offset().clone().unwrap_or_default().to_string())).await
        }
        "sequence-number" => {
            starts(hub, |event| StartLocation::SequenceNumber(event.sequence_number().unwrap_or_default())).await
        }
        "enqueued-time" => {
            let old = hub.publish(3, "")?;
            tokio::time::sleep(Duration::from_millis(50)).await;
            let between = Clock::Real.now();
            let between = UNIX_EPOCH + Duration::from_micros(between.micros().unsigned_abs());
            tokio::time::sleep(Duration::from_millis(50)).await;
            let mine = hub.publish(3, "")?;
            let client = client(hub, "/amqp/url", None).await?;
            let got = read(&client, &mine, from(StartLocation::EnqueuedTime(between), false), 3).await?;
            equal(&numbers(&old, &got), &[])?;
            equal(&numbers(&mine, &got), &[0, 1, 2])
        }
        "owner-level" => owner_level(hub).await,
        "consumer-groups" => {
            let mine = hub.publish(3, "")?;
            for group in ["$Default", "rust-2"] {
                let client = client(hub, "/amqp/url", Some(group)).await?;
                equal(&numbers(&mine, &read(&client, &mine, mine.start(), 3).await?), &[0, 1, 2])?;
            }
            let nowhere = client(hub, "/amqp/url", Some("no-such-group")).await?;
            refused(read(&nowhere, &mine, mine.start(), 1).await, "notfound")
        }
        "large-message" => {
            let mine = hub.publish_large(256 * 1024)?;
            let got = read(&client(hub, "/amqp/url", None).await?, &mine, mine.start(), 1).await?;
            equal(&[body(&got[0]).len() as i64], &[256 * 1024])
        }
        "wrong-key" => {
            let text = text(hub).replace("SharedAccessKey=", "SharedAccessKey=d3Jvbmc");
            let client = connect(hub, "/amqp/url", None, &text).await;
            let asked = match client {
                Ok(client) => within(client.get_eventhub_properties()).await?.map(|_| ()),
                Err(error) => Err(error),
            };
            // Why, this SDK does not tell.
            refused(asked.map_err(chain), "authorizing")
        }
        "unknown-partition" => {
            let mut mine = hub.publish(1, "")?;
            mine.partition = "31".to_owned();
            let got =
                read(&client(hub, "/amqp/url", None).await?, &mine, from(StartLocation::Earliest, false), 1).await;
            refused(got, "notfound")
        }
        "annotations" => annotations(hub).await,
        "checkpoint-store" => processor::goes_on(hub).await,
        "snippets" => snippets(hub).await,
        other => Err(format!("`{other}` is not tried")),
    }
}

async fn properties(hub: &Hub) -> Result<(), String> {
    let mine = hub.publish(2, "")?;
    let client = client(hub, "/amqp/url", None).await?;
    let told = within(client.get_eventhub_properties()).await?.map_err(chain)?;
    if told.name != hub.text("/event-hub") || !told.partition_ids.contains(&mine.partition) {
        return Err(format!("the hub is described as {} with {:?}", told.name, told.partition_ids));
    }
    let partition = within(client.get_partition_properties(&mine.partition)).await?.map_err(chain)?;
    equal(&[i64::from(mine.first < partition.last_enqueued_sequence_number)], &[1])
}

async fn latest(hub: &Hub) -> Result<(), String> {
    let old = hub.publish(3, "")?;
    let client = client(hub, "/amqp/url", None).await?;
    let position = StartPosition { location: StartLocation::Latest, inclusive: false };
    let receiver = open(&client, &old.partition, position, None).await?;
    let mut events = receiver.stream_events();
    // Until the first poll nothing is attached; once a probe has arrived, what follows cannot be missed.
    let (mut probes, mut seen) = (vec![], false);
    for _ in 0..60 {
        if let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(500), events.next()).await {
            let event = event.map_err(chain)?;
            equal(&numbers(&old, std::slice::from_ref(&event)), &[])?;
            seen = probes.iter().any(|probe: &Mine| probe.number(body(&event)).is_some());
            if seen {
                break;
            }
        }
        probes.push(hub.publish(1, "")?);
    }
    match seen {
        true => Ok(()),
        false => Err("none of sixty new events arrived".to_owned()),
    }
}

async fn starts(hub: &Hub, at: impl Fn(&ReceivedEventData) -> StartLocation) -> Result<(), String> {
    let mine = hub.publish(10, "")?;
    let client = client(hub, "/amqp/url", None).await?;
    let all = read(&client, &mine, mine.start(), 10).await?;
    for (inclusive, first) in [(false, 8), (true, 7)] {
        let position = StartPosition { location: at(&all[7]), inclusive };
        let wanted: Vec<i64> = (first..10).collect();
        equal(&numbers(&mine, &read(&client, &mine, position, wanted.len()).await?), &wanted)?;
    }
    Ok(())
}

async fn owner_level(hub: &Hub) -> Result<(), String> {
    let mine = hub.publish(3, "")?;
    let (one, other) = (client(hub, "/amqp/url", None).await?, client(hub, "/amqp/url", None).await?);
    let first = open(&one, &mine.partition, mine.start(), Some(1)).await?;
    let mut losing = first.stream_events();
    within(losing.next()).await?.ok_or("the stream ended")?.map_err(chain)?;
    let second = open(&other, &mine.partition, mine.start(), Some(2)).await?;
    let mut winning = second.stream_events();
    within(winning.next()).await?.ok_or("the stream ended")?.map_err(chain)?;
    let stolen = loop {
        match within(losing.next()).await? {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => return Err("the first owner was told nothing".to_owned()),
        }
    };
    match stolen.kind {
        ErrorKind::ConsumerDisconnected(_) => Ok(()),
        _ => Err(format!("the first owner was told {stolen:?}")),
    }
}

async fn annotations(hub: &Hub) -> Result<(), String> {
    let mine = hub.publish(1, "%24.mid=m-1&%24.ct=application%2Fjson&%24.ce=utf-8&colour=blue%20green")?;
    let got = read(&client(hub, "/amqp/url", None).await?, &mine, mine.start(), 1).await?;
    let (event, properties) = (&got[0], got[0].event_data().properties());
    let said = format!("{:?} {:?} {properties:?}", event.system_properties(), event.raw_amqp_message());
    for word in [
        "iothub-connection-device-id",
        "iothub-connection-auth-method",
        "iothub-connection-auth-generation-id",
        "iothub-enqueuedtime",
        "iothub-message-source",
        "Telemetry",
        "m-1",
        "application/json",
        "utf-8",
        "blue green",
    ] {
        if !said.contains(word) {
            return Err(format!("`{word}` is not in {said}"));
        }
    }
    Ok(())
}

/// What `hub connection-strings` prints, pasted: the two texts are taken out of it, what stands around them stands here.
async fn snippets(hub: &Hub) -> Result<(), String> {
    let mine: Vec<_> =
        hub.list("/snippets").iter().filter(|one| one["sdk"] == "Rust azure_messaging_eventhubs").collect();
    equal(&[mine.len() as i64], &[2])?;
    for one in mine {
        let code = one["code"].as_str().unwrap_or_default();
        let [before, endpoint, between, text, after] = code.split('"').collect::<Vec<_>>()[..] else {
            return Err(format!("{code} is something else"));
        };
        if [before, between, after]
            != [
                "ConsumerClient::builder().with_custom_endpoint(",
                ".to_owned()).open_with_connection_string(",
                ", None).await?",
            ]
        {
            return Err(format!("{code} is something else"));
        }
        let client = ConsumerClient::builder().with_custom_endpoint(endpoint.to_owned());
        let client = client.open_with_connection_string(text, None).await.map_err(chain)?;
        let told = within(client.get_eventhub_properties()).await?.map_err(chain)?;
        if told.name != hub.text("/event-hub") {
            return Err(format!("{} is {}", one["way"], told.name));
        }
    }
    Ok(())
}

impl Mine {
    fn start(&self) -> StartPosition {
        StartPosition { location: StartLocation::SequenceNumber(self.first), inclusive: true }
    }
}

fn text(hub: &Hub) -> String {
    hub.text("/services/service").to_owned()
}

pub(super) async fn client(hub: &Hub, url: &str, group: Option<&str>) -> Result<ConsumerClient, String> {
    connect(hub, url, group, &text(hub)).await.map_err(chain)
}

async fn connect(hub: &Hub, url: &str, group: Option<&str>, text: &str) -> Result<ConsumerClient, EventHubsError> {
    let builder = ConsumerClient::builder()
        .with_custom_endpoint(hub.text(url).to_owned())
        .with_consumer_group(group.unwrap_or("rust").to_owned())
        .with_retry_options(RetryOptions { max_retries: 0, ..RetryOptions::default() });
    builder.open_with_connection_string(text, None).await
}

async fn open(
    client: &ConsumerClient,
    partition: &str,
    position: StartPosition,
    owner_level: Option<i64>,
) -> Result<azure_messaging_eventhubs::EventReceiver, String> {
    let options = OpenReceiverOptions { start_position: Some(position), owner_level, ..OpenReceiverOptions::default() };
    within(client.open_receiver_on_partition(partition.to_owned(), Some(options))).await?.map_err(chain)
}

/// The first `count` events of `mine`.
async fn read(
    client: &ConsumerClient,
    mine: &Mine,
    position: StartPosition,
    count: usize,
) -> Result<Vec<ReceivedEventData>, String> {
    let receiver = open(client, &mine.partition, position, None).await?;
    let mut events = receiver.stream_events();
    let mut got = vec![];
    while got.len() < count {
        let event = within(events.next()).await?.ok_or("the stream ended")?.map_err(chain)?;
        if mine.number(body(&event)).is_some() {
            got.push(event);
        }
    }
    drop(events);
    receiver.close().await.map_err(chain)?;
    Ok(got)
}

pub(super) fn body(event: &ReceivedEventData) -> &[u8] {
    event.event_data().body().unwrap_or_default()
}

fn numbers(mine: &Mine, events: &[ReceivedEventData]) -> Vec<i64> {
    events.iter().filter_map(|event| mine.number(body(event))).collect()
}

pub(super) fn equal(found: &[i64], wanted: &[i64]) -> Result<(), String> {
    (found == wanted).then_some(()).ok_or_else(|| format!("{found:?} instead of {wanted:?}"))
}

fn refused<T>(done: Result<T, String>, word: &str) -> Result<(), String> {
    match done {
        Ok(_) => Err("it was not refused".to_owned()),
        Err(why) if why.to_lowercase().contains(word) => Ok(()),
        Err(why) => Err(format!("refused, but without `{word}`: {why}")),
    }
}

fn chain(error: EventHubsError) -> String {
    format!("{error:?}")
}

pub(super) async fn within<T>(future: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE, future).await.map_err(|_| format!("no answer within {PATIENCE:?}"))
}
