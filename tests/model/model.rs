//! What the server promises, in memory: tasks, steps, attempts, workers, templates and keys.
//!
//! `begin` says what an op amounts to and what must be answered; `assigned`, `acknowledged` and the like take what the
//! server was heard to say. Which of several free workers gets a step, and when a retry comes, is the server's choice: the
//! model only says whether it was allowed to, and what is still owed.

use std::collections::HashMap;

use tasker::proto::{AttemptOutcome, StepState, TaskState};
use tonic::Code;

use crate::{
    op::{Answer, Op, Submission},
    shapes::{BY_AGE, HANDLERS, MOVING, SHAPES, Shape, VERSIONS},
    view::{AssignmentView, AttemptView, StepView, TaskView},
};

/// Ways to be wrong, so that the search can be tested.
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
}

const WORKERS: usize = 4;
const MAX_LOST: usize = 10;

#[derive(Clone, Debug)]
struct Step {
    state: StepState,
    /// It was ready before the op began, without a doubt.
    surely_ready: bool,
    charged: usize,
    lost: usize,
    result: String,
    attempts: Vec<usize>,
}

struct Task {
    shape: &'static Shape,
    version: usize,
    priority: i32,
    context: usize,
    state: TaskState,
    failed: Option<usize>,
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

/// What a client or a worker is to do, and what it must be answered. Everything is named by its position in the model.
#[derive(Clone, Debug)]
pub enum Action {
    Nothing,
    Register {
        version: usize,
        content: usize,
        expected: Result<bool, Code>,
    },
    Submit {
        submissions: Vec<Submission>,
        expected: Result<Vec<(usize, bool)>, Code>,
    },
    /// None for a task that does not exist.
    Cancel {
        task: Option<usize>,
        expected: Result<(), Code>,
    },
    Connect {
        handlers: usize,
        slots: usize,
        previous: Option<usize>,
        kept: Vec<usize>,
    },
    Results {
        worker: usize,
        results: Vec<(usize, Answer)>,
    },
    Force {
        handler: usize,
        open: bool,
    },
    Drain {
        worker: usize,
    },
    Leave {
        worker: usize,
    },
    Crash {
        worker: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owed {
    Ack {
        worker: usize,
        attempt: usize,
        accepted: bool,
    },
    Cancel {
        worker: usize,
        attempt: usize,
    },
    /// The worker is told that the attempt is not its own any more.
    Lost {
        worker: usize,
        attempt: usize,
    },
    End {
        worker: usize,
    },
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
    /// Whose circuit is open: nothing is handed out for these handlers.
    shut: [bool; HANDLERS.len()],
    owed: Vec<Owed>,
    /// Attempts that the op ends and nobody says so.
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
            templates: (0..MOVING).map(|template| ((template, 0), template)).collect(),
            keys: HashMap::new(),
            shut: [false; HANDLERS.len()],
            owed: Vec::new(),
            ending: Vec::new(),
            wave: Vec::new(),
            log: Vec::new(),
        }
    }

    fn workers_where(&self, is: impl Fn(&Worker) -> bool) -> Vec<usize> {
        (0..self.workers.len()).filter(|w| is(&self.workers[*w])).collect()
    }

    fn open_workers(&self) -> Vec<usize> {
        self.workers_where(|w| w.open)
    }

    fn attempts_where(&self, is: impl Fn(&Attempt) -> bool) -> Vec<usize> {
        (0..self.attempts.len()).filter(|a| is(&self.attempts[*a])).collect()
    }

    pub fn attempt_name(&self, attempt: usize) -> String {
        let Attempt { task, step, .. } = self.attempts[attempt];
        let steps = &self.tasks[task];
        let number = steps.steps[step].attempts.iter().position(|a| *a == attempt).unwrap() + 1;
        format!("task {task} {} #{number}", steps.shape.steps[step].name)
    }

    /// What the op amounts to now. The model is then where the server must be when all that is owed has come.
    pub fn begin(&mut self, op: &Op) -> Action {
        self.wave.clear();
        for step in self.tasks.iter_mut().flat_map(|task| &mut task.steps) {
            step.surely_ready = step.state == StepState::Ready;
        }
        let (words, action) = self.act(op).unwrap_or(("nothing".into(), Action::Nothing));
        if !matches!(action, Action::Nothing) {
            self.log.push(words);
        }
        action
    }

    fn act(&mut self, op: &Op) -> Option<(String, Action)> {
        Some(match op {
            Op::Register { version, content } => self.register(*version, MOVING + content),
            Op::Submit(submissions) => self.submit(submissions),
            Op::Cancel { task } => self.cancel(*task),
            Op::Connect { handlers, slots } => {
                if self.open_workers().len() >= WORKERS {
                    return None;
                }
                let worker = self.connect(*handlers, *slots, Vec::new());
                let words = format!("worker {worker} connects: handlers {handlers:02b}, {slots} slots");
                (words, Action::Connect { handlers: *handlers, slots: *slots, previous: None, kept: Vec::new() })
            }
            Op::Answer { attempt, answer } => self.answer(*attempt, &[*answer], None)?,
            Op::Twice { attempt, answers } => self.answer(*attempt, answers, None)?,
            Op::Foreign { attempt, worker, answer } => self.answer(*attempt, &[*answer], Some(*worker))?,
            Op::Again { attempt, worker, answer } => {
                let over = self.attempts_where(|a| a.outcome != AttemptOutcome::Running);
                let (attempt, worker) = (pick(*attempt, &over)?, pick(*worker, &self.open_workers())?);
                let accepted = self.attempts[attempt].answered && self.wrong != Wrong::CopiesAreStale;
                self.owed.push(Owed::Ack { worker, attempt, accepted });
                let words = format!("worker {worker} answers {} again: {answer:?}", self.attempt_name(attempt));
                (words, Action::Results { worker, results: vec![(attempt, *answer)] })
            }
            Op::Force { handler, open } => {
                self.shut[*handler] = *open || self.wrong == Wrong::ClosedIsShut;
                let words = format!("the circuit of {} is forced, open: {open}", HANDLERS[*handler]);
                (words, Action::Force { handler: *handler, open: *open })
            }
            Op::Drain { worker } => {
                let worker = pick(*worker, &self.workers_where(|w| w.open && !w.draining))?;
                self.workers[worker].draining = true;
                (format!("worker {worker} drains"), Action::Drain { worker })
            }
            Op::Leave { worker } => {
                let worker = pick(*worker, &self.open_workers())?;
                self.gone(worker, AttemptOutcome::WorkerLost);
                self.owed.push(Owed::End { worker });
                (format!("worker {worker} drains and closes its stream"), Action::Leave { worker })
            }
            Op::Crash { worker } => {
                let worker = pick(*worker, &self.open_workers())?;
                self.gone(worker, AttemptOutcome::WorkerLost);
                (format!("worker {worker} is gone for good"), Action::Crash { worker })
            }
            Op::Reconnect { worker, keep } => {
                let old = pick(*worker, &self.open_workers())?;
                let held = std::mem::take(&mut self.workers[old].held);
                let (kept, lost): (Vec<_>, Vec<_>) =
                    held.into_iter().enumerate().partition(|(i, _)| keep & (1 << i) != 0);
                let kept: Vec<usize> = kept.into_iter().map(|(_, attempt)| attempt).collect();
                self.workers[old].held = lost.into_iter().map(|(_, attempt)| attempt).collect();
                self.gone(old, AttemptOutcome::Released);
                let (handlers, slots) = (self.workers[old].handlers, self.workers[old].slots);
                let new = self.connect(handlers, slots, kept.clone());
                let names: Vec<String> = kept.iter().map(|a| self.attempt_name(*a)).collect();
                let words = format!("worker {old} reconnects as worker {new} and holds [{}]", names.join(", "));
                (words, Action::Connect { handlers, slots, previous: Some(old), kept })
            }
        })
    }

    fn register(&mut self, version: usize, content: usize) -> (String, Action) {
        let expected = match self.templates.insert((MOVING, version), content) {
            None => Ok(true),
            Some(known) if known == content => Ok(false),
            Some(known) => {
                self.templates.insert((MOVING, version), known);
                Err(Code::AlreadyExists)
            }
        };
        let words = format!("register moving {} with {} steps", VERSIONS[version], SHAPES[content].steps.len());
        (words, Action::Register { version, content, expected })
    }

    fn resolve(&self, s: &Submission) -> Option<usize> {
        match s.version {
            Some(version) => Some(version).filter(|v| self.templates.contains_key(&(s.template, *v))),
            None => BY_AGE.into_iter().rev().find(|v| self.templates.contains_key(&(s.template, *v))),
        }
    }

    fn submit(&mut self, submissions: &[Submission]) -> (String, Action) {
        let words: Vec<String> = submissions
            .iter()
            .map(|s| {
                let version = s.version.map_or("newest", |v| VERSIONS[v]);
                let key = s.key.map_or(String::new(), |key| format!(", key {key}"));
                format!("{} {version}, priority {}, context {}{key}", SHAPES[s.template].name, s.priority, s.context)
            })
            .collect();
        let expected = self.judge(submissions);
        let action = Action::Submit { submissions: submissions.to_vec(), expected };
        (format!("submit {}", words.join("; and ")), action)
    }

    /// All of them are stored, or none.
    fn judge(&mut self, submissions: &[Submission]) -> Result<Vec<(usize, bool)>, Code> {
        let content = |s: &Submission| (s.template, s.version, s.priority, s.context);
        let versions: Option<Vec<usize>> = submissions.iter().map(|s| self.resolve(s)).collect();
        let versions = versions.ok_or(Code::NotFound)?;
        let first = |s: &Submission| s.key.and_then(|key| self.keys.get(&key)).copied();
        if submissions.iter().any(|s| first(s).is_some_and(|(_, known)| known != content(s))) {
            return Err(Code::AlreadyExists);
        }
        let mut answers = Vec::new();
        for (s, version) in submissions.iter().zip(versions) {
            if let Some((task, _)) = s.key.and_then(|key| self.keys.get(&key)) {
                answers.push((*task, false));
                continue;
            }
            let task = self.tasks.len();
            let shape = &SHAPES[self.templates[&(s.template, version)]];
            let step = |parents: &[usize]| Step {
                state: if parents.is_empty() { StepState::Ready } else { StepState::Pending },
                surely_ready: false,
                charged: 0,
                lost: 0,
                result: String::new(),
                attempts: Vec::new(),
            };
            self.tasks.push(Task {
                shape,
                version,
                priority: s.priority,
                context: s.context,
                state: TaskState::Pending,
                failed: None,
                steps: shape.steps.iter().map(|s| step(s.parents)).collect(),
            });
            if let Some(key) = s.key {
                self.keys.insert(key, (task, content(s)));
            }
            answers.push((task, true));
        }
        Ok(answers)
    }

    fn cancel(&mut self, task: usize) -> (String, Action) {
        if self.tasks.is_empty() {
            let action = Action::Cancel { task: None, expected: Err(Code::NotFound) };
            return ("cancel a task that does not exist".into(), action);
        }
        let task = task % self.tasks.len();
        let expected = match self.tasks[task].state {
            TaskState::Complete | TaskState::Error => Err(Code::FailedPrecondition),
            _ => Ok(()),
        };
        if matches!(self.tasks[task].state, TaskState::Pending | TaskState::InProgress) {
            for attempt in self.attempts_where(|a| a.task == task && a.outcome == AttemptOutcome::Running) {
                if self.wrong == Wrong::CancelledRunsOn {
                    continue;
                }
                self.attempts[attempt].outcome = AttemptOutcome::Cancelled;
                let worker = self.attempts[attempt].worker;
                self.workers[worker].held.retain(|a| *a != attempt);
                self.owed.push(Owed::Cancel { worker, attempt });
            }
            self.tasks[task].state = TaskState::Cancelled;
            let is_final = |s: StepState| matches!(s, StepState::Complete | StepState::Error);
            self.tasks[task]
                .steps
                .iter_mut()
                .filter(|s| !is_final(s.state))
                .for_each(|s| s.state = StepState::Cancelled);
        }
        (format!("cancel task {task}"), Action::Cancel { task: Some(task), expected })
    }

    fn connect(&mut self, handlers: usize, slots: usize, held: Vec<usize>) -> usize {
        let worker = self.workers.len();
        held.iter().for_each(|attempt| self.attempts[*attempt].worker = worker);
        self.workers.push(Worker { handlers, slots, held, draining: false, open: true });
        worker
    }

    /// The first answer counts, through whichever worker it comes; copies are acknowledged like it.
    fn answer(&mut self, attempt: usize, answers: &[Answer], through: Option<usize>) -> Option<(String, Action)> {
        let running = self.attempts_where(|a| a.outcome == AttemptOutcome::Running && self.workers[a.worker].open);
        let attempt = pick(attempt, &running)?;
        let holder = self.attempts[attempt].worker;
        let worker = match through {
            Some(other) => pick(other, &self.workers_where(|w| w.open))?,
            None => holder,
        };
        if worker != holder && self.wrong != Wrong::HoldersAreNotTold {
            self.owed.push(Owed::Lost { worker: holder, attempt });
        }
        let words = format!("worker {worker} answers {}: {answers:?}", self.attempt_name(attempt));
        for i in 0..answers.len() {
            let accepted = i == 0 || self.wrong != Wrong::CopiesAreStale;
            self.owed.push(Owed::Ack { worker, attempt, accepted });
        }
        let outcome = match answers[0] {
            Answer::Success(n) => {
                let Attempt { task, step, .. } = self.attempts[attempt];
                self.tasks[task].steps[step].result = result(n);
                AttemptOutcome::Succeeded
            }
            Answer::Retryable => AttemptOutcome::RetryableError,
            Answer::Permanent => AttemptOutcome::PermanentError,
            Answer::Released => AttemptOutcome::Released,
        };
        self.attempts[attempt].answered = true;
        self.end(attempt, outcome, self.workers[worker].draining);
        let results = answers.iter().map(|answer| (attempt, *answer)).collect();
        Some((words, Action::Results { worker, results }))
    }

    /// The worker is not there any more; what it holds ends so.
    fn gone(&mut self, worker: usize, outcome: AttemptOutcome) {
        self.workers[worker].open = false;
        for attempt in self.workers[worker].held.clone() {
            self.end(attempt, outcome, false);
            self.ending.push(attempt);
        }
    }

    /// An attempt ends: who is charged, and what follows for its step and its task. `draining` is the worker that says so.
    fn end(&mut self, attempt: usize, outcome: AttemptOutcome, draining: bool) {
        let Attempt { task, step, worker, answered, .. } = self.attempts[attempt];
        self.workers[worker].held.retain(|a| *a != attempt);
        let limit = self.limit(task, step);
        let s = &mut self.tasks[task].steps[step];
        let charged = match outcome {
            AttemptOutcome::RetryableError | AttemptOutcome::PermanentError => true,
            AttemptOutcome::WorkerLost => self.wrong == Wrong::LossesAreCharged,
            _ => false,
        };
        s.charged += usize::from(charged);
        s.lost += usize::from(outcome == AttemptOutcome::WorkerLost);
        s.surely_ready = false;
        s.state = match outcome {
            AttemptOutcome::Succeeded => StepState::Complete,
            AttemptOutcome::RetryableError if s.charged < limit => StepState::WaitingForRetry,
            // Who releases without draining would have it back at once.
            AttemptOutcome::Released if answered && !draining => StepState::WaitingForRetry,
            AttemptOutcome::Released => StepState::Ready,
            AttemptOutcome::WorkerLost if s.lost < MAX_LOST => StepState::Ready,
            _ => StepState::Error,
        };
        self.attempts[attempt].outcome = outcome;
        self.attempts[attempt].charged = charged;
        self.follow(task, step);
    }

    fn follow(&mut self, task: usize, step: usize) {
        let task = &mut self.tasks[task];
        if task.steps[step].state == StepState::Error {
            task.failed.get_or_insert(step);
        }
        for (child, shape) in task.shape.steps.iter().enumerate() {
            let complete = shape.parents.iter().all(|p| task.steps[*p].state == StepState::Complete);
            if task.steps[child].state == StepState::Pending && complete {
                task.steps[child].state = StepState::Ready;
            }
        }
        let live = |s: &Step| matches!(s.state, StepState::Ready | StepState::InProgress | StepState::WaitingForRetry);
        if !task.steps.iter().any(live) {
            let complete = task.steps.iter().all(|s| s.state == StepState::Complete);
            task.state = if complete { TaskState::Complete } else { TaskState::Error };
        }
    }

    fn limit(&self, task: usize, step: usize) -> usize {
        let limit = self.tasks[task].shape.steps[step].limit;
        if self.wrong == Wrong::OneAttemptLess { limit.saturating_sub(1).max(1) } else { limit }
    }

    /// Priority, then age; the smallest comes first.
    fn rank(&self, task: usize, step: usize) -> (i32, usize, usize) {
        let rank = (-self.tasks[task].priority, task, step);
        if self.wrong == Wrong::OldestLast { (rank.0, usize::MAX - task, step) } else { rank }
    }

    /// A worker was handed a step. Returns the position of the new attempt.
    pub fn assigned(&mut self, worker: usize, task: usize, step: &str, got: &AssignmentView) -> Result<usize, String> {
        let Some(t) = self.tasks.get(task) else { return Err(format!("an assignment of an unknown task: {got:?}")) };
        let Some(step) = t.shape.steps.iter().position(|s| s.name == step) else {
            return Err(format!("task {task} has no step {step}"));
        };
        let (shape, s, w) = (&t.shape.steps[step], &t.steps[step], &self.workers[worker]);
        let what = format!("worker {worker} was handed task {task} {}", shape.name);
        if self.shut[shape.handler] {
            return Err(format!("{what}, while the circuit was open"));
        }
        if !matches!(s.state, StepState::Ready | StepState::WaitingForRetry) {
            return Err(format!("{what}, which is {:?}", s.state));
        }
        if !w.is_free() || !w.serves(shape.handler) {
            let (held, slots, handlers) = (w.held.len(), w.slots, w.handlers);
            return Err(format!(
                "{what}, but has {held} of {slots} steps, draining {}, handlers {handlers:02b}",
                w.draining
            ));
        }
        let results = t.shape.ancestors(step).into_iter();
        let results = results.map(|p| (t.shape.steps[p].name.to_owned(), t.steps[p].result.clone())).collect();
        let expected = AssignmentView {
            template: format!("{} {}", t.shape.name, VERSIONS[t.version]),
            handler: HANDLERS[shape.handler].to_owned(),
            attempt: s.attempts.len() + 1,
            charged: s.charged,
            limit: shape.limit,
            context: context(t.context),
            results,
        };
        if *got != expected {
            return Err(format!("{what}:\n  expected {expected:?}\n  got      {got:?}"));
        }
        let attempt = self.attempts.len();
        let running = AttemptOutcome::Running;
        self.attempts.push(Attempt { task, step, worker, outcome: running, charged: false, answered: false });
        self.workers[worker].held.push(attempt);
        let t = &mut self.tasks[task];
        t.state = TaskState::InProgress;
        t.steps[step].state = StepState::InProgress;
        t.steps[step].attempts.push(attempt);
        self.wave.push((worker, task, step));
        Ok(attempt)
    }

    /// Something that was owed came.
    pub fn came(&mut self, what: Owed) -> Result<(), String> {
        let Some(at) = self.owed.iter().position(|owed| *owed == what) else {
            return Err(format!("{what:?} came, but only {:?} is owed", self.owed));
        };
        self.owed.remove(at);
        Ok(())
    }

    /// Attempts that end without anybody being told.
    pub fn ending(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.ending)
    }

    pub fn place(&self, attempt: usize) -> (usize, &'static str, usize) {
        let Attempt { task, step, .. } = self.attempts[attempt];
        let t = &self.tasks[task];
        let number = t.steps[step].attempts.iter().position(|a| *a == attempt).unwrap();
        (task, t.shape.steps[step].name, number)
    }

    /// What the server still has to say or do.
    pub fn outstanding(&self) -> Option<String> {
        if let Some(owed) = self.owed.first() {
            return Some(format!("{owed:?} did not come"));
        }
        self.claimable().next().map(|(worker, task, step)| {
            let name = self.tasks[task].shape.steps[step].name;
            format!("task {task} {name} was not handed out although worker {worker} has a free slot for it")
        })
    }

    /// Steps that wait, each with a worker that could have it.
    fn claimable(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        let steps = self.tasks.iter().enumerate().flat_map(|(t, task)| (0..task.steps.len()).map(move |s| (t, s)));
        steps.filter_map(|(task, step)| {
            let t = &self.tasks[task];
            let waits = matches!(t.steps[step].state, StepState::Ready | StepState::WaitingForRetry);
            let handler = t.shape.steps[step].handler;
            let worker = self.workers.iter().position(|w| w.is_free() && w.serves(handler))?;
            (waits && !self.shut[handler]).then_some((worker, task, step))
        })
    }

    /// Nobody may have been handed a step while a better one that the same worker serves was left waiting.
    pub fn in_order(&self) -> Result<(), String> {
        for (worker, task, step) in &self.wave {
            let rank = self.rank(*task, *step);
            for (other, t) in self.tasks.iter().enumerate() {
                for (i, s) in t.steps.iter().enumerate() {
                    let handler = t.shape.steps[i].handler;
                    let left = s.state == StepState::Ready && s.surely_ready && !self.shut[handler];
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

    /// How the task must look to a client.
    pub fn view(&self, task: usize) -> TaskView {
        let t = &self.tasks[task];
        let steps: Vec<StepView> = (0..t.steps.len()).map(|step| self.step_view(t, step)).collect();
        let failed = t.failed.filter(|_| t.state == TaskState::Error);
        TaskView {
            state: t.state,
            template: format!("{} {}", t.shape.name, VERSIONS[t.version]),
            complete: t.steps.iter().filter(|s| s.state == StepState::Complete).count(),
            failed: failed.map_or_else(Default::default, |f| (steps[f].name.clone(), steps[f].code.clone())),
            steps,
        }
    }

    fn step_view(&self, task: &Task, step: usize) -> StepView {
        let (shape, s) = (&task.shape.steps[step], &task.steps[step]);
        let attempt = |(i, a): (usize, &usize)| {
            let Attempt { worker, outcome, charged, .. } = self.attempts[*a];
            AttemptView { number: i + 1, outcome, charged, worker: format!("worker {worker}") }
        };
        let last = s.attempts.last().map(|a| self.attempts[*a].outcome);
        let code = match last {
            Some(AttemptOutcome::RetryableError) => "BUSY",
            Some(AttemptOutcome::PermanentError) => "NO",
            Some(AttemptOutcome::WorkerLost) => "WORKER_LOST",
            _ => "",
        };
        let failed = matches!(s.state, StepState::Error | StepState::WaitingForRetry);
        StepView {
            name: shape.name.into(),
            state: s.state,
            attempt: s.attempts.len(),
            charged: s.charged,
            limit: shape.limit,
            result: s.result.clone(),
            code: if failed { code.into() } else { String::new() },
            attempts: s.attempts.iter().enumerate().map(attempt).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
