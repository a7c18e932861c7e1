//! How hops work.

use std::time::Duration;

use shared::clock::Clock;
use shared::rules::{Rule, TimeWindow};

use super::catalogue::Source;
use crate::gold::watermark::Patience;
use crate::gold::{Model, windowed};
use crate::lake::session::Limits;
use crate::silver::{Mapping, Rules, Unique};
use crate::upkeep;

/// How hops work.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How far an event time may lie from the enqueued time.
    pub window: TimeWindow,
    /// Whose messages are known by their ids.
    pub unique: Unique,
    /// How messages of direct devices are read; the first that fits.
    pub mappings: Vec<Mapping>,
    /// What is expected of values of direct devices.
    pub rules: Vec<Rule>,
    /// Where the devices are described.
    pub catalogue: Option<Source>,
    /// About how many bytes of source files one commit reads.
    pub chunk_bytes: u64,
    /// What SQL may use of memory.
    pub limits: Limits,
    /// While silver has news, a model rests this many times as long as its last hop took: its windows are computed anew
    /// with each hop, so fewer hops cost less, and silver and whatever else runs here get on. 0: it never rests.
    pub rest: u32,
    /// Rows of a window model that are computed together in memory.
    pub window_rows: u64,
    /// Whether models that run by a schedule are computed beside the other hops, not within a round.
    pub beside: bool,
    /// What was seen is kept beside the tables this often.
    pub note_every: Duration,
    /// Users' models.
    pub own: Vec<Model>,
    /// When windows are final.
    pub patience: Patience,
    /// What time it is.
    pub clock: Clock,
    /// How the tables are kept.
    pub upkeep: upkeep::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            window: TimeWindow::SILVER,
            unique: Unique::default(),
            mappings: vec![],
            rules: vec![],
            catalogue: None,
            chunk_bytes: 32 << 20,
            limits: Limits { memory_bytes: 512 << 20 },
            rest: 2,
            window_rows: windowed::ROWS_MAX,
            beside: false,
            note_every: Duration::from_secs(60),
            own: vec![],
            patience: Patience::default(),
            clock: Clock::Real,
            upkeep: upkeep::Settings::default(),
        }
    }
}

impl Settings {
    /// By what silver judges.
    #[must_use]
    pub fn rules_of_now(&self) -> Rules {
        Rules::with(self.window, self.unique.clone(), self.mappings.clone(), self.rules.clone())
    }
}
