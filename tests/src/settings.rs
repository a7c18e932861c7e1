//! What the demo and the tests set otherwise than the programs' own defaults: places, ports, rules of the demo's fleet.

use toml::{Table, Value};

use crate::layout::{GATEWAY, HUB_HOST_NAME, Layout};

/// The rules by which the gateway refuses what the demo's fleet sends on purpose.
const FLEET_RULES: &str = r#"
[[presilver.rule]]
device = "device-*"
metric = "temperature"
type = "number"
required = true
min = -40.0
max = 150.0
unit = "Cel"

[[presilver.rule]]
device = "device-*"
metric = "humidity"
type = "number"
required = true
min = 0.0
max = 100.0
unit = "%"

[[presilver.rule]]
device = "device-*"
metric = "pressure"
type = "number"
required = true
unit = "hPa"

[[presilver.rule]]
device = "device-*"
metric = "running"
type = "bool"
required = true
"#;

/// For the agent.
pub fn edge(layout: &Layout) -> Table {
    let ports = &layout.ports;
    let mut table: Table = FLEET_RULES.parse().expect("the rules are TOML");
    set(&mut table, "hub.connection-string.file", text(layout.agent_credential().display()));
    set(&mut table, "hub.host", text(ports.hub_mqtt.ip()));
    set(&mut table, "hub.port", port(ports.hub_mqtt));
    set(&mut table, "hub.ca-file", text(layout.hub_ca().display()));
    // Nobody of ours listens at 443.
    set(&mut table, "network.transport", text("mqtt"));
    set(&mut table, "intake.listener.listen", text(ports.agent_mqtt));
    set(&mut table, "outbox.path", text(layout.outbox().display()));
    set(&mut table, "uplink.backoff-max", text("5s"));
    set(&mut table, "http.listen", text(ports.agent_http));
    table
}

/// For the ingester.
pub fn ingest(layout: &Layout) -> Table {
    let ports = &layout.ports;
    let mut table = Table::new();
    set(&mut table, "hub.connection-string.file", text(layout.ingester_credential().display()));
    set(&mut table, "hub.endpoint", text(format!("amqp://{}", ports.hub_amqp)));
    set(&mut table, "hub.check-every", text("2s"));
    set(&mut table, "lake.url", text(layout.lake().display()));
    set(&mut table, "http.listen", text(ports.ingester_http));
    table
}

/// For devices, replay and hub.
pub fn sim(layout: &Layout) -> Table {
    let ports = &layout.ports;
    let mut table = Table::new();
    set(&mut table, "broker.url", text(format!("mqtt://{}", ports.agent_mqtt)));
    set(&mut table, "devices.ledger", text(layout.ledger().display()));
    set(&mut table, "replay.ledger", text(layout.ledger().display()));
    set(&mut table, "hub.host-name", text(HUB_HOST_NAME));
    set(&mut table, "hub.data-dir", text(layout.hub().display()));
    set(&mut table, "hub.identity-dir", text(layout.hub_identity().display()));
    set(&mut table, "hub.registry", text(layout.hub_registry().display()));
    set(&mut table, "hub.devices", Value::Array(vec![text(GATEWAY)]));
    set(&mut table, "hub.mqtt-listen", text(ports.hub_mqtt));
    set(&mut table, "dps.data-dir", text(layout.dir().join("dps").display()));
    set(&mut table, "hub.amqp-listen", text(ports.hub_amqp));
    set(&mut table, "hub.http.listen", text(ports.hub_http));
    table
}

fn set(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((head, rest)) => {
            let below = table.entry(head).or_insert_with(|| Value::Table(Table::new()));
            let below = below.as_table_mut().expect("a path goes through tables");
            set(below, rest, value);
        }
    }
}

fn text(value: impl ToString) -> Value {
    Value::String(value.to_string())
}

fn port(addr: std::net::SocketAddr) -> Value {
    Value::Integer(addr.port().into())
}
