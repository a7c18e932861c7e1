//! A status LED on a GPIO pin: how the gateway is, for whoever stands before it.
//!
//! ```text
//! live          on, one wink                 -------- --------
//! sensor fails  on, two winks                ----- - ----- -
//! catching up   half and half                ----    ----
//! offline       a flash now and then         -       -
//! full          hectic: nothing is stored    - - - - - - - - -
//! ```

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use embedded_hal::digital::OutputPin;
use serde::Deserialize;
use shared::config::Mistakes;
use tokio_util::sync::CancellationToken;

use crate::sensors::{Output, Place, Trouble};

/// `[led]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// The GPIO chip.
    pub chip: String,
    /// The line of it; without one there is no LED.
    #[serde(default)]
    pub line: Option<u32>,
    /// The LED is on while the line is low.
    pub active_low: bool,
}

impl Config {
    /// Adds what cannot be used as it stands.
    pub fn check(&self, mistakes: &mut Mistakes) {
        mistakes.ensure(!self.chip.is_empty(), "led.chip", "is empty; write e.g. \"/dev/gpiochip0\"");
    }
}

/// What the LED says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// All is well.
    Live,
    /// Live, but a sensor of this machine's gives no readings.
    SensorFails,
    /// There is a backlog.
    CatchingUp,
    /// No hub.
    Offline,
    /// The outbox takes nothing: readings are not taken in.
    Full,
}

impl Shows {
    /// By what is known; the worst goes first.
    pub fn of(link: &str, full: bool, sensor_fails: bool) -> Self {
        match (full, link) {
            (true, _) => Shows::Full,
            (false, "catching-up") => Shows::CatchingUp,
            (false, "live" | "renewing") if sensor_fails => Shows::SensorFails,
            (false, "live" | "renewing") => Shows::Live,
            (false, _) => Shows::Offline,
        }
    }

    /// Milliseconds on and off, in turn.
    const fn pattern(self) -> &'static [(u64, u64)] {
        match self {
            Shows::Live => &[(1_900, 100)],
            Shows::SensorFails => &[(1_500, 100), (300, 100)],
            Shows::CatchingUp => &[(500, 500)],
            Shows::Offline => &[(100, 1_900)],
            Shows::Full => &[(100, 100)],
        }
    }
}

/// So long it waits before it tries a pin again that cannot be had.
const RETRY: Duration = Duration::from_secs(5);

/// Lights the LED until `stop`; `look` says what it shows. Without a line in `config` it returns at once.
pub async fn run(config: Config, look: impl Fn() -> Shows + Send + 'static, stop: CancellationToken) {
    let Some(line) = config.line else { return };
    let mut pin = Output::of(Place::parse(&config.chip), line, config.active_low);
    let (going, stopped) = std::sync::mpsc::channel::<()>();
    let spawned = std::thread::Builder::new().name("led".to_owned()).spawn(move || {
        let wait = |span| stopped.recv_timeout(span) == Err(RecvTimeoutError::Timeout);
        blink(&mut pin, look, wait, |trouble| match trouble {
            Some(trouble) => tracing::warn!("the status LED is not lit: {trouble}"),
            None => tracing::info!("the status LED is lit again"),
        });
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread for the status LED");
        return;
    }
    stop.cancelled().await;
    drop(going);
}

/// Goes through patterns while `wait` says so; leaves the pin off. `told` hears of trouble and its end, each once.
fn blink<P: OutputPin>(
    pin: &mut P,
    look: impl Fn() -> Shows,
    wait: impl Fn(Duration) -> bool,
    told: impl Fn(Option<&Trouble>),
) where
    P::Error: Into<Trouble>,
{
    let mut trouble: Option<Trouble> = None;
    loop {
        for (on, off) in look().pattern() {
            let mut lit = pin.set_high();
            if lit.is_ok() {
                if !wait(Duration::from_millis(*on)) {
                    pin.set_low().ok();
                    return;
                }
                lit = pin.set_low();
            }
            match lit {
                Ok(()) => {
                    if trouble.take().is_some() {
                        told(None);
                    }
                    if !wait(Duration::from_millis(*off)) {
                        return;
                    }
                }
                Err(error) => {
                    let error = error.into();
                    if trouble.as_ref() != Some(&error) {
                        told(Some(&error));
                    }
                    trouble = Some(error);
                    if !wait(RETRY) {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use embedded_hal::digital::{ErrorKind, ErrorType};

    use super::*;

    #[test]
    fn the_worst_is_shown() {
        for (link, full, fails, shows) in [
            ("live", false, false, Shows::Live),
            ("renewing", false, false, Shows::Live),
            ("live", false, true, Shows::SensorFails),
            ("catching-up", false, true, Shows::CatchingUp),
            ("dialing", false, true, Shows::Offline),
            ("offline", false, false, Shows::Offline),
            ("live", true, false, Shows::Full),
        ] {
            assert_eq!(Shows::of(link, full, fails), shows, "{link} {full} {fails}");
        }
    }

    #[test]
    fn no_two_patterns_look_alike() {
        let all = [Shows::Live, Shows::SensorFails, Shows::CatchingUp, Shows::Offline, Shows::Full];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].iter().any(|other| other.pattern() == one.pattern()), "{one:?}");
        }
    }

    #[derive(Debug)]
    struct Broken;

    impl embedded_hal::digital::Error for Broken {
        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    impl From<Broken> for Trouble {
        fn from(_: Broken) -> Self {
            Trouble::Bus("broken".to_owned())
        }
    }

    /// Writes down what it is told; breaks while told to.
    struct Pin<'t> {
        said: &'t RefCell<Vec<String>>,
        broken: &'t Cell<bool>,
    }

    impl ErrorType for Pin<'_> {
        type Error = Broken;
    }

    impl OutputPin for Pin<'_> {
        fn set_low(&mut self) -> Result<(), Broken> {
            self.said.borrow_mut().push("off".to_owned());
            Ok(())
        }

        fn set_high(&mut self) -> Result<(), Broken> {
            if self.broken.get() {
                return Err(Broken);
            }
            self.said.borrow_mut().push("on".to_owned());
            Ok(())
        }
    }

    #[test]
    fn a_pin_is_driven_by_the_pattern_told_of_once_when_it_fails_and_left_off() {
        let (said, broken, turns) = (RefCell::new(Vec::new()), Cell::new(false), Cell::new(0));
        let wait = |span: Duration| {
            said.borrow_mut().push(span.as_millis().to_string());
            turns.set(turns.get() + 1);
            broken.set((2..4).contains(&turns.get()));
            turns.get() < 5
        };
        let told = |trouble: Option<&Trouble>| said.borrow_mut().push(format!("told {}", trouble.is_some()));
        blink(&mut Pin { said: &said, broken: &broken }, || Shows::CatchingUp, wait, told);
        let said = said.into_inner().join(" ");
        assert_eq!(said, "on 500 off 500 told true 5000 5000 on 500 off");
    }
}
