//! The binary `cloud-ingester`; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    cloud_ingester::cli::main(std::env::args_os())
}
