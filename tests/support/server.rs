//! A server in the test's own process, over a real socket and a real database, and helpers for the
//! calls that tests make.

use std::time::{Duration, Instant};

use tasker::{
    proto::{self, TaskState},
    server::{self, ServerConfig},
    store::Db,
};
use tasker_worker::client::Client;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::Status;
use tonic_types::StatusExt as _;

use super::{SCHEMA, TestDb, process};

/// The time limit of anything that should happen in a test, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. Dropping it aborts it without a drain.
pub struct TestServer {
    pub url: String,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
}

impl TestServer {
    /// Starts a server on the test's database, with leases of 2 s and a drain of 5 s at most.
    pub async fn start(db: &TestDb) -> Self {
        let config = ServerConfig {
            lease: Duration::from_secs(2),
            drain: Duration::from_secs(5),
            ..Default::default()
        };
        Self::start_with(db, config).await
    }

    /// Starts a server and returns once it has started.
    pub async fn start_with(db: &TestDb, config: ServerConfig) -> Self {
        let server = Self::spawn(db, config).await;
        let url = server.url.clone();
        tokio::task::spawn_blocking(move || process::wait_until_started(&url))
            .await
            .unwrap();
        server
    }

    /// Starts a server and returns once it listens.
    pub async fn spawn(db: &TestDb, config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let db = Db::new(db.url(), SCHEMA).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            server::run(listener, db, config, shutdown).await.unwrap();
        });
        Self {
            url,
            stop: Some(stop),
            running,
        }
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.url).await.unwrap()
    }

    /// Drains the server and waits for its end.
    pub async fn stop(mut self) {
        let _ = self.stop.take().unwrap().send(());
        (&mut self.running).await.unwrap();
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// A server with its database and a client.
pub struct Bench {
    pub db: TestDb,
    pub server: TestServer,
    pub client: Client,
}

impl Bench {
    pub async fn new() -> Self {
        Self::with_lease(Duration::from_secs(2)).await
    }

    /// A long lease keeps workers whose test needs the machine for longer.
    pub async fn with_lease(lease: Duration) -> Self {
        let db = TestDb::new().await;
        let config = ServerConfig {
            lease,
            drain: Duration::from_secs(5),
            ..Default::default()
        };
        let server = TestServer::start_with(&db, config).await;
        let client = server.client().await;
        Self { db, server, client }
    }

    /// A bench with this template registered.
    pub async fn with(yaml: &str) -> Self {
        let mut bench = Self::new().await;
        register(&mut bench.client, yaml).await;
        bench
    }

    /// Switches circuits and pauses off, so that a service is called however often it fails: for
    /// tests of single steps.
    pub async fn circuits_off(&mut self) {
        let request = proto::SetPolicyRequest {
            policy: Some(proto::Policy {
                enabled: Some(false),
                max_pause_seconds: Some(0.0),
                ..Default::default()
            }),
            by: "test".into(),
            reason: "a test".into(),
            ..Default::default()
        };
        self.client.circuits.set_policy(request).await.unwrap();
    }

    /// Submits a task with a context and returns its id.
    pub async fn submit(&mut self, name: &str, context: &str) -> String {
        submit(&mut self.client, name, context).await
    }

    pub async fn get(&mut self, task_id: &str) -> proto::GetTaskResponse {
        get(&mut self.client, task_id).await
    }

    /// The task once it is final.
    pub async fn finished(&mut self, task_id: &str) -> proto::GetTaskResponse {
        finished(&mut self.client, task_id).await
    }

    pub async fn cancel(&mut self, task_id: &str) -> Result<proto::Task, tonic::Status> {
        let request = proto::CancelTaskRequest {
            task_id: task_id.into(),
            by: "test".into(),
            reason: "why".into(),
        };
        self.client
            .tasks
            .cancel_task(request)
            .await
            .map(|r| r.into_inner().task.unwrap())
    }
}

pub async fn register(client: &mut Client, yaml: &str) -> proto::RegisterTemplateResponse {
    let request = proto::RegisterTemplateRequest {
        yaml: yaml.into(),
        deny_warnings: false,
    };
    client
        .templates
        .register_template(request)
        .await
        .unwrap()
        .into_inner()
}

/// `name` is `namespace/task_name`.
pub fn submission(name: &str, context: &str) -> proto::SubmitTaskRequest {
    let (namespace, task_name) = name.split_once('/').unwrap();
    proto::SubmitTaskRequest {
        namespace: namespace.into(),
        task_name: task_name.into(),
        context_json: context.into(),
        ..Default::default()
    }
}

pub async fn submit(client: &mut Client, name: &str, context: &str) -> String {
    client
        .tasks
        .submit_task(submission(name, context))
        .await
        .unwrap()
        .into_inner()
        .task_id
}

pub async fn get(client: &mut Client, task_id: &str) -> proto::GetTaskResponse {
    client
        .tasks
        .get_task(proto::GetTaskRequest {
            task_id: task_id.into(),
        })
        .await
        .unwrap()
        .into_inner()
}

/// Watches the task to its end.
pub async fn finished(client: &mut Client, task_id: &str) -> proto::GetTaskResponse {
    let request = proto::WatchTaskRequest {
        task_id: task_id.into(),
        final_only: true,
    };
    let watch = async {
        let mut stream = client.tasks.watch_task(request).await.unwrap().into_inner();
        while stream.message().await.unwrap().is_some() {}
    };
    if tokio::time::timeout(PATIENCE, watch).await.is_err() {
        panic!("the task did not end: {:#?}", get(client, task_id).await);
    }
    get(client, task_id).await
}

/// Pauses a template, or with an empty name its namespace.
pub async fn pause(client: &mut Client, namespace: &str, task_name: &str) -> proto::Pause {
    let (namespace, task_name) = (namespace.into(), task_name.into());
    let request = proto::PauseTemplateRequest {
        namespace,
        task_name,
        by: "ann".into(),
        reason: "a test".into(),
    };
    client
        .tasks
        .pause_template(request)
        .await
        .unwrap()
        .into_inner()
        .pause
        .unwrap()
}

/// Lifts such a pause; returns whether there was one.
pub async fn lift(client: &mut Client, namespace: &str, task_name: &str) -> bool {
    let (namespace, task_name) = (namespace.into(), task_name.into());
    let request = proto::ResumeTemplateRequest {
        namespace,
        task_name,
        by: "bob".into(),
        reason: "well".into(),
    };
    client
        .tasks
        .resume_template(request)
        .await
        .unwrap()
        .into_inner()
        .was_paused
}

/// The server's explanation of the task.
pub async fn explained(client: &mut Client, id: &str) -> proto::ExplainTaskResponse {
    client
        .tasks
        .explain_task(proto::ExplainTaskRequest { task_id: id.into() })
        .await
        .unwrap()
        .into_inner()
}

pub fn step<'a>(task: &'a proto::GetTaskResponse, name: &str) -> &'a proto::Step {
    task.steps
        .iter()
        .find(|s| s.name == name)
        .unwrap_or_else(|| panic!("no step {name}"))
}

pub fn state(task: &proto::GetTaskResponse) -> TaskState {
    task.task.as_ref().unwrap().state()
}

/// The reason code of a status.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

/// Polls until `condition` holds, for changes that no stream reports.
pub async fn eventually<F, T>(what: &str, mut condition: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let started = Instant::now();
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
