//! The words both sides speak. Knows no broker, disk, lake or runtime; the feature `service` adds what a
//! long-running program needs beside the vocabulary.
//!
//! In the order of the pipeline:
//!
//! ```text
//! bytes --payload--> Reading | Rejected --rules--> Reading | Rejected --envelope--> the hub --envelope--> silver
//! ```

pub mod time; // Timestamp: whole microseconds, UTC

pub mod reading; // ids, Value, Reading, Rejected

pub mod payload; // what a device publishes -> measurements, one by one

pub mod rules; // a measurement against what is expected of it

pub mod envelope; // one device-to-cloud message: readings, refusals, gaps, closings

pub mod topic; // IoT Hub topics and their property bags

pub mod sas; // shared-access tokens: sign, check, expiry

pub mod backoff; // jittered exponential waits

pub mod blame; // who must act on a failure

pub mod crash; // named places at which a test may end the process

// What a long-running program needs, behind feature `service`.

#[cfg(feature = "service")]
pub mod clock; // what time it is, real or virtual

#[cfg(feature = "service")]
pub mod config; // default < file < environment, all mistakes at once

#[cfg(feature = "service")]
pub mod cli; // arguments in, exit codes out

#[cfg(feature = "service")]
pub mod telemetry; // logs and metrics

#[cfg(feature = "service")]
pub mod http; // /healthz /readyz /metrics

#[cfg(feature = "service")]
pub mod notify; // systemd

#[cfg(feature = "service")]
pub mod shutdown; // stop, drain, leave

#[cfg(feature = "service")]
pub mod tls; // one provider
