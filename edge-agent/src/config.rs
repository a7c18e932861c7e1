//! The whole configuration: each module's own, under its name. `default.toml` is embedded and is the documentation.

use std::net::SocketAddr;
use std::path::Path;

use serde::Deserialize;
use shared::config::{Check, ConfigErrors, Layers, Mistakes};
use shared::telemetry;

use crate::{hub, intake, led, line, outbox, presilver, provision, remote, sensors, uplink};

/// The embedded default.
pub const DEFAULT: &str = include_str!("default.toml");

/// Default, then file, then `EDGE__…`.
pub const LAYERS: Layers = Layers { default: DEFAULT, env_prefix: "EDGE" };

/// Everything that can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Which hub, and who we are there.
    pub hub: hub::Config,
    /// Whom to ask which hub it is.
    pub provisioning: provision::Config,
    /// How both are reached.
    pub network: line::Config,
    /// The ways in.
    pub intake: intake::Config,
    /// Sensors on buses and pins of this machine: a third way in.
    #[serde(default)]
    pub sensors: Vec<sensors::Sensor>,
    /// How messages are read and judged.
    pub presilver: presilver::Config,
    /// Where rows wait.
    pub outbox: outbox::Config,
    /// How they are sent.
    pub uplink: uplink::Config,
    /// Whether the hub may look after us.
    pub remote: remote::Config,
    /// The status LED.
    pub led: led::Config,
    /// Health, metrics, status.
    pub http: Http,
    /// What is logged.
    pub log: telemetry::Config,
}

/// `[http]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Http {
    /// Where the page, `/status`, `/hour`, `/metrics`, `/healthz` and `/readyz` answer.
    pub listen: SocketAddr,
}

impl Config {
    /// Which hub, read from its secrets as they are now.
    ///
    /// # Errors
    /// It cannot be had from the settings.
    pub fn source(&self) -> Result<hub::Source, hub::SourceError> {
        self.hub.source(&self.provisioning, &self.network)
    }
}

impl Config {
    /// What two settings cannot both have.
    fn check_shared(&self, mistakes: &mut Mistakes) {
        let listener = &self.intake.listener;
        let listens = [
            ("intake.listener.listen", listener.enabled.then_some(listener.listen)),
            ("intake.listener.websocket-listen", listener.websocket_listen.filter(|_| listener.enabled)),
            ("http.listen", Some(self.http.listen)),
        ];
        let listens: Vec<_> = listens.into_iter().filter_map(|(path, address)| Some((path, address?))).collect();
        for (at, (path, address)) in listens.iter().enumerate() {
            if let Some((other, _)) = listens[..at].iter().find(|(_, other)| clash(*other, *address)) {
                mistakes.add(path, format!("{address} is taken by `{other}`; write another port"));
            }
        }
        let place = sensors::Place::parse(&self.led.chip);
        // Of sensors, counters have one.
        let counts = |sensor: &&sensors::Sensor| sensor.line == self.led.line && sensor.place() == place;
        if let (Some(line), Some(counter)) = (self.led.line, self.sensors.iter().find(counts)) {
            mistakes.add("led.line", format!("line {line} is that of {}; write another one", counter.name()));
        }
    }
}

/// Whether one of them keeps the other from being listened on.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let all = |address: SocketAddr| address.ip().is_unspecified() && one.is_ipv4() == other.is_ipv4();
    one.port() == other.port() && one.port() != 0 && (one.ip() == other.ip() || all(one) || all(other))
}

impl Check for Config {
    fn check(&self, mistakes: &mut Mistakes) {
        mistakes.ensure(self.hub.port != 0, "hub.port", "must not be 0; write 8883");
        mistakes.ensure(self.hub.websocket_port != 0, "hub.websocket-port", "must not be 0; write 443");
        let host = self.hub.host.as_deref();
        mistakes.ensure(host != Some(""), "hub.host", "is empty; leave it out to dial the connection string's host");
        self.provisioning.check(mistakes);
        self.intake.check(mistakes);
        let ways_in = self.intake.broker.enabled || self.intake.listener.enabled || !self.sensors.is_empty();
        let none = "no way in is enabled; write `enabled = true` under [intake.broker] or [intake.listener], or add [[sensors]]";
        mistakes.ensure(ways_in, "intake", none);
        sensors::config::check(&self.sensors, mistakes);
        self.led.check(mistakes);
        self.check_shared(mistakes);
        self.presilver.check(mistakes);
        self.outbox.check(mistakes);
        self.uplink.check(mistakes);
    }
}

/// A configuration with which the agent can run: commands that only look at the outbox need no hub.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub struct Runnable(pub Config);

impl Check for Runnable {
    fn check(&self, mistakes: &mut Mistakes) {
        self.0.check(mistakes);
        match self.0.source() {
            Ok(_) => {}
            Err(hub::SourceError::Hub(error)) => mistakes.add(error.path(), error.to_string()),
            Err(hub::SourceError::Provisioning(error)) => mistakes.add(error.path(), error.to_string()),
            Err(hub::SourceError::Network(error)) => mistakes.add(error.path(), error.to_string()),
        }
    }
}

/// Loads the configuration for looking at the outbox.
///
/// # Errors
/// Every mistake at once.
pub fn load(file: Option<&Path>) -> Result<Config, ConfigErrors> {
    shared::config::load(&LAYERS, file)
}

/// Loads the configuration for running.
///
/// # Errors
/// Every mistake at once, a missing or unusable connection string among them.
pub fn load_runnable(file: Option<&Path>) -> Result<Config, ConfigErrors> {
    shared::config::load::<Runnable>(&LAYERS, file).map(|runnable| runnable.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigErrors> {
        shared::config::load_from(&LAYERS, Some(("edge.toml", text)), &[])
    }

    #[test]
    fn the_embedded_default_has_no_mistake() {
        load("").expect("the default is valid");
    }

    #[test]
    fn three_mistakes_are_three_lines_with_places() {
        let text = "[outbox]\nbytes-max = \"12 bananas\"\n[uplink]\nwindow = 0\n[presilver]\nclok = \"auto\"\n";
        let errors = load(text).expect_err("mistakes");
        let places: Vec<_> = errors.mistakes().iter().map(|mistake| mistake.place.to_string()).collect();
        assert_eq!(places, ["edge.toml:2", "edge.toml:4", "edge.toml:6"], "{errors}");
    }

    #[test]
    fn what_two_settings_cannot_both_have_is_a_mistake() {
        let counter = "[[sensors]]\nkind = \"counter\"\ndevice = \"meter\"\nline = 17\n";
        for (text, path, part) in [
            (
                "[intake.listener]\nlisten = \"0.0.0.0:1883\"\nwebsocket-listen = \"127.0.0.1:1883\"\n".to_owned(),
                "intake.listener.websocket-listen",
                "taken by `intake.listener.listen`",
            ),
            (
                "[intake.listener]\nlisten = \"127.0.0.1:9101\"\n".to_owned(),
                "http.listen",
                "taken by `intake.listener.listen`",
            ),
            (
                "[intake.listener]\nwebsocket-listen = \"127.0.0.1:9101\"\n".to_owned(),
                "http.listen",
                "`intake.listener.websocket-listen`",
            ),
            (format!("{counter}[led]\nline = 17\n"), "led.line", "counter /dev/gpiochip0 line 17"),
        ] {
            let errors = load(&text).expect_err(&text);
            let [mistake] = errors.mistakes() else { panic!("{text}: {errors}") };
            assert!(mistake.path == path && mistake.message.contains(part), "{errors}");
        }
        for text in [
            "[intake.listener]\nlisten = \"127.0.0.2:9101\"\n".to_owned(),
            "[intake.listener]\nlisten = \"127.0.0.1:0\"\nwebsocket-listen = \"127.0.0.1:0\"\n".to_owned(),
            "[intake.listener]\nenabled = false\nlisten = \"127.0.0.1:9101\"\n[intake.broker]\nenabled = true\n"
                .to_owned(),
            format!("{counter}[led]\nline = 18\n"),
            format!("{counter}[led]\nline = 17\nchip = \"/dev/gpiochip1\"\n"),
        ] {
            load(&text).unwrap_or_else(|errors| panic!("{text}: {errors}"));
        }
    }

    #[test]
    fn a_level_that_would_silence_the_agent_is_a_mistake_with_its_line() {
        for level in ["verbose", "infoo", ""] {
            let errors = load(&format!("[log]\nlevel = \"{level}\"\n")).expect_err(level);
            let [mistake] = errors.mistakes() else { panic!("{errors}") };
            assert_eq!(
                (mistake.place.to_string(), mistake.path.as_str()),
                ("edge.toml:2".into(), "log.level"),
                "{errors}"
            );
        }
    }

    #[test]
    fn a_hub_may_be_provisioned_instead_and_what_is_missing_for_that_is_named() {
        let run = |text: &str| shared::config::load_from::<Runnable>(&LAYERS, Some(("edge.toml", text)), &[]);
        let whole = "[provisioning]\nid-scope = \"0ne1\"\nregistration-id = \"gw-01\"\nkey = \"c2VjcmV0\"\n";
        let config = run(whole).expect("no connection string is needed").0;
        let source = config.source().expect("an applicant");
        assert!(matches!(source, hub::Source::Provisioned(_)), "{source:?}");
        assert_eq!(source.known().gateway.as_str(), "gw-01");
        for (text, path, part) in [
            (whole.replace("key", "#key"), "provisioning.key", "is missing"),
            (whole.replace("c2VjcmV0", "no base64"), "provisioning.key", "not base64"),
            (whole.replace("id-scope", "#"), "provisioning.id-scope", "is missing"),
            (whole.replace("0ne1", "a/b"), "provisioning.id-scope", "letters and digits"),
            (whole.replace("registration", "#"), "provisioning.registration-id", "is missing"),
            (whole.replace("gw-01", "gw/01"), "provisioning.registration-id", "end in"),
            (format!("{whole}certificate-file = \"x.pem\"\n"), "provisioning.certificate-file", "belong together"),
            (format!("{whole}websocket-port = 0\n"), "provisioning.websocket-port", "443"),
            (format!("{whole}[network]\nproxy = \"http://u:c2VjcmV0@p:1\"\n"), "network.proxy", "proxy-credentials"),
            (
                format!("{whole}[network]\nproxy-credentials = \"u:c2VjcmV0\"\n"),
                "network.proxy-credentials",
                "without `proxy`",
            ),
            (
                format!("{whole}[network]\nproxy = \"http://p:1\"\nproxy-credentials = \"c2VjcmV0\"\n"),
                "network.proxy-credentials",
                "USER:PASSWORD",
            ),
            (
                format!(
                    "{whole}[network]\nproxy = \"http://p:1\"\nproxy-credentials = {{ file = \"/nowhere/proxy\" }}\n"
                ),
                "network.proxy-credentials",
                "read the secret in /nowhere/proxy",
            ),
            (
                whole.replace(
                    "key = \"c2VjcmV0\"",
                    &format!(
                        "certificate-file = \"{}/src/testdata/gw-01.pem\"\nprivate-key = {{ file = \"/nowhere/key\" }}",
                        env!("CARGO_MANIFEST_DIR")
                    ),
                ),
                "provisioning.certificate-file",
                "read the secret in /nowhere/key",
            ),
            (format!("{whole}group-key = \"c2VjcmV0\"\n"), "provisioning.group-key", "both"),
            (format!("{whole}port = 0\n"), "provisioning.port", "8883"),
            (format!("{whole}timeout = \"0s\"\n"), "provisioning.timeout", "2m"),
            (format!("{whole}backoff-min = \"1h\"\n"), "provisioning.backoff-min", "backoff-max"),
        ] {
            let errors = run(&text).expect_err(&text);
            let [mistake] = errors.mistakes() else { panic!("{text}: {errors}") };
            assert_eq!(mistake.path, path, "{errors}");
            let said = errors.to_string();
            assert!(said.contains(part) && !said.contains("c2VjcmV0"), "{said}");
        }
    }

    #[test]
    fn mqtt_and_websocket_listen_at_two_addresses() {
        for (port, faulty) in [(1884, true), (1885, false)] {
            let text =
                format!("[intake.listener]\nlisten = \"127.0.0.1:1884\"\nwebsocket-listen = \"127.0.0.1:{port}\"\n");
            let paths = load(&text).map_err(|errors| errors.mistakes()[0].path.clone()).err();
            assert_eq!(paths.as_deref(), faulty.then_some("intake.listener.websocket-listen"));
        }
        let errors = load("[intake.listener]\nwebsocket-listen = \"everywhere:1885\"\n").expect_err("no address");
        assert_eq!(errors.mistakes()[0].path, "intake.listener.websocket-listen", "{errors}");
    }

    #[test]
    fn running_wants_a_connection_string_beside_all_other_mistakes() {
        let text = "[uplink]\nwindow = 0\n";
        let errors = shared::config::load_from::<Runnable>(&LAYERS, Some(("edge.toml", text)), &[]).expect_err("two");
        assert_eq!(errors.mistakes().len(), 2, "{errors}");
    }
}
