//! Direct methods: a question to a device that is there, and its answer.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::errors::{Code, Fault};
use super::{Answer, Api, Asked};
use crate::hub::devices::EditFault;
use crate::hub::methods::{Call, MethodFault, RESPONSE_TIMEOUT};
use crate::hub::who::Who;

/// How long a device may take to answer.
const RESPONSE_S: std::ops::RangeInclusive<u64> = 5..=300;
/// How long it may take to come first.
const CONNECT_S_MAX: u64 = 300;

/// What is asked of a device, as services write it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Asking {
    method_name: Option<String>,
    #[serde(default)]
    payload: Value,
    response_timeout_in_seconds: Option<u64>,
    connect_timeout_in_seconds: Option<u64>,
}

impl Asking {
    pub(super) fn call(self) -> Result<Call, Fault> {
        let name = self.method_name.ok_or_else(|| Fault::argument("methodName is missing"))?;
        // SDKs write 0 for what was not said.
        let response = self.response_timeout_in_seconds.filter(|seconds| 0 < *seconds);
        let response = response.unwrap_or(RESPONSE_TIMEOUT.as_secs());
        if !RESPONSE_S.contains(&response) {
            return Err(Fault::argument("responseTimeoutInSeconds must be 5 to 300"));
        }
        let connect = self.connect_timeout_in_seconds.unwrap_or_default();
        if CONNECT_S_MAX < connect {
            return Err(Fault::argument("connectTimeoutInSeconds must be 0 to 300"));
        }
        Ok(Call {
            name,
            payload: self.payload,
            response_timeout: Duration::from_secs(response),
            connect_timeout: Duration::from_secs(connect),
        })
    }
}

impl Api {
    pub(super) async fn method(&self, who: &Who, asked: &Asked) -> Result<Answer, Fault> {
        let call = asked.json::<Asking>()?.call()?;
        let answer = self.invoke(who, call).await.map_err(|fault| Fault { of_method: true, ..fault })?;
        Ok(Answer::json(answer))
    }

    /// Asks a device; gives `status` and `payload`.
    pub(super) async fn invoke(&self, who: &Who, call: Call) -> Result<Value, Fault> {
        self.known(who)?;
        let enabled = self.desk.registry.now().device(&who.device).is_some_and(|device| device.enabled);
        if !enabled {
            // As documented: a disabled device is not found.
            return Err(EditFault::NoDevice(who.device.clone()).into());
        }
        let (bytes, now) = (call.payload.to_string().len(), self.desk.clock.now());
        let request = {
            let mut limits = self.desk.limits.lock();
            let request = limits.metered_units(bytes);
            if !limits.method(now, bytes) {
                return Err(Fault::new(Code::ThrottlingException, "more calls than `hub.limits` lets through"));
            }
            if !limits.has_quota(now, request + 1) {
                return Err(Fault::new(Code::IotHubQuotaExceeded, "the daily quota of `hub.limits` is used up"));
            }
            request
        };
        let answered = self.desk.methods.invoke(who, call).await;
        // As billed: the question and the answer, even if that is that nobody is there.
        let answer = match &answered {
            Ok(answer) => Some(self.desk.limits.lock().metered_units(answer.payload.to_string().len())),
            Err(MethodFault::NotOnline) => Some(1),
            Err(_) => None,
        };
        if let Some(answer) = answer {
            self.desk.charge(request + answer);
        }
        match answered {
            Ok(answer) => Ok(json!({ "status": answer.status, "payload": answer.payload })),
            Err(fault) => Err(fault_of(&fault)),
        }
    }
}

fn fault_of(fault: &MethodFault) -> Fault {
    let code = match fault {
        MethodFault::NotOnline => Code::DeviceNotOnline,
        MethodFault::TimedOut => Code::GatewayTimeout,
        MethodFault::TooLarge { .. } => Code::MessageTooLarge,
        MethodFault::Name => Code::ArgumentInvalid,
        MethodFault::Busy => Code::ThrottlingException,
        MethodFault::BadAnswer => Code::InvalidResponseWhileProxying,
    };
    Fault::new(code, fault.to_string())
}
