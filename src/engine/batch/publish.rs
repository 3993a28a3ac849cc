//! What follows from a transaction outside of the database. This is the only place where the order
//! of these effects is decided; each position has its reason.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::{
    domain::lease::Lease,
    engine::{
        admission::{control::Call, reservation::CapacityReservation},
        cache::payloads::Payloads,
        dispatch::{
            allocator::lost,
            assignment::{self, Assignment},
            message::CancelReason,
            reservation::SlotReservation,
        },
        hash::HashSet,
        plan::compiled::Plans,
    },
    store::pipeline::{Applied, Changes, Claimed},
};

/// The slots and the capacity that a transaction may use.
pub struct Reserved {
    pub slots: SlotReservation,
    pub capacity: CapacityReservation,
}

/// A committed transaction.
pub struct Committed<'a> {
    pub changes: &'a Changes,
    pub plans: &'a Plans,
    pub applied: Applied,
    /// The payloads for the handlers, as far as they were cached before the commit.
    pub payloads: Payloads,
    /// The claims of new steps.
    pub claimed: Vec<Claimed>,
    /// The time from which the claims' deadlines were computed.
    pub read_at: SystemTime,
    pub reserved: Reserved,
    /// The attempts that ended.
    pub calls: &'a [Call],
    /// Tasks whose cached rows lack effects of this transaction.
    pub evicted: &'a [Uuid],
}

impl Committed<'_> {
    /// The number of waiting steps that were claimed.
    pub fn claimed_waiting(&self) -> usize {
        self.applied.claimed.len()
    }
}

/// The messages of a transaction. They leave even if it wrote nothing.
#[derive(Default)]
pub struct Messages {
    /// The worker of each result, its lease, and whether the result was accepted.
    pub acks: Vec<(Uuid, Lease, bool)>,
    pub cancelled: Vec<(Lease, CancelReason)>,
    /// Tasks whose deadline turned out to have passed.
    pub expiring: Vec<Uuid>,
    /// Tasks that changed, and whether they are final now.
    pub changed_tasks: Vec<(Uuid, bool)>,
    /// Lanes in which due steps wait without a slot.
    pub unserved: HashSet<i32>,
}

/// The receivers of these effects.
pub trait Outlets {
    /// The inputs that need another transaction.
    type Unfinished;

    fn wake_event_reader(&mut self);
    fn cache_payloads(&mut self, committed: &mut Committed<'_>);
    fn count(&mut self, committed: &Committed<'_>, now: SystemTime);
    fn cache_attempts(&mut self, committed: &Committed<'_>, now: SystemTime);
    fn use_capacity(&mut self, capacity: CapacityReservation, lost: &HashSet<Lease>);
    fn count_calls(&mut self, calls: &[Call], now: SystemTime);
    fn set_retry_timer(&mut self, after: Duration);
    fn deliver(&mut self, assignments: Vec<Assignment>, slots: SlotReservation);
    fn acknowledge(&mut self, worker_id: Uuid, lease: Lease, accepted: bool);
    fn cancel(&mut self, lease: Lease, reason: CancelReason);
    fn expire(&mut self, task_id: Uuid);
    fn notify_watchers(&mut self, tasks: Vec<(Uuid, bool)>);
    fn mark_active(&mut self, lanes: HashSet<i32>);
    fn slots_freed(&mut self, workers: Vec<Uuid>);
    fn reply(self) -> impl Future<Output = Self::Unfinished> + Send;
}

/// Publishes a transaction; without `committed`, one that wrote nothing. Called only after the
/// commit, as nothing may leave this server before it. Returns the inputs that need another
/// transaction.
pub async fn publish<O: Outlets>(
    mut outlets: O,
    committed: Option<Committed<'_>>,
    messages: Messages,
) -> O::Unfinished {
    if let Some(committed) = committed {
        publish_commit(&mut outlets, committed);
    }
    publish_messages(&mut outlets, messages);
    // 15. Last, as replies of intake may need a read of the database, which must delay nothing
    //     else. A caller that has its reply finds all the above done: its cancellation is on its
    //     way, and its task is counted.
    outlets.reply().await
}

fn publish_commit(outlets: &mut impl Outlets, mut committed: Committed<'_>) {
    let now = committed.applied.now.unwrap_or(committed.read_at);
    // 1. First, as the reader of events has its own way to the database and works meanwhile.
    outlets.wake_event_reader();
    // 2. Before 8, which assembles the assignments from these payloads.
    outlets.cache_payloads(&mut committed);
    // 3. Before 8 to 15: a metric includes every effect that a worker or a client has seen.
    outlets.count(&committed, now);
    // 4. Before 8: the result of a delivered attempt has to find the attempt in the cache.
    outlets.cache_attempts(&committed, now);
    // 5. Before 8: a result releases only quota that is counted as in use.
    let lost = lost(committed.changes, &committed.applied.claimed);
    outlets.use_capacity(committed.reserved.capacity, &lost);
    // 6. After 5, so that a circuit that opens by these calls finds the quota in use up to date.
    outlets.count_calls(committed.calls, now);
    // 7. Before 8, which may take longer than the least back-off.
    let postponed = committed.changes.new_live.iter();
    let postponed = postponed.filter_map(|live| live.not_before).min();
    let postponed = postponed.map(|at| at.duration_since(now).unwrap_or_default());
    for after in committed.applied.next_retry.into_iter().chain(postponed) {
        outlets.set_retry_timer(after);
    }
    // 8. Before 9: a handler waits for each assignment, and no work waits for an acknowledgement.
    let late = now.duration_since(committed.read_at).unwrap_or_default();
    let mut claimed = committed.claimed;
    claimed.extend(committed.applied.claimed);
    for claim in &mut claimed {
        // The deadline was computed from the time of the reading, which may be before the
        // transaction's own time.
        claim.deadline_at += late;
    }
    let assignments = assignment::assemble(claimed, &committed.payloads, committed.plans, now);
    outlets.deliver(assignments, committed.reserved.slots);
}

fn publish_messages(outlets: &mut impl Outlets, messages: Messages) {
    let freed = messages.acks.iter().map(|(worker_id, ..)| *worker_id);
    let freed: Vec<Uuid> = freed.collect();
    // 9. Before 14: each acknowledgement also frees a slot.
    for (worker_id, lease, accepted) in messages.acks {
        outlets.acknowledge(worker_id, lease, accepted);
    }
    // 10. After 8, which makes the attempts known to the registry: an attempt that is not known
    //     cannot be cancelled.
    for (lease, reason) in messages.cancelled {
        outlets.cancel(lease, reason);
    }
    // 11. After 10: the next transaction ends these tasks, and cancels further attempts of them.
    for task_id in messages.expiring {
        outlets.expire(task_id);
    }
    // 12. After everything for workers, as a watcher only displays its task.
    outlets.notify_watchers(messages.changed_tasks);
    // 13. Before 14: a freed slot requests a scan only if one of its lanes is active.
    outlets.mark_active(messages.unserved);
    // 14. After all changes of slots and lanes, so that the requested scan finds them.
    outlets.slots_freed(freed);
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use super::*;
    use crate::{
        domain::attempt::OutcomeKind,
        engine::{admission::control::Admission, dispatch::registry::Registry},
    };

    /// Records the effects in their order.
    #[derive(Default)]
    struct Recorder(Vec<&'static str>);

    impl Outlets for Recorder {
        type Unfinished = Vec<&'static str>;

        fn wake_event_reader(&mut self) {
            self.0.push("wake_event_reader");
        }
        fn cache_payloads(&mut self, _: &mut Committed<'_>) {
            self.0.push("cache_payloads");
        }
        fn count(&mut self, _: &Committed<'_>, _: SystemTime) {
            self.0.push("count");
        }
        fn cache_attempts(&mut self, _: &Committed<'_>, _: SystemTime) {
            self.0.push("cache_attempts");
        }
        fn use_capacity(&mut self, _: CapacityReservation, _: &HashSet<Lease>) {
            self.0.push("use_capacity");
        }
        fn count_calls(&mut self, _: &[Call], _: SystemTime) {
            self.0.push("count_calls");
        }
        fn set_retry_timer(&mut self, _: Duration) {
            self.0.push("set_retry_timer");
        }
        fn deliver(&mut self, _: Vec<Assignment>, _: SlotReservation) {
            self.0.push("deliver");
        }
        fn acknowledge(&mut self, _: Uuid, _: Lease, _: bool) {
            self.0.push("acknowledge");
        }
        fn cancel(&mut self, _: Lease, _: CancelReason) {
            self.0.push("cancel");
        }
        fn expire(&mut self, _: Uuid) {
            self.0.push("expire");
        }
        fn notify_watchers(&mut self, _: Vec<(Uuid, bool)>) {
            self.0.push("notify_watchers");
        }
        fn mark_active(&mut self, _: HashSet<i32>) {
            self.0.push("mark_active");
        }
        fn slots_freed(&mut self, _: Vec<Uuid>) {
            self.0.push("slots_freed");
        }
        async fn reply(mut self) -> Vec<&'static str> {
            self.0.push("reply");
            self.0
        }
    }

    fn lease() -> Lease {
        Lease {
            task_id: Uuid::nil(),
            step: 0,
            nonce: 1,
        }
    }

    fn messages() -> Messages {
        Messages {
            acks: vec![(Uuid::nil(), lease(), true)],
            cancelled: vec![(lease(), CancelReason::TaskCancelled)],
            expiring: vec![Uuid::nil()],
            changed_tasks: vec![(Uuid::nil(), false)],
            unserved: HashSet::from_iter([1]),
        }
    }

    const MESSAGES: [&str; 7] = [
        "acknowledge",
        "cancel",
        "expire",
        "notify_watchers",
        "mark_active",
        "slots_freed",
        "reply",
    ];

    #[tokio::test]
    async fn effects_of_a_commit_are_published_in_their_order() {
        let registry = Arc::<Registry>::default();
        let (changes, plans) = (Changes::default(), Plans::default());
        let calls = [Call {
            lane_id: 1,
            outcome: OutcomeKind::Succeeded,
            started_at: SystemTime::UNIX_EPOCH,
        }];
        let committed = Committed {
            changes: &changes,
            plans: &plans,
            applied: Applied {
                next_retry: Some(Duration::ZERO),
                ..Applied::default()
            },
            payloads: Payloads::default(),
            claimed: Vec::new(),
            read_at: SystemTime::UNIX_EPOCH,
            reserved: Reserved {
                slots: registry.reserve(&BTreeMap::new()),
                capacity: Admission::new(Uuid::nil()).reserve(),
            },
            calls: &calls,
            evicted: &[],
        };
        let commit = [
            "wake_event_reader",
            "cache_payloads",
            "count",
            "cache_attempts",
            "use_capacity",
            "count_calls",
            "set_retry_timer",
            "deliver",
        ];
        let order = publish(Recorder::default(), Some(committed), messages()).await;
        assert_eq!(order, [&commit[..], &MESSAGES[..]].concat());
    }

    #[tokio::test]
    async fn transaction_without_a_commit_publishes_its_messages_alone() {
        let order = publish(Recorder::default(), None, messages()).await;
        assert_eq!(order, MESSAGES);
    }
}
