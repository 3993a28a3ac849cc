//! The latency of a chain for a client that submits one and waits for it, and its growth with the
//! number of clients.

use std::{
    cell::{Cell, RefCell},
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;
use tasker_worker::client::Client;
use uuid::Uuid;

use super::{error::Error, shapes};

/// Numbers of concurrent clients.
pub const CONCURRENCY: [usize; 4] = [1, 16, 64, 256];
/// Chains that began this early do not count; shorter in a phase that is shorter itself.
const WARM_UP: Duration = Duration::from_millis(500);
/// Clients that share a connection: a server allows a limited number of streams on one.
const CLIENTS_PER_CONNECTION: usize = 64;

/// Times from the submit to the final state; not a number when no chain ended.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub clients: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub chains_per_second: f64,
}

/// Lets `clients` run one chain after the other for `time`. Adds the submitted chains to `chains`.
pub async fn measure(
    url: &str,
    clients: usize,
    time: Duration,
    chains: &mut Vec<Uuid>,
) -> Result<Latency, Error> {
    let connections = clients.div_ceil(CLIENTS_PER_CONNECTION);
    let connections = try_join_all((0..connections).map(|_| Client::connect(url))).await?;
    // One thread polls all clients, so cells suffice in place of locks.
    let (ids, times, ended) = (
        RefCell::new(Vec::new()),
        RefCell::new(Vec::new()),
        Cell::new(0_u32),
    );
    let from = Instant::now() + WARM_UP.min(time);
    let until = from + time;
    try_join_all((0..clients).map(async |n| {
        let mut client = connections[n % connections.len()].clone();
        while Instant::now() < until {
            let began = Instant::now();
            let id = shapes::run_chain(&mut client).await?;
            if began >= from {
                times.borrow_mut().push(began.elapsed());
            }
            // By the time of the end, while the latency goes by the start: a chain at an edge
            // counts for one of both.
            if (from..until).contains(&Instant::now()) {
                ended.set(ended.get() + 1);
            }
            ids.borrow_mut().extend(id.parse::<Uuid>());
        }
        Ok::<_, Error>(())
    }))
    .await?;
    chains.append(&mut ids.into_inner());
    let mut times = times.into_inner();
    times.sort_unstable();
    let chains_per_second = f64::from(ended.get()) / time.as_secs_f64();
    Ok(Latency {
        clients,
        p50_ms: percentile(&times, 50),
        p99_ms: percentile(&times, 99),
        chains_per_second,
    })
}

/// The time that this percentage does not exceed, in ms, by the nearest rank.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted
        .get(rank - 1)
        .map_or(f64::NAN, |t| t.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_uses_the_nearest_rank() {
        let times: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert!((percentile(&times, 50) - 100.0).abs() < 1e-9);
        assert!((percentile(&times, 99) - 198.0).abs() < 1e-9);
        assert!((percentile(&times[..1], 99) - 1.0).abs() < 1e-9);
        assert!(percentile(&[], 50).is_nan());
    }
}
