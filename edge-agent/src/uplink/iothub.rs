//! One connection to IoT Hub: rumqttc over TLS with a shared-access token, or with a certificate.
//!
//! A client lives exactly as long as its connection. rumqttc keeps publishes of a dead connection and would send them
//! again by itself, but only if the hub says that the session is still there, and after a lost session it can lock up
//! for good on a packet id (rumqtt#1056). So the client is dropped whole, and what goes again is the window's decision.

use std::sync::Arc;
use std::time::Duration;

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, Event, EventLoop, MqttOptions, Outgoing, Packet, Publish, QoS,
    StateError, SubscribeFilter, SubscribeReasonCode,
};
use rustls::ClientConfig;
use shared::time::Timestamp;
use shared::{crash, sas};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::HubTarget;
use super::batch::Cut;
use crate::identity::Identity;
use crate::line::{Broken, Dial, Tunnel, Way, Ways};
use crate::remote::{Out, ear, topic};

/// Of Azure IoT Hub's MQTT; newer ones exist as previews only.
const API_VERSION: &str = "2021-04-12";
/// Above the largest message with its topic.
const PACKET_BYTES_MAX: usize = 512 * 1024;
/// Over MQTT the hub gives no reason: it closes for a revoked key, a second connection, a throttle, a quota.
const CLOSED: &str = "the hub closed the connection";
/// DISCONNECT is a courtesy; it is not worth more than this.
const GOODBYE: Duration = Duration::from_secs(2);

/// What a connection tells.
#[derive(Debug)]
pub(super) enum Happening {
    /// CONNACK.
    Connected,
    /// The next publish was written under this packet id.
    Published(u16),
    /// PUBACK.
    Acked(u16),
    /// SUBACK, and whether every filter was granted.
    Subscribed(bool),
    /// The hub published something.
    Heard(Publish),
    /// Something that was said at QoS 0 is written.
    Said,
    /// It broke, or did not come about. Nothing follows.
    Lost(Lost),
}

/// Why a connection is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    /// For people: what failed and, where it is known, what to do.
    pub(super) text: String,
    /// For metrics.
    pub(super) reason: &'static str,
    /// The hub refused our key.
    pub(super) denied: bool,
}

/// What all connections have in common.
pub(super) struct Dialer {
    pub(super) target: HubTarget,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) ways: Ways,
    pub(super) keep_alive: Duration,
    pub(super) connect_timeout: Duration,
    pub(super) token_life: Duration,
    pub(super) envelopes_max: usize,
}

/// A connection, or an attempt at one.
pub(super) struct Client {
    requests: AsyncClient,
    happenings: mpsc::Receiver<Happening>,
    poll: AbortHandle,
    tunnel: Option<Tunnel>,
}

impl Dialer {
    /// How the next attempt goes.
    pub(super) fn line(&self) -> Dial {
        let (target, way) = (&self.target, self.ways.way());
        Dial {
            host: target.host.clone(),
            port: match way {
                Way::Mqtt => target.port,
                Way::WebSocket => target.websocket_port,
            },
            way,
            proxy: target.network.proxy.clone(),
            tls: self.tls.clone(),
            timeout: self.connect_timeout,
        }
    }

    /// Begins to connect, with a token signed now.
    pub(super) fn dial(&self, now: Timestamp) -> Client {
        let target = &self.target;
        let device = target.gateway.as_str();
        let expiry = now.plus(self.token_life).micros().div_euclid(1_000_000);
        let token = match &target.identity {
            Identity::Key(key) => sas::sign(&sas::device_resource(&target.hub, device), key, expiry, None),
            // The certificate is shown in TLS.
            Identity::Certificate(_) => String::new(),
        };

        let (mut options, tunnel) = match self.line().options(device) {
            Ok(line) => line,
            Err(error) => return Client::stillborn(&error),
        };
        options
            .set_credentials(format!("{}/{device}/?api-version={API_VERSION}", target.hub), token)
            .set_keep_alive(self.keep_alive)
            .set_clean_session(true)
            .set_max_packet_size(PACKET_BYTES_MAX, PACKET_BYTES_MAX)
            // Far above our window, so that its ids never meet.
            .set_inflight(u16::try_from(self.envelopes_max * 8).unwrap_or(u16::MAX).max(1_000));
        // Room for the whole window, what is said beside it, and the goodbye, so that handing over never waits.
        let (requests, mut events) = AsyncClient::new(options, self.envelopes_max + ear::SAID_MAX + 8);
        events.network_options.set_connection_timeout(self.connect_timeout.as_secs().max(1)).set_tcp_nodelay(true);
        // Each Envelope in flight tells twice.
        let (tell, happenings) = mpsc::channel(2 * self.envelopes_max + 16);
        let broken = tunnel.as_ref().map(Tunnel::broken).unwrap_or_default();
        let poll = tokio::spawn(poll(events, tell, broken)).abort_handle();
        Client { requests, happenings, poll, tunnel }
    }
}

impl Client {
    /// Without a socket there is no connection, which is told as any other loss.
    fn stillborn(error: &std::io::Error) -> Self {
        let (requests, _) = AsyncClient::new(MqttOptions::new("-", "-", 1), 1);
        let (tell, happenings) = mpsc::channel(1);
        let lost = Lost { text: format!("this machine has no socket: {error}"), reason: "network", denied: false };
        let poll = tokio::spawn(async move {
            let _ = tell.send(Happening::Lost(lost)).await;
        });
        Self { requests, happenings, poll: poll.abort_handle(), tunnel: None }
    }

    /// The next thing that happens; `None` once the connection is gone. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Happening> {
        self.happenings.recv().await
    }

    /// As [`Client::next`], but only what has happened already.
    pub(super) fn try_next(&mut self) -> Option<Happening> {
        self.happenings.try_recv().ok()
    }

    /// Hands an Envelope over. An error means that the connection is gone, which it will tell by itself.
    pub(super) async fn publish(&self, cut: &Cut) {
        let _ = self.requests.publish_bytes(&cut.topic, QoS::AtLeastOnce, false, cut.body.clone()).await;
    }

    /// Hands over what is no Envelope. At QoS 0: it takes no packet id, so the window never hears of it. An error means
    /// that the connection is gone, which it will tell by itself.
    pub(super) fn say(&self, out: Out) {
        let _ = match out {
            Out::Subscribe => self.requests.try_subscribe_many(
                topic::FILTERS.map(|filter| SubscribeFilter::new(filter.to_owned(), QoS::AtLeastOnce)),
            ),
            Out::Say { topic, payload } => self.requests.try_publish(topic, QoS::AtMostOnce, false, payload),
            // Not the client's.
            Out::Flush { .. } | Out::Restart => Ok(()),
        };
    }

    /// Says DISCONNECT and waits until it is written, or for two seconds.
    pub(super) async fn say_goodbye(mut self) {
        if self.requests.try_disconnect().is_ok() {
            let _ = timeout(GOODBYE, async { while self.happenings.recv().await.is_some() {} }).await;
            if let Some(tunnel) = &mut self.tunnel {
                tunnel.drain().await;
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.poll.abort();
    }
}

/// Its own task: `poll` must never be dropped half way, and never wait for our disk.
async fn poll(mut events: EventLoop, tell: mpsc::Sender<Happening>, broken: Broken) {
    loop {
        let polled = events.poll().await;
        let happening = match polled {
            Ok(event) => match happening(event) {
                Told::Happening(happening) => happening,
                Told::Nothing => continue,
                Told::Gone => return,
            },
            Err(error) => {
                // PUBACKs that came in the same breath as the end still count.
                while let Some(event) = events.state.events.pop_front() {
                    if let Told::Happening(acked @ Happening::Acked(_)) = happening(event) {
                        let _ = tell.send(acked).await;
                    }
                }
                let _ = tell.send(Happening::Lost(explain(&error, &broken))).await;
                return;
            }
        };
        if tell.send(happening).await.is_err() {
            return;
        }
    }
}

enum Told {
    Happening(Happening),
    Nothing,
    Gone,
}

fn happening(event: Event) -> Told {
    Told::Happening(match event {
        Event::Incoming(Packet::ConnAck(_)) => Happening::Connected,
        Event::Incoming(Packet::PubAck(puback)) => Happening::Acked(puback.pkid),
        Event::Incoming(Packet::SubAck(suback)) => {
            Happening::Subscribed(!suback.return_codes.contains(&SubscribeReasonCode::Failure))
        }
        Event::Incoming(Packet::Publish(publish)) => Happening::Heard(publish),
        // Only what has a packet id is an Envelope.
        Event::Outgoing(Outgoing::Publish(0)) => Happening::Said,
        Event::Outgoing(Outgoing::Publish(packet_id)) => {
            crash::here("uplink-published");
            Happening::Published(packet_id)
        }
        // Two publishes want one id. Cannot be, with a window so far below the client's; but if it is, it locks up.
        Event::Outgoing(Outgoing::AwaitAck(_)) => {
            Happening::Lost(Lost { text: "packet ids collide".to_owned(), reason: "collision", denied: false })
        }
        Event::Outgoing(Outgoing::Disconnect) => return Told::Gone,
        Event::Incoming(_) | Event::Outgoing(_) => return Told::Nothing,
    })
}

fn explain(error: &ConnectionError, broken: &Broken) -> Lost {
    let lost = |reason, text: String| Lost { text, reason, denied: false };
    if let Some(fault) = broken.fault() {
        return match fault.reason {
            "tls" => lost("tls", with_certificate_hint(fault.text.clone())),
            "closed" => lost("closed", CLOSED.to_owned()),
            reason => lost(reason, fault.text.clone()),
        };
    }
    match error {
        ConnectionError::ConnectionRefused(
            code @ (ConnectReturnCode::NotAuthorized | ConnectReturnCode::BadUserNamePassword),
        ) => Lost {
            text: format!(
                "the hub refuses this device's key ({code:?}), or its certificate; check the connection string, that the \
                 device is enabled, and that this machine's clock is right"
            ),
            reason: "denied",
            denied: true,
        },
        ConnectionError::ConnectionRefused(code) => {
            lost("refused", format!("the hub refuses the connection ({code:?})"))
        }
        ConnectionError::NetworkTimeout => lost("timeout", "no answer in `uplink.connect-timeout`".to_owned()),
        ConnectionError::FlushTimeout => lost("timeout", "the connection takes no more bytes".to_owned()),
        ConnectionError::Tls(error) => lost("tls", with_certificate_hint(error.to_string())),
        ConnectionError::MqttState(StateError::AwaitPingResp) => lost("timeout", "no answer to a ping".to_owned()),
        ConnectionError::MqttState(StateError::ConnectionAborted) => lost("closed", CLOSED.to_owned()),
        ConnectionError::MqttState(error) if is_eof(error) => lost("closed", CLOSED.to_owned()),
        ConnectionError::MqttState(error) => lost("broken", error.to_string()),
        ConnectionError::Io(error) => lost("network", error.to_string()),
        other => lost("other", other.to_string()),
    }
}

/// With or without TLS's own farewell, and from whichever layer the end is told.
fn is_eof(error: &StateError) -> bool {
    match error {
        StateError::Io(error) | StateError::Deserialization(rumqttc::Error::Io(error)) => {
            error.kind() == std::io::ErrorKind::UnexpectedEof
        }
        _ => false,
    }
}

fn with_certificate_hint(text: String) -> String {
    if text.contains("UnknownIssuer") {
        format!(
            "{text}: the hub's certificate is signed by nobody we trust; set `hub.ca-file` if that is as it should be"
        )
    } else if text.contains("NotValidForName") {
        format!("{text}: the hub's certificate does not carry the name in `hub.host`")
    } else {
        text
    }
}
