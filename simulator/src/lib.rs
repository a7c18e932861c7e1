//! Devices, recordings, a local IoT Hub, and the proof.

pub mod hub; // what stands in for Azure IoT Hub
