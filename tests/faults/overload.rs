//! More work than the server has capacity for.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tasker::{bench::cpu::Processes, proto::SubmitTaskRequest};
use tasker_worker::client::Client;
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    ledger::Ledger,
    load::{ONE, nothing_left},
    support::{
        TestDb,
        process::ServerProcess,
        server::{eventually, finished, register, submission, submit},
        worker::{RawWorker, registration},
    },
};

/// Clients of a crowd that share a connection.
const PER_CONNECTION: usize = 200;
/// Below this rate of stored tasks per second, the 2,048 tasks of intake's queue wait ten seconds
/// in vain, and the test cannot measure anything.
const SLOW: f64 = 250.0;
/// The size of a task's context, large enough to show in the server's memory.
const CONTEXT_BYTES: usize = 2 << 10;

/// Clients that submit as fast as they are admitted, and wait for the time of RetryInfo.
struct Crowd {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    running: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    refused: AtomicU64,
    /// Total time of all accepted, and of all refused submits, in ms.
    accepting: AtomicU64,
    refusing: AtomicU64,
    /// The time of the last accepted submit, in ms from the beginning.
    last_accepted: AtomicU64,
    /// Submits that were not stored in time.
    in_vain: AtomicU64,
    /// A refusal without RetryInfo.
    wrong: Mutex<Option<Status>>,
}

impl Crowd {
    async fn of(clients: usize, url: &str, context: &str) -> Self {
        let (stop, counts) = (Arc::<AtomicBool>::default(), Arc::<Counts>::default());
        let mut running = Vec::new();
        for first in (0..clients).step_by(PER_CONNECTION) {
            let client = Client::connect(url).await.unwrap();
            for _ in first..clients.min(first + PER_CONNECTION) {
                let request = submission("t/one", context);
                running.push(tokio::spawn(crowd(
                    client.clone(),
                    request,
                    Arc::clone(&stop),
                    Arc::clone(&counts),
                )));
            }
        }
        Self {
            stop,
            counts,
            running,
        }
    }

    async fn leave(self) -> Arc<Counts> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.running {
            client.await.unwrap();
        }
        let wrong = self.counts.wrong.lock().unwrap().take();
        assert!(wrong.is_none(), "{wrong:?}");
        self.counts
    }
}

async fn crowd(
    mut client: Client,
    request: SubmitTaskRequest,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
) {
    let began = Instant::now();
    let ms = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        match client.tasks.submit_task(request.clone()).await {
            Ok(_) => {
                counts.accepted.fetch_add(1, Ordering::Relaxed);
                counts.accepting.fetch_add(ms(asked), Ordering::Relaxed);
                counts.last_accepted.fetch_max(ms(began), Ordering::Relaxed);
            }
            Err(status) => {
                let wait = status
                    .get_details_retry_info()
                    .and_then(|info| info.retry_delay);
                let Some(wait) = wait else {
                    *counts.wrong.lock().unwrap() = Some(status);
                    return;
                };
                if status.code() == Code::ResourceExhausted {
                    counts.refused.fetch_add(1, Ordering::Relaxed);
                    counts.refusing.fetch_add(ms(asked), Ordering::Relaxed);
                } else {
                    counts.in_vain.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Steps completed per second, measured for this time.
async fn goodput(ledger: &Ledger, time: Duration) -> f64 {
    let (before, from) = (ledger.steps(), Instant::now());
    tokio::time::sleep(time).await;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let done = (ledger.steps() - before) as f64;
    done / from.elapsed().as_secs_f64()
}

/// The measurements of several crowds, one after the other.
#[derive(Default)]
struct Seen {
    /// Tasks per second. The crowd runs on the same cores and takes a share of them; a larger crowd
    /// takes more.
    rates: Vec<f64>,
    /// Processor time of the server per stored task, in microseconds, including the time for
    /// refused submits. Overload must not change it: it shows the server's work per task, whatever
    /// else the machine is busy with.
    costs: Vec<f64>,
    refused: u64,
    in_vain: u64,
    /// The mean time of a stored submit, and of a refused one, in ms.
    waits: Vec<(u64, u64)>,
    memory_mib: u64,
}

impl Seen {
    /// Measures from the first task to the last: a shorter measurement would count the time for
    /// tasks that still wait in the queue at its end.
    async fn see(&mut self, clients: usize, server: &ServerProcess, context: &str) {
        let processes = Processes {
            server: Some(server.pid().cast_unsigned()),
            ..Default::default()
        };
        let before = processes.cpu();
        let crowd = Crowd::of(clients, &server.url, context).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        self.memory_mib = self.memory_mib.max(server.memory_mib());
        let counts = crowd.leave().await;
        let spent = (processes.cpu() - before).server.expect("Linux has /proc");
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let (accepted, last_ms) = (
            of(&counts.accepted) as f64,
            of(&counts.last_accepted) as f64,
        );
        self.rates.push(accepted * 1e3 / last_ms);
        self.costs.push(spent.as_secs_f64() * 1e6 / accepted);
        self.refused += of(&counts.refused);
        self.in_vain += of(&counts.in_vain);
        let mean = |sum: &AtomicU64, count: &AtomicU64| of(sum) / of(count).max(1);
        let waits = (
            mean(&counts.accepting, &counts.accepted),
            mean(&counts.refusing, &counts.refused),
        );
        self.waits.push(waits);
    }
}

fn median(all: &[f64]) -> f64 {
    let mut all = all.to_vec();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// The time of a single task on an idle server.
async fn latency(client: &mut Client) -> Duration {
    let asked = Instant::now();
    let id = submit(client, "t/one", "{}").await;
    finished(client, &id).await;
    asked.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::too_many_lines,
    reason = "one measurement, printed whole before it is judged"
)]
async fn overload_is_refused_without_delay_of_accepted_tasks() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, ONE).await;
    let ledger = Ledger::default();
    let worker = ledger.worker(&[&server.url], 512, Duration::ZERO);
    let context = format!("{{\"pad\": \"{}\"}}", "x".repeat(CONTEXT_BYTES));
    latency(&mut client).await;
    let idle = latency(&mut client).await;

    // Alternating, so that other load of the machine affects both.
    let (mut enough, mut too_many) = (Seen::default(), Seen::default());
    for _ in 0..3 {
        enough.see(750, &server, &context).await;
        too_many.see(3_000, &server, &context).await;
    }
    let over = Instant::now();
    let recovered =
        eventually("latency recovers", || {
            let mut client = client.clone();
            async move {
                (latency(&mut client).await < Duration::from_millis(500)).then(|| over.elapsed())
            }
        })
        .await;
    let Seen {
        refused,
        memory_mib: memory,
        ..
    } = too_many;
    println!(
        "tasks/s: enough {:.0?}, four times that {:.0?}",
        enough.rates, too_many.rates
    );
    println!(
        "µs of the server per task: enough {:.0?}, four times that {:.0?}",
        enough.costs, too_many.costs
    );
    println!(
        "{refused} refused; ms until stored and until refused: {:?}",
        too_many.waits
    );
    println!(
        "the server has {memory} MiB; a lone task takes {idle:?}, again {recovered:?} after the burst"
    );
    assert!(
        enough.refused == 0 && refused > 0,
        "{} and {refused} were refused",
        enough.refused
    );
    let slowest = enough
        .rates
        .iter()
        .chain(&too_many.rates)
        .copied()
        .fold(f64::INFINITY, f64::min);
    if slowest < SLOW {
        println!("{slowest:.0} tasks/s: the machine is too busy with other things to say anything");
        return;
    }
    let vain = enough.in_vain + too_many.in_vain;
    let stood_still = server
        .log()
        .iter()
        .any(|line| line.contains("does not answer"));
    assert!(
        vain == 0 || stood_still,
        "{vain} waited in vain in a queue that moved"
    );
    let early = too_many
        .waits
        .iter()
        .filter(|(stored, refused)| refused < stored)
        .count();
    assert!(
        early > too_many.waits.len() / 2,
        "refused late: {:?}",
        too_many.waits
    );
    // The smallest value: other load of the machine can only add to it.
    let least = |costs: &[f64]| costs.iter().copied().fold(f64::INFINITY, f64::min);
    let (cost, dearer) = (least(&enough.costs), least(&too_many.costs));
    // The goal is 10 %. In a build without optimisation, refusals cost more than that; in an
    // optimised build it is not measured.
    assert!(
        0.6 * dearer < cost,
        "a task costs {dearer:.0} instead of {cost:.0} µs"
    );
    let (rate, slower) = (median(&enough.rates), median(&too_many.rates));
    assert!(
        slower > 0.5 * rate,
        "goodput fell from {rate:.0} to {slower:.0} tasks/s"
    );
    // The queues are bounded by number and by bytes, the cached documents by 32 MiB. The rest is
    // the transport's memory per connection.
    assert!(memory < 256, "the server has {memory} MiB");
    assert!(
        recovered < Duration::from_secs(15),
        "a lone task was slow for {recovered:?}"
    );
    nothing_left(&db.connect().await).await;
    worker.shutdown().await.unwrap();
}

/// The stuck worker fills its slots, sends heartbeats, and answers no step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_by_a_stuck_worker_does_not_slow_another() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, ONE).await;
    let ledger = Ledger::default();
    let worker = ledger.worker(&[&server.url], 32, Duration::from_millis(5));
    let crowd = Crowd::of(64, &server.url, "{}").await;
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        rates[0].push(goodput(&ledger, Duration::from_secs(1)).await);
        let stuck = RawWorker::open(&server.url, registration(&["h"], 32))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        rates[1].push(goodput(&ledger, Duration::from_secs(1)).await);
        drop(stuck);
    }
    crowd.leave().await;
    let [alone, beside] = rates
        .clone()
        .map(|rates| rates.into_iter().fold(0.0, f64::max));
    println!(
        "tasks/s: alone {:.0?}, beside a stuck one {:.0?}",
        rates[0], rates[1]
    );
    assert!(
        beside > 0.7 * alone,
        "from {alone:.0} to {beside:.0} tasks/s"
    );
    // After their leases, the steps of the stuck workers go to the other worker.
    nothing_left(&db.connect().await).await;
    worker.shutdown().await.unwrap();
}
