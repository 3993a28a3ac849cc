//! The state of the monitor: the failures and the times of each service, and its alerts.

use std::{collections::BTreeMap, fmt, time::Duration};

use tasker_worker::{
    client::Client,
    proto::{AttemptOutcome, Event, EventType, SubscribeRequest},
};
use tonic::Code;

/// A step that takes longer raises an alert.
pub const SLOW: Duration = Duration::from_secs(30);
/// Pause between two attempts to reach the control plane.
const PAUSE: Duration = Duration::from_millis(500);

/// The cause of a failed attempt, as far as an operator would react differently to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    Circuit,
    TimeOut,
    RateLimit,
    Other,
}

impl Cause {
    const ALL: [Self; 4] = [Self::Circuit, Self::TimeOut, Self::RateLimit, Self::Other];

    /// Classifies by the error code, if that is specific, and otherwise by the message.
    pub fn of(event: &Event) -> Self {
        let message = event.error_message.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
        match event.error_code.as_str() {
            "CIRCUIT_OPEN" => Self::Circuit,
            "TIMED_OUT" | "TIMEOUT" => Self::TimeOut,
            "RATE_LIMITED" | "HTTP_429" => Self::RateLimit,
            _ if event.outcome() == AttemptOutcome::TimedOut => Self::TimeOut,
            _ if says(&["circuit breaker is open", "circuit is open"]) => Self::Circuit,
            _ if says(&["timeout", "time-out", "timed out"]) => Self::TimeOut,
            _ if says(&["rate limited", "rate limit"]) => Self::RateLimit,
            _ => Self::Other,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Circuit => "circuit",
            Self::TimeOut => "time-out",
            Self::RateLimit => "rate limit",
            Self::Other => "other",
        }
    }
}

/// An event that needs attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alert {
    /// The step failed for good.
    Failed {
        service: String,
        step: String,
        task_id: String,
        cause: Cause,
        message: String,
    },
    /// The step took too long.
    Slow {
        service: String,
        step: String,
        task_id: String,
        took: Duration,
    },
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed {
                service,
                step,
                task_id,
                cause,
                message,
            } => {
                write!(
                    f,
                    "{service}: {step} of {task_id} failed ({}): {message}",
                    cause.name()
                )
            }
            Self::Slow {
                service,
                step,
                task_id,
                took,
            } => {
                write!(
                    f,
                    "{service}: {step} of {task_id} took {:.1} s",
                    took.as_secs_f64()
                )
            }
        }
    }
}

/// One service's figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub completed: u64,
    pub took: Duration,
    pub slowest: Duration,
    /// Failed attempts, including those that were retried.
    pub failures: BTreeMap<Cause, u64>,
}

/// The figures of all services.
#[derive(Clone, Debug, Default)]
pub struct Monitor {
    pub services: BTreeMap<String, Figures>,
    /// Tasks that ended, in any state.
    pub tasks_ended: u64,
}

impl Monitor {
    /// Counts an event, and returns an alert if it needs attention.
    pub fn hear(&mut self, event: &Event) -> Option<Alert> {
        let (service, step, task_id) = (
            event.service.clone(),
            event.step.clone(),
            event.task_id.clone(),
        );
        let took = Duration::from_millis(
            event
                .run_ms
                .unwrap_or_default()
                .try_into()
                .unwrap_or_default(),
        );
        match event.r#type() {
            EventType::StepCompleted => {
                let figures = self.services.entry(service.clone()).or_default();
                figures.completed += 1;
                figures.took += took;
                figures.slowest = figures.slowest.max(took);
                (took > SLOW).then_some(Alert::Slow {
                    service,
                    step,
                    task_id,
                    took,
                })
            }
            kind @ (EventType::StepFailed | EventType::StepRetrying) => {
                let cause = Cause::of(event);
                *self
                    .services
                    .entry(service.clone())
                    .or_default()
                    .failures
                    .entry(cause)
                    .or_default() += 1;
                let message = event.error_message.clone();
                (kind == EventType::StepFailed).then_some(Alert::Failed {
                    service,
                    step,
                    task_id,
                    cause,
                    message,
                })
            }
            EventType::TaskCompleted | EventType::TaskFailed | EventType::TaskCancelled => {
                self.tasks_ended += 1;
                None
            }
            _ => None,
        }
    }
}

impl fmt::Display for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:24}{:>10}{:>10}{:>10}",
            "service", "completed", "mean ms", "max ms"
        )?;
        for cause in Cause::ALL {
            write!(f, "{:>12}", cause.name())?;
        }
        for (service, figures) in &self.services {
            let mean = figures.took.as_millis() / u128::from(figures.completed.max(1));
            write!(
                f,
                "\n{service:24}{:>10}{mean:>10}{:>10}",
                figures.completed,
                figures.slowest.as_millis()
            )?;
            for cause in Cause::ALL {
                write!(
                    f,
                    "{:>12}",
                    figures.failures.get(&cause).copied().unwrap_or_default()
                )?;
            }
        }
        writeln!(f)
    }
}

/// The subscription of a monitor to a namespace: after the cursor, or from now on if that is empty.
pub fn request(namespace: &str, cursor: String) -> SubscribeRequest {
    let types = [
        EventType::StepCompleted,
        EventType::StepFailed,
        EventType::StepRetrying,
        EventType::TaskCompleted,
        EventType::TaskFailed,
        EventType::TaskCancelled,
    ];
    SubscribeRequest {
        namespace: namespace.to_owned(),
        types: types.map(i32::from).to_vec(),
        cursor,
        ..SubscribeRequest::default()
    }
}

/// Passes each event to `hear`, with the cursor after it, and each cursor without an event. After a
/// broken connection or the end of a server it resumes after the last cursor, so each event is
/// passed once.
pub async fn follow(
    server: &str,
    mut request: SubscribeRequest,
    mut hear: impl FnMut(Option<&Event>, &str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    loop {
        let broken = match Client::connect(server).await {
            Err(error) => anyhow::Error::from(error),
            Ok(mut client) => match client.events.subscribe(request.clone()).await {
                Err(status) if !is_passing(status.code()) => return Err(status.into()),
                Err(status) => status.into(),
                Ok(stream) => {
                    let mut stream = stream.into_inner();
                    loop {
                        match stream.message().await {
                            Ok(Some(message)) => {
                                hear(message.event.as_ref(), &message.cursor)?;
                                request.cursor = message.cursor;
                            }
                            Ok(None) => break anyhow::anyhow!("the stream ended"),
                            Err(status) if !is_passing(status.code()) => return Err(status.into()),
                            Err(status) => break status.into(),
                        }
                    }
                }
            },
        };
        eprintln!("monitor: {broken:#}; trying again");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether the same call may succeed a little later.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::Cancelled
            | Code::ResourceExhausted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventType) -> Event {
        Event {
            r#type: kind.into(),
            service: "billing".into(),
            step: "bill".into(),
            task_id: "id".into(),
            ..Event::default()
        }
    }

    #[test]
    fn failure_is_classified_by_one_cause() {
        let cause = |code: &str, message: &str, outcome: AttemptOutcome| {
            Cause::of(&Event {
                error_code: code.into(),
                error_message: message.into(),
                outcome: outcome.into(),
                ..event(EventType::StepFailed)
            })
        };
        let failed = AttemptOutcome::RetryableError;
        let table = [
            (
                "",
                "Circuit breaker is OPEN for billing",
                failed,
                Cause::Circuit,
            ),
            ("TIMEOUT", "no answer", failed, Cause::TimeOut),
            ("", "Timeout while reading", failed, Cause::TimeOut),
            ("", "", AttemptOutcome::TimedOut, Cause::TimeOut),
            ("RATE_LIMITED", "slow down", failed, Cause::RateLimit),
            ("", "Rate limited by billing", failed, Cause::RateLimit),
            (
                "SERVER_ERROR",
                "billing server error: 500",
                failed,
                Cause::Other,
            ),
            ("", "", AttemptOutcome::WorkerLost, Cause::Other),
        ];
        for (code, message, outcome, expected) in table {
            assert_eq!(
                cause(code, message, outcome),
                expected,
                "{code} {message} {outcome:?}"
            );
        }
    }

    #[test]
    fn step_over_30_seconds_raises_an_alert() {
        let mut monitor = Monitor::default();
        let took = |ms| Event {
            run_ms: Some(ms),
            ..event(EventType::StepCompleted)
        };
        assert_eq!(monitor.hear(&took(30_000)), None);
        let alert = monitor.hear(&took(30_001)).expect("slow");
        assert_eq!(alert.to_string(), "billing: bill of id took 30.0 s");
        let figures = &monitor.services["billing"];
        assert_eq!(
            (
                figures.completed,
                figures.slowest.as_millis(),
                figures.took.as_millis()
            ),
            (2, 30_001, 60_001)
        );
    }

    #[test]
    fn failure_raises_an_alert_only_if_final() {
        let mut monitor = Monitor::default();
        assert_eq!(monitor.hear(&event(EventType::StepRetrying)), None);
        assert!(monitor.hear(&event(EventType::StepFailed)).is_some());
        assert_eq!(monitor.hear(&event(EventType::TaskFailed)), None);
        assert_eq!(
            monitor.services["billing"].failures,
            BTreeMap::from([(Cause::Other, 2)])
        );
        assert_eq!(monitor.tasks_ended, 1);
    }
}
