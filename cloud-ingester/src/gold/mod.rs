//! silver -> gold: the tables of models (those of the product and users' own), gateway_health and watermarks.
//!
//! Every hop reads only the new files of its source, finds the keys and windows they touch, computes these again from
//! silver as it stands, and replaces them in one commit that also carries the hop's progress. So the tables do not
//! depend on how batches were cut, when a hop ran, or in which order rows came.

pub mod model; // a model file: header and SELECT

mod lint; // what a SELECT may use

pub mod planned; // whether a SELECT fits, and the table it fills

pub mod models; // every model there is

pub mod window; // windows in fixed places, sessions, and how much at once

pub mod keys; // keys of rows, exact

pub mod inputs; // the rows a model reads

pub mod affected; // which windows new rows touch

pub mod pruned; // and which files can hold them

pub mod rewrite; // replacing rows in one commit

mod fed; // rows computed while they are read

mod spill; // more rows than memory holds

pub mod windowed; // mode `window`

pub mod latest; // mode `latest`

pub mod plain; // modes `append` and `full`

pub mod health; // the proof

pub mod watermark; // until when all is here

pub mod trace; // from a row back to the hub

pub use affected::Final;
pub use inputs::Inputs;
pub use model::{Mistake, Mode, Model, Refresh, Source, Windows};
pub use models::OwnModels;
pub use rewrite::Rewrite;
pub use windowed::Scope;
