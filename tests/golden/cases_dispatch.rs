//! Assignment of steps to workers: cases 17 and 22.

use std::{collections::HashMap, time::Duration};

use tasker::proto::{Register, ResultStatus, StepState, TaskState};

use super::cases_leases::ONE;
use crate::support::{
    TestDb,
    server::{Bench, TestServer, eventually, register, state, step, submission},
    worker::{RawWorker, registration, success},
};

#[tokio::test]
async fn assignments_never_exceed_the_slots() {
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
async fn steps_are_dispatched_by_priority_then_age() {
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
async fn case_22_step_without_a_worker_stays_ready_and_names_its_handler() {
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
async fn worker_of_another_namespace_gets_no_step() {
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
async fn case_17_two_servers_with_many_workers_assign_no_step_twice() {
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
