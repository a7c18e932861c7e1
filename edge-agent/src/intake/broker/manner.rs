//! How the broker is connected to, the same every time; and what it has against us.

use std::time::Duration;

use rumqttc::{ConnectReturnCode, ConnectionError, MqttOptions, StateError};
use shared::config::Secret;
use shared::reading::GatewayId;

use super::{BrokerError, CONNECT_TIMEOUT, Config};
use crate::line::{Cuts, Dial, Tunnel, Way};
use crate::trust;

/// What all connections have in common.
pub(super) struct Manner {
    dial: Dial,
    client_id: String,
    user: Option<(String, Secret)>,
    keep_alive: Duration,
    packet_bytes_max: usize,
}

impl Manner {
    pub(super) fn of(config: &Config, gateway: &GatewayId) -> Result<Self, BrokerError> {
        let user = match &config.user {
            None => None,
            Some(user) => {
                let password = config.password();
                Some((user.clone(), password.map_or_else(|| Ok(Secret::new("")), |source| source.read())?))
            }
        };
        let tls = if config.tls { Some(trust::client(config.ca_file.as_deref())?) } else { None };
        // An IPv6 address may stand in brackets.
        let host = config.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&config.host);
        let (host, port, timeout) = (host.to_owned(), config.port, CONNECT_TIMEOUT);
        Ok(Self {
            dial: Dial { host, port, way: Way::Mqtt, proxy: None, tls, timeout },
            client_id: config.client_id.clone().unwrap_or_else(|| format!("edge-agent-{gateway}")),
            user,
            keep_alive: config.keep_alive.duration(),
            packet_bytes_max: config.max_packet.as_usize(),
        })
    }

    /// A line to it, whose packets are none too large for rumqttc; what was cut is told.
    pub(super) fn lay(&self) -> std::io::Result<(MqttOptions, Tunnel, Cuts)> {
        let (mut options, tunnel, cuts) = self.dial.sieved(&self.client_id, self.packet_bytes_max)?;
        options.set_clean_session(false).set_manual_acks(true).set_keep_alive(self.keep_alive);
        if let Some((user, password)) = &self.user {
            options.set_credentials(user, password.reveal());
        }
        Ok((options, tunnel, cuts))
    }
}

/// What the operator has to mend before this can get better, if that is it.
pub(super) fn refusal(error: &ConnectionError) -> Option<String> {
    match error {
        ConnectionError::ConnectionRefused(
            ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized,
        ) => Some(
            "the broker refuses user or password; correct `intake.broker.user` and `intake.broker.password`".to_owned(),
        ),
        ConnectionError::MqttState(StateError::Deserialization(rumqttc::Error::PayloadSizeLimitExceeded(bytes))) => {
            Some(format!(
                "the broker sent a packet of {bytes} bytes that is no message, more than `intake.broker.max-packet`; raise it"
            ))
        }
        _ => None,
    }
}
