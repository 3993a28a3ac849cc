//! `tasker bench`: the speed of the whole system, with nothing left out. A database that syncs its
//! log, the real server, and workers on the Rust SDK run as separate processes that communicate
//! over sockets; this process is the client.

mod audit;
mod ceiling;
mod child;
pub mod cpu;
mod disk;
mod error;
pub mod idle;
mod latency;
mod load;
mod report;
mod round;
mod shapes;
mod stage;
mod subscribers;
mod turns;
pub mod worker;

use std::time::Duration;

use uuid::Uuid;

pub use self::{error::Error, report::Report};
use self::{
    round::Round,
    stage::{Database, Stage},
};
use crate::store::bench::fixtures;

/// Two, because a machine changes from minute to minute: a ratio is meaningful only if both rounds
/// agree.
const ROUNDS: usize = 2;
/// Pause after the load, before the latency of an idle system is measured.
const CALM: Duration = Duration::from_millis(500);

/// The settings of a measurement.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `None`: a private one.
    pub database_url: Option<String>,
    pub schema: String,
    /// More settings of the private database, as in `postgresql.conf`.
    pub postgres_settings: Vec<(String, String)>,
    /// `None`: the bench starts one.
    pub server: Option<String>,
    /// How long each round runs.
    pub time: Duration,
    pub workers: usize,
    /// Slots of each worker.
    pub slots: usize,
    /// The most chains in flight.
    pub in_flight: u64,
    /// Finished tasks to store first.
    pub preload: i64,
    /// Waiting tasks to store first.
    pub waiting: i64,
    /// Number of subscribers to all events, in the rounds that measure their cost.
    pub subscribers: usize,
    /// Whether to measure the cost of idling.
    pub idle: bool,
    /// Whether to measure the cost of a limit that is as high as the workers' slots.
    pub limited: bool,
}

/// Measures everything. `say` receives the progress messages.
pub async fn run(settings: &Settings, say: &dyn Fn(&str)) -> Result<Report, Error> {
    say("starting Postgres, the server and the workers");
    let database = Database::open(settings).await?;
    let mut report = Report {
        preloaded: settings.preload,
        waiting: settings.waiting,
        ..Report::default()
    };
    if let Some(cluster) = &database.cluster {
        report.fdatasync_us =
            Some(disk::fdatasync_us(cluster.dir()).map_err(Error::io("write to the data folder"))?);
    }
    let mut stage = Stage::set(settings, database).await?;
    let mut chains = Vec::new();

    say("running the golden shapes");
    report.golden_problems = shapes::check_golden(&stage.client).await?;

    if settings.preload + settings.waiting > 0 {
        report.empty = Some(round(&stage, settings, 0, "empty", &mut chains, say).await?);
        fill_up(&stage, settings, say).await?;
    }
    for n in 1..=ROUNDS {
        rounds(&stage, settings, n, &mut report, &mut chains, say).await?;
    }
    if settings.subscribers > 0 {
        say(&format!(
            "in turn without and with {} subscribers",
            settings.subscribers
        ));
        report.turns = turns::measure(&stage, settings, &mut chains).await?;
        let (name, subscribers) = ("with subscribers", settings.subscribers);
        let round = round(&stage, settings, subscribers, name, &mut chains, say).await?;
        report.subscribed = Some(round);
    }
    tokio::time::sleep(CALM).await;
    latencies(&stage, settings, &mut report, &mut chains, say).await?;

    // The runs are complete only once the workers have ended, so the audit comes after.
    let runs = stage.stop_workers().await?;
    report.audit = audit::audit(&stage, &chains, &runs).await?;
    say(&format!(
        "audited {} chains and {} runs of steps",
        chains.len(),
        runs.len()
    ));
    if settings.idle {
        say(&format!("idling with {} workers", idle::WORKERS));
        report.idle = Some(idle::measure(&stage).await?);
    }
    stage.strike().await;
    Ok(report)
}

/// One round without a limit and, if that is to be measured, one with it: in turn, as a machine
/// changes from minute to minute.
async fn rounds(
    stage: &Stage,
    settings: &Settings,
    n: usize,
    report: &mut Report,
    chains: &mut Vec<Uuid>,
    say: &dyn Fn(&str),
) -> Result<(), Error> {
    let name = format!("{n} of {ROUNDS}");
    let unlimited = round(stage, settings, 0, &name, chains, say).await?;
    report.rounds.push(unlimited);
    if settings.limited {
        let capacity = i32::try_from(settings.workers * settings.slots).unwrap_or(i32::MAX);
        let name = format!("{n}, limited");
        shapes::limit(&stage.client, capacity).await?;
        let limited = round(stage, settings, 0, &name, chains, say).await?;
        report.limited.push(limited);
        shapes::limit(&stage.client, 0).await?;
    }
    Ok(())
}

async fn latencies(
    stage: &Stage,
    settings: &Settings,
    report: &mut Report,
    chains: &mut Vec<Uuid>,
    say: &dyn Fn(&str),
) -> Result<(), Error> {
    let time = settings.time.div_f64(3.0);
    for clients in latency::CONCURRENCY {
        let latency = latency::measure(&stage.server.url, clients, time, chains).await?;
        say(&format!(
            "chains, {clients} at once: p50 {:.1} ms, p99 {:.1} ms",
            latency.p50_ms, latency.p99_ms
        ));
        report.latencies.push(latency);
    }
    Ok(())
}

async fn round(
    stage: &Stage,
    settings: &Settings,
    subscribers: usize,
    name: &str,
    chains: &mut Vec<Uuid>,
    say: &dyn Fn(&str),
) -> Result<Round, Error> {
    let round = round::measure(stage, settings, subscribers, chains).await?;
    let (steps, sql) = (round.steps_per_second, round.ceiling.steps_per_second);
    say(&format!(
        "round {name}: {steps:.0} steps/s; bare SQL {sql:.0}"
    ));
    Ok(round)
}

/// Whether a tenth of the tasks was reached by the last batch.
fn is_tenth(count: i64, done: i64) -> bool {
    // The fixtures are stored in chunks of 20,000 tasks.
    done == count || (done * 10 / count) > ((done - 20_000).max(0) * 10 / count)
}

async fn fill_up(stage: &Stage, settings: &Settings, say: &dyn Fn(&str)) -> Result<(), Error> {
    for (kind, what, count) in [
        (fixtures::Kind::Finished, "finished", settings.preload),
        (fixtures::Kind::Waiting, "waiting", settings.waiting),
    ] {
        let progress = |done: i64| {
            if is_tenth(count, done) {
                say(&format!("stored {done} of {count} {what} tasks"));
            }
        };
        fixtures::fill(&stage.db, kind, stage.templates.stored, count, &progress).await?;
    }
    say("vacuuming");
    Ok(fixtures::vacuum(&stage.db).await?)
}
