//! Each test seeds one kind of violation into a correct history; the checker must find it.

mod orders;
mod seeds;

use std::collections::BTreeSet;

use tasker::domain::{lease::Lease, order::Order};
use uuid::Uuid;

use super::{
    check,
    history::{
        Attempt, Event, History, Intent, Micros, Plan, PlannedStep, Shut, Step, Task, Told, Worker,
    },
};
use crate::ledger::{Ack, Digest, End, Line, Said, Start};

const SECOND: Micros = 1_000_000;
const TEMPLATE: i32 = 1;
const WORKER: Uuid = Uuid::from_u128(0xbee);

// The tasks of the story, by number.
const DONE: u64 = 1;
const FAILED: u64 = 2;
const CANCELLED: u64 = 3;
const BATCH: [u64; 2] = [4, 5];

fn id(n: u64) -> Uuid {
    Uuid::from_u128(u128::from(n))
}

/// a -> b, c -> d.
fn diamond() -> Plan {
    let step = |name: &str, parents: &[usize], ancestors: &[usize]| PlannedStep {
        name: name.into(),
        service: 1,
        parents: parents.to_vec(),
        ancestors: ancestors.to_vec(),
        retry_limit: 2,
        timeout: 5 * SECOND,
    };
    let steps = vec![
        step("a", &[], &[]),
        step("b", &[0], &[0]),
        step("c", &[0], &[0]),
        step("d", &[1, 2], &[0, 1, 2]),
    ];
    Plan {
        name: "t/diamond".into(),
        steps,
    }
}

/// Writes a history as the server and the handlers would.
struct Story {
    history: History,
    now: Micros,
}

impl Story {
    fn task(&mut self, n: u64, intent: Intent, state: &str) {
        let (context, submitted_at) = (intent.context.clone(), self.tick());
        self.history.intents.insert(n, intent);
        self.history.told.push(Told::Submitted {
            n,
            task: id(n),
            created: true,
        });
        self.event(n, "task.submitted", None, None);
        self.history.tasks.push(Task {
            id: id(n),
            template: TEMPLATE,
            state: state.into(),
            correlation_id: format!("n-{n}"),
            context,
            submitted_at,
            started_at: Some(self.now),
            ended_at: None,
        });
        self.event(n, "task.started", None, None);
        for step in 0..4 {
            self.history.steps.push(Step {
                task: id(n),
                step,
                state: if state == "cancelled" {
                    "cancelled"
                } else {
                    "pending"
                }
                .into(),
                attempt: 0,
                charged: 0,
                result: None,
                error_code: None,
                ended_at: None,
            });
        }
    }

    fn tick(&mut self) -> Micros {
        self.now += SECOND;
        self.now
    }

    fn event(&mut self, n: u64, kind: &str, attempt: Option<(i16, i32)>, outcome: Option<&str>) {
        self.history.events.push(Event {
            task: id(n),
            kind: kind.into(),
            at: self.now,
            step: attempt.map(|a| a.0),
            attempt: attempt.map(|a| a.1),
            outcome: outcome.map(Into::into),
            detail: None,
        });
    }

    fn row(&mut self, n: u64, step: i16) -> &mut Step {
        self.history
            .steps
            .iter_mut()
            .find(|s| s.task == id(n) && s.step == step)
            .unwrap()
    }

    /// The digest of the results that a handler of a step with these ancestors gets.
    fn results(&mut self, n: u64, plan: &Plan, ancestors: &[usize]) -> Digest {
        let mut result = |step: usize| self.row(n, i16::try_from(step).unwrap()).result.clone();
        let results: Vec<_> = ancestors
            .iter()
            .map(|a| (*a, result(*a).unwrap_or("null".into())))
            .collect();
        Digest::of_all(
            results
                .iter()
                .map(|(a, json)| (plan.steps[*a].name.as_str(), json.as_str())),
        )
    }

    /// The handler's answer at the end of its attempt, if a handler can cause this outcome, and the
    /// server's acknowledgement.
    fn answer(&mut self, lease: String, outcome: &str, result: Option<&str>) {
        let said = match outcome {
            "succeeded" => Some(Said::Success),
            "retryable_error" => Some(Said::RetryableError),
            "permanent_error" => Some(Said::PermanentError),
            _ => None,
        };
        if let Some(said) = said {
            let result = result.map(Digest::of);
            self.history.lines.push(Line::End(End {
                lease: lease.clone(),
                said,
                result,
            }));
            self.history.lines.push(Line::Ack(Ack {
                lease,
                accepted: true,
            }));
        } else {
            self.history.lines.push(Line::Ack(Ack {
                lease,
                accepted: false,
            }));
        }
    }

    /// One attempt from its start to its end, with the handler's answer if a handler can cause this
    /// outcome.
    fn attempt(&mut self, n: u64, step: i16, outcome: &str, end: &str) {
        let attempt = self.row(n, step).attempt + 1;
        let nonce = i64::from(attempt) * 100 + i64::from(step);
        let lease = Lease {
            task_id: id(n),
            step,
            nonce,
        }
        .to_token();
        let started_at = self.tick();
        self.event(n, "step.started", Some((step, attempt)), None);
        let plan = diamond();
        let planned = &plan.steps[usize::try_from(step).unwrap()];
        let (name, results) = (
            planned.name.clone(),
            self.results(n, &plan, &planned.ancestors),
        );
        self.history.lines.push(Line::Start(Start {
            worker: "w".into(),
            lease: lease.clone(),
            key: format!("{}/{name}", id(n)),
            task: id(n).to_string(),
            step: name,
            attempt,
            context: Digest::of(&self.history.intents[&n].context),
            results,
        }));
        let result = (outcome == "succeeded").then(|| format!("{{\"step\": {step}}}"));
        self.answer(lease, outcome, result.as_deref());
        self.now += 5 * SECOND;
        let ended_at = self.tick();
        self.event(n, end, Some((step, attempt)), Some(outcome));
        let charged = ["retryable_error", "permanent_error", "timed_out"].contains(&outcome);
        let retry = outcome == "retryable_error" && end == "step.retrying";
        let error_code = (outcome == "permanent_error").then(|| "NO".to_owned());
        self.history.attempts.push(Attempt {
            task: id(n),
            step,
            attempt,
            outcome: outcome.into(),
            charged,
            lease: nonce,
            worker: WORKER,
            started_at,
            ended_at,
            next_attempt_at: retry.then_some(ended_at + SECOND / 2),
            retry_after: retry.then_some(SECOND / 4),
            error_code: error_code.clone(),
        });
        let row = self.row(n, step);
        (row.attempt, row.charged) = (attempt, row.charged + i32::from(charged));
        if end != "step.retrying" {
            row.ended_at = Some(ended_at);
            row.state = match end {
                "step.completed" => "complete",
                "step.failed" => "error",
                _ => "cancelled",
            }
            .into();
            (row.result, row.error_code) = (result, error_code);
        }
    }

    fn end(&mut self, n: u64, kind: &str) {
        self.event(n, kind, None, None);
        let now = self.now;
        self.history
            .tasks
            .iter_mut()
            .find(|t| t.id == id(n))
            .unwrap()
            .ended_at = Some(now);
    }
}

fn intent(key: Option<&str>, batch: Option<u64>) -> Intent {
    Intent {
        template: "t/diamond".into(),
        context: "{\"n\":9007199254740993}".into(),
        key: key.map(Into::into),
        batch,
        tries: 2,
    }
}

/// A history that contains every permitted transition, and no violation.
fn good() -> History {
    let mut story = Story {
        history: History::default(),
        now: 0,
    };
    story.history.plans.insert(TEMPLATE, diamond());
    // The lease ran out before an attempt was lost.
    story.history.workers.insert(
        WORKER,
        Worker {
            draining: false,
            lease_expires_at: 1,
            ended_at: Some(2),
        },
    );
    story.task(DONE, intent(Some("k"), None), "complete");
    story.history.told.push(Told::Submitted {
        n: DONE,
        task: id(DONE),
        created: false,
    });
    story.attempt(DONE, 0, "succeeded", "step.completed");
    story.attempt(DONE, 1, "retryable_error", "step.retrying");
    story.attempt(DONE, 1, "succeeded", "step.completed");
    story.attempt(DONE, 2, "worker_lost", "step.retrying");
    story.attempt(DONE, 2, "timed_out", "step.retrying");
    story.attempt(DONE, 2, "succeeded", "step.completed");
    story.attempt(DONE, 3, "succeeded", "step.completed");
    story.end(DONE, "task.completed");
    story.history.told.push(Told::Ended {
        task: id(DONE),
        state: "complete".into(),
    });
    story.task(FAILED, intent(None, None), "error");
    story.attempt(FAILED, 0, "succeeded", "step.completed");
    story.attempt(FAILED, 1, "permanent_error", "step.failed");
    story.attempt(FAILED, 2, "succeeded", "step.completed");
    story.end(FAILED, "task.failed");
    story.task(CANCELLED, intent(None, None), "cancelled");
    story.attempt(CANCELLED, 0, "succeeded", "step.completed");
    story.attempt(CANCELLED, 1, "cancelled", "step.cancelled");
    story.event(CANCELLED, "step.cancelled", Some((2, 0)), None);
    story.end(CANCELLED, "task.cancelled");
    story.history.told.push(Told::Ordered {
        task: id(CANCELLED),
        order: Order::Cancel,
    });
    for n in BATCH {
        story.task(n, intent(None, Some(7)), "complete");
        for step in 0..4 {
            story.attempt(n, step, "succeeded", "step.completed");
        }
        story.end(n, "task.completed");
    }
    orders::add(&mut story);
    story.history
}

type Change = fn(&mut History);

fn task(history: &mut History, n: u64) -> &mut Task {
    history.tasks.iter_mut().find(|t| t.id == id(n)).unwrap()
}

fn step(history: &mut History, n: u64, step: i16) -> &mut Step {
    history
        .steps
        .iter_mut()
        .find(|s| s.task == id(n) && s.step == step)
        .unwrap()
}

fn attempt(history: &mut History, n: u64, step: i16, number: i32) -> &mut Attempt {
    let is = |a: &&mut Attempt| a.task == id(n) && a.step == step && a.attempt == number;
    history.attempts.iter_mut().find(is).unwrap()
}

fn token(n: u64, step: i16, number: i32) -> String {
    Lease {
        task_id: id(n),
        step,
        nonce: i64::from(number) * 100 + i64::from(step),
    }
    .to_token()
}

fn start(history: &mut History, n: u64, step: i16, number: i32) -> &mut Start {
    let token = token(n, step, number);
    let start = history.lines.iter_mut().find_map(|line| match line {
        Line::Start(start) if start.lease == token => Some(start),
        _ => None,
    });
    start.unwrap()
}

fn end(history: &mut History, n: u64, step: i16, number: i32) -> &mut End {
    let token = token(n, step, number);
    let end = history.lines.iter_mut().find_map(|line| match line {
        Line::End(end) if end.lease == token => Some(end),
        _ => None,
    });
    end.unwrap()
}

fn ack(history: &mut History, n: u64, step: i16, number: i32) -> &mut Ack {
    let token = token(n, step, number);
    let ack = history.lines.iter_mut().find_map(|line| match line {
        Line::Ack(ack) if ack.lease == token => Some(ack),
        _ => None,
    });
    ack.unwrap()
}

fn event(history: &History, n: u64, kind: &str) -> usize {
    history
        .events
        .iter()
        .position(|e| e.task == id(n) && e.kind == kind)
        .unwrap()
}

/// Removes all rows of a task.
fn forget(history: &mut History, n: u64) {
    history.tasks.retain(|t| t.id != id(n));
    history.steps.retain(|s| s.task != id(n));
    history.attempts.retain(|a| a.task != id(n));
    history.events.retain(|e| e.task != id(n));
}

/// Violations that the run itself finds, not the checker.
const OF_THE_RUN: &[&str] = &[
    "InvariantBroken",
    "ProcessEnded",
    "ProcessStayed",
    "LedgerTorn",
];

fn seeded() -> impl Iterator<Item = &'static (&'static str, Change)> {
    [
        seeds::PROMISES,
        seeds::STATES,
        seeds::ATTEMPTS,
        seeds::RUNS,
        seeds::DOCUMENTS,
        seeds::ORDER,
        seeds::SERVICES,
        orders::SEEDS,
    ]
    .into_iter()
    .flatten()
}

#[test]
fn valid_history_has_no_violations() {
    assert_eq!(check(&good()), []);
}

#[test]
fn planted_violation_of_each_kind_is_found() {
    for (i, (kind, change)) in seeded().enumerate() {
        let mut history = good();
        change(&mut history);
        let found = check(&history);
        let kinds: BTreeSet<String> = found
            .iter()
            .map(super::violation::Violation::kind)
            .collect();
        assert!(
            kinds.contains(*kind),
            "seed {i}: {kind} was not found, but {found:#?}"
        );
        assert!(
            found
                .iter()
                .all(|violation| !violation.to_string().is_empty())
        );
    }
}

#[test]
fn every_kind_of_violation_is_planted() {
    let source = include_str!("violation.rs");
    let body = source
        .split("pub enum Violation {")
        .nth(1)
        .unwrap()
        .split("\n}")
        .next()
        .unwrap();
    let kinds: BTreeSet<&str> = body
        .lines()
        .filter_map(|line| {
            line.strip_prefix("    ")?
                .split_once(" {")
                .map(|(kind, _)| kind)
        })
        .filter(|kind| kind.chars().all(char::is_alphanumeric))
        .collect();
    let covered: BTreeSet<&str> = seeded()
        .map(|(kind, _)| *kind)
        .chain(OF_THE_RUN.iter().copied())
        .collect();
    assert_eq!(kinds, covered);
}

/// A draining worker may be lost before its lease runs out, and the tenth lost attempt ends a step.
#[test]
fn permitted_history_is_not_a_violation() {
    let mut history = good();
    let worker = history.workers.get_mut(&WORKER).unwrap();
    (worker.draining, worker.lease_expires_at) = (true, 1_000 * SECOND);
    assert_eq!(check(&history), []);
    let mut history = good();
    // The attempt was taken from its handler, which goes on while the next one starts.
    let lease = token(DONE, 2, 1);
    history.lines.push(Line::End(End {
        lease,
        said: Said::Success,
        result: None,
    }));
    assert_eq!(check(&history), []);
}
