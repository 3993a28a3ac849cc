//! Workers that are killed, stopped, or gone for a moment.

use std::{
    process::{Child, Command},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tasker::proto::{AttemptOutcome, CancelReason, Register, ResultStatus, StepState, TaskState};
use tasker_worker::{StepContext, Worker};

use crate::{
    ledger::Ledger,
    load::ONE,
    support::{
        TestDb,
        invariants::invariants,
        server::{Bench, TestServer, eventually, state, step},
        worker::{RawWorker, registration, success},
    },
};

/// The first variable makes [`worker_process`] a worker of the server at this address; the second
/// one sets the duration of its steps.
const SERVE: &str = "TASKER_TEST_SERVE";
const STEP_MILLIS: &str = "TASKER_TEST_STEP_MILLIS";

/// This test binary as a worker of handler `h`.
struct WorkerProcess(Child);

impl WorkerProcess {
    fn start(url: &str, step: Duration) -> Self {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "workers::worker_process", "--nocapture"])
            .env(SERVE, url)
            .env(STEP_MILLIS, step.as_millis().to_string())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test by itself: the process that the tests below kill.
#[tokio::test]
async fn worker_process() {
    let Ok(url) = std::env::var(SERVE) else {
        return;
    };
    let time = Duration::from_millis(std::env::var(STEP_MILLIS).unwrap().parse().unwrap());
    let worker = Worker::builder([url])
        .name("process")
        .max_concurrent_steps(4)
        .handler("h", move |_: StepContext| {
            let pid = std::process::id();
            async move {
                tokio::time::sleep(time).await;
                Ok(pid)
            }
        });
    // The process ends by itself in case the test no longer runs.
    let _ = tokio::time::timeout(Duration::from_secs(60), worker.build().unwrap().run()).await;
}

async fn connected(bench: &mut Bench, workers: usize) {
    let list = || tasker::proto::ListWorkersRequest::default();
    let client = bench.client.clone();
    eventually("the workers connect", || {
        let mut client = client.clone();
        async move {
            let found = client
                .workers
                .list_workers(list())
                .await
                .unwrap()
                .into_inner()
                .workers
                .len();
            (found == workers).then_some(())
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_of_killed_workers_go_to_others_uncharged() {
    let mut bench = Bench::with(ONE).await;
    bench.circuits_off().await;
    let killed = [0, 1].map(|_| WorkerProcess::start(&bench.server.url, Duration::from_secs(600)));
    connected(&mut bench, 2).await;
    let mut ids = Vec::new();
    for _ in 0..12 {
        ids.push(bench.submit("t/one", "{}").await);
    }
    let db = bench.db.connect().await;
    let running = "SELECT count(*) FROM queue WHERE state = 'in_progress'";
    eventually("eight steps run", || async {
        (db.query_one(running, &[]).await.unwrap().get::<_, i64>(0) == 8).then_some(())
    })
    .await;
    for worker in &killed {
        worker.signal(Signal::KILL);
    }
    let died = Instant::now();
    let ledger = Ledger::default();
    let heir = ledger.worker(&[&bench.server.url], 4, Duration::from_millis(20));
    let mut lost = 0;
    for id in &ids {
        let task = bench.finished(id).await;
        assert_eq!(state(&task), TaskState::Complete);
        let only = step(&task, "only");
        assert_eq!(only.charged_attempts, 0);
        let (last, before) = only.attempts.split_last().unwrap();
        assert_eq!(last.outcome(), AttemptOutcome::Succeeded);
        assert!(before.len() <= 1, "{before:?}");
        lost += before
            .iter()
            .filter(|a| a.outcome() == AttemptOutcome::WorkerLost && !a.charged)
            .count();
    }
    assert_eq!(lost, 8);
    assert!(
        died.elapsed() < Duration::from_secs(30),
        "it took {:?}",
        died.elapsed()
    );
    ledger.assert_each_once(12);
    invariants(&db).await;
    heir.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_stopped_beyond_its_lease_returns_stale_and_reconnects() {
    let mut bench = Bench::with(ONE).await;
    let stopped = WorkerProcess::start(&bench.server.url, Duration::from_millis(1_500));
    connected(&mut bench, 1).await;
    let ids = [
        bench.submit("t/one", "{}").await,
        bench.submit("t/one", "{}").await,
    ];
    let db = bench.db.connect().await;
    let running = "SELECT count(*) FROM queue WHERE state = 'in_progress'";
    eventually("the steps run", || async {
        (db.query_one(running, &[]).await.unwrap().get::<_, i64>(0) == 2).then_some(())
    })
    .await;
    stopped.signal(Signal::STOP);
    let ledger = Ledger::default();
    let heir = ledger.worker(&[&bench.server.url], 1, Duration::from_millis(10));
    for id in &ids {
        let task = bench.finished(id).await;
        let outcomes: Vec<_> = step(&task, "only")
            .attempts
            .iter()
            .map(tasker::proto::Attempt::outcome)
            .collect();
        assert_eq!(
            outcomes,
            [AttemptOutcome::WorkerLost, AttemptOutcome::Succeeded],
            "it was given more steps"
        );
    }
    ledger.assert_each_once(2);
    heir.shutdown().await.unwrap();
    stopped.signal(Signal::CONT);
    // The worker registers again and takes new steps.
    let id = bench.submit("t/one", "{}").await;
    let task = bench.finished(&id).await;
    assert_eq!(
        (state(&task), step(&task, "only").attempts.len()),
        (TaskState::Complete, 1)
    );
    invariants(&db).await;
}

#[tokio::test]
async fn stream_closed_without_a_drain_keeps_the_leases() {
    let mut bench = Bench::with(ONE).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let assignment = worker.assignment().await;
    worker.close();
    assert!(matches!(worker.hear().await, Ok(None)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let register = Register {
        previous_worker_id: worker.registered.worker_id.clone(),
        held_leases: vec![assignment.lease_token.clone()],
        ..registration(&["h"], 4)
    };
    let mut again = RawWorker::open(&bench.server.url, register).await.unwrap();
    assert_eq!(
        again.registered.kept_leases,
        std::slice::from_ref(&assignment.lease_token)
    );
    assert_eq!(
        again.settle(&assignment, success("1")).await,
        ResultStatus::Accepted
    );
    assert_eq!(step(&bench.finished(&id).await, "only").attempts.len(), 1);
    invariants(&bench.db.connect().await).await;
}

/// The server of a worker watches the deadlines of the attempts it knows. An attempt that it does
/// not know must still end at its deadline, and a worker that runs an ended attempt gets a cancel.
#[tokio::test]
async fn attempt_unknown_to_all_servers_times_out() {
    let yaml = "{task_name: one, namespace: t, version: 1.0.0, step_templates: [{name: only, handler_class: h,
                  default_retry_limit: 1, handler_config: {timeout_seconds: 1}}]}";
    let mut bench = Bench::with(yaml).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let assignment = worker.assignment().await;
    let db = bench.db.connect().await;
    db.execute("UPDATE queue SET lease = lease # 1", &[])
        .await
        .unwrap();
    let cancel = worker.cancelled().await;
    assert_eq!(
        (&cancel.lease_token, cancel.reason()),
        (&assignment.lease_token, CancelReason::LeaseLost)
    );
    let task = bench.finished(&id).await;
    assert_eq!(step(&task, "only").state(), StepState::Error);
    assert_eq!(
        step(&task, "only").attempts[0].outcome(),
        AttemptOutcome::TimedOut
    );
}

#[tokio::test]
async fn worker_known_to_two_servers_runs_a_step_once() {
    let db = TestDb::new().await;
    let (one, two) = (TestServer::start(&db).await, TestServer::start(&db).await);
    let mut client = one.client().await;
    crate::support::server::register(&mut client, ONE).await;
    let mut old = RawWorker::connect(&one.url, &["h"]).await;
    let id = crate::support::server::submit(&mut client, "t/one", "{}").await;
    let assignment = old.assignment().await;
    let register = Register {
        previous_worker_id: old.registered.worker_id.clone(),
        held_leases: vec![assignment.lease_token.clone()],
        ..registration(&["h"], 4)
    };
    let mut new = RawWorker::open(&two.url, register).await.unwrap();
    // The same result on both streams.
    old.answer(&assignment.lease_token, success("1")).await;
    assert_eq!(
        new.settle(&assignment, success("1")).await,
        ResultStatus::Accepted
    );
    let task = crate::support::server::finished(&mut client, &id).await;
    assert_eq!(
        (state(&task), step(&task, "only").attempts.len()),
        (TaskState::Complete, 1)
    );
    invariants(&db.connect().await).await;
}
