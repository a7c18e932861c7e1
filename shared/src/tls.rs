//! One TLS implementation for the whole process.

/// Makes ring the process's only rustls provider. First thing in every `cli::main`: several providers arrive through
/// dependencies, and rustls panics rather than choose between them. Called again it does nothing.
pub fn install_provider() {
    // An error says that a provider is installed already, which is what we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
