//! Why a session ends by our will, and how either version of MQTT says so.

use mqtt_protocol_core::mqtt::result_code::{ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, MqttError};

/// What a device did that ends its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::intake::listener) enum Fault {
    #[error("the first packet is not CONNECT")]
    NotConnect,
    #[error("neither MQTT 3.1.1 nor MQTT 5")]
    Version,
    #[error("the client id is not allowed")]
    ClientId,
    #[error("an authentication method; there are only user and password, or a certificate")]
    AuthMethod,
    #[error("a packet is larger than `intake.listener.max-packet`, or a CONNECT larger than 16 KiB")]
    TooLarge,
    #[error("a QoS 2 publish or will; publish at QoS 1")]
    Qos2,
    #[error("a topic name is empty, longer than 1,024 bytes, holds a wildcard or begins with `$`")]
    Topic,
    #[error("a topic alias that stands for nothing")]
    TopicAlias,
    #[error("bytes that are not MQTT")]
    Garbage,
    #[error("a packet that does not belong here")]
    Protocol,
}

impl Fault {
    /// As it stands in metrics.
    pub(in crate::intake::listener) const fn as_str(self) -> &'static str {
        match self {
            Fault::NotConnect => "not-connect",
            Fault::Version => "version",
            Fault::ClientId => "client-id",
            Fault::AuthMethod => "auth-method",
            Fault::TooLarge => "too-large",
            Fault::Qos2 => "qos2",
            Fault::Topic => "topic",
            Fault::TopicAlias => "topic-alias",
            Fault::Garbage => "garbage",
            Fault::Protocol => "protocol",
        }
    }

    /// As MQTT 5 says it to a device that is in.
    pub(super) const fn goodbye(self) -> DisconnectReasonCode {
        match self {
            Fault::TooLarge => DisconnectReasonCode::PacketTooLarge,
            Fault::Qos2 => DisconnectReasonCode::QosNotSupported,
            Fault::Topic => DisconnectReasonCode::TopicNameInvalid,
            Fault::TopicAlias => DisconnectReasonCode::TopicAliasInvalid,
            Fault::Garbage => DisconnectReasonCode::MalformedPacket,
            Fault::NotConnect | Fault::Version | Fault::ClientId | Fault::AuthMethod | Fault::Protocol => {
                DisconnectReasonCode::ProtocolError
            }
        }
    }
}

impl From<MqttError> for Fault {
    fn from(error: MqttError) -> Self {
        match error {
            MqttError::PacketTooLarge => Fault::TooLarge,
            MqttError::UnsupportedProtocolVersion => Fault::Version,
            MqttError::ClientIdentifierNotValid => Fault::ClientId,
            MqttError::TopicAliasInvalid => Fault::TopicAlias,
            MqttError::TopicNameInvalid => Fault::Topic,
            MqttError::ProtocolError | MqttError::InvalidPacketForRole => Fault::Protocol,
            _ => Fault::Garbage,
        }
    }
}

/// Why a CONNECT is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::intake::listener) enum Refusal {
    /// User or password is wrong, or there is none.
    Login,
    /// The client id is empty, and a session is to be kept under it.
    ClientId,
    /// An authentication method of MQTT 5.
    AuthMethod,
    /// A will at QoS 2.
    Qos2,
    /// A will's topic.
    Topic,
}

impl Refusal {
    pub(super) const fn in_v3(self) -> ConnectReturnCode {
        match self {
            Refusal::Login => ConnectReturnCode::BadUserNameOrPassword,
            Refusal::ClientId => ConnectReturnCode::IdentifierRejected,
            Refusal::AuthMethod | Refusal::Qos2 | Refusal::Topic => ConnectReturnCode::NotAuthorized,
        }
    }

    pub(super) const fn in_v5(self) -> ConnectReasonCode {
        match self {
            Refusal::Login => ConnectReasonCode::BadUserNameOrPassword,
            Refusal::ClientId => ConnectReasonCode::ClientIdentifierNotValid,
            Refusal::AuthMethod => ConnectReasonCode::BadAuthenticationMethod,
            Refusal::Qos2 => ConnectReasonCode::QosNotSupported,
            Refusal::Topic => ConnectReasonCode::TopicNameInvalid,
        }
    }
}

/// Why a device that did nothing wrong must go. MQTT 5 says so; MQTT 3.1.1 has no word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::intake::listener) enum Bye {
    /// Another connection came with the same client id.
    TakenOver,
    /// Silence for too long.
    Quiet,
    /// A packet did not end in time.
    Slow,
    /// Something could not be stored.
    NotStored,
    /// The agent stops.
    Stopping,
}

impl Bye {
    pub(super) const fn reason(self) -> DisconnectReasonCode {
        match self {
            Bye::TakenOver => DisconnectReasonCode::SessionTakenOver,
            Bye::Quiet => DisconnectReasonCode::KeepAliveTimeout,
            Bye::Slow => DisconnectReasonCode::UnspecifiedError,
            Bye::NotStored => DisconnectReasonCode::ServerBusy,
            Bye::Stopping => DisconnectReasonCode::ServerShuttingDown,
        }
    }
}
