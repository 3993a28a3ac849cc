//! How a task and its steps look in text, shared by `list`, `get`, and `watch`.

use crate::{
    cli::render::{
        graph::{self, Node},
        human,
        term::{Term, clean, style},
    },
    proto::{Attempt, AttemptOutcome, Step, StepError, StepState, Task, TaskState},
};

/// `namespace/name@version`.
pub fn template_name(task: &Task) -> String {
    clean(&format!(
        "{}/{}@{}",
        task.namespace, task.task_name, task.version
    ))
}

/// `CODE: message`.
pub fn error_text(error: &StepError) -> String {
    match (error.error_code.as_str(), error.message.as_str()) {
        ("", message) => clean(message),
        (code, "") => clean(code),
        (code, message) => clean(&format!("{code}: {message}")),
    }
}

/// Why a task ended incomplete, or does not go on, in one line.
pub fn outcome(task: &Task) -> Option<String> {
    match task.state() {
        TaskState::Error => {
            let error = task.error.as_ref().map(error_text).unwrap_or_default();
            // Only a passed deadline fails a task without a failed step.
            let step = Some(clean(&task.failed_step)).filter(|step| !step.is_empty());
            Some(step.map_or(error.clone(), |step| format!("{step}: {error}")))
        }
        TaskState::Cancelled => Some(format!(
            "by {}: {}",
            clean(&task.cancelled_by),
            clean(&task.cancel_reason)
        )),
        TaskState::ResolvedManually => Some(format!(
            "by {}: {}",
            clean(&task.resolved_by),
            clean(&task.resolve_reason)
        )),
        _ if task.paused_at.is_some() => Some(format!("paused {}", paused(task))),
        _ => None,
    }
}

/// The author and the reason of a task's pause.
pub fn paused(task: &Task) -> String {
    format!(
        "by {}: {}",
        clean(&task.paused_by),
        clean(&task.pause_reason)
    )
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

/// A step in one line: its name and its progress.
pub fn label(step: &Step, term: &Term) -> String {
    let name = clean(&step.name);
    let rest = match step.state() {
        StepState::Pending | StepState::Unspecified => return name,
        StepState::Ready => "ready".into(),
        StepState::InProgress if step.attempt > 1 => {
            format!("in progress, {}, attempt {}", took(step), tries(step))
        }
        StepState::InProgress => format!("in progress, {}", took(step)),
        StepState::WaitingForRetry => format!("{}, attempt {} failed", retry_in(step), tries(step)),
        StepState::Complete => took(step),
        StepState::Error => step
            .error
            .as_ref()
            .map_or_else(|| "failed".into(), error_text),
        StepState::Cancelled => "cancelled".into(),
        StepState::Skipped => "skipped".into(),
        StepState::ResolvedManually => format!("resolved by {}", clean(&step.set_by)),
    };
    // Complete steps are dimmed, so that the others stand out.
    let style = match step.state() {
        StepState::Complete => style::DIM,
        state => human::step_style(state),
    };
    format!("{name}  {}", term.paint(style, &rest))
}

/// The run time of the current attempt so far, or of the last one.
pub fn took(step: &Step) -> String {
    human::elapsed(step.started_at, step.ended_at)
        .map(human::duration)
        .unwrap_or_default()
}

/// Details of a step beyond its state: what it waits for, its time-out, its error, or the order
/// that ended it.
pub fn note(step: &Step) -> String {
    let error = step.error.as_ref().map(error_text).unwrap_or_default();
    match step.state() {
        // The time of `not_before` has not come: the step is ready and not due.
        StepState::Ready
            if step
                .next_attempt_at
                .is_some_and(|at| !human::since(human::now(), at).is_zero()) =>
        {
            let left = step
                .next_attempt_at
                .map(|at| human::since(human::now(), at))
                .unwrap_or_default();
            format!("starts in {}", human::duration(left))
        }
        StepState::Ready => format!(
            "waits for a free worker with handler {}",
            clean(&step.handler)
        ),
        StepState::InProgress => match step.deadline_at {
            Some(deadline) => format!(
                "times out in {}",
                human::duration(human::since(human::now(), deadline))
            ),
            None => String::new(),
        },
        StepState::WaitingForRetry => format!("{}: {error}", retry_in(step)),
        StepState::Skipped if step.set_by == "condition" => {
            format!("unless {}", clean(&step.condition))
        }
        StepState::Skipped | StepState::ResolvedManually => {
            format!("by {}: {}", clean(&step.set_by), clean(&step.set_reason))
        }
        _ => error,
    }
}

fn retry_in(step: &Step) -> String {
    match step
        .next_attempt_at
        .map(|at| human::since(human::now(), at))
    {
        // The clocks of two machines differ: a time that is over here counts as due.
        Some(left) if !left.is_zero() => format!("retry in {}", human::duration(left)),
        _ => "retry is due".into(),
    }
}

/// `2/3`: the attempts that count, of the limit; then those that do not: lost with their workers,
/// released by them, or failed as probes.
pub fn tries(step: &Step) -> String {
    if step.attempts.is_empty() {
        return tries_by_counts(step);
    }
    let all: Vec<&str> = step.attempts.iter().filter_map(uncharged).collect();
    let counted = step
        .attempt
        .saturating_sub(i32::try_from(all.len()).unwrap_or(i32::MAX));
    let parts = ["lost", "released", "as a probe"]
        .into_iter()
        .filter_map(|word| {
            let n = all.iter().filter(|free| **free == word).count();
            (n > 0).then(|| format!("+{n} {word}"))
        });
    let parts: Vec<String> = parts.collect();
    let free = if parts.is_empty() {
        String::new()
    } else {
        format!(" ({})", parts.join(", "))
    };
    format!("{counted}/{}{free}", step.retry_limit)
}

/// The same for a step without its attempts, as in an update of a watch: its counts tell how many
/// attempts were not charged, and not why.
fn tries_by_counts(step: &Step) -> String {
    // `charged_attempts` has the failures only.
    let last = match step.state() {
        StepState::InProgress | StepState::Complete | StepState::Cancelled => 1,
        _ => 0,
    };
    let counted = (step.charged_attempts + last).min(step.attempt);
    let free = match step.attempt - counted {
        0 => String::new(),
        n => format!(" (+{n} uncharged)"),
    };
    format!("{counted}/{}{free}", step.retry_limit)
}

/// Why an attempt does not count against the limit; none if it does.
fn uncharged(attempt: &Attempt) -> Option<&'static str> {
    match attempt.outcome() {
        AttemptOutcome::WorkerLost => Some("lost"),
        AttemptOutcome::Released | AttemptOutcome::Drained => Some("released"),
        AttemptOutcome::RetryableError | AttemptOutcome::TimedOut if !attempt.charged => {
            Some("as a probe")
        }
        _ => None,
    }
}

/// A result that arrived after its attempt had ended, in one line.
pub fn late(attempt: &Attempt) -> Option<String> {
    let at = attempt.late_result_at?;
    let after = attempt
        .ended_at
        .map(|end| human::since(at, end))
        .unwrap_or_default();
    let outcome = human::outcome(attempt.late_outcome);
    Some(format!(
        "a result ({outcome}) came {} too late and had no effect",
        human::duration(after)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uncharged_attempts_are_shown_apart() {
        let attempt = |outcome: AttemptOutcome, charged| Attempt {
            outcome: outcome.into(),
            charged,
            ..Attempt::default()
        };
        let step = |attempts: Vec<Attempt>| Step {
            attempt: attempts.len().try_into().unwrap(),
            retry_limit: 3,
            attempts,
            ..Step::default()
        };
        let lost = attempt(AttemptOutcome::WorkerLost, false);
        let released = attempt(AttemptOutcome::Released, false);
        let drained = attempt(AttemptOutcome::Drained, false);
        let probe = attempt(AttemptOutcome::RetryableError, false);
        let failed = attempt(AttemptOutcome::RetryableError, true);
        assert_eq!(tries(&step(vec![failed.clone()])), "1/3");
        assert_eq!(
            tries(&step(vec![released.clone(), failed.clone()])),
            "1/3 (+1 released)"
        );
        assert_eq!(
            tries(&step(vec![lost.clone(), failed.clone()])),
            "1/3 (+1 lost)"
        );
        assert_eq!(
            tries(&step(vec![lost, released, drained, probe, failed])),
            "1/3 (+1 lost, +2 released, +1 as a probe)"
        );
    }

    #[test]
    fn step_without_its_attempts_shows_uncharged_ones_apart() {
        let step = |state: StepState, attempt, charged_attempts| Step {
            state: state.into(),
            attempt,
            charged_attempts,
            retry_limit: 3,
            ..Step::default()
        };
        for (step, text) in [
            (step(StepState::InProgress, 1, 0), "1/3"),
            (step(StepState::InProgress, 2, 1), "2/3"),
            (step(StepState::InProgress, 4, 1), "2/3 (+2 uncharged)"),
            (step(StepState::WaitingForRetry, 1, 1), "1/3"),
            (step(StepState::WaitingForRetry, 3, 0), "0/3 (+3 uncharged)"),
            (step(StepState::Complete, 3, 0), "1/3 (+2 uncharged)"),
            (step(StepState::Error, 3, 3), "3/3"),
            (step(StepState::Cancelled, 1, 1), "1/3"),
        ] {
            assert_eq!(tries(&step), text, "{step:?}");
        }
    }
}
