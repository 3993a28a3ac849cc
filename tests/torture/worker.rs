//! A process full of workers, to be killed. It runs this same test binary.
//!
//! It ends when its stdin closes, so it never outlives the test, and drains on SIGTERM.

use std::{
    io::Read as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;
use tasker_worker::{PermanentError, RetryableError, StepContext, StepError, Worker, WorkerHandle};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};
use tracing_subscriber::{EnvFilter, Layer as _, filter::LevelFilter, layer::SubscriberExt as _};

use crate::{
    acks::Acks,
    fate::{self, About, Fate},
    ledger::{Digest, End, Ledger, Line, Said, Start},
    poison,
    shapes::{GOLDEN_HANDLERS, HANDLERS},
};

/// The name of [`process`] for the test harness.
const TEST: &str = "worker::process";
const ORDERS: &str = "TASKER_TORTURE_WORKER";
const DRAIN: Duration = Duration::from_secs(4);

/// The configuration of a worker process.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Orders {
    pub name: String,
    pub build: String,
    /// The process's number, which decides the handler that it lacks.
    pub index: usize,
    pub servers: Vec<String>,
    pub workers: usize,
    /// As text, like all numbers of 64 bits.
    pub seed: String,
    pub ledger: PathBuf,
}

impl Orders {
    /// The command that starts the process.
    pub fn command(&self) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", TEST, "--nocapture"])
            .env(ORDERS, serde_json::to_string(self).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        command
    }
}

/// Not a test by itself: the process that [`Orders::command`] starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process() {
    let Ok(orders) = std::env::var(ORDERS) else {
        return;
    };
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    let ledger = Arc::new(Ledger::open(&orders.ledger).unwrap());
    let filter = EnvFilter::new("error,tasker_worker=warn,tasker_worker::link=debug");
    let on_stderr = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_filter(LevelFilter::WARN);
    let log = tracing_subscriber::registry()
        .with(filter)
        .with(Acks(Arc::clone(&ledger)))
        .with(on_stderr);
    tracing::subscriber::set_global_default(log).unwrap();
    // Handlers panic on purpose.
    std::panic::set_hook(Box::new(|panic| {
        if !panic.to_string().contains("by fate") {
            eprintln!("{panic}");
        }
    }));
    let workers: Vec<WorkerHandle> = (0..orders.workers)
        .map(|n| worker(&orders, n, &ledger))
        .collect();
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = parent_is_done() => {}
    }
    for worker in workers {
        worker.shutdown().await.unwrap();
    }
}

fn parent_is_done() -> oneshot::Receiver<()> {
    let (done, wait) = oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
        let _ = done.send(());
    });
    wait
}

fn worker(orders: &Orders, n: usize, ledger: &Arc<Ledger>) -> WorkerHandle {
    let name = format!("{}-{n}", orders.name);
    let seed: u64 = orders.seed.parse().unwrap();
    let mut servers = orders.servers.clone();
    let by = (orders.index + n) % servers.len();
    servers.rotate_left(by);
    let mut builder = Worker::builder(servers)
        .name(&name)
        .build_id(&orders.build)
        .max_concurrent_steps([6, 16, 32][n % 3])
        .drain_timeout(DRAIN);
    // Each process lacks one handler.
    let missing = HANDLERS[orders.index % HANDLERS.len()];
    for handler in HANDLERS
        .into_iter()
        .chain(GOLDEN_HANDLERS)
        .chain(poison::HANDLERS)
        .filter(|handler| *handler != missing)
    {
        let (ledger, name) = (Arc::clone(ledger), name.clone());
        builder = builder.handler(handler, move |step: StepContext| {
            let run = Run::begin(&ledger, &name, &step);
            async move { handle(seed, step, run).await }
        });
    }
    builder.build().unwrap().spawn()
}

/// One call of a handler. Its end is written even if the handler panics or is dropped.
struct Run {
    ledger: Arc<Ledger>,
    lease: String,
    ended: bool,
}

impl Run {
    fn begin(ledger: &Arc<Ledger>, worker: &str, step: &StepContext) -> Self {
        let results = step
            .results()
            .iter()
            .map(|(name, json)| (name.as_str(), json.as_str()));
        ledger.write(&Line::Start(Start {
            worker: worker.to_owned(),
            lease: step.lease_token().to_owned(),
            key: step.idempotency_key().to_owned(),
            task: step.task_id().to_owned(),
            step: step.step_name().to_owned(),
            attempt: step.attempt().try_into().unwrap(),
            context: Digest::of(step.context_json()),
            results: Digest::of_all(results),
        }));
        Self {
            ledger: Arc::clone(ledger),
            lease: step.lease_token().to_owned(),
            ended: false,
        }
    }

    /// Called before the handler returns, so every answer is in the ledger before it is sent.
    fn end(&mut self, said: Said, result: Option<Digest>) {
        self.ended = true;
        self.ledger.write(&Line::End(End {
            lease: self.lease.clone(),
            said,
            result,
        }));
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.ended {
            self.end(
                if std::thread::panicking() {
                    Said::Panicked
                } else {
                    Said::Dropped
                },
                None,
            );
        }
    }
}

async fn handle(seed: u64, step: StepContext, mut run: Run) -> Result<Box<RawValue>, StepError> {
    let config: serde_json::Value = step.handler_config()?;
    let attempt = fate::of(
        seed,
        About {
            task: step.correlation_id(),
            step: step.step_name(),
            handler: step.handler(),
            attempt: step.attempt(),
            failures: config["failures"].as_u64().unwrap_or(0).try_into().unwrap(),
            timeout: step.deadline().saturating_duration_since(Instant::now()),
        },
    );
    match attempt.blocks {
        true => std::thread::sleep(attempt.pause),
        false => tokio::time::sleep(attempt.pause).await,
    }
    match attempt.fate {
        Fate::Succeed(json) => {
            run.end(Said::Success, Some(Digest::of(&json)));
            Ok(RawValue::from_string(json).unwrap())
        }
        Fate::Retryable { after } => {
            let mut error = RetryableError::new("not this time")
                .error_code("FATE")
                .context(["é", "\u{0}"]);
            if let Some(after) = after {
                error = error.retry_after(after);
            }
            run.end(Said::RetryableError, None);
            Err(error.into())
        }
        Fate::Permanent => {
            run.end(Said::PermanentError, None);
            Err(PermanentError::new("never").error_code("FATE").into())
        }
        Fate::Released => {
            run.end(Said::Released, None);
            Err(StepError::Released)
        }
        Fate::Panic => panic!("by fate"),
        Fate::Hang { deaf: false } => {
            step.cancelled().await;
            run.end(Said::Success, Some(Digest::of("null")));
            Ok(RawValue::from_string("null".into()).unwrap())
        }
        Fate::Hang { deaf: true } => std::future::pending().await,
        Fate::Crash => {
            let pid = rustix::process::getpid();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            std::future::pending().await
        }
    }
}
