//! How a task and its steps look in text, shared by `list`, `get`, and `watch`.

use crate::{
    cli::{
        graph::{self, Node},
        human,
        term::{Style, Term, clean},
    },
    proto::{AttemptOutcome, Step, StepError, StepState, Task, TaskState},
};

/// `namespace/name@version`.
pub fn template_name(task: &Task) -> String {
    clean(&format!("{}/{}@{}", task.namespace, task.task_name, task.version))
}

/// `CODE: message`.
pub fn error_text(error: &StepError) -> String {
    match (error.error_code.as_str(), error.message.as_str()) {
        ("", message) => clean(message),
        (code, "") => clean(code),
        (code, message) => clean(&format!("{code}: {message}")),
    }
}

/// Why a task ended without being complete, or does not go on, in one line.
pub fn outcome(task: &Task) -> Option<String> {
    match task.state() {
        TaskState::Error => {
            let error = task.error.as_ref().map(error_text).unwrap_or_default();
            // Nothing but the deadline fails a task without a step.
            let step = Some(clean(&task.failed_step)).filter(|step| !step.is_empty());
            Some(step.map_or(error.clone(), |step| format!("{step}: {error}")))
        }
        TaskState::Cancelled => Some(format!("by {}: {}", clean(&task.cancelled_by), clean(&task.cancel_reason))),
        TaskState::ResolvedManually => {
            Some(format!("by {}: {}", clean(&task.resolved_by), clean(&task.resolve_reason)))
        }
        _ if task.paused_at.is_some() => Some(format!("paused {}", paused(task))),
        _ => None,
    }
}

/// Who paused a task, and why.
pub fn paused(task: &Task) -> String {
    format!("by {}: {}", clean(&task.paused_by), clean(&task.pause_reason))
}

/// The graph with the state of each step.
pub fn step_graph(steps: &[Step], term: &Term) -> Vec<String> {
    let nodes: Vec<Node<'_>> = steps
        .iter()
        .map(|step| Node {
            name: &step.name,
            depends_on: &step.depends_on,
            sign: human::step_sign(step.state(), term.unicode),
            style: human::step_style(step.state()),
            label: label(step, term),
        })
        .collect();
    graph::draw(&nodes, term)
}

/// A step in one line: its name, and where it stands.
pub fn label(step: &Step, term: &Term) -> String {
    let name = clean(&step.name);
    let took = || human::elapsed(step.started_at, step.ended_at).map(human::duration).unwrap_or_default();
    let rest = match step.state() {
        StepState::Pending | StepState::Unspecified => return name,
        StepState::Ready => "ready".into(),
        StepState::InProgress if step.attempt > 1 => format!("in progress, {}, attempt {}", took(), tries(step)),
        StepState::InProgress => format!("in progress, {}", took()),
        StepState::WaitingForRetry => format!("{}, attempt {} failed", retry_in(step), tries(step)),
        StepState::Complete => took(),
        StepState::Error => step.error.as_ref().map_or_else(|| "failed".into(), error_text),
        StepState::Cancelled => "cancelled".into(),
        StepState::Skipped => "skipped".into(),
        StepState::ResolvedManually => format!("resolved by {}", clean(&step.set_by)),
    };
    let style = match step.state() {
        StepState::Complete => Style::Dim,
        state => human::step_style(state),
    };
    format!("{name}  {}", term.paint(style, &rest))
}

/// What a person wants to know of a step beyond its state.
pub fn note(step: &Step) -> String {
    let error = step.error.as_ref().map(error_text).unwrap_or_default();
    match step.state() {
        StepState::Ready if step.next_attempt_at.is_some_and(|at| !human::since(human::now(), at).is_zero()) => {
            let left = step.next_attempt_at.map(|at| human::since(human::now(), at)).unwrap_or_default();
            format!("starts in {}", human::duration(left))
        }
        StepState::Ready => format!("waits for a free worker with handler {}", clean(&step.handler)),
        StepState::InProgress => match step.deadline_at {
            Some(deadline) => format!("times out in {}", human::duration(human::since(human::now(), deadline))),
            None => String::new(),
        },
        StepState::WaitingForRetry => format!("{}: {error}", retry_in(step)),
        StepState::Skipped if step.set_by == "condition" => format!("unless {}", clean(&step.condition)),
        StepState::Skipped | StepState::ResolvedManually => {
            format!("by {}: {}", clean(&step.set_by), clean(&step.set_reason))
        }
        _ => error,
    }
}

fn retry_in(step: &Step) -> String {
    match step.next_attempt_at.map(|at| human::since(human::now(), at)) {
        Some(left) if !left.is_zero() => format!("retry in {}", human::duration(left)),
        _ => "retry is due".into(),
    }
}

/// `2/3`: tries that count, of how many; and how many were lost to the infrastructure, which do not count.
pub fn tries(step: &Step) -> String {
    let lost =
        |a: &&crate::proto::Attempt| matches!(a.outcome(), AttemptOutcome::WorkerLost | AttemptOutcome::Released);
    match i32::try_from(step.attempts.iter().filter(lost).count()).unwrap_or(i32::MAX) {
        0 => format!("{}/{}", step.attempt, step.retry_limit),
        lost => format!("{}/{} (+{lost} lost)", step.attempt.saturating_sub(lost), step.retry_limit),
    }
}
