//! Ways to end: drain, give up, and end at once.

use std::{future::pending, time::Duration};

use rustix::process::{Signal, getpid, kill_process};
use tasker::proto::{CancelReason, ResultStatus, step_result::Outcome, work_request};
use tasker_worker::{Shutdown, StepContext, StepError, WorkerBuilder};
use tokio::sync::oneshot;

use super::server::{ScriptedServer, Stream, soon, worker};

/// Adds a handler `forever` whose steps never end.
fn with_forever(worker: WorkerBuilder) -> WorkerBuilder {
    worker.handler("forever", |_: StepContext| {
        pending::<Result<(), StepError>>()
    })
}

async fn expect_drain(stream: &mut Stream) {
    let heard = stream.hear().await;
    assert!(
        matches!(heard, Some(work_request::Message::Drain(_))),
        "{heard:?}"
    );
}

#[tokio::test]
async fn drain_finishes_running_steps_and_releases_new_ones() {
    let mut server = ScriptedServer::start().await;
    let (go_on, wait) = oneshot::channel::<()>();
    let wait = std::sync::Mutex::new(Some(wait));
    let once = move |_: StepContext| {
        let wait = wait.lock().unwrap().take().unwrap();
        async move {
            wait.await.unwrap();
            Ok("waited")
        }
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = worker(&[&server]).handler("once", once).build().unwrap();
    let ended = tokio::spawn(worker.run_until(async { stopped.await.unwrap() }));
    let (mut stream, _) = server.register("w1").await;
    stream.assign("l1", "once").await;
    stream.assign("l2", "answer").await;
    stream.expect_success("l2").await;

    stop.send(()).unwrap();
    expect_drain(&mut stream).await;
    stream.assign("late", "answer").await;
    assert!(matches!(
        stream.expect_outcome("late").await,
        Outcome::Released(_)
    ));
    go_on.send(()).unwrap();
    assert_eq!(stream.expect_success("l1").await, r#""waited""#);
    for lease in ["l1", "l2", "late"] {
        assert!(!ended.is_finished(), "{lease} is not acknowledged");
        stream.ack(lease, ResultStatus::Accepted).await;
    }
    assert_eq!(stream.hear().await, None, "the worker closes its side");
    drop(stream);
    assert_eq!(soon(ended).await.unwrap().unwrap(), Shutdown::default());
}

#[tokio::test]
async fn drain_survives_a_reconnect() {
    let mut server = ScriptedServer::start().await;
    let handle = worker(&[&server]).build().unwrap().spawn();
    let (mut stream, _) = server.register("w1").await;
    stream.assign("l1", "answer").await;
    stream.expect_success("l1").await;
    let ended = tokio::spawn(handle.shutdown());
    expect_drain(&mut stream).await;
    drop(stream);

    let (mut stream, register) = server.register("w2").await;
    assert_eq!(register.held_leases, ["l1"]);
    expect_drain(&mut stream).await;
    stream.expect_success("l1").await;
    stream.ack("l1", ResultStatus::Accepted).await;
    assert_eq!(soon(ended).await.unwrap().unwrap(), Shutdown::default());
}

#[tokio::test]
async fn drain_ends_at_its_limit() {
    let mut server = ScriptedServer::start().await;
    let worker = with_forever(worker(&[&server])).drain_timeout(Duration::from_millis(100));
    let handle = worker.build().unwrap().spawn();
    let (mut stream, _) = server.register("w1").await;
    stream.assign("l1", "forever").await;
    stream.assign("l2", "answer").await;
    stream.expect_success("l2").await;
    let shutdown = soon(handle.shutdown()).await.unwrap();
    assert_eq!(
        shutdown,
        Shutdown {
            unfinished_steps: 1,
            unacked_results: 1
        }
    );
    stream.gone().await;
}

#[tokio::test]
async fn drain_releases_steps_that_wait_for_a_slot() {
    let mut server = ScriptedServer::start().await;
    let worker = with_forever(worker(&[&server])).max_concurrent_steps(1);
    let handle = worker
        .drain_timeout(Duration::from_millis(300))
        .build()
        .unwrap()
        .spawn();
    let (mut stream, _) = server.register("w1").await;
    stream.assign("l1", "forever").await;
    stream.cancel("l1", CancelReason::TaskCancelled).await;
    stream.assign("l2", "answer").await;
    // The answer to a third assignment shows that the second has arrived.
    stream.assign("l3", "answer").await;
    assert!(matches!(
        stream.expect_outcome("l3").await,
        Outcome::Released(_)
    ));
    stream.ack("l3", ResultStatus::Accepted).await;
    let ended = tokio::spawn(handle.shutdown());
    expect_drain(&mut stream).await;
    assert!(matches!(
        stream.expect_outcome("l2").await,
        Outcome::Released(_)
    ));
    stream.ack("l2", ResultStatus::Accepted).await;
    let shutdown = soon(ended).await.unwrap().unwrap();
    assert_eq!(shutdown.unfinished_steps, 1);
    assert_eq!(shutdown.unacked_results, 0);
}

#[tokio::test]
async fn worker_without_a_server_ends_once_it_has_no_steps() {
    let server = ScriptedServer::start().await;
    let worker = worker(&[&server]).build().unwrap();
    server.stop().await;
    let stop = tokio::time::sleep(Duration::from_millis(50));
    assert_eq!(
        soon(worker.run_until(stop)).await.unwrap(),
        Shutdown::default()
    );
}

#[tokio::test]
async fn dropped_run_ends_the_worker_immediately() {
    let mut server = ScriptedServer::start().await;
    let worker = with_forever(worker(&[&server])).build().unwrap();
    let running = tokio::spawn(worker.run_until(pending()));
    let (mut stream, _) = server.register("w1").await;
    stream.assign("l1", "forever").await;
    running.abort();
    stream.gone().await;
}

#[tokio::test]
async fn dropped_handle_drains_the_worker() {
    let mut server = ScriptedServer::start().await;
    let handle = worker(&[&server]).build().unwrap().spawn();
    let (mut stream, _) = server.register("w1").await;
    assert!(soon(handle.connected()).await);
    drop(handle);
    expect_drain(&mut stream).await;
    assert_eq!(stream.hear().await, None);
}

#[tokio::test]
async fn worker_ends_with_the_runtime_of_its_handlers() {
    let mut server = ScriptedServer::start().await;
    let worker = worker(&[&server]).build().unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let handle = runtime.block_on(async { worker.spawn() });
        stopped.recv().unwrap();
        drop(runtime);
        handle
    });
    let (mut stream, _) = server.register("w1").await;
    stop.send(()).unwrap();
    stream.gone().await;
    let handle = thread.join().unwrap();
    assert_eq!(soon(handle.shutdown()).await.unwrap(), Shutdown::default());
}

#[cfg(unix)]
#[tokio::test]
async fn signal_drains_and_a_second_ends_immediately() {
    let terminate = || kill_process(getpid(), Signal::TERM).unwrap();
    let mut server = ScriptedServer::start().await;
    let worker = with_forever(worker(&[&server])).build().unwrap();
    let ended = tokio::spawn(worker.run());
    let (mut stream, _) = server.register("w1").await;
    stream.assign("l1", "forever").await;
    stream.assign("l2", "answer").await;
    stream.expect_success("l2").await;
    terminate();
    expect_drain(&mut stream).await;
    assert!(!ended.is_finished());
    terminate();
    let shutdown = soon(ended).await.unwrap().unwrap();
    assert_eq!(
        shutdown,
        Shutdown {
            unfinished_steps: 1,
            unacked_results: 1
        }
    );
}
