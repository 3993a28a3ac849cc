//! One run: everything starts, suffers faults, heals, settles, ends, and is judged.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tasker_worker::client::Client;

use crate::{
    checker::{self, history::History, violation::Violation},
    client::Clients,
    faults::{self, Planned},
    inflict, ledger, poison,
    report::{Report, stories},
    sampler, shapes, support,
    world::{Size, World},
};

/// The parameters of a run.
pub struct Settings {
    pub seed: u64,
    pub time: Duration,
    pub size: Size,
    /// Average interval between two faults.
    pub gap: Duration,
    /// Number of unfinished tasks that the clients maintain.
    pub open: i64,
    /// Time limit for the tasks to settle once everything is healed.
    pub settle: Duration,
}

/// The folder for the files of a run.
pub fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("torture-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Runs, prints the figures, and panics with the violations.
pub async fn run(settings: &Settings) {
    let seed = settings.seed;
    println!("torture: seed {seed}; the same faults again: make torture SEED={seed}");
    let dir = folder(&seed.to_string());
    let world = Arc::new(World::start(seed, settings.size, dir, support::own_options()).await);
    let clocks = world.servers.iter().all(|server| server.clock.is_some());
    let skipped: &[_] = if clocks {
        &[]
    } else {
        &["clock jumps: libfaketime is not installed"]
    };
    skipped.iter().for_each(|what| println!("skipped: {what}"));
    world.chronicle.note("everything runs");
    let schedule = faults::schedule(seed, settings.time, settings.gap, clocks);
    let judged = torture(&world, settings, schedule).await;
    let Judged {
        history,
        violations,
        calls,
        settled,
    } = judged;
    let seconds = settings.time.as_secs_f64();
    let report = Report {
        seed,
        seconds,
        settled,
        skipped,
        chronicle: &world.chronicle,
        calls,
        history: &history,
        violations: &violations,
    };
    print!("{}", report.text());
    if violations.is_empty() {
        match std::env::var_os("TASKER_TORTURE_KEEP").is_some() {
            true => println!("kept: {}", world.dir.display()),
            false => drop(std::fs::remove_dir_all(&world.dir)),
        }
        return;
    }
    stories(&history, &violations, &world.dir.join("violations.txt"));
    let _ = std::fs::copy(
        world.cluster.lock().await.log(),
        world.dir.join("postgres.log"),
    );
    let some: Vec<String> = violations
        .iter()
        .take(20)
        .map(ToString::to_string)
        .collect();
    panic!(
        "seed {seed}: {} violations; all that is known is in {}\n{}",
        violations.len(),
        world.dir.display(),
        some.join("\n")
    );
}

/// The result of a run.
pub struct Judged {
    pub history: History,
    pub violations: Vec<Violation>,
    pub calls: std::collections::BTreeMap<&'static str, usize>,
    /// In seconds.
    pub settled: f64,
}

async fn torture(world: &Arc<World>, settings: &Settings, schedule: Vec<Planned>) -> Judged {
    let clients = begin(world, settings).await;
    let submitters = clients.start();
    let watch = tokio::spawn({
        let world = Arc::clone(world);
        async move { world.watch().await }
    });
    let samples = tokio::spawn({
        let (world, clients) = (Arc::clone(world), Arc::clone(&clients));
        async move { sampler::run(&world, &clients).await }
    });
    inflict::all(world, &clients, schedule).await;
    tokio::time::sleep(settings.time.saturating_sub(world.chronicle.elapsed())).await;
    world.heal();
    world.chronicle.note("everything is healed");
    clients.stop(submitters, settings.settle).await;
    world.chronicle.note("the clients have their answers");
    let settled = settle(world, settings.settle).await;
    world.chronicle.note("nothing is in play");
    samples.abort();
    watch.abort();
    // Neither may be at work when the processes are ended: the watch would report their ends as
    // violations.
    let _ = (samples.await, watch.await);
    judge(world, &clients, settled).await
}

/// The concurrency limit of the limited services.
const LIMIT: i32 = 8;

/// Registers the templates and makes the clients.
pub async fn begin(world: &World, settings: &Settings) -> Arc<Clients> {
    let shapes = shapes::all(settings.seed);
    let mut client = Client::connect(&world.servers[0].url()).await.unwrap();
    for shape in shapes.iter().chain(&poison::shapes()) {
        support::server::register(&mut client, &shape.yaml).await;
    }
    protect(&mut client).await;
    let urls: Vec<String> = world
        .servers
        .iter()
        .map(|s| format!("http://{}", s.for_clients.address))
        .collect();
    Clients::new(settings.seed, shapes, &urls, settings.open)
}

/// Sets short circuit times for all services, as a run has to end, and limits for two services.
async fn protect(client: &mut Client) {
    let quick = tasker::proto::Policy {
        window_seconds: Some(3.0),
        min_calls: Some(20),
        failure_rate: Some(0.6),
        cool_down_seconds: Some(2.0),
        max_cool_down_seconds: Some(4.0),
        ramp_seconds: Some(2.0),
        max_pause_seconds: Some(1.0),
        ..Default::default()
    };
    let limited = tasker::proto::Policy {
        max_concurrency: Some(LIMIT),
        ..Default::default()
    };
    for (namespace, service, policy) in [
        ("", "", quick),
        ("torture_0", "service_0", limited),
        ("torture_1", "service_0", limited),
    ] {
        let request = tasker::proto::SetPolicyRequest {
            namespace: namespace.into(),
            service: service.into(),
            policy: Some(policy),
            unset: Vec::new(),
            by: "torture".into(),
            reason: "so that there is something to hold".into(),
        };
        client.circuits.set_policy(request).await.unwrap();
    }
}

/// Waits until no step is in play; returns the time that took. Counts polls, as the machine may
/// stand still.
pub async fn settle(world: &World, limit: Duration) -> f64 {
    const LOOK: Duration = Duration::from_millis(200);
    let begun = Instant::now();
    for _ in 0..limit.as_millis() / LOOK.as_millis() {
        let open = match world.session().await {
            Ok(db) => sampler::open_tasks(&db).await,
            Err(error) => Err(error),
        };
        if open == Ok(0) {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    begun.elapsed().as_secs_f64()
}

/// Ends all processes, and has the checker judge the history.
pub async fn judge(world: &World, clients: &Clients, settled: f64) -> Judged {
    world.chronicle.sample(sampler::once(world).await);
    world.stop().await;
    world.chronicle.note("all processes have ended");
    let (intents, told) = clients.history();
    let (lines, unreadable) = ledger::read(&world.dir.join("ledger.jsonl"));
    let mut history = History {
        intents,
        told,
        lines,
        ..History::default()
    };
    let db = world.session().await.unwrap();
    crate::evidence::read(&db, &mut history).await;
    let limited = "SELECT service_id FROM services WHERE service = 'service_0' AND namespace IN ('torture_0', 'torture_1')";
    let limit = usize::try_from(LIMIT).unwrap();
    history.limits = db
        .query(limited, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), limit))
        .collect();
    world.chronicle.note("the evidence is read");
    let mut violations = world.chronicle.violations();
    if unreadable > 0 {
        violations.push(Violation::LedgerTorn { lines: unreadable });
    }
    violations.extend(checker::check(&history));
    world.chronicle.note("judged");
    Judged {
        history,
        violations,
        calls: clients.calls(),
        settled,
    }
}
