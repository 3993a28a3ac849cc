//! What is to be settled, and what it is about.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    domain::{
        attempt::Outcome,
        lease::Lease,
        order::{Order, OrderError},
    },
    engine::catalog::Plan,
    store::{hot::SettleRead, stranded::Stranded},
};

/// Something that ends an attempt or a task.
pub enum Input {
    /// A worker's answer; the acknowledgement goes back to `worker_id`.
    Result { lease: Lease, outcome: Outcome, worker_id: Uuid, plan: Option<Arc<Plan>> },
    /// The lease's worker is gone, or never got the assignment.
    Gone { lease: Lease, worker_id: Uuid, outcome: Outcome },
    /// The deadline passed by this server's clock; the database's decides.
    Deadline { lease: Lease },
    /// No connected worker takes the assignment of a step that waits.
    TooLarge(Stranded),
    /// The deadline of a task passed by the database's clock.
    Expire { task_id: Uuid },
    /// An operator, or a client, tells a task to do something.
    Order { task_id: Uuid, order: Order, by: String, reason: String, reply: oneshot::Sender<Result<(), OrderError>> },
}

/// How many steps of each lane could become ready through these inputs.
pub(super) fn children_of(inputs: &[Input]) -> BTreeMap<i32, usize> {
    let mut lanes: BTreeMap<i32, usize> = BTreeMap::new();
    for input in inputs {
        let Input::Result { lease, outcome: Outcome::Succeeded(_), plan: Some(plan), .. } = input else { continue };
        for child in plan.graph.children(usize::try_from(lease.step).unwrap_or(usize::MAX)) {
            *lanes.entry(plan.lane(*child)).or_default() += 1;
        }
    }
    lanes
}

/// The leases of the attempts that probably end.
pub(super) fn leases_of(inputs: &[Input]) -> Vec<Lease> {
    let lease = |input: &Input| match input {
        Input::Result { lease, .. } | Input::Gone { lease, .. } | Input::Deadline { lease } => Some(*lease),
        // Whatever lease: the row in the queue is what is locked.
        Input::TooLarge(step) => Some(Lease { task_id: step.task_id, step: step.step, nonce: 0 }),
        Input::Order { .. } | Input::Expire { .. } => None,
    };
    inputs.iter().filter_map(lease).collect()
}

/// The leases that workers answered for.
pub(super) fn results(inputs: &[Input]) -> impl Iterator<Item = Lease> {
    inputs.iter().filter_map(|input| match input {
        Input::Result { lease, .. } => Some(*lease),
        _ => None,
    })
}

/// The tasks that are to do something as a whole.
pub(super) fn ordered(inputs: &[Input]) -> impl Iterator<Item = Uuid> {
    inputs.iter().filter_map(|input| match input {
        Input::Order { task_id, .. } | Input::Expire { task_id } => Some(*task_id),
        _ => None,
    })
}

/// Divides inputs so that no transaction has two orders about one task: the second would be judged by rows that the first is
/// about to change. The first transaction is the last in the list.
pub(super) fn one_order_a_task(mut inputs: Vec<Input>) -> Vec<Vec<Input>> {
    let mut work = Vec::new();
    while !inputs.is_empty() {
        let mut seen = HashSet::new();
        let (now, later) =
            inputs.into_iter().partition(|input| ordered(std::slice::from_ref(input)).all(|id| seen.insert(id)));
        work.push(now);
        inputs = later;
    }
    work.reverse();
    work
}

/// What to lock: the leases, the tasks, and the tasks with all that they have in play, each in order and once.
pub(super) fn keys_of(inputs: &[Input]) -> (Vec<Lease>, Vec<Uuid>, Vec<Uuid>) {
    let mut leases: Vec<Lease> = Vec::with_capacity(inputs.len());
    let mut ordered: Vec<Uuid> = ordered(inputs).collect();
    leases.extend(leases_of(inputs));
    leases.sort_unstable_by_key(|l| (l.task_id, l.step, l.nonce));
    leases.dedup_by_key(|l| (l.task_id, l.step));
    ordered.sort_unstable();
    ordered.dedup();
    let mut tasks: Vec<Uuid> = leases.iter().map(|l| l.task_id).chain(ordered.iter().copied()).collect();
    tasks.sort_unstable();
    tasks.dedup();
    (leases, tasks, ordered)
}

/// The results whose lease is not the running one: copies, or too late.
pub(super) fn missing(inputs: &[Input], read: &SettleRead) -> Vec<Lease> {
    let live: HashSet<Lease> = read
        .live
        .iter()
        .filter_map(|row| Some(Lease { task_id: row.task_id, step: row.step, nonce: row.lease? }))
        .collect();
    inputs
        .iter()
        .filter_map(|input| match input {
            Input::Result { lease, .. } if !live.contains(lease) => Some(*lease),
            _ => None,
        })
        .collect()
}
