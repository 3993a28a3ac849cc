//! Durations, times and states as words and signs for people.

use std::time::{Duration, SystemTime};

use anstyle::Style;
use prost_types::Timestamp;

use super::term::{Term, style};
use crate::proto::{AttemptOutcome, EventType, StepState, TaskState};

/// `850 ms`, `1.2 s`, `42 s`, `3 m 4 s`, `2 h 5 m`, `3 d 4 h`.
pub fn duration(d: Duration) -> String {
    // Rounded before the unit is chosen, so that 59.7 s is `1 m 0 s` and not `60 s`.
    let seconds = (d.as_millis() + 500) / 1000;
    match (d.as_millis(), seconds) {
        (0, _) if !d.is_zero() => format!("{:.1} ms", d.as_secs_f64() * 1e3),
        (ms @ ..1000, _) => format!("{ms} ms"),
        (ms @ ..9950, _) => format!("{:.1} s", ms as f64 / 1e3),
        (_, s @ ..60) => format!("{s} s"),
        (_, s @ ..3600) => format!("{} m {} s", s / 60, s % 60),
        (_, s @ ..86_400) => format!("{} h {} m", s / 3600, s % 3600 / 60),
        (_, s) => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}

/// Parses `90s`, `15m`, `2h` or `7d` into seconds.
pub fn parse_duration(text: &str) -> Option<u64> {
    // `u32` leaves room for the unit in the `u64` of the product.
    let number = text
        .strip_suffix(['s', 'm', 'h', 'd'])?
        .parse::<u32>()
        .ok()?;
    let unit = match text.as_bytes().last()? {
        b's' => 1,
        b'm' => 60,
        b'h' => 3_600,
        _ => 86_400,
    };
    Some(u64::from(number) * unit)
}

/// The time from `start` to `end`, or to now while `end` is unset; `None` before the start. Zero if
/// the clocks disagree.
pub fn elapsed(start: Option<Timestamp>, end: Option<Timestamp>) -> Option<Duration> {
    let end = end.unwrap_or_else(now);
    Some(since(start?, end))
}

/// From `start` to `end`; zero when that is negative.
pub fn since(start: Timestamp, end: Timestamp) -> Duration {
    // `i64` holds nanoseconds until the year 2262 only, and a server may send any time.
    let nanos = |t: Timestamp| i128::from(t.seconds) * 1_000_000_000 + i128::from(t.nanos);
    let between = (nanos(end) - nanos(start)).max(0);
    Duration::from_nanos(u64::try_from(between).unwrap_or(u64::MAX))
}

/// This machine's clock; for display only.
#[expect(clippy::disallowed_methods, reason = "not evaluated")]
pub fn now() -> Timestamp {
    SystemTime::now().into()
}

/// RFC 3339 in UTC, to the millisecond.
pub fn time(t: Timestamp) -> String {
    let whole = Timestamp {
        seconds: t.seconds,
        nanos: 0,
    }
    .to_string();
    // A message may have more nanoseconds than a second has.
    let millis = t.nanos.clamp(0, 999_999_999) / 1_000_000;
    format!("{}.{millis:03}Z", whole.trim_end_matches('Z'))
}

/// The time, or `-` when it is not set.
pub fn time_or_dash(t: Option<Timestamp>) -> String {
    t.map_or_else(|| "-".into(), time)
}

/// The enum value's short word: `TASK_STATE_IN_PROGRESS` is `in_progress`.
pub fn word<E: TryFrom<i32>>(value: i32, name: fn(&E) -> &'static str, prefix: &str) -> String {
    match E::try_from(value) {
        Ok(e) => name(&e).trim_start_matches(prefix).to_ascii_lowercase(),
        // A newer server may know more states than this client.
        Err(_) => format!("unknown_{value}"),
    }
}

/// The name of an event's type: `EVENT_TYPE_STEP_FAILED` is `step.failed`.
pub fn event_type(kind: i32) -> String {
    // Only the first underscore separates the noun from the verb.
    word::<EventType>(kind, EventType::as_str_name, "EVENT_TYPE_").replacen('_', ".", 1)
}

/// The short word of a task's state.
pub fn task_state(state: i32) -> String {
    word::<TaskState>(state, TaskState::as_str_name, "TASK_STATE_")
}

/// The short word of a step's state.
pub fn step_state(state: i32) -> String {
    word::<StepState>(state, StepState::as_str_name, "STEP_STATE_")
}

/// The short word of an attempt's outcome.
pub fn outcome(outcome: i32) -> String {
    word::<AttemptOutcome>(outcome, AttemptOutcome::as_str_name, "ATTEMPT_OUTCOME_")
}

/// The colour of a task's state.
pub fn task_style(state: TaskState) -> Style {
    match state {
        TaskState::Complete => style::GREEN,
        TaskState::InProgress => style::BLUE,
        TaskState::Error => style::RED,
        TaskState::Cancelled | TaskState::ResolvedManually => style::MAGENTA,
        TaskState::Pending | TaskState::Unspecified => style::DIM,
    }
}

/// The colour of a step's state.
pub fn step_style(state: StepState) -> Style {
    match state {
        StepState::Complete => style::GREEN,
        StepState::InProgress => style::BLUE,
        StepState::WaitingForRetry => style::YELLOW,
        StepState::Error => style::RED,
        StepState::Cancelled | StepState::ResolvedManually => style::MAGENTA,
        StepState::Ready => style::PLAIN,
        StepState::Pending | StepState::Skipped | StepState::Unspecified => style::DIM,
    }
}

/// The sign of a step's state, one column wide.
pub fn step_sign(state: StepState, unicode: bool) -> char {
    let (sign, ascii) = match state {
        StepState::Complete => ('✓', 'v'),
        StepState::InProgress => ('●', '*'),
        StepState::WaitingForRetry => ('↻', '~'),
        StepState::Error => ('✗', 'x'),
        StepState::Cancelled => ('⊘', '#'),
        StepState::Skipped => ('↷', '-'),
        StepState::ResolvedManually => ('✎', '!'),
        StepState::Ready => ('◎', 'O'),
        StepState::Pending | StepState::Unspecified => ('○', 'o'),
    };
    if unicode { sign } else { ascii }
}

/// The task's state, coloured.
pub fn paint_task_state(term: &Term, state: TaskState) -> String {
    term.paint(task_style(state), &task_state(state.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_shown_in_two_units() {
        for (ms, expected) in [
            (0, "0 ms"),
            (1, "1 ms"),
            (999, "999 ms"),
            (1_200, "1.2 s"),
            (9_949, "9.9 s"),
            (9_950, "10 s"),
            (42_000, "42 s"),
            (59_400, "59 s"),
            (59_700, "1 m 0 s"),
            (184_000, "3 m 4 s"),
            (7_500_000, "2 h 5 m"),
            (273_600_000, "3 d 4 h"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), expected);
        }
        assert_eq!(duration(Duration::from_micros(400)), "0.4 ms");
    }

    #[test]
    fn times_are_shown_in_utc_with_milliseconds() {
        let t = Timestamp {
            seconds: 1_767_225_600,
            nanos: 7_900_000,
        };
        assert_eq!(time(t), "2026-01-01T00:00:00.007Z");
        assert_eq!(
            since(
                t,
                Timestamp {
                    seconds: 0,
                    nanos: 0
                }
            ),
            Duration::ZERO
        );
    }

    #[test]
    fn states_are_shown_as_short_words() {
        assert_eq!(task_state(TaskState::InProgress.into()), "in_progress");
        assert_eq!(
            step_state(StepState::WaitingForRetry.into()),
            "waiting_for_retry"
        );
        assert_eq!(step_state(99), "unknown_99");
    }
}
