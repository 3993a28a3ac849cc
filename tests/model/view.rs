//! A client's view of a task, in one form for the model and for the server.

use std::collections::BTreeMap;

use tasker::proto::{AttemptOutcome, GetTaskResponse, StepAssignment, StepState, TaskState};

#[derive(Debug, PartialEq, Eq)]
pub struct TaskView {
    pub state: TaskState,
    pub template: String,
    pub paused: bool,
    pub complete: usize,
    /// Name and error code.
    pub failed: (String, String),
    pub steps: Vec<StepView>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct StepView {
    pub name: String,
    pub state: StepState,
    pub attempt: usize,
    pub charged: usize,
    pub limit: usize,
    pub result: String,
    pub code: String,
    pub attempts: Vec<AttemptView>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct AttemptView {
    pub number: usize,
    pub outcome: AttemptOutcome,
    pub charged: bool,
    pub worker: String,
}

/// The content of an assignment.
#[derive(Debug, PartialEq, Eq)]
pub struct AssignmentView {
    pub template: String,
    pub handler: String,
    pub attempt: usize,
    pub charged: usize,
    pub limit: usize,
    pub context: String,
    pub results: BTreeMap<String, String>,
}

fn size(n: i32) -> usize {
    usize::try_from(n).unwrap()
}

impl TaskView {
    pub fn of(response: &GetTaskResponse) -> Self {
        let task = response.task.as_ref().unwrap();
        let code = task
            .error
            .as_ref()
            .map(|e| e.error_code.clone())
            .unwrap_or_default();
        Self {
            state: task.state(),
            template: format!("{} {}", task.task_name, task.version),
            paused: task.paused_at.is_some(),
            complete: size(task.steps_complete),
            failed: (task.failed_step.clone(), code),
            steps: response.steps.iter().map(StepView::of).collect(),
        }
    }
}

impl StepView {
    fn of(step: &tasker::proto::Step) -> Self {
        let attempt = |a: &tasker::proto::Attempt| AttemptView {
            number: size(a.attempt),
            outcome: a.outcome(),
            charged: a.charged,
            worker: a.worker_name.clone(),
        };
        Self {
            name: step.name.clone(),
            state: step.state(),
            attempt: size(step.attempt),
            charged: size(step.charged_attempts),
            limit: size(step.retry_limit),
            result: step.result_json.clone(),
            code: step
                .error
                .as_ref()
                .map(|e| e.error_code.clone())
                .unwrap_or_default(),
            attempts: step.attempts.iter().map(attempt).collect(),
        }
    }
}

impl AssignmentView {
    pub fn of(a: &StepAssignment) -> Self {
        Self {
            template: format!("{} {}", a.task_name, a.version),
            handler: a.handler.clone(),
            attempt: size(a.attempt),
            charged: size(a.charged_attempts),
            limit: size(a.retry_limit),
            context: a.context_json.clone(),
            results: a.results_json.clone().into_iter().collect(),
        }
    }
}
