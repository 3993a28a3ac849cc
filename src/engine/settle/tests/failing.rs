//! When a failing batch is halved, and when an input is given up.

use super::*;
use crate::engine::settle::failing::{self, Failing};

fn away() -> StoreError {
    StoreError::Connection("no answer in time".into())
}

#[test]
fn unavailable_database_blames_no_input() {
    let mut failing = Failing::default();
    assert!((0..100).all(|_| !failing.again(&away(), 1) && !failing.again(&away(), 9)));
}

fn failure() -> Failure {
    Failure {
        message: "mine".into(),
        code: "MINE".into(),
        context: Some(r#"{"a":1}"#.into()),
    }
}

#[test]
fn result_that_the_database_refuses_is_replaced_once() {
    let error = StoreError::Corrupt("no".into());
    let retryable = Outcome::RetryableError {
        failure: failure(),
        retry_after: None,
    };
    for outcome in [
        Outcome::Succeeded("1".into()),
        retryable,
        Outcome::PermanentError(failure()),
    ] {
        let mut pending = result(0, outcome);
        assert!(failing::replace(&mut pending, &error));
        let Input::Result {
            outcome: Outcome::PermanentError(failure),
            worker_id: WORKER,
            ..
        } = &pending.input
        else {
            panic!("no permanent error");
        };
        assert_eq!(
            (&*failure.code, &failure.context),
            ("RESULT_REFUSED", &None)
        );
        // The step fails with the replacement, and its worker gets the acknowledgement.
        let verdict = Case::new(&[], &[0]).decide(std::slice::from_ref(&pending));
        assert_eq!(verdict.acks(), [true]);
        assert_eq!(verdict.events()[0], "step.failed");
        assert!(
            !failing::replace(&mut pending, &error),
            "the error is refused, too: no other takes its place"
        );
    }
}

#[test]
fn input_without_worker_data_is_not_replaced() {
    let error = StoreError::Corrupt("no".into());
    let released = result(0, Outcome::Released { delayed: false });
    let deadline = Input::Deadline { lease: lease(0) }.into();
    for mut pending in [released, deadline, cancel()] {
        assert!(!failing::replace(&mut pending, &error));
        assert!(!pending.replaced);
    }
}
