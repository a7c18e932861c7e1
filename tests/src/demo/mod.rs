//! `cargo demo`: the whole product on one machine, with embedded defaults, ending with the proof.

mod args;
mod directory;
mod interrupt;
mod progress;
mod report;
mod run;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use shared::cli::{self, Exit};

/// Runs the demo; the first argument is the name under which it was called.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let args = match cli::parse::<args::Args>(args) {
        Ok(args) => args,
        Err(exit) => return exit,
    };
    shared::tls::install_provider();
    match run::run(&args) {
        Ok(true) => Exit::Ok.into(),
        Ok(false) => Exit::No.into(),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "demo: {}", cli::chain(&error)); // a closed terminal hears nothing
            error.exit().into()
        }
    }
}
