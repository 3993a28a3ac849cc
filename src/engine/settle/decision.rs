//! The decision on a batch. Pure: from the rows that were read under lock to the rows to write and
//! the messages to send after the commit.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tasker_template::Backoff;
use uuid::Uuid;

use super::{
    Input, MAX_ROUNDS, Pending,
    judging::{Answer, Ask, Verdicts},
    orders,
};
use crate::engine::hash::HashMap;
use crate::{
    domain::{
        attempt::{Outcome, OutcomeKind, Spent},
        event::EventType,
        lease::Lease,
        order::OrderError,
        progress::{Fate, Progress, StepSet},
        step::{StepEvent, StepState},
        task::TaskState,
    },
    engine::{claims::Plans, effective::Effective, gates::Call, hub::CancelReason},
    store::pipeline::{
        Changes, Ended, EndedAttempt, EndedRow, Event, GivenBack, Kept, Late, LiveRow, Retry,
        SettleRead, TaskRow, TaskUpdate,
    },
};

/// Back-off of a step that was released by a worker that does not drain, or by several draining
/// workers.
const RELEASE_PAUSE: Backoff = Backoff {
    base_seconds: 1.0,
    multiplier: 1.0,
    max_seconds: 1.0,
    jitter: 0.0,
};

/// Longest back-off of a step whose assignments do not arrive, in seconds.
const MAX_UNDELIVERED_PAUSE_SECONDS: f64 = 30.0;

pub(super) struct TaskInHand<'a> {
    pub(super) row: &'a TaskRow,
    pub(super) own: Effective<'a>,
    pub(super) progress: Progress,
    pub(super) changed: bool,
    pub(super) cancelled: Option<(String, String)>,
    /// The priority, as changed by a planner in this batch.
    pub(super) priority: i16,
    /// A planner changed the task in this batch, so verdicts from before do not apply.
    pub(super) planned: bool,
}

/// A decision under construction.
pub(super) struct Decision<'a> {
    pub(super) now: SystemTime,
    /// The back-off of a step whose probe failed, by lane, in seconds.
    past_probing: &'a (dyn Fn(i32) -> f64 + Sync),
    plans: &'a Plans,
    pub(super) tasks: BTreeMap<Uuid, TaskInHand<'a>>,
    /// The queue rows that this batch has not ended, by step.
    pub(super) live: BTreeMap<(Uuid, i16), &'a LiveRow>,
    /// The ended steps of tasks that a command addresses.
    pub(super) ended: BTreeMap<(Uuid, i16), &'a EndedRow>,
    /// Leases settled in this batch and the acknowledgement they got: a duplicate gets the same.
    pub(super) settled: HashMap<Lease, bool>,
    pub changes: Changes,
    pub acks: Vec<(Uuid, Lease, bool)>,
    pub cancelled: Vec<(Lease, CancelReason)>,
    pub refused: HashMap<usize, OrderError>,
    /// Inputs that need an evaluation first. They have changed nothing.
    pub asks: HashMap<usize, Ask>,
    /// Tasks whose deadline turned out to have passed.
    pub expiring: Vec<Uuid>,
    /// Lanes with waiting steps that a resume made claimable.
    pub woken: Vec<i32>,
    /// Tasks that changed, and whether they are final now.
    pub touched: Vec<(Uuid, bool)>,
    /// Ended attempts, for the health of their services.
    pub calls: Vec<Call>,
    /// Lanes whose service asked for a pause, and its length.
    pub pauses: Vec<(i32, Duration)>,
}

impl<'a> Decision<'a> {
    pub fn new(
        read: &'a SettleRead,
        plans: &'a Plans,
        past_probing: &'a (dyn Fn(i32) -> f64 + Sync),
    ) -> Self {
        let tasks = read
            .tasks
            .iter()
            .filter_map(|row| {
                let own = Effective::of(plans.get(&row.template_id)?, row.settings.as_deref());
                let (progress, priority) = (row.progress.clone(), row.priority);
                let hand = TaskInHand {
                    row,
                    own,
                    progress,
                    changed: false,
                    cancelled: None,
                    priority,
                    planned: false,
                };
                Some((row.task_id, hand))
            })
            .collect();
        Self {
            now: read.now,
            past_probing,
            plans,
            tasks,
            live: read
                .live
                .iter()
                .map(|row| ((row.task_id, row.step), row))
                .collect(),
            ended: read
                .ended
                .iter()
                .map(|row| ((row.task_id, row.step), row))
                .collect(),
            settled: HashMap::default(),
            expiring: Vec::new(),
            woken: Vec::new(),
            changes: Changes::default(),
            acks: Vec::new(),
            cancelled: Vec::new(),
            refused: HashMap::default(),
            asks: HashMap::default(),
            touched: Vec::new(),
            calls: Vec::new(),
            pauses: Vec::new(),
        }
    }

    /// Applies operator commands first: a result in the same batch then finds its lease gone and is
    /// stale, and no effect has to be undone.
    pub fn take_orders(&mut self, inputs: &[Pending]) {
        for (i, input) in inputs.iter().enumerate() {
            match &**input {
                Input::Order {
                    task_id,
                    order,
                    by,
                    reason,
                    ..
                } => match self.order(*task_id, order, (by.clone(), reason.clone()), input) {
                    Ok(None) => {}
                    Ok(Some(ask)) => drop(self.asks.insert(i, ask)),
                    Err(error) => drop(self.refused.insert(i, error)),
                },
                Input::Expire { task_id } => self.expire(*task_id),
                _ => {}
            }
        }
    }

    /// Applies the `i`th input, unless it needs an evaluation first.
    pub fn take(&mut self, i: usize, input: &Pending, past: &HashMap<Lease, OutcomeKind>) {
        match &**input {
            Input::Result {
                lease,
                outcome,
                worker_id,
                ..
            } => {
                let accepted = match self.settled.get(lease).copied() {
                    // A duplicate within this batch gets the same acknowledgement.
                    Some(accepted) => {
                        self.late(*lease, outcome, accepted);
                        accepted
                    }
                    None => {
                        let holder = self.row(*lease).and_then(|row| row.worker_id);
                        if let Some(ask) = self.unjudged(*lease, outcome, input) {
                            self.asks.insert(i, ask);
                            return;
                        }
                        let live = self.end_attempt(*lease, outcome, None, &input.verdicts);
                        if live && holder != Some(*worker_id) {
                            // Another worker brought the answer, so the holder is asked to stop.
                            self.cancelled.push((*lease, CancelReason::LeaseLost));
                        }
                        // The attempt ended in an earlier transaction. If a worker's answer ended
                        // it, this one is a duplicate and accepted; otherwise it is late.
                        let copy = past.get(lease).map(|kind| kind.is_from_worker());
                        self.late(*lease, outcome, live || copy.unwrap_or(true));
                        if live || copy.is_some() {
                            self.settled
                                .insert(*lease, live || copy.unwrap_or_default());
                        }
                        live || copy.unwrap_or_default()
                    }
                };
                self.acks.push((*worker_id, *lease, accepted));
            }
            Input::Gone {
                lease,
                worker_id,
                outcome,
            } => {
                if self.end_attempt(*lease, outcome, Some(*worker_id), &input.verdicts) {
                    self.settled.insert(*lease, false);
                    self.cancelled.push((*lease, CancelReason::LeaseLost));
                }
            }
            Input::Deadline { lease } => self.deadline(*lease),
            Input::TooLarge(step) => self.too_large(step),
            Input::Order { .. } | Input::Expire { .. } => {}
        }
    }

    /// Records an answer that came after its attempt had ended. Only for attempts that existed: a
    /// worker can make up any lease.
    fn late(&mut self, lease: Lease, outcome: &Outcome, accepted: bool) {
        if !accepted && !self.changes.late.iter().any(|late| late.lease == lease) {
            self.changes.late.push(Late {
                lease,
                outcome: outcome.kind(),
            });
        }
    }

    /// The evaluation that a result needs before it can end its attempt.
    fn unjudged(&self, lease: Lease, outcome: &Outcome, input: &Pending) -> Option<Ask> {
        let Outcome::Succeeded(result) = outcome else {
            return None;
        };
        self.row(lease)?;
        self.lacks(lease.task_id, lease.step, Some(result), input)
    }

    /// The evaluation that is missing before a step may be done: of its result, and of the
    /// conditions of the steps that it unlocks.
    ///
    /// After `MAX_ROUNDS` evaluations, each overtaken by a change of the task, the input is not
    /// evaluated again: missing verdicts then count as failures.
    pub(super) fn lacks(
        &self,
        task_id: Uuid,
        step: i16,
        result: Option<&str>,
        input: &Pending,
    ) -> Option<Ask> {
        let task = self.tasks.get(&task_id)?;
        let (plan, verdicts) = (task.own.plan, &input.verdicts);
        let judges_result = result.is_some() && plan.judges_result(step);
        if !judges_result && !plan.is_conditional() || input.rounds >= MAX_ROUNDS {
            return None;
        }
        let holds = !task.planned && verdicts.are_about(task.row);
        let complete = match &verdicts.answer {
            Some(Answer::Wrong(_)) => true,
            Some(Answer::Plan(planning)) => {
                let own = Effective {
                    plan,
                    settings: planning.settings.clone(),
                };
                holds && Self::all_judged(&own, &task.progress, step, verdicts)
            }
            answer => {
                let answered = !judges_result || answer.is_some();
                let none = Verdicts::default();
                answered
                    && Self::all_judged(
                        &task.own,
                        &task.progress,
                        step,
                        if holds { verdicts } else { &none },
                    )
            }
        };
        if complete {
            return None;
        }
        let mut row = TaskRow {
            progress: task.progress.clone(),
            priority: task.priority,
            ..task.row.clone()
        };
        if task.planned {
            let planned = self
                .changes
                .planned
                .iter()
                .rfind(|planned| planned.task_id == task_id);
            row.settings = planned
                .map(|planned| Arc::from(planned.settings.as_str()))
                .or(row.settings);
        }
        Some(Ask {
            plan: Arc::clone(self.plans.get(&task.row.template_id)?),
            row,
            step,
        })
    }

    /// Whether every condition that is decided by the end of this step has a verdict.
    fn all_judged(
        own: &Effective<'_>,
        progress: &Progress,
        step: i16,
        verdicts: &Verdicts,
    ) -> bool {
        if !own.plan.is_conditional() {
            return true;
        }
        let mut complete = true;
        let mut fate = |done: &StepSet, child: u16| {
            let known = own
                .plan
                .unconditional(own, child)
                .or_else(|| verdicts.fate(own.plan, done, child).cloned());
            complete = complete && known.is_some();
            known.unwrap_or(Fate::Runs)
        };
        progress
            .clone()
            .step_ended(&own.plan.graph, step.cast_unsigned(), true, &mut fate);
        complete
    }

    fn deadline(&mut self, lease: Lease) {
        match self.row(lease).map(|row| row.deadline_at) {
            Some(at) if at.is_some_and(|at| at <= self.now) => {
                let expires_at = self
                    .tasks
                    .get(&lease.task_id)
                    .and_then(|task| task.row.expires_at);
                if expires_at.is_some_and(|at| at <= self.now) {
                    // The whole task expires, which needs locks on all of its queue rows.
                    self.expiring.push(lease.task_id);
                } else if self.end_attempt(lease, &Outcome::TimedOut, None, &Verdicts::default()) {
                    self.settled.insert(lease, false);
                    self.cancelled.push((lease, CancelReason::TimedOut));
                }
            }
            Some(_) => {}
            // The attempt has ended, but its worker may not have been notified, for example after a
            // commit of uncertain outcome.
            None => self.cancelled.push((lease, CancelReason::LeaseLost)),
        }
    }

    /// The queue row of a lease, if the lease is current.
    fn row(&self, lease: Lease) -> Option<&'a LiveRow> {
        self.live
            .get(&(lease.task_id, lease.step))
            .copied()
            .filter(|row| row.lease == Some(lease.nonce))
    }

    /// Ends the attempt if its lease is current and, if `holder` is given, belongs to that worker.
    /// Returns whether it did.
    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each way an attempt ends"
    )]
    fn end_attempt(
        &mut self,
        lease: Lease,
        outcome: &Outcome,
        holder: Option<Uuid>,
        verdicts: &Verdicts,
    ) -> bool {
        let Some(row) = self.row(lease) else {
            return false;
        };
        let (Some(worker_id), Some(started_at)) = (row.worker_id, row.started_at) else {
            return false;
        };
        if holder.is_some_and(|holder| holder != worker_id) {
            return false;
        }
        let Some(task) = self.tasks.get(&lease.task_id) else {
            return false;
        };
        let (plan, template_id) = (task.own.plan, task.row.template_id);
        let Some(template) = task.own.step(lease.step) else {
            return false;
        };
        let outcome = &*self.judged(lease, outcome, verdicts);
        // `free` counts the earlier attempts that were neither charged nor forgiven.
        let spent = Spent {
            charged: unsigned(row.charged),
            lost: unsigned(row.lost),
            free: u16::try_from(row.attempt - 1 - i32::from(row.charged) - row.forgiven)
                .unwrap_or_default(),
            probe: row.probe,
        };
        let verdict = outcome.judge(
            spent,
            u16::try_from(template.retry_limit).unwrap_or(u16::MAX),
        );
        let Ok(state) = StepState::InProgress.after(verdict.event) else {
            return false;
        };
        let attempt = EndedAttempt {
            task_id: lease.task_id,
            step: lease.step,
            template_id,
            attempt: row.attempt,
            lease: lease.nonce,
            worker_id,
            outcome: outcome.kind(),
            charged: verdict.charged,
            failure: outcome.failure(),
            retry_after: match outcome {
                Outcome::RetryableError { retry_after, .. } => *retry_after,
                _ => None,
            },
            ready_at: row.ready_at,
            started_at,
        };
        let lane_id = plan.lane(unsigned(lease.step));
        self.calls.push(Call {
            lane_id,
            outcome: attempt.outcome,
            started_at,
        });
        self.pauses
            .extend(attempt.retry_after.map(|time| (lane_id, time)));
        self.live.remove(&(lease.task_id, lease.step));
        self.touched.push((lease.task_id, false));
        match verdict.event {
            StepEvent::Retry => {
                let mut backoff = template.backoff;
                if matches!(outcome, Outcome::Released { .. } | Outcome::Drained) {
                    backoff = RELEASE_PAUSE;
                } else if matches!(outcome, Outcome::Undelivered) {
                    backoff = undelivered_pause(spent.lost);
                } else if !verdict.charged {
                    // Other uncharged retries are failed probes: they wait past the next probing.
                    let attempt = u32::from(unsigned(row.charged)) + 1;
                    backoff = backoff.at_least(attempt, (self.past_probing)(lane_id));
                }
                self.changes.retries.push(Retry { attempt, backoff });
            }
            StepEvent::GiveBack => {
                self.changes
                    .events
                    .push(Event::of_attempt(EventType::StepRetrying, &attempt));
                let lost = matches!(outcome, Outcome::WorkerLost | Outcome::Undelivered);
                self.changes.given_back.push(GivenBack { attempt, lost });
            }
            event => {
                let kind = if event == StepEvent::Succeed {
                    EventType::StepCompleted
                } else {
                    EventType::StepFailed
                };
                self.changes.events.push(Event::of_attempt(kind, &attempt));
                let result = match outcome {
                    Outcome::Succeeded(json) => Some(json.clone()),
                    _ => None,
                };
                self.end_step(row, state, Some(&attempt), result);
                // The row leaves the queue before its children are decided, so that the task's
                // progress counts only rows that stay in play.
                self.leaves_play(lease.task_id);
                self.follow(
                    lease.task_id,
                    lease.step,
                    event == StepEvent::Succeed,
                    verdicts,
                );
            }
        }
        true
    }

    pub(super) fn end_step(
        &mut self,
        row: &LiveRow,
        state: StepState,
        attempt: Option<&EndedAttempt>,
        result: Option<String>,
    ) {
        self.changes.ended.push(Ended {
            task_id: row.task_id,
            step: row.step,
            lease: row.lease,
            state,
            attempt: row.attempt,
            charged: row.charged + i16::from(attempt.is_some_and(|a| a.charged)),
            result,
            failure: attempt.and_then(|a| a.failure.clone()),
            ready_at: row.ready_at,
            started_at: row.started_at,
        });
    }

    /// Concludes the changed tasks and adds their updates and events.
    pub fn finish(mut self) -> Self {
        for (task_id, task) in &mut self.tasks {
            if !task.changed {
                continue;
            }
            if let Some(event) = task.progress.conclusion(task.own.plan.template.steps.len())
                && let Ok(after) = task.progress.state.after(event)
            {
                task.progress.state = after;
            }
            let kind = match task.progress.state {
                TaskState::Complete => Some(EventType::TaskCompleted),
                TaskState::Error => Some(EventType::TaskFailed),
                TaskState::Cancelled => Some(EventType::TaskCancelled),
                TaskState::ResolvedManually => Some(EventType::TaskResolved),
                TaskState::Pending | TaskState::InProgress => None,
            };
            let mark = self
                .changes
                .marks
                .iter()
                .find(|mark| mark.task_id == *task_id);
            let failure = mark
                .and_then(|mark| mark.error_code.as_deref())
                .map(orders::expired);
            let ordered = task
                .cancelled
                .clone()
                .or_else(|| mark.and_then(|mark| mark.resolved.clone()));
            let event = |kind| Event {
                failure,
                ordered,
                ..Event::of_task(kind, task.row.template_id, *task_id)
            };
            self.changes.events.extend(kind.map(event));
            self.changes.tasks.push(TaskUpdate {
                task_id: *task_id,
                state: task.progress.state,
                steps_live: i16::try_from(task.progress.live).unwrap_or(i16::MAX),
                steps_done: task.progress.done.as_bytes().to_vec(),
                failed_step: task
                    .progress
                    .failed_step
                    .and_then(|s| i16::try_from(s).ok()),
                cancelled: task.cancelled.take(),
                expected: None,
                bytes: task.row.bytes,
                kept: Kept {
                    template_id: task.row.template_id,
                    priority: task.priority,
                    settings: task.row.settings.clone(),
                    revision: task.row.revision,
                    expires_at: task.row.expires_at,
                },
            });
        }
        self.touched.sort_unstable();
        self.touched.dedup();
        for (task_id, ended) in &mut self.touched {
            *ended = self
                .tasks
                .get(task_id)
                .is_some_and(|task| task.progress.state.is_final());
        }
        self
    }
}

/// The back-off in seconds: 0.25 * 2^lost, at most [`MAX_UNDELIVERED_PAUSE_SECONDS`].
fn undelivered_pause(lost: u16) -> Backoff {
    let seconds = (0.25 * 2_f64.powi(lost.into())).min(MAX_UNDELIVERED_PAUSE_SECONDS);
    Backoff {
        base_seconds: seconds,
        multiplier: 1.0,
        max_seconds: seconds,
        jitter: 0.0,
    }
}

pub(super) fn unsigned(n: i16) -> u16 {
    u16::try_from(n).unwrap_or_default()
}
