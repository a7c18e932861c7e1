//! Named places at which a test may end the process, as a power cut would.
//!
//! Without the feature `crash-points` (off in what is shipped) a place costs nothing. With it, the variable `CRASH_AT`
//! names the place, and with `:n` the passage, at which the process ends: no destructor runs, no buffer is flushed.

/// Ends the process here if a test asked for it.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
pub fn here(_place: &str) {}

/// Ends the process here if a test asked for it.
#[cfg(feature = "crash-points")]
pub fn here(place: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static WISH: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    let wish = WISH.get_or_init(|| {
        let text = std::env::var("CRASH_AT").ok()?;
        Some(match text.split_once(':') {
            Some((name, nth)) => (name.to_owned(), nth.parse().unwrap_or(1)),
            None => (text, 1),
        })
    });
    if let Some((name, nth)) = wish
        && name == place
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *nth
    {
        std::process::abort();
    }
}
