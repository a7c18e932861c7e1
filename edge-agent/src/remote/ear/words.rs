//! What the ear is told, and what it says is to be done.

use std::time::Duration;

use serde_json::Value as Json;

use super::super::document::Section;
use super::super::settings::Settings;
use super::super::twin;
use super::CLOSED_MAX;

/// What happened.
#[derive(Debug)]
pub enum Notice<'a> {
    /// CONNACK.
    Connected,
    /// SUBACK, and whether every filter was granted.
    Subscribed {
        /// All of them.
        granted: bool,
    },
    /// A publish of the hub.
    Heard {
        /// Its topic.
        topic: &'a str,
        /// Its payload.
        payload: &'a [u8],
    },
    /// Something that was said is written.
    Said,
    /// What the agent is has changed.
    Agent(Json),
    /// What [`Do::Flush`] asked for is done, or its time is over.
    Flushed {
        /// Of the call.
        rid: String,
        /// As in HTTP.
        status: u16,
        /// The answer.
        body: Json,
    },
    /// The connection is gone.
    Lost {
        /// The hub closed it.
        closed: bool,
    },
    /// Time went by.
    Tick,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Do {
    /// Subscribe to [`FILTERS`](crate::remote::topic::FILTERS).
    Subscribe,
    /// Publish this at QoS 0; [`Notice::Said`] tells when it is written.
    Say {
        /// Where.
        topic: String,
        /// What.
        payload: Vec<u8>,
    },
    /// As [`Do::Say`], with the status of now under [`answer`](crate::remote::topic::answer).
    SayStatus {
        /// Of the call.
        rid: String,
    },
    /// From now on this set is in force, beside the level.
    Apply {
        /// What it says.
        settings: Settings,
        /// Of the desired properties.
        version: i64,
        /// As it was desired: to be read again at the next start.
        desired: Section,
    },
    /// From now on this is logged.
    SetLevel {
        /// The filter.
        level: String,
        /// On whose word.
        why: &'static str,
    },
    /// Send what is held, without waiting for company; [`Notice::Flushed`] tells what became of it.
    Flush {
        /// Of the call.
        rid: String,
        /// Tell after this long at the latest.
        within: Duration,
    },
    /// After what was said, connect anew.
    Restart,
    /// Count it.
    Count(Count),
    /// For the log.
    Note(Note),
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// A call was answered.
    Call {
        /// Of the method, or `refused`.
        name: &'static str,
        /// Of the answer.
        status: u16,
    },
    /// A call was not answered.
    CallDropped,
    /// A write of reported properties was answered.
    Write(u16),
    /// A desired property: `applied`, `refused` or `unknown`.
    Desired(&'static str),
}

/// What is worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// Of the twin.
    #[error("{0}")]
    Twin(twin::Note),
    /// A desired property was not applied.
    #[error("desired property `{name}` is not applied: {why}")]
    NotApplied {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
    /// The hub says no.
    #[error("the hub does not let us subscribe to twins and methods: it is not heard on this connection")]
    NotGranted,
    /// The hub says nothing.
    #[error("the hub does not answer SUBSCRIBE: it is not heard on this connection")]
    NoSuback,
    /// The hub closes.
    #[error("the hub closed {CLOSED_MAX} connections before it answered about the twin: not asking for ten minutes")]
    Deaf,
    /// Too many calls.
    #[error("more calls than can be answered: some are not")]
    CallsDropped,
}

impl Note {
    /// True where somebody should look.
    pub fn is_warning(&self) -> bool {
        match self {
            Note::Twin(twin::Note::ChangedMeanwhile { .. } | twin::Note::Missed { .. }) => false,
            Note::Twin(_)
            | Note::NotApplied { .. }
            | Note::NotGranted
            | Note::NoSuback
            | Note::Deaf
            | Note::CallsDropped => true,
        }
    }
}
