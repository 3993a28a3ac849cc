//! A client that submits throughout all faults and records the accepted tasks.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tasker::proto::{SubmitTaskRequest, TaskState};
use tasker_worker::{WorkerHandle, client::Client};
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    ledger::Ledger,
    support::{
        invariants::invariants,
        server::{eventually, submission},
    },
};

/// Four steps.
pub const FAN: &str = "
task_name: fan
namespace: t
version: 1.0.0
step_templates:
  - {name: a, handler_class: h}
  - {name: b, handler_class: h, depends_on_steps: [a]}
  - {name: c, handler_class: h, depends_on_steps: [a]}
  - {name: d, handler_class: h, depends_on_steps: [b, c]}
";

/// One step.
pub const ONE: &str = "
task_name: one
namespace: t
version: 1.0.0
step_templates:
  - {name: only, handler_class: h}
";

/// A refusal, and the time until it came.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub status: Status,
    pub after: Duration,
}

/// A stream of submits in the background, a few milliseconds apart, each under an idempotency key
/// of its own and repeated until it is accepted.
pub struct Load {
    stop: Arc<AtomicBool>,
    refusals: Arc<Mutex<Vec<Refusal>>>,
    running: JoinHandle<Vec<String>>,
}

impl Load {
    pub fn start(url: &str, name: &'static str, pause: Duration) -> Self {
        let (stop, refusals) = (
            Arc::<AtomicBool>::default(),
            Arc::<Mutex<Vec<Refusal>>>::default(),
        );
        let running = tokio::spawn(run(
            url.to_owned(),
            name,
            pause,
            Arc::clone(&stop),
            Arc::clone(&refusals),
        ));
        Self {
            stop,
            refusals,
            running,
        }
    }

    /// The refusals so far.
    pub fn refusals(&self) -> Vec<Refusal> {
        self.refusals.lock().unwrap().clone()
    }

    /// Ends the load and returns the ids of the accepted tasks.
    pub async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.running.await.unwrap()
    }
}

async fn run(
    url: String,
    name: &'static str,
    pause: Duration,
    stop: Arc<AtomicBool>,
    refusals: Arc<Mutex<Vec<Refusal>>>,
) -> Vec<String> {
    let mut client = Client::connect(&url).await.unwrap();
    // Keys of two streams differ.
    let stream = uuid::Uuid::new_v4();
    let mut accepted = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let key = format!("{stream}-{}", accepted.len());
        let request = SubmitTaskRequest {
            idempotency_key: key,
            ..submission(name, "{}")
        };
        loop {
            let asked = Instant::now();
            match client.tasks.submit_task(request.clone()).await {
                Ok(response) => break accepted.push(response.into_inner().task_id),
                Err(status) => refusals.lock().unwrap().push(Refusal {
                    status,
                    after: asked.elapsed(),
                }),
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tokio::time::sleep(pause).await;
    }
    accepted
}

/// Each refusal is UNAVAILABLE with RetryInfo, and comes before any time-out of a statement or a
/// lock.
pub fn assert_says_when_to_come_back(refusals: &[Refusal]) {
    for Refusal { status, after } in refusals {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(
            status
                .get_details_retry_info()
                .is_some_and(|info| info.retry_delay.is_some()),
            "{status:?}"
        );
        assert!(
            *after < Duration::from_secs(8),
            "it took {after:?} to refuse: {status:?}"
        );
    }
}

/// All these tasks are complete, and there are no others.
pub async fn all_complete(db: &tokio_postgres::Client, tasks: &[String]) {
    let complete = "SELECT count(*) FROM tasks WHERE state = 'complete'";
    let all = "SELECT count(*), count(*) FILTER (WHERE task_id::text = ANY($1)) FROM tasks";
    eventually(
        &format!("all of {} tasks complete", tasks.len()),
        || async {
            let n: i64 = db.query_one(complete, &[]).await.unwrap().get(0);
            (n == i64::try_from(tasks.len()).unwrap()).then_some(())
        },
    )
    .await;
    let row = db.query_one(all, &[&tasks]).await.unwrap();
    let n = i64::try_from(tasks.len()).unwrap();
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, i64>(1)),
        (n, n),
        "{}",
        TaskState::Complete.as_str_name()
    );
}

/// The same, each of their four steps ran once, the invariants hold, and the workers shut down
/// well.
pub async fn all_done_once(
    db: &tokio_postgres::Client,
    tasks: &[String],
    ledger: &Ledger,
    workers: impl IntoIterator<Item = WorkerHandle>,
) {
    all_complete(db, tasks).await;
    ledger.assert_each_once(tasks.len() * 4);
    invariants(db).await;
    for worker in workers {
        worker.shutdown().await.unwrap();
    }
}

/// No step is left in play, and the invariants hold.
pub async fn nothing_left(db: &tokio_postgres::Client) {
    eventually("all is done", || async {
        let sql = "SELECT count(*) FROM queue";
        (db.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    invariants(db).await;
}
