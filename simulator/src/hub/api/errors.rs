//! [p] What the service answers when it says no, in the form Microsoft's SDKs read: the code stands in the header
//! `iothub-errorcode` and in `Message`, as `ErrorCode:DeviceNotFound;…`; of direct methods `Message` is JSON itself.

use axum::http::StatusCode;
use serde_json::json;
use shared::time::Timestamp;

use crate::hub::devices::EditFault;

/// The service's codes; their numbers begin with the status. Source: Microsoft.Azure.Devices, `IotHubServiceErrorCode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    InvalidProtocolVersion,
    ArgumentInvalid,
    IotHubFormatError,
    DeviceDefinedMultipleTimes,
    IotHubUnauthorizedAccess,
    DeviceMaximumQueueDepthExceeded,
    IotHubQuotaExceeded,
    JobQuotaExceeded,
    DeviceNotFound,
    JobNotFound,
    ModuleNotFound,
    DeviceNotOnline,
    GenericNotFound,
    GenericMethodNotAllowed,
    OperationNotAllowedInCurrentState,
    GenericTimeout,
    DeviceAlreadyExists,
    ModuleAlreadyExistsOnDevice,
    JobAlreadyExists,
    PreconditionFailed,
    MessageTooLarge,
    TooManyDevices,
    TooManyModulesOnDevice,
    ThrottlingException,
    ServerError,
    FeatureNotSupported,
    InvalidResponseWhileProxying,
    GatewayTimeout,
}

impl Code {
    /// Its number.
    pub(super) const fn number(self) -> u32 {
        match self {
            Code::InvalidProtocolVersion => 400_001,
            Code::ArgumentInvalid => 400_004,
            Code::IotHubFormatError => 400_006,
            Code::DeviceDefinedMultipleTimes => 400_011,
            Code::IotHubUnauthorizedAccess => 401_002,
            Code::IotHubQuotaExceeded => 403_002,
            Code::JobQuotaExceeded => 403_003,
            Code::DeviceMaximumQueueDepthExceeded => 403_004,
            Code::GenericNotFound => 404_000,
            Code::DeviceNotFound => 404_001,
            Code::JobNotFound => 404_002,
            Code::ModuleNotFound => 404_010,
            Code::DeviceNotOnline => 404_103,
            Code::GenericMethodNotAllowed => 405_000,
            Code::OperationNotAllowedInCurrentState => 409_000,
            Code::GenericTimeout => 408_000,
            Code::DeviceAlreadyExists => 409_001,
            Code::JobAlreadyExists => 409_005,
            Code::ModuleAlreadyExistsOnDevice => 409_301,
            Code::PreconditionFailed => 412_001,
            Code::MessageTooLarge => 413_001,
            Code::TooManyDevices => 413_002,
            Code::TooManyModulesOnDevice => 413_003,
            Code::ThrottlingException => 429_001,
            Code::ServerError => 500_001,
            Code::FeatureNotSupported => 501_000,
            Code::InvalidResponseWhileProxying => 502_100,
            Code::GatewayTimeout => 504_101,
        }
    }

    /// The status it comes with.
    pub(super) fn status(self) -> StatusCode {
        let status = u16::try_from(self.number() / 1_000).unwrap_or_default();
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The code most like a status.
    pub(super) const fn of_status(status: u16) -> Self {
        match status {
            401 => Code::IotHubUnauthorizedAccess,
            403 => Code::DeviceMaximumQueueDepthExceeded,
            404 => Code::DeviceNotFound,
            409 => Code::OperationNotAllowedInCurrentState,
            412 => Code::PreconditionFailed,
            413 => Code::MessageTooLarge,
            429 => Code::ThrottlingException,
            502 => Code::InvalidResponseWhileProxying,
            504 => Code::GatewayTimeout,
            400..=499 => Code::ArgumentInvalid,
            _ => Code::ServerError,
        }
    }
}

/// A request that was refused, or failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) code: Code,
    pub(super) message: String,
    /// Whether it comes of a direct method.
    pub(super) of_method: bool,
}

impl Fault {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), of_method: false }
    }

    /// Something in the request is not as it must be.
    pub(super) fn argument(message: impl Into<String>) -> Self {
        Self::new(Code::ArgumentInvalid, message)
    }

    /// The hub's own fault, told to people of the hub in its log.
    pub(super) fn server(message: impl Into<String>) -> Self {
        Self::new(Code::ServerError, message)
    }

    /// The body; `tracking` tells this answer from all others.
    pub(super) fn body(&self, tracking: &str, now: Timestamp) -> String {
        // The SDKs cut the message at the next semicolon.
        let message = self.message.replace(';', ",");
        let code = self.code;
        if self.of_method {
            let message = json!({
                "errorCode": code.number(),
                "trackingId": format!("{tracking}-TimeStamp:{now}"),
                "message": message,
                "timestampUtc": now.to_string(),
            });
            return json!({ "Message": message.to_string(), "ExceptionMessage": "" }).to_string();
        }
        json!({
            "Message": format!("ErrorCode:{code:?};{message}"),
            "ExceptionMessage": format!("Tracking ID:{tracking}-TimeStamp:{now}"),
        })
        .to_string()
    }
}

impl From<&EditFault> for Code {
    fn from(fault: &EditFault) -> Self {
        match fault {
            EditFault::DeviceExists(_) => Code::DeviceAlreadyExists,
            EditFault::ModuleExists(..) => Code::ModuleAlreadyExistsOnDevice,
            EditFault::NoDevice(_) => Code::DeviceNotFound,
            EditFault::NoModule(..) => Code::ModuleNotFound,
            EditFault::Etag(_) => Code::PreconditionFailed,
            EditFault::Invalid(_) => Code::ArgumentInvalid,
            EditFault::TooManyModules(_) => Code::TooManyModulesOnDevice,
            EditFault::TooManyDevices => Code::TooManyDevices,
        }
    }
}

impl From<EditFault> for Fault {
    fn from(fault: EditFault) -> Self {
        Self::new(Code::from(&fault), fault.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_as_the_sdks_read_it() {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let fault = Fault::new(Code::DeviceNotFound, "Device d;1 not registered");
        let body: serde_json::Value = serde_json::from_str(&fault.body("t", now)).expect("JSON");
        let message = body["Message"].as_str().expect("a text");
        // As azure-iot-http-base does.
        let parts: Vec<_> = message.split(';').collect();
        assert_eq!((parts[0], parts[1]), ("ErrorCode:DeviceNotFound", "Device d,1 not registered"));
        assert_eq!(body["ExceptionMessage"], "Tracking ID:t-TimeStamp:2023-11-14T22:13:20Z");

        let fault = Fault { of_method: true, ..Fault::new(Code::DeviceNotOnline, "away") };
        let body: serde_json::Value = serde_json::from_str(&fault.body("t", now)).expect("JSON");
        let message: serde_json::Value = serde_json::from_str(body["Message"].as_str().expect("text")).expect("JSON");
        assert_eq!((&message["errorCode"], &message["message"]), (&404_103.into(), &"away".into()));
        assert_eq!(fault.code.status(), StatusCode::NOT_FOUND);
    }
}
