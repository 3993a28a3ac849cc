//! A watched task: as JSON, as lines, or as a graph that is redrawn in place.

use std::{collections::HashMap, io};

use prost_types::Timestamp;

use super::{
    human, task,
    term::{Term, clean, fit, style, width},
};
use crate::{
    json,
    proto::{Step, StepState, Task, TaskState, WatchTaskResponse},
};

/// Columns of the longest state, `waiting_for_retry`.
const STATE_COLUMNS: usize = 17;

/// The three ways to show updates.
pub enum View<'s> {
    Json(&'s Term),
    Lines(&'s Term, Changes),
    Live(&'s Term, Box<Frame>),
}

impl<'s> View<'s> {
    pub fn new(term: &'s Term, json: bool) -> Self {
        match json {
            true => Self::Json(term),
            false if term.interactive => Self::Live(term, Box::default()),
            false => Self::Lines(term, Changes::default()),
        }
    }

    pub fn update(&mut self, update: &WatchTaskResponse) -> io::Result<()> {
        match self {
            Self::Json(term) => term.json_line(&json::value(update))?,
            Self::Lines(term, changes) => {
                for line in changes.of(update, term) {
                    term.data(&line)?;
                }
            }
            Self::Live(term, frame) => {
                // Kept whole: a refresh draws it again with new durations.
                frame.latest = Some(update.clone());
                frame.lost = false;
                frame.redraw(term)?;
            }
        }
        Ok(())
    }

    pub fn lost(&mut self, why: &str) -> io::Result<()> {
        match self {
            Self::Json(term) | Self::Lines(term, _) => {
                term.say(&format!("the connection is lost ({why}); reconnecting"));
            }
            Self::Live(term, frame) => {
                frame.lost = true;
                frame.redraw(term)?;
            }
        }
        Ok(())
    }

    pub fn refresh(&mut self) -> io::Result<()> {
        if let Self::Live(term, frame) = self {
            frame.redraw(term)?;
        }
        Ok(())
    }
}

/// For output that cannot be redrawn: one line for the task and for each step whose state or
/// attempt changed.
#[derive(Default)]
pub struct Changes {
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
        let mut lines = Vec::new();
        let first = self.task.is_none();
        // A pause counts as a change as well.
        let standing = (task.state(), task.paused_at.is_some());
        let changed = self.task.replace(standing) != Some(standing);
        // The task's line comes before those of its steps, except at the end, which follows from
        // theirs.
        let ended = has_ended(task.state());
        if changed && !ended {
            lines.push(task_line(task, column, term));
        }
        for step in &update.steps {
            let now = (step.state(), step.attempt);
            let before = self.steps.insert(step.name.clone(), now);
            // A pending step in the first update has not changed.
            let is_initial = first && matches!(step.state(), StepState::Pending);
            if before != Some(now) && !is_initial {
                lines.push(step_line(step, column, term));
            }
        }
        if changed && ended {
            lines.push(task_line(task, column, term));
        }
        lines
    }
}

fn task_line(task: &Task, column: usize, term: &Term) -> String {
    let state = human::paint_task_state(term, task.state());
    // The newest of the times that the task records.
    let at = task.ended_at.or(task.started_at).or(task.submitted_at);
    line(at, "task", column, &state, &headline_note(task))
}

fn step_line(step: &Step, column: usize, term: &Term) -> String {
    let style = human::step_style(step.state());
    let state = term.paint(style, &human::step_state(step.state));
    let (at, note) = (step_time(step), step_note(step));
    line(at, &clean(&step.name), column, &state, &note)
}

/// Time, name, state and note; the names take this many columns.
fn line(at: Option<Timestamp>, name: &str, column: usize, state: &str, note: &str) -> String {
    let pad = " ".repeat(column.saturating_sub(width(name)));
    let state_pad = " ".repeat(STATE_COLUMNS.saturating_sub(width(state)));
    // A step that waits for a retry records no time for that; the update has just arrived.
    let at = human::time(at.unwrap_or_else(human::now));
    let line = format!("{at}  {name}{pad}  {state}{state_pad}  {note}");
    line.trim_end().to_owned()
}

fn has_ended(state: TaskState) -> bool {
    !matches!(
        state,
        TaskState::Pending | TaskState::InProgress | TaskState::Unspecified
    )
}

/// The time at which the step entered its state.
fn step_time(step: &Step) -> Option<Timestamp> {
    match step.state() {
        StepState::Ready => step.ready_at,
        StepState::InProgress => step.started_at,
        StepState::Pending | StepState::Unspecified => None,
        _ => step.ended_at,
    }
}

fn step_note(step: &Step) -> String {
    match step.state() {
        StepState::InProgress => format!(
            "attempt {}, worker {}",
            task::tries(step),
            clean(&step.worker_name)
        ),
        StepState::Complete => task::took(step),
        _ => task::note(step),
    }
}

/// `3/5 steps, 4.2 s`, and the reason if the task ended incomplete or is paused.
fn headline_note(task: &Task) -> String {
    let mut note = format!("{}/{} steps", task.steps_complete, task.steps_total);
    if let Some(took) = human::elapsed(task.started_at, task.ended_at) {
        note += &format!(", {}", human::duration(took));
    }
    if let Some(outcome) = task::outcome(task) {
        note += &format!(", {outcome}");
    }
    note
}

/// For a terminal: the graph, redrawn where it stands.
#[derive(Default)]
pub struct Frame {
    latest: Option<WatchTaskResponse>,
    lost: bool,
    /// Lines that are on the screen now.
    height: usize,
}

impl Frame {
    fn redraw(&mut self, term: &Term) -> io::Result<()> {
        let Some(update) = &self.latest else {
            return Ok(());
        };
        let size = term.size().unwrap_or((80, 24));
        let lines = frame(update, self.lost, size, term);
        // One write per frame, so that the terminal shows no half of it.
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
            term.paint(style::BOLD, &task::template_name(&task)),
            term.paint(style::DIM, &clean(&task.task_id))
        ),
        format!("{state}  {}", headline_note(&task)),
    ];
    if lost {
        lines.push(term.paint(style::YELLOW, "the connection is lost; reconnecting"));
    }
    // The cursor stands on a line of its own below the frame.
    let room = rows.saturating_sub(lines.len() + 1);
    let graph = task::step_graph(&update.steps, term);
    if graph.len() <= room {
        lines.extend(graph);
    } else {
        lines.extend(busy_steps(&update.steps, room, term));
    }
    // One column stays free, as some terminals wrap a line that is full.
    lines
        .iter()
        .map(|l| fit(l, columns.saturating_sub(1), term.unicode))
        .collect()
}

/// The steps that are neither pending nor complete, in at most this many lines.
fn busy_steps(steps: &[Step], room: usize, term: &Term) -> Vec<String> {
    let is_busy = |s: &&Step| !matches!(s.state(), StepState::Pending | StepState::Complete);
    let busy: Vec<&Step> = steps.iter().filter(is_busy).collect();
    // One line is left for the number of the others.
    let shown = match busy.len() <= room {
        true => busy.len(),
        false => room.saturating_sub(1),
    };
    let mut lines = Vec::with_capacity(room);
    for step in &busy[..shown] {
        let sign = human::step_sign(step.state(), term.unicode).to_string();
        let sign = term.paint(human::step_style(step.state()), &sign);
        lines.push(format!("{sign} {}", task::label(step, term)));
    }
    if busy.len() > shown {
        lines.push(format!("{} more", busy.len() - shown));
    }
    lines
}

#[cfg(test)]
mod tests {
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
    fn changes_of_equal_updates_are_empty_and_the_end_comes_last() {
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
    fn frame_on_any_screen_fits_its_columns_and_rows() {
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
}
