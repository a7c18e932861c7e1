//! Where only one ingester can run at a time: who listens at an address knows that whoever did before is gone.

use std::net::SocketAddr;

/// This machine (and network namespace, and boot) and the address.
///
/// Two processes never have the same place at once, as long as they hold their listeners; a restart has the place of the
/// one before, a reboot does not.
pub(super) fn of(host: &str, listen: SocketAddr) -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let network = std::fs::read_link("/proc/self/ns/net").map(|link| link.display().to_string()).unwrap_or_default();
    // Where the system does not tell, or chooses the port, no place is the same twice.
    let unknown = boot.is_empty() || network.is_empty() || listen.port() == 0;
    let process = if unknown { format!(" process {}", std::process::id()) } else { String::new() };
    format!("{host}/{listen} {} {network}{process}", boot.trim())
}
