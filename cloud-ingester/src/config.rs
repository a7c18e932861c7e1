//! The ingester's configuration; `default.toml` is its documentation.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use shared::config::{Check, ConfigErrors, Layers, Mistakes, Secret, SecretError, SecretSource, Size, Span};
use shared::rules::{Rule, TimeWindow};
use shared::telemetry;

use crate::bronze::cutter::Limits;
use crate::gold::watermark::Patience;
use crate::hop::catalogue::Source;
use crate::lake::{LakeError, Location, session};
use crate::silver::{Mapping, MessageId, Unique};
use crate::source::claims::Timing;
use crate::source::eventhubs::Target;
use crate::upkeep;

/// Where the configuration comes from.
pub const LAYERS: Layers = Layers { default: include_str!("default.toml"), env_prefix: "INGEST" };

/// Everything the ingester can be told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Where Events come from.
    pub hub: Hub,
    /// Where tables lie.
    pub lake: LakeSection,
    /// When bronze commits.
    pub bronze: Bronze,
    /// What silver accepts.
    pub silver: Silver,
    /// How often hops run.
    pub hops: Hops,
    /// What gold holds.
    pub gold: Gold,
    /// How the tables are kept.
    pub upkeep: Upkeep,
    /// The HTTP face.
    pub http: Http,
    /// Logs.
    pub log: telemetry::Config,
    /// How it stops.
    pub stop: Stop,
}

/// `[hub]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Hub {
    /// The service's connection string.
    pub connection_string: Option<SecretSource>,
    /// Dialled instead of what the connection string names.
    pub endpoint: Option<String>,
    /// The consumer group.
    pub consumer_group: String,
    /// How often the hub is asked how far it is.
    pub check_every: Span,
    /// Bytes of Events that may wait for bronze.
    pub bytes_ahead: Size,
    /// How long a claim to a partition lasts that is not renewed.
    pub claims_expire: Span,
}

/// `[lake]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct LakeSection {
    /// A directory or a URL.
    pub url: String,
    /// Memory for queries and hops.
    pub memory: Size,
    /// What the object store wants to know.
    #[serde(default)]
    pub options: BTreeMap<String, SecretSource>,
}

/// `[bronze]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Bronze {
    /// Events per commit.
    pub rows_max: usize,
    /// Bytes per commit.
    pub bytes_max: Size,
    /// How long an Event waits for others.
    pub age_max: Span,
}

/// `[silver]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Silver {
    /// How much older than its arrival a reading may be.
    pub max_age: Span,
    /// How much newer.
    pub max_ahead: Span,
    /// How long messages with ids of their own are remembered.
    pub dedup_horizon: Span,
    /// The devices there are.
    pub catalogue: Option<Catalogue>,
    /// How messages of devices without a gateway are read, and what their ids are worth.
    #[serde(default)]
    pub mapping: Vec<Mapping>,
    /// What is expected of their values.
    #[serde(default)]
    pub rule: Vec<Rule>,
}

/// `silver.catalogue`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "neither a file nor a table; write \"/etc/cloud-ingester/devices.toml\" or { table = \"az://…\" }"
)]
pub enum Catalogue {
    /// A TOML or CSV file.
    File(PathBuf),
    /// A Delta table.
    Table {
        /// Its URL.
        table: String,
    },
}

impl Catalogue {
    /// As the hops know it.
    #[must_use]
    pub fn source(&self) -> Source {
        match self {
            Self::File(path) => Source::File(path.clone()),
            Self::Table { table } => Source::Table(table.clone()),
        }
    }
}

/// `[hops]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Hops {
    /// The least time between two rounds.
    pub pause: Span,
}

/// `[gold]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Gold {
    /// The folder of users' models.
    pub models: Option<PathBuf>,
    /// How long the lake waits for late rows before a window is final.
    pub lateness: Span,
    /// A partition from which nothing came for so long moves with the clock.
    pub idle: Span,
}

/// `[upkeep]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Upkeep {
    /// The least time between two looks at the tables.
    pub every: Span,
    /// How long after its end a day counts as closed.
    pub closed_after: Span,
    /// How large files become.
    pub file_bytes: Size,
    /// How long versions stay readable.
    pub log_retention: Span,
    /// How long a replaced file stays.
    pub file_retention: Span,
    /// How long a user's model that stays behind is waited for.
    pub model_patience: Span,
}

/// `[http]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Http {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Whoever shows it may ask for changes from another machine.
    #[serde(default)]
    pub token: Option<SecretSource>,
    /// How long nothing may move, though something is to be done, before `/readyz` says no.
    pub stalled_after: Span,
}

/// `[stop]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Stop {
    /// How long draining may take.
    pub grace: Span,
}

impl Check for Config {
    fn check(&self, mistakes: &mut Mistakes) {
        let minute = Duration::from_secs(60);
        let second = Duration::from_secs(1);
        mistakes.within("hub", |mistakes| {
            mistakes.ensure(
                !self.hub.consumer_group.is_empty(),
                "consumer-group",
                "must not be empty, write \"$Default\"",
            );
            let check_every = self.hub.check_every.duration();
            mistakes.ensure(
                Duration::from_millis(100) <= check_every && check_every <= minute,
                "check-every",
                "must be from \"100ms\" to \"60s\", write e.g. \"5s\"",
            );
            mistakes.ensure(
                (1 << 20..=1 << 30).contains(&self.hub.bytes_ahead.bytes()),
                "bytes-ahead",
                "must be from \"1MiB\" to \"1GiB\", write e.g. \"32MiB\"",
            );
            let expire = self.hub.claims_expire.duration();
            mistakes.ensure(
                second * 3 <= expire && expire <= minute * 2,
                "claims-expire",
                "must be from \"3s\" to \"120s\", write e.g. \"30s\"",
            );
            if let Some(endpoint) = &self.hub.endpoint {
                let fits = url::Url::parse(endpoint)
                    .is_ok_and(|url| matches!(url.scheme(), "amqp" | "amqps") && url.has_host());
                mistakes.ensure(fits, "endpoint", "must be an AMQP address, write e.g. \"amqp://127.0.0.1:5672\"");
            }
        });
        mistakes.within("lake", |mistakes| {
            if let Err(LakeError::Location { detail, .. }) = Location::parse(&self.lake.url, HashMap::new()) {
                mistakes.add("url", detail);
            }
            mistakes.ensure(64 << 20 <= self.lake.memory.bytes(), "memory", "must be at least \"64MiB\"");
        });
        mistakes.within("bronze", |mistakes| {
            mistakes.ensure(1 <= self.bronze.rows_max, "rows-max", "must be at least 1, write e.g. 10000");
            mistakes.ensure(
                (1 << 20..=512 << 20).contains(&self.bronze.bytes_max.bytes()),
                "bytes-max",
                "must be from \"1MiB\" to \"512MiB\", write e.g. \"32MiB\"",
            );
            mistakes.ensure(
                self.bronze.age_max.duration() <= minute,
                "age-max",
                "must be at most \"60s\", write e.g. \"1s\"",
            );
        });
        mistakes.within("silver", |mistakes| {
            mistakes.ensure(
                second <= self.silver.max_age.duration(),
                "max-age",
                "must be at least \"1s\", write e.g. \"400d\"",
            );
            for (at, mapping) in self.silver.mapping.iter().enumerate() {
                for (key, fault) in mapping.faults() {
                    mistakes.add(format!("mapping[{at}].{key}"), fault);
                }
            }
            for (at, rule) in self.silver.rule.iter().enumerate() {
                for (key, fault) in rule.faults() {
                    mistakes.add(format!("rule[{at}].{key}"), fault);
                }
            }
        });
        mistakes.within("hops", |mistakes| {
            mistakes.ensure(
                self.hops.pause.duration() <= minute * 60,
                "pause",
                "must be at most \"1h\", write e.g. \"1s\"",
            );
        });
        mistakes.within("gold", |mistakes| {
            mistakes.ensure(second <= self.gold.idle.duration(), "idle", "must be at least \"1s\", write e.g. \"1m\"");
        });
        mistakes.within("upkeep", |mistakes| {
            let upkeep = &self.upkeep;
            mistakes.ensure(
                upkeep.every.duration().is_zero() || second <= upkeep.every.duration(),
                "every",
                "must be \"0s\" (only when asked) or at least \"1s\", write e.g. \"10m\"",
            );
            mistakes.ensure(
                (1 << 20..=1 << 30).contains(&upkeep.file_bytes.bytes()),
                "file-bytes",
                "must be from \"1MiB\" to \"1GiB\", write e.g. \"128MiB\"",
            );
            mistakes.ensure(
                minute * 60 <= upkeep.log_retention.duration(),
                "log-retention",
                "must be at least \"1h\": hops follow the log, write e.g. \"7d\"",
            );
            mistakes.ensure(
                upkeep.log_retention.duration() <= upkeep.file_retention.duration(),
                "file-retention",
                "must be at least log-retention: a version that can be named must have its files",
            );
        });
        mistakes.ensure(
            second <= self.http.stalled_after.duration(),
            "http.stalled-after",
            "must be at least \"1s\", write e.g. \"60s\"",
        );
        mistakes.ensure(
            second <= self.stop.grace.duration(),
            "stop.grace",
            "must be at least \"1s\", write e.g. \"60s\"",
        );
    }
}

/// A configuration for commands that read the hub: it must say as whom.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
struct WithHub(Config);

impl Check for WithHub {
    fn check(&self, mistakes: &mut Mistakes) {
        self.0.check(mistakes);
        mistakes.ensure(
            self.0.hub.connection_string.is_some(),
            "hub.connection-string",
            "missing; write connection-string = { file = \"…\" } or set INGEST__HUB__CONNECTION_STRING",
        );
    }
}

/// What a command needs to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// The lake.
    Lake,
    /// The lake and the hub.
    LakeAndHub,
}

/// Loads the configuration: defaults, then `file`, then `INGEST__…`.
///
/// # Errors
/// Every mistake at once.
pub fn load(needs: Needs, file: Option<&Path>) -> Result<Config, ConfigErrors> {
    match needs {
        Needs::Lake => shared::config::load::<Config>(&LAYERS, file),
        Needs::LakeAndHub => shared::config::load::<WithHub>(&LAYERS, file).map(|config| config.0),
    }
}

impl Config {
    /// What another machine has to show before it changes something here.
    ///
    /// # Errors
    /// The secret can't be read.
    pub fn token(&self) -> Result<Option<Secret>, SecretError> {
        self.http.token.as_ref().map(SecretSource::read).transpose()
    }

    /// The lake's location, secrets read.
    ///
    /// # Errors
    /// A secret that can't be read, or a location that can't be used.
    pub fn location(&self) -> Result<Location, LakeError> {
        let mut options = HashMap::new();
        for (name, source) in &self.lake.options {
            let secret = source.read().map_err(|error| LakeError::Location {
                location: self.lake.url.clone(),
                detail: format!("lake.options.{name}: {error}"),
            })?;
            options.insert(name.clone(), secret.reveal().to_owned());
        }
        Location::parse(&self.lake.url, options)
    }

    /// The hub, secrets read.
    ///
    /// # Errors
    /// The connection string can't be read.
    pub fn target(&self) -> Result<Target, SecretError> {
        let connection_string = match &self.hub.connection_string {
            Some(source) => source.read()?,
            None => Secret::new(""),
        };
        Ok(Target {
            connection_string,
            endpoint: self.hub.endpoint.clone(),
            consumer_group: self.hub.consumer_group.clone(),
            check_every: self.hub.check_every.duration(),
            bytes_ahead: self.hub.bytes_ahead.bytes(),
        })
    }

    /// How long claims to partitions last.
    #[must_use]
    pub fn timing(&self) -> Timing {
        Timing::expiring_after(self.hub.claims_expire.duration())
    }

    /// When bronze commits.
    #[must_use]
    pub fn cut(&self) -> Limits {
        Limits {
            rows_max: self.bronze.rows_max,
            bytes_max: self.bronze.bytes_max.as_usize(),
            age_max: self.bronze.age_max.duration(),
        }
    }

    /// What silver accepts.
    #[must_use]
    pub fn window(&self) -> TimeWindow {
        TimeWindow { max_age: self.silver.max_age.duration(), max_ahead: self.silver.max_ahead.duration() }
    }

    /// Whose messages are known by their ids.
    #[must_use]
    pub fn unique(&self) -> Unique {
        let unique = self.silver.mapping.iter().filter(|mapping| mapping.message_id == MessageId::Unique);
        let devices = unique.map(|mapping| mapping.device.clone()).collect();
        Unique { devices, horizon: self.silver.dedup_horizon.duration() }
    }

    /// When windows are final.
    #[must_use]
    pub fn patience(&self) -> Patience {
        Patience { lateness: self.gold.lateness.duration(), idle: self.gold.idle.duration() }
    }

    /// How the tables are kept.
    #[must_use]
    pub fn upkeep(&self) -> upkeep::Settings {
        upkeep::Settings {
            every: self.upkeep.every.duration(),
            closed_after: self.upkeep.closed_after.duration(),
            file_bytes: self.upkeep.file_bytes.bytes(),
            log_retention: self.upkeep.log_retention.duration(),
            file_retention: self.upkeep.file_retention.duration(),
            model_patience: self.upkeep.model_patience.duration(),
            ..upkeep::Settings::default()
        }
    }

    /// What queries and hops may use.
    #[must_use]
    pub fn limits(&self) -> session::Limits {
        session::Limits { memory_bytes: self.lake.memory.bytes() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(file: &str) -> Vec<String> {
        let loaded = shared::config::load_from::<WithHub>(&LAYERS, Some(("ingest.toml", file)), &[]);
        let errors = loaded.map(|_| ()).expect_err("mistakes");
        errors.mistakes().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_embedded_default_is_complete_but_for_the_connection_string() {
        let found = mistakes("");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("hub.connection-string"), "{found:?}");
    }

    #[test]
    fn three_mistakes_are_three_lines() {
        let found = mistakes(
            "[hub]\nendpoint = \"http://x\"\nconnection-string = { env = \"X\" }\n[bronze]\nage-max = 5\nrowsmax = 3\n",
        );
        let text = found.join("\n");
        for part in ["ingest.toml:2: hub.endpoint", "ingest.toml:5: bronze.age-max", "ingest.toml:6: bronze"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert_eq!(found.len(), 3, "{text}");
    }

    #[test]
    fn a_lake_below_a_percent_sign_is_a_mistake_of_its_line() {
        let text = mistakes("[lake]\nurl = \"/data/100%\"\n").join("\n");
        assert!(text.contains("ingest.toml:2: lake.url") && text.contains('%'), "{text}");
    }
}
