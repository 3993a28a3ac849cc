//! The circuit of a service: when it opens, how long it stays open, which results close it, and how
//! many steps a claim may start meanwhile.
//!
//! The circuit counts the health of the service, not the outcome of tasks: a permanent error is a
//! healthy answer.

use strum::{EnumString, IntoStaticStr};

use super::{attempt::OutcomeKind, policy::Policy};

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
            (policy.enabled && window.failures > 0 && window.calls >= policy.min_calls && failed)
                .then_some(CircuitEvent::Trip)
        }
        CircuitState::Open => None,
        CircuitState::HalfOpen if probes.failures > 0 => Some(CircuitEvent::ProbeFailed),
        CircuitState::HalfOpen => {
            (passed + probes.calls >= policy.probes).then_some(CircuitEvent::Recover)
        }
    }
}

/// Length of an open period in seconds. It doubles with each opening since the last recovery, up to
/// `max_cool_down_seconds`: `cool_down_seconds * 2^(openings - 1)`.
pub fn cool_down(policy: &Policy, openings: u32) -> f64 {
    let doublings = i32::try_from(openings.saturating_sub(1)).unwrap_or(i32::MAX);
    (policy.cool_down_seconds * 2_f64.powi(doublings))
        .min(policy.max_cool_down_seconds.max(policy.cool_down_seconds))
}

/// Limit of steps at once, `seconds` after a recovery: the number of probes, doubled each second.
pub fn ramp(policy: &Policy, seconds: f64) -> u32 {
    let limit = f64::from(policy.probes.max(1)) * 2_f64.powf(seconds.max(0.0).floor());
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "bounded in the line itself"
    )]
    let limit = limit.min(f64::from(i32::MAX)) as u32;
    limit
}

/// One server's quota share of a limit: a row of `quota_shares`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The number of steps that the server may run now.
    pub count: u32,
    /// The number of steps that the server could run; 0 after the server ended.
    pub wanted: u32,
    /// Attempts that run on this quota share.
    pub used: u32,
}

/// The new quota shares of all holders after the holder at `me` asked. Each other holder gives up
/// the part beyond its fair share, and `me` receives the free part of its own fair share.
///
/// A running attempt is free only after its end, whichever quota share it runs on; `unaccounted`
/// attempts run on none.
pub fn distribute(limit: u32, me: usize, holders: &[Holder], unaccounted: u32) -> Vec<u32> {
    let wanted: Vec<u32> = holders.iter().map(|h| h.wanted).collect();
    let shares = share(limit, &wanted);
    let mut counts: Vec<u32> = holders
        .iter()
        .zip(&shares)
        .map(|(h, share)| h.count.min(*share))
        .collect();
    // Another holder takes up its reduced share or its running attempts, whichever is more; `me`
    // takes up only the attempts beyond its own share, since `counts[me]` covers the rest.
    let taken = |(i, h): (usize, &Holder)| {
        if i == me {
            h.used.saturating_sub(shares[me])
        } else {
            counts[i].max(h.used)
        }
    };
    let taken: u32 = holders.iter().enumerate().map(taken).sum();
    counts[me] = shares[me].min(limit.saturating_sub(taken + unaccounted));
    counts
}

/// Divides a limit fairly: each claimant gets as much as it wants if the limit suffices for all,
/// and otherwise an equal share of the rest that smaller claimants leave.
pub fn share(limit: u32, wanted: &[u32]) -> Vec<u32> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_unstable_by_key(|i| (wanted[*i], std::cmp::Reverse(*i)));
    let mut shares = vec![0; wanted.len()];
    let (mut left, mut claimants) = (limit, u32::try_from(wanted.len()).unwrap_or(u32::MAX));
    for i in order {
        // The claimants are sorted by demand, so a claimant with a small demand leaves its rest to
        // the larger ones, and the remainder of each division stays in `left` for the last
        // claimants.
        let equal = left.checked_div(claimants).unwrap_or(0);
        shares[i] = wanted[i].min(equal);
        left -= shares[i];
        claimants -= 1;
    }
    for (share, wanted) in shares.iter_mut().zip(wanted) {
        let more = left.min(wanted - *share);
        *share += more;
        left -= more;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_of_every_state_and_event_is_as_specified() {
        use {CircuitEvent as E, CircuitState as S};
        let events = [E::Trip, E::Probe, E::ProbeFailed, E::Recover, E::Reset];
        let expected = [
            [Some(S::Open), None, None, None, Some(S::Closed)],
            [None, Some(S::HalfOpen), None, None, Some(S::Closed)],
            [
                None,
                Some(S::HalfOpen),
                Some(S::Open),
                Some(S::Closed),
                Some(S::Closed),
            ],
        ];
        for (state, row) in S::ALL.into_iter().zip(expected) {
            for (event, want) in events.into_iter().zip(row) {
                assert_eq!(state.after(event).ok(), want, "{state} after {event:?}");
            }
            assert_eq!(S::from_name(state.as_str()), Some(state));
        }
    }

    #[test]
    fn permanent_error_counts_as_a_healthy_call() {
        let policy = Policy {
            slow_call_seconds: 2.0,
            ..Policy::default()
        };
        use OutcomeKind as K;
        assert_eq!(health(K::Succeeded, 2.0, &policy), Some(Health::Healthy));
        assert_eq!(
            health(K::Succeeded, 2.1, &policy),
            Some(Health::Unhealthy),
            "slow"
        );
        assert_eq!(
            health(K::Succeeded, 2.1, &Policy::default()),
            Some(Health::Healthy),
            "nobody asked for it"
        );
        assert_eq!(
            health(K::PermanentError, 1.0, &policy),
            Some(Health::Healthy)
        );
        for unhealthy in [K::RetryableError, K::TimedOut, K::WorkerLost] {
            assert_eq!(health(unhealthy, 0.0, &policy), Some(Health::Unhealthy));
        }
        assert_eq!(health(K::Released, 0.0, &policy), None);
        assert_eq!(health(K::Drained, 0.0, &policy), None);
        assert_eq!(health(K::Cancelled, 0.0, &policy), None);
    }

    #[test]
    fn circuit_opens_at_the_rate_after_the_minimum_of_calls() {
        let policy = Policy {
            min_calls: 10,
            failure_rate: 0.5,
            ..Policy::default()
        };
        let judged = |calls, failures| {
            judge(
                CircuitState::Closed,
                &policy,
                Counted {
                    window: Calls { calls, failures },
                    ..Counted::default()
                },
            )
        };
        assert_eq!(judged(10, 5), Some(CircuitEvent::Trip));
        assert_eq!(judged(10, 4), None);
        assert_eq!(judged(9, 9), None);
        let off = Policy {
            enabled: false,
            ..policy.clone()
        };
        let window = Calls {
            calls: 99,
            failures: 99,
        };
        assert_eq!(
            judge(
                CircuitState::Closed,
                &off,
                Counted {
                    window,
                    ..Counted::default()
                }
            ),
            None
        );
        assert_eq!(
            judge(
                CircuitState::Open,
                &policy,
                Counted {
                    window,
                    ..Counted::default()
                }
            ),
            None
        );
    }

    #[test]
    fn probes_close_or_reopen_the_circuit() {
        let policy = Policy {
            probes: 3,
            ..Policy::default()
        };
        let judged = |passed, calls, failures| {
            let counted = Counted {
                passed,
                probes: Calls { calls, failures },
                ..Counted::default()
            };
            judge(CircuitState::HalfOpen, &policy, counted)
        };
        assert_eq!(judged(1, 2, 0), Some(CircuitEvent::Recover));
        assert_eq!(judged(1, 1, 0), None);
        assert_eq!(judged(2, 2, 1), Some(CircuitEvent::ProbeFailed));
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "powers of two are exact")]
    fn cool_down_doubles_up_to_its_bound() {
        let policy = Policy {
            cool_down_seconds: 10.0,
            max_cool_down_seconds: 60.0,
            ..Policy::default()
        };
        assert_eq!(
            [1, 2, 3, 4, 99].map(|n| cool_down(&policy, n)),
            [10.0, 20.0, 40.0, 60.0, 60.0]
        );
        assert_eq!(cool_down(&policy, u32::MAX), 60.0);
    }

    #[test]
    fn ramp_doubles_the_admitted_steps() {
        let policy = Policy {
            probes: 3,
            ..Policy::default()
        };
        assert_eq!(
            [0.0, 0.9, 1.0, 3.5].map(|s| ramp(&policy, s)),
            [3, 3, 6, 24]
        );
        assert_eq!(ramp(&policy, 1e9), u32::try_from(i32::MAX).unwrap());
    }

    #[test]
    fn distribution_excludes_running_steps() {
        let holder = |count, wanted, used| Holder {
            count,
            wanted,
            used,
        };
        // A single holder gets all that it wants, less the unaccounted attempts.
        assert_eq!(distribute(10, 0, &[holder(0, 50, 0)], 0), [10]);
        assert_eq!(distribute(10, 0, &[holder(0, 50, 0)], 4), [6]);
        // A second holder asks: the first gives up half, and the second gets the part of that half
        // on which no attempt runs.
        assert_eq!(
            distribute(10, 1, &[holder(10, 50, 10), holder(0, 50, 0)], 0),
            [5, 0]
        );
        assert_eq!(
            distribute(10, 1, &[holder(5, 50, 7), holder(0, 50, 0)], 0),
            [5, 3]
        );
        // A holder whose server ended keeps only the share of its running attempts.
        assert_eq!(
            distribute(10, 1, &[holder(10, 0, 2), holder(0, 50, 0)], 0),
            [0, 8]
        );
        // The limit was lowered.
        assert_eq!(distribute(3, 0, &[holder(10, 50, 10)], 0), [0]);
        assert_eq!(distribute(3, 0, &[holder(3, 50, 3)], 0), [3]);
    }

    #[test]
    fn distribution_of_a_limit_never_exceeds_it() {
        assert_eq!(share(10, &[3, 100]), [3, 7]);
        assert_eq!(share(10, &[100, 100, 100]), [4, 3, 3]);
        assert_eq!(share(1, &[5, 5]), [1, 0]);
        assert_eq!(share(10, &[1, 2]), [1, 2]);
        assert_eq!(share(0, &[1]), [0]);
        assert!(share(7, &[]).is_empty());
        for limit in 0..40 {
            for wanted in [[0, 1, 30], [5, 5, 5], [40, 0, 2]] {
                let shares = share(limit, &wanted);
                let total: u32 = shares.iter().sum();
                assert_eq!(
                    total,
                    limit.min(wanted.iter().sum()),
                    "{limit} {wanted:?}: {shares:?}"
                );
            }
        }
    }
}
