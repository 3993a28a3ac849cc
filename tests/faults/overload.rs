//! More work than there is capacity for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tasker::{client::Client, proto::SubmitTaskRequest};
use tokio::task::JoinHandle;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    ledger::Ledger,
    load::ONE,
    support::{
        TestDb,
        invariants::invariants,
        process::ServerProcess,
        server::{eventually, finished, register, submission, submit},
        worker::{RawWorker, registration},
    },
};

/// As many as one connection may have calls.
const PER_CONNECTION: usize = 200;
/// What a task carries, so that the server's memory is put to the test.
const CONTEXT_BYTES: usize = 2 << 10;

/// Clients that submit as fast as they are let, and wait as long as they are told.
struct Crowd {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    running: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    refused: AtomicU64,
    /// The slowest refusal, in ms.
    slowest_refusal: AtomicU64,
}

impl Crowd {
    async fn of(clients: usize, url: &str, context: &str) -> Self {
        let (stop, counts) = (Arc::<AtomicBool>::default(), Arc::<Counts>::default());
        let mut running = Vec::new();
        for first in (0..clients).step_by(PER_CONNECTION) {
            let client = Client::connect(url).await.unwrap();
            for _ in first..clients.min(first + PER_CONNECTION) {
                let request = submission("t/one", context);
                running.push(tokio::spawn(crowd(client.clone(), request, Arc::clone(&stop), Arc::clone(&counts))));
            }
        }
        Self { stop, counts, running }
    }

    async fn leave(self) -> Arc<Counts> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.running {
            client.await.unwrap();
        }
        self.counts
    }
}

async fn crowd(mut client: Client, request: SubmitTaskRequest, stop: Arc<AtomicBool>, counts: Arc<Counts>) {
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        match client.tasks.submit_task(request.clone()).await {
            Ok(_) => drop(counts.accepted.fetch_add(1, Ordering::Relaxed)),
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
                let wait =
                    status.get_details_retry_info().and_then(|info| info.retry_delay).expect("a time to come back");
                counts.refused.fetch_add(1, Ordering::Relaxed);
                let after = u64::try_from(asked.elapsed().as_millis()).unwrap();
                counts.slowest_refusal.fetch_max(after, Ordering::Relaxed);
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// Steps done per second for as long as this.
async fn goodput(ledger: &Ledger, time: Duration) -> f64 {
    let (before, from) = (ledger.steps(), Instant::now());
    tokio::time::sleep(time).await;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let done = (ledger.steps() - before) as f64;
    done / from.elapsed().as_secs_f64()
}

/// What one lone task takes.
async fn latency(client: &mut Client) -> Duration {
    let asked = Instant::now();
    let id = submit(client, "t/one", "{}").await;
    finished(client, &id).await;
    asked.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_much_is_refused_and_costs_the_rest_nothing() {
    const WINDOW: Duration = Duration::from_millis(1_500);
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, ONE).await;
    let ledger = Ledger::default();
    let worker = ledger.worker(&[&server.url], 512, Duration::ZERO);
    let context = format!("{{\"pad\": \"{}\"}}", "x".repeat(CONTEXT_BYTES));
    latency(&mut client).await;
    let idle = latency(&mut client).await;

    // By turns, so that what else the machine does meets both; and the best of three, since it meets them unevenly.
    let (mut peak, mut overloaded) = (Vec::new(), Vec::new());
    let (mut refused, mut slowest, mut memory) = (0, 0, 0);
    for _ in 0..3 {
        let enough = Crowd::of(750, &server.url, &context).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        peak.push(goodput(&ledger, WINDOW).await);
        enough.leave().await;
        let too_many = Crowd::of(3_000, &server.url, &context).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        overloaded.push(goodput(&ledger, WINDOW).await);
        memory = memory.max(server.memory_mib());
        let counts = too_many.leave().await;
        refused += counts.refused.load(Ordering::Relaxed);
        slowest = slowest.max(counts.slowest_refusal.load(Ordering::Relaxed));
    }
    let over = Instant::now();
    let recovered = eventually("latency recovers", || {
        let mut client = client.clone();
        async move { (latency(&mut client).await < Duration::from_millis(500)).then(|| over.elapsed()) }
    })
    .await;
    let best = |rates: &[f64]| rates.iter().copied().fold(0.0, f64::max);
    println!(
        "tasks/s: enough {peak:.0?}, four times that {overloaded:.0?}; {refused} refused, the slowest after {slowest} ms"
    );
    println!("the server has {memory} MiB; a lone task takes {idle:?}, again {recovered:?} after the burst");
    assert!(refused > 0, "nothing was refused");
    assert!(slowest < 3_000, "a refusal took {slowest} ms");
    // 10 % is the aim. The clients run on the same two cores, four times as many, and so this leaves them a share.
    assert!(best(&overloaded) > 0.75 * best(&peak), "goodput fell from {peak:.0?} to {overloaded:.0?}");
    // What waits is bounded by number and by bytes; the kept documents by 32 MiB. The rest is the transport's, per connection.
    assert!(memory < 256, "the server has {memory} MiB");
    assert!(recovered < Duration::from_secs(5), "a lone task was slow for {recovered:?}");
    let look = db.connect().await;
    eventually("all is done", || async {
        let sql = "SELECT count(*) FROM queue";
        (look.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    invariants(&look).await;
    worker.shutdown().await.unwrap();
}

/// It takes what it can hold, says that it lives, and answers nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stuck_worker_does_not_slow_the_one_beside_it() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, ONE).await;
    let ledger = Ledger::default();
    let worker = ledger.worker(&[&server.url], 32, Duration::from_millis(5));
    let crowd = Crowd::of(64, &server.url, "{}").await;
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        rates[0].push(goodput(&ledger, Duration::from_secs(1)).await);
        let stuck = RawWorker::open(&server.url, registration(&["h"], 32)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        rates[1].push(goodput(&ledger, Duration::from_secs(1)).await);
        drop(stuck);
    }
    crowd.leave().await;
    let [alone, beside] = rates.clone().map(|rates| rates.into_iter().fold(0.0, f64::max));
    println!("tasks/s: alone {:.0?}, beside a stuck one {:.0?}", rates[0], rates[1]);
    assert!(beside > 0.7 * alone, "from {alone:.0} to {beside:.0} tasks/s");
    // What the stuck ones had goes to the other after their leases.
    let look = db.connect().await;
    eventually("all is done", || async {
        let sql = "SELECT count(*) FROM queue";
        (look.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    invariants(&look).await;
    worker.shutdown().await.unwrap();
}
