//! Who must act on a failure.

/// Who must act, and so what becomes of the work at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// What was sent is wrong: quarantine it.
    Data,
    /// The other side or the network: try again later.
    Peer,
    /// The operator's settings or the machine: say what to change, exit 64.
    Config,
    /// This program: exit 70.
    Bug,
}

impl Blame {
    /// As it stands in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Blame::Data => "data",
            Blame::Peer => "peer",
            Blame::Config => "config",
            Blame::Bug => "bug",
        }
    }
}
