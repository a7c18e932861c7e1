//! What a microcontroller needs to speak to the agent in CBOR: one file, no heap, no standard library. Take `encoder.rs`
//! into the firmware and publish what [`encoder::message`] gives on a topic whose mapping says `format = "cbor"`.
#![no_std]

pub mod encoder;
