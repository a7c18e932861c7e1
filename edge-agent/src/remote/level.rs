//! What is logged: as configured, as the twin desires, or, for a while, as a call asked for.

use std::time::{Duration, Instant};

/// Longest filter that is taken from afar.
const LEVEL_BYTES_MAX: usize = 512;

/// The levels in force and behind it.
#[derive(Debug)]
pub struct Levels {
    configured: String,
    desired: Option<String>,
    asked: Option<Asked>,
}

#[derive(Debug)]
struct Asked {
    level: String,
    until: Option<Instant>,
}

impl Levels {
    /// As configured.
    pub fn new(configured: &str) -> Self {
        Self { configured: configured.to_owned(), desired: None, asked: None }
    }

    /// What is logged now.
    pub fn in_force(&self) -> &str {
        let asked = self.asked.as_ref().map(|asked| &asked.level);
        asked.or(self.desired.as_ref()).unwrap_or(&self.configured)
    }

    /// When that ends by itself.
    pub fn until(&self) -> Option<Instant> {
        self.asked.as_ref().and_then(|asked| asked.until)
    }

    /// The twin desires another one, or none: whoever said something last is heard, so a call's is over.
    pub fn desire(&mut self, level: Option<String>) {
        (self.desired, self.asked) = (level, None);
    }

    /// A call asks for one, for so long or until something else is said.
    pub fn ask(&mut self, level: String, span: Option<Duration>, now: Instant) {
        self.asked = Some(Asked { level, until: span.map(|span| now + span) });
    }

    /// What was asked for is over.
    pub fn withdraw(&mut self) {
        self.asked = None;
    }

    /// True if what was asked for ended now.
    pub fn tick(&mut self, now: Instant) -> bool {
        let over = self.until().is_some_and(|until| until <= now);
        if over {
            self.asked = None;
        }
        over
    }
}

/// Whether `level` may come into force from afar: as in the configuration, and short.
///
/// # Errors
/// Why not.
pub fn check(level: &str) -> Result<(), String> {
    if LEVEL_BYTES_MAX < level.len() {
        return Err(format!("longer than {LEVEL_BYTES_MAX} bytes"));
    }
    shared::telemetry::check_level(level)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_spoke_last_is_heard_and_a_span_ends() {
        let (mut levels, now) = (Levels::new("info"), Instant::now());
        levels.desire(Some("warn".into()));
        assert_eq!(levels.in_force(), "warn");
        levels.ask("debug".into(), Some(Duration::from_secs(60)), now);
        assert!(!levels.tick(now));
        assert_eq!(levels.in_force(), "debug");
        assert!(levels.tick(now + Duration::from_secs(60)));
        assert_eq!((levels.in_force(), levels.until()), ("warn", None));
        levels.ask("trace".into(), None, now);
        assert!(!levels.tick(now + Duration::from_secs(1_000_000)));
        levels.desire(None);
        assert_eq!(levels.in_force(), "info");
        levels.ask("trace".into(), None, now);
        levels.withdraw();
        assert_eq!(levels.in_force(), "info");
    }

    #[test]
    fn a_level_from_afar_silences_nothing_by_mistake() {
        for good in ["info", "DEBUG", "off", "info,edge_agent::uplink=debug", "rumqttc=warn, trace"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", "debgu", "edge_agent=debug", "info,=", "info,a=b=c", "in\nfo", "verbose", &"info,".repeat(200)]
        {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_level_makes_it_panic(any in ".{0,40}", like in "(info|debug|a::b|=|,|\\[|\\]|\\{|\\}|\"|/){0,12}") {
            let _ = check(&any);
            let _ = check(&like);
        }
    }
}
