//! Telemetry as Tasmota publishes it, and what it becomes.

use crate::presilver::format::shown::Reader;
use crate::presilver::mapping::{Format, Mapping};

const TOPIC: &str = "tele/{device}/{kind}";

fn tasmota() -> Reader {
    Reader::of(TOPIC, Format::Tasmota)
}

#[test]
fn a_sensors_values_have_the_units_that_tasmota_says_or_always_uses() {
    tasmota().check(&[
        (
            "tele/attic/SENSOR",
            r#"{"Time":"2019-11-03T19:34:28","BME280":{"Temperature":21.7,"Humidity":66.6,"DewPoint":15.2,"Pressure":988.6},
                "PressureUnit":"hPa","TempUnit":"C"}"#,
            &[
                "attic BME280.Temperature = 21.7 Cel by its clock 2019-11-03T19:34:28Z",
                "attic BME280.Humidity = 66.6 % by its clock 2019-11-03T19:34:28Z",
                "attic BME280.DewPoint = 15.2 Cel by its clock 2019-11-03T19:34:28Z",
                "attic BME280.Pressure = 988.6 hPa by its clock 2019-11-03T19:34:28Z",
                "left out PressureUnit: about",
                "left out TempUnit: about",
            ],
        ),
        (
            "tele/attic/SENSOR",
            r#"{"Time":"2019-11-03T19:34:28","DS18B20-1":{"Id":"0316A27966F1","Temperature":68.4},"TempUnit":"F"}"#,
            &[
                "attic DS18B20-1.Id = \"0316A27966F1\" by its clock 2019-11-03T19:34:28Z",
                "attic DS18B20-1.Temperature = 68.4 [degF] by its clock 2019-11-03T19:34:28Z",
                "left out TempUnit: about",
            ],
        ),
    ]);
}

#[test]
fn a_meters_values_have_units_and_so_has_each_phase() {
    tasmota().check(&[
        (
            "tele/plug/SENSOR",
            r#"{"Time":"2026-11-23T10:00:00Z","ENERGY":{"TotalStartTime":"2018-11-23T15:12:00","Total":3.185,"Yesterday":3.058,
                "Today":0.127,"Power":27,"Factor":0.65,"Voltage":225,"Current":0.186}}"#,
            &[
                "plug ENERGY.TotalStartTime = \"2018-11-23T15:12:00\" at 2026-11-23T10:00:00Z",
                "plug ENERGY.Total = 3.185 kW.h at 2026-11-23T10:00:00Z",
                "plug ENERGY.Yesterday = 3.058 kW.h at 2026-11-23T10:00:00Z",
                "plug ENERGY.Today = 0.127 kW.h at 2026-11-23T10:00:00Z",
                "plug ENERGY.Power = 27 W at 2026-11-23T10:00:00Z",
                "plug ENERGY.Factor = 0.65 at 2026-11-23T10:00:00Z",
                "plug ENERGY.Voltage = 225 V at 2026-11-23T10:00:00Z",
                "plug ENERGY.Current = 0.186 A at 2026-11-23T10:00:00Z",
            ],
        ),
        (
            "tele/meter/SENSOR",
            r#"{"ENERGY":{"Total":[1.5,2.5],"Power":[null,30]},"RG15":{"Total":4.2},"PMS5003":{"PM2.5":7}}"#,
            &[
                "meter ENERGY.Total.0 = 1.5 kW.h",
                "meter ENERGY.Total.1 = 2.5 kW.h",
                "meter ENERGY.Power.1 = 30 W",
                "meter RG15.Total = 4.2",
                "meter PMS5003.PM2.5 = 7 ug/m3",
                "left out ENERGY.Power.0: null",
            ],
        ),
    ]);
}

#[test]
fn a_state_is_telemetry_and_the_last_will_says_whether_a_device_is_there() {
    tasmota().check(&[
        (
            "tele/plug/STATE",
            r#"{"Time":"2019-11-03T19:40:50","Uptime":"0T00:05:12","UptimeSec":312,"Heap":27,"SleepMode":"Dynamic","Sleep":50,
                "MqttCount":1,"POWER":"ON","Wifi":{"AP":1,"RSSI":100,"Signal":-48,"Downtime":"0T00:00:03"}}"#,
            &[
                "plug UptimeSec = 312 s by its clock 2019-11-03T19:40:50Z",
                "plug Heap = 27 kBy by its clock 2019-11-03T19:40:50Z",
                "plug MqttCount = 1 by its clock 2019-11-03T19:40:50Z",
                "plug POWER = \"ON\" by its clock 2019-11-03T19:40:50Z",
                "plug Wifi.AP = 1 by its clock 2019-11-03T19:40:50Z",
                "plug Wifi.RSSI = 100 by its clock 2019-11-03T19:40:50Z",
                "plug Wifi.Signal = -48 dBm by its clock 2019-11-03T19:40:50Z",
                "plug Wifi.Downtime = \"0T00:00:03\" by its clock 2019-11-03T19:40:50Z",
                "left out Uptime: about",
                "left out SleepMode: about",
                "left out Sleep: about",
            ],
        ),
        ("tele/plug/LWT", "Online", &["plug online = true"]),
        ("tele/plug/LWT", "Offline", &["plug online = false"]),
        ("tele/plug/LWT", "", &["left out LWT: cleared"]),
        ("tele/plug/LWT", "Gone", &["plug online ![type: neither Online nor Offline: Gone]"]),
        ("tele/plug/INFO1", r#"{"Info1":{"Module":"Generic"}}"#, &["left out INFO1: no-telemetry"]),
        ("tele/plug/RESULT", r#"{"POWER":"ON"}"#, &["left out RESULT: no-telemetry"]),
        ("tele/plug/SENSOR", r#"{"Time":"2019-11-03T19:40:50"}"#, &["left out whole message: no-metric"]),
        ("tele/plug/SENSOR", "[1]", &["! payload: not an object"]),
        ("tele/plug/SENSOR", "{", &["! payload: not JSON (EOF while parsing an object at line 1 column 1)"]),
    ]);
}

#[test]
fn with_an_offset_the_devices_clock_is_the_time() {
    let mapping = Mapping {
        topic: TOPIC.into(),
        format: Format::Tasmota,
        time_offset: Some("+01:00".into()),
        leave_out: vec!["Wifi.*".into()],
        ..Mapping::default()
    };
    Reader::with(mapping).check(&[
        (
            "tele/plug/STATE",
            r#"{"Time":"2026-11-23T11:00:00","POWER":"ON","Wifi":{"RSSI":100}}"#,
            &["plug POWER = \"ON\" at 2026-11-23T10:00:00Z", "left out Wifi.RSSI: leave-out"],
        ),
        (
            "tele/plug/STATE",
            r#"{"Time":5e300,"POWER":"ON"}"#,
            &["plug POWER = \"ON\" ![time: outside the years 1 to 9999: 5e300]"],
        ),
    ]);
}
