//! A downstream service of the tests, which fails at a set rate and records its calls; its workers,
//! and the policies that operators set for it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tasker::proto;
use tasker_worker::{RetryableError, StepContext, StepError, Worker, client::Client};
use tokio::task::JoinHandle;

/// The service's settings and its calls so far.
#[derive(Clone, Default)]
pub struct Service {
    /// Percentage of calls that fail.
    failing: Arc<AtomicU32>,
    /// Duration of a call, ms.
    pub millis: Arc<AtomicU32>,
    calls: Arc<Mutex<Vec<Instant>>>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    count: Arc<AtomicU32>,
}

impl Service {
    pub fn failing(percent: u32) -> Self {
        let service = Self::default();
        service.fail(percent);
        service
    }

    pub fn fail(&self, percent: u32) {
        self.failing.store(percent, Ordering::SeqCst);
    }

    /// Number of calls.
    pub fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    /// Number of calls since then.
    pub fn calls_since(&self, since: Instant) -> usize {
        self.calls
            .lock()
            .unwrap()
            .iter()
            .filter(|at| **at >= since)
            .count()
    }

    /// The most calls at once so far.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    pub fn running(&self) -> usize {
        self.running.load(Ordering::SeqCst)
    }

    async fn call(self) -> Result<u32, StepError> {
        self.calls.lock().unwrap().push(Instant::now());
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        // Failures are spread evenly, not at random.
        let n = self.count.fetch_add(1, Ordering::SeqCst);
        let percent = self.failing.load(Ordering::SeqCst);
        let fails = (n + 1) * percent / 100 != n * percent / 100;
        tokio::time::sleep(Duration::from_millis(
            self.millis.load(Ordering::SeqCst).into(),
        ))
        .await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        if fails {
            return Err(RetryableError::new("503 from the service")
                .error_code("SERVICE_DOWN")
                .into());
        }
        Ok(n)
    }

    /// A worker whose handler calls the service.
    pub fn worker(&self, urls: &[&str], handler: &str, slots: usize) -> JoinHandle<()> {
        let service = self.clone();
        let handle = move |_: StepContext| service.clone().call();
        let urls = urls.iter().map(ToString::to_string).collect::<Vec<_>>();
        let worker = Worker::builder(urls)
            .name("w")
            .max_concurrent_steps(slots)
            .handler(handler, handle)
            .build()
            .unwrap();
        tokio::spawn(async move {
            let _ = worker.run().await;
        })
    }
}

/// A template of one step that calls a service, with many attempts and a short back-off.
pub fn caller(name: &str, handler: &str, service: &str) -> String {
    format!(
        "task_name: {name}\nnamespace: t\nversion: 1.0.0\nstep_templates:\n  - name: call\n    handler_class: {handler}\n    \
         default_retry_limit: 20\n    backoff: {{base_seconds: 0.05, max_seconds: 0.2}}\n    \
         handler_config: {{service: {service}, timeout_seconds: 30}}\n"
    )
}

/// Fast circuits: the intervals of production, shortened to seconds.
pub fn quick() -> proto::Policy {
    proto::Policy {
        window_seconds: Some(5.0),
        min_calls: Some(10),
        failure_rate: Some(0.5),
        cool_down_seconds: Some(1.0),
        max_cool_down_seconds: Some(2.0),
        probes: Some(3),
        ramp_seconds: Some(1.0),
        ..Default::default()
    }
}

pub async fn set(client: &mut Client, service: &str, policy: proto::Policy) {
    let request = proto::SetPolicyRequest {
        namespace: "t".into(),
        service: service.into(),
        policy: Some(policy),
        unset: Vec::new(),
        by: "test".into(),
        reason: "a test".into(),
    };
    client.circuits.set_policy(request).await.unwrap();
}

pub async fn circuit(client: &mut Client, service: &str) -> proto::GetCircuitResponse {
    let request = proto::GetCircuitRequest {
        namespace: "t".into(),
        service: service.into(),
    };
    client
        .circuits
        .get_circuit(request)
        .await
        .unwrap()
        .into_inner()
}

/// Number of changes of this type.
pub fn times(circuit: &proto::GetCircuitResponse, kind: &str) -> usize {
    circuit
        .changes
        .iter()
        .filter(|change| change.r#type == kind)
        .count()
}

pub async fn submit_many(client: &mut Client, name: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let n = (count - ids.len()).min(1_000);
        let tasks = vec![crate::support::server::submission(name, "{}"); n];
        let request = proto::SubmitTasksRequest { tasks };
        let answer = client
            .tasks
            .submit_tasks(request)
            .await
            .unwrap()
            .into_inner();
        ids.extend(answer.tasks.into_iter().map(|task| task.task_id));
    }
    ids
}
