//! The back-off of a step: the delay between two attempts.
//!
//! The settling statement computes the delay in SQL, from the database's clock;
//! [`Backoff::delay_bounds`] mirrors the formula for explanations and tests.

use std::time::Duration;

/// How the delay between attempts grows.
///
/// After attempt `n` failed, `d = min(max_seconds, base_seconds * multiplier^(n-1))`, and the delay
/// is drawn uniformly from `[d * (1-jitter), d]`. `n` counts charged attempts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// Delay after the first attempt, in seconds. More than 0, at most
    /// [`Backoff::MAX_BASE_SECONDS`].
    pub base_seconds: f64,
    /// Growth from one attempt to the next, 1 to [`Backoff::MAX_MULTIPLIER`].
    pub multiplier: f64,
    /// Upper bound of the delay, in seconds. At least `base_seconds`, at most
    /// [`Backoff::MAX_SECONDS`].
    pub max_seconds: f64,
    /// Random share of the delay, 0 to 1.
    pub jitter: f64,
}

impl Backoff {
    /// Largest `base_seconds`: one hour.
    pub const MAX_BASE_SECONDS: f64 = 3_600.0;
    /// Largest `multiplier`.
    pub const MAX_MULTIPLIER: f64 = 10.0;
    /// Largest `max_seconds`: one day.
    pub const MAX_SECONDS: f64 = 86_400.0;

    /// The names of the fields.
    pub const FIELDS: [&'static str; 4] = ["base_seconds", "multiplier", "max_seconds", "jitter"];

    /// The bounds of a field's value; the lower bound of a field of seconds is exclusive.
    fn range(field: &str) -> (f64, f64) {
        match field {
            "base_seconds" => (0.0, Self::MAX_BASE_SECONDS),
            "multiplier" => (1.0, Self::MAX_MULTIPLIER),
            "max_seconds" => (0.0, Self::MAX_SECONDS),
            _ => (0.0, 1.0),
        }
    }

    /// Whether the value is within the field's bounds.
    pub fn fits(field: &str, value: f64) -> bool {
        let (min, max) = Self::range(field);
        (min..=max).contains(&value) && !(field.ends_with("_seconds") && value <= min)
    }

    /// The bounds of the field's value in words.
    pub fn expected(field: &str) -> String {
        match (field.ends_with("_seconds"), Self::range(field)) {
            (true, (min, max)) => format!("a number more than {min} and at most {max}"),
            (false, (min, max)) => format!("a number from {min} to {max}"),
        }
    }

    /// The field with this name.
    pub fn field_mut(&mut self, field: &str) -> Option<&mut f64> {
        match field {
            "base_seconds" => Some(&mut self.base_seconds),
            "multiplier" => Some(&mut self.multiplier),
            "max_seconds" => Some(&mut self.max_seconds),
            "jitter" => Some(&mut self.jitter),
            _ => None,
        }
    }

    /// The shortest and the longest delay that may follow attempt number `attempt`, counted from 1.
    ///
    /// Attempt 0 does not exist and is treated as 1.
    pub fn delay_bounds(&self, attempt: u32) -> (Duration, Duration) {
        let exponent = f64::from(attempt.max(1) - 1);
        // The power may overflow to infinity, which the minimum replaces.
        let longest = (self.base_seconds * self.multiplier.powf(exponent)).min(self.max_seconds);
        let shortest = longest * (1.0 - self.jitter);
        (seconds(shortest), seconds(longest))
    }
}

impl Backoff {
    /// The most jitter of a delay that has a lower bound.
    const SMALL_JITTER: f64 = 0.2;

    /// The delay after attempt number `attempt`, with `seconds` as its lower bound.
    pub fn at_least(self, attempt: u32, seconds: f64) -> Self {
        // A large jitter would stretch the delay far beyond its lower bound.
        let jitter = self.jitter.min(Self::SMALL_JITTER);
        // The shortest random delay is the share `1 - jitter` of `delay`, hence the division.
        let delay = self
            .delay_bounds(attempt)
            .1
            .as_secs_f64()
            .max(seconds / (1.0 - jitter));
        Self {
            // Base and maximum are equal and nothing grows, so the formula gives this delay for any
            // number of an attempt.
            base_seconds: delay,
            multiplier: 1.0,
            max_seconds: delay,
            jitter,
        }
    }
}

impl Default for Backoff {
    /// 1 s, doubled each time, at most 300 s, the upper half random.
    fn default() -> Self {
        Self {
            base_seconds: 1.0,
            multiplier: 2.0,
            max_seconds: 300.0,
            jitter: 0.5,
        }
    }
}

/// The fields are public, so an invalid value gives a delay of zero instead of a panic.
fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_is_at_least_the_requested_minimum() {
        let long = Backoff {
            base_seconds: 1.0,
            max_seconds: 5.0,
            ..Backoff::default()
        }
        .at_least(2, 8.0);
        assert_eq!(
            [1, 2].map(|n| long.delay_bounds(n)),
            [(Duration::from_secs(8), Duration::from_secs(10)); 2]
        );
        let own = Backoff {
            base_seconds: 30.0,
            ..Backoff::default()
        }
        .at_least(2, 8.0)
        .delay_bounds(2);
        assert_eq!(own, (Duration::from_secs(48), Duration::from_secs(60)));
    }

    fn millis(attempt: u32, backoff: Backoff) -> (u128, u128) {
        let (shortest, longest) = backoff.delay_bounds(attempt);
        (shortest.as_millis(), longest.as_millis())
    }

    #[test]
    fn default_back_off_doubles_from_1_s_to_5_min() {
        let expected = [
            (500, 1_000),
            (1_000, 2_000),
            (2_000, 4_000),
            (4_000, 8_000),
            (8_000, 16_000),
        ];
        for (attempt, bounds) in (1..).zip(expected) {
            assert_eq!(
                millis(attempt, Backoff::default()),
                bounds,
                "attempt {attempt}"
            );
        }
        assert_eq!(millis(9, Backoff::default()), (128_000, 256_000));
        assert_eq!(millis(10, Backoff::default()), (150_000, 300_000));
    }

    #[test]
    fn back_off_of_any_attempt_does_not_overflow() {
        let steep = Backoff {
            multiplier: Backoff::MAX_MULTIPLIER,
            ..Backoff::default()
        };
        assert_eq!(millis(u32::MAX, steep), (150_000, 300_000));
        assert_eq!(millis(0, steep), millis(1, steep));
        let broken = Backoff {
            base_seconds: f64::NAN,
            multiplier: -1.0,
            max_seconds: f64::NAN,
            jitter: 7.0,
        };
        assert_eq!(millis(3, broken), (0, 0));
    }

    #[test]
    fn jitter_sets_the_width_of_the_range_of_delays() {
        let fixed = Backoff {
            jitter: 0.0,
            ..Backoff::default()
        };
        assert_eq!(millis(3, fixed), (4_000, 4_000));
        let full = Backoff {
            jitter: 1.0,
            ..Backoff::default()
        };
        assert_eq!(millis(3, full), (0, 4_000));
    }
}
