//! Workers and servers that die: cases 13 to 17 and 22.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tasker::{
    client::Client,
    proto::{
        AttemptOutcome, CancelReason::LeaseLost, Register, ResultStatus, StepState, TaskState,
    },
    store::{self, Db, worker::NewWorker},
};

use crate::support::{
    SCHEMA, TestDb,
    process::ServerProcess,
    server::{self, Bench, TestServer, eventually, finished, register, state, step, submission},
    worker::{RawWorker, registration, released, retryable, success},
};

const ONE: &str = "
task_name: one
namespace: t
version: 1.0.0
step_templates:
  - {name: only, handler_class: h, default_retryable: false}
";

#[tokio::test]
async fn case_13_a_lost_worker_costs_an_attempt_number_but_no_try() {
    let mut bench = Bench::with(ONE).await;
    let connected = Instant::now();
    let mut first = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let lost = first.assignment().await;
    drop(first);
    let mut second = RawWorker::connect(&bench.server.url, &["h"]).await;
    let again = second.assignment().await;
    assert!(
        connected.elapsed() > Duration::from_secs(2),
        "given away before the lease ended"
    );
    assert_eq!((again.attempt, again.charged_attempts), (2, 0));
    assert_eq!(again.idempotency_key, lost.idempotency_key);
    second.settle(&again, success("1")).await;
    let task = bench.finished(&id).await;
    assert_eq!(state(&task), TaskState::Complete);
    let attempts = &step(&task, "only").attempts;
    assert_eq!(attempts[0].outcome(), AttemptOutcome::WorkerLost);
    assert!(!attempts[0].charged);
}

#[tokio::test]
async fn a_heartbeat_keeps_the_lease() {
    let mut bench = Bench::with(ONE).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let assignment = worker.assignment().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(
        worker.settle(&assignment, success("1")).await,
        ResultStatus::Accepted
    );
    assert_eq!(step(&bench.finished(&id).await, "only").attempt, 1);
}

#[tokio::test]
async fn a_silent_worker_with_an_open_stream_loses_its_steps_and_its_stream() {
    let mut bench = Bench::with(ONE).await;
    let mut silent = RawWorker::connect(&bench.server.url, &["h"]).await;
    silent.fall_silent();
    let id = bench.submit("t/one", "{}").await;
    let kept = silent.assignment().await;
    let mut other = RawWorker::connect(&bench.server.url, &["h"]).await;
    let again = other.assignment().await;
    assert_eq!((again.attempt, again.charged_attempts), (2, 0));
    assert_eq!(
        silent.hear().await.unwrap_err().code(),
        tonic::Code::Aborted
    );
    // It wakes up and comes back with the lease it believes in.
    let register = Register {
        previous_worker_id: silent.registered.worker_id.clone(),
        held_leases: vec![kept.lease_token.clone()],
        ..registration(&["h"], 1)
    };
    let mut back = RawWorker::open(&bench.server.url, register).await.unwrap();
    assert!(back.registered.kept_leases.is_empty());
    assert_eq!(back.cancelled().await.lease_token, kept.lease_token);
    assert_eq!(
        back.settle(&kept, success("\"late\"")).await,
        ResultStatus::Stale
    );
    other.settle(&again, success("1")).await;
    assert_eq!(step(&bench.finished(&id).await, "only").result_json, "1");
}

#[tokio::test]
async fn case_14_a_result_sent_twice_has_one_effect_and_two_acknowledgements() {
    let mut bench = Bench::with(ONE).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let assignment = worker.assignment().await;
    // Together, so that both may be in one transaction; then once more when all is over.
    worker.answer(&assignment.lease_token, success("1")).await;
    worker.answer(&assignment.lease_token, success("2")).await;
    assert_eq!(worker.ack().await.status(), ResultStatus::Accepted);
    assert_eq!(worker.ack().await.status(), ResultStatus::Accepted);
    assert_eq!(
        worker.settle(&assignment, success("3")).await,
        ResultStatus::Accepted
    );
    let task = bench.finished(&id).await;
    assert_eq!(step(&task, "only").result_json, "1");
    assert_eq!(step(&task, "only").attempts.len(), 1);
}

const RETRYING: &str = "
task_name: one
namespace: t
version: 1.0.0
step_templates:
  - {name: only, handler_class: h, backoff: {base_seconds: 0.01}}
";

#[tokio::test]
async fn case_14_also_for_an_accepted_failure_after_the_next_attempt_began() {
    let mut bench = Bench::with(RETRYING).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let first = worker.assignment().await;
    worker.settle(&first, retryable("busy", None)).await;
    let second = worker.assignment().await;
    assert_eq!(
        worker.settle(&first, retryable("busy", None)).await,
        ResultStatus::Accepted
    );
    assert_eq!(
        worker.settle(&second, success("1")).await,
        ResultStatus::Accepted
    );
    assert_eq!(step(&bench.finished(&id).await, "only").charged_attempts, 1);
}

const SHORT: &str = "
task_name: one
namespace: t
version: 1.0.0
step_templates:
  - {name: only, handler_class: h, backoff: {base_seconds: 0.01}, handler_config: {timeout_seconds: 0.2}}
";

#[tokio::test]
async fn case_15_a_result_of_a_superseded_attempt_is_stale() {
    let mut bench = Bench::with(SHORT).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let first = worker.assignment().await;
    assert_eq!(worker.cancelled().await.lease_token, first.lease_token);
    let second = worker.assignment().await;
    assert_eq!((second.attempt, second.charged_attempts), (2, 1));
    assert_eq!(
        worker.settle(&first, success("\"late\"")).await,
        ResultStatus::Stale
    );
    assert_eq!(
        worker.settle(&second, success("\"right\"")).await,
        ResultStatus::Accepted
    );
    let task = bench.finished(&id).await;
    assert_eq!(step(&task, "only").result_json, "\"right\"");
    assert_eq!(
        step(&task, "only").attempts[0].outcome(),
        AttemptOutcome::TimedOut
    );
    assert!(step(&task, "only").attempts[0].charged);
    // What came too late left a note, once, and where it was not too late there is none.
    assert_eq!(
        worker.settle(&first, retryable("again", None)).await,
        ResultStatus::Stale
    );
    let task = bench.get(&id).await;
    let attempts = &step(&task, "only").attempts;
    assert_eq!(attempts[0].late_outcome(), AttemptOutcome::Succeeded);
    assert!(attempts[0].late_result_at.unwrap().seconds >= attempts[0].ended_at.unwrap().seconds);
    assert_eq!(
        (attempts[1].late_result_at, attempts[1].late_outcome()),
        (None, AttemptOutcome::Unspecified)
    );
    // An attempt that there never was has no place for a note.
    let db = bench.db.connect().await;
    let notes: i64 = db
        .query_one("SELECT count(*) FROM late_results", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(notes, 1);
}

#[tokio::test]
async fn case_16_a_killed_server_costs_no_work() {
    let db = TestDb::new().await;
    let mut process = ServerProcess::start(db.url());
    let mut client = Client::connect(&process.url).await.unwrap();
    register(&mut client, ONE).await;
    let mut worker = RawWorker::connect(&process.url, &["h"]).await;
    let mut ids = Vec::new();
    let mut running = Vec::new();
    for _ in 0..5 {
        ids.push(server::submit(&mut client, "t/one", "{}").await);
        running.push(worker.assignment().await);
    }
    let (address, before) = (
        process.address().to_owned(),
        worker.registered.worker_id.clone(),
    );
    process.kill();
    let process = ServerProcess::start_at(db.url(), &address);
    let register = Register {
        previous_worker_id: before,
        held_leases: running.iter().map(|a| a.lease_token.clone()).collect(),
        ..registration(&["h"], 16)
    };
    let mut worker = RawWorker::open(&process.url, register).await.unwrap();
    assert_eq!(worker.registered.kept_leases.len(), 5);
    for assignment in &running {
        assert_eq!(
            worker.settle(assignment, success("1")).await,
            ResultStatus::Accepted
        );
    }
    let mut client = Client::connect(&process.url).await.unwrap();
    for id in &ids {
        let task = finished(&mut client, id).await;
        assert_eq!(
            (state(&task), step(&task, "only").attempts.len()),
            (TaskState::Complete, 1)
        );
    }
}

#[tokio::test]
async fn an_assignment_lost_on_the_wire_goes_back_at_once_and_free_of_charge() {
    let mut bench = Bench::with(ONE).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let lost = worker.assignment().await;
    let register = Register {
        previous_worker_id: worker.registered.worker_id.clone(),
        ..registration(&["h"], 16)
    };
    let started = Instant::now();
    let mut again = RawWorker::open(&bench.server.url, register).await.unwrap();
    let assignment = again.assignment().await;
    assert!(
        started.elapsed() < Duration::from_millis(900),
        "it waited for the lease"
    );
    assert_eq!((assignment.attempt, assignment.charged_attempts), (2, 0));
    // It did arrive, and the worker said that it does not hold it: what it makes of it counts no more.
    assert_eq!(
        again.settle(&lost, success("\"late\"")).await,
        ResultStatus::Stale
    );
    again.settle(&assignment, success("1")).await;
    assert_eq!(again.settle(&lost, released()).await, ResultStatus::Stale);
    let task = bench.finished(&id).await;
    assert_eq!(
        step(&task, "only").attempts[0].outcome(),
        AttemptOutcome::Released
    );
    assert_eq!(step(&task, "only").result_json, "1");
}

/// The server that registered it died before it gave anything back, or the search for silent workers came first: nobody was
/// lost, whoever finds what the worker does not hold.
#[tokio::test]
async fn what_a_worker_does_not_hold_any_more_was_not_lost_with_it() {
    let mut bench = Bench::with(ONE).await;
    let worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let mut other = RawWorker::connect(&bench.server.url, &["h"]).await;
    let again = NewWorker {
        worker_id: uuid::Uuid::new_v4(),
        server_id: uuid::Uuid::new_v4(),
        name: "raw".into(),
        build_id: String::new(),
        namespaces: Vec::new(),
        handlers: vec!["h".into()],
        max_concurrent_steps: 1,
        max_assignment_bytes: 4 << 20,
        labels: "{}".into(),
        previous: Some(worker.registered.worker_id.parse().unwrap()),
        held: Vec::new(),
    };
    let db = Db::new(bench.db.url(), SCHEMA).unwrap();
    store::worker::register(&db, &again, Duration::from_secs(10))
        .await
        .unwrap();
    let assignment = other.assignment().await;
    other.settle(&assignment, success("1")).await;
    let task = bench.finished(&id).await;
    assert_eq!(
        step(&task, "only").attempts[0].outcome(),
        AttemptOutcome::Released
    );
}

#[tokio::test]
async fn a_step_that_another_worker_answers_frees_its_holders_slot() {
    let mut bench = Bench::with(ONE).await;
    let other = TestServer::start(&bench.db).await;
    for url in [bench.server.url.clone(), other.url.clone()] {
        let mut holder = RawWorker::open(&bench.server.url, registration(&["h"], 1))
            .await
            .unwrap();
        bench.submit("t/one", "{}").await;
        let assignment = holder.assignment().await;
        let mut answering = RawWorker::connect(&url, &["something.else"]).await;
        let started = Instant::now();
        assert_eq!(
            answering.settle(&assignment, success("1")).await,
            ResultStatus::Accepted
        );
        let cancelled = holder.cancelled().await;
        assert_eq!(
            (cancelled.reason(), cancelled.lease_token),
            (LeaseLost, assignment.lease_token.clone())
        );
        // It may have been about to say the same.
        assert_eq!(
            holder.settle(&assignment, success("2")).await,
            ResultStatus::Accepted
        );
        let next = bench.submit("t/one", "{}").await;
        let assignment = holder.assignment().await;
        assert_eq!(assignment.task_id, next);
        assert!(
            started.elapsed() < Duration::from_secs(3),
            "its slot was taken for {:?}",
            started.elapsed()
        );
        holder.settle(&assignment, success("3")).await;
        holder.drain().await;
        holder.close();
        assert!(matches!(holder.hear().await, Ok(None)));
    }
}

#[tokio::test]
async fn a_connection_that_registered_again_elsewhere_is_closed() {
    let bench = Bench::new().await;
    let other = TestServer::start(&bench.db).await;
    let mut old = RawWorker::connect(&bench.server.url, &["h"]).await;
    let register = Register {
        previous_worker_id: old.registered.worker_id.clone(),
        ..registration(&["h"], 16)
    };
    let _new = RawWorker::open(&other.url, register).await.unwrap();
    assert_eq!(old.hear().await.unwrap_err().code(), tonic::Code::Aborted);
}

#[tokio::test]
async fn a_drained_worker_gives_back_what_it_has_not_started() {
    let mut bench = Bench::with(ONE).await;
    let mut first = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let unstarted = first.assignment().await;
    let mut second = RawWorker::connect(&bench.server.url, &["h"]).await;
    first.drain().await;
    assert_eq!(
        first.settle(&unstarted, released()).await,
        ResultStatus::Accepted
    );
    let assignment = second.assignment().await;
    assert_eq!((assignment.attempt, assignment.charged_attempts), (2, 0));
    second.settle(&assignment, success("1")).await;
    assert_eq!(state(&bench.finished(&id).await), TaskState::Complete);
    first.close();
    assert!(matches!(first.hear().await, Ok(None)));
}

#[tokio::test]
async fn a_worker_that_releases_in_a_loop_does_not_spin() {
    let mut bench = Bench::with(ONE).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    bench.submit("t/one", "{}").await;
    let first = worker.assignment().await;
    worker.settle(&first, released()).await;
    let started = Instant::now();
    let again = worker.assignment().await;
    assert!(
        started.elapsed() > Duration::from_millis(800),
        "released steps come back at once"
    );
    assert_eq!((again.attempt, again.charged_attempts), (2, 0));
}

/// A worker dies, and its lease runs out at once.
async fn gone(db: &tokio_postgres::Client, worker: RawWorker) {
    let id = uuid::Uuid::parse_str(&worker.registered.worker_id).unwrap();
    drop(worker);
    // Until its server has noticed, a heartbeat on its way may still make the lease longer.
    eventually("the lease runs out", || async {
        let sql = "UPDATE workers SET lease_expires_at = now() - interval '1 minute' WHERE worker_id = $1 AND ended_at IS NULL";
        (db.execute(sql, &[&id]).await.unwrap() == 0).then_some(())
    })
    .await;
}

/// What waits for its next attempt need not wait any longer.
async fn hurry(db: &tokio_postgres::Client) {
    let sql = "UPDATE queue SET next_attempt_at = now(), ready_at = now(), due = true WHERE state = 'waiting_for_retry'";
    db.execute(sql, &[]).await.unwrap();
}

#[tokio::test]
async fn a_deploy_never_exhausts_a_step() {
    const DEPLOYS: i32 = 25;
    let mut bench = Bench::with(ONE).await;
    let id = bench.submit("t/one", "{}").await;
    let db = bench.db.connect().await;
    for attempt in 1..=DEPLOYS {
        let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
        let assignment = worker.assignment().await;
        assert_eq!(
            (assignment.attempt, assignment.charged_attempts),
            (attempt, 0)
        );
        worker.drain().await;
        if attempt == 2 {
            // Killed in the middle of its drain, as by an orchestrator that has waited long enough.
            eventually("the drain is known", || async {
                let sql = "SELECT count(*) FROM workers WHERE draining AND ended_at IS NULL";
                (db.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
            })
            .await;
            gone(&db, worker).await;
        } else {
            worker.close();
            assert!(matches!(worker.hear().await, Ok(None)));
        }
        eventually("the step is given back", || async {
            let sql = "SELECT count(*) FROM queue WHERE lease IS NULL";
            (db.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
        })
        .await;
        hurry(&db).await;
    }
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let last = worker.assignment().await;
    worker.settle(&last, success("1")).await;
    let task = bench.finished(&id).await;
    assert_eq!(state(&task), TaskState::Complete);
    let attempts = &step(&task, "only").attempts;
    assert_eq!(attempts.len(), usize::try_from(DEPLOYS).unwrap() + 1);
    for attempt in &attempts[..attempts.len() - 1] {
        assert_eq!(
            (attempt.outcome(), attempt.charged, &attempt.error),
            (AttemptOutcome::Drained, false, &None)
        );
    }
    let marks = "SELECT (SELECT count(*) FROM circuit_changes), (SELECT coalesce(sum(failures), 0)::bigint FROM service_health)";
    let marks = db.query_one(marks, &[]).await.unwrap();
    assert_eq!(
        (marks.get::<_, i64>(0), marks.get::<_, i64>(1)),
        (0, 0),
        "a deploy is no fault of the service"
    );
}

#[tokio::test]
async fn workers_that_drain_one_after_the_other_do_not_spin_a_step() {
    let mut bench = Bench::with(ONE).await;
    let id = bench.submit("t/one", "{}").await;
    let mut started = Instant::now();
    for attempt in 1..=3 {
        let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
        assert_eq!(worker.assignment().await.attempt, attempt);
        if attempt == 3 {
            assert!(
                started.elapsed() > Duration::from_millis(800),
                "the step came back at once"
            );
            let waits = "a worker that had drained is named";
            assert!(
                server::explained(&mut bench.client, &id).await.steps[0].free_attempts == 2,
                "{waits}"
            );
            return;
        }
        started = Instant::now();
        worker.drain().await;
        worker.close();
        assert!(matches!(worker.hear().await, Ok(None)));
    }
}

#[tokio::test]
async fn a_step_that_loses_ten_workers_fails() {
    let mut bench = Bench::with(ONE).await;
    let id = bench.submit("t/one", "{}").await;
    let db = bench.db.connect().await;
    for attempt in 1..=10 {
        let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
        assert_eq!(worker.assignment().await.attempt, attempt);
        gone(&db, worker).await;
    }
    let task = bench.finished(&id).await;
    assert_eq!(state(&task), TaskState::Error);
    assert_eq!(
        step(&task, "only").error.as_ref().unwrap().error_code,
        "WORKER_LOST"
    );
    assert_eq!(step(&task, "only").charged_attempts, 0);
}

#[tokio::test]
async fn no_more_assignments_than_slots() {
    let mut bench = Bench::with(ONE).await;
    let mut worker = RawWorker::open(&bench.server.url, registration(&["h"], 2))
        .await
        .unwrap();
    for _ in 0..5 {
        bench.submit("t/one", "{}").await;
    }
    let first = worker.assignment().await;
    worker.assignment().await;
    worker.hears_nothing(Duration::from_millis(400)).await;
    worker.answer(&first.lease_token, success("1")).await;
    worker.ack().await;
    worker.assignment().await;
    worker.hears_nothing(Duration::from_millis(400)).await;
}

#[tokio::test]
async fn priority_first_then_age() {
    let mut bench = Bench::with(ONE).await;
    let mut ids = Vec::new();
    for priority in [0, 0, 5, -5, 5] {
        let request = tasker::proto::SubmitTaskRequest {
            priority,
            ..submission("t/one", "{}")
        };
        ids.push(
            bench
                .client
                .tasks
                .submit_task(request)
                .await
                .unwrap()
                .into_inner()
                .task_id,
        );
    }
    let mut worker = RawWorker::open(&bench.server.url, registration(&["h"], 1))
        .await
        .unwrap();
    for i in [2, 4, 0, 1, 3] {
        let assignment = worker.assignment().await;
        assert_eq!(assignment.task_id, ids[i]);
        worker.answer(&assignment.lease_token, success("1")).await;
        match worker.hear().await.unwrap() {
            Some(tasker::proto::work_response::Message::Ack(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn case_22_without_a_worker_the_step_stays_ready_and_names_its_handler() {
    let mut bench = Bench::with(ONE).await;
    let _other = RawWorker::connect(&bench.server.url, &["something.else"]).await;
    let id = bench.submit("t/one", "{}").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let task = bench.get(&id).await;
    assert_eq!(state(&task), TaskState::Pending);
    assert_eq!(step(&task, "only").state(), StepState::Ready);
    assert_eq!(step(&task, "only").handler, "h");
    let list = tasker::proto::ListWorkersRequest {
        handler: "h".into(),
        ..Default::default()
    };
    assert!(
        bench
            .client
            .workers
            .list_workers(list)
            .await
            .unwrap()
            .into_inner()
            .workers
            .is_empty()
    );
}

#[tokio::test]
async fn a_worker_of_another_namespace_gets_nothing() {
    let mut bench = Bench::with(ONE).await;
    let foreign = Register {
        namespaces: vec!["other".into()],
        ..registration(&["h"], 4)
    };
    let mut foreign = RawWorker::open(&bench.server.url, foreign).await.unwrap();
    bench.submit("t/one", "{}").await;
    foreign.hears_nothing(Duration::from_millis(400)).await;
    let own = Register {
        namespaces: vec!["t".into()],
        ..registration(&["h"], 4)
    };
    RawWorker::open(&bench.server.url, own)
        .await
        .unwrap()
        .assignment()
        .await;
}

const FAN: &str = "
task_name: fan
namespace: t
version: 1.0.0
step_templates:
  - {name: a, handler_class: h}
  - {name: b, handler_class: h, depends_on_steps: [a]}
  - {name: c, handler_class: h, depends_on_steps: [a]}
  - {name: d, handler_class: h, depends_on_steps: [b, c]}
";

#[tokio::test]
async fn case_17_two_servers_and_many_workers_hand_out_no_step_twice() {
    const TASKS: usize = 2_000;
    let db = TestDb::new().await;
    let servers = [TestServer::start(&db).await, TestServer::start(&db).await];
    let mut client = servers[0].client().await;
    register(&mut client, FAN).await;
    let (seen, mut assignments) = tokio::sync::mpsc::unbounded_channel();
    let mut workers = tokio::task::JoinSet::new();
    for i in 0..8 {
        let (url, seen) = (servers[i % 2].url.clone(), seen.clone());
        workers.spawn(async move {
            let mut worker = RawWorker::connect(&url, &["h"]).await;
            loop {
                match worker.hear().await.unwrap() {
                    Some(tasker::proto::work_response::Message::Assignment(a)) => {
                        worker.answer(&a.lease_token, success("1")).await;
                        let _ = seen.send((a.task_id, a.step_name));
                    }
                    Some(tasker::proto::work_response::Message::Ack(ack)) => {
                        assert_eq!(ack.status(), ResultStatus::Accepted);
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
    }
    let mut clients = [servers[0].client().await, servers[1].client().await];
    for (i, chunk) in (0..TASKS).collect::<Vec<_>>().chunks(100).enumerate() {
        let tasks = chunk.iter().map(|_| submission("t/fan", "{}")).collect();
        clients[i % 2]
            .tasks
            .submit_tasks(tasker::proto::SubmitTasksRequest { tasks })
            .await
            .unwrap();
    }
    let mut count: HashMap<(String, String), usize> = HashMap::new();
    while count.len() < TASKS * 4 {
        let step = tokio::time::timeout(Duration::from_secs(60), assignments.recv()).await;
        let step = step.unwrap_or_else(|_| panic!("only {} steps came", count.len()));
        *count.entry(step.unwrap()).or_default() += 1;
    }
    let db = db.connect().await;
    eventually("all tasks complete", || async {
        let row = db
            .query_one("SELECT count(*) FROM tasks WHERE state = 'complete'", &[])
            .await
            .unwrap();
        (row.get::<_, i64>(0) == i64::try_from(TASKS).unwrap()).then_some(())
    })
    .await;
    assert!(count.values().all(|n| *n == 1), "handed out twice");
    let row = db
        .query_one(
            "SELECT count(*), count(DISTINCT (task_id, step)) FROM attempts",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, i64>(1)),
        (TASKS as i64 * 4, TASKS as i64 * 4)
    );
    workers.abort_all();
}
