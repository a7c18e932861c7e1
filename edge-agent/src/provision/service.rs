//! One connection to the provisioning service: rumqttc over TLS with a shared-access token, or a certificate.

use std::time::Duration;

use rumqttc::{AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, Packet, QoS, SubscribeReasonCode};
use shared::backoff::Backoff;
use shared::sas;
use shared::time::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::exchange::{self, Assigned, Exchange, Refusal, Verdict};
use super::{Applicant, Config};
use crate::identity::Identity;
use crate::line::{Broken, Dial, Tunnel};
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
        /// It had let us in before: it is no matter of the way.
        reached: bool,
    },
    /// It says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Asks once, over one connection, until there is an answer or `config.timeout` is over.
pub(super) async fn ask(
    applicant: &Applicant,
    config: &Config,
    dial: &Dial,
    mut waits: Backoff,
    now: Timestamp,
) -> Result<Assigned, Fault> {
    let end = Instant::now() + config.timeout.duration();
    let let_in = Instant::now() + dial.timeout;
    let fault = |why: String, reached| Fault::Away { host: applicant.host.clone(), port: dial.port, why, reached };
    let mut line = Line::dial(applicant, config, dial, now).map_err(|error| fault(error.to_string(), false))?;
    let mut exchange = Exchange::new(&applicant.registration_id);
    let mut stage = Stage::Connecting;
    let mut wake = end;
    loop {
        let connecting = matches!(stage, Stage::Connecting);
        let away = |why: &str| fault(why.to_owned(), !connecting);
        let patience = if connecting { let_in.min(end) } else { end };
        tokio::select! {
            event = timeout_at(patience, line.events.recv()) => match event {
                Err(_) => return Err(away(stage.patience_over())),
                Ok(None) => return Err(away("the connection ended")),
                Ok(Some(Err(error))) => return Err(explain(&error, &line.broken, dial, away)),
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
    broken: Broken,
    tunnel: Option<Tunnel>,
}

impl Line {
    fn dial(applicant: &Applicant, config: &Config, dial: &Dial, now: Timestamp) -> std::io::Result<Self> {
        let Applicant { id_scope, registration_id, identity, .. } = applicant;
        let expiry = now.plus(config.timeout.duration() + TOKEN_MARGIN).micros().div_euclid(1_000_000);
        let resource = sas::registration_resource(id_scope, registration_id);
        let token = match identity {
            Identity::Key(key) => sas::sign(&resource, key, expiry, Some("registration")),
            Identity::Certificate(_) => String::new(),
        };
        let version = env!("CARGO_PKG_VERSION");
        // No `?` before the version: so the service wants it.
        let user = format!("{resource}/api-version={API_VERSION}&ClientVersion=edge-agent%2F{version}");
        let (mut options, tunnel) = dial.options(registration_id)?;
        options
            .set_credentials(user, token)
            .set_keep_alive(KEEP_ALIVE)
            .set_clean_session(true)
            .set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX);
        let (requests, mut events) = AsyncClient::new(options, 16);
        events.network_options.set_connection_timeout(dial.timeout.as_secs().max(1));
        let (tell, told) = mpsc::channel(16);
        let poll = tokio::spawn(poll(events, tell)).abort_handle();
        let broken = tunnel.as_ref().map(Tunnel::broken).unwrap_or_default();
        Ok(Self { requests, events: told, poll, broken, tunnel })
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
            if let Some(tunnel) = &mut self.tunnel {
                tunnel.drain().await;
            }
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

fn explain(error: &ConnectionError, broken: &Broken, dial: &Dial, away: impl FnOnce(&str) -> Fault) -> Fault {
    if let Some(fault) = broken.fault() {
        // Host and port are told with it.
        let place = format!("{} port {}: ", dial.host, dial.port);
        return away(fault.text.strip_prefix(&place).unwrap_or(&fault.text));
    }
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
