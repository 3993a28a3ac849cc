use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::*;
use crate::{
    domain::{policy::Policy, quota::QuotaShare, step::StepState},
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

fn gates(rows: Vec<ServiceRow>) -> Gates {
    let lanes: Vec<LaneRow> = rows.iter().map(|row| lane(row.service_id)).collect();
    let gates = Gates::new(Uuid::nil());
    gates.lock().learn(rows, true, &[], &lanes);
    gates
}

fn walked(gates: &Gates) -> usize {
    gates.lock().walked.take()
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
fn round(gates: &Gates) -> Vec<(&'static str, usize)> {
    let mut passes = gates.passes();
    let mut cost = vec![("passes", walked(gates))];
    let mut done = |name| cost.push((name, walked(gates)));
    passes.take(1, lease(1));
    passes.take(MANY, lease(2));
    passes.granted();
    let mut changes = Changes::default();
    passes.frees(&changes);
    passes.commit(true, &HashSet::default());
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
    let mut passes = gates.passes();
    passes.frees(&changes);
    drop(passes);
    done("frees");
    let mut demand = vec![LaneDemand {
        lane_id: 1,
        limit: 9,
        bytes: 0,
    }];
    gates.admit(&mut demand, &[]);
    gates.open([1, 2, 3]);
    done("admit");
    let renewals = gates.renewals(|_| 5);
    assert_eq!(renewals.len(), 1, "of the one that is in use");
    done("renewals");
    assert_eq!(gates.running(), [lease(1)]);
    done("running");
    gates.ended(&[lease(1)]);
    done("ended");
    assert_eq!(gates.pause(&[(7, LATER)]).len(), 1);
    gates.resumed();
    done("resumed");
    assert!(gates.next_change().is_some());
    done("next_change");
    gates.take_lapsed();
    done("take_lapsed");
    gates.count(&[failure(9)], SystemTime::UNIX_EPOCH + LATER);
    assert!(gates.has_calls());
    done("has_calls");
    let reports = gates.take_reports();
    assert_eq!(reports.len(), 1);
    gates.put_back(&reports);
    done("take_reports");
    gates.is_limiting();
    done("is_limiting");
    assert!(gates.is_any_closed());
    done("is_any_closed");
    gates.lock().with_shares();
    done("with_shares");
    cost
}

#[test]
fn idle_services_are_not_visited() {
    // One with a limit, one with a pause, and one with counted calls.
    const FEW: usize = 3;
    let gates = gates((1..=MANY).map(|id| row(id, id == 1)).collect());
    for (what, cost) in round(&gates) {
        let walks = if what == "a commit" { 1 } else { 2 };
        assert!(cost <= FEW * walks, "{what}: {cost} gates");
    }
    // Neither does a service that was active once and is at rest again.
    gates.take_reports();
    let news = vec![row(1, false), row(7, false)];
    gates.lock().learn(news, false, &[], &[]);
    gates.take_reports();
    walked(&gates);
    drop(gates.passes());
    assert_eq!(walked(&gates), 0);
}

/// Every active service is listed once, whatever the sequence of actions.
#[test]
fn active_services_are_listed() {
    const SERVICES: i32 = 12;
    let gates = gates((1..=SERVICES).map(|id| row(id, id % 3 == 0)).collect());
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
            0 => drop(gates.pause(&[(id, Duration::from_nanos(1))])),
            1 => gates.count(&[failure(id)], SystemTime::UNIX_EPOCH + LATER),
            2 => drop(gates.take_reports()),
            3 => drop(gates.resumed()),
            4 => {
                let changed = ServiceRow {
                    until: (random(2) == 0).then_some(0.0),
                    forced: (random(4) == 0).then_some(CircuitState::Open),
                    throttled_until: (random(4) == 0).then_some(0.000_001),
                    ..row(id, random(2) == 0)
                };
                gates.lock().learn(vec![changed], false, &[], &[]);
            }
            5 => drop(gates.take_lapsed()),
            6 => {
                let running = gates.running();
                gates.ended(&running);
            }
            7 => drop(gates.renewals(|_| 1)),
            _ => {
                nonce += 1;
                let mut passes = gates.passes();
                passes.take(id, lease(nonce));
                if random(2) == 0 {
                    passes.commit(true, &HashSet::default());
                }
            }
        }
        let known = gates.lock();
        let mut active: Vec<i32> = known.active().map(|(id, _)| id).collect();
        let listed = active.len();
        active.sort_unstable();
        active.dedup();
        assert_eq!(active.len(), listed, "each once");
        for gate in known.all().filter(|gate| !gate.is_at_rest()) {
            let id: i32 = gate.name[1][1..].parse().expect("its number");
            assert!(active.contains(&id), "{:?}", gate.name);
        }
    }
}

#[test]
fn removed_lanes_are_evicted_with_their_services() {
    let gates = gates((1..=4).map(|id| row(id, id == 2)).collect());
    let rows = vec![row(1, false), row(3, false)];
    let lanes = [lane(1), lane(3)];
    gates.lock().learn(rows, true, &[], &lanes);
    assert_eq!(gates.open(1..=4), HashSet::from_iter([1, 3]));
    assert_eq!(gates.lock().active().count(), 0);
    // A new lane has a larger id than all before it.
    let lanes = [lane(1), lane(3), lane(5)];
    let opened = gates.lock().learn(vec![row(5, false)], false, &[], &lanes);
    assert_eq!(opened, [5]);
    assert_eq!(gates.open(1..=5), HashSet::from_iter([1, 3, 5]));
}

/// A pause applies to lanes that are added later, and to those that exist already.
#[test]
fn pause_of_a_name_applies_to_later_lanes() {
    let gates = gates(vec![row(1, false), row(2, false)]);
    let pause = PauseRow {
        namespace: "n".into(),
        task_name: "t".into(),
        at: SystemTime::UNIX_EPOCH,
        by: "ann".into(),
        reason: "a test".into(),
    };
    let lanes = [lane(1), lane(2), lane(3)];
    let paused = [pause];
    gates.lock().learn(Vec::new(), false, &paused, &lanes[..2]);
    assert_eq!(gates.open(1..=2), HashSet::default());
    gates
        .lock()
        .learn(vec![row(3, false)], false, &paused, &lanes);
    assert_eq!(gates.open(1..=3), HashSet::default());
    let mut opened = gates.lock().learn(Vec::new(), false, &[], &lanes);
    opened.sort_unstable();
    assert_eq!(opened, [1, 2, 3]);
}
