//! Attempts that end without a result of their own: lost, drained, released, and probes.

use super::*;
use crate::engine::{decide::finish::unserved_lanes, hash::HashSet};

#[test]
fn loss_reported_for_another_worker_has_no_effect() {
    let case = Case::new(&[0], &[1]);
    let gone = |worker_id, outcome| {
        PendingInput::from(Input::Gone {
            lease: lease(1),
            worker_id,
            outcome,
        })
    };
    assert!(
        case.decide(&[gone(Uuid::nil(), Outcome::WorkerLost)])
            .is_silent()
    );
    let verdict = case.decide(&[
        gone(WORKER, Outcome::WorkerLost),
        gone(WORKER, Outcome::WorkerLost),
        done(1),
    ]);
    let [back] = &verdict.changes.given_back[..] else {
        panic!()
    };
    assert!((back.lost, back.attempt.charged) == (true, false));
    assert_eq!(verdict.acks(), [false]);
    assert_eq!(verdict.events(), [EventType::StepRetrying.as_str()]);
    let verdict = case.decide(&[gone(WORKER, Outcome::Undelivered)]);
    assert!(
        verdict.changes.given_back[0].lost,
        "ten of them end the step"
    );
    let lanes = unserved_lanes(&verdict.changes, &case.plans);
    assert_eq!(lanes, HashSet::from_iter([2]));
}

#[test]
fn step_drained_by_a_hundred_workers_is_not_exhausted() {
    let mut case = Case::new(&[0], &[1]);
    for attempt in 1..=100 {
        case.read.live[0].attempt = attempt;
        let gone = Input::Gone {
            lease: lease(1),
            worker_id: WORKER,
            outcome: Outcome::Drained,
        };
        let verdict = case.decide(&[gone.into()]);
        assert!(verdict.changes.ended.is_empty(), "attempt {attempt}");
        match attempt {
            1 => assert!(!verdict.changes.given_back[0].lost),
            _ => assert_eq!(
                verdict.changes.retries[0].backoff.delay_bounds(1).1,
                Duration::from_secs(1)
            ),
        }
    }
}

#[test]
fn manual_retry_resets_the_count_of_uncharged_attempts() {
    let mut case = Case::new(&[0], &[1]);
    let row = &mut case.read.live[0];
    (row.attempt, row.charged, row.probe) = (13, 0, true);
    assert!(
        case.decide(&[failed(1)]).changes.retries[0].attempt.charged,
        "twelve were free"
    );
    case.read.live[0].forgiven = 12;
    assert!(
        !case.decide(&[failed(1)]).changes.retries[0].attempt.charged,
        "none since it was reopened"
    );
}

#[test]
fn step_released_by_a_connected_worker_waits_one_second() {
    let verdict = Case::new(&[0], &[1]).decide(&[result(1, Outcome::Released { delayed: true })]);
    let [retry] = &verdict.changes.retries[..] else {
        panic!()
    };
    assert_eq!(
        retry.backoff.delay_bounds(1),
        (Duration::from_secs(1), Duration::from_secs(1))
    );
    assert!(!retry.attempt.charged);
}

#[test]
fn failed_probe_is_uncharged_and_lets_other_steps_probe_next() {
    let mut case = Case::new(&[0], &[1]);
    // Without the probe mark, it would be the last attempt.
    (
        case.read.live[0].charged,
        case.read.live[0].attempt,
        case.read.live[0].probe,
    ) = (1, 2, true);
    let verdict = case.decide(&[failed(1)]);
    let [retry] = &verdict.changes.retries[..] else {
        panic!("no retry")
    };
    assert!(!retry.attempt.charged);
    assert!(
        retry.backoff.delay_bounds(1).0 >= Duration::from_secs(30),
        "{:?}",
        retry.backoff
    );
    case.read.live[0].probe = false;
    assert_eq!(case.decide(&[failed(1)]).changes.ended.len(), 1);
}
