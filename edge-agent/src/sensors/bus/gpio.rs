//! GPIO lines: edges that the kernel counts, and an output.
//!
//! The kernel numbers the edges of a line, also those that nobody fetched: the number of the last one is the count, and
//! none is lost however rarely we look. (The former interface, which linux-embedded-hal speaks, has no numbers.)

use std::time::Duration;

use embedded_hal::digital::{ErrorKind, ErrorType, OutputPin};
use gpiocdev::Request;
use gpiocdev::line::{Bias, EdgeDetection, Value};

use super::unopened;
use super::wire::{self, Wire};
use crate::sensors::config::{Edge, Place, Pull};
use crate::sensors::driver::Fault;

/// Edges fetched at once.
const FETCH_MAX: usize = 4_096;

/// How a line is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Of which chip.
    pub(crate) place: Place,
    /// Which.
    pub(crate) number: u32,
}

/// What is counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counting {
    pub(crate) line: Line,
    pub(crate) edge: Edge,
    pub(crate) pull: Option<Pull>,
    pub(crate) debounce: Duration,
}

/// The number of the last edge since it was opened; it wraps.
#[derive(Debug)]
pub(crate) struct Edges {
    open: Open,
    last: u32,
}

#[derive(Debug)]
enum Open {
    Kernel(Request),
    Socket(Wire, [u8; 6]),
}

impl Edges {
    /// Begins to count.
    pub(crate) fn open(counting: &Counting) -> Result<Self, Fault> {
        let Counting { line, edge, pull, debounce } = counting;
        let open = match &line.place {
            Place::Kernel(path) => {
                let mut request = Request::builder();
                request.on_chip(path).with_consumer("edge-agent").with_line(line.number).as_input();
                request.with_edge_detection(match edge {
                    Edge::Rising => EdgeDetection::RisingEdge,
                    Edge::Falling => EdgeDetection::FallingEdge,
                    Edge::Both => EdgeDetection::BothEdges,
                });
                if let Some(pull) = pull {
                    request.with_bias(match pull {
                        Pull::Up => Bias::PullUp,
                        Pull::Down => Bias::PullDown,
                        Pull::Off => Bias::Disabled,
                    });
                }
                if !debounce.is_zero() {
                    request.with_debounce_period(*debounce);
                }
                Open::Kernel(request.request().map_err(|error| of_kernel(line, &error))?)
            }
            Place::Socket(path) => {
                let edge = match edge {
                    Edge::Rising => b'r',
                    Edge::Falling => b'f',
                    Edge::Both => b'b',
                };
                Open::Socket(connect(path)?, message(b'e', line.number, edge))
            }
        };
        let mut edges = Self { open, last: 0 };
        // The kernel counts from 0. The simulator may have counted before we came.
        edges.last = edges.number()?;
        Ok(edges)
    }

    /// How many came since the last question.
    pub(crate) fn count(&mut self) -> Result<u32, Fault> {
        let number = self.number()?;
        Ok(number.wrapping_sub(std::mem::replace(&mut self.last, number)))
    }

    fn number(&mut self) -> Result<u32, Fault> {
        match &mut self.open {
            Open::Kernel(request) => {
                let mut number = self.last;
                let of_chip = |error: gpiocdev::Error| Fault::Bus(error.to_string());
                // So many at a time: what comes faster is counted the next time.
                for _ in 0..FETCH_MAX {
                    if !request.has_edge_event().map_err(of_chip)? {
                        break;
                    }
                    number = request.read_edge_event().map_err(of_chip)?.line_seqno;
                }
                Ok(number)
            }
            Open::Socket(wire, message) => {
                let mut answer = [0; 4];
                ask(wire, message, &mut answer)?;
                Ok(u32::from_be_bytes(answer))
            }
        }
    }
}

/// A line that is driven.
#[derive(Debug)]
pub(crate) struct Output {
    line: Line,
    open: Option<OpenOutput>,
    active_low: bool,
}

#[derive(Debug)]
enum OpenOutput {
    Kernel(Request),
    Socket(Wire),
}

/// A line could not be driven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PinError(Fault);

impl From<PinError> for Fault {
    fn from(error: PinError) -> Self {
        error.0
    }
}

impl embedded_hal::digital::Error for PinError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Other
    }
}

impl Output {
    /// A line that is driven from the first value on.
    pub(crate) const fn of(place: Place, number: u32, active_low: bool) -> Self {
        Self { line: Line { place, number }, open: None, active_low }
    }

    fn set(&mut self, high: bool) -> Result<(), Fault> {
        let (line, active_low) = (&self.line, self.active_low);
        match &mut self.open {
            Some(OpenOutput::Kernel(request)) => {
                let value = if high { Value::Active } else { Value::Inactive };
                request.set_value(line.number, value).map_err(|error| Fault::Bus(error.to_string()))
            }
            Some(OpenOutput::Socket(wire)) => {
                ask(wire, &message(b'o', line.number, (high ^ active_low).into()), &mut [])
            }
            None => {
                self.open = Some(match &line.place {
                    Place::Socket(path) => OpenOutput::Socket(connect(path)?),
                    Place::Kernel(path) => {
                        let mut request = Request::builder();
                        let value = if high { Value::Active } else { Value::Inactive };
                        request.on_chip(path).with_consumer("edge-agent").with_line(line.number).as_output(value);
                        if active_low {
                            request.as_active_low();
                        }
                        OpenOutput::Kernel(request.request().map_err(|error| of_kernel(line, &error))?)
                    }
                });
                self.set(high)
            }
        }
    }
}

impl ErrorType for Output {
    type Error = PinError;
}

impl OutputPin for Output {
    fn set_low(&mut self) -> Result<(), PinError> {
        let done = self.set(false);
        self.told(done)
    }

    fn set_high(&mut self) -> Result<(), PinError> {
        let done = self.set(true);
        self.told(done)
    }
}

impl Output {
    fn told(&mut self, done: Result<(), Fault>) -> Result<(), PinError> {
        if done.is_err() {
            self.open = None;
        }
        done.map_err(PinError)
    }
}

fn of_kernel(line: &Line, error: &gpiocdev::Error) -> Fault {
    let path = line.place.path();
    if !path.exists() {
        return unopened(path, &std::io::ErrorKind::NotFound.into());
    }
    Fault::NoBus(format!("line {} of {} cannot be had: {error}", line.number, path.display()))
}

fn connect(path: &std::path::Path) -> Result<Wire, Fault> {
    Wire::connect(path).map_err(|error| unopened(path, &error))
}

fn message(what: u8, number: u32, argument: u8) -> [u8; 6] {
    let [a, b, c, d] = number.to_be_bytes();
    [what, a, b, c, d, argument]
}

fn ask(wire: &mut Wire, message: &[u8], answer: &mut [u8]) -> Result<(), Fault> {
    match wire.ask(message, answer) {
        Ok(0) => Ok(()),
        Ok(status) => Err(Fault::NoBus(format!("the line cannot be had: the chip says {status}"))),
        Err(error) if wire::is_timeout(&error) => Err(Fault::Timeout("the chip's answer")),
        Err(error) => Err(Fault::Bus(error.to_string())),
    }
}
