//! The whole product on one machine: the kit with which the end-to-end tests and the demo start, kill and ask the
//! real programs.
//!
//! ```text
//! layout (folders, ports, config files) -> program (child processes) -> stack (all of them) -> demo | e2e tests
//! ```

pub mod layout; // folders, free ports, the programs' config files

pub mod settings; // what the demo and the tests set otherwise than the programs' defaults

pub mod program; // a child process: start, stop, kill

pub mod probe; // GET /status and the like

pub mod browser; // pages as people see them

pub mod proxy; // HTTP between a program and its storage, that fails

pub mod wait; // for a condition, with a deadline

pub mod stack; // hub, agent, ingester and devices together

pub mod demo; // `cargo demo`

pub mod verify; // `cargo verify`

pub mod trials; // Microsoft's SDKs for Rust, feature by feature

pub mod bench; // `tests bench hub`, `tests bench lake`, `tests bench lake-cost`

pub mod conformance; // what models make of rows, for other engines to be held against
