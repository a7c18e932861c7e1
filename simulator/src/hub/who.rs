//! Who on the device side: a device or one of its modules.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::devices::Identities;

/// A device, or a module of one. Prints as `device` or `device/module`; no id holds a slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Who {
    /// The device.
    pub device: String,
    /// Its module, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module: Option<String>,
}

impl Who {
    /// A device.
    pub fn device(device: &str) -> Self {
        Self { device: device.to_owned(), module: None }
    }

    /// A module.
    pub fn module(device: &str, module: &str) -> Self {
        Self { device: device.to_owned(), module: Some(module.to_owned()) }
    }

    /// Reads what [`Who`] prints.
    pub fn parse(text: &str) -> Self {
        match text.split_once('/') {
            Some((device, module)) => Self::module(device, module),
            None => Self::device(text),
        }
    }

    /// Generation of the identity and whether it may connect; `None` if the registry does not know it.
    pub fn known(&self, identities: &Identities) -> Option<Known> {
        let device = identities.device(&self.device)?;
        let (generation_id, enabled) = match &self.module {
            None => (&device.generation_id, device.enabled),
            Some(module) => {
                let module = device.module(module)?;
                (&module.generation_id, device.enabled && module.enabled)
            }
        };
        Some(Known { generation_id: generation_id.clone(), enabled })
    }
}

/// What the registry says of somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Tells the identity from a later one of the same id.
    pub generation_id: String,
    /// Whether it may connect.
    pub enabled: bool,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.module {
            None => f.write_str(&self.device),
            Some(module) => write!(f, "{}/{module}", self.device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_back() {
        for who in [Who::device("d-1"), Who::module("d-1", "m")] {
            assert_eq!(Who::parse(&who.to_string()), who);
        }
        assert_eq!(Who::module("d", "m").to_string(), "d/m");
    }
}
