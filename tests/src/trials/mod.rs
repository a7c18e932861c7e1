//! Microsoft's SDKs for Rust, tried against a hub, feature by feature: what the scripts under `tests/sdk` are for the
//! SDKs of other languages. `tests --trial SDK --list`, `tests --trial SDK FEATURE`.

mod eventhubs; // azure_messaging_eventhubs

mod processor; // its EventProcessor

mod hub; // where the hub is, and how events get into it

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use shared::cli::Exit;

/// Tries a feature, or lists what there is.
pub fn main(args: &[OsString]) -> ExitCode {
    shared::tls::install_provider();
    let words: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let done = match words.as_slice() {
        ["eventhubs", "--list"] => {
            let list = eventhubs::FEATURES.join("\n");
            writeln!(std::io::stdout(), "{list}").map_err(|error| error.to_string())
        }
        ["eventhubs", feature] => eventhubs::attempt(feature),
        _ => return Exit::Usage.into(),
    };
    match done {
        Ok(()) => Exit::Ok.into(),
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "{why}"); // a closed pipe hears nothing
            Exit::No.into()
        }
    }
}
