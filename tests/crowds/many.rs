//! Thousands of tasks, a worker without delays, and helpers that count the tasks by state.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tasker::proto::{self, OrderTasksRequest, OrderTasksResponse};
use tasker_worker::{PermanentError, StepContext, StepError, Worker, WorkerHandle, client::Client};
use tokio::sync::{Mutex, MutexGuard};
use tokio_postgres::Client as Db;
use tonic::{Status, Streaming};

use crate::support::server::submission;

/// Time limit for thousands of tasks on a machine that is busy with other tests.
pub const LONG: Duration = Duration::from_secs(120);

/// The number of tasks.
pub const MANY: usize = 10_000;

/// A test of thousands of tasks runs alone within this binary.
pub async fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::const_new(());
    MACHINE.lock().await
}

/// One step.
pub const ONE: &str =
    "{task_name: one, namespace: t, version: 1.0.0, step_templates: [{name: a, handler_class: h}]}";

/// A service that is up or down.
#[derive(Clone, Default)]
pub struct Service {
    pub down: Arc<AtomicBool>,
    pub calls: Arc<AtomicUsize>,
}

impl Service {
    pub fn worker(&self, urls: &[&str]) -> WorkerHandle {
        let service = self.clone();
        let handler = move |_: StepContext| {
            let service = service.clone();
            async move {
                service.calls.fetch_add(1, Ordering::SeqCst);
                if service.down.load(Ordering::SeqCst) {
                    return Err(StepError::from(
                        PermanentError::new("down").error_code("DOWN"),
                    ));
                }
                Ok(1)
            }
        };
        Worker::builder(urls.iter().copied())
            .max_concurrent_steps(200)
            .handler("h", handler)
            .build()
            .unwrap()
            .spawn()
    }
}

pub async fn submit_many(client: &mut Client, name: &str, mut n: usize) {
    while n > 0 {
        let some = n.min(1_000);
        let tasks = vec![submission(name, "{}"); some];
        client
            .tasks
            .submit_tasks(proto::SubmitTasksRequest { tasks })
            .await
            .unwrap();
        n -= some;
    }
}

/// Number of tasks in this state.
pub async fn count(db: &Db, state: &str) -> usize {
    let sql = "SELECT count(*) FROM tasks WHERE state::text = $1";
    usize::try_from(db.query_one(sql, &[&state]).await.unwrap().get::<_, i64>(0)).unwrap()
}

/// Waits until `n` tasks are in this state.
pub async fn until(db: &Db, state: &str, n: usize) {
    let reached = async {
        while count(db, state).await < n {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(LONG, reached).await.is_err() {
        panic!("{} of {n} tasks are {state}", count(db, state).await);
    }
}

pub async fn start(
    client: &mut Client,
    request: OrderTasksRequest,
) -> Streaming<OrderTasksResponse> {
    client
        .tasks
        .order_tasks(request)
        .await
        .unwrap()
        .into_inner()
}

/// All progress messages of the order.
pub async fn tell(
    client: &mut Client,
    request: OrderTasksRequest,
) -> Result<Vec<OrderTasksResponse>, Status> {
    let mut stream = client.tasks.order_tasks(request).await?.into_inner();
    let mut told = Vec::new();
    while let Some(news) = stream.message().await? {
        told.push(news);
    }
    Ok(told)
}

/// The last message of an order that was carried out to its end.
pub async fn told(client: &mut Client, request: OrderTasksRequest) -> OrderTasksResponse {
    let last = tell(client, request)
        .await
        .unwrap()
        .pop()
        .expect("an account");
    assert!(last.done, "{last:?}");
    last
}
