//! One connection to the provisioning service: rumqttc over TLS with a shared-access token.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Packet, QoS, SubscribeReasonCode,
    TlsConfiguration, Transport,
};
use rustls::ClientConfig;
use shared::backoff::Backoff;
use shared::sas;
use shared::time::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::exchange::{self, Assigned, Exchange, Refusal, Verdict};
use super::{Applicant, Config};
use crate::trust::TrustError;

const API_VERSION: &str = "2019-03-31";
/// Above the longest answer.
const PACKET_BYTES_MAX: usize = 256 * 1024;
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// How much longer than the attempt a token holds.
const TOKEN_MARGIN: Duration = Duration::from_secs(300);
/// An answer that takes longer is not waited for; the question is asked again.
const ANSWER: Duration = Duration::from_secs(30);

/// An attempt came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No certificate authority can be had.
    #[error("cannot {0}")]
    Trust(#[from] TrustError),
    /// The service cannot be reached, does not answer, or has no time.
    #[error("no answer from the provisioning service {host}:{port}: {why}")]
    Away {
        /// The service.
        host: String,
        /// Its port.
        port: u16,
        /// What is known.
        why: String,
    },
    /// It says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Asks once, over one connection, until there is an answer or `config.timeout` is over.
pub(super) async fn ask(
    applicant: &Applicant,
    config: &Config,
    tls: Option<Arc<ClientConfig>>,
    mut waits: Backoff,
    now: Timestamp,
) -> Result<Assigned, Fault> {
    let end = Instant::now() + config.timeout.duration();
    let mut line = Line::dial(applicant, config, tls, now);
    let mut exchange = Exchange::new(&applicant.registration_id);
    let mut stage = Stage::Connecting;
    let mut wake = end;
    let away = |why: &str| Fault::Away { host: applicant.host.clone(), port: applicant.port, why: why.to_owned() };
    loop {
        tokio::select! {
            event = timeout_at(end, line.events.recv()) => match event {
                Err(_) => return Err(away(stage.patience_over())),
                Ok(None) => return Err(away("the connection ended")),
                Ok(Some(Err(error))) => return Err(explain(&error, away)),
                Ok(Some(Ok(Event::Incoming(Packet::ConnAck(_))))) => {
                    line.subscribe();
                    stage = Stage::Subscribing;
                }
                Ok(Some(Ok(Event::Incoming(Packet::SubAck(answer))))) => {
                    if answer.return_codes.contains(&SubscribeReasonCode::Failure) {
                        return Err(away("it does not let us subscribe to its answers"));
                    }
                    line.publish(exchange.ask());
                    (stage, wake) = (Stage::Asked, Instant::now() + ANSWER);
                }
                Ok(Some(Ok(Event::Incoming(Packet::Publish(publish))))) => {
                    match exchange.heard(&publish.topic, &publish.payload) {
                        None => {}
                        Some(Verdict::Assigned(assigned)) => {
                            line.say_goodbye().await;
                            return Ok(assigned);
                        }
                        Some(Verdict::Refused(refusal)) => {
                            line.say_goodbye().await;
                            return Err(refusal.into());
                        }
                        Some(Verdict::Wait(wait)) => (stage, wake) = (Stage::Waiting, Instant::now() + wait),
                        Some(Verdict::Later(wait)) => {
                            (stage, wake) = (Stage::Throttled, Instant::now() + wait + waits.next_wait());
                        }
                    }
                }
                Ok(Some(Ok(_))) => {}
            },
            () = sleep_until(wake), if wake < end => {
                line.publish(exchange.ask());
                (stage, wake) = (Stage::Asked, Instant::now() + ANSWER);
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Connecting,
    Subscribing,
    Asked,
    Waiting,
    Throttled,
}

impl Stage {
    const fn patience_over(self) -> &'static str {
        match self {
            Stage::Connecting => "it did not let us in within `provisioning.timeout`",
            Stage::Subscribing => "it did not answer SUBSCRIBE within `provisioning.timeout`",
            Stage::Asked => "it did not answer within `provisioning.timeout`",
            Stage::Waiting => "it has not assigned a hub within `provisioning.timeout`",
            Stage::Throttled => "it has no time for us (429 or an error of its own)",
        }
    }
}

/// A connection; ends with it.
struct Line {
    requests: AsyncClient,
    events: mpsc::Receiver<Result<Event, ConnectionError>>,
    poll: tokio::task::AbortHandle,
}

impl Line {
    fn dial(applicant: &Applicant, config: &Config, tls: Option<Arc<ClientConfig>>, now: Timestamp) -> Self {
        let Applicant { id_scope, registration_id, key, host, port, .. } = applicant;
        let expiry = now.plus(config.timeout.duration() + TOKEN_MARGIN).micros().div_euclid(1_000_000);
        let resource = sas::registration_resource(id_scope, registration_id);
        let token = sas::sign(&resource, key, expiry, Some("registration"));
        let version = env!("CARGO_PKG_VERSION");
        // No `?` before the version: so the service wants it.
        let user = format!("{resource}/api-version={API_VERSION}&ClientVersion=edge-agent%2F{version}");
        let mut options = MqttOptions::new(registration_id, host, *port);
        options
            .set_credentials(user, token)
            .set_keep_alive(KEEP_ALIVE)
            .set_clean_session(true)
            .set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        if let Some(tls) = tls {
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)));
        }
        let (requests, mut events) = AsyncClient::new(options, 16);
        events.network_options.set_connection_timeout(config.timeout.duration().as_secs().max(1));
        let (tell, told) = mpsc::channel(16);
        let poll = tokio::spawn(poll(events, tell)).abort_handle();
        Self { requests, events: told, poll }
    }

    /// An error means that the connection is gone, which it tells by itself; so with `publish`.
    fn subscribe(&self) {
        let _ = self.requests.try_subscribe(exchange::ANSWERS, QoS::AtLeastOnce);
    }

    fn publish(&self, (topic, payload): (String, String)) {
        let _ = self.requests.try_publish(topic, QoS::AtLeastOnce, false, payload);
    }

    async fn say_goodbye(mut self) {
        if self.requests.try_disconnect().is_ok() {
            let end = Instant::now() + Duration::from_secs(2);
            while let Ok(Some(_)) = timeout_at(end, self.events.recv()).await {}
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.poll.abort();
    }
}

/// Its own task: `poll` must never be dropped half way.
async fn poll(mut events: EventLoop, tell: mpsc::Sender<Result<Event, ConnectionError>>) {
    loop {
        let event = events.poll().await;
        let last = event.is_err() || matches!(event, Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)));
        if tell.send(event).await.is_err() || last {
            return;
        }
    }
}

fn explain(error: &ConnectionError, away: impl FnOnce(&str) -> Fault) -> Fault {
    match error {
        ConnectionError::ConnectionRefused(
            code @ (ConnectReturnCode::NotAuthorized | ConnectReturnCode::BadUserNamePassword),
        ) => Refusal::Unauthorized(format!(" ({code:?})")).into(),
        ConnectionError::NetworkTimeout => away("it did not let us in within `provisioning.timeout`"),
        ConnectionError::Tls(error) if error.to_string().contains("UnknownIssuer") => away(&format!(
            "{error}: its certificate is signed by nobody we trust; set `provisioning.ca-file` if that is as it should be"
        )),
        // Over MQTT the service gives no reason where it closes.
        ConnectionError::MqttState(error) => away(&format!("the connection broke ({error})")),
        other => away(&other.to_string()),
    }
}
