//! The store over a real file, with a clock that stands still.
