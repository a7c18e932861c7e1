//! A transcript of what Zigbee2MQTT publishes, and what it becomes.

use crate::presilver::format::shown::Reader;
use crate::presilver::mapping::{Format, Mapping};

fn zigbee() -> Reader {
    Reader::of("zigbee2mqtt/#", Format::Zigbee2mqtt)
}

/// As it comes after a start: the bridge, then the devices, one of them named with a blank and a `/`.
#[test]
fn a_transcript_becomes_the_readings_of_its_devices() {
    zigbee().check(&[
        ("zigbee2mqtt/bridge/state", r#"{"state":"online"}"#, &["left out bridge/state: bridge"]),
        ("zigbee2mqtt/bridge/info", r#"{"version":"2.6.3","log_level":"info"}"#, &["left out bridge/info: bridge"]),
        (
            "zigbee2mqtt/bridge/logging",
            r#"{"level":"info","message":"z2m:mqtt: MQTT publish","namespace":"z2m:mqtt"}"#,
            &["left out bridge/logging: bridge"],
        ),
        (
            "zigbee2mqtt/living room/climate/availability",
            r#"{"state":"online"}"#,
            &["living room/climate online = true"],
        ),
        (
            "zigbee2mqtt/living room/climate",
            r#"{"battery":97,"humidity":41.2,"last_seen":"2026-11-23T10:59:58+01:00","linkquality":120,"pressure":null,
                "temperature":21.37,"update":{"installed_version":16777241,"latest_version":16777241,"state":"idle"},
                "update_available":false,"voltage":2900}"#,
            &[
                "living room/climate battery = 97 at 2026-11-23T09:59:58Z",
                "living room/climate humidity = 41.2 at 2026-11-23T09:59:58Z",
                "living room/climate linkquality = 120 at 2026-11-23T09:59:58Z",
                "living room/climate temperature = 21.37 at 2026-11-23T09:59:58Z",
                "living room/climate voltage = 2900 at 2026-11-23T09:59:58Z",
                "left out pressure: null",
                "left out update: about",
                "left out update_available: about",
            ],
        ),
        (
            "zigbee2mqtt/lamp",
            r#"{"brightness":254,"color":{"x":0.3,"y":0.4},"color_mode":"xy","last_seen":1795427998000,"state":"ON"}"#,
            &[
                "lamp brightness = 254 at 2026-11-23T09:59:58Z",
                "lamp color.x = 0.3 at 2026-11-23T09:59:58Z",
                "lamp color.y = 0.4 at 2026-11-23T09:59:58Z",
                "lamp color_mode = \"xy\" at 2026-11-23T09:59:58Z",
                "lamp state = \"ON\" at 2026-11-23T09:59:58Z",
            ],
        ),
        (
            "zigbee2mqtt/door",
            r#"{"contact":true,"device":{"ieeeAddr":"0x00"}}"#,
            &["door contact = true", "left out device: about"],
        ),
        (
            "zigbee2mqtt/remote",
            r#"{"action":"single","battery":90,"last_seen":null}"#,
            &["remote action = \"single\"", "remote battery = 90"],
        ),
        ("zigbee2mqtt/remote", r#"{"action":"","battery":90}"#, &["remote battery = 90", "left out action: about"]),
        ("zigbee2mqtt/remote", r#"{"action":null}"#, &["left out action: null"]),
        ("zigbee2mqtt/lamp/set", r#"{"state":"OFF"}"#, &["left out lamp/set: command"]),
        ("zigbee2mqtt/lamp/set/brightness", "5", &["left out brightness: command"]),
        ("zigbee2mqtt/lamp/get", r#"{"state":""}"#, &["left out lamp/get: command"]),
        ("zigbee2mqtt/lamp/availability", "offline", &["lamp online = false"]),
        ("zigbee2mqtt/lamp/availability", "", &["left out availability: cleared"]),
        ("zigbee2mqtt/lamp", "", &["left out lamp: cleared"]),
    ]);
}

/// Shapes as bridges of version 2 publish them: a sensor, a thermostat whose values stand beside the others, a composite
/// value, and entries without a definition.
const DEVICES: &str = r#"[
    {"friendly_name":"Coordinator","type":"Coordinator","definition":null,"interview_state":"SUCCESSFUL"},
    {"friendly_name":"living room/climate","ieee_address":"0x00158d00018255df","type":"EndDevice","definition":{"model":"WSDCGQ11LM",
      "vendor":"Aqara","exposes":[
        {"type":"numeric","name":"battery","label":"Battery","property":"battery","access":1,"unit":"%","category":"diagnostic"},
        {"type":"numeric","name":"temperature","property":"temperature","access":1,"unit":"°C"},
        {"type":"numeric","name":"pressure","property":"pressure","access":1,"unit":"hPa"},
        {"type":"numeric","name":"voltage","property":"voltage","access":1,"unit":"mV"},
        {"type":"numeric","name":"linkquality","property":"linkquality","access":1,"unit":"lqi","value_max":255}]}},
    {"friendly_name":"trv","definition":{"exposes":[{"type":"climate","features":[
        {"type":"numeric","name":"local_temperature","property":"local_temperature","access":5,"unit":"°C"},
        {"type":"enum","name":"system_mode","property":"system_mode","access":7,"values":["off","heat"]}]}]}},
    {"friendly_name":"radar","definition":{"exposes":[{"type":"composite","property":"zone","features":[
        {"type":"numeric","name":"from","property":"from","access":7,"unit":"m"}]},
        {"type":"switch","endpoint":"l1","features":[{"type":"binary","property":"state_l1","access":7}]}]}},
    {"friendly_name":5,"definition":{"exposes":"none"}}]"#;

#[test]
fn units_are_learned_from_what_the_bridge_says_of_its_devices() {
    zigbee().check(&[
        ("zigbee2mqtt/trv", r#"{"local_temperature":20.8}"#, &["trv local_temperature = 20.8"]),
        ("zigbee2mqtt/bridge/devices", DEVICES, &["left out bridge/devices: bridge"]),
        (
            "zigbee2mqtt/living room/climate",
            r#"{"battery":97,"temperature":21.37,"pressure":998.4,"voltage":2900,"linkquality":120}"#,
            &[
                "living room/climate battery = 97 %",
                "living room/climate temperature = 21.37 Cel",
                "living room/climate pressure = 998.4 hPa",
                "living room/climate voltage = 2900 mV",
                "living room/climate linkquality = 120 lqi",
            ],
        ),
        ("zigbee2mqtt/living room/climate/temperature", "21.4", &["living room/climate temperature = 21.4 Cel"]),
        (
            "zigbee2mqtt/trv",
            r#"{"local_temperature":20.8,"system_mode":"heat"}"#,
            &["trv local_temperature = 20.8 Cel", "trv system_mode = \"heat\""],
        ),
        (
            "zigbee2mqtt/radar",
            r#"{"zone":{"from":1.5},"state_l1":"ON"}"#,
            &["radar zone.from = 1.5 m", "radar state_l1 = \"ON\""],
        ),
        ("zigbee2mqtt/other", r#"{"temperature":1}"#, &["other temperature = 1"]),
        (
            "zigbee2mqtt/bridge/devices",
            "[{",
            &[
                "left out bridge/devices: bridge",
                "note zigbee2mqtt-devices: zigbee2mqtt/bridge/devices cannot be read, units stay as they were: EOF while \
                 parsing an object at line 1 column 2",
            ],
        ),
        ("zigbee2mqtt/trv", r#"{"local_temperature":20.8}"#, &["trv local_temperature = 20.8 Cel"]),
        ("zigbee2mqtt/bridge/devices", "[]", &["left out bridge/devices: bridge"]),
        ("zigbee2mqtt/trv", r#"{"local_temperature":20.8}"#, &["trv local_temperature = 20.8"]),
    ]);
}

#[test]
fn of_what_is_retained_only_the_list_of_devices_is_wanted_again() {
    let mapping = |topic: &str, format| Mapping { topic: topic.into(), format, ..Mapping::default() };
    let mappings = crate::presilver::mapping::Mappings::new(&[
        mapping("zigbee2mqtt/#", Format::Zigbee2mqtt),
        mapping("homie/#", Format::Homie),
        mapping("tele/{device}/{kind}", Format::Tasmota),
    ]);
    let learns = mappings.learns();
    for (topic, wanted) in [
        ("zigbee2mqtt/bridge/devices", true),
        ("zigbee2mqtt/bridge/info", false),
        ("zigbee2mqtt/plug", false),
        ("homie/d/n/a", true),
        ("tele/d/LWT", false),
        ("elsewhere/bridge/devices", false),
    ] {
        assert_eq!(learns(topic), wanted, "{topic}");
    }
}

#[test]
fn attributes_on_topics_of_their_own_are_read() {
    zigbee().check(&[
        ("zigbee2mqtt/hall/plug/power", "12.5", &["hall/plug power = 12.5"]),
        ("zigbee2mqtt/hall/plug/state", "ON", &["hall/plug state = \"ON\""]),
        ("zigbee2mqtt/hall/plug/contact", "true", &["hall/plug contact = true"]),
    ]);
}

#[test]
fn what_cannot_be_taken_costs_as_little_as_it_can() {
    zigbee().check(&[
        ("zigbee2mqtt/d", r#"{"a":1,"a":2,"b":3}"#, &["d a ![name: the metric stands twice]", "d b = 3"]),
        (
            "zigbee2mqtt/d",
            r#"{"a":1,"last_seen":"yesterday"}"#,
            &["d a = 1 ![time: neither RFC 3339, nor a local time, nor a number since the Unix epoch: \"yesterday\"]"],
        ),
        ("zigbee2mqtt/d", r#"{"last_seen":1795427998000}"#, &["left out d: no-metric"]),
        ("zigbee2mqtt/d", "{}", &["left out d: no-metric"]),
        ("zigbee2mqtt/d", "ON", &["! payload: not JSON (expected value at line 1 column 1)"]),
        ("zigbee2mqtt/d", "5", &["! payload: not an object: 5"]),
        ("zigbee2mqtt/d/availability", "maybe", &["d online ![type: neither online nor offline: maybe]"]),
    ]);
}

#[test]
fn a_mapping_may_leave_out_and_take_nulls_for_faults() {
    let mapping = Mapping {
        topic: "home/{floor}/#".into(),
        format: Format::Zigbee2mqtt,
        device: Some("{floor}:{device}".into()),
        leave_out: vec!["linkquality".into(), "update*".into()],
        nulls: Some(crate::presilver::mapping::Nulls::Refuse),
        online: Some(String::new()),
        ..Mapping::default()
    };
    Reader::with(mapping).check(&[
        (
            "home/1/plug",
            r#"{"power":null,"linkquality":5}"#,
            &["1:plug power ![type: null]", "left out linkquality: leave-out"],
        ),
        ("home/1/plug/availability", "online", &["left out availability: online"]),
    ]);
}
