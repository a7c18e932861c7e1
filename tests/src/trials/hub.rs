//! Where the hub is, from the environment as for all trials, and how events get into it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value as Json;
use shared::clock::Clock;
use shared::sas::{self, Key};

use crate::probe;

/// The hub of a trial, and a device of the trial's own.
pub(super) struct Hub {
    strings: Json,
    http: std::net::SocketAddr,
    device: String,
}

/// Events of this trial among those of others.
pub(super) struct Mine {
    mark: String,
    pub(super) partition: String,
    /// Sequence number of the first.
    pub(super) first: i64,
}

impl Hub {
    /// From `SDK_HUB`, `SDK_HUB_HTTP` and `SDK_DEVICE`.
    pub(super) fn from_env() -> Result<Self, String> {
        let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
        let text = std::fs::read_to_string(variable("SDK_HUB")?).map_err(|error| error.to_string())?;
        let strings = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        let http = variable("SDK_HUB_HTTP")?;
        let http = http.trim_start_matches("http://").parse().map_err(|_| format!("{http} is no address"))?;
        Ok(Self { strings, http, device: variable("SDK_DEVICE")? })
    }

    /// A text of `hub connection-strings --json`.
    pub(super) fn text(&self, pointer: &str) -> &str {
        self.strings.pointer(pointer).and_then(Json::as_str).unwrap_or_default()
    }

    /// A list of `hub connection-strings --json`.
    pub(super) fn list(&self, pointer: &str) -> &[Json] {
        self.strings.pointer(pointer).and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    /// What the hub holds of this device's events, from a sequence number on.
    pub(super) fn events(&self, from: i64) -> Result<Json, String> {
        let path = format!("/events?device={}&from={from}&max=1000", self.device);
        let page = probe::get(self.http, &path).ok_or("the hub does not answer")?;
        serde_json::from_str(&page).map_err(|error| error.to_string())
    }

    /// Publishes so many events, numbered in their bodies.
    pub(super) fn publish(&self, count: usize, bag: &str) -> Result<Mine, String> {
        let (partition, first) = self.end()?;
        let now = Clock::Real.now();
        let mark = format!("{:x}", now.micros());
        let bodies: Vec<String> = (0..count).map(|number| format!("{mark} {number}")).collect();
        self.send(&bodies.join("\n"), bag, "-l", now.millis() / 1_000 + 600)?;
        Ok(Mine { mark, partition, first })
    }

    /// Publishes one event of `bytes` bytes.
    pub(super) fn publish_large(&self, bytes: usize) -> Result<Mine, String> {
        let (partition, first) = self.end()?;
        let now = Clock::Real.now();
        let mark = format!("{:x}", now.micros());
        let body = format!("{mark} 0{}", " ".repeat(bytes.saturating_sub(mark.len() + 2)));
        self.send(&body, "", "-s", now.millis() / 1_000 + 600)?;
        Ok(Mine { mark, partition, first })
    }

    /// The partition of this device, and its next sequence number.
    fn end(&self) -> Result<(String, i64), String> {
        let partition = self.events(0)?["partition"].as_u64().ok_or("no partition")?;
        let status = probe::status(self.http).ok_or("the hub does not answer")?;
        let info = status["partitions"].as_array().and_then(|all| all.get(partition as usize));
        let last = info.and_then(|info| info["last-enqueued-sequence-number"].as_i64()).ok_or("no such partition")?;
        Ok((partition.to_string(), last + 1))
    }

    fn send(&self, bodies: &str, bag: &str, how: &str, expiry_s: i64) -> Result<(), String> {
        let string = self.text(&format!("/devices/{}", self.device)).to_owned();
        let part = |name: &str| string.split(';').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        let (host, key) = (part("HostName").ok_or("no host")?, part("SharedAccessKey").ok_or("no key")?);
        let key = Key::device(key).ok_or("no key")?;
        let device = &self.device;
        let token = sas::sign(&format!("{host}/devices/{device}"), &key, expiry_s, None);
        let mut child = Command::new("mosquitto_pub")
            .args(["-h", self.text("/mqtt/host"), "-p", &self.strings["mqtt"]["port"].to_string()])
            .args(["--cafile", self.text("/ca-file"), "-i", device, "-q", "1", how])
            .args(["-u", &format!("{host}/{device}/?api-version=2021-04-12"), "-P", &token])
            .args(["-t", &format!("devices/{device}/messages/events/{bag}")])
            .stdin(Stdio::piped())
            .spawn()
            .map_err(|error| format!("mosquitto_pub: {error}"))?;
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(bodies.as_bytes()).map_err(|error| format!("mosquitto_pub: {error}"))?;
        drop(stdin);
        let ended = child.wait().map_err(|error| format!("mosquitto_pub: {error}"))?;
        ended.success().then_some(()).ok_or_else(|| format!("mosquitto_pub: {ended}"))
    }
}

impl Mine {
    /// The number of an event, if it is one of these.
    pub(super) fn number(&self, body: &[u8]) -> Option<i64> {
        let (mark, number) = std::str::from_utf8(body).ok()?.trim_end().split_once(' ')?;
        (mark == self.mark).then(|| number.trim().parse().ok())?
    }
}
