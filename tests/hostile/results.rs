//! Answers of a handler that cannot be stored unchanged: the server accepts them, and they affect
//! their own step only.

use std::time::{Duration, SystemTime};

use tasker::proto::{
    GetTaskResponse, PermanentError, ResultStatus, RetryableError, StepResult, StepState,
    TaskState, step_result::Outcome, work_request::Message as Says,
};

use crate::{
    support::{
        server::{state, step},
        worker::{RawWorker, success},
    },
    target::Target,
};

/// Runs a task whose one step gets this answer, and returns the task as of the acknowledgement.
async fn answered(
    target: &mut Target,
    worker: &mut RawWorker,
    outcome: Outcome,
) -> GetTaskResponse {
    let id = target.bench.submit("hostile/good", "{}").await;
    let assignment = worker.assignment().await;
    assert_eq!(
        worker.settle(&assignment, outcome).await,
        ResultStatus::Accepted
    );
    target.bench.get(&id).await
}

#[tokio::test]
async fn results_that_cannot_be_stored_fail_the_step() {
    let mut target = Target::new().await;
    let mut worker = RawWorker::connect(&target.bench.server.url, &["good"]).await;
    let table: Vec<(String, &str)> = vec![
        ("{".into(), "the document ends"),
        ("nul".into(), "expected a value"),
        ("<xml/>".into(), "expected a value"),
        (" ".into(), "expected a value"),
        ("1 2".into(), "the end of the document"),
        ("NaN".into(), "expected a value"),
        (r#""\u0000""#.into(), "\\u0000"),
        (r#"{"\u0000":1}"#.into(), "\\u0000"),
        ("\"\0\"".into(), "control character"),
        ("\0".into(), "expected a value"),
        (r#""\ud800""#.into(), "low half"),
        (r#"{"a":1,"a":2}"#.into(), "twice"),
        ("1e999999999".into(), "digits"),
        (
            format!("{}1{}", "[".repeat(129), "]".repeat(129)),
            "deeper than 128",
        ),
        ("[".repeat(100_000), "deeper than 128"),
        (format!("\"{}\"", "x".repeat(1 << 20)), "at most 1048576"),
        (format!("\"{}\"", "x".repeat(15 << 20)), "at most 1048576"),
    ];
    for (json, says) in table {
        let task = answered(&mut target, &mut worker, success(&json)).await;
        let error = step(&task, "a").error.clone().unwrap_or_default();
        let right = state(&task) == TaskState::Error && error.error_code == "RESULT_INVALID";
        target.note(
            right && error.message.contains(says),
            format!("{json:.40}: expected `{says}`, got {error:?}"),
        );
    }
    drop(worker);
    target.end(17).await;
}

#[tokio::test]
async fn error_contexts_that_are_not_json_are_omitted() {
    let mut target = Target::new().await;
    let mut worker = RawWorker::connect(&target.bench.server.url, &["good"]).await;
    for context in [
        "{",
        "[]",
        "7",
        "\"x\"",
        "\0",
        r#"{"a":"\u0000"}"#,
        r#"{"a":1,"a":2}"#,
        &"[".repeat(70_000),
    ] {
        let outcome = PermanentError {
            message: "m".into(),
            error_code: "C".into(),
            context_json: context.into(),
        };
        let task = answered(&mut target, &mut worker, Outcome::PermanentError(outcome)).await;
        let error = step(&task, "a").error.clone().unwrap();
        let right = (error.message.as_str(), error.error_code.as_str()) == ("m", "C")
            && error.context_json.contains("context was omitted");
        target.note(right, format!("{context:.40}: {error:?}"));
    }
    drop(worker);
    target.end(8).await;
}

#[tokio::test]
async fn error_messages_and_codes_are_cut_and_cleaned() {
    let mut target = Target::new().await;
    let mut worker = RawWorker::connect(&target.bench.server.url, &["good"]).await;
    for (message, code, stored, stored_code) in [
        (
            String::new(),
            String::new(),
            "the handler gave no message".to_owned(),
            String::new(),
        ),
        (
            "a\0b".into(),
            "C\0D".into(),
            "a\u{fffd}b".into(),
            "C\u{fffd}D".into(),
        ),
        (
            "\0".repeat(100),
            "\0".into(),
            "\u{fffd}".repeat(100),
            "\u{fffd}".into(),
        ),
        (
            "x".repeat(1 << 20),
            "y".repeat(1 << 20),
            "x".repeat(8 << 10),
            "y".repeat(255),
        ),
        (
            "é".repeat(5_000),
            "é".repeat(200),
            "é".repeat(4_096),
            "é".repeat(127),
        ),
        (
            "😀".repeat(3_000),
            "x".into(),
            "😀".repeat(2_048),
            "x".into(),
        ),
    ] {
        let case = format!("{message:.20?}");
        let outcome = PermanentError {
            message,
            error_code: code,
            context_json: String::new(),
        };
        let task = answered(&mut target, &mut worker, Outcome::PermanentError(outcome)).await;
        let error = step(&task, "a").error.clone().unwrap();
        target.note(
            error.message == stored && error.error_code == stored_code,
            format!("{case}: {error:.300?}"),
        );
    }
    drop(worker);
    target.end(6).await;
}

#[tokio::test]
async fn retry_after_out_of_bounds_is_limited() {
    let mut target = Target::new().await;
    let mut worker = RawWorker::connect(&target.bench.server.url, &["good"]).await;
    const HOUR: u64 = 3_600;
    for (seconds, nanos, at_least, at_most) in [
        (i64::MAX, 999_999_999, HOUR - 60, HOUR + 60),
        (i64::MAX, 0, HOUR - 60, HOUR + 60),
        (315_576_000_001, 0, HOUR - 60, HOUR + 60),
        (3_601, 0, HOUR - 60, HOUR + 60),
        (600, 5, 540, 660),
        (i64::MIN, 0, 0, 5),
        (i64::MIN, -999_999_999, 0, 5),
        (-1, 0, 0, 5),
        (0, -1, 0, 5),
        (0, 0, 0, 5),
    ] {
        let retry_after = Some(prost_types::Duration { seconds, nanos });
        let outcome = RetryableError {
            message: "later".into(),
            retry_after,
            ..Default::default()
        };
        let task = answered(&mut target, &mut worker, Outcome::RetryableError(outcome)).await;
        let waits = step(&task, "a");
        let at = |time: Option<prost_types::Timestamp>| {
            time.map(|time| SystemTime::try_from(time).unwrap())
        };
        let wait = at(waits.next_attempt_at)
            .zip(waits.attempts.last().and_then(|last| at(last.ended_at)))
            .and_then(|(next, failed)| next.duration_since(failed).ok());
        let range = Duration::from_secs(at_least)..=Duration::from_secs(at_most);
        let right = waits.state() == StepState::WaitingForRetry
            && wait.is_some_and(|wait| range.contains(&wait));
        target.note(right, format!("{seconds} s {nanos} ns: {waits:?}"));
        let id = task.task.unwrap().task_id;
        target.bench.cancel(&id).await.unwrap();
    }
    drop(worker);
    target.end(10).await;
}

/// Answers with a meaningless part end their own step, and the worker's stream goes on: all cases
/// use the same stream.
#[tokio::test]
async fn results_with_invalid_parts_are_refused() {
    let mut target = Target::new().await;
    let mut worker = RawWorker::connect(&target.bench.server.url, &["good"]).await;
    let retry = |seconds: i64, nanos: i32| {
        let retry_after = Some(prost_types::Duration { seconds, nanos });
        Some(Outcome::RetryableError(RetryableError {
            retry_after,
            ..Default::default()
        }))
    };
    for (outcome, says) in [
        (None, "result.outcome: none is set"),
        (retry(1, 1_000_000_000), "retry_after: not a duration"),
        (retry(-1, -1_000_000_000), "retry_after: not a duration"),
        (retry(0, i32::MAX), "retry_after: not a duration"),
        (retry(0, i32::MIN), "retry_after: not a duration"),
        (retry(5, -1), "retry_after: not a duration"),
        (retry(i64::MIN, 1), "retry_after: not a duration"),
    ] {
        let id = target.bench.submit("hostile/good", "{}").await;
        let lease_token = worker.assignment().await.lease_token;
        let answer = StepResult {
            lease_token,
            outcome,
        };
        // Sent twice, as by a worker that had no acknowledgement.
        for _ in 0..2 {
            worker.say(Says::Result(answer.clone())).await;
            assert_eq!(worker.ack().await.status(), ResultStatus::Accepted);
        }
        let task = target.bench.get(&id).await;
        let error = step(&task, "a").error.clone().unwrap_or_default();
        let right = state(&task) == TaskState::Error && error.error_code == "RESULT_INVALID";
        target.note(
            right && error.message.contains(says),
            format!("{says}: {error:?}"),
        );
    }
    drop(worker);
    target.end(7).await;
}
