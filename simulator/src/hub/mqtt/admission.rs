//! Who a device that introduced itself is, and what it leaves behind if it goes without a goodbye.

use shared::sas::Refusal;

use super::Door;
use super::auth::{self, Denied, Guest, Rules};
use super::ended::Mark;
use super::seats::Seat;
use super::telemetry::{self, Said};
use crate::gate::{Chain, Hello};
use crate::hub::limits::Verdict;
use crate::hub::log::NewEvent;

/// A device that was let in.
pub(super) struct Admitted {
    pub(super) guest: Guest,
    pub(super) seat: Seat,
    pub(super) will: Option<Will>,
    /// Of those who have one.
    pub(super) token: Option<Mark>,
}

pub(super) struct Will {
    event: Box<NewEvent>,
    /// As it is metered.
    bytes: usize,
}

/// Whom the registry says it is.
pub(super) fn judge(door: &Door, hello: &Hello, chain: &Chain) -> Result<(Guest, Option<Will>), Denied> {
    let rules = Rules {
        hosts: &door.desk.hosts,
        known: &door.desk.registry.now(),
        authorities: &door.authorities,
        clock_skew: door.limits.clock_skew.duration(),
        now: door.desk.clock.now(),
    };
    let guest = auth::admit(hello, chain, &rules)?;
    if hello.password.as_ref().is_some_and(|token| door.ended.has(Mark::of(token))) {
        let now_s = door.desk.clock.now().millis().div_euclid(1_000);
        return Err(Refusal::Expired { expiry_s: now_s, now_s }.into());
    }
    let Some(will) = &hello.will else { return Ok((guest, None)) };
    match telemetry::said(&guest, will) {
        Ok(Said::Event { mut event, bytes }) => {
            event.properties.push(("iothub-MessageType".to_owned(), "Will".to_owned()));
            Ok((guest, Some(Will { event, bytes })))
        }
        _ => Err(Denied::Will),
    }
}

impl Will {
    /// The device is gone; nobody is left to be told of a failure, so it is counted. A will that a throttle would queue
    /// is stored at once.
    pub(super) async fn publish(self, door: &Door) {
        let body_bytes = self.event.body.len() as u64;
        let refused = matches!(door.meter(self.bytes), Verdict::Never { .. });
        if refused || door.log.append(*self.event).await.is_err() {
            door.metrics.dropped("will");
        } else {
            door.metrics.took(body_bytes);
        }
    }
}
