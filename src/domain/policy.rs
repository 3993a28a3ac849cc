//! The protection of a service. Operators set single fields for a service, a namespace, or the
//! whole cell; for each field, the narrowest setting decides.

use serde::{Deserialize, Serialize};

/// The longest time that can be set, in seconds: one day.
pub const MAX_SECONDS: f64 = 86_400.0;
/// The shortest rolling window and cool-down, in seconds.
pub const MIN_SECONDS: f64 = 0.1;
/// The largest number that can be set.
pub const MAX_COUNT: u32 = 1_000_000;

/// The complete policy in force for a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Whether failures open the circuit. Throttles and limits apply regardless.
    pub enabled: bool,
    /// Length of the rolling window.
    pub window_seconds: f64,
    /// With fewer calls in the window the circuit stays closed.
    pub min_calls: u32,
    /// The share of failed calls that opens the circuit, above 0, at most 1.
    pub failure_rate: f64,
    /// A longer call counts as failed; 0 for no limit.
    pub slow_call_seconds: f64,
    /// Length of the first open period; each further one is twice as long.
    pub cool_down_seconds: f64,
    pub max_cool_down_seconds: f64,
    /// The number of steps that a half-open circuit admits, all of which must succeed.
    pub probes: u32,
    /// Time after a recovery during which the steps at once are limited.
    pub ramp_seconds: f64,
    /// The longest throttle that a `retry_after` can request.
    pub max_pause_seconds: f64,
    /// Steps at once in the whole cluster; 0 for no limit.
    pub max_concurrency: u32,
    /// Starts per second in the whole cluster; 0 for no limit.
    pub per_second: f64,
    /// Starts at once after an idle time; 0 for as many as in one second.
    pub burst: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            enabled: true,
            window_seconds: 30.0,
            min_calls: 10,
            failure_rate: 0.5,
            slow_call_seconds: 0.0,
            cool_down_seconds: 10.0,
            max_cool_down_seconds: 300.0,
            probes: 3,
            ramp_seconds: 10.0,
            max_pause_seconds: 300.0,
            max_concurrency: 0,
            per_second: 0.0,
            burst: 0,
        }
    }
}

impl Policy {
    /// Capacity of the rate limit's token bucket, in starts.
    pub fn bucket(&self) -> f64 {
        if self.burst > 0 {
            f64::from(self.burst)
        } else {
            // Below one start per second, a smaller bucket would never hold a whole start.
            self.per_second.max(1.0)
        }
    }
}

macro_rules! settings {
    ($($field:ident: $type:ty, $min:expr, $max:expr, $unit:expr;)*) => {
        /// The fields that an operator has set; the wider settings supply the others. Stored as
        /// JSON in the database.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Settings {
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub enabled: Option<bool>,
            $(#[serde(default, skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }

        impl Settings {
            /// `policy` with the fields of these settings.
            pub fn over(&self, mut policy: Policy) -> Policy {
                if let Some(enabled) = self.enabled {
                    policy.enabled = enabled;
                }
                $(if let Some(value) = self.$field { policy.$field = value; })*
                policy
            }

            /// Whether a field is set; `None` for a name that no field has.
            pub fn has(&self, field: &str) -> Option<bool> {
                match field {
                    "enabled" => Some(self.enabled.is_some()),
                    $(stringify!($field) => Some(self.$field.is_some()),)*
                    _ => None,
                }
            }

            /// The settings after a change that unsets some fields and sets others;
            /// [`Self::conflicts`] finds the meaningless changes.
            pub fn changed(&self, unset: &[String], set: &Self) -> Self {
                let unset = |field: &str| unset.iter().any(|name| name == field);
                Self {
                    enabled: set.enabled.or(self.enabled.filter(|_| !unset("enabled"))),
                    $($field: set.$field.or(self.$field.filter(|_| !unset(stringify!($field)))),)*
                }
            }

            /// Settings with each field of a policy.
            pub fn of(policy: &Policy) -> Self {
                Self { enabled: Some(policy.enabled), $($field: Some(policy.$field),)* }
            }

            /// Each field that is out of bounds, with the expected range.
            pub fn problems(&self) -> Vec<(&'static str, String)> {
                let mut problems = Vec::new();
                $(if let Some(value) = self.$field
                    && !($min..=$max).contains(&value)
                {
                    let expected = format!("expected {} to {}{}, found {value}", $min, $max, $unit);
                    problems.push((stringify!($field), expected));
                })*
                problems
            }
        }
    };
}

settings! {
    window_seconds: f64, MIN_SECONDS, MAX_SECONDS, " seconds";
    min_calls: u32, 1, MAX_COUNT, " calls";
    failure_rate: f64, 0.001, 1.0, "";
    slow_call_seconds: f64, 0.0, MAX_SECONDS, " seconds";
    cool_down_seconds: f64, MIN_SECONDS, MAX_SECONDS, " seconds";
    max_cool_down_seconds: f64, MIN_SECONDS, MAX_SECONDS, " seconds";
    probes: u32, 1, 1_000, " probes";
    ramp_seconds: f64, 0.0, MAX_SECONDS, " seconds";
    max_pause_seconds: f64, 0.0, MAX_SECONDS, " seconds";
    max_concurrency: u32, 0, MAX_COUNT, " steps";
    per_second: f64, 0.0, 1_000_000.0, " starts";
    burst: u32, 0, MAX_COUNT, " starts";
}

impl Settings {
    pub fn from_json(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The conflicts of unsetting these fields while setting `self`: the place in the request, and
    /// the problem.
    pub fn conflicts(&self, unset: &[String]) -> Vec<(String, String)> {
        let conflict = |name: &String| match self.has(name) {
            None => Some((
                "unset".to_owned(),
                format!("`{name}` is not a field of a policy"),
            )),
            Some(true) => Some((
                format!("policy.{name}"),
                format!("is set, and `unset` names `{name}` too: expected one of the two"),
            )),
            Some(false) => None,
        };
        let mut conflicts: Vec<_> = unset.iter().filter_map(conflict).collect();
        // In order, so that a field that `unset` names twice is one conflict.
        conflicts.sort();
        conflicts.dedup();
        conflicts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_takes_each_field_from_the_narrowest_setting() {
        let cell = Settings {
            min_calls: Some(5),
            probes: Some(1),
            ..Settings::default()
        };
        let service = Settings {
            probes: Some(7),
            max_concurrency: Some(0),
            ..Settings::default()
        };
        let policy = service.over(cell.over(Policy::default()));
        assert_eq!(
            (policy.min_calls, policy.probes, policy.failure_rate),
            (5, 7, 0.5)
        );
        assert_eq!(Settings::from_json(&service.to_json()).unwrap(), service);
        assert!(Settings::from_json(r#"{"probs": 1}"#).is_err());
        let changed = service.changed(
            &["probes".into()],
            &Settings {
                burst: Some(3),
                ..Settings::default()
            },
        );
        assert_eq!(
            (changed.probes, changed.burst, changed.max_concurrency),
            (None, Some(3), Some(0))
        );
    }

    #[test]
    fn field_both_set_and_unset_is_refused() {
        let set = Settings {
            enabled: Some(false),
            probes: Some(7),
            ..Settings::default()
        };
        assert_eq!(
            (set.has("probes"), set.has("burst"), set.has("probs")),
            (Some(true), Some(false), None)
        );
        assert!(
            set.conflicts(&["burst".into(), "burst".into(), "min_calls".into()])
                .is_empty()
        );
        let both = set.conflicts(&[
            "probes".into(),
            "burst".into(),
            "enabled".into(),
            "probs".into(),
            "probes".into(),
        ]);
        let places: Vec<&str> = both.iter().map(|(place, _)| place.as_str()).collect();
        assert_eq!(places, ["policy.enabled", "policy.probes", "unset"]);
        assert!(
            both[1].1.contains("`unset` names `probes` too") && both[2].1.contains("`probs`"),
            "{both:?}"
        );
    }

    #[test]
    fn policy_bounds_hold_at_their_edges() {
        let found = |settings: &Settings| {
            settings
                .problems()
                .into_iter()
                .map(|(field, _)| field)
                .collect::<Vec<_>>()
        };
        let edge = Settings {
            probes: Some(1_000),
            failure_rate: Some(1.0),
            window_seconds: Some(MIN_SECONDS),
            min_calls: Some(1),
            ..Settings::default()
        };
        assert!(found(&edge).is_empty());
        let beyond = Settings {
            probes: Some(1_001),
            failure_rate: Some(0.0),
            window_seconds: Some(MAX_SECONDS + 1.0),
            per_second: Some(f64::NAN),
            min_calls: Some(0),
            ..Settings::default()
        };
        assert_eq!(
            found(&beyond),
            [
                "window_seconds",
                "min_calls",
                "failure_rate",
                "probes",
                "per_second"
            ]
        );
    }
}
