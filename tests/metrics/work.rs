//! Work with a known outcome: one of each counted event.

use std::time::Duration;

use crate::support::{
    server::Bench,
    worker::{RawWorker, permanent, released, retryable, success},
};

pub const ONE: &str = "
task_name: one
namespace: t
version: 1.0.0
step_templates:
  - {name: a, handler_class: h, handler_config: {service: s}, backoff: {base_seconds: 0.01, jitter: 0}}
";

/// Two tasks complete, one of them at its second attempt; one fails; one is cancelled while it
/// runs; one step is released first. One more task waits for a handler that no worker has, and the
/// worker holds two steps at the end.
pub async fn work(bench: &mut Bench) -> RawWorker {
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let first = bench.submit("t/one", "{}").await;
    let step = worker.assignment().await;
    tokio::time::sleep(Duration::from_millis(120)).await;
    worker.settle(&step, success("1")).await;
    bench.finished(&first).await;
    let second = bench.submit("t/one", "{}").await;
    let step = worker.assignment().await;
    worker.settle(&step, retryable("busy", None)).await;
    let step = worker.assignment().await;
    worker.settle(&step, success("1")).await;
    bench.finished(&second).await;
    let third = bench.submit("t/one", "{}").await;
    let step = worker.assignment().await;
    worker.settle(&step, permanent("no", "NO")).await;
    bench.finished(&third).await;
    let fourth = bench.submit("t/one", "{}").await;
    worker.assignment().await;
    bench.cancel(&fourth).await.unwrap();
    worker.cancelled().await;
    bench.submit("t/one", "{}").await;
    let step = worker.assignment().await;
    worker.settle(&step, released()).await;
    worker.assignment().await;
    bench.submit("t/one", "{}").await;
    worker.assignment().await;
    worker
}
