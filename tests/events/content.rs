//! The content of events, and the subscribers that receive them.

use std::time::Duration;

use tasker::proto::{AttemptOutcome, Event, EventType, SubscribeRequest};

use crate::{
    Tail, from_beginning,
    support::{
        TestDb,
        server::{Bench, TestServer, register, submission},
        worker::{RawWorker, permanent, retryable, success},
    },
};

const TWO: &str = "
task_name: two
namespace: t
version: 1.2.0
step_templates:
  - {name: first, handler_class: h, backoff: {base_seconds: 0.05, jitter: 0}, handler_config: {service: bank}}
  - {name: second, handler_class: k, depends_on_steps: [first]}
";

/// Runs a task whose first step is retried once, and whose second one succeeds or fails.
async fn run_one(
    bench: &mut Bench,
    worker: &mut RawWorker,
    correlation_id: &str,
    good: bool,
) -> String {
    let request = tasker::proto::SubmitTaskRequest {
        correlation_id: correlation_id.into(),
        ..submission("t/two", "{}")
    };
    let id = bench
        .client
        .tasks
        .submit_task(request)
        .await
        .unwrap()
        .into_inner()
        .task_id;
    let a = worker.assignment().await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    worker.settle(&a, retryable("slow down", None)).await;
    let a = worker.assignment().await;
    worker.settle(&a, success("1")).await;
    let a = worker.assignment().await;
    worker
        .settle(
            &a,
            if good {
                success("2")
            } else {
                permanent("no such user", "USER_CONFLICT")
            },
        )
        .await;
    bench.finished(&id).await;
    id
}

/// The types in order, and the task of all of them.
fn they_are_of_one_task(events: &[Event], id: &str) {
    use EventType::*;
    let types: Vec<EventType> = events.iter().map(Event::r#type).collect();
    assert_eq!(
        types,
        [
            WorkerConnected,
            TaskSubmitted,
            TaskStarted,
            StepStarted,
            StepRetrying,
            StepStarted,
            StepCompleted,
            StepStarted,
            StepFailed,
            TaskFailed
        ]
    );
    for event in &events[1..] {
        assert_eq!(
            (
                event.namespace.as_str(),
                event.task_name.as_str(),
                event.version.as_str(),
                event.task_id.as_str()
            ),
            ("t", "two", "1.2.0", id),
            "{event:?}"
        );
        assert_eq!(event.correlation_id, "c-7");
    }
}

fn nanos(t: Option<prost_types::Timestamp>) -> i128 {
    t.map(|t| i128::from(t.seconds) * 1_000_000_000 + i128::from(t.nanos))
        .unwrap()
}

#[tokio::test]
async fn event_contains_the_fields_of_its_type() {
    let mut bench = Bench::with(TWO).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h", "k"]).await;
    let id = run_one(&mut bench, &mut worker, "c-7", false).await;
    let events = Tail::beginning(&mut bench.client).await.events(10).await;
    they_are_of_one_task(&events, &id);
    use EventType::*;
    let worker_id = &worker.registered.worker_id;
    let one = |kind: EventType, attempt: i32, step: &str| {
        let fits = |e: &&Event| e.r#type() == kind && e.attempt == attempt && e.step == step;
        events
            .iter()
            .find(fits)
            .unwrap_or_else(|| panic!("no {kind:?} of attempt {attempt}"))
    };
    let connected = one(WorkerConnected, 0, "");
    assert_eq!(
        (
            &connected.worker_id,
            connected.worker_name.as_str(),
            connected.namespace.as_str()
        ),
        (worker_id, "raw", "")
    );

    let retrying = one(StepRetrying, 1, "first");
    assert_eq!(
        (retrying.service.as_str(), retrying.handler.as_str()),
        ("bank", "h")
    );
    assert_eq!(
        (retrying.outcome(), retrying.charged),
        (AttemptOutcome::RetryableError, true)
    );
    assert_eq!(
        (retrying.error_message.as_str(), &retrying.worker_id),
        ("slow down", worker_id)
    );
    assert!(
        (55..5_000).contains(&retrying.run_ms.unwrap()),
        "{retrying:?}"
    );
    assert!(retrying.wait_ms.unwrap() < 5_000);
    let pause = nanos(retrying.next_attempt_at) - nanos(retrying.at);
    assert_eq!(pause, 50_000_000);

    let completed = one(StepCompleted, 2, "first");
    assert_eq!(
        (completed.outcome(), completed.charged),
        (AttemptOutcome::Succeeded, false)
    );
    assert_eq!(completed.next_attempt_at, None);
    let failed = one(StepFailed, 1, "second");
    assert_eq!(
        (failed.error_code.as_str(), failed.error_message.as_str()),
        ("USER_CONFLICT", "no such user")
    );
    // The default service of a step is its handler's name.
    assert_eq!(
        (failed.service.as_str(), failed.outcome()),
        ("k", AttemptOutcome::PermanentError)
    );
    let started = one(StepStarted, 2, "first");
    assert_eq!(
        (started.outcome(), started.run_ms, &started.worker_id),
        (AttemptOutcome::Unspecified, None, worker_id)
    );
    assert!(started.wait_ms.unwrap() < 5_000);
    let ended = one(TaskFailed, 0, "");
    assert!((100..20_000).contains(&ended.run_ms.unwrap()), "{ended:?}");
    assert!(one(TaskStarted, 0, "").wait_ms.unwrap() < 5_000);
}

/// Whether an event fits the filter, given the ids of a good task, a bad one and another one.
type Fits = fn(&Event, [&str; 3]) -> bool;

/// Filters, the number of events that each admits, and the check of each event.
fn filters(good: &str, bad: &str) -> [(SubscribeRequest, usize, Fits); 8] {
    let all = from_beginning();
    [
        (all.clone(), 24, |_, _| true),
        (
            SubscribeRequest {
                namespace: "u".into(),
                ..all.clone()
            },
            5,
            |e, [_, _, other]| e.task_id == other,
        ),
        (
            SubscribeRequest {
                task_name: "two".into(),
                ..all.clone()
            },
            18,
            |e, _| e.task_name == "two",
        ),
        (
            SubscribeRequest {
                task_id: bad.to_owned(),
                ..all.clone()
            },
            9,
            |e, [_, bad, _]| e.task_id == bad,
        ),
        (
            SubscribeRequest {
                correlation_id: "c-1".into(),
                ..all.clone()
            },
            9,
            |e, [good, ..]| e.task_id == good,
        ),
        (
            SubscribeRequest {
                service: "bank".into(),
                ..all.clone()
            },
            10,
            |e, _| e.service == "bank",
        ),
        (
            SubscribeRequest {
                types: vec![EventType::StepFailed.into(), EventType::TaskFailed.into()],
                ..all.clone()
            },
            4,
            |e, _| [EventType::StepFailed, EventType::TaskFailed].contains(&e.r#type()),
        ),
        (
            SubscribeRequest {
                types: vec![EventType::StepStarted.into()],
                service: "k".into(),
                task_id: good.to_owned(),
                ..all.clone()
            },
            1,
            |e, [good, ..]| {
                e.step == "second" && e.task_id == good && e.r#type() == EventType::StepStarted
            },
        ),
    ]
}

#[tokio::test]
async fn event_filter_passes_exactly_the_matching_events() {
    let mut bench = Bench::with(TWO).await;
    register(
        &mut bench.client,
        &TWO.replace("task_name: two", "task_name: other")
            .replace("namespace: t", "namespace: u"),
    )
    .await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h", "k"]).await;
    let good = run_one(&mut bench, &mut worker, "c-1", true).await;
    let bad = run_one(&mut bench, &mut worker, "c-2", false).await;
    let other = bench.submit("u/other", "{}").await;
    let a = worker.assignment().await;
    worker.settle(&a, permanent("no", "")).await;
    bench.finished(&other).await;
    let last = bench.submit("t/two", "{}").await;
    for (request, count, fits) in filters(&good, &bad) {
        // The events of `last` come after all others: only the subscription without a filter counts
        // them.
        let mut tail = Tail::begin(&mut bench.client, request.clone())
            .await
            .unwrap();
        let events = tail.events(count).await;
        assert!(
            events
                .iter()
                .all(|event| fits(event, [&good, &bad, &other])),
            "{request:?}: {events:#?}"
        );
        assert!(
            events.iter().all(|event| event.task_id != last) || count == 24,
            "{request:?}"
        );
        if request.task_id.is_empty()
            && request.correlation_id.is_empty()
            && request.namespace != "u"
        {
            continue;
        }
        let more = tokio::time::timeout(Duration::from_millis(150), tail.message()).await;
        assert!(more.is_err(), "{request:?}: {more:?}");
    }
}

#[tokio::test]
async fn subscription_from_now_receives_later_events_only() {
    let mut bench = Bench::with(TWO).await;
    bench.submit("t/two", "{}").await;
    let mut tail = Tail::begin(&mut bench.client, SubscribeRequest::default())
        .await
        .unwrap();
    let id = bench.submit("t/two", "{}").await;
    assert_eq!(tail.event().await.task_id, id);
    // The same for a subscription that begins while the reader is at work.
    let mut second = Tail::begin(&mut bench.client, SubscribeRequest::default())
        .await
        .unwrap();
    let id = bench.submit("t/two", "{}").await;
    assert_eq!(second.event().await.task_id, id);
    assert_eq!(tail.event().await.task_id, id);
}

#[tokio::test]
async fn live_event_of_another_server_arrives_immediately() {
    let mut bench = Bench::with(TWO).await;
    let second = TestServer::start(&bench.db).await;
    let mut far = second.client().await;
    let mut tail = Tail::begin(&mut far, SubscribeRequest::default())
        .await
        .unwrap();
    let mut near = Tail::begin(&mut bench.client, SubscribeRequest::default())
        .await
        .unwrap();
    // By then the servers have announced to each other that they have subscribers.
    tokio::time::sleep(Duration::from_millis(5_500)).await;
    let mut times: [Vec<Duration>; 2] = Default::default();
    for _ in 0..5 {
        let id = bench.submit("t/two", "{}").await;
        let since = std::time::Instant::now();
        assert_eq!(near.event().await.task_id, id);
        times[0].push(since.elapsed());
        assert_eq!(tail.event().await.task_id, id);
        times[1].push(since.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // The median, as a busy machine may delay one of them: without a notification each event waits
    // for a look that comes two seconds after the last one.
    times.iter_mut().for_each(|times| times.sort_unstable());
    println!("here {:?}, there {:?}", times[0], times[1]);
    assert!(times[0][2] < Duration::from_millis(500), "{times:?}");
    assert!(times[1][2] < Duration::from_millis(1_000), "{times:?}");
}

#[tokio::test]
async fn events_of_two_servers_arrive_from_either() {
    let db = TestDb::new().await;
    let servers = [TestServer::start(&db).await, TestServer::start(&db).await];
    let mut clients = [servers[0].client().await, servers[1].client().await];
    register(&mut clients[0], TWO).await;
    let mut ids = Vec::new();
    for i in 0..10 {
        ids.push(crate::support::server::submit(&mut clients[i % 2], "t/two", "{}").await);
    }
    for client in &mut clients {
        let mut heard: Vec<String> = Tail::beginning(client)
            .await
            .events(10)
            .await
            .into_iter()
            .map(|e| e.task_id)
            .collect();
        heard.sort_unstable();
        let mut expected = ids.clone();
        expected.sort_unstable();
        assert_eq!(heard, expected);
    }
}

#[tokio::test]
async fn order_to_a_circuit_is_an_event_of_its_service() {
    let mut bench = Bench::with(TWO).await;
    let request = SubscribeRequest {
        namespace: "t".into(),
        service: "bank".into(),
        ..Default::default()
    };
    let mut tail = Tail::begin(&mut bench.client, request).await.unwrap();
    let order = tasker::proto::ForceCircuitRequest {
        namespace: "t".into(),
        service: "bank".into(),
        state: tasker::proto::CircuitState::Open.into(),
        by: "ann".into(),
        reason: "deploy".into(),
        ..Default::default()
    };
    bench.client.circuits.force_circuit(order).await.unwrap();
    let event = tail.event().await;
    assert_eq!(
        (
            event.r#type(),
            event.namespace.as_str(),
            event.service.as_str()
        ),
        (EventType::CircuitForced, "t", "bank")
    );
    assert_eq!((event.task_id.as_str(), event.step.as_str()), ("", ""));
    assert!(event.detail.contains("deploy"), "{event:?}");
    assert_eq!(event.actor, "ann");
}
