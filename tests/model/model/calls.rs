//! The effect of each op on the model, and the expected answer.

use tasker::proto::{AttemptOutcome, StepState, TaskState};
use tonic::Code;

use super::{Action, Attempt, Model, Owed, Step, Task, Worker, Wrong, pick, result};
use crate::{
    op::{Answer, Op, Submission},
    shapes::{BY_AGE, HANDLERS, MOVING, SHAPES, VERSIONS},
};

/// Number of streams at most.
const WORKERS: usize = 4;

impl Model {
    pub(super) fn act(&mut self, op: &Op) -> Option<(String, Action)> {
        Some(match op {
            Op::Register { version, content } => self.register(*version, MOVING + content),
            Op::Submit(submissions) => self.submit(submissions),
            Op::Order { word, task, step } => self.tell(*word, *task, *step),
            Op::Hold { template, held } => self.hold(*template, *held),
            Op::Connect { handlers, slots } => self.another(*handlers, *slots)?,
            Op::Answer { attempt, answer } => self.answer(*attempt, &[*answer], None)?,
            Op::Twice { attempt, answers } => self.answer(*attempt, answers, None)?,
            Op::Foreign {
                attempt,
                worker,
                answer,
            } => self.answer(*attempt, &[*answer], Some(*worker))?,
            Op::Again {
                attempt,
                worker,
                answer,
            } => self.again(*attempt, *worker, *answer)?,
            Op::Force { handler, open } => {
                self.shut[*handler] = *open || self.wrong == Wrong::ClosedIsShut;
                let words = format!(
                    "the circuit of {} is forced, open: {open}",
                    HANDLERS[*handler]
                );
                (
                    words,
                    Action::Force {
                        handler: *handler,
                        open: *open,
                    },
                )
            }
            Op::Drain { worker } => {
                let worker = pick(*worker, &self.workers_where(|w| w.open && !w.draining))?;
                self.workers[worker].draining = true;
                (format!("worker {worker} drains"), Action::Drain { worker })
            }
            Op::Leave { worker } => {
                let worker = pick(*worker, &self.open_workers())?;
                self.gone(worker, AttemptOutcome::Drained);
                self.owed.push(Owed::End { worker });
                (
                    format!("worker {worker} drains and closes its stream"),
                    Action::Leave { worker },
                )
            }
            Op::Crash { worker } => {
                let worker = pick(*worker, &self.open_workers())?;
                let draining = self.workers[worker].draining;
                self.gone(
                    worker,
                    if draining {
                        AttemptOutcome::Drained
                    } else {
                        AttemptOutcome::WorkerLost
                    },
                );
                (
                    format!("worker {worker} is gone for good"),
                    Action::Crash { worker },
                )
            }
            Op::Reconnect { worker, keep } => self.reconnect(*worker, *keep)?,
        })
    }

    fn another(&mut self, handlers: usize, slots: usize) -> Option<(String, Action)> {
        if self.open_workers().len() >= WORKERS {
            return None;
        }
        let worker = self.connect(handlers, slots, Vec::new());
        let words = format!("worker {worker} connects: handlers {handlers:02b}, {slots} slots");
        Some((
            words,
            Action::Connect {
                handlers,
                slots,
                previous: None,
                kept: Vec::new(),
            },
        ))
    }

    fn again(&mut self, attempt: usize, worker: usize, answer: Answer) -> Option<(String, Action)> {
        let over = self.attempts_where(|a| a.outcome != AttemptOutcome::Running);
        let (attempt, worker) = (pick(attempt, &over)?, pick(worker, &self.open_workers())?);
        let accepted = self.attempts[attempt].answered && self.wrong != Wrong::CopiesAreStale;
        self.owed.push(Owed::Ack {
            worker,
            attempt,
            accepted,
        });
        let words = format!(
            "worker {worker} answers {} again: {answer:?}",
            self.attempt_name(attempt)
        );
        Some((
            words,
            Action::Results {
                worker,
                results: vec![(attempt, answer)],
            },
        ))
    }

    fn reconnect(&mut self, worker: usize, keep: usize) -> Option<(String, Action)> {
        let old = pick(worker, &self.open_workers())?;
        let held = std::mem::take(&mut self.workers[old].held);
        let (kept, lost): (Vec<_>, Vec<_>) = held
            .into_iter()
            .enumerate()
            .partition(|(i, _)| keep & (1 << i) != 0);
        let kept: Vec<usize> = kept.into_iter().map(|(_, attempt)| attempt).collect();
        self.workers[old].held = lost.into_iter().map(|(_, attempt)| attempt).collect();
        self.gone(old, AttemptOutcome::Released);
        let (handlers, slots) = (self.workers[old].handlers, self.workers[old].slots);
        let new = self.connect(handlers, slots, kept.clone());
        let names: Vec<String> = kept.iter().map(|a| self.attempt_name(*a)).collect();
        let words = format!(
            "worker {old} reconnects as worker {new} and holds [{}]",
            names.join(", ")
        );
        Some((
            words,
            Action::Connect {
                handlers,
                slots,
                previous: Some(old),
                kept,
            },
        ))
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
        let words = format!(
            "register moving {} with {} steps",
            VERSIONS[version],
            SHAPES[content].steps.len()
        );
        (
            words,
            Action::Register {
                version,
                content,
                expected,
            },
        )
    }

    fn resolve(&self, s: &Submission) -> Option<usize> {
        match s.version {
            Some(version) => {
                Some(version).filter(|v| self.templates.contains_key(&(s.template, *v)))
            }
            None => BY_AGE
                .into_iter()
                .rev()
                .find(|v| self.templates.contains_key(&(s.template, *v))),
        }
    }

    fn submit(&mut self, submissions: &[Submission]) -> (String, Action) {
        let words: Vec<String> = submissions
            .iter()
            .map(|s| {
                let version = s.version.map_or("newest", |v| VERSIONS[v]);
                let key = s.key.map_or(String::new(), |key| format!(", key {key}"));
                format!(
                    "{} {version}, priority {}, context {}{key}",
                    SHAPES[s.template].name, s.priority, s.context
                )
            })
            .collect();
        let expected = self.judge(submissions);
        let action = Action::Submit {
            submissions: submissions.to_vec(),
            expected,
        };
        (format!("submit {}", words.join("; and ")), action)
    }

    /// Either all of them are stored or none.
    fn judge(&mut self, submissions: &[Submission]) -> Result<Vec<(usize, bool)>, Code> {
        let content = |s: &Submission| (s.template, s.version, s.priority, s.context);
        let versions: Option<Vec<usize>> = submissions.iter().map(|s| self.resolve(s)).collect();
        let versions = versions.ok_or(Code::NotFound)?;
        let first = |s: &Submission| s.key.and_then(|key| self.keys.get(&key)).copied();
        if submissions
            .iter()
            .any(|s| first(s).is_some_and(|(_, known)| known != content(s)))
        {
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
                state: if parents.is_empty() {
                    StepState::Ready
                } else {
                    StepState::Pending
                },
                surely_ready: false,
                charged: 0,
                lost: 0,
                forgiven: 0,
                retried: false,
                had_failed: false,
                result: String::new(),
                attempts: Vec::new(),
            };
            self.tasks.push(Task {
                shape,
                version,
                priority: s.priority,
                context: s.context,
                state: TaskState::Pending,
                failures: Vec::new(),
                paused: false,
                steps: shape.steps.iter().map(|s| step(s.parents)).collect(),
            });
            if let Some(key) = s.key {
                self.keys.insert(key, (task, content(s)));
            }
            answers.push((task, true));
        }
        Ok(answers)
    }

    fn connect(&mut self, handlers: usize, slots: usize, held: Vec<usize>) -> usize {
        let worker = self.workers.len();
        held.iter()
            .for_each(|attempt| self.attempts[*attempt].worker = worker);
        self.workers.push(Worker {
            handlers,
            slots,
            held,
            draining: false,
            open: true,
        });
        worker
    }

    /// The first answer counts, through whichever worker it comes; copies get the same
    /// acknowledgement.
    fn answer(
        &mut self,
        attempt: usize,
        answers: &[Answer],
        through: Option<usize>,
    ) -> Option<(String, Action)> {
        let running = self.attempts_where(|a| {
            a.outcome == AttemptOutcome::Running && self.workers[a.worker].open
        });
        let attempt = pick(attempt, &running)?;
        let holder = self.attempts[attempt].worker;
        let worker = match through {
            Some(other) => pick(other, &self.workers_where(|w| w.open))?,
            None => holder,
        };
        if worker != holder && self.wrong != Wrong::HoldersAreNotTold {
            self.owed.push(Owed::Lost {
                worker: holder,
                attempt,
            });
        }
        let words = format!(
            "worker {worker} answers {}: {answers:?}",
            self.attempt_name(attempt)
        );
        for i in 0..answers.len() {
            let accepted = i == 0 || self.wrong != Wrong::CopiesAreStale;
            self.owed.push(Owed::Ack {
                worker,
                attempt,
                accepted,
            });
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
}
