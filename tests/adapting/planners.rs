//! Planners: their inputs, their permitted answers, and the task's state when they fail.

use serde_json::{Value, json};
use tasker::proto::{StepState as S, TaskState};
use tasker_worker::{Plan, StepContext, StepError, Worker};

use crate::{
    play::play,
    support::{
        server::{Bench, state, step},
        worker::{permanent, retryable, success},
    },
};

const PLANNED: &str = "
namespace: t
task_name: t
version: 1.0.0
planner: {handler: p, default_retry_limit: 2, backoff: {base_seconds: 0.01}}
step_templates:
- {name: a, handler_class: h, handler_config: {deep: {x: 1}}}
- {name: b, handler_class: h, depends_on_steps: [a]}
";

#[tokio::test]
async fn planner_receives_the_steps_and_its_answer_applies() {
    let mut bench = Bench::with(PLANNED).await;
    let plan = json!({
        "steps": {"a": {"handler_config": {"deep": {"y": 2}}, "annotations": {"n": 1}}, "b": {"skip": true}},
        "annotations": {"team": "blue", "correlation_id": "another"},
        "priority": 9,
    });
    let played = play(&mut bench, "{}", |a| {
        success(&if a.step_name == "planner" {
            plan.to_string()
        } else {
            "1".into()
        })
    })
    .await;
    assert_eq!(state(&played.task), TaskState::Complete);
    assert_eq!(
        (played.ran(), played.states()),
        (
            vec!["a", "planner"],
            vec![S::Complete, S::Complete, S::Skipped]
        )
    );
    assert_eq!(played.task.task.as_ref().unwrap().priority, 9);

    let asked: Value = serde_json::from_str(&played.given["planner"].planned_steps_json).unwrap();
    assert_eq!(
        (&asked[0]["name"], &asked[1]["depends_on_steps"]),
        (&json!("a"), &json!(["a"]))
    );
    assert_eq!(
        (&asked[0]["depends_on_steps"], &asked[0]["retry_limit"]),
        (&json!([]), &json!(3))
    );
    let a = &played.given["a"];
    assert_eq!(a.planned_steps_json, "");
    assert!(
        a.results_json.is_empty(),
        "a plan is nobody's input: {:?}",
        a.results_json
    );
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    assert_eq!(
        json(&a.handler_config_json),
        json!({"deep": {"x": 1, "y": 2}})
    );
    let notes = json(&a.annotations_json);
    assert_eq!((&notes["team"], &notes["n"]), (&json!("blue"), &json!(1)));
    let task = played.task.task.unwrap();
    let notes = json(&task.annotations_json);
    assert_eq!(
        (&notes["team"], &notes["correlation_id"]),
        (&json!("blue"), &json!(task.correlation_id)),
        "a planner does not change the id that a task is found by"
    );
}

#[tokio::test]
async fn invalid_answer_of_a_planner_fails_the_task_with_the_reason() {
    for (answer, named) in [
        (r#"{"steps":{"nobody":{}}}"#, "nobody"),
        (r#"{"steps":{"a":{"retry_limit":-1}}}"#, "retry_limit"),
        (
            r#"{"steps":{"a":{"handler_config":{"service":"other"}}}}"#,
            "service",
        ),
        (r#"{"steps":{"a":{"colour":1}}}"#, "colour"),
        (r#"{"priority":101}"#, "priority"),
        ("[]", "mapping"),
        ("7", "mapping"),
    ] {
        let mut bench = Bench::with(PLANNED).await;
        let played = play(&mut bench, "{}", |_| success(answer)).await;
        assert_eq!(
            (state(&played.task), played.ran()),
            (TaskState::Error, vec!["planner"]),
            "{answer}"
        );
        let error = played.task.task.unwrap().error.unwrap();
        assert_eq!(error.error_code, "PLAN_INVALID");
        assert!(error.message.contains(named), "{answer}: {}", error.message);
    }
}

#[tokio::test]
async fn planner_is_retried_and_fails_like_a_step() {
    let mut bench = Bench::with(PLANNED).await;
    bench.circuits_off().await;
    let played = play(&mut bench, "{}", |a| {
        match (a.step_name.as_str(), a.attempt) {
            ("planner", 1) => retryable("busy", None),
            ("planner", _) => success("{}"),
            _ => success("1"),
        }
    })
    .await;
    assert_eq!(
        (state(&played.task), step(&played.task, "planner").attempt),
        (TaskState::Complete, 2)
    );
    let played = play(&mut bench, "{}", |_| retryable("busy", None)).await;
    assert_eq!(
        (state(&played.task), step(&played.task, "planner").attempt),
        (TaskState::Error, 2)
    );
    let played = play(&mut bench, "{}", |_| permanent("no plan", "NO_PLAN")).await;
    assert_eq!(played.ran(), ["planner"]);
    assert_eq!(
        played.task.task.unwrap().error.unwrap().error_code,
        "NO_PLAN"
    );
}

/// A planner is one function of the SDK.
async fn plan(task: StepContext) -> Result<Plan, StepError> {
    let mut plan = Plan::new().priority(3);
    for step in task.planned_steps()? {
        plan.step(&step.name).retry_limit(step.retry_limit + 1);
    }
    plan.step("b").skip();
    Ok(plan)
}

#[tokio::test]
async fn planner_of_the_sdk_returns_a_plan() {
    let mut bench = Bench::with(PLANNED).await;
    let worker = Worker::builder([&bench.server.url])
        .handler("p", plan)
        .handler(
            "h",
            |step: StepContext| async move { Ok(step.retry_limit()) },
        )
        .build()
        .unwrap()
        .spawn();
    let id = bench.submit("t/t", "{}").await;
    let task = bench.finished(&id).await;
    assert_eq!(
        (state(&task), task.task.as_ref().unwrap().priority),
        (TaskState::Complete, 3)
    );
    assert_eq!(
        (
            step(&task, "a").result_json.as_str(),
            step(&task, "b").state()
        ),
        ("4", S::Skipped)
    );
    worker.shutdown().await.unwrap();
}
