//! Decisions without a database: from rows and inputs to changes and messages.

mod lost;
mod orders;
mod refused;
mod verdicts;

use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    decision::Decision,
    finish::delay_failed_probes,
    input::{Input, PendingInput, keys_of, one_order_a_task},
};
use crate::{
    domain::{
        attempt::{Failure, Outcome, OutcomeKind},
        event::EventType,
        lease::Lease,
        order::{Order, OrderError},
        progress::{Fate, Progress, StepSet},
        step::StepState,
        task::TaskState,
    },
    engine::{
        dispatch::message::CancelReason,
        evaluate::verdicts::EvaluationRequest,
        hash::HashMap,
        plan::{compile::plan_for_tests, compiled::Plans},
    },
    store::pipeline::{Changes, EndedRow, LiveRow, Past, SettleRead, TaskRow},
};

const TEMPLATE: i32 = 3;
const TASK: Uuid = Uuid::from_u128(1);
const WORKER: Uuid = Uuid::from_u128(2);
const NOW: Duration = Duration::from_secs(1_000);

/// `a`, then `b` and `c`; `b` may be attempted twice.
const YAML: &str = "
task_name: t
version: 1.0.0
step_templates:
  - {name: a, handler_class: h}
  - {name: b, handler_class: h, depends_on_steps: [a], default_retry_limit: 2}
  - {name: c, handler_class: h, depends_on_steps: [a]}
";

struct Case {
    read: SettleRead,
    plans: Plans,
    past: HashMap<Lease, OutcomeKind>,
}

/// A decision, with its changes as lists of short words.
struct Verdict {
    changes: Changes,
    acks: Vec<(Uuid, Lease, bool)>,
    cancelled: Vec<(Lease, CancelReason)>,
    refused: HashMap<usize, OrderError>,
    evaluations: HashMap<usize, EvaluationRequest>,
}

impl Case {
    /// A case with these steps complete and these in progress.
    fn new(done: &[u16], running: &[i16]) -> Self {
        Self::of(YAML, done, running)
    }

    fn of(yaml: &str, done: &[u16], running: &[i16]) -> Self {
        let plan = plan_for_tests(TEMPLATE, yaml);
        let mut runs = |_: &StepSet, _| Fate::Runs;
        let (mut progress, _) = Progress::new(&plan.graph, plan.graph.len(), &mut runs);
        progress.state = TaskState::InProgress;
        for step in done {
            progress.live -= 1;
            progress.step_ended(&plan.graph, *step, true, &mut runs);
        }
        let task = TaskRow {
            task_id: TASK,
            template_id: TEMPLATE,
            priority: 0,
            progress,
            settings: None,
            expires_at: None,
            error_code: None,
            bytes: 0,
            revision: 0,
        };
        let read = SettleRead {
            live: running.iter().map(|step| live(*step)).collect(),
            ended: Vec::new(),
            tasks: vec![task],
            candidates: Vec::new(),
            now: at(NOW),
        };
        Self {
            read,
            plans: Plans::from_iter([(TEMPLATE, plan)]),
            past: HashMap::default(),
        }
    }

    fn decide(&self, inputs: &[PendingInput]) -> Verdict {
        let decision = Decision::new(&self.read, &self.plans).decide(inputs, &self.past);
        let Decision {
            mut changes,
            acks,
            cancelled,
            refused,
            evaluations,
            failed_probes,
            ..
        } = decision;
        delay_failed_probes(&mut changes, &failed_probes, |_| 30.0);
        Verdict {
            changes,
            acks,
            cancelled,
            refused,
            evaluations,
        }
    }
}

impl Verdict {
    fn events(&self) -> Vec<&'static str> {
        self.changes
            .events
            .iter()
            .map(|e| e.kind.as_str())
            .collect()
    }

    fn acks(&self) -> Vec<bool> {
        self.acks.iter().map(|(.., accepted)| *accepted).collect()
    }

    fn is_silent(&self) -> bool {
        self.changes.is_empty() && self.cancelled.is_empty()
    }
}

fn at(since: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + since
}

fn lease(step: i16) -> Lease {
    Lease {
        task_id: TASK,
        step,
        nonce: 100 + i64::from(step),
    }
}

fn live(step: i16) -> LiveRow {
    LiveRow {
        task_id: TASK,
        step,
        attempt: 1,
        charged: 0,
        lost: 0,
        lease: Some(lease(step).nonce),
        worker_id: Some(WORKER),
        ready_at: at(NOW / 4),
        started_at: Some(at(NOW / 2)),
        deadline_at: Some(at(NOW * 2)),
        probe: false,
        state: StepState::InProgress,
        reopened: false,
        forgiven: 0,
    }
}

fn result(step: i16, outcome: Outcome) -> PendingInput {
    Input::Result {
        lease: lease(step),
        outcome,
        worker_id: WORKER,
        plan: None,
    }
    .into()
}

fn done(step: i16) -> PendingInput {
    result(step, Outcome::Succeeded("1".into()))
}

fn failed(step: i16) -> PendingInput {
    result(
        step,
        Outcome::RetryableError {
            failure: Failure::default(),
            retry_after: None,
        },
    )
}

fn order(task_id: Uuid, order: Order) -> PendingInput {
    let (reply, _) = oneshot::channel();
    Input::Order {
        task_id,
        order,
        by: "me".into(),
        reason: "why".into(),
        reply,
    }
    .into()
}

fn cancel() -> PendingInput {
    order(TASK, Order::Cancel)
}

#[test]
fn result_ends_its_step_and_unlocks_its_children() {
    let verdict = Case::new(&[], &[0]).decide(&[done(0)]);
    assert_eq!(verdict.acks(), [true]);
    let [ended] = &verdict.changes.ended[..] else {
        panic!("{:?}", verdict.changes.ended)
    };
    assert_eq!(
        (ended.step, ended.state, ended.charged, ended.lease),
        (0, StepState::Complete, 0, Some(100))
    );
    let unlocked: Vec<_> = verdict
        .changes
        .new_live
        .iter()
        .map(|l| (l.step, l.lane_id))
        .collect();
    assert_eq!(unlocked, [(1, 2), (2, 3)]);
    let [task] = &verdict.changes.tasks[..] else {
        panic!()
    };
    assert_eq!(
        (task.state, task.steps_live, &task.steps_done[..]),
        (TaskState::InProgress, 2, &[1][..])
    );
    assert_eq!(verdict.events(), ["step.completed"]);
}

#[test]
fn last_results_in_one_batch_end_the_task_once() {
    let verdict = Case::new(&[0], &[1, 2]).decide(&[done(1), done(2)]);
    assert_eq!(
        verdict.events(),
        ["step.completed", "step.completed", "task.completed"]
    );
    let [task] = &verdict.changes.tasks[..] else {
        panic!()
    };
    assert_eq!((task.state, task.steps_live), (TaskState::Complete, 0));
}

#[test]
fn repeated_result_has_no_second_effect() {
    let mut case = Case::new(&[], &[0]);
    let verdict = case.decide(&[done(0), failed(0)]);
    assert_eq!(
        (
            verdict.acks(),
            verdict.changes.ended.len(),
            verdict.changes.retries.len()
        ),
        (vec![true, true], 1, 0)
    );
    case.read.live.clear();
    for (kind, accepted) in [
        (OutcomeKind::Succeeded, true),
        (OutcomeKind::RetryableError, true),
        (OutcomeKind::Released, true),
        (OutcomeKind::Undelivered, false),
        (OutcomeKind::TimedOut, false),
        (OutcomeKind::WorkerLost, false),
        (OutcomeKind::Cancelled, false),
        (OutcomeKind::Drained, false),
    ] {
        case.past = HashMap::from_iter([(lease(0), kind)]);
        let mut verdict = case.decide(&[done(0), done(0)]);
        // A late result is recorded once.
        let late: Vec<_> = verdict
            .changes
            .late
            .drain(..)
            .map(|late| (late.lease, late.outcome))
            .collect();
        assert_eq!(
            late,
            if accepted {
                vec![]
            } else {
                vec![(lease(0), OutcomeKind::Succeeded)]
            },
            "{kind:?}"
        );
        assert!(verdict.is_silent());
        assert_eq!(verdict.acks(), [accepted; 2], "{kind:?}");
    }
}

#[test]
fn holder_of_a_step_answered_by_another_worker_is_notified_once() {
    let case = Case::new(&[0], &[1]);
    let other = Uuid::from_u128(9);
    let by = |worker_id| {
        let outcome = Outcome::Succeeded("1".into());
        PendingInput::from(Input::Result {
            lease: lease(1),
            outcome,
            worker_id,
            plan: None,
        })
    };
    let verdict = case.decide(&[by(other), by(WORKER)]);
    assert_eq!(
        verdict.acks,
        [(other, lease(1), true), (WORKER, lease(1), true)]
    );
    assert_eq!(verdict.cancelled, [(lease(1), CancelReason::LeaseLost)]);
    assert!(case.decide(&[by(WORKER), by(other)]).cancelled.is_empty());
}

#[test]
fn result_of_a_superseded_lease_is_stale() {
    let mut case = Case::new(&[], &[0]);
    case.read.live[0].lease = Some(-1);
    let verdict = case.decide(&[done(0)]);
    assert!(verdict.is_silent());
    assert_eq!(verdict.acks(), [false]);
}

#[test]
fn failures_up_to_the_limit_end_the_task_once_no_step_runs() {
    let mut case = Case::new(&[0], &[1, 2]);
    let verdict = case.decide(&[failed(1)]);
    assert_eq!(
        (verdict.changes.retries.len(), verdict.changes.tasks.len()),
        (1, 0)
    );
    case.read.live[0].charged = 1;
    let verdict = case.decide(&[failed(1)]);
    assert_eq!(verdict.events(), ["step.failed"]);
    assert_eq!(
        (
            verdict.changes.tasks[0].state,
            verdict.changes.tasks[0].failed_step
        ),
        (TaskState::InProgress, Some(1))
    );
    let verdict = case.decide(&[failed(1), done(2)]);
    assert_eq!(
        verdict.events(),
        ["step.failed", "step.completed", "task.failed"]
    );
    assert_eq!(verdict.changes.tasks[0].state, TaskState::Error);
}

#[test]
fn deadline_is_decided_by_the_clock_of_the_database() {
    let mut case = Case::new(&[0], &[1]);
    let deadline = PendingInput::from(Input::Deadline { lease: lease(1) });
    assert!(
        case.decide(std::slice::from_ref(&deadline)).is_silent(),
        "not yet"
    );
    case.read.live[0].deadline_at = Some(at(NOW));
    let verdict = case.decide(&[deadline, done(1)]);
    assert_eq!(
        verdict.changes.retries[0].attempt.outcome,
        OutcomeKind::TimedOut
    );
    assert_eq!(verdict.cancelled, [(lease(1), CancelReason::TimedOut)]);
    assert_eq!(verdict.acks(), [false]);
}

#[test]
fn worker_is_notified_of_a_deadline_of_an_attempt_that_ended() {
    let verdict = Case::new(&[], &[]).decide(&[Input::Deadline { lease: lease(0) }.into()]);
    assert!(verdict.changes.is_empty());
    assert_eq!(verdict.cancelled, [(lease(0), CancelReason::LeaseLost)]);
}

#[test]
fn leases_and_tasks_are_locked_in_one_order() {
    let other = Uuid::from_u128(7);
    let inputs = [
        order(other, Order::Cancel),
        done(2),
        done(0),
        Input::Deadline { lease: lease(2) }.into(),
    ];
    let (leases, tasks, cancels) = keys_of(&inputs);
    assert_eq!(leases, [lease(0), lease(2)]);
    assert_eq!((tasks, cancels), (vec![TASK, other], vec![other]));
}

#[test]
fn transaction_has_one_order_for_a_task_and_defers_the_others() {
    let other = Uuid::from_u128(7);
    let inputs = vec![
        cancel(),
        done(0),
        order(other, Order::Pause),
        order(TASK, Order::Resume),
        Input::Expire { task_id: other }.into(),
    ];
    let work = one_order_a_task(inputs);
    let sizes: Vec<usize> = work.iter().map(Vec::len).collect();
    assert_eq!(sizes, [2, 3], "the last is the first");
    assert!(matches!(
        work[0][0].input,
        Input::Order {
            order: Order::Resume,
            ..
        }
    ));
}

#[test]
fn task_ends_at_its_deadline_and_not_before() {
    let mut case = Case::new(&[0], &[1, 2]);
    case.read.tasks[0].expires_at = Some(at(NOW * 2));
    assert!(
        case.decide(&[Input::Expire { task_id: TASK }.into()])
            .is_silent(),
        "not yet"
    );
    case.read.tasks[0].expires_at = Some(at(NOW));
    let verdict = case.decide(&[Input::Expire { task_id: TASK }.into()]);
    assert_eq!(verdict.cancelled.len(), 2);
    assert_eq!(verdict.changes.tasks[0].state, TaskState::Error);
    assert_eq!(
        verdict.changes.marks[0].error_code.as_deref(),
        Some("DEADLINE_EXCEEDED")
    );
    assert_eq!(
        verdict.changes.events[2]
            .failure
            .as_ref()
            .map(|f| f.code.as_str()),
        Some("DEADLINE_EXCEEDED")
    );
}
