//! Where one copy of the product keeps its things: folders, ports, config files.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// The gateway of the demo and the tests.
pub const GATEWAY: &str = "gw-01";
/// The name under which the hub knows itself; clients dial 127.0.0.1 and say this name.
pub const HUB_HOST_NAME: &str = "local-hub.azure-devices.net";

/// The folder of one copy of the product.
#[derive(Debug, Clone)]
pub struct Layout {
    dir: PathBuf,
    /// Where its programs listen.
    pub ports: Ports,
}

/// The loopback addresses of one copy of the product.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// The hub's device side, MQTT over TLS.
    pub hub_mqtt: SocketAddr,
    /// The hub's service side, AMQP.
    pub hub_amqp: SocketAddr,
    /// The hub's HTTP face.
    pub hub_http: SocketAddr,
    /// The agent's own MQTT listener.
    pub agent_mqtt: SocketAddr,
    /// The agent's HTTP face.
    pub agent_http: SocketAddr,
    /// The ingester's HTTP face.
    pub ingester_http: SocketAddr,
}

impl Ports {
    /// Free ports, as the operating system gives them.
    ///
    /// # Errors
    /// There are none.
    pub fn free() -> io::Result<Self> {
        // All are held until all are known, so that none is given twice.
        let held: Vec<TcpListener> =
            (0..6).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<io::Result<_>>()?;
        let mut free = held.iter().map(TcpListener::local_addr);
        let mut next = || free.next().unwrap_or_else(|| Err(io::ErrorKind::AddrNotAvailable.into()));
        Ok(Self {
            hub_mqtt: next()?,
            hub_amqp: next()?,
            hub_http: next()?,
            agent_mqtt: next()?,
            agent_http: next()?,
            ingester_http: next()?,
        })
    }
}

/// What somebody wants otherwise than the demo has it: the tables `[edge]`, `[ingest]` and `[sim]`, each as that
/// program's own file.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// For the agent.
    pub edge: Table,
    /// For the ingester.
    pub ingest: Table,
    /// For the simulator.
    pub sim: Table,
}

/// A demo config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WishesError {
    /// It cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no TOML.
    #[error("{path}: {message}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// It has tables that no program reads.
    #[error("{path}: unknown tables {tables:?}; a demo config has [edge], [ingest] and [sim]")]
    Unknown {
        /// Which file.
        path: PathBuf,
        /// Their names.
        tables: Vec<String>,
    },
}

impl Wishes {
    /// Reads a demo config.
    ///
    /// # Errors
    /// It cannot be read, is no TOML, or has tables that no program reads.
    pub fn read(path: &Path) -> Result<Self, WishesError> {
        let text = fs::read_to_string(path).map_err(|source| WishesError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Reads the text of a demo config; `path` is for the errors.
    ///
    /// # Errors
    /// It is no TOML, or has tables that no program reads.
    pub fn parse(text: &str, path: &Path) -> Result<Self, WishesError> {
        let mut whole: Table = text
            .parse()
            .map_err(|e: toml::de::Error| WishesError::Malformed { path: path.to_owned(), message: e.to_string() })?;
        let mut take = |name: &str| match whole.remove(name) {
            Some(Value::Table(table)) => Ok(table),
            Some(_) => Err(WishesError::Malformed { path: path.to_owned(), message: format!("`{name}` is no table") }),
            None => Ok(Table::new()),
        };
        let wishes = Self { edge: take("edge")?, ingest: take("ingest")?, sim: take("sim")? };
        match whole.is_empty() {
            true => Ok(wishes),
            false => Err(WishesError::Unknown { path: path.to_owned(), tables: whole.keys().cloned().collect() }),
        }
    }
}

impl Layout {
    /// A copy of the product in `dir`, on free ports.
    ///
    /// # Errors
    /// The folders cannot be created, or there are no free ports.
    pub fn create(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let layout = Self { dir: dir.into(), ports: Ports::free()? };
        for folder in [layout.config_dir(), layout.logs(), layout.edge(), layout.hub()] {
            fs::create_dir_all(folder)?;
        }
        Ok(layout)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What every running copy needs and this one no longer has: somebody deleted it.
    pub fn gone(&self) -> Option<PathBuf> {
        let needed = [self.dir.clone(), self.config_dir(), self.logs(), self.hub(), self.edge(), self.outbox()];
        needed.into_iter().find(|path| !path.exists())
    }

    /// The lake: `bronze`, `silver`, `gold`.
    pub fn lake(&self) -> PathBuf {
        self.dir.join("lake")
    }

    /// The agent's folder.
    pub fn edge(&self) -> PathBuf {
        self.dir.join("edge")
    }

    /// The agent's database.
    pub fn outbox(&self) -> PathBuf {
        self.edge().join("outbox.db")
    }

    /// The hub's folder.
    pub fn hub(&self) -> PathBuf {
        self.dir.join("hub")
    }

    /// The hub's certificates; apart from its data, which a test may take away.
    pub fn hub_identity(&self) -> PathBuf {
        self.config_dir().join("hub-identity")
    }

    /// The certificate by which the hub's own authority is known.
    pub fn hub_ca(&self) -> PathBuf {
        self.hub_identity().join("ca.pem")
    }

    /// The keys of the hub's devices and services; apart from its data, which a test may take away.
    pub fn hub_registry(&self) -> PathBuf {
        self.config_dir().join("hub-registry.toml")
    }

    /// The programs' logs.
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// What the devices sent.
    pub fn ledger(&self) -> PathBuf {
        self.dir.join("ledger.jsonl")
    }

    /// The file with the agent's connection string.
    pub fn agent_credential(&self) -> PathBuf {
        self.config_dir().join("agent.connection-string")
    }

    /// The file with the ingester's connection string.
    pub fn ingester_credential(&self) -> PathBuf {
        self.config_dir().join("ingester.connection-string")
    }

    /// A program's config file: `edge`, `ingest` or `sim`.
    pub fn config(&self, program: &str) -> PathBuf {
        self.config_dir().join(format!("{program}.toml"))
    }

    fn config_dir(&self) -> PathBuf {
        self.dir.join("config")
    }
}

/// Puts `wishes` over `base`, table by table.
pub fn merge(base: &mut Table, wishes: &Table) {
    for (key, wish) in wishes {
        match (base.get_mut(key), wish) {
            (Some(Value::Table(base)), Value::Table(wish)) => merge(base, wish),
            _ => {
                base.insert(key.clone(), wish.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_demo_config_has_a_table_for_each_program_and_no_other() {
        let path = Path::new("demo.toml");
        let wishes = Wishes::parse("[edge.uplink]\nwindow = 3\n[sim]\n", path).expect("fine");
        assert_eq!(wishes.edge["uplink"]["window"].as_integer(), Some(3));
        for bad in ["[edges]\n", "edge = 1\n", "[edge\n"] {
            assert!(Wishes::parse(bad, path).is_err(), "{bad}");
        }
    }

    #[test]
    fn wishes_go_over_the_base_key_by_key() {
        let mut base: Table = "a = 1\n[t]\nx = 1\ny = 2\n".parse().expect("toml");
        merge(&mut base, &"[t]\ny = 3\nz = 4\n".parse().expect("toml"));
        assert_eq!(base, "a = 1\n[t]\nx = 1\ny = 3\nz = 4\n".parse().expect("toml"));
    }

    #[test]
    fn what_is_gone_is_named_the_outermost_first() {
        let temp = tempfile::tempdir().expect("a temporary folder");
        let layout = Layout::create(temp.path().join("copy")).expect("folders");
        fs::write(layout.outbox(), "").expect("writes");
        assert_eq!(layout.gone(), None);
        fs::remove_file(layout.outbox()).expect("removes");
        assert_eq!(layout.gone(), Some(layout.outbox()));
        fs::remove_dir_all(layout.edge()).expect("removes");
        assert_eq!(layout.gone(), Some(layout.edge()));
        fs::remove_dir_all(layout.dir()).expect("removes");
        assert_eq!(layout.gone(), Some(layout.dir().to_owned()));
    }

    #[test]
    fn no_port_is_given_twice() {
        let ports = Ports::free().expect("free ports");
        let all =
            [ports.hub_mqtt, ports.hub_amqp, ports.hub_http, ports.agent_mqtt, ports.agent_http, ports.ingester_http];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
