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

fn circuit(state: CircuitState, openings: u32, probes_passed: u32) -> Circuit {
    Circuit {
        state,
        openings,
        probes_passed,
    }
}

#[test]
fn change_has_the_consequences_of_its_event() {
    use {CircuitEvent as E, CircuitState as S};
    let ramping = Policy {
        probes: 3,
        cool_down_seconds: 10.0,
        max_cool_down_seconds: 60.0,
        ramp_seconds: 5.0,
        ..Policy::default()
    };
    let abrupt = Policy {
        ramp_seconds: 0.0,
        ..ramping.clone()
    };
    let table = [
        (
            S::Closed,
            E::Trip,
            &ramping,
            (S::Open, 2, 0, Some(20.0), EventType::CircuitOpened),
        ),
        (
            S::Open,
            E::Probe,
            &ramping,
            (S::HalfOpen, 1, 3, Some(10.0), EventType::CircuitHalfOpened),
        ),
        (
            S::HalfOpen,
            E::ProbeFailed,
            &ramping,
            (S::Open, 2, 0, Some(20.0), EventType::CircuitOpened),
        ),
        (
            S::HalfOpen,
            E::Recover,
            &ramping,
            (S::Closed, 1, 0, Some(5.0), EventType::CircuitClosed),
        ),
        (
            S::HalfOpen,
            E::Recover,
            &abrupt,
            (S::Closed, 0, 0, None, EventType::CircuitClosed),
        ),
        (
            S::Open,
            E::Reset,
            &ramping,
            (S::Closed, 0, 0, None, EventType::CircuitReset),
        ),
    ];
    for (before, event, policy, (state, openings, probes, until, kind)) in table {
        let expected = CircuitTransition {
            state,
            openings,
            probes,
            until,
            event: kind,
        };
        let change = circuit(before, 1, 0).change(policy, event);
        assert_eq!(change, Ok(expected), "{before} after {event:?}");
    }
    assert!(circuit(S::Open, 1, 0).change(&ramping, E::Trip).is_err());
}

#[test]
fn verdict_names_the_calls_that_changed_the_circuit() {
    let policy = Policy {
        probes: 3,
        min_calls: 2,
        ..Policy::default()
    };
    let failed = Calls {
        calls: 9,
        failures: 9,
    };
    let passed = |calls| Calls { calls, failures: 0 };
    let calls_of = |circuit: Circuit, window, probes| match circuit.judge(&policy, window, probes) {
        CircuitVerdict::Changed(_, calls) => Some(calls),
        CircuitVerdict::ProbesPassed(_) | CircuitVerdict::Unchanged => None,
    };
    let closed = circuit(CircuitState::Closed, 0, 0);
    assert_eq!(calls_of(closed, failed, Calls::default()), Some(failed));
    let half_open = circuit(CircuitState::HalfOpen, 1, 1);
    let one = Calls {
        calls: 1,
        failures: 1,
    };
    assert_eq!(calls_of(half_open, failed, one), Some(one));
    assert_eq!(calls_of(half_open, failed, passed(2)), Some(failed));
    assert_eq!(
        half_open.judge(&policy, failed, passed(1)),
        CircuitVerdict::ProbesPassed(1)
    );
    assert_eq!(
        closed.judge(&policy, passed(1), Calls::default()),
        CircuitVerdict::Unchanged
    );
}
