//! The specified behaviour of the server, in memory: tasks, steps, attempts, workers, templates and
//! keys.
//!
//! `begin` computes the action of an op and the expected answer; `assigned`, `came` and the like
//! take the messages of the server. The server chooses which of several free workers gets a step,
//! and when a retry starts: the model only decides whether the choice was allowed, and what is
//! still owed.

mod action;
mod attempts;
mod calls;
mod orders;
#[cfg(test)]
mod tests;
mod views;

use std::collections::{HashMap, HashSet};

use tasker::proto::{AttemptOutcome, StepState, TaskState};

pub use self::action::{Action, Owed};
use crate::{
    op::{self, Op},
    shapes::{HANDLERS, MOVING, Shape},
    support::random::Random,
};

/// Mistakes of the model, with which the search itself is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Nothing,
    LossesAreCharged,
    OneAttemptLess,
    CopiesAreStale,
    OldestLast,
    CancelledRunsOn,
    HoldersAreNotTold,
    ClosedIsShut,
    PausedForGood,
    RetriedIsNew,
    SkippedIsMissed,
    GivenIsUnseen,
}

impl Wrong {
    /// A history in which the mistake may show.
    pub fn history(self, random: &mut Random) -> Vec<Op> {
        use Wrong as W;
        match self {
            W::OneAttemptLess | W::CancelledRunsOn => op::of_operators(random),
            W::PausedForGood | W::RetriedIsNew | W::SkippedIsMissed | W::GivenIsUnseen => {
                op::of_operators(random)
            }
            _ => op::history(random),
        }
    }
}

#[derive(Clone, Debug)]
struct Step {
    state: StepState,
    /// It was certainly ready before the op began.
    surely_ready: bool,
    charged: usize,
    lost: usize,
    /// Uncharged attempts before an operator's retry.
    forgiven: usize,
    /// An operator had it retried.
    retried: bool,
    /// It had failed before an operator set it.
    had_failed: bool,
    result: String,
    attempts: Vec<usize>,
}

impl Step {
    fn is_live(&self) -> bool {
        matches!(
            self.state,
            StepState::Ready | StepState::InProgress | StepState::WaitingForRetry
        )
    }

    fn is_done(&self) -> bool {
        matches!(
            self.state,
            StepState::Complete | StepState::Skipped | StepState::ResolvedManually
        )
    }
}

struct Task {
    shape: &'static Shape,
    version: usize,
    priority: i32,
    context: usize,
    state: TaskState,
    /// The failed steps, in the order of their failures.
    failures: Vec<usize>,
    paused: bool,
    steps: Vec<Step>,
}

struct Attempt {
    task: usize,
    step: usize,
    worker: usize,
    outcome: AttemptOutcome,
    charged: bool,
    /// The worker's own answer ended it.
    answered: bool,
}

struct Worker {
    handlers: usize,
    slots: usize,
    held: Vec<usize>,
    draining: bool,
    open: bool,
}

impl Worker {
    fn serves(&self, handler: usize) -> bool {
        self.handlers & (1 << handler) != 0
    }

    fn is_free(&self) -> bool {
        self.open && !self.draining && self.held.len() < self.slots
    }
}

type Key = (usize, Option<usize>, i32, usize);

pub struct Model {
    wrong: Wrong,
    tasks: Vec<Task>,
    attempts: Vec<Attempt>,
    workers: Vec<Worker>,
    /// Contents by template and version.
    templates: HashMap<(usize, usize), usize>,
    keys: HashMap<usize, (usize, Key)>,
    /// Handlers with an open circuit: the server assigns none of their steps.
    shut: [bool; HANDLERS.len()],
    /// The paused templates; the empty name stands for the namespace.
    held: HashSet<&'static str>,
    owed: Vec<Owed>,
    /// Attempts that the op ends without a message to a worker.
    ending: Vec<usize>,
    /// Assignments since the op began.
    wave: Vec<(usize, usize, usize)>,
    /// The history so far, in words.
    pub log: Vec<String>,
}

fn pick(n: usize, from: &[usize]) -> Option<usize> {
    (!from.is_empty()).then(|| from[n % from.len()])
}

pub fn context(n: usize) -> String {
    format!("{{\"n\":{n}}}")
}

pub fn result(n: usize) -> String {
    format!("{{\"result\":{n}}}")
}

impl Model {
    pub fn new(wrong: Wrong) -> Self {
        Self {
            wrong,
            tasks: Vec::new(),
            attempts: Vec::new(),
            workers: Vec::new(),
            templates: (0..MOVING)
                .map(|template| ((template, 0), template))
                .collect(),
            keys: HashMap::new(),
            shut: [false; HANDLERS.len()],
            held: HashSet::new(),
            owed: Vec::new(),
            ending: Vec::new(),
            wave: Vec::new(),
            log: Vec::new(),
        }
    }

    fn workers_where(&self, is: impl Fn(&Worker) -> bool) -> Vec<usize> {
        (0..self.workers.len())
            .filter(|w| is(&self.workers[*w]))
            .collect()
    }

    fn open_workers(&self) -> Vec<usize> {
        self.workers_where(|w| w.open)
    }

    fn attempts_where(&self, is: impl Fn(&Attempt) -> bool) -> Vec<usize> {
        (0..self.attempts.len())
            .filter(|a| is(&self.attempts[*a]))
            .collect()
    }

    /// The action of the op in the present state. Afterwards the model has the state that the
    /// server must have once all that is owed has arrived.
    pub fn begin(&mut self, op: &Op) -> Action {
        self.wave.clear();
        for task in 0..self.tasks.len() {
            let paused = self.is_paused(task);
            let steps = &mut self.tasks[task].steps;
            steps
                .iter_mut()
                .for_each(|step| step.surely_ready = step.state == StepState::Ready && !paused);
        }
        let (words, action) = self.act(op).unwrap_or(("nothing".into(), Action::Nothing));
        if !matches!(action, Action::Nothing) {
            self.log.push(words);
        }
        action
    }

    /// Priority, then age; the smallest comes first.
    fn rank(&self, task: usize, step: usize) -> (i32, usize, usize) {
        let rank = (-self.tasks[task].priority, task, step);
        if self.wrong == Wrong::OldestLast {
            (rank.0, usize::MAX - task, step)
        } else {
            rank
        }
    }

    /// A message that was owed has arrived.
    pub fn came(&mut self, what: Owed) -> Result<(), String> {
        let Some(at) = self.owed.iter().position(|owed| *owed == what) else {
            return Err(format!("{what:?} came, but only {:?} is owed", self.owed));
        };
        self.owed.remove(at);
        Ok(())
    }

    /// Attempts that end without a message to a worker.
    pub fn ending(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.ending)
    }

    /// What the server still owes.
    pub fn outstanding(&self) -> Option<String> {
        if let Some(owed) = self.owed.first() {
            return Some(format!("{owed:?} did not come"));
        }
        self.claimable().next().map(|(worker, task, step)| {
            let name = self.tasks[task].shape.steps[step].name;
            format!("task {task} {name} was not handed out although worker {worker} has a free slot for it")
        })
    }

    /// Steps that wait, each with a worker that could take it.
    fn claimable(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let steps = self
            .tasks
            .iter()
            .enumerate()
            .flat_map(|(t, task)| (0..task.steps.len()).map(move |s| (t, s)));
        steps.filter_map(|(task, step)| {
            let t = &self.tasks[task];
            let waits = matches!(
                t.steps[step].state,
                StepState::Ready | StepState::WaitingForRetry
            );
            let handler = t.shape.steps[step].handler;
            let worker = self
                .workers
                .iter()
                .position(|w| w.is_free() && w.serves(handler))?;
            (waits && !self.shut[handler] && !self.is_paused(task)).then_some((worker, task, step))
        })
    }

    /// No worker may have got a step while a step of higher rank that it serves was left waiting.
    pub fn in_order(&self) -> Result<(), String> {
        for (worker, task, step) in &self.wave {
            let rank = self.rank(*task, *step);
            for (other, t) in self.tasks.iter().enumerate() {
                for (i, s) in t.steps.iter().enumerate() {
                    let handler = t.shape.steps[i].handler;
                    let left = s.state == StepState::Ready
                        && s.surely_ready
                        && !self.shut[handler]
                        && !self.is_paused(other);
                    if left && self.workers[*worker].serves(handler) && self.rank(other, i) < rank {
                        return Err(format!(
                            "worker {worker} was handed {task}/{step} while {other}/{i} was left waiting"
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }
}
