//! Pages as people see them: in a browser, once their scripts have run.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

/// What a page has become in headless Chromium some seconds after it was opened.
///
/// # Errors
/// What kept Chromium from it, with what it printed.
pub fn document(http: SocketAddr, path: &str) -> Result<String, String> {
    let profile = tempfile::tempdir().map_err(|error| format!("a folder for Chromium: {error}"))?;
    let output = Command::new("chromium")
        // Nothing but this page is looked for on the network; tests run as root in containers.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--virtual-time-budget=4000", "--dump-dom"])
        .arg(format!("http://{http}{path}"))
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("start chromium: {error}; `cargo verify` installs it"))?;
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() && !seen.is_empty() {
        true => Ok(seen),
        false => Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr))),
    }
}
