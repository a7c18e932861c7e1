//! Answers to a device about its twin.

use bytes::Bytes;
use serde_json::json;

use super::mailbox::Letter;
use super::requests::Ask;
use crate::hub::desk::Desk;
use crate::hub::limits::Operation;
use crate::hub::twins::{Reporting, TwinFault};
use crate::hub::who::Who;

/// What a device is told.
pub(super) struct TwinAnswer {
    pub(super) status: u16,
    version: Option<i64>,
    body: Bytes,
}

/// An answer, or what it waits for.
pub(super) enum Begun {
    Done(TwinAnswer),
    Reporting(Reporting),
}

/// Does what a device asks for, as far as nobody has to wait for it.
pub(super) fn begin(ask: Ask, who: &Who, payload: &[u8], desk: &Desk) -> Begun {
    let operation = match ask {
        Ask::Get => Operation::TwinRead,
        Ask::Report => Operation::TwinUpdate,
    };
    if !desk.limits.lock().operation(desk.clock.now(), operation) {
        return Begun::Done(TwinAnswer::refusal(429, 429_001, "too many operations on twins"));
    }
    let patch = match ask {
        Ask::Get => {
            let body = desk.twins.get(who).to_device_json().to_string().into();
            return Begun::Done(TwinAnswer { status: 200, version: None, body });
        }
        Ask::Report => serde_json::from_slice(payload),
    };
    match patch {
        Ok(patch) => match desk.twins.begin_report(who, &patch) {
            Ok(reporting) => Begun::Reporting(reporting),
            Err(fault) => Begun::Done(TwinAnswer::of(Err(fault))),
        },
        Err(error) => Begun::Done(TwinAnswer::refusal(400, 400_004, &format!("the patch is not JSON: {error}"))),
    }
}

impl TwinAnswer {
    /// To a patch.
    pub(super) fn of(reported: Result<i64, TwinFault>) -> Self {
        match reported {
            Ok(version) => Self { status: 204, version: Some(version), body: Bytes::new() },
            Err(fault) => {
                let status = fault.status();
                Self::refusal(status, u32::from(status) * 1_000 + 1, &fault.to_string())
            }
        }
    }

    fn refusal(status: u16, code: u32, message: &str) -> Self {
        let body = json!({ "errorCode": code, "message": message }).to_string().into();
        Self { status, version: None, body }
    }

    /// As it is put into the mailbox.
    pub(super) fn letter(self, rid: String) -> Letter {
        Letter::Twin { status: self.status, rid, version: self.version, body: self.body }
    }
}
