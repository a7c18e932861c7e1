//! What devices of Homie 3, 4 and 5 publish, and what it becomes.

use super::*;
use crate::presilver::format::shown::Reader;
use crate::presilver::mapping::{Format, Mapping};

fn homie() -> Reader {
    Reader::of("homie/#", Format::Homie)
}

/// The device of the convention's own example.
#[test]
fn attributes_of_version_4_give_properties_their_types_and_units() {
    homie().check(&[
        ("homie/super-car/$homie", "4.0", &["left out $homie: attribute"]),
        ("homie/super-car/$name", "Super car", &["left out $name: attribute"]),
        ("homie/super-car/$nodes", "wheels,engine,lights", &["left out $nodes: attribute"]),
        ("homie/super-car/$extensions", "", &["left out $extensions: attribute"]),
        ("homie/super-car/$state", "init", &["super-car online = false"]),
        ("homie/super-car/engine/$name", "Car engine", &["left out $name: attribute"]),
        ("homie/super-car/engine/$properties", "temperature", &["left out $properties: attribute"]),
        ("homie/super-car/engine/temperature", "21.5", &["super-car engine/temperature = 21.5"]),
        ("homie/super-car/engine/temperature/$name", "Engine temperature", &["left out $name: attribute"]),
        ("homie/super-car/engine/temperature/$datatype", "float", &["left out $datatype: attribute"]),
        ("homie/super-car/engine/temperature/$unit", "°C", &["left out $unit: attribute"]),
        ("homie/super-car/engine/temperature/$settable", "false", &["left out $settable: attribute"]),
        ("homie/super-car/engine/temperature", "21.5", &["super-car engine/temperature = 21.5 Cel"]),
        ("homie/super-car/engine/temperature", "warm", &["super-car engine/temperature ![type: no float: warm]"]),
        ("homie/super-car/engine/temperature", "NaN", &["super-car engine/temperature ![type: no float: NaN]"]),
        ("homie/super-car/engine/temperature/set", "30", &["left out set: command"]),
        ("homie/super-car/$stats/uptime", "120", &["left out uptime: attribute"]),
        ("homie/$broadcast/alert", "Intruder detected", &["left out alert: broadcast"]),
    ]);
}

#[test]
fn a_description_of_version_5_gives_types_and_units_and_takes_them_back() {
    let described = r##"{"homie":"5.0","version":7,"nodes":{"engine":{"name":"Engine","properties":{
        "speed":{"datatype":"integer","unit":"km/h"},"gear":{"datatype":"enum","format":"1,2,3"},
        "on":{"datatype":"boolean"},"load":{"datatype":"float","unit":"%"},"turns":{"datatype":"integer","unit":"#"}}}}}"##;
    let again = r#"{"homie":"5.0","version":8,"nodes":{"engine":{"properties":{"speed":{"datatype":"string"}}}}}"#;
    homie().check(&[
        ("homie/5/car/$description", described, &["left out $description: attribute"]),
        ("homie/5/car/$state", "ready", &["car online = true"]),
        ("homie/5/car/engine/speed", "80", &["car engine/speed = 80 km/h"]),
        ("homie/5/car/engine/gear", "1", &["car engine/gear = \"1\""]),
        ("homie/5/car/engine/on", "true", &["car engine/on = true"]),
        ("homie/5/car/engine/on", "1", &["car engine/on ![type: no boolean: 1]"]),
        ("homie/5/car/engine/load", "50.5", &["car engine/load = 50.5 %"]),
        ("homie/5/car/engine/turns", "3", &["car engine/turns = 3"]),
        ("homie/5/car/engine/speed/$target", "90", &["left out $target: command"]),
        ("homie/5/car/engine/speed/set", "90", &["left out set: command"]),
        ("homie/5/car/$alert/battery", "low", &["left out battery: attribute"]),
        ("homie/5/car/$description", again, &["left out $description: attribute"]),
        ("homie/5/car/engine/speed", "80", &["car engine/speed = \"80\""]),
        ("homie/5/car/$description", "{", &["! payload: not JSON (EOF while parsing an object at line 1 column 1)"]),
    ]);
}

#[test]
fn what_nobody_described_is_a_number_if_it_reads_as_one() {
    homie().check(&[
        ("homie/d/n/a", "-1.5e3", &["d n/a = -1500"]),
        ("homie/d/n/a", "false", &["d n/a = false"]),
        ("homie/d/n/a", "2026-11-23T10:00:00", &["d n/a = \"2026-11-23T10:00:00\""]),
        ("homie/d/n/a", "\u{0}", &["d n/a = \"\""]),
        ("homie/d/n/a", "nan", &["d n/a ![type: no number: nan]"]),
        ("homie/d/n/load/$datatype", "percent", &["left out $datatype: attribute"]),
        ("homie/d/n/load", "50", &["d n/load = 50 %"]),
        ("homie/d/n/a", "", &["left out a: cleared"]),
        ("homie/d/n", "1", &["! topic: no Homie topic"]),
        ("homie/d/n/a/b", "1", &["! topic: no Homie topic"]),
        ("homie/d//a", "1", &["! topic: no Homie topic"]),
    ]);
    let lines = homie().lines("homie/d/n/a", [0xff]);
    assert_eq!(lines, ["! payload: not UTF-8 from byte 0"]);
}

#[test]
fn a_state_says_whether_a_device_is_there() {
    for (state, lines) in [
        ("ready", "d online = true"),
        ("alert", "d online = true"),
        ("sleeping", "d online = true"),
        ("init", "d online = false"),
        ("disconnected", "d online = false"),
        ("lost", "d online = false"),
        ("dancing", "d online ![type: no Homie state: dancing]"),
        ("", "left out $state: cleared"),
    ] {
        assert_eq!(homie().lines("homie/d/$state", state), [lines], "{state}");
    }
    let mapping =
        Mapping { topic: "homie/#".into(), format: Format::Homie, online: Some(String::new()), ..Mapping::default() };
    assert_eq!(Reader::with(mapping).lines("homie/d/$state", "ready"), ["left out $state: online"]);
}

#[test]
fn what_is_remembered_is_bounded_and_those_who_were_there_are_heard() {
    let mapping = Mapping { topic: "homie/#".into(), format: Format::Homie, ..Mapping::default() };
    let plan = Plan::new(&mapping).expect("no fault");
    let (mut memory, names) = (Memory::default(), BTreeMap::new());
    let mut unit = |property: usize| {
        let taken = memory.take(&plan, &names, &format!("homie/d/n/p{property}/$unit"), b"V").expect("readable");
        taken.notes.iter().map(|note| note.kind).collect::<Vec<_>>()
    };
    for property in 0..PROPERTIES_MAX {
        assert!(unit(property).is_empty());
    }
    assert_eq!(unit(PROPERTIES_MAX), ["homie-full"]);
    assert!(unit(0).is_empty());
    assert_eq!(memory.properties.len(), PROPERTIES_MAX);
}

#[test]
fn names_that_cannot_be_are_not_remembered() {
    let long = "x".repeat(200);
    let described = format!(
        r#"{{"nodes":{{"{long}":{{"properties":{{"a":{{"unit":"V"}}}}}},"n":{{"properties":{{"a":{{"unit":"V"}}}}}}}}}}"#
    );
    homie().check(&[
        (
            &format!("homie/d/{long}/a/$unit"),
            "V",
            &["! topic: a name in it is empty, too long, or holds a control character"],
        ),
        ("homie/5/d/$description", &described, &["left out $description: attribute"]),
        ("homie/5/d/n/a", "1", &["d n/a = 1 V"]),
    ]);
}

#[test]
fn devices_of_one_name_in_two_trees_are_two() {
    let mapping = Mapping {
        topic: "{site}/homie/#".into(),
        format: Format::Homie,
        device: Some("{site}-{device}".into()),
        ..Mapping::default()
    };
    Reader::with(mapping).check(&[
        ("north/homie/d/n/a/$unit", "V", &["left out $unit: attribute"]),
        ("north/homie/d/n/a", "1", &["north-d n/a = 1 V"]),
        ("south/homie/d/n/a", "1", &["south-d n/a = 1"]),
        ("south/homie/d/$state", "ready", &["south-d online = true"]),
    ]);
}
