//! Assignments, results and cancellations on one connection.

use std::time::{Duration, Instant};

use serde::Deserialize;
use tasker::proto::{self, ResultStatus, step_result::Outcome};
use tasker_worker::{Handler, PermanentError, RetryableError, Shutdown, StepContext, StepError};

use super::server::{ScriptedServer, assignment, soon, worker};

#[tokio::test]
async fn step_is_assigned_answered_and_acknowledged() {
    let mut server = ScriptedServer::start().await;
    let handle = worker(&[&server])
        .build_id("b1")
        .namespaces(["user_management"])
        .label("region", "eu")
        .max_concurrent_steps(7)
        .handler("other", |_: StepContext| async { Ok(()) })
        .build()
        .unwrap()
        .spawn();

    let (mut stream, register) = server.register("w1").await;
    assert_eq!(register.name, "test");
    assert_eq!(register.build_id, "b1");
    assert_eq!(register.namespaces, ["user_management"]);
    assert_eq!(register.handlers, ["answer", "other"]);
    assert_eq!(register.max_concurrent_steps, 7);
    assert_eq!(register.labels["region"], "eu");
    assert_eq!(register.previous_worker_id, "");
    assert!(register.held_leases.is_empty());

    assert!(soon(handle.connected()).await);
    assert_eq!(handle.worker_id().as_deref(), Some("w1"));
    stream.assign("l1", "answer").await;
    assert_eq!(stream.expect_success("l1").await, "42");
    stream.ack("l1", ResultStatus::Accepted).await;
    drop(stream);
    let (_, register) = server.register("w2").await;
    assert!(
        register.held_leases.is_empty(),
        "an acknowledged result is forgotten"
    );
    assert_eq!(soon(handle.shutdown()).await.unwrap(), Shutdown::default());
}

#[tokio::test]
async fn handler_receives_context_results_and_config() {
    #[derive(Deserialize)]
    struct Input {
        plan: String,
        big: serde_json::Number,
    }
    #[derive(Deserialize)]
    struct Account {
        user_id: u64,
    }
    #[derive(Deserialize)]
    struct Config {
        timeout_seconds: u64,
    }

    let mut server = ScriptedServer::start().await;
    let inspect = |step: StepContext| async move {
        let input: Input = step.context()?;
        assert_eq!(
            (input.plan.as_str(), input.big.as_str()),
            ("pro", "12345678901234567890123")
        );
        assert_eq!(step.result_of::<Account>("create_user_account")?.user_id, 7);
        assert_eq!(step.results().len(), 1);
        assert_eq!(step.handler_config::<Config>()?.timeout_seconds, 30);
        assert_eq!(step.annotations_json(), r#"{"plan_type":"pro"}"#);
        let names = [
            step.task_id(),
            step.namespace(),
            step.task_name(),
            step.version(),
            step.step_name(),
        ];
        let expected = [
            "task-1",
            "user_management",
            "user_registration",
            "2.6.0",
            "setup_billing_profile",
        ];
        assert_eq!(names, expected);
        assert_eq!(
            (step.handler(), step.service()),
            ("inspect", "billing_service")
        );
        assert_eq!(
            (step.attempt(), step.retry_limit(), step.charged_attempts()),
            (3, 5, 1)
        );
        assert_eq!((step.correlation_id(), step.traceparent()), ("reg_1", None));
        assert_eq!(step.idempotency_key(), "task-1/setup_billing_profile");
        let left = step.deadline() - Instant::now();
        assert!(left > Duration::from_secs(20) && left <= Duration::from_secs(30));
        assert_eq!((step.is_cancelled(), step.cancel_reason()), (false, None));
        Ok("fine")
    };
    let _handle = worker(&[&server])
        .handler("inspect", inspect)
        .build()
        .unwrap()
        .spawn();
    let (mut stream, _) = server.register("w1").await;
    stream.assign("l1", "inspect").await;
    assert_eq!(stream.expect_success("l1").await, r#""fine""#);
}

struct Failing(&'static str);

impl Handler for Failing {
    type Output = ();

    async fn handle(&self, step: StepContext) -> Result<(), StepError> {
        match self.0 {
            "context" => step.context::<Vec<u8>>().map(drop),
            "config" => step.handler_config::<Vec<u8>>().map(drop),
            "missing" => step.result_of::<u8>("nobody").map(drop),
            "invalid" => step.result_of::<u8>("create_user_account").map(drop),
            "permanent" => Err(PermanentError::new("no").error_code("NO").context([1]))?,
            "panic" => panic!("over {}", "board"),
            "released" => Err(StepError::Released),
            _ => Err(RetryableError::new("busy").retry_after(Duration::from_millis(1_500)))?,
        }
    }
}

#[tokio::test]
async fn failure_of_each_kind_has_its_outcome() {
    let mut server = ScriptedServer::start().await;
    let kinds = [
        "context",
        "config",
        "missing",
        "invalid",
        "permanent",
        "panic",
        "released",
        "retryable",
    ];
    let worker = kinds.iter().fold(worker(&[&server]), |worker, kind| {
        worker.handler(*kind, Failing(kind))
    });
    let _handle = worker.build().unwrap().spawn();
    let (mut stream, _) = server.register("w1").await;
    for (kind, expected) in [
        ("context", ("permanent", "CONTEXT_INVALID")),
        ("config", ("permanent", "HANDLER_CONFIG_INVALID")),
        ("missing", ("permanent", "RESULT_MISSING")),
        ("invalid", ("permanent", "RESULT_INVALID")),
        ("permanent", ("permanent", "NO")),
        ("panic", ("retryable", "HANDLER_PANIC")),
        ("released", ("released", "")),
        ("retryable", ("retryable", "")),
    ] {
        stream.assign(kind, kind).await;
        let outcome = stream.expect_outcome(kind).await;
        let found = match &outcome {
            Outcome::Success(_) => ("success", ""),
            Outcome::RetryableError(error) => ("retryable", error.error_code.as_str()),
            Outcome::PermanentError(error) => ("permanent", error.error_code.as_str()),
            Outcome::Released(_) => ("released", ""),
        };
        assert_eq!(found, expected, "{kind}: {outcome:?}");
        match outcome {
            Outcome::RetryableError(error) if kind == "panic" => {
                assert_eq!(error.message, "the handler panicked: over board");
            }
            Outcome::RetryableError(error) => {
                let delay = error.retry_after.unwrap();
                assert_eq!((delay.seconds, delay.nanos), (1, 500_000_000));
            }
            Outcome::PermanentError(error) if kind == "permanent" => {
                assert_eq!(error.context_json, r#"{"value":[1]}"#);
            }
            _ => {}
        }
        stream.ack(kind, ResultStatus::Accepted).await;
    }
}

#[tokio::test]
async fn step_that_cannot_start_is_released() {
    let mut server = ScriptedServer::start().await;
    let wait = |step: StepContext| async move {
        step.cancelled().await;
        Ok(())
    };
    let worker = worker(&[&server])
        .max_concurrent_steps(1)
        .handler("wait", wait);
    let _handle = worker.build().unwrap().spawn();
    let (mut stream, _) = server.register("w1").await;

    stream.assign("unknown", "nobody").await;
    assert!(matches!(
        stream.expect_outcome("unknown").await,
        Outcome::Released(_)
    ));
    stream.ack("unknown", ResultStatus::Accepted).await;

    stream.assign("first", "wait").await;
    stream.assign("too many", "answer").await;
    assert!(matches!(
        stream.expect_outcome("too many").await,
        Outcome::Released(_)
    ));
    stream.ack("too many", ResultStatus::Accepted).await;

    // The same lease again is the same attempt.
    stream.assign("first", "answer").await;
    stream
        .cancel("first", proto::CancelReason::TaskCancelled)
        .await;
    stream.assign("last", "answer").await;
    assert_eq!(stream.expect_success("last").await, "42");
}

#[tokio::test]
async fn unacknowledged_results_are_bounded() {
    let mut server = ScriptedServer::start().await;
    let _handle = worker(&[&server])
        .max_concurrent_steps(1)
        .build()
        .unwrap()
        .spawn();
    let (mut stream, _) = server.register("w1").await;
    // Twice `max_concurrent_steps`, plus 16.
    for lease in 0..18 {
        let lease = lease.to_string();
        stream.assign(&lease, "answer").await;
        stream.expect_success(&lease).await;
    }
    stream.assign("one too many", "answer").await;
    stream.gone().await;
    let (_stream, register) = server.register("w2").await;
    assert_eq!(register.held_leases.len(), 18);
}

#[tokio::test]
async fn assignment_over_the_default_message_size_is_accepted() {
    let mut server = ScriptedServer::start().await;
    let size = |step: StepContext| async move { Ok(step.results()["big"].len()) };
    let _handle = worker(&[&server])
        .handler("size", size)
        .build()
        .unwrap()
        .spawn();
    let (mut stream, _) = server.register("w1").await;
    let mut large = assignment("l1", "size");
    large
        .results_json
        .insert("big".into(), format!("\"{}\"", "x".repeat(10 << 20)));
    stream
        .say(proto::work_response::Message::Assignment(large))
        .await;
    assert_eq!(
        stream.expect_success("l1").await,
        ((10 << 20) + 2).to_string()
    );
}
