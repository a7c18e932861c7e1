//! [p] The registry as text for people: TOML, one table for each policy, device and module. Written by hand, as the
//! whole of it is written whenever a service changes something.

use std::fmt::Write as _;

use super::{Auth, Identities, Policy, Record};

/// All of it. What is as it is by default is left out.
pub(super) fn of(identities: &Identities) -> String {
    // A device with keys takes about so much.
    let mut text = String::with_capacity(512 + 320 * identities.devices.len());
    for policy in &identities.policies {
        policy_of(&mut text, policy);
    }
    for device in &identities.devices {
        text.push_str("[[devices]]\n");
        let (id, generation_id) = (&device.id, &device.generation_id);
        identity_of(&mut text, id, device.enabled, generation_id, &device.auth, &device.record);
        for module in &device.modules {
            text.push_str("[[devices.modules]]\n");
            identity_of(&mut text, &module.id, module.enabled, &module.generation_id, &module.auth, &module.record);
        }
    }
    text
}

fn policy_of(text: &mut String, policy: &Policy) {
    text.push_str("[[policies]]\n");
    pair(text, "name", &policy.name);
    let rights: Vec<_> = policy.rights.iter().map(|right| format!("\"{right:?}\"")).collect();
    let _ = writeln!(text, "rights = [{}]", rights.join(", "));
    pair(text, "primary-key", policy.primary_key.reveal());
    pair(text, "secondary-key", policy.secondary_key.reveal());
    text.push('\n');
}

fn identity_of(text: &mut String, id: &str, enabled: bool, generation_id: &str, auth: &Auth, record: &Record) {
    pair(text, "id", id);
    // Said always: it is what people change.
    let _ = writeln!(text, "enabled = {enabled}");
    match auth {
        Auth::Sas { primary_key, secondary_key } => {
            pair(text, "auth", "sas");
            pair(text, "primary-key", primary_key.reveal());
            pair(text, "secondary-key", secondary_key.reveal());
        }
        Auth::Thumbprint(known) => {
            pair(text, "auth", "x509-thumbprint");
            for (name, thumbprint) in ["primary-thumbprint", "secondary-thumbprint"].into_iter().zip(known) {
                pair(text, name, &thumbprint.to_string());
            }
        }
        Auth::Ca => pair(text, "auth", "x509-ca"),
    }
    pair(text, "generation-id", generation_id);
    let Record { status_reason, status_updated, iot_edge, scope, managed_by, revision } = record;
    for (name, value) in [("status-reason", status_reason), ("scope", scope), ("managed-by", managed_by)] {
        if let Some(value) = value {
            pair(text, name, value);
        }
    }
    if let Some(at) = status_updated {
        pair(text, "status-updated-time", &at.to_string());
    }
    if *iot_edge {
        text.push_str("iot-edge = true\n");
    }
    if 0 < *revision {
        let _ = writeln!(text, "revision = {revision}");
    }
    text.push('\n');
}

/// `name = "value"`, the value escaped as TOML's basic strings want it.
fn pair(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push_str(" = \"");
    if value.bytes().all(|byte| b' ' <= byte && !b"\"\\\x7f".contains(&byte)) {
        text.push_str(value);
        text.push_str("\"\n");
        return;
    }
    for letter in value.chars() {
        match letter {
            '"' | '\\' => text.extend(['\\', letter]),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            letter if letter < ' ' || letter == '\u{7f}' => {
                let _ = write!(text, "\\u{:04X}", u32::from(letter));
            }
            letter => text.push(letter),
        }
    }
    text.push_str("\"\n");
}
