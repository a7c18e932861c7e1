//! Which way to take next: port 8883, or 443 where that is closed. No socket, no clock.

use serde::{Deserialize, Serialize};

/// Which ways may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// MQTT; where that does not come about, WebSocket, and so on in turn.
    #[default]
    Auto,
    /// MQTT and no other.
    Mqtt,
    /// MQTT in WebSocket messages and no other.
    #[serde(rename = "websocket")]
    WebSocket,
}

/// A way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// MQTT over TLS, port 8883.
    #[default]
    Mqtt,
    /// MQTT in WebSocket messages over TLS, port 443.
    #[serde(rename = "websocket")]
    WebSocket,
}

impl Choice {
    /// The ways in the order they are tried.
    pub fn ways(self) -> &'static [Way] {
        match self {
            Choice::Auto => &[Way::Mqtt, Way::WebSocket],
            Choice::Mqtt => &[Way::Mqtt],
            Choice::WebSocket => &[Way::WebSocket],
        }
    }
}

impl Way {
    /// As it stands in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Way::Mqtt => "mqtt",
            Way::WebSocket => "websocket",
        }
    }
}

/// What was tried. The way that worked last is taken first; each that leads nowhere gives the next one its turn.
#[derive(Debug)]
pub struct Ways {
    choice: Choice,
    at: usize,
}

impl Ways {
    /// Nothing was tried yet.
    pub fn new(choice: Choice) -> Self {
        Self { choice, at: 0 }
    }

    /// The way to take now.
    pub fn way(&self) -> Way {
        self.choice.ways()[self.at]
    }

    /// It led nowhere: no connection came about, and nobody said no. The next one, if there is another.
    pub fn failed(&mut self) -> Option<Way> {
        let count = self.choice.ways().len();
        self.at = (self.at + 1) % count;
        (1 < count).then(|| self.way())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_take_turns_until_one_works_and_that_one_is_kept() {
        let mut ways = Ways::new(Choice::Auto);
        assert_eq!(ways.way(), Way::Mqtt);
        assert_eq!(ways.failed(), Some(Way::WebSocket));
        assert_eq!(ways.way(), Way::WebSocket);
        assert_eq!(ways.way(), Way::WebSocket, "a lost connection is made anew the same way");
        assert_eq!(ways.failed(), Some(Way::Mqtt));
        for (choice, way) in [(Choice::Mqtt, Way::Mqtt), (Choice::WebSocket, Way::WebSocket)] {
            let mut ways = Ways::new(choice);
            assert_eq!((ways.failed(), ways.way()), (None, way));
        }
    }
}
