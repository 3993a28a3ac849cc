//! Number and times of a step's attempts: cases 1 to 9.

use std::time::{Duration, SystemTime};

use tasker::proto::{AttemptOutcome, ResultStatus, StepState, TaskState, step_result::Outcome};

use crate::support::{
    server::{Bench, state, step},
    worker::{RawWorker, permanent, retryable, success},
};

/// One step `only` with these settings.
fn one_step(settings: &str) -> String {
    format!(
        "task_name: one\nnamespace: t\nversion: 1.0.0\nstep_templates:\n  - {{name: only, handler_class: h, {settings}}}\n"
    )
}

/// A short back-off, so that tests do not wait.
const QUICK: &str = "backoff: {base_seconds: 0.01, max_seconds: 0.05}";

/// Answers every attempt of the only step with `outcome` until the task ends; returns the number of
/// attempts.
async fn attempts_until_end(
    bench: &mut Bench,
    outcome: impl Fn() -> Outcome,
) -> (i32, tasker::proto::GetTaskResponse) {
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let mut attempts = 0;
    loop {
        let assignment = worker.assignment().await;
        attempts += 1;
        assert_eq!(assignment.attempt, attempts);
        worker.settle(&assignment, outcome()).await;
        let task = bench.get(&id).await;
        if state(&task) != TaskState::InProgress {
            worker.hears_nothing(Duration::from_millis(300)).await;
            return (attempts, task);
        }
    }
}

#[tokio::test]
async fn case_1_step_that_is_not_retryable_runs_once() {
    let mut bench = Bench::with(&one_step("default_retryable: false")).await;
    let (attempts, task) = attempts_until_end(&mut bench, || success("1")).await;
    assert_eq!((attempts, state(&task)), (1, TaskState::Complete));
    assert_eq!(step(&task, "only").result_json, "1");
}

#[tokio::test]
async fn case_2_retryable_error_of_a_step_that_is_not_retryable_is_final() {
    let mut bench = Bench::with(&one_step(
        "default_retryable: false, default_retry_limit: 5",
    ))
    .await;
    let (attempts, task) = attempts_until_end(&mut bench, || retryable("no", None)).await;
    assert_eq!((attempts, state(&task)), (1, TaskState::Error));
    assert_eq!(step(&task, "only").state(), StepState::Error);
}

#[tokio::test]
async fn case_3_retry_limit_of_three_allows_three_attempts() {
    let mut bench = Bench::with(&one_step(&format!("default_retry_limit: 3, {QUICK}"))).await;
    let (attempts, task) = attempts_until_end(&mut bench, || retryable("busy", None)).await;
    assert_eq!((attempts, state(&task)), (3, TaskState::Error));
    let only = step(&task, "only");
    assert_eq!(
        (only.attempt, only.charged_attempts, only.retry_limit),
        (3, 3, 3)
    );
    assert_eq!(only.attempts.len(), 3);
    assert!(
        only.attempts
            .iter()
            .all(|a| a.charged && a.outcome() == AttemptOutcome::RetryableError)
    );
    assert_eq!(task.task.as_ref().unwrap().failed_step, "only");
    assert_eq!(
        task.task.as_ref().unwrap().error.as_ref().unwrap().message,
        "busy"
    );
}

#[tokio::test]
async fn case_4_retry_limit_of_zero_is_refused_at_registration() {
    let mut bench = Bench::new().await;
    let request = tasker::proto::RegisterTemplateRequest {
        yaml: one_step("default_retry_limit: 0"),
        deny_warnings: false,
    };
    let status = bench
        .client
        .templates
        .register_template(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert!(
        status.message().contains("default_retry_limit"),
        "{status:?}"
    );
    let list = bench
        .client
        .templates
        .list_templates(tasker::proto::ListTemplatesRequest::default())
        .await
        .unwrap();
    assert!(list.into_inner().templates.is_empty());
}

#[tokio::test]
async fn case_5_permanent_error_is_final_with_attempts_left() {
    let mut bench = Bench::with(&one_step("default_retry_limit: 5")).await;
    let (attempts, task) =
        attempts_until_end(&mut bench, || permanent("conflict", "USER_CONFLICT")).await;
    assert_eq!((attempts, state(&task)), (1, TaskState::Error));
    assert_eq!(
        step(&task, "only").error.as_ref().unwrap().error_code,
        "USER_CONFLICT"
    );
}

/// Fails three attempts without `retry_after`, then one with it; returns the delay to the fifth
/// attempt.
async fn delay_after_fourth(retry_after: Duration) -> (Duration, Bench, String) {
    // The fourth delay is 2 * 2^3 = 16 s, without jitter.
    let settings = "default_retry_limit: 6, backoff: {base_seconds: 2, multiplier: 2, jitter: 0}";
    let mut bench = Bench::with(&one_step(settings)).await;
    bench.circuits_off().await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let db = bench.db.connect().await;
    for _ in 0..3 {
        let assignment = worker.assignment().await;
        worker.settle(&assignment, retryable("busy", None)).await;
        // The test does not wait for the back-off: it makes the next attempt due now.
        db.execute("UPDATE queue SET next_attempt_at = now()", &[])
            .await
            .unwrap();
    }
    let assignment = worker.assignment().await;
    assert_eq!(assignment.attempt, 4);
    worker
        .settle(&assignment, retryable("busy", Some(retry_after)))
        .await;
    let task = bench.get(&id).await;
    let only = step(&task, "only");
    assert_eq!(only.state(), StepState::WaitingForRetry);
    let next: SystemTime = only.next_attempt_at.unwrap().try_into().unwrap();
    let failed: SystemTime = only.attempts[3].ended_at.unwrap().try_into().unwrap();
    (next.duration_since(failed).unwrap(), bench, id)
}

#[tokio::test]
async fn case_6_retry_after_later_than_the_back_off_applies() {
    assert_eq!(
        delay_after_fourth(Duration::from_secs(60)).await.0,
        Duration::from_secs(60)
    );
}

#[tokio::test]
async fn case_7_back_off_later_than_retry_after_applies() {
    assert_eq!(
        delay_after_fourth(Duration::from_secs(1)).await.0,
        Duration::from_secs(16)
    );
}

#[tokio::test]
async fn retry_after_over_an_hour_is_cut_to_an_hour() {
    assert_eq!(
        delay_after_fourth(Duration::from_secs(90_000)).await.0,
        Duration::from_secs(3_600)
    );
}

#[tokio::test]
async fn jitter_varies_within_the_upper_half() {
    let settings = "default_retry_limit: 60, backoff: {base_seconds: 8, multiplier: 1}";
    let mut bench = Bench::with(&one_step(settings)).await;
    bench.circuits_off().await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let db = bench.db.connect().await;
    for _ in 0..20 {
        let assignment = worker.assignment().await;
        worker.settle(&assignment, retryable("busy", None)).await;
        db.execute("UPDATE queue SET next_attempt_at = now()", &[])
            .await
            .unwrap();
    }
    let task = bench.get(&id).await;
    let delays: Vec<f64> = step(&task, "only")
        .attempts
        .iter()
        .take(20)
        .map(|a| {
            let at = |t: Option<prost_types::Timestamp>| SystemTime::try_from(t.unwrap()).unwrap();
            at(a.next_attempt_at)
                .duration_since(at(a.ended_at))
                .unwrap()
                .as_secs_f64()
        })
        .collect();
    assert!(delays.iter().all(|d| (4.0..=8.0).contains(d)), "{delays:?}");
    assert!(
        delays.iter().any(|d| (d - delays[0]).abs() > 0.01),
        "{delays:?}"
    );
}

const TWO_ROOTS: &str = "
task_name: roots
namespace: t
version: 1.0.0
step_templates:
  - {name: bad, handler_class: bad, default_retry_limit: 2, backoff: {base_seconds: 0.3, jitter: 0}}
  - {name: good, handler_class: good, default_retry_limit: 2, backoff: {base_seconds: 0.3, jitter: 0}}
  - {name: after_good, handler_class: good, depends_on_steps: [good]}
  - {name: after_bad, handler_class: good, depends_on_steps: [bad]}
";

#[tokio::test]
async fn case_8_task_fails_after_the_other_branch_has_ended() {
    let mut bench = Bench::with(TWO_ROOTS).await;
    let mut bad = RawWorker::connect(&bench.server.url, &["bad"]).await;
    let mut good = RawWorker::connect(&bench.server.url, &["good"]).await;
    let id = bench.submit("t/roots", "{}").await;
    let failing = bad.assignment().await;
    bad.settle(&failing, permanent("never", "NO")).await;
    assert_eq!(state(&bench.get(&id).await), TaskState::InProgress);
    let first = good.assignment().await;
    good.settle(&first, success("1")).await;
    let second = good.assignment().await;
    assert_eq!(second.step_name, "after_good");
    assert_eq!(state(&bench.get(&id).await), TaskState::InProgress);
    good.settle(&second, success("2")).await;
    let task = bench.finished(&id).await;
    assert_eq!(state(&task), TaskState::Error);
    assert_eq!(step(&task, "after_good").state(), StepState::Complete);
    assert_eq!(step(&task, "after_bad").state(), StepState::Pending);
}

#[tokio::test]
async fn case_9_task_does_not_fail_while_a_sibling_backs_off() {
    let mut bench = Bench::with(TWO_ROOTS).await;
    let mut bad = RawWorker::connect(&bench.server.url, &["bad"]).await;
    let mut good = RawWorker::connect(&bench.server.url, &["good"]).await;
    let id = bench.submit("t/roots", "{}").await;
    let sibling = good.assignment().await;
    good.settle(&sibling, retryable("later", None)).await;
    let failing = bad.assignment().await;
    bad.settle(&failing, permanent("never", "NO")).await;
    let waiting = bench.get(&id).await;
    assert_eq!(state(&waiting), TaskState::InProgress);
    assert_eq!(step(&waiting, "good").state(), StepState::WaitingForRetry);
    let again = good.assignment().await;
    assert_eq!((again.step_name.as_str(), again.attempt), ("good", 2));
    assert_eq!(
        good.settle(&again, permanent("never", "NO")).await,
        ResultStatus::Accepted
    );
    let task = bench.finished(&id).await;
    assert_eq!(state(&task), TaskState::Error);
    assert_eq!(task.task.as_ref().unwrap().failed_step, "bad");
}
