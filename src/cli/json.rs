//! The messages of the protocol as JSON for programs.
//!
//! Field names are those of the proto. A `…_json` field is a real nested document under its name without `_json`; an enum
//! is a short lowercase word; a time is RFC 3339 and a duration such as `"1.5s"`. Every key is always there: what is not
//! set is `null`. The structs are taken apart in full, so that a new field cannot be forgotten here.

use prost_types::{Duration, Timestamp};
use serde_json::{Value, json};

use super::human::{event_type, step_state, task_state, word};
use crate::{
    domain,
    proto::{
        Attempt, AttemptOutcome, Bottleneck, Circuit, CircuitChange, CircuitState, Dependency, Event, Examined,
        ExplainTaskResponse, GetBottlenecksResponse, GetPerformanceResponse, Ledger, Policy, ServicePerformance, Step,
        StepError, StepExplanation, StepPerformance, StepTemplate, SubmitTaskResponse, Task, Template,
        TemplatePerformance, Times, Wait, WaitCause, Worker,
    },
};

/// A document that travelled as text; `null` when there is none.
fn document(text: &str) -> Value {
    match text {
        "" => Value::Null,
        // Text that is not JSON after all is better shown than lost.
        text => domain::json::parse(text, text.len()).unwrap_or_else(|_| text.into()),
    }
}

fn text(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

fn time(t: &Option<Timestamp>) -> Value {
    t.map_or(Value::Null, |t| t.to_string().into())
}

fn duration(d: &Option<Duration>) -> Value {
    d.map_or(Value::Null, |d| d.to_string().into())
}

fn circuit_state(state: i32) -> Value {
    match CircuitState::try_from(state) {
        Ok(CircuitState::Unspecified) => Value::Null,
        _ => word::<CircuitState>(state, CircuitState::as_str_name, "CIRCUIT_STATE_").into(),
    }
}

/// A service and its circuit.
pub fn circuit(circuit: &Circuit) -> Value {
    let Circuit {
        namespace,
        service,
        state,
        since,
        until,
        forced,
        forced_by,
        forced_reason,
        forced_until,
        paused_until,
        window_calls,
        window_failures,
        steps_in_progress,
        steps_waiting,
        times_opened,
        time_open,
    } = circuit;
    json!({
        "namespace": namespace,
        "service": service,
        "state": circuit_state(*state),
        "since": time(since),
        "until": time(until),
        "forced": circuit_state(*forced),
        "forced_by": text(forced_by),
        "forced_reason": text(forced_reason),
        "forced_until": time(forced_until),
        "paused_until": time(paused_until),
        "window_calls": window_calls,
        "window_failures": window_failures,
        "steps_in_progress": steps_in_progress,
        "steps_waiting": steps_waiting,
        "times_opened": times_opened,
        "time_open": duration(time_open),
    })
}

/// How a service is protected; what is not set is `null`.
pub fn policy(policy: &Policy) -> Value {
    let Policy {
        enabled,
        window_seconds,
        min_calls,
        failure_rate,
        slow_call_seconds,
        cool_down_seconds,
        max_cool_down_seconds,
        probes,
        ramp_seconds,
        max_pause_seconds,
        max_concurrency,
        per_second,
        burst,
    } = policy;
    json!({
        "enabled": enabled,
        "window_seconds": window_seconds,
        "min_calls": min_calls,
        "failure_rate": failure_rate,
        "slow_call_seconds": slow_call_seconds,
        "cool_down_seconds": cool_down_seconds,
        "max_cool_down_seconds": max_cool_down_seconds,
        "probes": probes,
        "ramp_seconds": ramp_seconds,
        "max_pause_seconds": max_pause_seconds,
        "max_concurrency": max_concurrency,
        "per_second": per_second,
        "burst": burst,
    })
}

/// Something that happened to a circuit.
pub fn circuit_change(change: &CircuitChange) -> Value {
    let CircuitChange { at, r#type, until, calls, failures, by, detail } = change;
    json!({
        "at": time(at),
        "type": r#type,
        "until": time(until),
        "calls": calls,
        "failures": failures,
        "by": text(by),
        "detail": text(detail),
    })
}

/// Why a task is where it is.
pub fn explanation(found: &ExplainTaskResponse) -> Value {
    let ExplainTaskResponse { state, summary, steps, next, as_of } = found;
    json!({
        "state": task_state(*state),
        "summary": summary,
        "steps": steps.iter().map(step_explanation).collect::<Vec<_>>(),
        "next": next,
        "as_of": time(as_of),
    })
}

fn step_explanation(explained: &StepExplanation) -> Value {
    let StepExplanation {
        step,
        state,
        waits,
        handler,
        service,
        waits_for,
        attempt,
        charged_attempts,
        free_attempts,
        retry_limit,
        ahead,
        worker_name,
        workers_connected,
        slots_free,
    } = explained;
    json!({
        "step": step,
        "state": step_state(*state),
        "waits": waits.iter().map(wait).collect::<Vec<_>>(),
        "handler": handler,
        "service": service,
        "waits_for": waits_for,
        "attempt": attempt,
        "charged_attempts": charged_attempts,
        "free_attempts": free_attempts,
        "retry_limit": retry_limit,
        "ahead": ahead,
        "worker_name": text(worker_name),
        "workers_connected": workers_connected,
        "slots_free": slots_free,
    })
}

fn wait(wait: &Wait) -> Value {
    let Wait { cause, message, since, until } = wait;
    json!({
        "cause": wait_cause(*cause),
        "message": message,
        "since": time(since),
        "until": time(until),
    })
}

/// How long everything takes.
pub fn performance(found: &GetPerformanceResponse) -> Value {
    let GetPerformanceResponse { examined: of, templates, templates_left_out, services } = found;
    json!({
        "examined": of.as_ref().map(examined),
        "templates": templates.iter().map(template_performance).collect::<Vec<_>>(),
        "templates_left_out": templates_left_out,
        "services": services.iter().map(service_performance).collect::<Vec<_>>(),
    })
}

/// What costs most time.
pub fn bottlenecks(found: &GetBottlenecksResponse) -> Value {
    let GetBottlenecksResponse { examined: of, bottlenecks, services } = found;
    json!({
        "examined": of.as_ref().map(examined),
        "bottlenecks": bottlenecks.iter().map(bottleneck).collect::<Vec<_>>(),
        "services": services.iter().map(service_performance).collect::<Vec<_>>(),
    })
}

fn examined(examined: &Examined) -> Value {
    let Examined { from, to, tasks, cut } = examined;
    json!({"from": time(from), "to": time(to), "tasks": tasks, "cut": cut})
}

fn times(times: &Option<Times>) -> Value {
    times.as_ref().map_or(Value::Null, |Times { mean, p50, p95, p99, max }| {
        json!({
            "mean": duration(mean),
            "p50": duration(p50),
            "p95": duration(p95),
            "p99": duration(p99),
            "max": duration(max),
        })
    })
}

fn ledger(ledger: &Option<Ledger>) -> Value {
    let Some(ledger) = ledger else { return Value::Null };
    let Ledger { dependency, backoff, circuit, pause, limit, no_worker, dispatch, run, wall } = ledger;
    json!({
        "dependency": duration(dependency),
        "backoff": duration(backoff),
        "circuit": duration(circuit),
        "pause": duration(pause),
        "limit": duration(limit),
        "no_worker": duration(no_worker),
        "dispatch": duration(dispatch),
        "run": duration(run),
        "wall": duration(wall),
    })
}

fn template_performance(measured: &TemplatePerformance) -> Value {
    let TemplatePerformance {
        namespace,
        task_name,
        version,
        count,
        complete,
        failed,
        cancelled,
        success_rate,
        retry_rate,
        charged_attempts,
        free_attempts,
        elapsed,
        run,
        wait,
        ledger: parts,
        steps,
    } = measured;
    json!({
        "namespace": namespace,
        "task_name": task_name,
        "version": version,
        "count": count,
        "complete": complete,
        "failed": failed,
        "cancelled": cancelled,
        "success_rate": success_rate,
        "retry_rate": retry_rate,
        "charged_attempts": charged_attempts,
        "free_attempts": free_attempts,
        "elapsed": times(elapsed),
        "run": times(run),
        "wait": times(wait),
        "ledger": ledger(parts),
        "steps": steps.iter().map(step_performance).collect::<Vec<_>>(),
    })
}

fn step_performance(measured: &StepPerformance) -> Value {
    let StepPerformance {
        step,
        handler,
        service,
        count,
        complete,
        failed,
        cancelled,
        success_rate,
        retry_rate,
        charged_attempts,
        free_attempts,
        elapsed,
        run,
        wait,
        ledger: parts,
        critical_share,
        longest_success,
        successes_over_timeout,
    } = measured;
    json!({
        "step": step,
        "handler": handler,
        "service": service,
        "count": count,
        "complete": complete,
        "failed": failed,
        "cancelled": cancelled,
        "success_rate": success_rate,
        "retry_rate": retry_rate,
        "charged_attempts": charged_attempts,
        "free_attempts": free_attempts,
        "elapsed": times(elapsed),
        "run": times(run),
        "wait": times(wait),
        "ledger": ledger(parts),
        "critical_share": critical_share,
        "longest_success": duration(longest_success),
        "successes_over_timeout": successes_over_timeout,
    })
}

fn service_performance(measured: &ServicePerformance) -> Value {
    let ServicePerformance { namespace, service, times_opened, time_shut, pauses, time_paused } = measured;
    json!({
        "namespace": namespace,
        "service": service,
        "times_opened": times_opened,
        "time_shut": duration(time_shut),
        "pauses": pauses,
        "time_paused": duration(time_paused),
    })
}

fn bottleneck(found: &Bottleneck) -> Value {
    let Bottleneck {
        message,
        namespace,
        task_name,
        version,
        step,
        handler,
        service,
        cause,
        cost,
        cost_per_task,
        critical_share,
        mean,
        mean_elapsed,
    } = found;
    json!({
        "message": message,
        "namespace": namespace,
        "task_name": task_name,
        "version": version,
        "step": step,
        "handler": handler,
        "service": service,
        "cause": wait_cause(*cause),
        "cost": duration(cost),
        "cost_per_task": duration(cost_per_task),
        "critical_share": critical_share,
        "mean": duration(mean),
        "mean_elapsed": duration(mean_elapsed),
    })
}

fn wait_cause(cause: i32) -> String {
    word::<WaitCause>(cause, WaitCause::as_str_name, "WAIT_CAUSE_")
}

/// One task, as in `task list` and `task cancel`.
pub fn task(task: &Task) -> Value {
    let Task {
        task_id,
        namespace,
        task_name,
        version,
        state,
        priority,
        context_json,
        annotations_json,
        correlation_id,
        submitted_at,
        started_at,
        ended_at,
        steps_total,
        steps_complete,
        failed_step,
        error,
        cancelled_by,
        cancel_reason,
    } = task;
    json!({
        "task_id": task_id,
        "namespace": namespace,
        "task_name": task_name,
        "version": version,
        "state": task_state(*state),
        "priority": priority,
        "context": document(context_json),
        "annotations": document(annotations_json),
        "correlation_id": text(correlation_id),
        "submitted_at": time(submitted_at),
        "started_at": time(started_at),
        "ended_at": time(ended_at),
        "steps_total": steps_total,
        "steps_complete": steps_complete,
        "failed_step": text(failed_step),
        "error": step_error(error),
        "cancelled_by": text(cancelled_by),
        "cancel_reason": text(cancel_reason),
    })
}

/// A task and its steps, as `task get` and each line of `task watch` have them.
pub fn task_and_steps(whole: &Option<Task>, steps: &[Step]) -> Value {
    json!({
        "task": whole.as_ref().map(task),
        "steps": steps.iter().map(step).collect::<Vec<_>>(),
    })
}

/// One edge.
pub fn dependency(dependency: &Dependency) -> Value {
    let Dependency { step, depends_on } = dependency;
    json!({"step": step, "depends_on": depends_on})
}

/// One step with its attempts.
pub fn step(step: &Step) -> Value {
    let Step {
        name,
        description,
        handler,
        service,
        state,
        depends_on,
        attempt,
        retry_limit,
        charged_attempts,
        result_json,
        error,
        ready_at,
        started_at,
        ended_at,
        next_attempt_at,
        deadline_at,
        worker_name,
        handler_config_json,
        annotations_json,
        attempts,
    } = step;
    json!({
        "name": name,
        "description": text(description),
        "handler": handler,
        "service": service,
        "state": step_state(*state),
        "depends_on": depends_on,
        "attempt": attempt,
        "retry_limit": retry_limit,
        "charged_attempts": charged_attempts,
        "result": document(result_json),
        "error": step_error(error),
        "ready_at": time(ready_at),
        "started_at": time(started_at),
        "ended_at": time(ended_at),
        "next_attempt_at": time(next_attempt_at),
        "deadline_at": time(deadline_at),
        "worker_name": text(worker_name),
        "handler_config": document(handler_config_json),
        "annotations": document(annotations_json),
        "attempts": attempts.iter().map(self::attempt).collect::<Vec<_>>(),
    })
}

/// The short word of an attempt's outcome.
pub fn outcome(outcome: i32) -> String {
    word::<AttemptOutcome>(outcome, AttemptOutcome::as_str_name, "ATTEMPT_OUTCOME_")
}

fn attempt(attempt: &Attempt) -> Value {
    let Attempt {
        attempt,
        outcome: how,
        charged,
        worker_id,
        worker_name,
        started_at,
        ended_at,
        error,
        retry_after,
        next_attempt_at,
    } = attempt;
    json!({
        "attempt": attempt,
        "outcome": outcome(*how),
        "charged": charged,
        "worker_id": text(worker_id),
        "worker_name": text(worker_name),
        "started_at": time(started_at),
        "ended_at": time(ended_at),
        "error": step_error(error),
        "retry_after": duration(retry_after),
        "next_attempt_at": time(next_attempt_at),
    })
}

fn step_error(error: &Option<StepError>) -> Value {
    error.as_ref().map_or(Value::Null, |StepError { message, error_code, context_json }| {
        json!({"message": message, "error_code": text(error_code), "context": document(context_json)})
    })
}

/// What `task submit` answers.
pub fn submitted(response: &SubmitTaskResponse) -> Value {
    let SubmitTaskResponse { task_id, created, correlation_id, version } = response;
    json!({"task_id": task_id, "created": created, "correlation_id": correlation_id, "version": version})
}

/// One template.
pub fn template(template: &Template) -> Value {
    let Template { namespace, task_name, version, description, schema_json, steps, yaml, registered_at } = template;
    json!({
        "namespace": namespace,
        "task_name": task_name,
        "version": version,
        "description": text(description),
        "schema": document(schema_json),
        "steps": steps.iter().map(step_template).collect::<Vec<_>>(),
        "yaml": text(yaml),
        "registered_at": time(registered_at),
    })
}

fn step_template(step: &StepTemplate) -> Value {
    let StepTemplate {
        name,
        description,
        handler,
        service,
        depends_on,
        retry_limit,
        timeout_seconds,
        handler_config_json,
    } = step;
    json!({
        "name": name,
        "description": text(description),
        "handler": handler,
        "service": service,
        "depends_on": depends_on,
        "retry_limit": retry_limit,
        "timeout_seconds": timeout_seconds,
        "handler_config": document(handler_config_json),
    })
}

/// One event, with the cursor after it.
pub fn event(event: &Event, cursor: &str) -> Value {
    let Event {
        r#type,
        seq,
        at,
        namespace,
        task_name,
        version,
        task_id,
        correlation_id,
        step,
        service,
        handler,
        attempt,
        outcome: how,
        charged,
        run_ms,
        wait_ms,
        error_code,
        error_message,
        next_attempt_at,
        worker_id,
        worker_name,
        detail,
    } = event;
    let ended = *how != i32::from(AttemptOutcome::Unspecified);
    json!({
        "type": event_type(*r#type),
        "seq": seq,
        "at": time(at),
        "namespace": text(namespace),
        "task_name": text(task_name),
        "version": text(version),
        "task_id": text(task_id),
        "correlation_id": text(correlation_id),
        "step": text(step),
        "service": text(service),
        "handler": text(handler),
        "attempt": (*attempt > 0).then_some(attempt),
        "outcome": ended.then(|| outcome(*how)),
        "charged": ended.then_some(charged),
        "run_ms": run_ms,
        "wait_ms": wait_ms,
        "error_code": text(error_code),
        "error_message": text(error_message),
        "next_attempt_at": time(next_attempt_at),
        "worker_id": text(worker_id),
        "worker_name": text(worker_name),
        "detail": text(detail),
        "cursor": cursor,
    })
}

/// One connected worker.
pub fn worker(worker: &Worker) -> Value {
    let Worker {
        worker_id,
        name,
        build_id,
        namespaces,
        handlers,
        max_concurrent_steps,
        steps_in_progress,
        labels,
        server_id,
        connected_at,
        lease_expires_at,
        draining,
    } = worker;
    let labels: std::collections::BTreeMap<_, _> = labels.iter().collect();
    json!({
        "worker_id": worker_id,
        "name": name,
        "build_id": text(build_id),
        "namespaces": namespaces,
        "handlers": handlers,
        "max_concurrent_steps": max_concurrent_steps,
        "steps_in_progress": steps_in_progress,
        "labels": labels,
        "server_id": server_id,
        "connected_at": time(connected_at),
        "lease_expires_at": time(lease_expires_at),
        "draining": draining,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{StepState, TaskState};

    #[test]
    fn digits_and_key_order_of_a_document_stay() {
        let task = Task {
            state: TaskState::InProgress.into(),
            context_json: r#"{"z": 9007199254740993, "a": 1.10, "n": null, "s": "🚀"}"#.into(),
            submitted_at: Some(Timestamp { seconds: 1_767_225_600, nanos: 7_000_000 }),
            ..Task::default()
        };
        let value = super::task(&task);
        assert_eq!(value["context"].to_string(), r#"{"z":9007199254740993,"a":1.10,"n":null,"s":"🚀"}"#);
        assert_eq!(value["state"], "in_progress");
        assert_eq!(value["submitted_at"], "2026-01-01T00:00:00.007Z");
        assert_eq!(
            (&value["ended_at"], &value["error"], &value["failed_step"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
    }

    #[test]
    fn a_step_has_its_attempts_and_its_error() {
        let error =
            StepError { message: "busy".into(), error_code: "HTTP_429".into(), context_json: r#"{"n":1}"#.into() };
        let step = Step {
            name: "bill".into(),
            state: StepState::WaitingForRetry.into(),
            result_json: "false".into(),
            error: Some(error.clone()),
            attempts: vec![Attempt {
                attempt: 1,
                outcome: AttemptOutcome::RetryableError.into(),
                charged: true,
                error: Some(error),
                retry_after: Some(Duration { seconds: 1, nanos: 500_000_000 }),
                ..Attempt::default()
            }],
            ..Step::default()
        };
        let value = super::step(&step);
        assert_eq!(value["state"], "waiting_for_retry");
        assert_eq!(value["result"], false);
        assert_eq!(value["error"], json!({"message": "busy", "error_code": "HTTP_429", "context": {"n": 1}}));
        assert_eq!(value["attempts"][0]["outcome"], "retryable_error");
        assert_eq!(value["attempts"][0]["retry_after"], "1.500s");
        assert!(value.as_object().expect("an object").keys().all(|k| !k.ends_with("_json")));
    }

    #[test]
    fn text_that_is_no_document_is_not_lost() {
        assert_eq!(document("{broken"), "{broken");
        assert_eq!(document(""), Value::Null);
    }
}
