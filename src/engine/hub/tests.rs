//! Slots, reservations and lanes, without streams.

use std::collections::BTreeMap;

use std::time::SystemTime;

use tokio::sync::mpsc::error::TryRecvError;

use super::*;
use crate::engine::catalog::plan_for_tests;
use crate::{
    domain::size::DEFAULT_ASSIGNMENT_BYTES,
    store::pipeline::{LaneDemand, TaskInput},
};

const LANE: i32 = 1;
const OTHER_LANE: i32 = 2;
/// More slots than the workers of any test have.
fn all_lanes() -> BTreeMap<i32, usize> {
    BTreeMap::from([(LANE, 100), (OTHER_LANE, 100)])
}

const WORKER: Uuid = Uuid::from_u128(1);
const OTHER: Uuid = Uuid::from_u128(2);
const YAML: &str = "{task_name: t, version: 1.0.0, step_templates: [{name: s, handler_class: h}]}";

fn connect(hub: &Arc<Hub>, worker_id: Uuid, handler: &str, capacity: usize) -> Inbox {
    let lane = |lane_id, handler: &str| LaneRow {
        task_name: String::new(),
        lane_id,
        namespace: "n".into(),
        handler: handler.into(),
        service: String::new(),
        service_id: 1,
    };
    let profile = Profile {
        worker_id,
        name: "w".into(),
        namespaces: HashSet::default(),
        handlers: HashSet::from_iter([handler.to_owned()]),
        capacity,
        max_assignment_bytes: DEFAULT_ASSIGNMENT_BYTES,
    };
    let (outbox, inbox) = outbox(16);
    let lanes = [lane(LANE, "h"), lane(OTHER_LANE, "other")];
    hub.add(
        hub.room().unwrap(),
        profile,
        Vec::new(),
        &lanes,
        outbox,
        CancellationToken::new(),
    );
    inbox
}

fn look(lane_id: i32) -> LaneDemand {
    LaneDemand {
        lane_id,
        limit: 1,
        bytes: DEFAULT_ASSIGNMENT_BYTES,
    }
}

fn lease(nonce: i64) -> Lease {
    Lease {
        task_id: Uuid::nil(),
        step: 0,
        nonce,
    }
}

fn assignment(lease: Lease) -> Assignment {
    Assignment {
        retry_limit: 3,
        handler_config: None,
        planned_steps: String::new(),
        lease,
        worker_id: WORKER,
        lane_id: LANE,
        plan: plan_for_tests(1, YAML),
        attempt: 1,
        charged: 0,
        deadline_at: SystemTime::UNIX_EPOCH,
        timeout: Duration::from_secs(1),
        annotations: String::new(),
        task: Arc::new(TaskInput {
            task_id: lease.task_id,
            correlation_id: String::new(),
            traceparent: None,
            annotations: "{}".into(),
            settings: None,
            revision: 0,
            context: "{}".into(),
        }),
        results: Vec::new(),
    }
}

/// Whether a scan was requested since the last call.
async fn kicked(hub: &Hub) -> bool {
    tokio::time::timeout(Duration::ZERO, hub.kicked())
        .await
        .is_ok()
}

fn give(hub: &Arc<Hub>, nonce: i64) -> bool {
    let mut reservation = hub.reserve(&BTreeMap::from([(LANE, 1)]));
    if reservation.promise(LANE, 0, lease(nonce)).is_none() {
        return false;
    }
    reservation.announce();
    reservation.deliver(assignment(lease(nonce)))
}

#[test]
fn slot_is_reserved_once_and_returned_if_unused() {
    let hub = Arc::<Hub>::default();
    let _inbox = connect(&hub, WORKER, "h", 2);
    let first = hub.reserve(&all_lanes());
    assert_eq!(
        first.demand(),
        [LaneDemand {
            lane_id: LANE,
            limit: 2,
            bytes: DEFAULT_ASSIGNMENT_BYTES
        }]
    );
    assert!(hub.reserve(&all_lanes()).is_empty());
    drop(first);
    assert!(give(&hub, 1) && give(&hub, 2) && !give(&hub, 3));
    hub.answered(WORKER, lease(1));
    assert!(give(&hub, 3));
}

#[test]
fn claim_cancelled_before_delivery_is_not_delivered() {
    let hub = Arc::<Hub>::default();
    let mut inbox = connect(&hub, WORKER, "h", 1);
    let mut reservation = hub.reserve(&all_lanes());
    reservation.promise(LANE, 0, lease(1)).unwrap();
    reservation.announce();
    // The claim is committed; before this server reads that answer, another transaction cancels the
    // task.
    assert!(hub.cancel(lease(1), CancelReason::TaskCancelled));
    assert!(
        reservation.deliver(assignment(lease(1))),
        "it is not to be given back"
    );
    drop(reservation);
    assert!(matches!(inbox.try_recv(), Err(TryRecvError::Empty)));
    assert_eq!(hub.in_flight(), 0);
    assert!(give(&hub, 2), "its slot is free");
}

#[test]
fn reserved_slots_are_released_with_the_reservation() {
    let hub = Arc::<Hub>::default();
    let _inbox = connect(&hub, WORKER, "h", 1);
    let mut reservation = hub.reserve(&all_lanes());
    reservation.promise(LANE, 0, lease(1)).unwrap();
    reservation.announce();
    assert_eq!(reservation.promised(), [(lease(1), WORKER)]);
    drop(reservation);
    assert!(!hub.cancel(lease(1), CancelReason::LeaseLost));
    assert!(hub.lock().promised.is_empty());
}

#[test]
fn unstored_results_over_the_bound_occupy_slots() {
    let hub = Arc::<Hub>::default();
    let mut inbox = connect(&hub, WORKER, "h", 2);
    for nonce in 0..4 {
        assert!(give(&hub, nonce), "{nonce}");
        hub.answered(WORKER, lease(nonce));
    }
    assert!(!give(&hub, 4));
    hub.send(
        WORKER,
        ToWorker::Ack {
            lease: lease(0),
            accepted: true,
        },
    );
    assert!(give(&hub, 4) && !give(&hub, 5));
    while inbox.try_recv().is_ok() {}
}

#[test]
fn register_at_a_full_server_is_refused_without_effect() {
    let hub = Arc::new(Hub::with_room_for(2));
    let _inbox = connect(&hub, WORKER, "h", 1);
    let room = hub.room().unwrap();
    assert!(hub.room().is_none(), "the second place is being taken");
    drop(room);
    assert!(hub.room().is_some());
}

#[tokio::test]
async fn freed_slot_requests_a_scan_unless_its_lanes_are_idle() {
    let hub = Arc::<Hub>::default();
    let _inboxes = (
        connect(&hub, WORKER, "h", 1),
        connect(&hub, OTHER, "other", 1),
    );
    assert!(kicked(&hub).await, "by the new streams");
    assert!(give(&hub, 1));
    // The lane's only slot is taken, so the scan covers the other lane only.
    hub.look_begins(&[look(OTHER_LANE)]);
    hub.answered(WORKER, lease(1));
    hub.slots_freed([WORKER]);
    assert!(kicked(&hub).await);
    hub.look_begins(&[look(LANE)]);
    hub.slots_freed([WORKER, OTHER]);
    assert!(!kicked(&hub).await);
    hub.steps_wait([LANE]);
    assert!(kicked(&hub).await, "there is a free slot for it");
}

#[tokio::test]
async fn step_enqueued_during_a_scan_keeps_the_lane_active() {
    let hub = Arc::<Hub>::default();
    let _inbox = connect(&hub, WORKER, "h", 1);
    kicked(&hub).await;
    let looking = hub.reserve(&all_lanes());
    hub.look_begins(&[look(LANE)]);
    // Too late for the scan, and the scan's reservation holds the only slot.
    hub.steps_wait([LANE]);
    assert!(!kicked(&hub).await);
    drop(looking);
    assert!(kicked(&hub).await);
    hub.look_begins(&[look(LANE)]);
    drop(hub.reserve(&all_lanes()));
    assert!(!kicked(&hub).await, "nothing waits");
}

#[test]
fn lane_is_idle_only_after_a_scan_left_no_step() {
    let hub = Arc::<Hub>::default();
    let _inbox = connect(&hub, WORKER, "h", 1);
    // The lanes that the settle loop would scan before it assigns the steps it unlocks.
    let looks_at = || {
        hub.reserve(&all_lanes())
            .demand()
            .iter()
            .map(|lane| lane.lane_id)
            .collect::<Vec<_>>()
    };
    hub.look_begins(&[look(LANE)]);
    assert_eq!(looks_at(), [LANE]);
    hub.look_ends();
    assert!(looks_at().is_empty());
    hub.look_begins(&[look(LANE)]);
    assert!(looks_at().is_empty(), "nothing has come since");
    hub.steps_wait([LANE]);
    hub.look_ends();
    assert_eq!(looks_at(), [LANE], "left, or come meanwhile");
}

#[test]
fn worker_that_does_not_read_loses_its_stream() {
    let hub = Arc::<Hub>::default();
    let (outbox, _inbox) = outbox(1);
    let stop = CancellationToken::new();
    let profile = Profile {
        worker_id: WORKER,
        name: "w".into(),
        namespaces: HashSet::default(),
        handlers: HashSet::default(),
        capacity: 1,
        max_assignment_bytes: DEFAULT_ASSIGNMENT_BYTES,
    };
    hub.add(
        hub.room().unwrap(),
        profile,
        Vec::new(),
        &[],
        outbox,
        stop.clone(),
    );
    let ack = || ToWorker::Ack {
        lease: lease(0),
        accepted: true,
    };
    assert!(hub.send(WORKER, ack()) && !stop.is_cancelled());
    assert!(!hub.send(WORKER, ack()) && stop.is_cancelled());
    assert!(hub.workers().is_empty());
}
