//! The binary `simulator`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    simulator::cli::main(std::env::args_os())
}
