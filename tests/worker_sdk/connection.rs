//! Streams that break, servers that stop and start, and the state that the worker keeps.

use std::{
    io,
    sync::{Arc, Mutex, mpsc as blocking},
    time::Duration,
};

use tasker::proto::{CancelReason, Draining, ResultStatus, work_request, work_response};
use tasker_worker::{StepContext, WorkerBuilder, WorkerError};
use tokio::sync::{Notify, oneshot};
use tonic::Status;

use super::server::{ScriptedServer, soon, worker};

/// Adds a handler `wait` whose steps end when they are notified.
fn with_wait(worker: WorkerBuilder) -> (WorkerBuilder, Arc<Notify>) {
    let go_on = Arc::new(Notify::new());
    let notified = Arc::clone(&go_on);
    let wait = move |_: StepContext| {
        let notified = Arc::clone(&notified);
        async move {
            notified.notified().await;
            Ok("waited")
        }
    };
    (worker.handler("wait", wait), go_on)
}

#[tokio::test]
async fn result_is_repeated_until_it_is_acknowledged() {
    let mut server = ScriptedServer::start().await;
    let handle = worker(&[&server]).build().unwrap().spawn();
    let (mut stream, _) = server.register("w1").await;
    stream.assign("l1", "answer").await;
    stream.expect_success("l1").await;
    drop(stream);

    let (mut stream, register) = server.register("w2").await;
    assert_eq!(register.previous_worker_id, "w1");
    assert_eq!(register.held_leases, ["l1"]);
    assert_eq!(stream.expect_success("l1").await, "42");
    stream.fail(Status::unavailable("restarting")).await;

    let (mut stream, register) = server.register("w3").await;
    assert_eq!(register.previous_worker_id, "w2");
    assert_eq!(register.held_leases, ["l1"]);
    assert_eq!(stream.expect_success("l1").await, "42");
    stream.ack("l1", ResultStatus::Stale).await;
    assert_eq!(soon(handle.shutdown()).await.unwrap().unacked_results, 0);
}

#[tokio::test]
async fn running_steps_survive_a_reconnect() {
    let (mut first, mut second) = (ScriptedServer::start().await, ScriptedServer::start().await);
    let (worker, go_on) = with_wait(worker(&[&first, &second]));
    let _handle = worker.build().unwrap().spawn();
    let (stream, _) = first.register("w1").await;
    stream.assign("l1", "wait").await;
    stream.fail(Status::aborted("the lease ran out")).await;

    let (mut stream, register) = second.register("w2").await;
    assert_eq!(register.previous_worker_id, "w1");
    assert_eq!(register.held_leases, ["l1"]);
    go_on.notify_one();
    assert_eq!(stream.expect_success("l1").await, r#""waited""#);
}

#[tokio::test]
async fn results_of_lost_leases_are_not_sent() {
    let mut server = ScriptedServer::start().await;
    let (worker, go_on) = with_wait(worker(&[&server]));
    let _handle = worker.build().unwrap().spawn();
    let (mut stream, _) = server.register("w1").await;
    stream.assign("running", "wait").await;
    stream.assign("cancelled", "wait").await;
    stream.assign("ended", "answer").await;
    stream.expect_success("ended").await;
    drop(stream);

    let mut stream = server.accept().await;
    let mut held = stream.expect_register().await.held_leases;
    held.sort_unstable();
    assert_eq!(held, ["cancelled", "ended", "running"]);
    stream.registered("w2", Vec::new()).await;
    stream.cancel("ended", CancelReason::LeaseLost).await;
    stream.cancel("cancelled", CancelReason::LeaseLost).await;
    go_on.notify_waiters();
    stream.assign("next", "answer").await;
    assert_eq!(stream.expect_success("next").await, "42");
    drop(stream);

    let (_, register) = server.register("w3").await;
    assert_eq!(register.held_leases, ["next"]);
}

#[tokio::test]
async fn heartbeats_continue_while_a_handler_blocks_its_runtime() {
    let mut server = ScriptedServer::start().await;
    let (go_on, blocked) = blocking::channel::<()>();
    let blocked = Mutex::new(blocked);
    let block = move |_: StepContext| {
        let _ = blocked.lock().unwrap().recv();
        async { Ok(()) }
    };
    let worker = worker(&[&server]).handler("block", block).build().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime
            .block_on(worker.run_until(async { drop(stopped.await) }))
            .unwrap()
    });

    let mut stream = server.accept().await;
    stream.expect_register().await;
    stream
        .registered_with("w1", Vec::new(), Duration::from_millis(20))
        .await;
    stream.assign("l1", "block").await;
    for _ in 0..5 {
        let heard = stream.hear().await;
        assert!(
            matches!(heard, Some(work_request::Message::Heartbeat(_))),
            "{heard:?}"
        );
    }
    go_on.send(()).unwrap();
    while !matches!(stream.hear().await, Some(work_request::Message::Result(_))) {}
    stream.ack("l1", ResultStatus::Accepted).await;
    stop.send(()).unwrap();
    stream.gone().await;
    drop(stream);
    assert_eq!(thread.join().unwrap().unacked_results, 0);
}

#[tokio::test]
async fn worker_leaves_a_draining_server_when_it_closes() {
    let (mut first, mut second) = (ScriptedServer::start().await, ScriptedServer::start().await);
    let _handle = worker(&[&first, &second]).build().unwrap().spawn();
    let (mut stream, _) = first.register("w1").await;
    stream.assign("l1", "answer").await;
    stream
        .say(work_response::Message::Draining(Draining { grace: None }))
        .await;
    stream.expect_success("l1").await;
    assert!(
        second.is_left_alone(Duration::from_millis(300)).await,
        "the stream is open"
    );
    stream.ack("l1", ResultStatus::Accepted).await;
    drop(stream);
    let (_, register) = second.register("w2").await;
    assert!(register.held_leases.is_empty());
}

/// Takes as long as the pings: ten seconds of silence, and five for the answer.
#[test]
fn worker_leaves_a_frozen_server() {
    let runtime = || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap()
    };
    // A current-thread runtime runs only inside `block_on`, so this server is frozen outside of it.
    let (freezing, going_on) = (runtime(), runtime());
    let mut first = freezing.block_on(ScriptedServer::start());
    going_on.block_on(async {
        let mut second = ScriptedServer::start().await;
        let handle = worker(&[&first, &second]).build().unwrap().spawn();
        let _stream = std::thread::scope(|scope| {
            let registered = || {
                freezing.block_on(async {
                    let stream = first.register("w1").await;
                    assert!(soon(handle.connected()).await);
                    stream
                })
            };
            scope.spawn(registered).join().unwrap()
        });
        assert!(
            second.is_left_alone(Duration::from_secs(8)).await,
            "silence is no reason to go"
        );
        let (_, register) = second.register("w2").await;
        assert_eq!(register.previous_worker_id, "w1");
    });
}

#[tokio::test]
async fn refused_registration_ends_the_worker() {
    for status in [
        Status::invalid_argument("handlers: 0"),
        Status::failed_precondition("too old"),
    ] {
        let mut server = ScriptedServer::start().await;
        let worker = worker(&[&server]).build().unwrap();
        let ended = tokio::spawn(worker.run_until(std::future::pending()));
        let mut stream = server.accept().await;
        stream.expect_register().await;
        stream.fail(status.clone()).await;
        let error = soon(ended).await.unwrap().unwrap_err();
        let WorkerError::Refused { code, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(code, status.code());
        let message = error.to_string();
        assert!(message.contains(status.message()), "{message}");
        assert!(
            message.contains("correct the worker's settings"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn failed_registration_is_retried() {
    let mut server = ScriptedServer::start().await;
    let _handle = worker(&[&server]).build().unwrap().spawn();
    for status in [
        Status::resource_exhausted("streams"),
        Status::unavailable("draining"),
        Status::internal("?"),
    ] {
        let mut stream = server.accept().await;
        stream.expect_register().await;
        stream.fail(status).await;
    }
    let stream = server.accept().await;
    stream
        .say(work_response::Message::Draining(Draining { grace: None }))
        .await;
    server.register("w1").await;
}

/// The worker's log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn count(&self, words: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap())
            .matches(words)
            .count()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn outage_and_its_end_are_logged_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .finish();
    let mut server = ScriptedServer::start().await;
    let address = server.address();
    let handle = {
        let _subscribed = tracing::subscriber::set_default(subscriber);
        worker(&[&server]).build().unwrap().spawn()
    };
    let (stream, _) = server.register("w1").await;
    assert!(soon(handle.connected()).await);
    server.stop().await;
    drop(stream);
    // Time for a few tries: about 75, 150 and 300 ms after each other.
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!handle.is_connected());

    let mut server = ScriptedServer::start_at(address).await;
    let (_stream, register) = server.register("w2").await;
    assert_eq!(register.previous_worker_id, "w1");
    assert!(soon(handle.connected()).await);
    assert_eq!(handle.worker_id().as_deref(), Some("w2"));
    assert_eq!(log.count("no connection to the server"), 1);
    assert_eq!(log.count("reconnected"), 1);
}
