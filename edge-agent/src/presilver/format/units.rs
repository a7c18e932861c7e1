//! Units as conventions write them -> UCUM.

/// Written otherwise in UCUM. What is not here is kept as written.
const UNITS: [(&str, &str); 27] = [
    ("°C", "Cel"),
    ("C", "Cel"),
    ("℃", "Cel"),
    ("degC", "Cel"),
    ("°F", "[degF]"),
    ("F", "[degF]"),
    ("℉", "[degF]"),
    ("degF", "[degF]"),
    ("°", "deg"),
    ("psi", "[psi]"),
    ("mmHg", "mm[Hg]"),
    ("inHg", "[in_i'Hg]"),
    ("ft", "[ft_i]"),
    ("in", "[in_i]"),
    ("gal", "[gal_us]"),
    ("kWh", "kW.h"),
    ("Wh", "W.h"),
    ("VA", "V.A"),
    ("var", "V.A{reactive}"),
    ("VAR", "V.A{reactive}"),
    ("kvarh", "kV.A{reactive}.h"),
    ("m³", "m3"),
    ("µg/m³", "ug/m3"),
    ("m²", "m2"),
    ("ppm", "[ppm]"),
    ("ppb", "[ppb]"),
    ("rpm", "{rpm}"),
];

/// The unit in UCUM; `None` where the convention says "none".
pub fn ucum(written: &str) -> Option<String> {
    match written.trim() {
        "" | "#" => None,
        unit => Some(UNITS.iter().find(|(from, _)| *from == unit).map_or(unit, |(_, to)| *to).to_owned()),
    }
}
