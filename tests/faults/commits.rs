//! Commits whose answer is lost. Such a commit may have claimed steps for a worker that never got
//! the assignment; they must not stay with that worker, which lives and extends its lease.

use std::time::Duration;

use tasker::proto::{CancelReason, ResultStatus, StepAssignment, SubmitTaskRequest, TaskState};
use tasker_worker::client::Client;
use tonic::Code;

use crate::{
    load::{FAN, ONE},
    proxy::Proxy,
    support::{
        TestDb,
        invariants::invariants,
        process::ServerProcess,
        server::{eventually, finished, get, register, state, step, submission, submit},
        worker::{RawWorker, registration, success},
    },
};

struct Cut {
    db: TestDb,
    proxy: Proxy,
    server: ServerProcess,
    client: Client,
}

impl Cut {
    async fn with(yaml: &str) -> Self {
        let db = TestDb::new().await;
        let proxy = Proxy::start(db.url()).await;
        let url = proxy.url.clone();
        let server = tokio::task::spawn_blocking(move || ServerProcess::start(&url))
            .await
            .unwrap();
        let mut client = Client::connect(&server.url).await.unwrap();
        register(&mut client, yaml).await;
        Self {
            db,
            proxy,
            server,
            client,
        }
    }

    async fn worker(&self, slots: i32) -> RawWorker {
        RawWorker::open(&self.server.url, registration(&["h"], slots))
            .await
            .unwrap()
    }
}

/// The next assignment arrives soon, not after a lease or a deadline.
async fn soon(worker: &mut RawWorker) -> StepAssignment {
    tokio::time::timeout(Duration::from_secs(3), worker.assignment())
        .await
        .expect("the step is stuck")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uncertain_commit_of_intake_is_resolved() {
    let mut cut = Cut::with(ONE).await;
    let mut worker = cut.worker(4).await;
    // By then the look for the new worker is over, so its slots are free for the submit to claim.
    tokio::time::sleep(Duration::from_millis(300)).await;
    cut.proxy.swallow_commit(1);
    let request = SubmitTaskRequest {
        idempotency_key: "k".into(),
        ..submission("t/one", "{}")
    };
    let status = cut
        .client
        .tasks
        .submit_task(request.clone())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let assignment = soon(&mut worker).await;
    assert_eq!((assignment.attempt, assignment.charged_attempts), (2, 0));
    let again = cut
        .client
        .tasks
        .submit_task(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (again.created, &again.task_id),
        (false, &assignment.task_id)
    );
    assert_eq!(
        worker.settle(&assignment, success("1")).await,
        ResultStatus::Accepted
    );
    assert_eq!(
        state(&finished(&mut cut.client, &again.task_id).await),
        TaskState::Complete
    );
    invariants(&cut.db.connect().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uncertain_commit_of_settle_is_resolved() {
    let mut cut = Cut::with(FAN).await;
    let mut worker = cut.worker(4).await;
    let id = submit(&mut cut.client, "t/fan", "{}").await;
    let a = soon(&mut worker).await;
    cut.proxy.swallow_commit(1);
    // The second try finds the effects of the first one.
    assert_eq!(
        worker.settle(&a, success("1")).await,
        ResultStatus::Accepted
    );
    assert!(cut.proxy.has_swallowed());
    for _ in 0..2 {
        let child = soon(&mut worker).await;
        assert_eq!((child.attempt, child.charged_attempts), (2, 0));
        worker.settle(&child, success("1")).await;
    }
    let d = soon(&mut worker).await;
    worker.settle(&d, success("1")).await;
    let task = finished(&mut cut.client, &id).await;
    assert_eq!(
        (state(&task), step(&task, "a").attempts.len()),
        (TaskState::Complete, 1)
    );
    invariants(&cut.db.connect().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uncertain_commit_of_dispatch_is_resolved() {
    let mut cut = Cut::with(ONE).await;
    let id = submit(&mut cut.client, "t/one", "{}").await;
    // The first commit is that of the worker's registration.
    cut.proxy.swallow_commit(2);
    let mut worker = cut.worker(4).await;
    let assignment = soon(&mut worker).await;
    assert!(cut.proxy.has_swallowed());
    assert_eq!((assignment.attempt, assignment.charged_attempts), (2, 0));
    worker.settle(&assignment, success("1")).await;
    assert_eq!(
        state(&finished(&mut cut.client, &id).await),
        TaskState::Complete
    );
    invariants(&cut.db.connect().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uncertain_commit_of_a_cancel_is_resolved() {
    let mut cut = Cut::with(ONE).await;
    let mut worker = cut.worker(1).await;
    let id = submit(&mut cut.client, "t/one", "{}").await;
    let running = soon(&mut worker).await;
    cut.proxy.swallow_commit(1);
    let request = tasker::proto::CancelTaskRequest {
        task_id: id.clone(),
        by: "t".into(),
        reason: "r".into(),
    };
    cut.client.tasks.cancel_task(request).await.unwrap();
    assert!(cut.proxy.has_swallowed());
    let cancel = worker.cancelled().await;
    assert_eq!(
        (&cancel.lease_token, cancel.reason()),
        (&running.lease_token, CancelReason::TaskCancelled)
    );
    assert_eq!(
        state(&get(&mut cut.client, &id).await),
        TaskState::Cancelled
    );
    // The slot is free again.
    submit(&mut cut.client, "t/one", "{}").await;
    soon(&mut worker).await;
    let db = cut.db.connect().await;
    eventually("one event", || async {
        let sql = "SELECT count(*) FROM events WHERE type = 'task.cancelled'";
        (db.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    invariants(&db).await;
}
