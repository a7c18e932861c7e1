//! The lake: the only place that names deltalake.

pub mod tables;
