//! `tasker task watch`: follows a task to its end.

use std::{collections::HashMap, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};
use tonic::Status;
use uuid::Uuid;

use super::view;
use crate::{
    cli::{
        Session,
        error::{CliError, exit, is_passing},
        human,
        term::{Style, Term, clean, fit, width},
    },
    client::Client,
    json,
    proto::{Step, StepState, Task, TaskState, WatchTaskRequest, WatchTaskResponse},
};

/// Interval at which the durations on a terminal are refreshed.
const REFRESH: Duration = Duration::from_millis(500);

/// A watch whose connection broke continues if a server answers within this time.
const RECONNECT_FOR: Duration = Duration::from_secs(60);

/// Pause between two attempts to reconnect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Columns of the longest state, `waiting_for_retry`.
const STATE_COLUMNS: usize = 17;

/// Wait for a task, and show its progress
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker task watch 01980f4e-7c1a-7b3e-9d55-0242ac120002
  tasker task watch 01980f4e-7c1a-7b3e-9d55-0242ac120002 --json | jq --unbuffered .task.state

On a terminal the graph is redrawn in place; elsewhere every change is one line. Ends when the task does: with 0 \
when it is complete, 3 when it ended in error or an operator settled it after that, 4 when it was cancelled. Ctrl-C ends the watch and not the task. When the \
server restarts, the watch goes on.")]
pub struct Args {
    /// The task
    #[arg(value_name = "TASK_ID")]
    id: Uuid,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    watch(session.connect().await?, &args.id.to_string(), session).await
}

/// Shows the task until it has ended; the exit code depends on its final state.
pub async fn watch(client: Client, task_id: &str, session: &Session) -> Result<u8, CliError> {
    let (sender, mut news) = mpsc::channel(16);
    let pump = tokio::spawn(pump(client, task_id.to_owned(), sender));
    let mut view = View::new(session);
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let end = loop {
        tokio::select! {
            // First, so that Ctrl-C takes effect even before the first update.
            biased;
            _ = &mut interrupted => {
                session.term.say(&format!(
                    "\nthe task goes on: `tasker task watch {task_id}` follows it again, and \
                     `tasker task cancel {task_id} --reason WHY` stops it"
                ));
                break Ok(exit::INTERRUPTED);
            }
            event = news.recv() => match event {
                Some(News::Update(update)) => {
                    view.update(&update)?;
                    if let Some(code) = update.task.as_ref().and_then(exit_code) {
                        break Ok(code);
                    }
                }
                Some(News::Lost(why)) => view.lost(&why)?,
                Some(News::Failed(error)) => break Err(error),
                None => break Err(CliError::new(exit::FAILURE, "the watch ended before the task did")),
            },
            _ = refresh.tick() => view.refresh()?,
        }
    };
    pump.abort();
    end
}

fn exit_code(task: &Task) -> Option<u8> {
    match task.state() {
        TaskState::Complete => Some(exit::OK),
        TaskState::Error | TaskState::ResolvedManually => Some(exit::TASK_ERROR),
        TaskState::Cancelled => Some(exit::TASK_CANCELLED),
        TaskState::Pending | TaskState::InProgress | TaskState::Unspecified => None,
    }
}

/// A notification from the pump.
enum News {
    Update(Box<WatchTaskResponse>),
    /// The connection broke, and the pump reconnects.
    Lost(String),
    Failed(CliError),
}

/// Receives updates, also across the restart of a server: each stream begins with the current
/// state, so the watch always catches up.
async fn pump(mut client: Client, task_id: String, news: mpsc::Sender<News>) {
    let (mut heard, mut lost_since) = (false, None::<Instant>);
    let mut latest = WatchTaskResponse::default();
    loop {
        let request = WatchTaskRequest {
            task_id: task_id.clone(),
            final_only: false,
        };
        let broken = match client.tasks.watch_task(request).await {
            Err(status) => status,
            Ok(response) => {
                let mut stream = response.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(update)) => {
                            heard = true;
                            // The server repeats the state as a sign of life; a repetition is
                            // dropped, except after a lost connection.
                            if lost_since.take().is_none() && update == latest {
                                continue;
                            }
                            latest.clone_from(&update);
                            if news.send(News::Update(Box::new(update))).await.is_err() {
                                return;
                            }
                        }
                        Ok(None) => break Status::unavailable("the server ended the stream"),
                        Err(status) => break status,
                    }
                }
            }
        };
        // Only a watch that received an update is retried: an error before that may blame the
        // request.
        let patient = lost_since.is_none_or(|since| since.elapsed() < RECONNECT_FOR);
        if !heard || !patient || !is_passing(&broken) {
            let what = format!("cannot watch {task_id}");
            let _ = news
                .send(News::Failed(CliError::from_status(&what, &broken)))
                .await;
            return;
        }
        if lost_since.is_none() {
            lost_since = Some(Instant::now());
            let _ = news.send(News::Lost(clean(broken.message()))).await;
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// The three ways to show updates.
enum View<'s> {
    Json(&'s Term),
    Lines(&'s Term, Changes),
    Live(&'s Term, Box<Frame>),
}

impl<'s> View<'s> {
    fn new(session: &'s Session) -> Self {
        match &session.term {
            term if session.json() => Self::Json(term),
            term if term.interactive => Self::Live(term, Box::default()),
            term => Self::Lines(term, Changes::default()),
        }
    }

    fn update(&mut self, update: &WatchTaskResponse) -> Result<(), CliError> {
        match self {
            Self::Json(term) => term.json_line(&json::value(update))?,
            Self::Lines(term, changes) => {
                for line in changes.of(update, term) {
                    term.data(&line)?;
                }
            }
            Self::Live(term, frame) => {
                frame.latest = Some(update.clone());
                frame.lost = false;
                frame.redraw(term)?;
            }
        }
        Ok(())
    }

    fn lost(&mut self, why: &str) -> Result<(), CliError> {
        match self {
            Self::Json(term) | Self::Lines(term, _) => {
                term.say(&format!("the connection is lost ({why}); trying again"));
            }
            Self::Live(term, frame) => {
                frame.lost = true;
                frame.redraw(term)?;
            }
        }
        Ok(())
    }

    fn refresh(&mut self) -> Result<(), CliError> {
        if let Self::Live(term, frame) = self {
            frame.redraw(term)?;
        }
        Ok(())
    }
}

/// For output that cannot be redrawn: one line for the task and for each step whose state or
/// attempt changed.
#[derive(Default)]
struct Changes {
    task: Option<(TaskState, bool)>,
    steps: HashMap<String, (StepState, i32)>,
}

impl Changes {
    fn of(&mut self, update: &WatchTaskResponse, term: &Term) -> Vec<String> {
        let Some(task) = &update.task else {
            return Vec::new();
        };
        let column = update
            .steps
            .iter()
            .map(|s| width(&clean(&s.name)))
            .max()
            .unwrap_or(0)
            .max("task".len());
        let line = |at: Option<_>, name: &str, state: String, note: String| {
            let pad = " ".repeat(column.saturating_sub(width(name)));
            let state_pad = " ".repeat(STATE_COLUMNS.saturating_sub(width(&state)));
            let at = human::time(at.unwrap_or_else(human::now));
            let line = format!("{at}  {name}{pad}  {state}{state_pad}  {note}");
            line.trim_end().to_owned()
        };
        let mut lines = Vec::new();
        let first = self.task.is_none();
        let whole = || {
            let state = human::paint_task_state(term, task.state());
            let at = task.ended_at.or(task.started_at).or(task.submitted_at);
            line(at, "task", state, headline_note(task))
        };
        // A pause counts as a change as well.
        let standing = (task.state(), task.paused_at.is_some());
        let changed = self.task.replace(standing) != Some(standing);
        let ended = exit_code(task).is_some();
        if changed && !ended {
            lines.push(whole());
        }
        for step in &update.steps {
            let now = (step.state(), step.attempt);
            let before = self.steps.insert(step.name.clone(), now);
            let quiet = first && matches!(step.state(), StepState::Pending);
            if before != Some(now) && !quiet {
                let state = term.paint(
                    human::step_style(step.state()),
                    &human::step_state(step.state),
                );
                lines.push(line(
                    step_time(step),
                    &clean(&step.name),
                    state,
                    step_note(step),
                ));
            }
        }
        if changed && ended {
            lines.push(whole());
        }
        lines
    }
}

/// The time at which the step entered its state.
fn step_time(step: &Step) -> Option<prost_types::Timestamp> {
    match step.state() {
        StepState::Ready => step.ready_at,
        StepState::InProgress => step.started_at,
        StepState::Pending | StepState::Unspecified => None,
        _ => step.ended_at,
    }
}

fn step_note(step: &Step) -> String {
    let took = || {
        human::elapsed(step.started_at, step.ended_at)
            .map(human::duration)
            .unwrap_or_default()
    };
    match step.state() {
        StepState::InProgress => format!(
            "attempt {}, worker {}",
            view::tries(step),
            clean(&step.worker_name)
        ),
        StepState::Complete => took(),
        _ => view::note(step),
    }
}

/// `3/5 steps, 4.2 s`, and the reason if the task ended incomplete or is paused.
fn headline_note(task: &Task) -> String {
    let mut note = format!("{}/{} steps", task.steps_complete, task.steps_total);
    if let Some(took) = human::elapsed(task.started_at, task.ended_at) {
        note += &format!(", {}", human::duration(took));
    }
    if let Some(outcome) = view::outcome(task) {
        note += &format!(", {outcome}");
    }
    note
}

/// For a terminal: the graph, redrawn where it stands.
#[derive(Default)]
struct Frame {
    latest: Option<WatchTaskResponse>,
    lost: bool,
    /// Lines that are on the screen now.
    height: usize,
}

impl Frame {
    fn redraw(&mut self, term: &Term) -> Result<(), CliError> {
        let Some(update) = &self.latest else {
            return Ok(());
        };
        let size = term.size().unwrap_or((80, 24));
        let lines = frame(update, self.lost, size, term);
        let mut out = String::new();
        if self.height > 0 {
            // Moves the cursor up to the first line and clears the screen from there on.
            out += &format!("\x1b[{}A\r\x1b[J", self.height);
        }
        for line in &lines {
            out += line;
            out.push('\n');
        }
        self.height = lines.len();
        term.data(&out)?;
        Ok(())
    }
}

/// The lines that fit the screen: the whole graph, or else only the steps that are neither pending
/// nor complete.
fn frame(
    update: &WatchTaskResponse,
    lost: bool,
    (columns, rows): (usize, usize),
    term: &Term,
) -> Vec<String> {
    let task = update.task.clone().unwrap_or_default();
    let state = human::paint_task_state(term, task.state());
    let mut lines = vec![
        format!(
            "{}  {}",
            term.paint(Style::Bold, &view::template_name(&task)),
            term.paint(Style::Dim, &clean(&task.task_id))
        ),
        format!("{state}  {}", headline_note(&task)),
    ];
    if lost {
        lines.push(term.paint(Style::Yellow, "the connection is lost; trying again"));
    }
    // The cursor stands on a line of its own below the frame.
    let room = rows.saturating_sub(lines.len() + 1);
    let graph = view::step_graph(&update.steps, term);
    if graph.len() <= room {
        lines.extend(graph);
    } else {
        let busy = |s: &&Step| !matches!(s.state(), StepState::Pending | StepState::Complete);
        let busy: Vec<&Step> = update.steps.iter().filter(busy).collect();
        let shown = if busy.len() <= room {
            busy.len()
        } else {
            room.saturating_sub(1)
        };
        for step in &busy[..shown] {
            let sign = human::step_sign(step.state(), term.unicode).to_string();
            lines.push(format!(
                "{} {}",
                term.paint(human::step_style(step.state()), &sign),
                view::label(step, term)
            ));
        }
        if busy.len() > shown {
            lines.push(format!("{} more", busy.len() - shown));
        }
    }
    lines
        .iter()
        .map(|l| fit(l, columns.saturating_sub(1), term.unicode))
        .collect()
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;
    use crate::proto::StepError;

    fn at(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp {
            seconds: 1_767_225_600 + seconds,
            nanos: 0,
        })
    }

    fn step(name: &str, state: StepState, parents: &[&str]) -> Step {
        Step {
            name: name.into(),
            state: state.into(),
            depends_on: parents.iter().map(|p| (*p).into()).collect(),
            attempt: 1,
            retry_limit: 3,
            ready_at: at(0),
            started_at: at(1),
            ended_at: at(2),
            worker_name: "w1".into(),
            ..Step::default()
        }
    }

    fn update(state: TaskState, steps: Vec<Step>) -> WatchTaskResponse {
        let task = Task {
            task_id: "id".into(),
            namespace: "shop".into(),
            task_name: "checkout".into(),
            version: "1.0.0".into(),
            state: state.into(),
            started_at: at(0),
            ended_at: at(2),
            steps_total: 2,
            ..Task::default()
        };
        WatchTaskResponse {
            task: Some(task),
            steps,
        }
    }

    #[test]
    fn only_changes_are_told_and_the_end_comes_last() {
        let term = Term::plain();
        let mut changes = Changes::default();
        let first = update(
            TaskState::InProgress,
            vec![
                step("pay", StepState::InProgress, &[]),
                step("ship", StepState::Pending, &["pay"]),
            ],
        );
        assert_eq!(
            changes.of(&first, &term),
            [
                "2026-01-01T00:00:02.000Z  task  in_progress        0/2 steps, 2.0 s",
                "2026-01-01T00:00:01.000Z  pay   in_progress        attempt 1/3, worker w1",
            ]
        );
        assert!(changes.of(&first, &term).is_empty());

        let mut failed = step("pay", StepState::Error, &[]);
        failed.error = Some(StepError {
            message: "refused".into(),
            ..StepError::default()
        });
        let mut last = update(
            TaskState::Error,
            vec![failed.clone(), step("ship", StepState::Pending, &["pay"])],
        );
        let task = last.task.as_mut().expect("set");
        (task.failed_step, task.error) = ("pay".into(), failed.error);
        assert_eq!(
            changes.of(&last, &term),
            [
                "2026-01-01T00:00:02.000Z  pay   error              refused",
                "2026-01-01T00:00:02.000Z  task  error              0/2 steps, 2.0 s, pay: refused",
            ]
        );
    }

    #[test]
    fn a_frame_fits_the_screen() {
        let steps: Vec<Step> = (0..40)
            .map(|i| {
                step(
                    &format!("s{i}"),
                    if i < 30 {
                        StepState::Complete
                    } else {
                        StepState::InProgress
                    },
                    &[],
                )
            })
            .collect();
        let update = update(TaskState::InProgress, steps);
        for (columns, rows) in [(20, 10), (20, 14), (80, 100), (5, 3), (1, 1)] {
            let lines = frame(&update, true, (columns, rows), &Term::plain());
            assert!(lines.len() < rows.max(5), "{rows} rows: {lines:?}");
            assert!(
                lines.iter().all(|l| width(l) < columns.max(2)),
                "{columns} columns: {lines:?}"
            );
        }
        let small = frame(&update, false, (80, 10), &Term::plain());
        assert_eq!(small.last().map(String::as_str), Some("4 more"));
    }

    #[test]
    fn each_end_has_its_exit_code() {
        let code = |state: TaskState| {
            exit_code(&Task {
                state: state.into(),
                ..Task::default()
            })
        };
        assert_eq!(code(TaskState::Complete), Some(0));
        assert_eq!(code(TaskState::Error), Some(3));
        assert_eq!(code(TaskState::Cancelled), Some(4));
        assert_eq!(
            (code(TaskState::Pending), code(TaskState::InProgress)),
            (None, None)
        );
    }
}
