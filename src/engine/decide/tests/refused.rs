//! Results that the database refuses become errors of their steps.

use super::*;
use crate::{domain::attempt::Failure, engine::decide::refused::replace, store::StoreError};

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
        assert!(replace(&mut pending, &error));
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
            !replace(&mut pending, &error),
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
        assert!(!replace(&mut pending, &error));
        assert!(!pending.replaced);
    }
}
