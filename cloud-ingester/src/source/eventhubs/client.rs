//! Dialling the hub, asking it about itself, and what the SDK's errors mean.

use std::time::Duration;

use azure_messaging_eventhubs::{ConsumerClient, EventHubsError, RetryOptions};

use super::Target;
use super::follow::Asked;
use crate::source::resume::Partition;

/// Opens a client; used by `check` as well.
///
/// # Errors
/// What the hub says, with what to do about it where that is known.
pub async fn open(target: &Target) -> Result<ConsumerClient, String> {
    let retry = RetryOptions { max_retries: 1, ..RetryOptions::default() };
    let builder =
        ConsumerClient::builder().with_consumer_group(target.consumer_group.clone()).with_retry_options(retry);
    let builder = match &target.endpoint {
        Some(endpoint) => builder.with_custom_endpoint(endpoint.clone()),
        None => builder,
    };
    let opened = builder.open_with_connection_string(target.connection_string.reveal(), None);
    within("connecting", opened).await
}

/// The hub's name, its incarnation and its partitions' ids.
///
/// # Errors
/// What the hub says.
pub async fn describe(client: &ConsumerClient) -> Result<(String, i64, Vec<String>), String> {
    let properties = within("asking the hub about itself", client.get_eventhub_properties()).await?;
    let created = properties
        .created_on
        .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok())
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .ok_or("the hub does not say when it was created, so its numbers have no name")?;
    Ok((properties.name, created, properties.partition_ids))
}

impl Asked for ConsumerClient {
    async fn describe(&self) -> Result<(String, i64, Vec<String>), String> {
        describe(self).await
    }

    async fn partition(&self, id: &str) -> Result<Partition, String> {
        let asked = within("asking about a partition", self.get_partition_properties(id)).await?;
        Ok(Partition {
            begin: asked.beginning_sequence_number,
            last_enqueued: asked.last_enqueued_sequence_number,
            is_empty: asked.is_empty,
        })
    }
}

/// No answer within 20 s is an answer.
async fn within<T>(act: &str, asked: impl Future<Output = Result<T, EventHubsError>>) -> Result<T, String> {
    match tokio::time::timeout(Duration::from_secs(20), asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(explain(act, &error)),
        Err(_) => Err(format!("{act}: no answer within 20 s")),
    }
}

/// The SDK's errors nest deep and say little; the common ones get a sentence.
pub(super) fn explain(act: &str, error: &EventHubsError) -> String {
    let text = format!("{error:?}");
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let advice = if has(&["authoriz", "Unauthoriz", "401", "InvalidSignature", "put-token"]) {
        "the hub refuses the credentials; check the policy name and key in `hub.connection-string`"
    } else if has(&["ConnectionRefused", "Connection refused"]) {
        "nobody listens there; check `hub.endpoint`, and that the hub runs"
    } else if has(&["UnknownIssuer", "InvalidCertificate"]) {
        "its certificate is not trusted; set SSL_CERT_FILE to the authority's certificate"
    } else if has(&["NotFound", "not-found"]) {
        "the hub does not know that name; check EntityPath and `hub.consumer-group`"
    } else {
        let short: String = shared::cli::chain(error).chars().take(300).collect();
        return format!("{act}: {short}");
    };
    format!("{act}: {advice}")
}
