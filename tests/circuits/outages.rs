//! A failing service: its circuit opens once, admits probes, and closes when the service has
//! recovered.

use std::time::{Duration, Instant};

use tasker::proto::{CircuitState, TaskState};
use tokio_postgres::Client as Session;

use crate::{
    service::{Service, caller, circuit, quick, set, submit_many, times},
    support::{
        TestDb,
        invariants::invariants,
        process::ServerProcess,
        server::{eventually, register},
    },
};

/// Number of charged attempts.
async fn charged(db: &Session) -> i64 {
    db.query_one("SELECT count(*) FROM attempts WHERE charged", &[])
        .await
        .unwrap()
        .get(0)
}

async fn unfinished(db: &Session) -> i64 {
    db.query_one("SELECT count(*) FROM tasks WHERE ended_at IS NULL", &[])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::too_many_lines,
    reason = "one outage from its first failure to its end, whose counts add up"
)]
async fn circuit_opens_once_for_all_servers_and_closes_after_recovery() {
    let test = TestDb::new().await;
    let db = test.connect().await;
    let mut one = ServerProcess::start(test.url());
    let mut two = ServerProcess::start(test.url());
    let (address_one, address_two) = (one.address().to_owned(), two.address().to_owned());
    let (url_one, url_two) = (one.url.clone(), two.url.clone());
    let mut client = tasker_worker::client::Client::connect(&url_one)
        .await
        .unwrap();
    register(&mut client, &caller("call", "h", "billing")).await;
    // Long enough for the test to check it while it is open.
    let policy = tasker::proto::Policy {
        cool_down_seconds: Some(4.0),
        max_cool_down_seconds: Some(4.0),
        ..quick()
    };
    set(&mut client, "billing", policy).await;
    let billing = Service::failing(70);
    billing
        .millis
        .store(20, std::sync::atomic::Ordering::SeqCst);
    let workers: Vec<_> = [&url_one, &url_one, &url_two, &url_two]
        .iter()
        .map(|url| billing.worker(&[url], "h", 4))
        .collect();
    submit_many(&mut client, "t/call", 200).await;

    let state = |client: &tasker_worker::client::Client| {
        let mut client = client.clone();
        async move {
            circuit(&mut client, "billing")
                .await
                .circuit
                .unwrap()
                .state()
        }
    };
    eventually("the circuit opens", || async {
        (state(&client).await == CircuitState::Open).then_some(())
    })
    .await;
    eventually("what ran has ended", || async {
        (billing.running() == 0).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (open, before) = (Instant::now(), charged(&db).await);
    let seen = circuit(&mut client, "billing").await;
    assert_eq!(times(&seen, "circuit.opened"), 1, "{:?}", seen.changes);
    assert!(seen.circuit.as_ref().unwrap().steps_waiting > 0);

    // Both servers die while it is open: the database keeps the state.
    one.kill();
    two.kill();
    let one = ServerProcess::start_at(test.url(), &address_one);
    let two = ServerProcess::start_at(test.url(), &address_two);
    let mut client = tasker_worker::client::Client::connect(&one.url)
        .await
        .unwrap();
    assert_eq!(
        circuit(&mut client, "billing")
            .await
            .circuit
            .unwrap()
            .state(),
        CircuitState::Open
    );
    assert_eq!(
        billing.calls_since(open),
        0,
        "somebody called while it was open"
    );
    assert_eq!(
        charged(&db).await,
        before,
        "an attempt was spent while it was open"
    );

    // Half-open, and every call fails: only the probes start before it opens again.
    billing.fail(100);
    let looked = Instant::now();
    eventually("it opens again", || {
        let mut client = client.clone();
        async move {
            (times(&circuit(&mut client, "billing").await, "circuit.opened") == 2).then_some(())
        }
    })
    .await;
    assert!(
        (1..=3).contains(&billing.calls_since(looked)),
        "{} probes",
        billing.calls_since(looked)
    );

    billing.fail(0);
    let looked = Instant::now();
    eventually("it closes", || async {
        (state(&client).await == CircuitState::Closed).then_some(())
    })
    .await;
    assert!(billing.calls_since(looked) >= 3);
    eventually("everything completes", || async {
        (unfinished(&db).await == 0).then_some(())
    })
    .await;
    let complete: i64 = db
        .query_one("SELECT count(*) FROM tasks WHERE state = 'complete'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(complete, 200, "an outage exhausted somebody's attempts");
    let seen = circuit(&mut client, "billing").await;
    assert_eq!(
        (
            times(&seen, "circuit.closed"),
            seen.circuit.as_ref().unwrap().times_opened
        ),
        (1, 2)
    );
    assert!(
        seen.circuit.unwrap().time_open.unwrap().seconds >= 6,
        "twice four seconds, less the rounding"
    );
    let events: i64 = db
        .query_one(
            "SELECT count(*) FROM events WHERE type IN ('circuit.opened', 'circuit.half_opened', 'circuit.closed')",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(
        events, 5,
        "opened, half-opened, opened, half-opened, closed"
    );
    invariants(&db).await;
    workers.iter().for_each(tokio::task::JoinHandle::abort);
    drop(two);
}

/// The time for 2,000 tasks of the service `up`, from their submit to their end.
async fn time_of_a_wave(client: &mut tasker_worker::client::Client, db: &Session) -> Duration {
    let started = Instant::now();
    submit_many(client, "t/up", 2_000).await;
    eventually("the others complete", || async {
        let left: i64 = db
            .query_one("SELECT count(*) FROM tasks t JOIN templates USING (template_id) WHERE task_name = 'up' AND ended_at IS NULL", &[])
            .await
            .unwrap()
            .get(0);
        (left == 0).then_some(())
    })
    .await;
    started.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn backlog_of_an_open_circuit_does_not_slow_other_services() {
    let test = TestDb::new().await;
    let db = test.connect().await;
    let server = ServerProcess::start(test.url());
    let mut client = tasker_worker::client::Client::connect(&server.url)
        .await
        .unwrap();
    register(&mut client, &caller("down", "down", "down")).await;
    register(&mut client, &caller("up", "up", "up")).await;
    let (down, up) = (Service::default(), Service::default());
    let order = tasker::proto::ForceCircuitRequest {
        namespace: "t".into(),
        service: "down".into(),
        state: CircuitState::Open.into(),
        expires_after: None,
        by: "test".into(),
        reason: "a test".into(),
    };
    let workers = [
        down.worker(&[&server.url], "down", 16),
        up.worker(&[&server.url], "up", 16),
    ];
    let _warm = time_of_a_wave(&mut client, &db).await;
    client.circuits.force_circuit(order).await.unwrap();
    let mut without: Vec<Duration> = Vec::new();
    for _ in 0..3 {
        without.push(time_of_a_wave(&mut client, &db).await);
    }
    submit_many(&mut client, "t/down", 10_000).await;
    let mut with: Vec<Duration> = Vec::new();
    for _ in 0..3 {
        with.push(time_of_a_wave(&mut client, &db).await);
    }
    let (without, with) = (without.iter().min().unwrap(), with.iter().min().unwrap());
    println!("others: {without:?} without, {with:?} with 10,000 steps behind an open circuit");
    // A loose bound: `tasker bench` measures this precisely, on an idle machine.
    assert!(
        with.as_secs_f64() < without.as_secs_f64() * 2.0 + 1.0,
        "{without:?} became {with:?}"
    );
    assert_eq!(down.calls(), 0);

    let reset = tasker::proto::ResetCircuitRequest {
        namespace: "t".into(),
        service: "down".into(),
        by: "test".into(),
        reason: "it is well".into(),
    };
    let asked = Instant::now();
    client.circuits.reset_circuit(reset).await.unwrap();
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?} for one row",
        asked.elapsed()
    );
    eventually("the backlog runs", || async {
        (down.calls() >= 10_000).then_some(())
    })
    .await;
    workers.iter().for_each(tokio::task::JoinHandle::abort);
}

/// The oldest steps are the probes, and an outage has many of them. The circuit is open before the
/// first of these steps, so that all their attempts of the outage are probes.
#[tokio::test(flavor = "multi_thread")]
async fn outage_with_many_probes_charges_no_attempts() {
    let test = TestDb::new().await;
    let db = test.connect().await;
    let server = ServerProcess::start(test.url());
    let mut client = tasker_worker::client::Client::connect(&server.url)
        .await
        .unwrap();
    for (name, limit) in [("opener", "limit: 1"), ("probed", "limit: 3")] {
        let template = caller(name, "h", "billing").replace("limit: 20", limit);
        register(&mut client, &template).await;
    }
    let policy = tasker::proto::Policy {
        cool_down_seconds: Some(0.2),
        max_cool_down_seconds: Some(0.2),
        min_calls: Some(5),
        ..quick()
    };
    set(&mut client, "billing", policy).await;
    let billing = Service::failing(100);
    let worker = billing.worker(&[&server.url], "h", 2);
    submit_many(&mut client, "t/opener", 5).await;
    eventually("the circuit opens", || {
        let mut client = client.clone();
        async move {
            (times(&circuit(&mut client, "billing").await, "circuit.opened") > 0).then_some(())
        }
    })
    .await;
    submit_many(&mut client, "t/probed", 4).await;
    let failed = async |charged: bool| -> i64 {
        let sql = "SELECT count(*) FROM attempts a JOIN tasks USING (task_id) JOIN templates USING (template_id)
                    WHERE task_name = 'probed' AND a.outcome = 'retryable_error' AND a.charged = $1";
        db.query_one(sql, &[&charged]).await.unwrap().get(0)
    };
    // More than two for each step on average, so that one of them had as many as its limit.
    eventually("there were many probes", async || {
        (failed(false).await >= 12).then_some(())
    })
    .await;
    billing.fail(0);
    eventually("everything ends", || async {
        (unfinished(&db).await == 0).then_some(())
    })
    .await;
    assert_eq!(failed(true).await, 0, "an outage charged attempts");
    let complete: i64 = db
        .query_one("SELECT count(*) FROM tasks WHERE state = 'complete'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(complete, 4, "an outage exhausted somebody's attempts");
    invariants(&db).await;
    worker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn outage_without_circuits_exhausts_the_attempts() {
    let test = TestDb::new().await;
    let server = ServerProcess::start(test.url());
    let mut client = tasker_worker::client::Client::connect(&server.url)
        .await
        .unwrap();
    let template = caller("call", "h", "billing").replace("limit: 20", "limit: 3");
    register(&mut client, &template).await;
    set(
        &mut client,
        "billing",
        tasker::proto::Policy {
            enabled: Some(false),
            ..quick()
        },
    )
    .await;
    let billing = Service::failing(100);
    let worker = billing.worker(&[&server.url], "h", 8);
    let ids = submit_many(&mut client, "t/call", 30).await;
    for id in &ids {
        let task = crate::support::server::finished(&mut client, id).await;
        assert_eq!(task.task.unwrap().state(), TaskState::Error);
    }
    assert_eq!(billing.calls(), 90);
    worker.abort();
}
