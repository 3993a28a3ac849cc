//! The decision on a batch. Pure: from the rows that were read under lock to the rows to write and
//! the messages to send after the commit.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use uuid::Uuid;

use super::input::{Input, PendingInput};
use crate::{
    domain::{attempt::OutcomeKind, lease::Lease, order::OrderError, progress::Progress},
    engine::{
        admission::control::Call,
        dispatch::message::CancelReason,
        evaluate::verdicts::EvaluationRequest,
        hash::HashMap,
        plan::{compiled::Plans, task_plan::TaskPlan},
    },
    store::pipeline::{Changes, EndedRow, LiveRow, SettleRead, TaskRow},
};

/// A task as changed by the inputs so far.
pub struct WorkingTask<'a> {
    pub row: &'a TaskRow,
    pub own: TaskPlan<'a>,
    pub progress: Progress,
    pub changed: bool,
    pub cancelled: Option<(String, String)>,
    /// The priority, as changed by a planner in this batch.
    pub priority: i16,
    /// A planner changed the task in this batch, so verdicts from before do not apply.
    pub planned: bool,
}

/// A retry whose attempt was a failed probe.
pub struct FailedProbe {
    /// Its position in the retries.
    pub retry: usize,
    pub lane_id: i32,
    /// The number of the step's next charged attempt.
    pub attempt: u32,
}

/// A decision under construction.
pub struct Decision<'a> {
    pub now: SystemTime,
    pub(super) plans: &'a Plans,
    pub tasks: BTreeMap<Uuid, WorkingTask<'a>>,
    /// The queue rows that this batch has not ended, by step.
    pub live: BTreeMap<(Uuid, i16), &'a LiveRow>,
    /// The ended steps of tasks that a command addresses.
    pub ended: BTreeMap<(Uuid, i16), &'a EndedRow>,
    /// Leases settled in this batch and the acknowledgement they got: a duplicate gets the same.
    pub settled: HashMap<Lease, bool>,
    pub changes: Changes,
    pub acks: Vec<(Uuid, Lease, bool)>,
    pub cancelled: Vec<(Lease, CancelReason)>,
    pub refused: HashMap<usize, OrderError>,
    /// Inputs that need an evaluation first. They have changed nothing.
    pub evaluations: HashMap<usize, EvaluationRequest>,
    /// Tasks whose deadline turned out to have passed.
    pub expiring: Vec<Uuid>,
    /// Lanes with waiting steps that a resume made claimable.
    pub resumed_lanes: Vec<i32>,
    /// Tasks that changed, and whether they are final now.
    pub changed_tasks: Vec<(Uuid, bool)>,
    /// Ended attempts, for the health of their services.
    pub calls: Vec<Call>,
    /// Retries of failed probes, which have to wait past the next probing of their service.
    pub failed_probes: Vec<FailedProbe>,
    /// Lanes whose service asked for a pause, and its length.
    pub throttles: Vec<(i32, Duration)>,
}

impl<'a> Decision<'a> {
    pub fn new(read: &'a SettleRead, plans: &'a Plans) -> Self {
        let tasks = read
            .tasks
            .iter()
            .filter_map(|row| {
                let own = TaskPlan::of(plans.get(&row.template_id)?, row.settings.as_deref());
                let (progress, priority) = (row.progress.clone(), row.priority);
                let hand = WorkingTask {
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
            resumed_lanes: Vec::new(),
            changes: Changes::default(),
            acks: Vec::new(),
            cancelled: Vec::new(),
            refused: HashMap::default(),
            evaluations: HashMap::default(),
            changed_tasks: Vec::new(),
            calls: Vec::new(),
            failed_probes: Vec::new(),
            throttles: Vec::new(),
        }
    }

    /// Decides on all inputs.
    pub fn decide(mut self, inputs: &[PendingInput], past: &HashMap<Lease, OutcomeKind>) -> Self {
        // Commands come first: a result in the same batch then finds its lease gone and is stale,
        // and no effect has to be undone.
        for (i, input) in inputs.iter().enumerate() {
            self.take_command(i, input);
        }
        for (i, input) in inputs.iter().enumerate() {
            self.take_end(i, input, past);
        }
        self.finish()
    }

    /// Applies the `i`th input if it is about a whole task.
    fn take_command(&mut self, i: usize, input: &PendingInput) {
        match &**input {
            Input::Order {
                task_id,
                order,
                by,
                reason,
                ..
            } => match self.order(*task_id, order, (by.clone(), reason.clone()), input) {
                Ok(None) => {}
                Ok(Some(request)) => drop(self.evaluations.insert(i, request)),
                Err(error) => drop(self.refused.insert(i, error)),
            },
            Input::Expire { task_id } => self.expire(*task_id),
            _ => {}
        }
    }

    /// Applies the `i`th input if it ends one attempt or step.
    fn take_end(&mut self, i: usize, input: &PendingInput, past: &HashMap<Lease, OutcomeKind>) {
        match &**input {
            Input::Result {
                lease,
                outcome,
                worker_id,
                ..
            } => self.result(i, (*lease, *worker_id), outcome, input, past),
            Input::Gone {
                lease,
                worker_id,
                outcome,
            } => self.lost(*lease, *worker_id, outcome),
            Input::Deadline { lease } => self.deadline(*lease),
            Input::TooLarge(step) => self.too_large(step),
            Input::Order { .. } | Input::Expire { .. } => {}
        }
    }

    /// The queue row of a lease, if the lease is current.
    pub(super) fn row(&self, lease: Lease) -> Option<&'a LiveRow> {
        self.live
            .get(&(lease.task_id, lease.step))
            .copied()
            .filter(|row| row.lease == Some(lease.nonce))
    }
}
