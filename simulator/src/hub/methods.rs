//! Direct methods under way. In memory alone: as with the service, a call does not outlive the hub.
//!
//! ```text
//! invoke --letter--> mailbox --> device --> answer --by number and device--> invoke
//! ```

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::mqtt::{Hears, Letter, Seats};
use super::who::Who;

/// Of a request or an answer.
pub const METHOD_BYTES_MAX: usize = 128 * 1024;
/// Of a method's name.
const NAME_MAX: usize = 100;
/// Calls under way, of all devices.
const CALLS_MAX: usize = 20_000;

/// How long one waits for an answer, by default.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// A call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Of the method.
    pub name: String,
    /// `null` comes as `null`.
    pub payload: Value,
    /// 5 to 300 s, the service demands; whoever lets callers say it has to check. It begins when the device listens.
    pub response_timeout: Duration,
    /// How long to wait for a device that does not listen: 0 to 300 s.
    pub connect_timeout: Duration,
}

/// What the device says.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// Of its own choice.
    pub status: i32,
    /// `null` if it is empty.
    pub payload: Value,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MethodFault {
    /// It is not connected, or not subscribed to methods, within `connect_timeout`.
    #[error("the device is not online")]
    NotOnline,
    /// It did not answer within `response_timeout`.
    #[error("timed out waiting for the response from device")]
    TimedOut,
    /// More than 128 KB.
    #[error("a payload of {bytes} bytes; {METHOD_BYTES_MAX} are allowed")]
    TooLarge {
        /// As JSON.
        bytes: usize,
    },
    /// No method can be called so.
    #[error("a method's name has 1 to {NAME_MAX} letters, digits and - . _ ~ ! $ ' ( ) * , ; : = @")]
    Name,
    /// Too many wait already.
    #[error("too many calls wait for the device")]
    Busy,
    /// What the device answered is not JSON.
    #[error("the device's answer is not JSON")]
    BadAnswer,
}

impl MethodFault {
    /// As HTTP says it.
    pub const fn status(&self) -> u16 {
        match self {
            MethodFault::NotOnline => 404,
            MethodFault::TimedOut => 504,
            MethodFault::TooLarge { .. } => 413,
            MethodFault::Name => 400,
            MethodFault::Busy => 429,
            MethodFault::BadAnswer => 502,
        }
    }

    /// The service's error code.
    pub const fn code(&self) -> u32 {
        match self {
            MethodFault::NotOnline => 404_103,
            MethodFault::TimedOut => 504_101,
            MethodFault::TooLarge { .. } => 413_001,
            MethodFault::Name => 400_004,
            MethodFault::Busy => 429_001,
            MethodFault::BadAnswer => 502_001,
        }
    }
}

/// Calls under way; clones are the same.
#[derive(Debug, Clone)]
pub struct Methods {
    inner: Arc<Inner>,
}

type Caller = oneshot::Sender<Result<Answer, MethodFault>>;

#[derive(Debug)]
struct Inner {
    seats: Seats,
    given: AtomicU64,
    waiting: Mutex<HashMap<u64, (Who, Caller)>>,
}

/// Forgets the call when its caller is gone.
struct Waiting<'a> {
    inner: &'a Inner,
    request: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inner.waiting().remove(&self.request);
    }
}

impl Methods {
    /// Calls to whom `seats` knows.
    pub fn new(seats: Seats) -> Self {
        Self { inner: Arc::new(Inner { seats, given: AtomicU64::new(1), waiting: Mutex::default() }) }
    }

    /// Calls a method of a device and waits for its answer. Whether there is such a device only the registry knows.
    ///
    /// # Errors
    /// If it does not listen, does not answer in time, or the call cannot be made.
    pub async fn invoke(&self, who: &Who, call: Call) -> Result<Answer, MethodFault> {
        if !is_name(&call.name) {
            return Err(MethodFault::Name);
        }
        let payload = Bytes::from(call.payload.to_string());
        if METHOD_BYTES_MAX < payload.len() {
            return Err(MethodFault::TooLarge { bytes: payload.len() });
        }
        self.wait_for(who, call.connect_timeout).await?;
        let inner = &*self.inner;
        let until = Instant::now() + call.response_timeout;
        let request = inner.given.fetch_add(1, Ordering::Relaxed);
        let (answered, answer) = oneshot::channel();
        {
            let mut waiting = inner.waiting();
            if CALLS_MAX <= waiting.len() {
                return Err(MethodFault::Busy);
            }
            waiting.insert(request, (who.clone(), answered));
        }
        let _waiting = Waiting { inner, request };
        let letter = Letter::Method { request, name: call.name, payload, until: until.into_std() };
        if !inner.seats.post(who, Hears::Methods, letter) {
            return match inner.seats.hears(who, Hears::Methods) {
                true => Err(MethodFault::Busy),
                false => Err(MethodFault::NotOnline),
            };
        }
        match timeout_at(until, answer).await {
            Ok(Ok(answer)) => answer,
            // The sender goes only with the table's entry.
            Ok(Err(_)) | Err(_) => Err(MethodFault::TimedOut),
        }
    }

    /// How many wait for an answer.
    pub fn under_way(&self) -> usize {
        self.inner.waiting().len()
    }

    /// A device's answer to the call of this number. One that nobody waits for any more, or that is another device's, is
    /// left out: then it gives false.
    pub(super) fn answer(&self, who: &Who, request: u64, status: i32, payload: &[u8]) -> bool {
        let answered = {
            let mut waiting = self.inner.waiting();
            match waiting.get(&request) {
                Some((whose, _)) if whose == who => waiting.remove(&request),
                _ => None,
            }
        };
        let Some((_, answered)) = answered else { return false };
        let answer = match payload {
            _ if METHOD_BYTES_MAX < payload.len() => Err(MethodFault::TooLarge { bytes: payload.len() }),
            payload if payload.trim_ascii().is_empty() => Ok(Answer { status, payload: Value::Null }),
            payload => match serde_json::from_slice(payload) {
                Ok(payload) => Ok(Answer { status, payload }),
                Err(_) => Err(MethodFault::BadAnswer),
            },
        };
        answered.send(answer).is_ok()
    }

    async fn wait_for(&self, who: &Who, timeout: Duration) -> Result<(), MethodFault> {
        let until = Instant::now() + timeout;
        let mut changes = self.inner.seats.changes();
        loop {
            changes.mark_unchanged();
            if self.inner.seats.hears(who, Hears::Methods) {
                return Ok(());
            }
            match timeout_at(until, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(MethodFault::NotOnline),
            }
        }
    }
}

impl Inner {
    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, (Who, Caller)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// It becomes a segment of a topic.
fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$'()*,;:=@".contains(&byte);
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(allowed)
}
