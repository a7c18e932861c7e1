//! silver -> gold.metric_1m, gold.device_latest, gold.gateway_health.
//!
//! Every hop reads only the new files of its source, finds the keys and windows they touch, computes these again from
//! silver as it stands, and replaces them in one commit that also carries the hop's progress. So the tables do not
//! depend on how batches were cut, when a hop ran, or in which order rows came.

pub mod model; // a model file: header and SELECT

pub mod window; // tumbling windows, and how much at once

pub mod keys; // keys of rows, exact

pub mod rewrite; // replacing rows in one commit

pub mod windowed; // mode `window`

pub mod latest; // mode `latest`

pub mod health; // the proof

pub use model::{Mode, Model};
pub use rewrite::Rewrite;
pub use windowed::Scope;
