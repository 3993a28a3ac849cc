//! Times on the command line: absolute, or a distance into the past or the future.

use prost_types::Timestamp;

use crate::cli::render::human;
use crate::domain::time::is_rfc3339;

/// A time, or a distance into the past such as `2h`.
pub fn when(text: &str) -> Result<Timestamp, String> {
    moved(text, -1).ok_or_else(|| expected("how long ago"))
}

/// A time, or a distance into the future such as `10m`.
pub fn later(text: &str) -> Result<Timestamp, String> {
    moved(text, 1).ok_or_else(|| expected("how long from now"))
}

fn expected(distance: &str) -> String {
    format!(
        "expected a time with its zone such as 2026-01-31T12:00:00Z, or {distance}: 90s, 15m, 2h, 7d"
    )
}

fn moved(text: &str, sign: i64) -> Option<Timestamp> {
    // The parser also accepts a time without a zone, which is ambiguous.
    if let Ok(time) = text.parse() {
        return Some(time).filter(|_| is_rfc3339(text));
    }
    let distance = human::parse_duration(text)?.cast_signed();
    let now = human::now();
    Some(Timestamp {
        seconds: now.seconds + sign * distance,
        nanos: now.nanos,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_accepts_an_instant_or_a_distance() {
        let absolute = Ok(Timestamp {
            seconds: 1_767_225_600,
            nanos: 0,
        });
        assert_eq!(
            (when("2026-01-01T00:00:00Z"), later("2026-01-01T00:00:00Z")),
            (absolute.clone(), absolute)
        );
        let ago = |text| human::since(when(text).expect(text), human::now()).as_secs();
        assert!(
            (90..95).contains(&ago("90s"))
                && (7_200..7_205).contains(&ago("2h"))
                && ago("7d") >= 604_800
        );
        let ahead = human::since(human::now(), later("10m").expect("a time")).as_secs();
        assert!((595..=600).contains(&ahead), "{ahead}");
        for wrong in [
            "",
            "h",
            "2",
            "2w",
            "-2h",
            "2hh",
            "yesterday",
            "é",
            "2026-01-01T00:00:00",
            "2026-01-01",
        ] {
            assert!(when(wrong).is_err() && later(wrong).is_err(), "{wrong}");
        }
    }
}
