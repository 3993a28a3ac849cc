//! The outcomes of an attempt, and the effect of each on its step.

use std::time::Duration;

use strum::{EnumString, IntoStaticStr};

use super::step::StepEvent;

/// The most attempts of one step that may be lost with their workers before the step fails: after
/// so many, the step itself probably kills its workers.
pub const MAX_LOST_ATTEMPTS: u16 = 10;
/// The most uncharged attempts of one step before its failed probes are charged: a step that always
/// fails must not keep its service's circuit open for ever.
pub const MAX_FREE_PROBES: u16 = 10;
/// The longest `retry_after` that is honoured; a longer one is cut to this.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(3_600);
/// The largest result of a step, in bytes of JSON.
pub const MAX_RESULT_BYTES: usize = 1 << 20;
/// The largest error context, in bytes of JSON.
pub const MAX_ERROR_CONTEXT_BYTES: usize = 64 << 10;
/// Longer error messages are cut to this many bytes.
pub const MAX_ERROR_MESSAGE_BYTES: usize = 8 << 10;
/// Longer error codes are cut to this many bytes.
pub const MAX_ERROR_CODE_BYTES: usize = 255;

/// The reason of a failed attempt, from the handler or from the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    pub message: String,
    /// Empty when the handler gave none.
    pub code: String,
    /// JSON object.
    pub context: Option<String>,
}

impl Failure {
    /// A failure that the server itself found.
    pub fn of_server(code: &str, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            code: code.to_owned(),
            context: None,
        }
    }

    /// Cuts the message and the code to their limits, and drops a context beyond its limit.
    pub fn cut(self) -> Self {
        Self {
            message: cut(self.message, MAX_ERROR_MESSAGE_BYTES),
            code: cut(self.code, MAX_ERROR_CODE_BYTES),
            context: self
                .context
                .filter(|context| context.len() <= MAX_ERROR_CONTEXT_BYTES),
        }
    }
}

/// Cuts a text to at most `max` bytes at a character boundary, and replaces NUL, which Postgres
/// cannot store.
fn cut(text: String, max: usize) -> String {
    // Texts without NUL, nearly all of them, are not copied.
    let mut text = if text.contains('\0') {
        text.replace('\0', "\u{fffd}")
    } else {
        text
    };
    if text.len() > max {
        let end = (0..=max)
            .rev()
            .find(|i| text.is_char_boundary(*i))
            .unwrap_or_default();
        text.truncate(end);
    }
    text
}

/// The end of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// JSON text of the result.
    Succeeded(String),
    /// The handler asks for a retry, not before `retry_after`.
    RetryableError {
        failure: Failure,
        retry_after: Option<Duration>,
    },
    /// The handler declares a retry useless.
    PermanentError(Failure),
    /// The attempt's deadline passed.
    TimedOut,
    /// The worker's lease ran out.
    WorkerLost,
    /// The worker did not start the attempt. The retry is delayed unless the worker drains, so that
    /// a worker that releases in a loop does not spin the queue.
    Released { delayed: bool },
    /// The worker drained and disconnected before it answered, as in a deploy.
    Drained,
    /// The server took the attempt back: its assignment did not reach the worker.
    Undelivered,
}

/// The kind of an outcome in the history; also the database's `attempt_outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum OutcomeKind {
    Succeeded,
    RetryableError,
    PermanentError,
    TimedOut,
    WorkerLost,
    Released,
    Undelivered,
    Cancelled,
    Drained,
}

impl OutcomeKind {
    pub const ALL: [Self; 9] = [
        Self::Succeeded,
        Self::RetryableError,
        Self::PermanentError,
        Self::TimedOut,
        Self::WorkerLost,
        Self::Released,
        Self::Undelivered,
        Self::Cancelled,
        Self::Drained,
    ];

    /// The name in the database.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The outcome with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    /// Whether a worker's own message ended the attempt. The server acknowledges a copy of such a
    /// message again as accepted; a message for an attempt that ended in any other way came too
    /// late.
    pub fn is_from_worker(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::RetryableError | Self::PermanentError | Self::Released
        )
    }
}

/// The earlier attempts of a step, by how they count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Attempts charged against the retry limit, before this one.
    pub charged: u16,
    /// Attempts lost with their workers or on the way to them, before this one.
    pub lost: u16,
    /// Uncharged attempts for any reason, before this one; an operator's retry resets the number.
    pub free: u16,
    /// A half-open circuit admitted this attempt to probe the service.
    pub probe: bool,
}

impl Spent {
    /// A failed probe is free only for a step with more than one attempt: a step that may be tried
    /// once is tried once, as a probe too.
    fn is_free_probe(self, retry_limit: u16) -> bool {
        self.probe && retry_limit > 1 && self.free < MAX_FREE_PROBES
    }
}

/// The effect of an outcome on the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub event: StepEvent,
    /// Whether the attempt counts against the retry limit.
    pub charged: bool,
}

impl Outcome {
    /// The kind under which the history records the outcome.
    pub fn kind(&self) -> OutcomeKind {
        match self {
            Self::Succeeded(_) => OutcomeKind::Succeeded,
            Self::RetryableError { .. } => OutcomeKind::RetryableError,
            Self::PermanentError(_) => OutcomeKind::PermanentError,
            Self::TimedOut => OutcomeKind::TimedOut,
            Self::WorkerLost => OutcomeKind::WorkerLost,
            Self::Released { .. } => OutcomeKind::Released,
            Self::Drained => OutcomeKind::Drained,
            Self::Undelivered => OutcomeKind::Undelivered,
        }
    }

    /// Decides the step's next event and whether the attempt is charged. The handler's own failures
    /// and time-outs count against `retry_limit`; an attempt that the infrastructure lost does not.
    /// Nor does a failed probe: the claim chose the oldest step for it, which would otherwise pay
    /// for an outage that the other steps only wait for.
    pub fn judge(&self, spent: Spent, retry_limit: u16) -> Verdict {
        // The order of the arms matters: a free probe is settled before the retry limit is
        // compared, and the limit of lost attempts before a lost attempt is given back.
        let (event, charged) = match self {
            Self::Succeeded(_) => (StepEvent::Succeed, false),
            Self::PermanentError(_) => (StepEvent::Fail, true),
            Self::RetryableError { .. } | Self::TimedOut if spent.is_free_probe(retry_limit) => {
                (StepEvent::Retry, false)
            }
            Self::RetryableError { .. } | Self::TimedOut if spent.charged + 1 < retry_limit => {
                (StepEvent::Retry, true)
            }
            Self::RetryableError { .. } | Self::TimedOut => (StepEvent::Fail, true),
            Self::WorkerLost | Self::Undelivered if spent.lost + 1 >= MAX_LOST_ATTEMPTS => {
                (StepEvent::Fail, false)
            }
            Self::Released { delayed: true } => (StepEvent::Retry, false),
            // The first loss is an accident, so the step goes back at once; after an earlier one,
            // some property of the assignment may break the stream, so the retry waits.
            Self::Undelivered if spent.lost > 0 => (StepEvent::Retry, false),
            // The first release goes back at once, as when one worker drains; after an earlier
            // uncharged attempt the retry waits, so that releases in a row do not spin the queue.
            Self::Released { delayed: false } | Self::Drained if spent.free > 0 => {
                (StepEvent::Retry, false)
            }
            Self::WorkerLost
            | Self::Released { delayed: false }
            | Self::Drained
            | Self::Undelivered => (StepEvent::GiveBack, false),
        };
        Verdict { event, charged }
    }

    /// Size of the outcome's texts in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Succeeded(json) => json.len(),
            Self::RetryableError { failure, .. } | Self::PermanentError(failure) => {
                failure.message.len()
                    + failure.code.len()
                    + failure.context.as_ref().map_or(0, String::len)
            }
            Self::TimedOut
            | Self::WorkerLost
            | Self::Released { .. }
            | Self::Drained
            | Self::Undelivered => 0,
        }
    }

    /// The failure to record, if the attempt failed.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            // A release or a drain is no fault of the step, so no error is recorded.
            Self::Succeeded(_) | Self::Released { .. } | Self::Drained => None,
            Self::Undelivered => {
                let message = "the stream broke before the worker had read the assignment";
                Some(Failure::of_server("UNDELIVERED", message))
            }
            Self::RetryableError { failure, .. } | Self::PermanentError(failure) => {
                Some(failure.clone())
            }
            Self::TimedOut => Some(Failure::of_server(
                "TIMED_OUT",
                "timeout: no result came before the step's deadline",
            )),
            Self::WorkerLost => Some(Failure::of_server(
                "WORKER_LOST",
                "the worker's lease ran out before a result came",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(charged: u16, lost: u16) -> Spent {
        Spent {
            charged,
            lost,
            free: lost,
            probe: false,
        }
    }

    fn retryable() -> Outcome {
        Outcome::RetryableError {
            failure: Failure::default(),
            retry_after: None,
        }
    }

    #[test]
    fn retry_limit_of_three_allows_three_attempts() {
        for (charged, event) in [
            (0, StepEvent::Retry),
            (1, StepEvent::Retry),
            (2, StepEvent::Fail),
        ] {
            for outcome in [retryable(), Outcome::TimedOut] {
                assert_eq!(
                    outcome.judge(spent(charged, 0), 3),
                    Verdict {
                        event,
                        charged: true
                    }
                );
            }
        }
        assert_eq!(retryable().judge(spent(0, 0), 1).event, StepEvent::Fail);
    }

    #[test]
    fn failed_probe_is_uncharged_up_to_a_bound() {
        let probe = |free, limit| {
            let spent = Spent {
                charged: 2,
                lost: 0,
                free,
                probe: true,
            };
            [retryable(), Outcome::TimedOut].map(|outcome| outcome.judge(spent, limit))
        };
        let free = Verdict {
            event: StepEvent::Retry,
            charged: false,
        };
        assert_eq!(probe(0, 3), [free; 2]);
        assert_eq!(probe(MAX_FREE_PROBES - 1, 3), [free; 2]);
        assert_eq!(
            probe(MAX_FREE_PROBES, 3),
            [Verdict {
                event: StepEvent::Fail,
                charged: true
            }; 2]
        );
        assert_eq!(
            probe(MAX_FREE_PROBES, 9),
            [Verdict {
                event: StepEvent::Retry,
                charged: true
            }; 2]
        );
        assert_eq!(
            probe(0, 1),
            [Verdict {
                event: StepEvent::Fail,
                charged: true
            }; 2],
            "one attempt is one attempt"
        );
    }

    #[test]
    fn permanent_error_ends_the_step_with_attempts_left() {
        let verdict = Outcome::PermanentError(Failure::default()).judge(spent(0, 0), 5);
        assert_eq!(
            verdict,
            Verdict {
                event: StepEvent::Fail,
                charged: true
            }
        );
    }

    #[test]
    fn lost_attempt_is_uncharged_up_to_a_bound() {
        let lost = |n| Outcome::WorkerLost.judge(spent(0, n), 1);
        assert_eq!(
            lost(MAX_LOST_ATTEMPTS - 2),
            Verdict {
                event: StepEvent::GiveBack,
                charged: false
            }
        );
        assert_eq!(
            lost(MAX_LOST_ATTEMPTS - 1),
            Verdict {
                event: StepEvent::Fail,
                charged: false
            }
        );
    }

    #[test]
    fn drained_attempt_is_uncharged_without_bound_and_backs_off() {
        for outcome in [Outcome::Released { delayed: false }, Outcome::Drained] {
            let verdict = |free| {
                outcome.judge(
                    Spent {
                        charged: 0,
                        lost: 0,
                        free,
                        probe: false,
                    },
                    1,
                )
            };
            assert_eq!(
                verdict(0),
                Verdict {
                    event: StepEvent::GiveBack,
                    charged: false
                }
            );
            for free in [1, 9, 10, 100, u16::MAX] {
                assert_eq!(
                    verdict(free),
                    Verdict {
                        event: StepEvent::Retry,
                        charged: false
                    },
                    "{free}"
                );
            }
        }
    }

    #[test]
    fn undelivered_attempt_waits_from_the_second_time_and_ends_like_a_lost_one() {
        let undelivered = |lost| Outcome::Undelivered.judge(spent(0, lost), 1);
        let free = |event| Verdict {
            event,
            charged: false,
        };
        assert_eq!(undelivered(0), free(StepEvent::GiveBack));
        assert_eq!(undelivered(1), free(StepEvent::Retry));
        assert_eq!(undelivered(MAX_LOST_ATTEMPTS - 2), free(StepEvent::Retry));
        assert_eq!(undelivered(MAX_LOST_ATTEMPTS - 1), free(StepEvent::Fail));
    }
}
