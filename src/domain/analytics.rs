//! The time of tasks by cause: the measures, their ranking by cost, and the sentences about them.

use std::time::Duration;

use super::explain::{Cause, words};

/// The longest window of a query, in seconds; the next constant is the default.
pub const MAX_WINDOW_SECONDS: i32 = 31 * 86_400;
pub const WINDOW_SECONDS: i32 = 86_400;
/// The most tasks that a query examines; the next constant is the default.
pub const MAX_TASKS: i32 = 50_000;
pub const TASKS: i32 = 10_000;
/// The most bottlenecks in one answer; the next constant is the default.
pub const MAX_BOTTLENECKS: i32 = 100;
pub const BOTTLENECKS: i32 = 10;
/// The most steps of templates in one answer; the first template is always complete.
pub const MAX_STEPS: usize = 10_000;
/// The longest time-out with which a query may compare, in seconds.
pub const MAX_TIMEOUT_SECONDS: f64 = 86_400.0;
/// Time limit of one query in the database, in seconds.
pub const MAX_SECONDS: u32 = 20;

/// The causes of spent time, in the order of a [`Ledger`].
pub const CAUSES: [Cause; 8] = [
    Cause::Parents,
    Cause::Backoff,
    Cause::Circuit,
    Cause::Throttle,
    Cause::Limit,
    Cause::NoWorker,
    Cause::Dispatch,
    Cause::Running,
];

/// Time by cause, in microseconds, in the order of [`CAUSES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger([i64; CAUSES.len()]);

impl From<Vec<i64>> for Ledger {
    /// A missing part counts as 0.
    fn from(parts: Vec<i64>) -> Self {
        let mut ledger = Self::default();
        for (part, value) in ledger.0.iter_mut().zip(parts) {
            *part = value;
        }
        ledger
    }
}

impl Ledger {
    /// The time of a cause in microseconds; 0 for a cause outside [`CAUSES`].
    pub fn of(&self, cause: Cause) -> i64 {
        CAUSES
            .iter()
            .zip(self.0)
            .find(|(c, _)| **c == cause)
            .map_or(0, |(_, time)| time)
    }

    pub fn sum(&self) -> i64 {
        self.0.iter().sum()
    }
}

/// Distribution of a duration, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Times {
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

/// The measures of a step, or of the tasks of a template.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measure {
    pub count: i32,
    pub complete: i32,
    pub failed: i32,
    pub cancelled: i32,
    /// Skipped by a condition or by an operator.
    pub skipped: i32,
    /// Resolved by an operator.
    pub resolved: i32,
    /// Those retried after a charged attempt.
    pub tried_again: i32,
    pub charged: i64,
    pub free: i64,
    /// All time by cause; for a template, the time along the critical paths.
    pub ledger: Ledger,
    /// The time on the critical path of its task, by cause.
    pub critical: Ledger,
    /// Sum of the ledger, in microseconds.
    pub wall: i64,
    pub elapsed: Times,
    pub run: Times,
    pub wait: Times,
    /// The longest attempt that succeeded, in microseconds.
    pub longest_success: i64,
    /// Successful attempts that took longer than the time-out in the query.
    pub over_timeout: i32,
}

impl Measure {
    pub fn success_rate(&self) -> f64 {
        per(self.complete.into(), (self.complete + self.failed).into())
    }

    pub fn retry_rate(&self) -> f64 {
        per(self.tried_again.into(), self.count.into())
    }
}

/// Circuit and throttles of a service within the window; times in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub times_opened: i32,
    pub shut: i64,
    pub throttles: i32,
    pub throttled: i64,
}

/// A step of a template, with its names and its measures.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    pub name: &'a str,
    pub handler: &'a str,
    pub service: &'a str,
    pub measure: &'a Measure,
}

/// A cause of delay for the tasks of a template; times in microseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Bottleneck {
    /// Index of the step.
    pub step: usize,
    pub cause: Cause,
    /// The delay along the critical paths of all tasks.
    pub cost: i64,
    pub cost_per_task: f64,
    pub critical_share: f64,
    pub mean: f64,
    pub mean_elapsed: f64,
    pub message: String,
}

/// The bottlenecks of one template, the most costly first. [`Cause::Parents`] is left out: while a
/// step waits for its parent, the parent bears the cost.
pub fn bottlenecks(
    task_name: &str,
    task: &Measure,
    steps: &[Step<'_>],
    services: &[Service],
) -> Vec<Bottleneck> {
    let mut found: Vec<Bottleneck> = Vec::new();
    for (i, step) in steps.iter().enumerate() {
        for cause in CAUSES.into_iter().filter(|cause| *cause != Cause::Parents) {
            // Only time on the critical path delays the task; the rest passes beside it.
            let cost = step.measure.critical.of(cause);
            if cost > 0 {
                let mut bottleneck = Bottleneck {
                    step: i,
                    cause,
                    cost,
                    cost_per_task: per(cost, task.count.into()),
                    critical_share: per(cost, task.ledger.sum()),
                    mean: per(step.measure.ledger.of(cause), step.measure.count.into()),
                    mean_elapsed: step.measure.elapsed.mean,
                    message: String::new(),
                };
                let service = services.iter().find(|service| service.name == step.service);
                bottleneck.message = sentence(task_name, step, &bottleneck, service);
                found.push(bottleneck);
            }
        }
    }
    found.sort_by_key(|bottleneck| std::cmp::Reverse(bottleneck.cost));
    found
}

fn sentence(task_name: &str, step: &Step<'_>, b: &Bottleneck, service: Option<&Service>) -> String {
    let Step {
        name,
        handler,
        service: called,
        measure,
    } = step;
    let cost = time(b.cost_per_task);
    let waits = format!(
        "{name} waits {} of its {} on average",
        time(b.mean),
        time(b.mean_elapsed)
    );
    match b.cause {
        Cause::Throttle => {
            format!("rate limiting of {called} (pauses) adds {cost} to {task_name}: {waits}")
        }
        Cause::Limit => {
            format!("the limit that is set for {called} adds {cost} to {task_name}: {waits}")
        }
        Cause::Circuit => {
            let opened = service.map(|s| {
                let times = if s.times_opened == 1 {
                    "once".into()
                } else {
                    format!("{} times", s.times_opened)
                };
                format!(
                    "; it opened {times}, and was not closed for {} in all",
                    time(s.shut as f64)
                )
            });
            format!(
                "the circuit of {called} adds {cost} to {task_name}: {waits}{}",
                opened.unwrap_or_default()
            )
        }
        Cause::NoWorker => {
            format!("the lack of a worker for {handler} adds {cost} to {task_name}: {waits}")
        }
        Cause::Dispatch => format!("busy workers of {handler} add {cost} to {task_name}: {waits}"),
        Cause::Backoff => format!(
            "repeating {name} adds {cost} to {task_name}: {} of the steps are tried again, and between attempts {waits}",
            percent(measure.retry_rate())
        ),
        _ => format!(
            "running {name} takes {cost} of {task_name}, {} of its critical path: {} of its {} on average",
            percent(b.critical_share),
            time(b.mean),
            time(b.mean_elapsed)
        ),
    }
}

/// The number of leading templates that fit one answer, given the number of steps of each: at most
/// [`MAX_STEPS`] steps in all, but always the first template.
pub fn fitting(steps: impl Iterator<Item = usize>) -> usize {
    let mut sum = 0;
    // The first template is always complete, or a large one could never be shown.
    let fits = |(i, steps): &(usize, usize)| {
        sum += steps;
        *i == 0 || sum <= MAX_STEPS
    };
    steps.enumerate().take_while(fits).count()
}

/// The quotient of a share or a mean; 0 if `whole` is not positive.
pub fn per(part: i64, whole: i64) -> f64 {
    if whole > 0 {
        part as f64 / whole as f64
    } else {
        0.0
    }
}

/// Formats microseconds in about three digits.
fn time(micros: f64) -> String {
    // The conversion panics at a negative number and at NaN; the maximum is 0 for both.
    let time = Duration::from_secs_f64((micros / 1e6).max(0.0));
    match time.as_secs() {
        0 => format!("{} ms", (micros / 1e3).round()),
        1..60 => format!("{:.1} s", time.as_secs_f64()),
        _ => words(time),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    fn measure(count: i32, parts: [i64; 8], critical: [i64; 8]) -> Measure {
        let ledger = Ledger(parts);
        Measure {
            count,
            ledger,
            critical: Ledger(critical),
            wall: ledger.sum(),
            elapsed: Times {
                mean: per(ledger.sum() - parts[0], count.into()),
                ..Times::default()
            },
            ..Measure::default()
        }
    }

    /// Ten tasks: a pause is the main delay of the mail step; another step is off the critical
    /// path.
    fn found() -> Vec<Bottleneck> {
        let mail = measure(
            10,
            [5 * S, 7 * S, 2 * S, 120 * S, 0, 0, 0, 23 * S],
            [0, 7 * S, 2 * S, 120 * S, 0, 0, 0, 23 * S],
        );
        let mail = Measure {
            tried_again: 1,
            ..mail
        };
        let aside = measure(10, [0, 0, 0, 0, 0, 0, 0, 900 * S], [0; 8]);
        let task = measure(10, [0, 7 * S, 2 * S, 120 * S, 0, 0, 0, 23 * S], [0; 8]);
        let service = Service {
            name: "notification_service".into(),
            times_opened: 12,
            shut: 480 * S,
            ..Service::default()
        };
        let step = |name, measure| Step {
            name,
            handler: "H",
            service: "notification_service",
            measure,
        };
        let steps = [step("send_welcome_sequence", &mail), step("aside", &aside)];
        bottlenecks("user_registration", &task, &steps, &[service])
    }

    #[test]
    fn bottlenecks_are_ordered_by_cost_and_omit_steps_off_the_critical_path() {
        let found = found();
        let ranked: Vec<(usize, Cause, i64)> = found
            .iter()
            .map(|b| (b.step, b.cause, b.cost / S))
            .collect();
        let expected = [
            (0, Cause::Throttle, 120),
            (0, Cause::Running, 23),
            (0, Cause::Backoff, 7),
            (0, Cause::Circuit, 2),
        ];
        assert_eq!(ranked, expected);
        assert!((found[0].critical_share - 120.0 / 152.0).abs() < 1e-9);
    }

    #[test]
    fn bottleneck_of_each_cause_has_a_message() {
        let messages: Vec<String> = found().into_iter().map(|b| b.message).collect();
        assert_eq!(
            messages,
            [
                "rate limiting of notification_service (pauses) adds 12.0 s to user_registration: send_welcome_sequence \
                 waits 12.0 s of its 15.2 s on average",
                "running send_welcome_sequence takes 2.3 s of user_registration, 15.1 % of its critical path: 2.3 s of its \
                 15.2 s on average",
                "repeating send_welcome_sequence adds 700 ms to user_registration: 10.0 % of the steps are tried again, and \
                 between attempts send_welcome_sequence waits 700 ms of its 15.2 s on average",
                "the circuit of notification_service adds 200 ms to user_registration: send_welcome_sequence waits 200 ms of \
                 its 15.2 s on average; it opened 12 times, and was not closed for 8 min 0 s in all",
            ]
        );
    }

    #[test]
    fn bottlenecks_are_bounded_and_never_empty() {
        let cases: [(&[usize], usize); 5] = [
            (&[], 0),
            (&[MAX_STEPS], 1),
            (&[MAX_STEPS + 1, 1], 1),
            (&[MAX_STEPS - 1, 1, 1], 2),
            (&[1, MAX_STEPS, 1], 1),
        ];
        for (steps, shown) in cases {
            assert_eq!(fitting(steps.iter().copied()), shown, "{steps:?}");
        }
    }

    #[test]
    fn rates_without_attempts_are_zero() {
        let nothing = Measure::default();
        assert_eq!((nothing.success_rate(), nothing.retry_rate()), (0.0, 0.0));
    }
}
