//! A registration's state as the gateway shows it.

use prost_types::Timestamp;
use serde_json::{Value, json};
use tasker_worker::proto::{
    AttemptOutcome, ExplainTaskResponse, GetTaskResponse, Step, StepError, StepState, TaskState,
    Wait, WaitCause,
};

/// Whether the task has ended.
pub fn is_final(found: &GetTaskResponse) -> bool {
    found
        .task
        .as_ref()
        .is_some_and(|task| task.ended_at.is_some())
}

/// The whole task for a person or a page that waits for it; `why` is the control plane's
/// explanation of a task that is not final. It is read after the task, so a step may be further
/// along in it.
pub fn describe(found: &GetTaskResponse, why: Option<&ExplainTaskResponse>) -> Value {
    let waits_of = |step: &Step| {
        let explained = why.and_then(|why| {
            why.steps
                .iter()
                .find(|explained| explained.step == step.name)
        });
        explained
            .map(|explained| explained.waits.as_slice())
            .unwrap_or_default()
    };
    let task = found.task.clone().unwrap_or_default();
    json!({
        "task_id": task.task_id,
        "status": task_state(task.state()),
        "percent": percent(task.steps_complete, task.steps_total),
        "correlation_id": task.correlation_id,
        "submitted_at": time(task.submitted_at),
        "ended_at": time(task.ended_at),
        "failed_step": (!task.failed_step.is_empty()).then_some(task.failed_step),
        "error": task.error.as_ref().map(error),
        "why": why.map(|why| &why.summary),
        "steps": found.steps.iter().map(|found| step(found, waits_of(found))).collect::<Vec<_>>(),
    })
}

fn step(step: &Step, waits: &[Wait]) -> Value {
    let failed = step
        .attempts
        .iter()
        .filter(|attempt| attempt.error.is_some());
    let failures: Vec<_> = failed
        .map(|attempt| {
            json!({
                "attempt": attempt.attempt,
                "outcome": outcome(attempt.outcome()),
                "error": attempt.error.as_ref().map(error),
            })
        })
        .collect();
    json!({
        "name": step.name,
        "service": step.service,
        "state": step_state(step.state()),
        "attempts": step.attempt,
        "retry_limit": step.retry_limit,
        "error": step.error.as_ref().map(error),
        "next_attempt_at": time(step.next_attempt_at),
        "waits": waits.iter().map(wait).collect::<Vec<_>>(),
        "failed_attempts": failures,
        "depends_on": step.depends_on,
    })
}

fn wait(wait: &Wait) -> Value {
    json!({
        "cause": cause(wait.cause()),
        "message": wait.message,
        "since": time(wait.since),
        "until": time(wait.until),
    })
}

fn error(error: &StepError) -> Value {
    json!({ "message": error.message, "error_code": error.error_code })
}

fn time(timestamp: Option<Timestamp>) -> Option<String> {
    timestamp.map(|timestamp| timestamp.to_string())
}

/// Whole per cent, and 100 only if every step is complete.
fn percent(complete: i32, total: i32) -> i32 {
    if total == 0 {
        0
    } else {
        complete * 100 / total
    }
}

/// The protocol's name without its prefix, in lower case: `TASK_STATE_IN_PROGRESS` is
/// `in_progress`.
pub fn task_state(state: TaskState) -> String {
    short(state.as_str_name(), "TASK_STATE_")
}

fn step_state(state: StepState) -> String {
    short(state.as_str_name(), "STEP_STATE_")
}

fn outcome(outcome: AttemptOutcome) -> String {
    short(outcome.as_str_name(), "ATTEMPT_OUTCOME_")
}

pub fn cause(cause: WaitCause) -> String {
    short(cause.as_str_name(), "WAIT_CAUSE_")
}

fn short(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}

#[cfg(test)]
mod tests {
    use tasker_worker::proto::StepExplanation;

    use super::*;

    #[test]
    fn status_names_match_the_design() {
        assert_eq!(task_state(TaskState::InProgress), "in_progress");
        assert_eq!(step_state(StepState::WaitingForRetry), "waiting_for_retry");
        assert_eq!(outcome(AttemptOutcome::RetryableError), "retryable_error");
        assert_eq!(cause(WaitCause::NoWorker), "no_worker");
    }

    #[test]
    fn step_lists_only_its_own_waits() {
        let named = |name: &str| Step {
            name: name.into(),
            ..Step::default()
        };
        let wait = Wait {
            cause: WaitCause::Circuit.into(),
            message: "open".into(),
            ..Wait::default()
        };
        let explained = StepExplanation {
            step: "b".into(),
            waits: vec![wait],
            ..StepExplanation::default()
        };
        let found = GetTaskResponse {
            steps: vec![named("a"), named("b")],
            ..GetTaskResponse::default()
        };
        let why = ExplainTaskResponse {
            summary: "b: open".into(),
            steps: vec![explained],
            ..Default::default()
        };
        let said = describe(&found, Some(&why));
        assert_eq!(
            (&said["why"], &said["steps"][0]["waits"]),
            (&json!("b: open"), &json!([]))
        );
        let open = json!({ "cause": "circuit", "message": "open", "since": null, "until": null });
        assert_eq!(said["steps"][1]["waits"], json!([open]));
        assert_eq!(describe(&found, None)["why"], Value::Null);
    }

    #[test]
    fn progress_of_100_percent_requires_completion() {
        assert_eq!(percent(0, 0), 0);
        assert_eq!(percent(199, 200), 99);
        assert_eq!(percent(5, 5), 100);
    }
}
