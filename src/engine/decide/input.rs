//! The inputs of the settle loop, and the rows they refer to.

use std::{collections::BTreeMap, ops::Deref, sync::Arc};

use tasker_template::StepIndex;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use uuid::Uuid;

use crate::{
    domain::{
        attempt::Outcome,
        lease::Lease,
        order::{Order, OrderError},
    },
    engine::{
        evaluate::{shares::Share, verdicts::Verdicts},
        hash::HashSet,
        plan::compiled::Plan,
    },
    store::{pipeline::SettleRead, stranded::Stranded},
};

/// An event that ends an attempt or a task.
pub enum Input {
    /// A worker's answer; the acknowledgement goes to `worker_id`.
    Result {
        lease: Lease,
        outcome: Outcome,
        worker_id: Uuid,
        plan: Option<Arc<Plan>>,
    },
    /// The lease's worker is gone, or never received the assignment.
    Gone {
        lease: Lease,
        worker_id: Uuid,
        outcome: Outcome,
    },
    /// An attempt's deadline passed by this server's clock; the database's clock decides.
    Deadline { lease: Lease },
    /// A waiting step's assignment exceeds the limit of every connected worker.
    TooLarge(Stranded),
    /// A task's deadline passed by the database's clock.
    Expire { task_id: Uuid },
    /// A command of an operator or a client.
    Order {
        task_id: Uuid,
        order: Order,
        by: String,
        reason: String,
        reply: oneshot::Sender<Result<(), OrderError>>,
    },
}

impl Input {
    /// Releases a claim whose assignment did not reach its worker.
    pub fn undelivered(lease: Lease, worker_id: Uuid) -> Self {
        Self::Gone {
            lease,
            worker_id,
            outcome: Outcome::Undelivered,
        }
    }

    /// Approximate size, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::Result { outcome, .. } => outcome.size(),
            Self::Order {
                order, by, reason, ..
            } => order.size() + by.len() + reason.len(),
            Self::Gone { .. } | Self::Deadline { .. } | Self::Expire { .. } | Self::TooLarge(_) => {
                0
            }
        }
    }

    /// The result that the input carries, if any.
    pub fn result(&self) -> Option<&str> {
        match self {
            Self::Result {
                outcome: Outcome::Succeeded(json),
                ..
            } => Some(json),
            Self::Order {
                order: Order::ResolveStep { result, .. },
                ..
            } => Some(result),
            _ => None,
        }
    }
}

/// An input with its progress through the settle loop.
pub struct PendingInput {
    pub input: Input,
    /// The verdicts so far.
    pub verdicts: Verdicts,
    /// How often it was evaluated.
    pub rounds: usize,
    /// Whether its outcome replaces one that the database refused.
    pub replaced: bool,
    /// Its capacity in the queue or in the namespace's share, held until it is settled.
    pub place: HeldCapacity,
}

/// Reserved capacity, released on drop.
pub enum HeldCapacity {
    /// The input never waits for capacity.
    None,
    Queue {
        _weight: OwnedSemaphorePermit,
    },
    Judging {
        _share: Share,
    },
}

impl From<Input> for PendingInput {
    fn from(input: Input) -> Self {
        Self {
            input,
            verdicts: Verdicts::default(),
            rounds: 0,
            replaced: false,
            place: HeldCapacity::None,
        }
    }
}

impl Deref for PendingInput {
    type Target = Input;

    fn deref(&self) -> &Input {
        &self.input
    }
}

/// The number of steps per lane that these inputs could make ready.
pub fn children_of(inputs: &[PendingInput]) -> BTreeMap<i32, usize> {
    let mut lanes: BTreeMap<i32, usize> = BTreeMap::new();
    for input in inputs {
        let Input::Result {
            lease,
            outcome: Outcome::Succeeded(_),
            plan: Some(plan),
            ..
        } = &**input
        else {
            continue;
        };
        let Ok(step) = StepIndex::try_from(lease.step) else {
            continue;
        };
        for child in plan.graph.children(step) {
            *lanes.entry(plan.lane(*child)).or_default() += 1;
        }
    }
    lanes
}

/// The leases of the attempts that these inputs may end.
pub fn leases_of(inputs: &[PendingInput]) -> Vec<Lease> {
    let lease = |input: &PendingInput| match &**input {
        Input::Result { lease, .. } | Input::Gone { lease, .. } | Input::Deadline { lease } => {
            Some(*lease)
        }
        // Any nonce will do: only the step's queue row is locked.
        Input::TooLarge(step) => Some(Lease {
            task_id: step.task_id,
            step: step.step,
            nonce: 0,
        }),
        Input::Order { .. } | Input::Expire { .. } => None,
    };
    inputs.iter().filter_map(lease).collect()
}

/// The tasks that an input addresses as a whole.
pub fn ordered(inputs: &[PendingInput]) -> impl Iterator<Item = Uuid> {
    inputs.iter().filter_map(|input| match &**input {
        Input::Order { task_id, .. } | Input::Expire { task_id } => Some(*task_id),
        _ => None,
    })
}

/// Splits inputs so that no transaction has two commands about one task: the second would be
/// decided on rows that the first changes. The first transaction is last in the list.
pub fn one_order_a_task(mut inputs: Vec<PendingInput>) -> Vec<Vec<PendingInput>> {
    let mut work = Vec::new();
    while !inputs.is_empty() {
        let mut seen = HashSet::default();
        let (now, later) = inputs
            .into_iter()
            .partition(|input| ordered(std::slice::from_ref(input)).all(|id| seen.insert(id)));
        work.push(now);
        inputs = later;
    }
    work.reverse();
    work
}

/// The keys to lock: leases, tasks, and the tasks that need all their queue rows; each list sorted
/// and without duplicates.
pub fn keys_of(inputs: &[PendingInput]) -> (Vec<Lease>, Vec<Uuid>, Vec<Uuid>) {
    let mut leases: Vec<Lease> = Vec::with_capacity(inputs.len());
    let mut ordered: Vec<Uuid> = ordered(inputs).collect();
    leases.extend(leases_of(inputs));
    leases.sort_unstable_by_key(|l| (l.task_id, l.step, l.nonce));
    leases.dedup_by_key(|l| (l.task_id, l.step));
    ordered.sort_unstable();
    ordered.dedup();
    let mut tasks: Vec<Uuid> = leases
        .iter()
        .map(|l| l.task_id)
        .chain(ordered.iter().copied())
        .collect();
    tasks.sort_unstable();
    tasks.dedup();
    (leases, tasks, ordered)
}

/// The leases of results that are not current: duplicates, or too late.
pub fn missing(inputs: &[PendingInput], read: &SettleRead) -> Vec<Lease> {
    let live: HashSet<Lease> = read
        .live
        .iter()
        .filter_map(|row| {
            Some(Lease {
                task_id: row.task_id,
                step: row.step,
                nonce: row.lease?,
            })
        })
        .collect();
    inputs
        .iter()
        .filter_map(|input| match &**input {
            Input::Result { lease, .. } if !live.contains(lease) => Some(*lease),
            _ => None,
        })
        .collect()
}
