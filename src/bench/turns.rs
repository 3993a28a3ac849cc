//! The cost of subscribers: one load without a pause, in turn without and with them. A machine
//! changes from one second to the next; so the two parts of a turn are close together, there are
//! many turns, and their median is the typical ratio.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Settings,
    error::Error,
    load::Load,
    round::{Look, Round, WARM_UP, between},
    stage::Stage,
    subscribers::Subscribers,
};
use crate::store::bench::probes;

/// Number of turns.
const TURNS: usize = 20;
/// Length of each part of a turn as a share of a round's time; at least [`LEAST`].
const PART: f64 = 0.1;
/// A shorter part would count too few commits.
const LEAST: Duration = Duration::from_millis(200);
/// Time from the start or the stop of the subscribers until a part counts, as a share of a part.
const SETTLE: f64 = 0.25;

/// A part without subscribers and the next one with them.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    pub without: Round,
    pub with: Round,
}

impl Turn {
    pub fn ratio(&self) -> f64 {
        self.with.steps_per_second / self.without.steps_per_second
    }
}

/// The throughput with subscribers, relative to that without.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The lower quartile of the turns.
    pub lower: f64,
    pub median: f64,
    /// The upper quartile of the turns.
    pub upper: f64,
}

/// The median and the quartiles over all turns; `None` without turns.
pub fn ratio(turns: &[Turn]) -> Option<Ratio> {
    let mut ratios: Vec<f64> = turns.iter().map(Turn::ratio).collect();
    ratios.sort_by(f64::total_cmp);
    Some(Ratio {
        lower: quantile(&ratios, 0.25)?,
        median: quantile(&ratios, 0.5)?,
        upper: quantile(&ratios, 0.75)?,
    })
}

/// A quantile of sorted values, interpolated where it lies between two of them.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let (low, high) = (
        sorted.get(place.floor() as usize)?,
        sorted.get(place.ceil() as usize)?,
    );
    Some(low + (high - low) * place.fract())
}

/// Measures all turns. Adds the submitted chains to `chains`.
pub async fn measure(
    stage: &Stage,
    settings: &Settings,
    chains: &mut Vec<Uuid>,
) -> Result<Vec<Turn>, Error> {
    let load = Load::new(&stage.client, stage.workers()?, settings.in_flight);
    let (stop, template) = (CancellationToken::new(), stage.templates.chain);
    let time = settings.time.mul_f64(PART).max(LEAST);
    let turns = async {
        let _stop_also_on_failure = stop.clone().drop_guard();
        tokio::time::sleep(WARM_UP.min(settings.time)).await;
        let mut looks = Vec::with_capacity(TURNS);
        for _ in 0..TURNS {
            let without = part(stage, time).await?;
            let subscribers = Subscribers::start(stage, settings.subscribers).await?;
            looks.push((without, part(stage, time).await?));
            // Aborts the readers, so that the next part runs without them.
            drop(subscribers);
        }
        Ok::<_, Error>(looks)
    };
    let ((), looks) = tokio::try_join!(load.run(&stop), turns)?;
    chains.extend(load.drained(&stage.db, template).await?.0);
    // After the load: these queries would disturb the parts that are measured.
    let mut turns = Vec::with_capacity(TURNS);
    for (without, with) in looks {
        turns.push(Turn {
            without: round(stage, without).await?,
            with: round(stage, with).await?,
        });
    }
    Ok(turns)
}

async fn part(stage: &Stage, time: Duration) -> Result<(Look, Look), Error> {
    // The start or the end of the subscribers is not part of the measurement.
    tokio::time::sleep(time.mul_f64(SETTLE)).await;
    let before = Look::take(stage).await?;
    tokio::time::sleep(time).await;
    Ok((before, Look::take(stage).await?))
}

async fn round(stage: &Stage, (before, after): (Look, Look)) -> Result<Round, Error> {
    let done = probes::done(&stage.db, stage.templates.chain, &before.mark, &after.mark).await?;
    Ok(between(&before, &after, done))
}
