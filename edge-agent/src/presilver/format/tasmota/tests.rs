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
            r#"{"ENERGY":{"Total":0.017,"TotalTariff":[0.000,0.017],"ExportActive":0.5,"ExportTariff":[0.1,0.4],"Period":[2,0],
                "ApparentPower":[7.84,1.23],"ReactivePower":-7.21,"Frequency":50.0,"ImportActive":12.580,"ImportReactive":0.002,
                "ExportReactive":39.131,"PhaseAngle":290.45}}"#,
            &[
                "meter ENERGY.Total = 0.017 kW.h",
                "meter ENERGY.TotalTariff.0 = 0 kW.h",
                "meter ENERGY.TotalTariff.1 = 0.017 kW.h",
                "meter ENERGY.ExportActive = 0.5 kW.h",
                "meter ENERGY.ExportTariff.0 = 0.1 kW.h",
                "meter ENERGY.ExportTariff.1 = 0.4 kW.h",
                "meter ENERGY.Period.0 = 2 W.h",
                "meter ENERGY.Period.1 = 0 W.h",
                "meter ENERGY.ApparentPower.0 = 7.84 V.A",
                "meter ENERGY.ApparentPower.1 = 1.23 V.A",
                "meter ENERGY.ReactivePower = -7.21 V.A{reactive}",
                "meter ENERGY.Frequency = 50 Hz",
                "meter ENERGY.ImportActive = 12.58 kW.h",
                "meter ENERGY.ImportReactive = 0.002 kV.A{reactive}.h",
                "meter ENERGY.ExportReactive = 39.131 kV.A{reactive}.h",
                "meter ENERGY.PhaseAngle = 290.45 deg",
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
fn numbered_inputs_have_the_units_of_their_kind_and_a_speed_has_the_one_that_is_told() {
    tasmota().check(&[
        (
            "tele/a/SENSOR",
            r#"{"ANALOG":{"A0":523,"Temperature1":68,"CTEnergy1":{"Energy":1.2,"Power":3}},"COUNTER":{"C1":5},"TempUnit":"F"}"#,
            &[
                "a ANALOG.A0 = 523",
                "a ANALOG.Temperature1 = 68 [degF]",
                "a ANALOG.CTEnergy1.Energy = 1.2 kW.h",
                "a ANALOG.CTEnergy1.Power = 3 W",
                "a COUNTER.C1 = 5",
                "left out TempUnit: about",
            ],
        ),
        (
            "tele/a/SENSOR",
            r#"{"TX2x":{"Speed":{"Act":3.6},"Dir":{"Deg":315}},"SpeedUnit":"km/h"}"#,
            &["a TX2x.Speed.Act = 3.6 km/h", "a TX2x.Dir.Deg = 315", "left out SpeedUnit: about"],
        ),
        ("tele/lamp/STATE", r#"{"Vcc":3.211,"Speed":1}"#, &["lamp Vcc = 3.211 V", "lamp Speed = 1"]),
    ]);
}

#[test]
fn what_a_device_answers_when_asked_for_its_status_is_read_as_its_telemetry() {
    Reader::of("stat/{device}/{kind}", Format::Tasmota).check(&[
        (
            "stat/cellar/STATUS10",
            r#"{"StatusSNS":{"Time":"2018-09-04T07:31:19","DS18B20-1":{"Id":"0316A27966F1","Temperature":5.4},"TempUnit":"C"}}"#,
            &[
                "cellar DS18B20-1.Id = \"0316A27966F1\" by its clock 2018-09-04T07:31:19Z",
                "cellar DS18B20-1.Temperature = 5.4 Cel by its clock 2018-09-04T07:31:19Z",
                "left out TempUnit: about",
            ],
        ),
        ("stat/cellar/STATUS11", r#"{"StatusSTS":{"POWER":"ON"}}"#, &["cellar POWER = \"ON\""]),
        ("stat/cellar/STATUS8", r#"{"StatusPWR":{}}"#, &["left out whole message: no-telemetry"]),
        ("stat/cellar/STATUS2", r#"{"StatusFWR":{"Version":"12.2.0.6"}}"#, &["left out STATUS2: no-telemetry"]),
        ("stat/cellar/POWER", "ON", &["left out POWER: no-telemetry"]),
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
