//! Real runs: the article's findings about its registration are found in data of the same kind, and
//! the numbers match the raw rows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tasker::proto::{
    self, Bottleneck, CircuitState, GetBottlenecksResponse, StepPerformance, WaitCause,
};
use tasker_worker::{RetryableError, StepContext, StepError, Worker, WorkerHandle, client::Client};

use crate::{
    bottlenecks,
    oracle::{Oracle, Parts, micros},
    performance, set,
    support::{
        server::{Bench, eventually, register},
        worker::{RawWorker, permanent, registration, released, success},
    },
};

const REGISTRATION: &str = include_str!("../fixtures/user_registration.yaml");
const TASKS: u32 = 40;
/// Stands for the article's 30 s: a time-out that some of the mails would have exceeded.
const TIMEOUT_SECONDS: f64 = 0.3;

/// Number of calls of each service, and the state of the users' service.
#[derive(Clone, Default)]
struct Services {
    users_there: Arc<AtomicBool>,
    bills: Arc<AtomicU32>,
    mails: Arc<AtomicU32>,
    slow_mails: Arc<AtomicU32>,
}

impl Services {
    /// Away at first.
    fn create_user(&self) -> Result<Value, StepError> {
        if !self.users_there.load(Ordering::SeqCst) {
            return Err(RetryableError::new("503").error_code("SERVICE_DOWN").into());
        }
        Ok(json!({}))
    }

    /// One of the first calls times out.
    fn bill(&self) -> Result<Value, StepError> {
        match self.bills.fetch_add(1, Ordering::SeqCst) {
            3 => Err(RetryableError::new("timeout").error_code("TIMEOUT").into()),
            _ => Ok(json!({})),
        }
    }

    /// Every tenth call exceeds the rate limit, and every fourth is slow.
    async fn mail(self) -> Result<Value, StepError> {
        let n = self.mails.fetch_add(1, Ordering::SeqCst);
        if n % 10 == 5 {
            return Err(RetryableError::new("429")
                .error_code("RATE_LIMITED")
                .retry_after(Duration::from_secs(1))
                .into());
        }
        if n.is_multiple_of(4) {
            self.slow_mails.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        Ok(json!({}))
    }

    fn worker(&self, url: &str) -> WorkerHandle {
        let (users, bills, mails) = (self.clone(), self.clone(), self.clone());
        let name = |step: &str| format!("UserManagement::StepHandlers::{step}Handler");
        let done = async |_: StepContext| Ok::<_, StepError>(json!({}));
        Worker::builder([url])
            .name("w")
            .max_concurrent_steps(8)
            .handler(name("CreateUserAccount"), move |_: StepContext| {
                std::future::ready(users.create_user())
            })
            .handler(name("SetupBillingProfile"), move |_: StepContext| {
                std::future::ready(bills.bill())
            })
            .handler(name("InitializePreferences"), done)
            .handler(name("SendWelcomeSequence"), move |_: StepContext| {
                mails.clone().mail()
            })
            .handler(name("UpdateUserStatus"), done)
            .build()
            .unwrap()
            .spawn()
    }
}

fn find<'a>(steps: &'a [StepPerformance], name: &str) -> &'a StepPerformance {
    steps.iter().find(|step| step.step == name).unwrap()
}

async fn users(client: &mut Client) -> proto::Circuit {
    let request = proto::GetCircuitRequest {
        namespace: "user_management".into(),
        service: "user_service".into(),
    };
    client
        .circuits
        .get_circuit(request)
        .await
        .unwrap()
        .into_inner()
        .circuit
        .unwrap()
}

/// A time as the messages print it.
fn words(time: Option<prost_types::Duration>) -> String {
    let us = micros(time) as f64;
    if us < 1e6 {
        format!("{} ms", (us / 1e3).round())
    } else {
        format!("{:.1} s", us / 1e6)
    }
}

/// Runs the registrations, with the users' service away until its circuit has opened.
async fn registrations(bench: &mut Bench, services: &Services) {
    let quick = proto::Policy {
        window_seconds: Some(5.0),
        min_calls: Some(5),
        cool_down_seconds: Some(1.0),
        max_cool_down_seconds: Some(1.0),
        probes: Some(2),
        ramp_seconds: Some(0.0),
        ..Default::default()
    };
    set(bench, "user_management", "user_service", quick).await;
    let worker = services.worker(&bench.server.url);
    let mut ids = Vec::new();
    for n in 0..TASKS {
        let context = format!(r#"{{"email": "a{n}@example.org", "name": "A"}}"#);
        ids.push(
            bench
                .submit("user_management/user_registration", &context)
                .await,
        );
    }
    eventually("the circuit opens", || {
        let mut client = bench.client.clone();
        async move { (users(&mut client).await.times_opened > 0).then_some(()) }
    })
    .await;
    services.users_there.store(true, Ordering::SeqCst);
    for id in &ids {
        bench.finished(id).await;
    }
    worker.shutdown().await.unwrap();
}

fn cost<'a>(found: &'a GetBottlenecksResponse, step: &str, cause: WaitCause) -> &'a Bottleneck {
    let fits = |b: &&Bottleneck| b.step == step && b.cause() == cause;
    found
        .bottlenecks
        .iter()
        .find(fits)
        .unwrap_or_else(|| panic!("{step} {cause:?}: {:#?}", found.bottlenecks))
}

/// The article's own HTTP call has the same answer.
async fn http_says(bench: &Bench, costs: &proto::GetBottlenecksResponse) {
    let query = "namespace=user_management&task_name=user_registration";
    let url = format!("{}/tasker/analytics/bottlenecks?{query}", bench.server.url);
    let answer: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    let said = answer["bottlenecks"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|b| b["message"].as_str());
    assert!(
        said.eq(costs.bottlenecks.iter().map(|b| b.message.as_str())),
        "{answer:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bottlenecks_of_four_scenarios_are_found() {
    let mut bench = Bench::with(REGISTRATION).await;
    let services = Services::default();
    registrations(&mut bench, &services).await;
    let found = performance(&mut bench.client, "user_management", TIMEOUT_SECONDS).await;
    let db = bench.db.connect().await;
    Oracle::read(&db).await.check(&found, TIMEOUT_SECONDS);
    let template = &found.templates[0];
    assert_eq!(
        (template.count, template.complete),
        (TASKS as i32, TASKS as i32)
    );
    let costs = bottlenecks(&mut bench.client, "user_management", "user_registration").await;
    assert!(
        costs.bottlenecks.is_sorted_by_key(|b| -micros(b.cost)),
        "{:#?}",
        costs.bottlenecks
    );

    // One: the time of the welcome step, and the part of it due to rate limiting.
    let welcome = find(&template.steps, "send_welcome_sequence");
    let refused = services.mails.load(Ordering::SeqCst) - TASKS;
    the_part_of_rate_limiting(
        welcome,
        cost(&costs, &welcome.step, WaitCause::Pause),
        refused,
    );

    // Two: the retry rate of billing.
    let billing = find(&template.steps, "setup_billing_profile");
    assert!(
        (billing.retry_rate - 1.0 / f64::from(TASKS)).abs() < 1e-9,
        "{}",
        billing.retry_rate
    );
    assert_eq!((billing.charged_attempts, billing.success_rate), (1, 1.0));

    // Three: how often the circuit of the users' service opened, and for how long.
    let seen = found
        .services
        .iter()
        .find(|s| s.service == "user_service")
        .unwrap();
    let circuit = users(&mut bench.client).await;
    assert_eq!(seen.times_opened, circuit.times_opened);
    let (shut, open) = (micros(seen.time_shut), micros(circuit.time_open));
    assert!(
        shut >= open && open >= 1_000_000,
        "half-open is not closed either: {shut} {open}"
    );
    let message = &cost(&costs, "create_user_account", WaitCause::Circuit).message;
    assert!(
        message.starts_with("the circuit of user_service adds "),
        "{message}"
    );

    // Four: the mails that a shorter time-out would have failed.
    let slow = services.slow_mails.load(Ordering::SeqCst);
    let over = welcome.successes_over_timeout;
    assert!(
        slow >= 8 && over >= slow as i32 && over <= TASKS as i32,
        "{over} of {slow}"
    );
    let longer = performance(&mut bench.client, "user_management", 60.0).await;
    assert_eq!(
        find(&longer.templates[0].steps, "send_welcome_sequence").successes_over_timeout,
        0
    );

    http_says(&bench, &costs).await;
}

fn the_part_of_rate_limiting(welcome: &StepPerformance, found: &Bottleneck, refused: u32) {
    let pause = micros(welcome.ledger.as_ref().unwrap().pause);
    assert!(
        refused >= 4 && pause >= i64::from(refused) * 1_000_000,
        "each of {refused} waits a second: {pause}"
    );
    assert_eq!(
        micros(found.mean),
        (pause as f64 / f64::from(TASKS)).round() as i64
    );
    assert_eq!(found.mean_elapsed, welcome.elapsed.as_ref().unwrap().mean);
    assert_eq!(
        found.message,
        format!(
            "rate limiting of notification_service (pauses) adds {} to user_registration: send_welcome_sequence waits {} of \
             its {} on average",
            words(found.cost_per_task),
            words(found.mean),
            words(found.mean_elapsed)
        )
    );
}

const CHAIN: &str = "
task_name: chain
namespace: t
version: 1.0.0
step_templates:
  - {name: first, handler_class: h, backoff: {base_seconds: 0.2, jitter: 0}, handler_config: {service: s}}
  - {name: second, handler_class: k, depends_on_steps: [first], handler_config: {service: narrow}}
";

/// Every cause of waiting, by real orders, losses and limits: the ledger accounts for all of it.
#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one run, in which each cause of waiting occurs in turn"
)]
async fn causes_of_real_runs_sum_to_the_elapsed_time() {
    let mut bench = Bench::with(CHAIN).await;
    register(
        &mut bench.client,
        &CHAIN.replace("chain", "other").replace("first", "one"),
    )
    .await;
    set(
        &mut bench,
        "t",
        "narrow",
        proto::Policy {
            max_concurrency: Some(1),
            ..Default::default()
        },
    )
    .await;
    let url = bench.server.url.clone();
    let mut ids = Vec::new();
    for name in ["t/chain", "t/other", "t/chain"] {
        ids.push(bench.submit(name, "{}").await);
    }
    // First no worker; then one that disconnects at once, and one that releases its step.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut lost = RawWorker::open(&url, registration(&["h"], 1))
        .await
        .unwrap();
    lost.assignment().await;
    drop(lost);
    let mut worker = RawWorker::open(&url, registration(&["h"], 3))
        .await
        .unwrap();
    let back = worker.assignment().await;
    worker.settle(&back, released()).await;
    for n in 0..4 {
        let a = worker.assignment().await;
        let outcome = match n {
            0 => crate::support::worker::retryable("again", None),
            _ => success("1"),
        };
        worker.settle(&a, outcome).await;
    }
    // A circuit opened by order for a while; then a limit of one step at a time.
    let order = proto::ForceCircuitRequest {
        namespace: "t".into(),
        service: "narrow".into(),
        state: CircuitState::Open.into(),
        expires_after: Some(Duration::from_millis(700).try_into().unwrap()),
        by: "ann".into(),
        reason: "deploy".into(),
    };
    bench.client.circuits.force_circuit(order).await.unwrap();
    let mut second = RawWorker::open(&url, registration(&["k"], 3))
        .await
        .unwrap();
    for n in 0..3 {
        let a = second.assignment().await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        second
            .settle(
                &a,
                if n == 1 {
                    permanent("no", "NO")
                } else {
                    success("2")
                },
            )
            .await;
    }
    // Two cancelled tasks: one while its step runs, and one while it waits.
    let running = bench.submit("t/chain", "{}").await;
    worker.assignment().await;
    bench.cancel(&running).await.unwrap();
    worker.close();
    let waiting = bench.submit("t/other", "{}").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    bench.cancel(&waiting).await.unwrap();
    for id in ids.iter().chain([&running, &waiting]) {
        bench.finished(id).await;
    }
    let db = bench.db.connect().await;
    eventually("connections end", || async {
        let sql =
            "SELECT count(*) FROM workers WHERE ended_at IS NULL AND lease_expires_at < now()";
        (db.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    let found = performance(&mut bench.client, "t", 0.1).await;
    let all = Oracle::read(&db).await.check(&found, 0.1);
    let Parts {
        dependency,
        backoff,
        circuit,
        limit,
        no_worker,
        run,
        ..
    } = all;
    for time in [dependency, backoff, circuit, limit, no_worker, run] {
        assert!(time > 0, "a cause does not occur: {all:?}");
    }
    // The critical paths tile the tasks' time, so the costs sum to it.
    let request = proto::GetBottlenecksRequest {
        max_bottlenecks: 100,
        ..Default::default()
    };
    let cost = bench
        .client
        .analytics
        .get_bottlenecks(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(cost.examined.unwrap().tasks, 5);
    let whole: i64 = found
        .templates
        .iter()
        .map(|t| micros(t.ledger.as_ref().unwrap().wall))
        .sum();
    let elapsed: f64 = found
        .templates
        .iter()
        .map(|t| micros(t.elapsed.as_ref().unwrap().mean) as f64 * f64::from(t.count))
        .sum();
    assert!((whole as f64 - elapsed).abs() < 10.0, "{whole} {elapsed}");
    assert_eq!(
        cost.bottlenecks.iter().map(|b| micros(b.cost)).sum::<i64>(),
        whole
    );
    let told = bottlenecks(&mut bench.client, "t", "chain")
        .await
        .bottlenecks;
    assert!(
        told.len() <= 10 && told.iter().all(|b| b.task_name == "chain"),
        "ten, if nobody asks for more"
    );
}
