//! `retry_after` pauses the whole service, not only the step that received it.

use std::time::{Duration, Instant, SystemTime};

use tasker::proto;

use crate::{
    service::{caller, circuit, set, times},
    support::{
        TestDb,
        server::{TestServer, register, submit},
        worker::{RawWorker, retryable, success},
    },
};

#[tokio::test]
async fn retry_after_delays_all_steps_of_the_service() {
    let test = TestDb::new().await;
    let (one, two) = (
        TestServer::start(&test).await,
        TestServer::start(&test).await,
    );
    let (mut client, mut other) = (one.client().await, two.client().await);
    register(&mut client, &caller("a", "a", "mail")).await;
    register(&mut client, &caller("b", "b", "mail")).await;
    register(&mut client, &caller("c", "c", "else")).await;
    let mut here = RawWorker::connect(&one.url, &["a", "c"]).await;
    let mut there = RawWorker::connect(&two.url, &["b"]).await;
    submit(&mut client, "t/a", "{}").await;
    let heard = here.assignment().await;
    here.settle(&heard, retryable("429", Some(Duration::from_secs(2))))
        .await;
    let acknowledged = Instant::now();
    // On both servers, of another handler, and submitted before and after.
    submit(&mut client, "t/b", "{}").await;
    submit(&mut other, "t/b", "{}").await;
    let waits = circuit(&mut client, "mail").await;
    assert!(waits.circuit.as_ref().unwrap().paused_until.is_some());
    assert_eq!(times(&waits, "circuit.paused"), 1);
    there.hears_nothing(Duration::from_millis(1_500)).await;
    here.hears_nothing(Duration::from_millis(100)).await;
    // Another service is not paused.
    submit(&mut client, "t/c", "{}").await;
    let c = here.assignment().await;
    assert_eq!(c.handler, "c");
    here.settle(&c, success("1")).await;

    let resumed = there.assignment().await;
    assert!(
        acknowledged.elapsed() >= Duration::from_millis(1_900),
        "{:?}",
        acknowledged.elapsed()
    );
    there.settle(&resumed, success("1")).await;
    let db = test.connect().await;
    let early: i64 = db
        .query_one(
            "SELECT count(*) FROM events e JOIN template_steps s USING (template_id, step) JOIN lanes l USING (lane_id)
               JOIN circuit_changes h ON h.service_id = l.service_id AND h.type = 'circuit.paused'
              WHERE e.type = 'step.started' AND e.at > h.at AND e.at < h.until",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(early, 0, "a step started in the pause");
    assert!(
        circuit(&mut client, "mail")
            .await
            .circuit
            .unwrap()
            .paused_until
            .is_none(),
        "it is over"
    );
}

#[tokio::test]
async fn service_pause_is_extended_never_shortened_and_bounded() {
    let test = TestDb::new().await;
    let server = TestServer::start(&test).await;
    let mut client = server.client().await;
    register(&mut client, &caller("a", "a", "mail")).await;
    set(
        &mut client,
        "mail",
        proto::Policy {
            max_pause_seconds: Some(60.0),
            ..Default::default()
        },
    )
    .await;
    let mut worker = RawWorker::connect(&server.url, &["a"]).await;
    for _ in 0..3 {
        submit(&mut client, "t/a", "{}").await;
    }
    let mut running = Vec::new();
    for _ in 0..3 {
        running.push(worker.assignment().await);
    }
    let mut until = Vec::new();
    for (assignment, seconds) in running.iter().zip([20, 5, 3_000]) {
        worker
            .settle(
                assignment,
                retryable("429", Some(Duration::from_secs(seconds))),
            )
            .await;
        let at = circuit(&mut client, "mail")
            .await
            .circuit
            .unwrap()
            .paused_until
            .unwrap();
        until.push(SystemTime::try_from(at).unwrap());
    }
    assert_eq!(until[0], until[1], "a shorter one changes nothing");
    #[expect(
        clippy::disallowed_methods,
        reason = "the database of a test has this machine's clock"
    )]
    let longest = until[2].duration_since(SystemTime::now()).unwrap();
    assert!(
        (Duration::from_secs(50)..=Duration::from_secs(60)).contains(&longest),
        "{longest:?}"
    );
    let seen = circuit(&mut client, "mail").await;
    assert_eq!(
        times(&seen, "circuit.paused"),
        1,
        "one pause, however often it was made longer"
    );
    let pause = seen
        .changes
        .iter()
        .find(|change| change.r#type == "circuit.paused")
        .unwrap();
    assert_eq!(
        SystemTime::try_from(pause.until.unwrap()).unwrap(),
        until[2]
    );
}
