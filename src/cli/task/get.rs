//! `tasker task get`: everything about one task.

use anstyle::Style;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    cli::{
        Session,
        error::{CliError, exit},
        render::{
            human,
            table::Table,
            task,
            term::{Term, clean, style},
        },
    },
    json,
    proto::{GetStepRequest, GetTaskRequest, Step, Task, TaskState},
};

/// Show a task: its state, its graph, its steps and their attempts
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker task get 01980f4e-7c1a-7b3e-9d55-0242ac120002
  tasker task get 01980f4e-7c1a-7b3e-9d55-0242ac120002 --json | jq '.steps[] | {name, state, error}'

Signs: ✓ complete, ● in progress, ↻ waits to retry, ◎ ready, ○ pending, ✗ error, ⊘ cancelled, ↷ skipped, \
✎ resolved by hand. Changes by overrides or a planner are listed with their origin.")]
pub struct Args {
    /// The task
    #[arg(value_name = "TASK_ID")]
    id: Uuid,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let request = GetTaskRequest {
        task_id: args.id.to_string(),
    };
    let mut client = session.connect().await?;
    let failed = |s| CliError::from_status(&format!("cannot get {}", args.id), &s);
    let mut whole = client
        .tasks
        .get_task(request)
        .await
        .map_err(failed)?
        .into_inner();
    // The answer omits steps' documents that would exceed its size; those steps are fetched one by
    // one.
    for step in whole
        .steps
        .iter_mut()
        .filter(|step| !step.omitted.is_empty())
    {
        let request = GetStepRequest {
            task_id: args.id.to_string(),
            step: step.name.clone(),
            attempt: 0,
        };
        let alone = client
            .tasks
            .get_step(request)
            .await
            .map_err(failed)?
            .into_inner()
            .step;
        // A step that is gone meanwhile keeps its incomplete form.
        *step = alone.unwrap_or_else(|| std::mem::take(step));
    }
    if session.json() {
        session.term.json(&json::value(&whole))?;
    } else {
        session.term.data(&text(
            &whole.task.unwrap_or_default(),
            &whole.steps,
            &session.term,
        ))?;
    }
    Ok(exit::OK)
}

fn text(task: &Task, steps: &[Step], term: &Term) -> String {
    let mut out = header(task, term);
    out += &format!("\n{}\n", task::step_graph(steps, term).join("\n"));
    out += &format!("\n{}", step_table(steps, term).render(term));
    for table in [attempt_table(steps, term), setting_table(steps)] {
        if !table.is_empty() {
            out += &format!("\n{}", table.render(term));
        }
    }
    out
}

fn header(task: &Task, term: &Term) -> String {
    let mut out = format!("{}\n", term.paint(style::BOLD, &task::template_name(task)));
    for (key, value) in facts(task, term).into_iter().chain(ending(task, term)) {
        if !value.is_empty() {
            let key = format!("{key:<12}");
            out += &format!("{}  {value}\n", term.paint(style::DIM, &key));
        }
    }
    out
}

/// Each fact with its name; the header leaves out empty ones.
fn facts(task: &Task, term: &Term) -> Vec<(&'static str, String)> {
    let time = |at: Option<prost_types::Timestamp>| at.map(human::time).unwrap_or_default();
    let state = format!(
        "{}, {}/{} steps complete",
        human::paint_task_state(term, task.state()),
        task.steps_complete,
        task.steps_total
    );
    let ago = human::elapsed(task.submitted_at, None)
        .map(|d| format!(" ({} ago)", human::duration(d)))
        .unwrap_or_default();
    let took = human::elapsed(task.started_at, task.ended_at)
        .map(human::duration)
        .unwrap_or_default();
    let priority = if task.priority == 0 {
        String::new()
    } else {
        task.priority.to_string()
    };
    let paused = task
        .paused_at
        .map(|since| format!("since {} {}", human::time(since), task::paused(task)));
    vec![
        ("task", clean(&task.task_id)),
        ("state", state),
        (
            "submitted",
            format!("{}{ago}", human::time_or_dash(task.submitted_at)),
        ),
        ("started", time(task.started_at)),
        ("not before", time(task.not_before)),
        ("deadline", time(task.expires_at)),
        ("ended", time(task.ended_at)),
        ("duration", took),
        ("correlation", clean(&task.correlation_id)),
        ("priority", priority),
        ("annotations", annotations(task)),
        ("paused", paused.unwrap_or_default()),
    ]
}

/// The facts about the task's end.
fn ending(task: &Task, term: &Term) -> Vec<(&'static str, String)> {
    let outcome = || task::outcome(task).unwrap_or_default();
    match task.state() {
        TaskState::Error | TaskState::ResolvedManually => {
            let failed_step = match task.failed_step.as_str() {
                "" => String::new(),
                step => term.paint(style::RED, &clean(step)),
            };
            let error = task.error.as_ref();
            let mut lines = vec![
                ("failed step", failed_step),
                ("error", error.map(task::error_text).unwrap_or_default()),
                (
                    "",
                    error.map(|e| clean(&e.context_json)).unwrap_or_default(),
                ),
            ];
            if task.state() == TaskState::ResolvedManually {
                lines.push(("resolved", outcome()));
            }
            lines
        }
        TaskState::Cancelled => vec![("cancelled", outcome())],
        _ => Vec::new(),
    }
}

/// The annotations other than the correlation id, which has its own line.
fn annotations(task: &Task) -> String {
    let Ok(Value::Object(mut notes)) = serde_json::from_str(&task.annotations_json) else {
        return String::new();
    };
    // `shift_remove` keeps the order of the other keys.
    notes.shift_remove("correlation_id");
    if notes.is_empty() {
        String::new()
    } else {
        clean(&json!(notes).to_string())
    }
}

fn step_table(steps: &[Step], term: &Term) -> Table {
    let mut table = Table::new(["STEP", "STATE", "ATTEMPT", "DURATION", "WORKER", "NOTE"]);
    for s in steps {
        // Only the running attempt's worker is on the step itself.
        let worker = match (s.worker_name.as_str(), s.attempts.last()) {
            ("", Some(attempt)) => attempt.worker_name.as_str(),
            (name, _) => name,
        };
        table.row([
            clean(&s.name),
            term.paint(human::step_style(s.state()), &human::step_state(s.state)),
            task::tries(s),
            human::elapsed(s.started_at, s.ended_at)
                .map(human::duration)
                .unwrap_or_default(),
            clean(worker),
            task::note(s),
        ]);
    }
    table
}

/// The history of the steps with more than one attempt, or with an answer that came too late.
fn attempt_table(steps: &[Step], term: &Term) -> Table {
    let mut table = Table::new([
        "STEP", "ATTEMPT", "OUTCOME", "COUNTS", "STARTED", "DURATION", "WORKER", "ERROR",
    ]);
    // A single attempt is in the table of steps already.
    let has_history =
        |s: &&Step| s.attempts.len() > 1 || s.attempts.iter().any(|a| a.late_result_at.is_some());
    for s in steps.iter().filter(has_history) {
        for a in &s.attempts {
            table.row([
                clean(&s.name),
                a.attempt.to_string(),
                term.paint(
                    outcome_style(&human::outcome(a.outcome)),
                    &human::outcome(a.outcome),
                ),
                if a.charged { "yes" } else { "no" }.into(),
                a.started_at.map(human::time).unwrap_or_default(),
                human::elapsed(a.started_at, a.ended_at)
                    .map(human::duration)
                    .unwrap_or_default(),
                clean(&a.worker_name),
                a.error
                    .as_ref()
                    .map(task::error_text)
                    .into_iter()
                    .chain(task::late(a))
                    .collect::<Vec<_>>()
                    .join("; "),
            ]);
        }
    }
    table
}

/// The settings that differ from the template's, each with its origin.
fn setting_table(steps: &[Step]) -> Table {
    let mut table = Table::new(["STEP", "SETTING", "FROM"]);
    for s in steps {
        for origin in &s.origins {
            table.row([
                clean(&s.name),
                clean(&origin.setting),
                clean(&origin.origin),
            ]);
        }
    }
    table
}

fn outcome_style(outcome: &str) -> Style {
    match outcome {
        "succeeded" => style::GREEN,
        "running" => style::BLUE,
        "permanent_error" => style::RED,
        "cancelled" => style::MAGENTA,
        _ => style::YELLOW,
    }
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;
    use crate::proto::{Attempt, AttemptOutcome, SettingOrigin, StepError, StepState};

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp {
            seconds: 1_767_225_600 + seconds,
            nanos: 0,
        })
    }

    fn failed_task() -> (Task, Vec<Step>) {
        let error = StepError {
            message: "card\nrefused".into(),
            error_code: "DECLINED".into(),
            context_json: r#"{"bank":"x"}"#.into(),
        };
        let attempt = |attempt, outcome: AttemptOutcome, worker: &str, error| Attempt {
            attempt,
            outcome: outcome.into(),
            charged: outcome != AttemptOutcome::WorkerLost,
            worker_name: worker.into(),
            started_at: at(i64::from(attempt)),
            ended_at: at(i64::from(attempt) + 1),
            error,
            ..Attempt::default()
        };
        let steps = vec![
            Step {
                name: "reserve".into(),
                state: StepState::Complete.into(),
                attempt: 1,
                retry_limit: 3,
                started_at: at(0),
                ended_at: at(1),
                attempts: vec![attempt(1, AttemptOutcome::Succeeded, "w1", None)],
                ..Step::default()
            },
            Step {
                name: "charge".into(),
                state: StepState::Error.into(),
                depends_on: vec!["reserve".into()],
                attempt: 2,
                retry_limit: 3,
                started_at: at(2),
                ended_at: at(3),
                error: Some(error.clone()),
                attempts: vec![
                    attempt(1, AttemptOutcome::WorkerLost, "w1", None),
                    attempt(2, AttemptOutcome::PermanentError, "w2", Some(error.clone())),
                ],
                ..Step::default()
            },
            Step {
                name: "ship".into(),
                state: StepState::Pending.into(),
                depends_on: vec!["charge".into()],
                retry_limit: 3,
                ..Step::default()
            },
        ];
        let task = Task {
            task_id: "01980f4e-7c1a-7b3e-9d55-0242ac120002".into(),
            namespace: "shop".into(),
            task_name: "checkout".into(),
            version: "1.2.0".into(),
            state: TaskState::Error.into(),
            annotations_json: r#"{"correlation_id":"c-1","plan":"pro"}"#.into(),
            correlation_id: "c-1".into(),
            started_at: at(0),
            ended_at: at(3),
            steps_total: 3,
            steps_complete: 1,
            failed_step: "charge".into(),
            error: Some(error),
            ..Task::default()
        };
        (task, steps)
    }

    #[test]
    fn failed_task_shows_step_error_and_attempts() {
        let (task, steps) = failed_task();
        let expected = "\
shop/checkout@1.2.0
task          01980f4e-7c1a-7b3e-9d55-0242ac120002
state         error, 1/3 steps complete
submitted     -
started       2026-01-01T00:00:00.000Z
ended         2026-01-01T00:00:03.000Z
duration      3.0 s
correlation   c-1
annotations   {\"plan\":\"pro\"}
failed step   charge
error         DECLINED: card refused
              {\"bank\":\"x\"}

✓  reserve  1.0 s
│
✗  charge  DECLINED: card refused
│
○  ship

STEP     STATE     ATTEMPT        DURATION  WORKER  NOTE
reserve  complete  1/3            1.0 s     w1      -
charge   error     1/3 (+1 lost)  1.0 s     w2      DECLINED: card refused
ship     pending   0/3            -         -       -

STEP    ATTEMPT  OUTCOME          COUNTS  STARTED                   DURATION  WORKER  ERROR
charge  1        worker_lost      no      2026-01-01T00:00:01.000Z  1.0 s     w1      -
charge  2        permanent_error  yes     2026-01-01T00:00:02.000Z  1.0 s     w2      DECLINED: card refused
";
        let drawn = text(&task, &steps, &Term::plain());
        assert_eq!(drawn, expected, "\n{drawn}");
    }

    #[test]
    fn paused_task_shows_the_order_and_the_origin_of_settings() {
        let paused = Task {
            state: TaskState::InProgress.into(),
            not_before: at(1),
            expires_at: at(9),
            paused_at: at(2),
            paused_by: "ann".into(),
            pause_reason: "a check".into(),
            ..Task::default()
        };
        let header = header(&paused, &Term::plain());
        for line in [
            "not before    2026-01-01T00:00:01.000Z",
            "deadline      2026-01-01T00:00:09.000Z",
            "paused        since 2026-01-01T00:00:02.000Z by ann: a check",
        ] {
            assert!(header.contains(&format!("{line}\n")), "{header}");
        }
        assert_eq!(
            task::outcome(&paused).as_deref(),
            Some("paused by ann: a check")
        );
        let origin = SettingOrigin {
            setting: "retry_limit".into(),
            origin: "overrides[0]".into(),
        };
        let step = Step {
            name: "bill".into(),
            state: StepState::Skipped.into(),
            set_by: "ann".into(),
            set_reason: "paid".into(),
            origins: vec![origin],
            ..Step::default()
        };
        let drawn = text(&paused, std::slice::from_ref(&step), &Term::plain());
        assert!(
            drawn.ends_with("\nSTEP  SETTING      FROM\nbill  retry_limit  overrides[0]\n"),
            "{drawn}"
        );
        assert!(
            drawn.contains("↷  bill  skipped\n") && drawn.contains("  by ann: paid\n"),
            "{drawn}"
        );
    }

    #[test]
    fn resolved_task_shows_the_failure_and_the_order() {
        let (mut task, _) = failed_task();
        task.state = TaskState::ResolvedManually.into();
        (task.resolved_by, task.resolve_reason) = ("ann".into(), "refunded".into());
        let header = header(&task, &Term::plain());
        assert!(header.contains("failed step   charge\n"), "{header}");
        assert!(
            header.ends_with("resolved      by ann: refunded\n"),
            "{header}"
        );
    }

    #[test]
    fn task_past_its_deadline_shows_no_failed_step() {
        let error = StepError {
            message: "too late".into(),
            error_code: "DEADLINE_EXCEEDED".into(),
            ..StepError::default()
        };
        let task = Task {
            state: TaskState::Error.into(),
            error: Some(error),
            ..Task::default()
        };
        assert_eq!(
            task::outcome(&task).as_deref(),
            Some("DEADLINE_EXCEEDED: too late")
        );
        assert!(!header(&task, &Term::plain()).contains("failed step"));
    }

    #[test]
    fn cancelled_task_shows_author_and_reason() {
        let task = Task {
            state: TaskState::Cancelled.into(),
            cancelled_by: "ops".into(),
            cancel_reason: "a test".into(),
            ..Task::default()
        };
        assert!(header(&task, &Term::plain()).ends_with("cancelled     by ops: a test\n"));
    }
}
