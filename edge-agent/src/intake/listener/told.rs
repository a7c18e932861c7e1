//! What was logged when: a reason is logged at most once a minute, and the next time with how often it was not.
//! A thousand devices with a wrong password are one line, and what they cost stands in the metrics.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const EVERY: Duration = Duration::from_secs(60);

/// When each reason was logged last, and how often it was not since.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashMap<&'static str, (Instant, u64)>>);

impl Told {
    /// How often this reason was kept quiet before, if it is to be logged now.
    pub(super) fn again(&self, reason: &'static str, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match told.get_mut(reason) {
            Some((last, quiet)) if now < *last + EVERY => {
                *quiet += 1;
                None
            }
            Some((last, quiet)) => {
                *last = now;
                Some(std::mem::take(quiet))
            }
            None => {
                told.insert(reason, (now, 0));
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_told_once_a_minute_with_how_often_it_was_not() {
        let (told, begin) = (Told::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(told.again("denied", at(0)), Some(0));
        assert_eq!(told.again("denied", at(1)), None);
        assert_eq!(told.again("tls", at(1)), Some(0), "another reason is another line");
        assert_eq!(told.again("denied", at(59)), None);
        assert_eq!(told.again("denied", at(60)), Some(2));
        assert_eq!(told.again("denied", at(61)), None);
    }
}
