//! Times and durations as words.

use std::time::{Duration, SystemTime};

/// The time since `at`, in words.
pub fn ago(at: SystemTime, now: SystemTime) -> String {
    words(now.duration_since(at).unwrap_or_default())
}

pub fn from_now(at: SystemTime, now: SystemTime) -> String {
    match at.duration_since(now) {
        Ok(time) if !time.is_zero() => format!("in {}", words(time)),
        _ => "now".into(),
    }
}

/// A duration in its two most significant units.
pub fn words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}
