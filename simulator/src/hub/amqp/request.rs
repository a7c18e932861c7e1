//! Questions and answers: `$cbs` and `$management` take messages on one link and answer on another of the same session.
//!
//! The answer goes to the link whose target is the question's `reply-to`; SDKs that name none (or leave their target
//! empty) have one answering link per node and session.

use fe2o3_amqp::Receiver;
use fe2o3_amqp::link::Sender;
use fe2o3_amqp::link::delivery::Sendable;
use fe2o3_amqp_types::messaging::{AmqpValue, ApplicationProperties, Body, Message, MessageId, Properties};
use fe2o3_amqp_types::primitives::{SimpleValue, Value};
use tokio::sync::{mpsc, watch};
use tokio::time::Duration;

/// Answers waiting for one peer's credit; above it, questions wait.
const ANSWERS_WAITING: usize = 16;
/// How long the hub thinks about a question. Microsoft's Rust SDK (fe2o3-amqp 0.16) notes a message as sent only after it
/// has left; a receipt that comes back sooner is lost, and the SDK waits for it for ever. A loopback is that fast.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a question waits for its answering link to be attached.
const PATIENCE: Duration = Duration::from_secs(5);

/// A question.
#[derive(Debug, Default)]
pub(super) struct Request {
    message_id: Option<MessageId>,
    reply_to: Option<String>,
    properties: Vec<(String, SimpleValue)>,
    /// The body, if it is text.
    pub(super) token: Option<String>,
}

/// An answer.
#[derive(Debug, PartialEq)]
pub(super) struct Response {
    pub(super) status: i32,
    pub(super) description: String,
    pub(super) body: Value,
}

impl Response {
    pub(super) fn refused(status: i32, description: impl Into<String>) -> Self {
        Self { status, description: description.into(), body: Value::Null }
    }
}

impl Request {
    fn new(message: Message<Body<Value>>) -> Self {
        let properties = message.properties.unwrap_or_default();
        let application = message.application_properties.unwrap_or_default();
        let token = match message.body {
            Body::Value(AmqpValue(Value::String(text))) => Some(text),
            Body::Value(AmqpValue(Value::Binary(bytes))) => String::from_utf8(bytes.into_vec()).ok(),
            Body::Data(data) => data.into_iter().next().and_then(|data| String::from_utf8(data.0.into_vec()).ok()),
            _ => None,
        };
        Self {
            message_id: properties.message_id,
            reply_to: properties.reply_to,
            properties: application.0.into_iter().collect(),
            token,
        }
    }

    /// A property that is text in any of the ways SDKs send text.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let (_, value) = self.properties.iter().find(|(key, _)| key == name)?;
        match value {
            SimpleValue::String(text) => Some(text.clone()),
            SimpleValue::Symbol(symbol) => Some(symbol.as_str().to_owned()),
            SimpleValue::Binary(bytes) => String::from_utf8(bytes.to_vec()).ok(),
            _ => None,
        }
    }

    #[cfg(test)]
    pub(super) fn with(properties: &[(&str, &str)]) -> Self {
        let properties = properties.iter().map(|(key, value)| ((*key).to_owned(), SimpleValue::from(*value))).collect();
        Self { properties, ..Self::default() }
    }
}

/// Which node a link belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Desk {
    Cbs,
    Management,
}

type Answer = Message<AmqpValue<Value>>;

/// The answering links of one session.
#[derive(Debug, Default)]
pub(super) struct Answers {
    links: watch::Sender<Vec<Link>>,
}

#[derive(Debug, Clone)]
struct Link {
    desk: Desk,
    target: Option<String>,
    answers: mpsc::Sender<Answer>,
}

impl Answers {
    /// Carries answers to the peer until it detaches the link.
    pub(super) async fn serve(&self, desk: Desk, mut sender: Sender) {
        let target = sender.target().as_ref().and_then(|target| target.address.clone());
        let (answers, mut waiting) = mpsc::channel(ANSWERS_WAITING);
        let link = Link { desk, target, answers };
        let channel = link.answers.clone();
        self.links.send_modify(|links| links.push(link));
        loop {
            tokio::select! {
                answer = waiting.recv() => {
                    let Some(message) = answer else { break };
                    let sendable = Sendable { message, message_format: 0, settled: Some(true) };
                    // The frames of a batchable transfer have all their fields.
                    if sender.send_batchable(sendable).await.is_err() {
                        break;
                    }
                }
                _ = sender.on_detach() => break,
            }
        }
        self.links.send_modify(|links| links.retain(|link| !link.answers.same_channel(&channel)));
    }

    /// Answers what arrives until the peer detaches the link.
    pub(super) async fn listen(&self, desk: Desk, mut receiver: Receiver, answer: impl Fn(&Request) -> Response) {
        loop {
            let delivery = match receiver.recv::<Body<Value>>().await {
                Ok(delivery) => delivery,
                Err(error) => {
                    tracing::debug!(?desk, %error, "the link for questions ended");
                    return;
                }
            };
            tokio::time::sleep(PAUSE).await;
            if receiver.accept(&delivery).await.is_err() {
                return;
            }
            let request = Request::new(delivery.into_message());
            let response = answer(&request);
            let Some(link) = self.link(desk, request.reply_to.as_deref()).await else {
                tracing::debug!(?desk, "nobody listens to the answer");
                continue;
            };
            let _ = link.send(message(request.message_id, response)).await;
        }
    }

    async fn link(&self, desk: Desk, reply_to: Option<&str>) -> Option<mpsc::Sender<Answer>> {
        let mut links = self.links.subscribe();
        let found = links.wait_for(|links| pick(links, desk, reply_to).is_some());
        let links = tokio::time::timeout(PATIENCE, found).await.ok()?.ok()?;
        pick(&links, desk, reply_to).map(|link| link.answers.clone())
    }
}

fn pick<'a>(links: &'a [Link], desk: Desk, reply_to: Option<&str>) -> Option<&'a Link> {
    let mut of_desk = links.iter().rev().filter(|link| link.desk == desk);
    let latest = of_desk.clone().next();
    reply_to.and_then(|wanted| of_desk.find(|link| link.target.as_deref() == Some(wanted))).or(latest)
}

fn message(correlation_id: Option<MessageId>, response: Response) -> Answer {
    Message {
        header: None,
        delivery_annotations: None,
        message_annotations: None,
        properties: Some(Properties { correlation_id, ..Properties::new() }),
        application_properties: Some(
            ApplicationProperties::builder()
                .insert("status-code", SimpleValue::Int(response.status))
                .insert("status-description", SimpleValue::String(response.description))
                .build(),
        ),
        body: AmqpValue(response.body),
        footer: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_goes_where_the_question_asks_else_to_the_latest_link() {
        let link =
            |desk, target: Option<&str>| Link { desk, target: target.map(str::to_owned), answers: mpsc::channel(1).0 };
        let links = [link(Desk::Cbs, None), link(Desk::Management, Some("a")), link(Desk::Management, Some("b"))];
        for (desk, reply_to, is) in [
            (Desk::Cbs, None, Some(0)),
            (Desk::Cbs, Some("cbs-1"), Some(0)),
            (Desk::Management, Some("a"), Some(1)),
            (Desk::Management, Some("b"), Some(2)),
            (Desk::Management, None, Some(2)),
        ] {
            let found = pick(&links, desk, reply_to).map(|link| &link.answers);
            let expected = is.map(|at: usize| &links[at].answers);
            assert!(found.zip(expected).is_some_and(|(a, b)| a.same_channel(b)), "{desk:?} {reply_to:?}");
        }
        assert!(pick(&links[..1], Desk::Management, Some("a")).is_none());
    }

    #[test]
    fn text_is_read_in_every_way_it_is_sent() {
        let mut request = Request::default();
        request.properties.push(("a".to_owned(), SimpleValue::from("text")));
        request.properties.push(("b".to_owned(), SimpleValue::Symbol("text".into())));
        request.properties.push(("c".to_owned(), SimpleValue::Binary(b"text".to_vec().into())));
        request.properties.push(("d".to_owned(), SimpleValue::Int(1)));
        for name in ["a", "b", "c"] {
            assert_eq!(request.text(name).as_deref(), Some("text"), "{name}");
        }
        assert_eq!((request.text("d"), request.text("e")), (None, None));
    }
}
