use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::control::{Admission, Call};
use crate::{
    domain::{
        attempt::OutcomeKind, circuit::CircuitState, lease::Lease, policy::Policy,
        quota::QuotaShare, step::StepState,
    },
    engine::hash::HashSet,
    store::{
        pause::PauseRow,
        pipeline::{Changes, Ended, LaneDemand},
        service::ServiceRow,
        template::LaneRow,
    },
};

const MANY: i32 = 60_000;

/// A service at rest; if it is `limited`, it admits nothing without a quota share.
fn row(service_id: i32, limited: bool) -> ServiceRow {
    ServiceRow {
        service_id,
        namespace: "n".into(),
        service: format!("s{service_id}"),
        version: 1,
        state: CircuitState::Closed,
        openings: 0,
        age: 100.0,
        until: None,
        forced: None,
        forced_until: None,
        throttled_until: None,
        share: limited.then_some(QuotaShare {
            share_id: service_id,
            count: 4,
            term: 1,
        }),
        policy: Policy {
            max_concurrency: if limited { 4 } else { 0 },
            ..Policy::default()
        },
    }
}

/// The lane of a service; both have the same number.
fn lane(service_id: i32) -> LaneRow {
    LaneRow {
        lane_id: service_id,
        task_name: "t".into(),
        namespace: "n".into(),
        handler: "h".into(),
        service: format!("s{service_id}"),
        service_id,
    }
}

fn lease(nonce: i64) -> Lease {
    Lease {
        task_id: Uuid::nil(),
        step: 0,
        nonce,
    }
}

fn admission_of(rows: Vec<ServiceRow>) -> Admission {
    let lanes: Vec<LaneRow> = rows.iter().map(|row| lane(row.service_id)).collect();
    let admission = Admission::new(Uuid::nil());
    admission.lock().learn(rows, true, &[], &lanes);
    admission
}

fn walked(admission: &Admission) -> usize {
    admission.lock().walked.take()
}

/// A failed call in a lane that took a second.
fn failure(lane_id: i32) -> Call {
    Call {
        lane_id,
        outcome: OutcomeKind::RetryableError,
        started_at: SystemTime::UNIX_EPOCH,
    }
}

const LATER: Duration = Duration::from_secs(1);

/// The actions of a transaction and a round, with the number of services that each iterated over.
fn round(admission: &Admission) -> Vec<(&'static str, usize)> {
    let mut capacity = admission.reserve();
    let mut cost = vec![("capacity", walked(admission))];
    let mut done = |name| cost.push((name, walked(admission)));
    capacity.take(1, lease(1));
    capacity.take(MANY, lease(2));
    capacity.granted();
    let mut changes = Changes::default();
    capacity.frees(&changes);
    capacity.commit(true, &HashSet::default());
    done("a commit");
    changes.ended.push(Ended {
        task_id: Uuid::nil(),
        step: 0,
        lease: Some(1),
        state: StepState::Complete,
        attempt: 1,
        charged: 0,
        result: None,
        failure: None,
        ready_at: SystemTime::UNIX_EPOCH,
        started_at: None,
    });
    let mut capacity = admission.reserve();
    capacity.frees(&changes);
    drop(capacity);
    done("frees");
    let mut demand = vec![LaneDemand {
        lane_id: 1,
        limit: 9,
        bytes: 0,
    }];
    admission.admit(&mut demand, &[]);
    admission.admitted([1, 2, 3]);
    done("admit");
    let renewals = admission.renewals(|_| 5);
    assert_eq!(renewals.len(), 1, "of the one that is in use");
    done("renewals");
    assert_eq!(admission.running(), [lease(1)]);
    done("running");
    admission.ended(&[lease(1)]);
    done("ended");
    assert_eq!(admission.throttle(&[(7, LATER)]).len(), 1);
    admission.unthrottled();
    done("resumed");
    assert!(admission.next_change().is_some());
    done("next_change");
    admission.take_lapsed();
    done("take_lapsed");
    admission.count_calls(&[failure(9)], SystemTime::UNIX_EPOCH + LATER);
    assert!(admission.has_calls());
    done("has_calls");
    let reports = admission.take_reports();
    assert_eq!(reports.len(), 1);
    admission.put_back(&reports);
    done("take_reports");
    admission.is_limiting();
    done("is_limiting");
    assert!(admission.is_any_closed());
    done("is_any_closed");
    admission.lock().with_shares();
    done("with_shares");
    cost
}

#[test]
fn idle_services_are_not_visited() {
    // One with a limit, one with a pause, and one with counted calls.
    const FEW: usize = 3;
    let admission = admission_of((1..=MANY).map(|id| row(id, id == 1)).collect());
    for (what, cost) in round(&admission) {
        let walks = if what == "a commit" { 1 } else { 2 };
        assert!(cost <= FEW * walks, "{what}: {cost} services");
    }
    // Neither does a service that was active once and is at rest again.
    admission.take_reports();
    let news = vec![row(1, false), row(7, false)];
    admission.lock().learn(news, false, &[], &[]);
    admission.take_reports();
    walked(&admission);
    drop(admission.reserve());
    assert_eq!(walked(&admission), 0);
}

/// Every active service is listed once, whatever the sequence of actions.
#[test]
fn active_services_are_listed() {
    const SERVICES: i32 = 12;
    let admission = admission_of((1..=SERVICES).map(|id| row(id, id % 3 == 0)).collect());
    // A simple generator with a fixed seed.
    let mut state = 7_u32;
    let mut random = |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % below
    };
    let mut nonce = 0;
    for _ in 0..5_000 {
        let id = i32::try_from(random(12)).expect("few") + 1;
        match random(9) {
            0 => drop(admission.throttle(&[(id, Duration::from_nanos(1))])),
            1 => admission.count_calls(&[failure(id)], SystemTime::UNIX_EPOCH + LATER),
            2 => drop(admission.take_reports()),
            3 => drop(admission.unthrottled()),
            4 => {
                let changed = ServiceRow {
                    until: (random(2) == 0).then_some(0.0),
                    forced: (random(4) == 0).then_some(CircuitState::Open),
                    throttled_until: (random(4) == 0).then_some(0.000_001),
                    ..row(id, random(2) == 0)
                };
                admission.lock().learn(vec![changed], false, &[], &[]);
            }
            5 => drop(admission.take_lapsed()),
            6 => {
                let running = admission.running();
                admission.ended(&running);
            }
            7 => drop(admission.renewals(|_| 1)),
            _ => {
                nonce += 1;
                let mut capacity = admission.reserve();
                capacity.take(id, lease(nonce));
                if random(2) == 0 {
                    capacity.commit(true, &HashSet::default());
                }
            }
        }
        let known = admission.lock();
        let mut active: Vec<i32> = known.active().map(|(id, _)| id).collect();
        let listed = active.len();
        active.sort_unstable();
        active.dedup();
        assert_eq!(active.len(), listed, "each once");
        for service in known.all().filter(|service| !service.is_at_rest()) {
            let id: i32 = service.name[1][1..].parse().expect("its number");
            assert!(active.contains(&id), "{:?}", service.name);
        }
    }
}

#[test]
fn removed_lanes_are_evicted_with_their_services() {
    let admission = admission_of((1..=4).map(|id| row(id, id == 2)).collect());
    let rows = vec![row(1, false), row(3, false)];
    let lanes = [lane(1), lane(3)];
    admission.lock().learn(rows, true, &[], &lanes);
    assert_eq!(admission.admitted(1..=4), HashSet::from_iter([1, 3]));
    assert_eq!(admission.lock().active().count(), 0);
    // A new lane has a larger id than all before it.
    let lanes = [lane(1), lane(3), lane(5)];
    let opened = admission
        .lock()
        .learn(vec![row(5, false)], false, &[], &lanes);
    assert_eq!(opened, [5]);
    assert_eq!(admission.admitted(1..=5), HashSet::from_iter([1, 3, 5]));
}

/// A pause applies to lanes that are added later, and to those that exist already.
#[test]
fn pause_of_a_name_applies_to_later_lanes() {
    let admission = admission_of(vec![row(1, false), row(2, false)]);
    let pause = PauseRow {
        namespace: "n".into(),
        task_name: "t".into(),
        at: SystemTime::UNIX_EPOCH,
        by: "ann".into(),
        reason: "a test".into(),
    };
    let lanes = [lane(1), lane(2), lane(3)];
    let paused = [pause];
    admission
        .lock()
        .learn(Vec::new(), false, &paused, &lanes[..2]);
    assert_eq!(admission.admitted(1..=2), HashSet::default());
    admission
        .lock()
        .learn(vec![row(3, false)], false, &paused, &lanes);
    assert_eq!(admission.admitted(1..=3), HashSet::default());
    let mut opened = admission.lock().learn(Vec::new(), false, &[], &lanes);
    opened.sort_unstable();
    assert_eq!(opened, [1, 2, 3]);
}
