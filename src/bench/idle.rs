//! The cost of an idle system.

use std::time::Duration;

use super::{child::WorkersProcess, cpu, error::Error, stage::Stage};
use crate::store::bench::probes;

/// Workers that are connected and wait.
pub const WORKERS: usize = 50;
const SLOTS: usize = 16;
/// Wait after the last connection, until every session has reported its earlier work.
const SETTLE: Duration = Duration::from_secs(12);
const WINDOW: Duration = Duration::from_secs(20);

/// The cost of idling.
#[derive(Clone, Copy, Debug)]
pub struct Idle {
    pub queries_per_second: f64,
    /// Of one core: the server.
    pub server_cpu_percent: Option<f64>,
    /// Of one core: Postgres.
    pub postgres_cpu_percent: Option<f64>,
    pub server_rss_mib: Option<f64>,
}

/// Connects the idle workers and measures.
pub async fn measure(stage: &Stage) -> Result<Idle, Error> {
    let workers = WorkersProcess::start(&stage.server.url, WORKERS, SLOTS).await?;
    tokio::time::sleep(SETTLE).await;
    let (mark, cpu) = (probes::mark(&stage.db).await?, stage.processes().cpu());
    tokio::time::sleep(WINDOW).await;
    let (after, used) = (
        probes::mark(&stage.db).await?,
        stage.processes().cpu() - cpu,
    );
    // While the workers are still connected.
    let server_rss_mib = stage.server.pid().and_then(cpu::resident_mib);
    let seconds = after
        .at
        .duration_since(mark.at)
        .unwrap_or(WINDOW)
        .as_secs_f64();
    workers.stop().await?;
    let percent = |time: Option<Duration>| time.map(|t| t.as_secs_f64() * 100.0 / seconds);
    Ok(Idle {
        // One of the commits is this measurement's own.
        queries_per_second: (after.commits - mark.commits - 1).max(0) as f64 / seconds,
        server_cpu_percent: percent(used.server),
        postgres_cpu_percent: percent(used.postgres),
        server_rss_mib,
    })
}
