//! Explanations of waiting tasks: every cause, one by one, and the cost of an explanation while a
//! hundred thousand tasks wait.

use std::time::{Duration, Instant};

use tasker::{
    proto::{self, CircuitState, StepExplanation, WaitCause},
    store::bench::fixtures::{self, Kind},
};

use crate::{
    service::{Service, caller, circuit, quick, set, submit_many},
    support::{
        server::{Bench, eventually, submission},
        worker::{RawWorker, permanent, registration, retryable, success},
    },
};

const TWO: &str = "task_name: two\nnamespace: t\nversion: 1.0.0\nstep_templates:\n  - {name: first, handler_class: first, \
                   default_retry_limit: 5, backoff: {base_seconds: 14, jitter: 0}, handler_config: {service: one}}\n  - {name: second, \
                   handler_class: second, depends_on_step: first}\n";

async fn explain(bench: &mut Bench, task_id: &str) -> proto::ExplainTaskResponse {
    let request = proto::ExplainTaskRequest {
        task_id: task_id.into(),
    };
    bench
        .client
        .tasks
        .explain_task(request)
        .await
        .unwrap()
        .into_inner()
}

/// The step's explanation, which must have this cause only.
fn only(found: &proto::ExplainTaskResponse, step: &str, cause: WaitCause) -> StepExplanation {
    let step = found
        .steps
        .iter()
        .find(|s| s.step == step)
        .unwrap_or_else(|| panic!("no step {step} in {found:?}"));
    assert_eq!(
        step.waits
            .iter()
            .map(proto::Wait::cause)
            .collect::<Vec<_>>(),
        [cause],
        "{step:?}"
    );
    step.clone()
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one task, asked about at each stage of its life in turn"
)]
async fn explanation_of_each_stage_names_the_cause() {
    let mut bench = Bench::with(TWO).await;
    let id = bench.submit("t/two", "{}").await;
    let found = explain(&mut bench, &id).await;
    let first = only(&found, "first", WaitCause::NoWorker);
    assert_eq!(
        first.waits[0].message,
        "no connected worker has handler first; none was connected recently"
    );
    assert_eq!(
        only(&found, "second", WaitCause::Parents).waits_for,
        ["first"]
    );
    assert!(
        found.next[0].contains("tasker worker list --handler first"),
        "{:?}",
        found.next
    );
    assert!(
        found
            .summary
            .starts_with("0 of 2 steps are complete; first: no connected worker"),
        "{}",
        found.summary
    );

    let mut worker = RawWorker::open(&bench.server.url, registration(&["first"], 1))
        .await
        .unwrap();
    let assignment = worker.assignment().await;
    let running = only(&explain(&mut bench, &id).await, "first", WaitCause::Running);
    assert_eq!((running.worker_name.as_str(), running.attempt), ("raw", 1));
    assert!(running.waits[0].until.is_some());

    // The worker's one slot is taken, and the older task goes first.
    let waiting = [
        bench.submit("t/two", "{}").await,
        bench.submit("t/two", "{}").await,
    ];
    let urgent = proto::SubmitTaskRequest {
        priority: 9,
        ..submission("t/two", "{}")
    };
    let urgent = bench
        .client
        .tasks
        .submit_task(urgent)
        .await
        .unwrap()
        .into_inner()
        .task_id;
    for (id, ahead) in [(&urgent, 0), (&waiting[0], 1), (&waiting[1], 2)] {
        let busy = only(&explain(&mut bench, id).await, "first", WaitCause::Busy);
        assert_eq!(
            (busy.ahead, busy.slots_free, busy.workers_connected),
            (ahead, 0, 1),
            "{busy:?}"
        );
    }

    worker.settle(&assignment, retryable("503", None)).await;
    let next = worker.assignment().await;
    assert_eq!(next.task_id, urgent);
    let found = explain(&mut bench, &id).await;
    let backoff = only(&found, "first", WaitCause::Backoff);
    assert!(
        backoff.waits[0].message.starts_with("attempt 2 of 5 in 1"),
        "{}",
        backoff.waits[0].message
    );
    assert!(
        backoff.waits[0]
            .message
            .ends_with("the last one failed: 503"),
        "{}",
        backoff.waits[0].message
    );
    assert_eq!((backoff.charged_attempts, backoff.retry_limit), (1, 5));

    worker
        .settle(&next, permanent("no such user", "NO_USER"))
        .await;
    let found = explain(&mut bench, &urgent).await;
    let failed = only(&found, "first", WaitCause::Failed);
    assert_eq!(
        failed.waits[0].message,
        "failed finally after 1 of 5 attempts: no such user (NO_USER)"
    );
    let parents = only(&found, "second", WaitCause::Parents);
    assert_eq!(
        parents.waits[0].message,
        "never starts: its parent first is error"
    );
    assert!(
        found
            .summary
            .starts_with("failed, with 0 of 2 steps complete; first: failed finally"),
        "{}",
        found.summary
    );

    // The worker disconnects: the explanation reports when it was last seen.
    let _running = worker.assignment().await;
    drop(worker);
    eventually("the worker is given up", || {
        let (mut client, id) = (bench.client.clone(), waiting[1].clone());
        async move {
            let request = proto::ExplainTaskRequest { task_id: id };
            let found = client
                .tasks
                .explain_task(request)
                .await
                .unwrap()
                .into_inner();
            found.steps[0].waits[0]
                .message
                .contains("; last seen ")
                .then_some(())
        }
    })
    .await;
    bench.cancel(&id).await.unwrap();
    let found = explain(&mut bench, &id).await;
    assert_eq!(
        (found.summary.as_str(), found.steps.len()),
        ("cancelled, with 0 of 2 steps complete, by test: why", 0)
    );
    let unknown = proto::ExplainTaskRequest {
        task_id: uuid::Uuid::nil().to_string(),
    };
    assert_eq!(
        bench
            .client
            .tasks
            .explain_task(unknown)
            .await
            .unwrap_err()
            .code(),
        tonic::Code::NotFound
    );
}

fn reset() -> proto::ResetCircuitRequest {
    proto::ResetCircuitRequest {
        namespace: "t".into(),
        service: "one".into(),
        by: "ann".into(),
        reason: "done".into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explanation_of_a_forced_circuit_names_the_order() {
    let mut bench = Bench::with(TWO).await;
    let _worker = RawWorker::connect(&bench.server.url, &["first", "second"]).await;
    let order = proto::ForceCircuitRequest {
        namespace: "t".into(),
        service: "one".into(),
        state: CircuitState::Open.into(),
        expires_after: None,
        by: "ann".into(),
        reason: "deploy".into(),
    };
    bench.client.circuits.force_circuit(order).await.unwrap();
    let id = bench.submit("t/two", "{}").await;
    let found = explain(&mut bench, &id).await;
    let forced = only(&found, "first", WaitCause::Circuit);
    assert!(
        forced.waits[0].message.contains("open by order of ann"),
        "{forced:?}"
    );
    assert!(
        found.next[0].contains("tasker circuit reset t one"),
        "{:?}",
        found.next
    );
    bench.client.circuits.reset_circuit(reset()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn explanation_of_a_tripped_circuit_or_pause_names_the_cause() {
    let mut bench = Bench::with(TWO).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["first", "second"]).await;
    let id = bench.submit("t/two", "{}").await;
    set(
        &mut bench.client,
        "one",
        proto::Policy {
            min_calls: Some(1),
            cool_down_seconds: Some(60.0),
            ..quick()
        },
    )
    .await;
    let assignment = worker.assignment().await;
    let other = bench.submit("t/two", "{}").await;
    let second = worker.assignment().await;
    worker.settle(&assignment, retryable("503", None)).await;
    eventually("it opens", || {
        let mut client = bench.client.clone();
        async move {
            let circuit = circuit(&mut client, "one").await.circuit.unwrap();
            (circuit.state() == CircuitState::Open).then_some(())
        }
    })
    .await;
    let third = bench.submit("t/two", "{}").await;
    let open = only(
        &explain(&mut bench, &third).await,
        "first",
        WaitCause::Circuit,
    );
    assert!(
        open.waits[0]
            .message
            .contains("(1 of 1 calls failed); it is probed in"),
        "{open:?}"
    );
    let both = explain(&mut bench, &id).await;
    let causes: Vec<_> = both.steps[0].waits.iter().map(proto::Wait::cause).collect();
    assert_eq!(causes, [WaitCause::Backoff, WaitCause::Circuit]);
    bench.client.circuits.reset_circuit(reset()).await.unwrap();

    // A pause, requested by the attempt that ran through all of this. By then one of two calls has
    // failed, and that failure must not open the circuit.
    let slow_to_open = proto::Policy {
        min_calls: Some(100),
        ..quick()
    };
    set(&mut bench.client, "one", slow_to_open).await;
    assert_eq!(second.task_id, other);
    let held = worker.assignment().await;
    worker.settle(&held, success("1")).await;
    worker
        .settle(&second, retryable("429", Some(Duration::from_secs(30))))
        .await;
    let fourth = bench.submit("t/two", "{}").await;
    let pause = only(
        &explain(&mut bench, &fourth).await,
        "first",
        WaitCause::Pause,
    );
    assert!(
        pause.waits[0].until.is_some()
            && pause.waits[0]
                .message
                .starts_with("one throttles its callers"),
        "{pause:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn explanation_of_a_limit_names_its_value() {
    let mut bench = Bench::with(&caller("call", "h", "billing")).await;
    set(
        &mut bench.client,
        "billing",
        proto::Policy {
            max_concurrency: Some(2),
            ..Default::default()
        },
    )
    .await;
    let billing = Service::default();
    billing
        .millis
        .store(1_500, std::sync::atomic::Ordering::SeqCst);
    let worker = billing.worker(&[&bench.server.url], "h", 8);
    let ids = submit_many(&mut bench.client, "t/call", 4).await;
    eventually("the limit is reached", || async {
        (billing.running() == 2).then_some(())
    })
    .await;
    let found = explain(&mut bench, &ids[3]).await;
    assert_eq!(
        found.steps[0].waits[0].cause(),
        WaitCause::Limit,
        "{found:?}"
    );
    assert_eq!(
        found.steps[0].waits[0].message,
        "billing runs 2 steps, which is its limit"
    );
    worker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn explanation_with_100_000_waiting_tasks_is_fast() {
    let mut bench = Bench::with(TWO).await;
    let (db, session) = (bench.db.db(), bench.db.connect().await);
    let template: i32 = session
        .query_one("SELECT template_id FROM templates", &[])
        .await
        .unwrap()
        .get(0);
    let busy = RawWorker::open(&bench.server.url, registration(&["other"], 1))
        .await
        .unwrap();
    fixtures::fill(&db, Kind::Waiting, template, 200, &|_| {})
        .await
        .unwrap();
    let few = median_of_explanations(&mut bench, &session).await;
    fixtures::fill(&db, Kind::Waiting, template, 100_000, &|_| {})
        .await
        .unwrap();
    let many = median_of_explanations(&mut bench, &session).await;
    println!("ExplainTask: p50 {few:?} with 200 waiting tasks, {many:?} with 100,000");
    // Relative, as a busy machine is slow with either number.
    assert!(
        many < 2 * few + Duration::from_millis(15),
        "p50 {few:?} became {many:?}"
    );
    drop(busy);
}

/// The median time of explanations of 200 waiting tasks.
async fn median_of_explanations(bench: &mut Bench, session: &tokio_postgres::Client) -> Duration {
    let ids: Vec<String> = session
        .query(
            "SELECT task_id::text FROM queue WHERE due ORDER BY random() LIMIT 200",
            &[],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    let mut times = Vec::new();
    for id in &ids {
        let asked = Instant::now();
        let found = explain(bench, id).await;
        times.push(asked.elapsed());
        assert_eq!(found.steps[0].waits[0].cause(), WaitCause::NoWorker);
    }
    times.sort_unstable();
    times[100]
}
