//! Provisioning against a small service that answers, stays silent, hangs up or refuses as told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use rumqttc::mqttbytes::v4::{ConnAck, ConnectReturnCode, Packet, PubAck, Publish, SubAck, SubscribeReasonCode};
use rumqttc::{Error as MqttError, QoS};
use shared::clock::Clock;
use shared::config::Span;
use shared::sas;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::hub::{Known, Source};
use crate::line::Choice;
use crate::line::tests::{proxy, websocket_before};

const KEY: &str = "c2VjcmV0IGtleSBvZiBhIGdhdGV3YXk=";

pub(super) fn applicant(port: u16) -> Applicant {
    Applicant {
        id_scope: "0ne1".into(),
        registration_id: "gw-01".into(),
        identity: Identity::Key(sas::Key::device(KEY).expect("base64")),
        host: "127.0.0.1".into(),
        port,
        websocket_port: 1,
        network: Network { choice: Choice::Mqtt, proxy: None },
        ca_file: None,
        tls: false,
    }
}

fn config(timeout_ms: u64) -> Config {
    let span = |ms| Span::new(Duration::from_millis(ms));
    Config {
        id_scope: None,
        registration_id: None,
        key: None,
        group_key: None,
        certificate_file: None,
        private_key: None,
        host: "127.0.0.1".into(),
        port: 1,
        websocket_port: 1,
        ca_file: None,
        timeout: span(timeout_ms),
        backoff_min: span(10),
        backoff_max: span(50),
    }
}

/// What a service says: to each question the next answer (status, more of the topic, body); then the last one again.
type Script = Vec<(&'static str, &'static str, &'static str)>;

const ASSIGNING: (&str, &str, &str) = ("202", "&retry-after=1", r#"{"operationId":"4.a/b","status":"assigning"}"#);
const ASSIGNED: (&str, &str, &str) = (
    "200",
    "",
    r#"{"status":"assigned","registrationState":{"assignedHub":"h.azure-devices.net","deviceId":"gw-device"}}"#,
);

#[derive(Debug, Default)]
struct Seen {
    /// User name and faults of its token.
    connects: Vec<(String, Option<String>)>,
    questions: Vec<String>,
}

#[derive(Clone)]
struct Service {
    port: u16,
    code: ConnectReturnCode,
    script: Script,
    seen: Arc<Mutex<Seen>>,
}

impl Service {
    async fn start(code: ConnectReturnCode, script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("bound").port();
        let service = Self { port, code, script, seen: Arc::default() };
        let own = service.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(own.clone().serve(stream));
            }
        });
        service
    }

    async fn serve(self, mut stream: TcpStream) {
        let mut inbox = BytesMut::new();
        loop {
            let packet = match Packet::read(&mut inbox, 1 << 20) {
                Ok(packet) => packet,
                Err(MqttError::InsufficientBytes(_)) => match stream.read_buf(&mut inbox).await {
                    Ok(0) | Err(_) => return,
                    Ok(_) => continue,
                },
                Err(error) => panic!("{error}"),
            };
            let mut out = BytesMut::new();
            match packet {
                Packet::Connect(connect) => {
                    let login = connect.login.expect("a token");
                    let token = sas::Token::parse(&login.password).expect("a token");
                    let now_s = Clock::Real.now().micros() / 1_000_000;
                    let key = sas::Key::device(KEY).expect("base64");
                    let mut fault = token.check([&key], now_s).err().map(|refusal| refusal.to_string());
                    if token.resource != "0ne1/registrations/gw-01" || token.policy.as_deref() != Some("registration") {
                        fault = Some(format!("{token:?}"));
                    }
                    self.seen.lock().expect("no panic").connects.push((login.username, fault));
                    ConnAck::new(self.code, false).write(&mut out).expect("fits");
                }
                Packet::Subscribe(subscribe) => {
                    let granted = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce)];
                    SubAck::new(subscribe.pkid, granted).write(&mut out).expect("fits");
                }
                Packet::Publish(publish) => {
                    PubAck::new(publish.pkid).write(&mut out).expect("fits");
                    let at = {
                        let mut seen = self.seen.lock().expect("no panic");
                        seen.questions.push(publish.topic.clone());
                        seen.questions.len() - 1
                    };
                    let rid =
                        publish.topic.split("$rid=").nth(1).and_then(|rest| rest.split('&').next()).expect("a rid");
                    if let Some((status, more, body)) = self.script.get(at).or(self.script.last()) {
                        let topic = format!("$dps/registrations/res/{status}/?$rid={rid}{more}");
                        let mut answer = Publish::new(topic, QoS::AtLeastOnce, *body);
                        answer.pkid = 7;
                        answer.write(&mut out).expect("fits");
                    }
                }
                _ => {}
            }
            if stream.write_all(&out).await.is_err() {
                return;
            }
        }
    }

    fn questions(&self) -> Vec<String> {
        self.seen.lock().expect("no panic").questions.clone()
    }
}

/// A busy machine, too, gets a connection made and a question answered in so long.
const PATIENCE_MS: u64 = 8_000;

async fn ask(service: &Service, timeout_ms: u64) -> Result<Assignment, Fault> {
    attempt(&applicant(service.port), &config(timeout_ms), &Clock::Real).await
}

#[tokio::test]
async fn it_registers_waits_as_told_and_learns_its_hub() {
    let service = Service::start(ConnectReturnCode::Success, vec![ASSIGNING, ASSIGNING, ASSIGNED]).await;
    let assignment = ask(&service, 20_000).await.expect("assigned");
    assert_eq!((assignment.hub.as_str(), assignment.device.as_str()), ("h.azure-devices.net", "gw-device"));
    let questions = service.questions();
    assert!(questions[0].contains("iotdps-register") && questions.len() == 3, "{questions:?}");
    assert!(questions[2].ends_with("&operationId=4.a%2Fb"), "{questions:?}");
    let connects = service.seen.lock().expect("no panic").connects.clone();
    let [(user, None)] = connects.as_slice() else { panic!("{connects:?}") };
    assert!(user.starts_with("0ne1/registrations/gw-01/api-version=2019-03-31&ClientVersion=edge-agent%2F"), "{user}");
    let dial =
        crate::hub::Dial { host: None, port: 8883, websocket_port: 443, network: Network::default(), ca_file: None };
    let target = applicant(1).target(&assignment, &dial);
    assert_eq!((target.host.as_str(), target.gateway.as_str()), ("h.azure-devices.net", "gw-device"));
    let Identity::Key(key) = target.identity else { panic!("{target:?}") };
    assert_eq!(key, sas::Key::device(KEY).expect("base64"), "the provisioning key is the hub's");
}

#[tokio::test]
async fn a_throttled_service_is_asked_again_and_a_silent_one_not_for_ever() {
    let service = Service::start(ConnectReturnCode::Success, vec![("429", "&retry-after=1", ""), ASSIGNED]).await;
    ask(&service, 20_000).await.expect("assigned");
    assert_eq!(service.questions().len(), 2);
    let silent = Service::start(ConnectReturnCode::Success, vec![]).await;
    let busy = Service::start(ConnectReturnCode::Success, vec![("429", "&retry-after=60", "")]).await;
    let (unanswered, put_off) = tokio::join!(ask(&silent, PATIENCE_MS), ask(&busy, PATIENCE_MS));
    let fault = unanswered.expect_err("silent").to_string();
    assert!(fault.contains("did not answer within `provisioning.timeout`"), "{fault}");
    let fault = put_off.expect_err("throttled").to_string();
    assert!(fault.contains("429"), "{fault}");
    assert_eq!(busy.questions().len(), 1, "not before it may");
}

#[tokio::test]
async fn refusals_are_told_apart_from_a_service_that_is_away() {
    let service = Service::start(ConnectReturnCode::NotAuthorized, vec![]).await;
    let fault = ask(&service, 5_000).await.expect_err("refused");
    assert!(matches!(fault, Fault::Refused(Refusal::Unauthorized(_))), "{fault}");
    assert!(!fault.to_string().contains("c2Vj"), "{fault}");
    let disabled = ("200", "", r#"{"status":"disabled"}"#);
    let service = Service::start(ConnectReturnCode::Success, vec![disabled]).await;
    let fault = ask(&service, 5_000).await.expect_err("refused");
    assert!(matches!(fault, Fault::Refused(Refusal::Disabled)), "{fault}");
    let nobody = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("bound").port();
    let fault = attempt(&applicant(nobody), &config(5_000), &Clock::Real).await.expect_err("away");
    assert!(matches!(fault, Fault::Away { .. }), "{fault}");
}

#[tokio::test]
async fn by_auto_the_service_is_found_in_websocket_messages_and_who_finds_it_nowhere_is_told_of_both_ways() {
    let service = Service::start(ConnectReturnCode::Success, vec![ASSIGNING, ASSIGNED]).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("bound").port();
    let (proxy, asked) = proxy(None).await;
    for proxy in [None, Some(proxy)] {
        let network = Network { choice: Choice::Auto, proxy };
        let websocket_port = websocket_before(service.port).await;
        let applicant = Applicant { websocket_port, network, ..applicant(closed) };
        attempt(&applicant, &config(PATIENCE_MS), &Clock::Real).await.expect("assigned");
        let nowhere = Applicant { websocket_port: closed, ..applicant };
        let fault =
            attempt(&nowhere, &config(PATIENCE_MS), &Clock::Real).await.expect_err("nobody is there").to_string();
        let (by_last, by_first) = fault.split_once("; nor from port ").unwrap_or_else(|| panic!("{fault}"));
        assert!(by_last.matches("127.0.0.1").count() < 3 && by_first.starts_with(&closed.to_string()), "{fault}");
    }
    let asked = asked.lock().expect("no panic").clone();
    assert!(asked.iter().any(|head| head.starts_with(&format!("CONNECT 127.0.0.1:{closed} "))), "{asked:?}");
}

#[tokio::test]
async fn a_run_asks_until_it_is_told_keeps_the_answer_and_asks_no_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let database = dir.path().join("outbox.db");
    let unauthorized = ("401", "", "");
    let service = Service::start(ConnectReturnCode::Success, vec![unauthorized, unauthorized, ASSIGNED]).await;
    let applicant = applicant(service.port);
    let known = watch::Sender::new(Source::Provisioned(applicant.clone()).known());
    let mut errors = known.subscribe();
    let (clock, config, stop) = (Clock::Real, config(5_000), CancellationToken::new());
    let seeking = seek(&applicant, &config, &database, &clock, &known, &stop);
    let watching = async {
        let refused = |known: &Known| known.last_error.as_ref().is_some_and(|text| text.contains("refuses"));
        errors.wait_for(refused).await.map(|_| ())
    };
    let (sought, watched) = tokio::join!(seeking, watching);
    watched.expect("the refusal is shown");
    let assignment = sought.expect("trust is no matter").expect("assigned");
    assert_eq!(record::read(&database).expect("read"), Some(assignment.clone()));
    {
        let known = known.borrow();
        assert_eq!((known.name.as_deref(), known.gateway.as_str()), (Some("h.azure-devices.net"), "gw-device"));
        assert_eq!(known.last_error, None);
    }
    let again = seek(&applicant, &config, &database, &clock, &known, &stop).await.expect("on file");
    assert_eq!((again, service.questions().len()), (Some(assignment), 3));
    // Another registration's hub is not ours.
    let other = Applicant { registration_id: "gw-02".into(), ..applicant };
    stop.cancel();
    assert_eq!(seek(&other, &config, &database, &clock, &known, &stop).await.expect("stopped"), None);
}
