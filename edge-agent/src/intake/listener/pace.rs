//! How fast a connection is read.
//!
//! Each packet moves a point in time ahead, by its share of what is allowed in a second. While that point lies in the
//! past nobody waits; a connection that was silent has at most a second of it saved up.

use std::time::{Duration, Instant};

/// What may be saved up, in time.
const SAVED: Duration = Duration::from_secs(1);

/// The pace of one connection.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    messages_per_s: Option<f64>,
    bytes_per_s: Option<f64>,
    /// Up to when everything is spent.
    spent: Option<Instant>,
}

impl Pace {
    /// A pace of at most so much in a second.
    pub(super) fn new(messages_per_s: Option<u32>, bytes_per_s: Option<u64>) -> Self {
        Self {
            messages_per_s: messages_per_s.map(f64::from),
            bytes_per_s: bytes_per_s.map(|bytes| bytes as f64),
            spent: None,
        }
    }

    /// True if there is a limit at all.
    pub(super) fn is_limited(&self) -> bool {
        self.messages_per_s.is_some() || self.bytes_per_s.is_some()
    }

    /// So much was read.
    pub(super) fn spend(&mut self, now: Instant, messages: u32, bytes: usize) {
        let of_messages = self.messages_per_s.map_or(0.0, |rate| f64::from(messages) / rate);
        let of_bytes = self.bytes_per_s.map_or(0.0, |rate| bytes as f64 / rate);
        let saved = now.checked_sub(SAVED).unwrap_or(now);
        let spent = self.spent.map_or(saved, |spent| spent.max(saved));
        self.spent = Some(spent + Duration::from_secs_f64(of_messages.max(of_bytes)));
    }

    /// Until when nothing more is read; `None` if that is over.
    pub(super) fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.spent.filter(|spent| now < *spent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads packets as fast as the pace lets, for ten seconds; how many.
    fn packets_in_ten_seconds(pace: &mut Pace, bytes: usize) -> u32 {
        let begin = Instant::now();
        let (mut now, mut count) = (begin, 0);
        while now < begin + Duration::from_secs(10) {
            match pace.rests_until(now) {
                Some(until) => now = until,
                None => {
                    pace.spend(now, 1, bytes);
                    count += 1;
                }
            }
        }
        count
    }

    #[test]
    fn in_the_long_run_no_more_than_the_rate_is_read_whichever_is_reached_first() {
        // Ten seconds, the one saved up, and the packet that reaches the limit.
        for (mut pace, bytes, packets) in [
            (Pace::new(Some(100), None), 1, 1101),
            (Pace::new(None, Some(1000)), 100, 111),
            (Pace::new(Some(100), Some(1000)), 100, 111),
            (Pace::new(Some(100), Some(1_000_000)), 100, 1101),
            // A packet larger than a second's share is read whole, and paid for afterwards.
            (Pace::new(None, Some(1000)), 5000, 3),
        ] {
            let counted = packets_in_ten_seconds(&mut pace, bytes);
            assert!((packets - 1..=packets + 1).contains(&counted), "{counted} of {packets}, {pace:?}");
        }
    }

    #[test]
    fn silence_saves_up_a_second_and_no_more() {
        let begin = Instant::now();
        let mut pace = Pace::new(Some(10), None);
        pace.spend(begin, 1, 1);
        let later = begin + Duration::from_secs(3600);
        pace.spend(later, 10, 1);
        assert_eq!(pace.rests_until(later), None);
        pace.spend(later, 1, 1);
        assert!(pace.rests_until(later).is_some());
    }
}
