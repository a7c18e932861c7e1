//! The buses and pins of this machine: the kernel's, through linux-embedded-hal and gpiocdev, or the simulator's, through
//! sockets. Whoever uses them sees embedded-hal's traits, and no difference.

pub(crate) mod gpio; // lines: edges counted, an output

pub(crate) mod i2c;

mod wire; // the simulator's sockets

use std::io;
use std::path::Path;

use super::driver::Fault;

/// Why a path cannot be opened, and what to do.
pub(crate) fn unopened(path: &Path, error: &io::Error) -> Fault {
    let path_text = path.display();
    let what = match error.kind() {
        io::ErrorKind::NotFound if path.starts_with("/dev/i2c-1") => {
            "is not there; switch I2C on (`raspi-config`, or dtparam=i2c_arm=on)".to_owned()
        }
        io::ErrorKind::NotFound => "is not there".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "may not be opened; its group (`i2c`, `gpio`) must hold the agent's user".to_owned()
        }
        _ => format!("cannot be opened: {error}"),
    };
    Fault::NoBus(format!("{path_text} {what}"))
}
