//! Durations in configuration: `"250ms"`, `"2.5s"`, `"1m30s"`. Use as `#[serde(with = "kr_boot::config::duration")]`.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserializer, Serializer};

const UNITS: [(&str, f64); 5] = [("ms", 1e-3), ("us", 1e-6), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
const EXPECTED: &str = "a duration such as \"250ms\", \"2.5s\", \"1m30s\" or \"1h\"";

/// Writes a duration in the largest units that lose nothing below a microsecond.
///
/// # Errors
/// Only those of the serializer.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text(*duration))
}

/// Reads a duration: numbers, each with its unit (`us`, `ms`, `s`, `m`, `h`).
///
/// # Errors
/// When the value is no text, has no unit, an unknown one, or is out of range.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_str(DurationVisitor)
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut seconds = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

fn text(duration: Duration) -> String {
    let (seconds, micros) = (duration.as_secs(), duration.subsec_micros());
    let mut parts = String::new();
    for (count, unit) in [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")] {
        if count > 0 {
            parts += &format!("{count}{unit}");
        }
    }
    if micros % 1000 != 0 {
        parts += &format!("{micros}us");
    } else if micros > 0 {
        parts += &format!("{}ms", micros / 1000);
    }
    if parts.is_empty() { "0s".to_owned() } else { parts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_survive_a_round_trip() {
        for micros in [0, 1, 250_000, 1_500_000, 90_000_000, 3_600_000_000, 5_400_000_001] {
            let duration = Duration::from_micros(micros);
            assert_eq!(parse(&text(duration)), Some(duration), "{}", text(duration));
        }
    }

    #[test]
    fn durations_without_a_known_unit_are_refused() {
        for wrong in ["", "5", "5 s", "s", "5d", "-1s", "1.2.3s", "1e400h", "5S"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
        assert_eq!(parse("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse("2.5s"), Some(Duration::from_millis(2500)));
    }
}
