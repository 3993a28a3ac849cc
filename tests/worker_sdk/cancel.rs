//! Cancels of running steps.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tasker::proto::{self, ResultStatus};
use tasker_worker::{CancelReason, StepContext, StepError};
use tokio::sync::mpsc;

use super::server::{ScriptedServer, soon, worker};

#[tokio::test]
async fn cancelled_step_receives_the_reason_and_sends_no_result() {
    let mut server = ScriptedServer::start().await;
    let (told, mut reasons) = mpsc::unbounded_channel();
    let wait = move |step: StepContext| {
        let told = told.clone();
        async move {
            told.send(None).unwrap();
            step.cancellation_token().cancelled().await;
            told.send(Some((step.cancelled().await, step.cancel_reason())))
                .unwrap();
            Ok("too late")
        }
    };
    let _handle = worker(&[&server])
        .handler("wait", wait)
        .build()
        .unwrap()
        .spawn();
    let (mut stream, _) = server.register("w1").await;
    for (sent, reason) in [
        (
            proto::CancelReason::TaskCancelled,
            CancelReason::TaskCancelled,
        ),
        (proto::CancelReason::TimedOut, CancelReason::TimedOut),
        (proto::CancelReason::LeaseLost, CancelReason::LeaseLost),
        (proto::CancelReason::Unspecified, CancelReason::LeaseLost),
    ] {
        stream.assign("wait", "wait").await;
        assert_eq!(soon(reasons.recv()).await, Some(None));
        stream.cancel("wait", sent).await;
        assert_eq!(
            soon(reasons.recv()).await,
            Some(Some((reason, Some(reason))))
        );
        // The worker's next message is another step's result.
        stream.assign("next", "answer").await;
        assert_eq!(stream.expect_success("next").await, "42");
        stream.ack("next", ResultStatus::Stale).await;
    }
}

/// Counts the running handlers, and the most that ran at once.
#[derive(Default)]
struct Gauge {
    now: AtomicUsize,
    most: AtomicUsize,
}

struct Counted(Arc<Gauge>);

impl Counted {
    fn new(gauge: &Arc<Gauge>) -> Self {
        let now = gauge.now.fetch_add(1, Ordering::SeqCst) + 1;
        gauge.most.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(gauge))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn handler_that_ignores_its_cancellation_is_dropped_and_keeps_its_slot_until_then() {
    let mut server = ScriptedServer::start().await;
    let gauge = Arc::new(Gauge::default());
    let deaf = {
        let gauge = Arc::clone(&gauge);
        move |_: StepContext| {
            let counted = Counted::new(&gauge);
            async move {
                let _counted = counted;
                std::future::pending::<Result<(), StepError>>().await
            }
        }
    };
    let quick = {
        let gauge = Arc::clone(&gauge);
        move |_: StepContext| {
            let _counted = Counted::new(&gauge);
            async { Ok(()) }
        }
    };
    let worker = worker(&[&server])
        .max_concurrent_steps(1)
        .handler("deaf", deaf)
        .handler("quick", quick);
    let _handle = worker.build().unwrap().spawn();
    let (mut stream, _) = server.register("w1").await;
    stream.assign("l1", "deaf").await;
    stream.cancel("l1", proto::CancelReason::TimedOut).await;
    let cancelled = Instant::now();
    stream.assign("l2", "quick").await;
    assert_eq!(stream.expect_success("l2").await, "null");
    assert!(
        cancelled.elapsed() > Duration::from_secs(4),
        "it waits for the slot"
    );
    assert_eq!(gauge.most.load(Ordering::SeqCst), 1);
    assert_eq!(gauge.now.load(Ordering::SeqCst), 0);
}
