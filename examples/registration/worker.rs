//! The worker process: serves the registration's handlers until it is stopped.

use std::time::Duration;

use clap::Args;
use tasker_worker::Worker;

use crate::{handlers, services::Urls};

/// The settings of a worker.
#[derive(Args, Clone, Debug)]
pub struct WorkerArgs {
    /// The control plane; several addresses of one cluster are separated by commas.
    #[arg(
        long,
        env = "TASKER_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7233"
    )]
    pub server: Vec<String>,
    /// Name of the worker for operators.
    #[arg(long, env = "WORKER_NAME", default_value = "registration")]
    pub name: String,
    /// Concurrent steps.
    #[arg(long, default_value_t = 64)]
    pub slots: usize,
    /// How long one call to a service may take, in milliseconds.
    #[arg(long, env = "CALL_TIMEOUT_MS", default_value_t = 1500)]
    pub call_timeout_ms: u64,
    #[command(flatten)]
    pub urls: Urls,
}

/// Runs until SIGTERM or SIGINT, then finishes its running steps.
pub async fn run(args: WorkerArgs) -> anyhow::Result<()> {
    let builder = Worker::builder(args.server)
        .name(args.name)
        .namespaces(["user_management"])
        .max_concurrent_steps(args.slots);
    handlers::register(
        builder,
        args.urls,
        Duration::from_millis(args.call_timeout_ms),
    )
    .build()?
    .run()
    .await?;
    Ok(())
}
