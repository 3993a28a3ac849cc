//! A round: the SQL ceiling, then the whole system under load, so that both find the machine in the
//! same condition.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Settings,
    ceiling::{self, Ceiling},
    cpu::Cpu,
    error::Error,
    load::Load,
    stage::Stage,
    subscribers::{Received, Subscribers},
};
use crate::store::{
    StoreError,
    bench::probes::{self, Done, Mark},
};

/// How long the load runs before the measurement starts; shorter in a round that is shorter itself.
pub const WARM_UP: Duration = Duration::from_millis(1_500);
/// Commits of the bench itself between the two samples of the counters.
const OWN_COMMITS: i64 = 1;

/// The result of a round.
#[derive(Clone, Debug, Default)]
pub struct Round {
    pub ceiling: Ceiling,
    pub steps_per_second: f64,
    pub tasks_per_second: f64,
    pub commits_per_step: f64,
    pub cpu: PerStep,
    /// The load of the rest of the machine, of one core.
    pub others_cpu_percent: Option<f64>,
    pub server_rss_mib: Option<f64>,
    /// Submits that were refused with RESOURCE_EXHAUSTED and retried.
    pub refused_submits: u64,
    /// Set in a round with subscribers.
    pub received: Option<Received>,
}

/// Processor time per step, µs.
#[derive(Clone, Copy, Debug, Default)]
pub struct PerStep {
    pub postgres: Option<f64>,
    pub server: Option<f64>,
    pub workers: Option<f64>,
    pub client: Option<f64>,
}

impl Round {
    /// The share of the ceiling that was reached.
    pub fn ceiling_ratio(&self) -> f64 {
        self.steps_per_second / self.ceiling.steps_per_second
    }
}

impl PerStep {
    /// The sum, if all parts are known.
    pub fn total(&self) -> Option<f64> {
        Some(self.postgres? + self.server? + self.workers? + self.client?)
    }

    fn of(cpu: Cpu, steps: f64) -> Self {
        let per = |time: Option<Duration>| time.map(|t| t.as_secs_f64() * 1e6 / steps);
        Self {
            postgres: per(cpu.postgres),
            server: per(cpu.server),
            workers: per(cpu.workers),
            client: per(cpu.client),
        }
    }
}

/// Measures the ceiling for a third of the time, then the system for the whole time with the given
/// number of subscribers. Adds the submitted chains to `chains`.
pub async fn measure(
    stage: &Stage,
    settings: &Settings,
    subscribers: usize,
    chains: &mut Vec<Uuid>,
) -> Result<Round, Error> {
    let time = settings.time;
    let ceiling = ceiling::measure(stage, time.div_f64(3.0)).await?;
    // Before the load: the counts of the subscribers are right only if nothing is in flight then.
    let subscribers = match subscribers {
        0 => None,
        count => Some(Subscribers::start(stage, count).await?),
    };
    let load = Load::new(&stage.client, stage.workers()?, settings.in_flight);
    let (stop, template) = (CancellationToken::new(), stage.templates.chain);
    let window = async {
        // The load ends only by this signal, also after an error of the measurement.
        let _stop_also_on_failure = stop.clone().drop_guard();
        tokio::time::sleep(WARM_UP.min(time)).await;
        let before = Look::take(stage).await?;
        tokio::time::sleep(time).await;
        Ok::<_, Error>((before, Look::take(stage).await?))
    };
    let ((), (before, after)) = tokio::try_join!(load.run(&stop), window)?;
    let server_rss_mib = stage.server_rss_mib();
    let (ids, refused_submits) = load.drained(&stage.db, template).await?;
    chains.extend(ids);
    let received = match subscribers {
        None => None,
        Some(subscribers) => Some(subscribers.finish(&stage.db).await?),
    };
    let done = probes::done(&stage.db, template, &before.mark, &after.mark).await?;
    Ok(Round {
        ceiling,
        server_rss_mib,
        refused_submits,
        received,
        ..between(&before, &after, done)
    })
}

/// A sample of the counters.
pub struct Look {
    pub mark: Mark,
    pub cpu: Cpu,
}

impl Look {
    pub async fn take(stage: &Stage) -> Result<Self, StoreError> {
        Ok(Self {
            mark: probes::mark(&stage.db).await?,
            cpu: stage.processes().cpu(),
        })
    }
}

/// The work done between two samples, and its cost.
pub fn between(before: &Look, after: &Look, done: Done) -> Round {
    let seconds = after
        .mark
        .at
        .duration_since(before.mark.at)
        .unwrap_or_default()
        .as_secs_f64();
    let cpu = after.cpu - before.cpu;
    // Without a step there is no cost per step; the rates are zero then.
    let steps = done.steps.max(1) as f64;
    Round {
        steps_per_second: done.steps as f64 / seconds,
        tasks_per_second: done.tasks as f64 / seconds,
        commits_per_step: (after.mark.commits - before.mark.commits - OWN_COMMITS).max(0) as f64
            / steps,
        cpu: PerStep::of(cpu, steps),
        others_cpu_percent: cpu.others().map(|t| t.as_secs_f64() * 100.0 / seconds),
        ..Round::default()
    }
}
