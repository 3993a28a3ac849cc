//! Conversion from the types of the store and the engine to messages of the protocol.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use tasker_template::MAX_NAME_BYTES;
use tonic::Status;
use uuid::Uuid;

use super::error::invalid;
use crate::{
    domain::{attempt::Failure, progress::StepSet, step::StepState, task::TaskState},
    engine::{Assignment, Plan, TaskPlan, Traces, Violated, merge_annotations},
    proto,
    store::{
        retirement::Retirement,
        task::{Attempt, Step, Task, TaskView},
        worker::WorkerRow,
    },
};

mod enums;

pub use enums::{event_type, event_type_from, outcome, step_state, task_state, task_state_from};

/// The task id of a request.
pub fn task_id(text: &str) -> Result<Uuid, Status> {
    Uuid::try_parse(text).map_err(|_| {
        invalid(
            "task_id",
            "not a UUID: expected an id that SubmitTask returned",
        )
    })
}

/// Checks a name of a request, which may be empty: a text that cannot be a name is refused without
/// a lookup.
pub fn name(field: &str, text: &str) -> Result<(), Violated> {
    if text.len() > MAX_NAME_BYTES || text.chars().any(char::is_control) {
        let message = format!("expected at most {MAX_NAME_BYTES} bytes without control characters");
        return Err(Violated {
            field: field.to_owned(),
            message,
        });
    }
    Ok(())
}

/// A version of a request; `None` for the newest.
pub fn version(text: &str) -> Result<Option<semver::Version>, Violated> {
    if text.is_empty() {
        return Ok(None);
    }
    name("version", text)?;
    text.parse().map(Some).map_err(|e| Violated {
        field: "version".to_owned(),
        message: format!("`{text:.80}` is not a semantic version such as 1.2.0: {e}"),
    })
}

pub fn timestamp(at: SystemTime) -> prost_types::Timestamp {
    at.into()
}

/// A longer duration than the message can hold becomes zero; no duration here is as long.
pub fn duration(d: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(d).unwrap_or_default()
}

/// A time of a request.
pub fn time(
    field: &str,
    at: Option<prost_types::Timestamp>,
) -> Result<Option<SystemTime>, Violated> {
    at.map(|at| {
        // The end of the range is that of the message; before 1970 no task was submitted.
        let in_range =
            (0..=253_402_300_799).contains(&at.seconds) && (0..=999_999_999).contains(&at.nanos);
        in_range
            .then(|| SystemTime::try_from(at).ok())
            .flatten()
            .ok_or_else(|| Violated {
                field: field.to_owned(),
                message: "out of range: expected a time between the years 1970 and 9999".to_owned(),
            })
    })
    .transpose()
}

fn error(failure: Failure) -> proto::StepError {
    proto::StepError {
        message: failure.message,
        error_code: failure.code,
        context_json: failure.context.unwrap_or_default(),
    }
}

pub fn task(task: Task, plan: &Plan) -> proto::Task {
    let failed = task
        .failed_step
        .and_then(|step| plan.step(step))
        .map(|step| step.name.clone());
    let is_error = matches!(task.state, TaskState::Error | TaskState::ResolvedManually);
    // A pause outlasts a failure, as the task may be retried, but no other end.
    let holds = !task.state.is_final() || task.state == TaskState::Error;
    proto::Task {
        task_id: task.task_id.to_string(),
        namespace: plan.template.namespace.clone(),
        task_name: plan.template.task_name.clone(),
        version: plan.template.version.to_string(),
        state: task_state(task.state).into(),
        priority: task.priority.into(),
        context_json: task.context,
        annotations_json: task.annotations,
        correlation_id: task.correlation_id,
        submitted_at: Some(timestamp(task.submitted_at)),
        started_at: task.started_at.map(timestamp),
        ended_at: task.ended_at.map(timestamp),
        steps_total: task.steps_total.into(),
        steps_complete: i32::try_from(StepSet::from_bytes(task.steps_done).len())
            .unwrap_or(i32::MAX),
        failed_step: failed.filter(|_| is_error).unwrap_or_default(),
        error: task.failure.filter(|_| is_error).map(error),
        cancelled_by: task.cancelled_by.unwrap_or_default(),
        cancel_reason: task.cancel_reason.unwrap_or_default(),
        paused_at: task.paused_at.filter(|_| holds).map(timestamp),
        paused_by: task.paused_by.filter(|_| holds).unwrap_or_default(),
        pause_reason: task.pause_reason.filter(|_| holds).unwrap_or_default(),
        resolved_by: task.resolved_by.unwrap_or_default(),
        resolve_reason: task.resolve_reason.unwrap_or_default(),
        not_before: task.not_before.map(timestamp),
        expires_at: task.expires_at.map(timestamp),
    }
}

/// The task and its steps, with their attempts where they were read.
pub fn view(view: TaskView, plan: &Plan, with_attempts: bool) -> (proto::Task, Vec<proto::Step>) {
    let annotations = view.task.annotations.clone();
    let own = TaskPlan::of(plan, view.task.settings.as_deref());
    let mut attempts: HashMap<i16, Vec<Attempt>> = HashMap::new();
    for attempt in view.attempts {
        attempts.entry(attempt.step).or_default().push(attempt);
    }
    let steps = view
        .steps
        .into_iter()
        .map(|s| {
            let past = attempts.remove(&s.step).unwrap_or_default();
            step(s, past, &own, &annotations, with_attempts)
        })
        .collect();
    (task(view.task, plan), steps)
}

fn step(
    s: Step,
    past: Vec<Attempt>,
    own: &TaskPlan<'_>,
    task_notes: &str,
    with_attempts: bool,
) -> proto::Step {
    // A default is better than a panic: no row has a step that its template lacks.
    let Some(t) = own.step(s.step) else {
        return proto::Step::default();
    };
    let plan = own.plan;
    // A step that waits for a retry has no error of its own yet, so that of its last attempt is
    // shown.
    let last_failure = past.last().and_then(|a| a.failure.clone());
    let waiting = s.state == StepState::WaitingForRetry;
    let cut = past.iter().any(|attempt| attempt.is_cut);
    let left_out = [
        (s.result_left_out, "result_json"),
        (s.context_left_out, "error.context_json"),
        (cut, "attempts.error"),
    ];
    let omitted = left_out
        .into_iter()
        .filter(|(left_out, _)| *left_out)
        .map(|(_, field)| field.to_owned())
        .collect();
    let mut attempts: Vec<proto::Attempt> = past.into_iter().map(attempt).collect();
    // Only ended attempts are in the log, so the one in progress is made from the step.
    if s.state == StepState::InProgress {
        attempts.push(running(&s));
    }
    proto::Step {
        name: t.name.clone(),
        description: t.description.clone(),
        handler: t.handler.clone(),
        service: t.service.clone(),
        state: step_state(s.state).into(),
        depends_on: t
            .depends_on
            .iter()
            .filter_map(|p| Some(plan.template.steps.get(usize::from(*p))?.name.clone()))
            .collect(),
        attempt: s.attempt,
        retry_limit: i32::try_from(t.retry_limit).unwrap_or(i32::MAX),
        charged_attempts: s.charged.into(),
        result_json: s.result.unwrap_or_default(),
        error: s
            .failure
            .or_else(|| last_failure.filter(|_| waiting))
            .map(error),
        ready_at: s.ready_at.map(timestamp),
        started_at: s.started_at.map(timestamp),
        ended_at: s.ended_at.map(timestamp),
        next_attempt_at: s.next_attempt_at.map(timestamp),
        deadline_at: s.deadline_at.map(timestamp),
        worker_name: s.worker_name.unwrap_or_default(),
        handler_config_json: serde_json::Value::Object(t.handler_config.clone()).to_string(),
        annotations_json: merge_annotations(task_notes, &t.annotations),
        attempts: if with_attempts { attempts } else { Vec::new() },
        set_by: s.set_by.unwrap_or_default(),
        set_reason: s.set_reason.unwrap_or_default(),
        origins: own
            .origins(s.step)
            .into_iter()
            .map(|(setting, origin)| proto::SettingOrigin { setting, origin })
            .collect(),
        condition: t
            .condition
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        omitted,
    }
}

fn attempt(a: Attempt) -> proto::Attempt {
    proto::Attempt {
        attempt: a.attempt,
        outcome: outcome(a.outcome).into(),
        charged: a.charged,
        worker_id: a.worker_id.map(|id| id.to_string()).unwrap_or_default(),
        worker_name: a.worker_name.unwrap_or_default(),
        started_at: a.started_at.map(timestamp),
        ended_at: Some(timestamp(a.ended_at)),
        error: a.failure.map(error),
        retry_after: a.retry_after.map(duration),
        next_attempt_at: a.next_attempt_at.map(timestamp),
        late_result_at: a.late.map(|(at, _)| timestamp(at)),
        late_outcome: a
            .late
            .map(|(_, kind)| outcome(kind))
            .unwrap_or_default()
            .into(),
    }
}

fn running(s: &Step) -> proto::Attempt {
    proto::Attempt {
        attempt: s.attempt,
        outcome: proto::AttemptOutcome::Running.into(),
        charged: false,
        worker_id: s.worker_id.map(|id| id.to_string()).unwrap_or_default(),
        worker_name: s.worker_name.clone().unwrap_or_default(),
        started_at: s.started_at.map(timestamp),
        ..proto::Attempt::default()
    }
}

/// The edges of the graph.
pub fn dependencies(plan: &Plan) -> Vec<proto::Dependency> {
    let steps = &plan.template.steps;
    let edges = |s: &tasker_template::StepTemplate| {
        s.depends_on
            .iter()
            .filter_map(|p| {
                Some(proto::Dependency {
                    step: s.name.clone(),
                    depends_on: steps.get(usize::from(*p))?.name.clone(),
                })
            })
            .collect::<Vec<_>>()
    };
    steps.iter().flat_map(edges).collect()
}

pub fn template(plan: &Plan, retired: Option<&Retirement>, with_yaml: bool) -> proto::Template {
    let t = &plan.template;
    let said = |text: fn(&Retirement) -> &String| retired.map(text).cloned().unwrap_or_default();
    proto::Template {
        retired_at: retired.map(|r| timestamp(r.at)),
        retired_by: said(|r| &r.by),
        retired_reason: said(|r| &r.reason),
        yaml: if with_yaml {
            plan.yaml.clone()
        } else {
            String::new()
        },
        registered_at: Some(timestamp(plan.registered_at)),
        environment: plan.environment.clone(),
        ..unregistered(t)
    }
}

/// A template that is valid but not stored.
pub fn unregistered(t: &tasker_template::Template) -> proto::Template {
    proto::Template {
        namespace: t.namespace.clone(),
        task_name: t.task_name.clone(),
        version: t.version.to_string(),
        description: t.description.clone(),
        schema_json: t
            .schema
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        steps: t
            .steps
            .iter()
            .map(|s| proto::StepTemplate {
                name: s.name.clone(),
                description: s.description.clone(),
                handler: s.handler.clone(),
                service: s.service.clone(),
                depends_on: s
                    .depends_on
                    .iter()
                    .filter_map(|p| Some(t.steps.get(usize::from(*p))?.name.clone()))
                    .collect(),
                retry_limit: i32::try_from(s.retry_limit).unwrap_or(i32::MAX),
                timeout_seconds: s.timeout.as_secs_f64(),
                handler_config_json: serde_json::Value::Object(s.handler_config.clone())
                    .to_string(),
                condition: s
                    .condition
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                result_schema_json: s
                    .result_schema
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                inputs: s.inputs.as_ref().map(|all| proto::StepInputs {
                    steps: all
                        .iter()
                        .filter_map(|i| Some(t.steps.get(usize::from(*i))?.name.clone()))
                        .collect(),
                }),
            })
            .collect(),
        has_planner: t.planner,
        timeout_seconds: t.timeout.map_or(0.0, |timeout| timeout.as_secs_f64()),
        ..proto::Template::default()
    }
}

pub fn assignment(a: Assignment, traces: &Traces) -> proto::StepAssignment {
    let plan = &a.plan;
    // A position is never negative; `MAX` would select no step.
    let position = usize::try_from(a.lease.step).unwrap_or(usize::MAX);
    let step = plan.template.steps.get(position);
    let name = step.map(|s| s.name.clone()).unwrap_or_default();
    proto::StepAssignment {
        lease_token: a.lease.to_token(),
        task_id: a.lease.task_id.to_string(),
        namespace: plan.template.namespace.clone(),
        task_name: plan.template.task_name.clone(),
        version: plan.template.version.to_string(),
        handler: step.map(|s| s.handler.clone()).unwrap_or_default(),
        service: step.map(|s| s.service.clone()).unwrap_or_default(),
        attempt: a.attempt,
        retry_limit: i32::try_from(a.retry_limit).unwrap_or(i32::MAX),
        charged_attempts: a.charged.into(),
        context_json: a.task.context.clone(),
        // Set for a step that an override or the planner has changed. The plan has the texts of all
        // others ready, since to serialize one for each assignment would cost more.
        handler_config_json: a
            .handler_config
            .or_else(|| plan.handler_configs.get(position).cloned())
            .unwrap_or_default(),
        planned_steps_json: a.planned_steps,
        results_json: a
            .results
            .into_iter()
            .map(|(name, json)| (name, json.to_string()))
            .collect(),
        annotations_json: a.annotations,
        correlation_id: a.task.correlation_id.clone(),
        traceparent: traces.parent(
            a.task.traceparent.as_deref(),
            a.lease.task_id,
            a.lease.step,
            a.attempt,
        ),
        deadline_at: Some(timestamp(a.deadline_at)),
        timeout: Some(duration(a.timeout)),
        // Without the attempt: a service that a handler calls recognizes a repetition by this key.
        idempotency_key: format!("{}/{name}", a.lease.task_id),
        step_name: name,
    }
}

pub fn worker(w: WorkerRow) -> proto::Worker {
    proto::Worker {
        worker_id: w.worker_id.to_string(),
        name: w.name,
        build_id: w.build_id,
        namespaces: w.namespaces,
        handlers: w.handlers,
        max_concurrent_steps: w.max_concurrent_steps,
        max_assignment_bytes: w.max_assignment_bytes,
        steps_in_progress: i32::try_from(w.steps_in_progress).unwrap_or(i32::MAX),
        labels: serde_json::from_str(&w.labels).unwrap_or_default(),
        server_id: w.server_id.to_string(),
        connected_at: Some(timestamp(w.connected_at)),
        lease_expires_at: Some(timestamp(w.lease_expires_at)),
        draining: w.draining,
    }
}
