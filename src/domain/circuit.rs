//! The circuit of a service: when it opens, how long it stays open, which results close it, and how
//! many steps a claim may start meanwhile.
//!
//! The circuit counts the health of the service, not the outcome of tasks: a permanent error is a
//! healthy answer.

use strum::{EnumString, IntoStaticStr};

use super::{attempt::OutcomeKind, event::EventType, policy::Policy};

/// State of a circuit; also the database's `circuit_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumString, IntoStaticStr, strum::Display)]
#[strum(serialize_all = "snake_case")]
pub enum CircuitState {
    /// The circuit admits every claim. For `ramp_seconds` after a recovery, [`ramp`] limits the
    /// steps at once.
    Closed,
    /// The circuit admits no claim.
    Open,
    /// The circuit admits a few claims as probes, whose results decide the next state.
    HalfOpen,
}

/// An event of a circuit's state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitEvent {
    /// The share of failed calls in the window reached the limit.
    Trip,
    /// The cool-down ended; probes are allowed.
    Probe,
    /// A probe failed.
    ProbeFailed,
    /// All probes succeeded.
    Recover,
    /// An operator discards the counts.
    Reset,
}

/// The state does not allow the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a circuit that is {state} cannot {event:?}")]
pub struct IllegalCircuitTransition {
    pub state: CircuitState,
    pub event: CircuitEvent,
}

impl CircuitState {
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The state after `event`. Total: each pair of state and event has a state or an error, and
    /// the error names both.
    pub fn after(self, event: CircuitEvent) -> Result<Self, IllegalCircuitTransition> {
        use {CircuitEvent as E, CircuitState as S};
        Ok(match (self, event) {
            (S::Closed, E::Trip) | (S::HalfOpen, E::ProbeFailed) => S::Open,
            (S::Open | S::HalfOpen, E::Probe) => S::HalfOpen,
            (S::HalfOpen, E::Recover) | (_, E::Reset) => S::Closed,
            (state, event) => return Err(IllegalCircuitTransition { state, event }),
        })
    }

    /// The name in the database and in documents.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        name.parse().ok()
    }
}

/// The evidence that an ended attempt gives about its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Healthy,
    Unhealthy,
}

/// The health that an attempt of `seconds` shows; `None` for a released, drained, undelivered or
/// cancelled attempt, which need not have called the service. A success or a permanent error that
/// took longer than `slow_call_seconds` is unhealthy.
pub fn health(outcome: OutcomeKind, seconds: f64, policy: &Policy) -> Option<Health> {
    let slow = policy.slow_call_seconds > 0.0 && seconds > policy.slow_call_seconds;
    match outcome {
        OutcomeKind::Succeeded | OutcomeKind::PermanentError if slow => Some(Health::Unhealthy),
        OutcomeKind::Succeeded | OutcomeKind::PermanentError => Some(Health::Healthy),
        OutcomeKind::RetryableError | OutcomeKind::TimedOut | OutcomeKind::WorkerLost => {
            Some(Health::Unhealthy)
        }
        OutcomeKind::Released
        | OutcomeKind::Drained
        | OutcomeKind::Undelivered
        | OutcomeKind::Cancelled => None,
    }
}

/// Number of ended calls, and how many of them failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    pub calls: u32,
    pub failures: u32,
}

impl Calls {
    pub fn add(&mut self, health: Health) {
        self.calls += 1;
        self.failures += u32::from(health == Health::Unhealthy);
    }

    pub fn merge(&mut self, other: Self) {
        self.calls += other.calls;
        self.failures += other.failures;
    }
}

/// The counts by which a circuit is judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// The calls in the rolling window.
    pub window: Calls,
    /// Probes of the current half-open period that succeeded before this batch.
    pub passed: u32,
    /// Probes that ended in this batch.
    pub probes: Calls,
}

/// The event that the counts cause. A closed circuit trips at `min_calls` calls of which at least
/// the share `failure_rate` failed; a half-open one reopens at the first failed probe and recovers
/// once `probes` of them succeeded; an open one changes by time alone.
pub fn judge(state: CircuitState, policy: &Policy, counted: Counted) -> Option<CircuitEvent> {
    let Counted {
        window,
        passed,
        probes,
    } = counted;
    match state {
        CircuitState::Closed => {
            let failed =
                f64::from(window.failures) >= policy.failure_rate * f64::from(window.calls);
            // Without a failure, a rate of zero would trip at every call.
            (policy.enabled && window.failures > 0 && window.calls >= policy.min_calls && failed)
                .then_some(CircuitEvent::Trip)
        }
        CircuitState::Open => None,
        // First, since one failed probe outweighs all that succeeded in the same batch.
        CircuitState::HalfOpen if probes.failures > 0 => Some(CircuitEvent::ProbeFailed),
        CircuitState::HalfOpen => {
            (passed + probes.calls >= policy.probes).then_some(CircuitEvent::Recover)
        }
    }
}

/// A circuit as the database has it.
#[derive(Clone, Copy, Debug)]
pub struct Circuit {
    pub state: CircuitState,
    /// Number of openings without a recovery in between.
    pub openings: u32,
    /// Probes of the current half-open period that succeeded.
    pub probes_passed: u32,
}

/// A change of a circuit, with its consequences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CircuitTransition {
    pub state: CircuitState,
    pub openings: u32,
    /// Number of probes that a half-open circuit admits.
    pub probes: u32,
    /// Seconds until the state ends by itself.
    pub until: Option<f64>,
    pub event: EventType,
}

/// The consequence of counted calls.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CircuitVerdict {
    /// The circuit changes because of these calls.
    Changed(CircuitTransition, Calls),
    /// So many more probes succeeded.
    ProbesPassed(u32),
    Unchanged,
}

impl Circuit {
    /// The consequence of `probes` that ended and of the calls in the window.
    pub fn judge(&self, policy: &Policy, window: Calls, probes: Calls) -> CircuitVerdict {
        let counted = Counted {
            window,
            passed: self.probes_passed,
            probes,
        };
        let change = judge(self.state, policy, counted)
            .and_then(|event| Some((event, self.change(policy, event).ok()?)));
        match change {
            // The event reports the calls that caused it: the probes, or else the window.
            Some((CircuitEvent::ProbeFailed, change)) => CircuitVerdict::Changed(change, probes),
            Some((_, change)) => CircuitVerdict::Changed(change, window),
            None if self.state == CircuitState::HalfOpen && probes.calls > 0 => {
                CircuitVerdict::ProbesPassed(probes.calls)
            }
            None => CircuitVerdict::Unchanged,
        }
    }

    /// The change by an event; an error if the state does not allow it.
    pub fn change(
        &self,
        policy: &Policy,
        event: CircuitEvent,
    ) -> Result<CircuitTransition, IllegalCircuitTransition> {
        let state = self.state.after(event)?;
        let ramp = (policy.ramp_seconds > 0.0).then_some(policy.ramp_seconds);
        let (openings, until, kind) = match state {
            CircuitState::Open => {
                // Counted before the cool-down, which grows with it.
                let openings = self.openings.saturating_add(1);
                let until = Some(cool_down(policy, openings));
                (openings, until, EventType::CircuitOpened)
            }
            CircuitState::HalfOpen => (
                self.openings,
                Some(policy.cool_down_seconds),
                EventType::CircuitHalfOpened,
            ),
            CircuitState::Closed if event == CircuitEvent::Reset => {
                (0, None, EventType::CircuitReset)
            }
            // The number of openings is reset when the ramp ends without another opening.
            CircuitState::Closed => {
                let openings = if ramp.is_some() { self.openings } else { 0 };
                (openings, ramp, EventType::CircuitClosed)
            }
        };
        let is_probing = state == CircuitState::HalfOpen;
        Ok(CircuitTransition {
            state,
            openings,
            probes: if is_probing { policy.probes } else { 0 },
            until,
            event: kind,
        })
    }
}

/// Length of an open period in seconds. It doubles with each opening since the last recovery, up to
/// `max_cool_down_seconds`: `cool_down_seconds * 2^(openings - 1)`.
pub fn cool_down(policy: &Policy, openings: u32) -> f64 {
    // The power may overflow to infinity, and the maximum may be set below the first cool-down; the
    // minimum below covers both.
    let doublings = i32::try_from(openings.saturating_sub(1)).unwrap_or(i32::MAX);
    (policy.cool_down_seconds * 2_f64.powi(doublings))
        .min(policy.max_cool_down_seconds.max(policy.cool_down_seconds))
}

/// Limit of steps at once, `seconds` after a recovery: the number of probes, doubled each second.
pub fn ramp(policy: &Policy, seconds: f64) -> u32 {
    // At least one step, or a ramp that starts at zero would never admit any.
    let limit = f64::from(policy.probes.max(1)) * 2_f64.powf(seconds.max(0.0).floor());
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded in the line itself"
    )]
    let limit = limit.min(f64::from(i32::MAX)) as u32;
    limit
}

#[cfg(test)]
mod tests;
