//! `[network]`.

use serde::Deserialize;
use shared::config::{SecretError, SecretSource};

use super::proxy::{Proxy, ProxyFault};
use super::ways::Choice;

/// How the hub and the provisioning service are reached.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// `auto`, `mqtt` or `websocket`.
    pub transport: Choice,
    /// `http://HOST:PORT` of a proxy that knows CONNECT.
    pub proxy: Option<String>,
    /// `USER:PASSWORD` there.
    pub proxy_credentials: Option<SecretSource>,
}

/// The settings, ready for use.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// Which ways may be taken.
    pub choice: Choice,
    /// The proxy in between.
    pub proxy: Option<Proxy>,
}

/// The proxy cannot be used. Never holds its password.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Its address.
    #[error("{0}")]
    Proxy(#[from] ProxyFault),
    /// Its credentials cannot be read.
    #[error("cannot {0}")]
    Secret(#[from] SecretError),
    /// Or are none.
    #[error("must be USER:PASSWORD in one line")]
    Credentials,
    /// They are for nobody.
    #[error("is there without `proxy`; write proxy = \"http://HOST:PORT\", or leave it out")]
    NoProxy,
}

impl ConfigError {
    /// The setting to correct.
    pub fn path(&self) -> &'static str {
        match self {
            ConfigError::Proxy(_) => "network.proxy",
            ConfigError::Secret(_) | ConfigError::Credentials | ConfigError::NoProxy => "network.proxy-credentials",
        }
    }
}

impl Config {
    /// Reads the proxy's credentials.
    ///
    /// # Errors
    /// What is wrong with the settings.
    pub fn network(&self) -> Result<Network, ConfigError> {
        let Some(proxy) = &self.proxy else {
            return match self.proxy_credentials {
                Some(_) => Err(ConfigError::NoProxy),
                None => Ok(Network { choice: self.transport, proxy: None }),
            };
        };
        let mut proxy = Proxy::parse(proxy)?;
        if let Some(source) = &self.proxy_credentials {
            let secret = source.read()?;
            let fits = secret.reveal().contains(':') && !secret.reveal().contains(char::is_control);
            if !fits {
                return Err(ConfigError::Credentials);
            }
            proxy = proxy.with_credentials(secret);
        }
        Ok(Network { choice: self.transport, proxy: Some(proxy) })
    }
}
