//! Reasons and sentences from given facts.

use super::*;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn at(seconds: i64) -> SystemTime {
    let time = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        now() - time
    } else {
        now() + time
    }
}

fn facts(state: StepState) -> StepFacts {
    StepFacts {
        pauses: Vec::new(),
        late: None,
        name: "bill".into(),
        handler: "Bill".into(),
        state,
        due: state == StepState::Ready,
        attempt: 2,
        charged: 2,
        retry_limit: 5,
        parents: Vec::new(),
        ready_at: Some(at(-60)),
        started_at: None,
        ended_at: None,
        next_attempt_at: None,
        deadline_at: None,
        worker_name: None,
        assignment_bytes: None,
        lease: Duration::from_secs(30),
        error: None,
        error_code: None,
        last_outcome: None,
        ahead: 0,
        service: ServiceFacts {
            name: "billing".into(),
            state: CircuitState::Closed,
            since: at(-100),
            until: None,
            opened: None,
            forced: None,
            forced_by: String::new(),
            forced_reason: String::new(),
            forced_until: None,
            throttled_until: None,
            running: 0,
            policy: Policy::default(),
        },
        workers: WorkerFacts {
            connected: 2,
            slots: 8,
            free: 8,
            last_seen: None,
            ..WorkerFacts::default()
        },
    }
}

fn said(step: &StepFacts) -> Vec<(Cause, String)> {
    reasons(step, now())
        .into_iter()
        .map(|r| (r.cause, r.message))
        .collect()
}

#[test]
fn step_in_each_situation_has_its_cause() {
    let mut step = facts(StepState::Pending);
    step.parents = vec![
        ("a".into(), StepState::Complete),
        ("b".into(), StepState::InProgress),
    ];
    step.parents.remove(0);
    assert_eq!(
        said(&step),
        [(Cause::Parents, "waits for b (in_progress)".into())]
    );
    step.parents.push(("c".into(), StepState::Error));
    assert_eq!(
        said(&step),
        [(Cause::Parents, "never starts: its parent c is error".into())]
    );

    let mut step = facts(StepState::WaitingForRetry);
    (step.next_attempt_at, step.error) = (Some(at(14)), Some("503".into()));
    assert_eq!(
        said(&step),
        [(
            Cause::Backoff,
            "attempt 3 of 5 in 14 s; the last one failed: 503".into()
        )]
    );

    let mut step = facts(StepState::InProgress);
    (step.started_at, step.deadline_at, step.worker_name) =
        (Some(at(-3)), Some(at(27)), Some("w1".into()));
    assert_eq!(
        said(&step),
        [(
            Cause::Running,
            "attempt 2 runs on w1 since 3 s; it is timed out in 27 s".into()
        )]
    );

    let mut step = facts(StepState::Error);
    (step.attempt, step.error, step.error_code) =
        (4, Some("no card".into()), Some("NO_CARD".into()));
    let message = "failed finally after 2 of 5 attempts, and 2 uncharged: no card (NO_CARD)";
    assert_eq!(said(&step), [(Cause::Failed, message.into())]);

    let mut step = facts(StepState::Ready);
    step.workers = WorkerFacts {
        last_seen: Some(at(-240)),
        ..WorkerFacts::default()
    };
    let message = "no connected worker has handler Bill; last seen 4 min 0 s ago";
    assert_eq!(said(&step), [(Cause::NoWorker, message.into())]);
    assert_eq!(
        said(&facts(StepState::Ready)),
        [(Cause::Dispatch, "about to be assigned to a worker".into())]
    );
    assert!(said(&facts(StepState::Complete)).is_empty());
}

#[test]
fn step_held_by_its_service_names_the_cause() {
    let mut step = facts(StepState::Ready);
    (step.service.state, step.service.until) = (CircuitState::Open, Some(at(20)));
    step.service.opened = Some("7 of 10 calls failed".into());
    let message =
        "circuit billing is open since 1 min 40 s (7 of 10 calls failed); it is probed in 20 s";
    assert_eq!(said(&step), [(Cause::Circuit, message.into())]);
    step.service.policy.enabled = false;
    assert_eq!(
        said(&step)[0].0,
        Cause::Dispatch,
        "nobody is held by a circuit that is off"
    );

    let mut step = facts(StepState::Ready);
    step.service.forced = Some(CircuitState::Open);
    (step.service.forced_by, step.service.forced_reason) = ("ann".into(), "deploy".into());
    let message = "circuit billing is open by order of ann, until an operator resets it: deploy";
    assert_eq!(said(&step), [(Cause::Circuit, message.into())]);

    let mut step = facts(StepState::Ready);
    step.service.throttled_until = Some(at(5));
    assert_eq!(
        said(&step),
        [(
            Cause::Throttle,
            "billing throttles its callers (retry_after); that ends in 5 s".into()
        )]
    );
    step.service.throttled_until = Some(at(-5));
    assert_eq!(said(&step)[0].0, Cause::Dispatch);

    let mut step = facts(StepState::Ready);
    (step.service.policy.max_concurrency, step.service.running) = (3, 3);
    assert_eq!(
        said(&step)[0],
        (
            Cause::Limit,
            "billing runs 3 steps, which is its limit".into()
        )
    );
}

#[test]
fn queued_step_reports_the_number_ahead() {
    let mut step = facts(StepState::Ready);
    (step.workers.free, step.ahead) = (0, 17);
    let message = "8 of 8 slots of 2 workers are taken; 17 go before it, by priority or age";
    assert_eq!(said(&step), [(Cause::Busy, message.into())]);
    step.ahead = 1_000;
    assert!(
        said(&step)[0]
            .1
            .ends_with("at least 1000 others go before it")
    );
}

#[test]
fn retry_with_an_open_circuit_has_two_causes() {
    let mut step = facts(StepState::WaitingForRetry);
    step.next_attempt_at = Some(at(1));
    (step.service.state, step.service.until) = (CircuitState::Open, Some(at(20)));
    assert_eq!(
        said(&step)
            .iter()
            .map(|(cause, _)| *cause)
            .collect::<Vec<_>>(),
        [Cause::Backoff, Cause::Circuit]
    );
}
