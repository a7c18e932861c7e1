//! The lake's writer: reads the hub, writes bronze, silver and gold Delta tables exactly once, answers SQL.

pub mod lake; // tables, commits, sessions: the only rooms that know Delta
