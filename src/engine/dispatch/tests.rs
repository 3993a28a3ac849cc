//! Slots, reservations and lanes, without streams.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::mpsc::error::TryRecvError;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    assignment::Assignment,
    message::{CancelReason, ToWorker},
    outbox::{Inbox, channel},
    registry::Registry,
    workers::Profile,
};
use crate::{
    domain::{lease::Lease, size::DEFAULT_ASSIGNMENT_BYTES},
    engine::{hash::HashSet, plan::compile::plan_for_tests},
    store::{
        pipeline::{LaneDemand, TaskInput},
        template::LaneRow,
    },
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

fn connect(registry: &Arc<Registry>, worker_id: Uuid, handler: &str, capacity: usize) -> Inbox {
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
    let (outbox, inbox) = channel(16);
    let lanes = [lane(LANE, "h"), lane(OTHER_LANE, "other")];
    registry.add(
        registry.reserve_stream().unwrap(),
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
async fn scan_requested(registry: &Registry) -> bool {
    tokio::time::timeout(Duration::ZERO, registry.scan_requested())
        .await
        .is_ok()
}

fn give(registry: &Arc<Registry>, nonce: i64) -> bool {
    let mut reservation = registry.reserve(&BTreeMap::from([(LANE, 1)]));
    if reservation.allocate(LANE, 0, lease(nonce)).is_none() {
        return false;
    }
    reservation.announce();
    reservation.deliver(assignment(lease(nonce)))
}

#[test]
fn slot_is_reserved_once_and_returned_if_unused() {
    let registry = Arc::<Registry>::default();
    let _inbox = connect(&registry, WORKER, "h", 2);
    let first = registry.reserve(&all_lanes());
    assert_eq!(
        first.demand(),
        [LaneDemand {
            lane_id: LANE,
            limit: 2,
            bytes: DEFAULT_ASSIGNMENT_BYTES
        }]
    );
    assert!(registry.reserve(&all_lanes()).is_empty());
    drop(first);
    assert!(give(&registry, 1) && give(&registry, 2) && !give(&registry, 3));
    registry.answered(WORKER, lease(1));
    assert!(give(&registry, 3));
}

#[test]
fn claim_cancelled_before_delivery_is_not_delivered() {
    let registry = Arc::<Registry>::default();
    let mut inbox = connect(&registry, WORKER, "h", 1);
    let mut reservation = registry.reserve(&all_lanes());
    reservation.allocate(LANE, 0, lease(1)).unwrap();
    reservation.announce();
    // The claim is committed; before this server reads that answer, another transaction cancels the
    // task.
    assert!(registry.cancel(lease(1), CancelReason::TaskCancelled));
    assert!(
        reservation.deliver(assignment(lease(1))),
        "it is not to be given back"
    );
    drop(reservation);
    assert!(matches!(inbox.try_recv(), Err(TryRecvError::Empty)));
    assert_eq!(registry.in_flight(), 0);
    assert!(give(&registry, 2), "its slot is free");
}

#[test]
fn reserved_slots_are_released_with_the_reservation() {
    let registry = Arc::<Registry>::default();
    let _inbox = connect(&registry, WORKER, "h", 1);
    let mut reservation = registry.reserve(&all_lanes());
    reservation.allocate(LANE, 0, lease(1)).unwrap();
    reservation.announce();
    assert_eq!(reservation.allocated(), [(lease(1), WORKER)]);
    drop(reservation);
    assert!(!registry.cancel(lease(1), CancelReason::LeaseLost));
    assert!(registry.lock().claiming.is_empty());
}

#[test]
fn unstored_results_over_the_bound_occupy_slots() {
    let registry = Arc::<Registry>::default();
    let mut inbox = connect(&registry, WORKER, "h", 2);
    for nonce in 0..4 {
        assert!(give(&registry, nonce), "{nonce}");
        registry.answered(WORKER, lease(nonce));
    }
    assert!(!give(&registry, 4));
    registry.send(
        WORKER,
        ToWorker::Ack {
            lease: lease(0),
            accepted: true,
        },
    );
    assert!(give(&registry, 4) && !give(&registry, 5));
    while inbox.try_recv().is_ok() {}
}

#[test]
fn register_at_a_full_server_is_refused_without_effect() {
    let registry = Arc::new(Registry::with_room_for(2));
    let _inbox = connect(&registry, WORKER, "h", 1);
    let room = registry.reserve_stream().unwrap();
    assert!(
        registry.reserve_stream().is_none(),
        "the second place is being taken"
    );
    drop(room);
    assert!(registry.reserve_stream().is_some());
}

#[tokio::test]
async fn freed_slot_requests_a_scan_unless_its_lanes_are_idle() {
    let registry = Arc::<Registry>::default();
    let _inboxes = (
        connect(&registry, WORKER, "h", 1),
        connect(&registry, OTHER, "other", 1),
    );
    assert!(scan_requested(&registry).await, "by the new streams");
    assert!(give(&registry, 1));
    // The lane's only slot is taken, so the scan covers the other lane only.
    registry.scan_begins(&[look(OTHER_LANE)]);
    registry.answered(WORKER, lease(1));
    registry.slots_freed([WORKER]);
    assert!(scan_requested(&registry).await);
    registry.scan_begins(&[look(LANE)]);
    registry.slots_freed([WORKER, OTHER]);
    assert!(!scan_requested(&registry).await);
    registry.mark_active([LANE]);
    assert!(
        scan_requested(&registry).await,
        "there is a free slot for it"
    );
}

#[tokio::test]
async fn step_enqueued_during_a_scan_keeps_the_lane_active() {
    let registry = Arc::<Registry>::default();
    let _inbox = connect(&registry, WORKER, "h", 1);
    scan_requested(&registry).await;
    let looking = registry.reserve(&all_lanes());
    registry.scan_begins(&[look(LANE)]);
    // Too late for the scan, and the scan's reservation holds the only slot.
    registry.mark_active([LANE]);
    assert!(!scan_requested(&registry).await);
    drop(looking);
    assert!(scan_requested(&registry).await);
    registry.scan_begins(&[look(LANE)]);
    drop(registry.reserve(&all_lanes()));
    assert!(!scan_requested(&registry).await, "nothing waits");
}

#[test]
fn lane_is_idle_only_after_a_scan_left_no_step() {
    let registry = Arc::<Registry>::default();
    let _inbox = connect(&registry, WORKER, "h", 1);
    // The lanes that the settle loop would scan before it assigns the steps it unlocks.
    let looks_at = || {
        registry
            .reserve(&all_lanes())
            .demand()
            .iter()
            .map(|lane| lane.lane_id)
            .collect::<Vec<_>>()
    };
    registry.scan_begins(&[look(LANE)]);
    assert_eq!(looks_at(), [LANE]);
    registry.scan_ends();
    assert!(looks_at().is_empty());
    registry.scan_begins(&[look(LANE)]);
    assert!(looks_at().is_empty(), "nothing has come since");
    registry.mark_active([LANE]);
    registry.scan_ends();
    assert_eq!(looks_at(), [LANE], "left, or come meanwhile");
}

#[test]
fn worker_that_does_not_read_loses_its_stream() {
    let registry = Arc::<Registry>::default();
    let (outbox, _inbox) = channel(1);
    let stop = CancellationToken::new();
    let profile = Profile {
        worker_id: WORKER,
        name: "w".into(),
        namespaces: HashSet::default(),
        handlers: HashSet::default(),
        capacity: 1,
        max_assignment_bytes: DEFAULT_ASSIGNMENT_BYTES,
    };
    registry.add(
        registry.reserve_stream().unwrap(),
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
    assert!(registry.send(WORKER, ack()) && !stop.is_cancelled());
    assert!(!registry.send(WORKER, ack()) && stop.is_cancelled());
    assert!(registry.workers().is_empty());
}
