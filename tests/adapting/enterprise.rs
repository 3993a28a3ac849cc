//! The seed's case: enterprise customers get more attempts at billing and a longer time-out, and
//! every step gets the plan. By overrides and by a planner, with the same outcome.

use serde_json::{Value, json};
use tasker::proto::{GetTaskResponse, StepAssignment, TaskState, step_result::Outcome};

use crate::{
    play::{Played, play},
    support::{
        server::{Bench, register, state, step},
        worker::{permanent, success},
    },
};

const SEED: &str = include_str!("../fixtures/user_registration.yaml");

const OVERRIDES: &str = r#"
overrides:
  - when: context.plan == "enterprise"
    steps:
      setup_billing_profile:
        retry_limit: 5
        handler_config: {timeout_seconds: 45}
  - when: "true"
    annotations: {plan_type: '${context.plan}'}
"#;

/// The seed's template, with one handler for all steps and the name `t/t`.
fn seed(more: &str) -> String {
    let mut yaml = String::new();
    for line in SEED.lines() {
        yaml += &match line.trim_start().split_once(": ") {
            Some(("handler_class", _)) => "    handler_class: h".to_owned(),
            Some(("task_name", _)) => "task_name: t".to_owned(),
            Some(("namespace", _)) => "namespace: t".to_owned(),
            _ => line.to_owned(),
        };
        yaml.push('\n');
    }
    yaml + more
}

fn context(plan: &str) -> String {
    json!({"email": "ada@example.com", "name": "Ada", "plan": plan}).to_string()
}

/// A planner with the same decisions as the overrides.
fn planned(assignment: &StepAssignment) -> Outcome {
    if assignment.step_name != "planner" {
        return success("1");
    }
    let context: Value = serde_json::from_str(&assignment.context_json).unwrap();
    let mut plan = json!({"annotations": {"plan_type": context["plan"]}});
    if context["plan"] == "enterprise" {
        plan["steps"]["setup_billing_profile"] =
            json!({"retry_limit": 5, "handler_config": {"timeout_seconds": 45}});
    }
    success(&plan.to_string())
}

/// Attempts, time-out, configuration and plan of each step except the planner.
fn settings(played: &Played) -> Vec<(String, i32, i64, Value, Value)> {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let of = |(name, a): (&String, &StepAssignment)| {
        assert_eq!(
            json(&a.annotations_json)["correlation_id"],
            json!(a.correlation_id)
        );
        let seconds = a.timeout.unwrap().seconds;
        (
            name.clone(),
            a.retry_limit,
            seconds,
            json(&a.handler_config_json),
            json(&a.annotations_json)["plan_type"].clone(),
        )
    };
    played
        .given
        .iter()
        .filter(|(name, _)| *name != "planner")
        .map(of)
        .collect()
}

#[tokio::test]
async fn overrides_and_planner_have_the_same_outcome() {
    for (plan, limit, seconds) in [("enterprise", 5, 45), ("free", 3, 30)] {
        let mut by_overrides = Bench::with(&seed(OVERRIDES)).await;
        let overridden = play(&mut by_overrides, &context(plan), |_| success("1")).await;
        let mut by_planner = Bench::with(&seed("planner: p\n")).await;
        let planned = play(&mut by_planner, &context(plan), planned).await;
        for played in [&overridden, &planned] {
            assert_eq!(state(&played.task), TaskState::Complete);
            let billing = step(&played.task, "setup_billing_profile");
            assert_eq!(billing.retry_limit, limit);
            assert_eq!(
                played.given["setup_billing_profile"]
                    .timeout
                    .unwrap()
                    .seconds,
                seconds
            );
        }
        assert_eq!(settings(&overridden), settings(&planned));
        for (_, _, _, _, plan_type) in settings(&overridden) {
            assert_eq!(plan_type, plan);
        }
        let origins = |task: &GetTaskResponse| -> Vec<(String, String)> {
            let origins = &step(task, "setup_billing_profile").origins;
            origins
                .iter()
                .map(|o| (o.setting.clone(), o.origin.clone()))
                .collect()
        };
        let from = |origin: &str| match plan {
            "enterprise" => ["retry_limit", "handler_config.timeout_seconds"]
                .map(|s| (s.into(), origin.into()))
                .to_vec(),
            _ => Vec::new(),
        };
        assert_eq!(origins(&overridden.task), from("overrides[0]"));
        assert_eq!(origins(&planned.task), from("planner"));
    }
}

#[tokio::test]
async fn retry_limit_of_an_override_applies() {
    let mut bench = Bench::with(&seed(OVERRIDES)).await;
    bench.circuits_off().await;
    let yaml = seed(OVERRIDES)
        .replace("2.6.0", "2.7.0")
        .replace("- when: context.plan == \"enterprise\"", "- when: \"true\"");
    register(
        &mut bench.client,
        &yaml.replace(
            "retry_limit: 5\n",
            "retry_limit: 2\n        backoff: {base_seconds: 0.01}\n",
        ),
    )
    .await;
    let played = play(&mut bench, &context("free"), |a| {
        match a.step_name.as_str() {
            "setup_billing_profile" => crate::support::worker::retryable("no", None),
            _ => success("1"),
        }
    })
    .await;
    assert_eq!(state(&played.task), TaskState::Error);
    assert_eq!(step(&played.task, "setup_billing_profile").attempt, 2);
    assert_eq!(played.given["setup_billing_profile"].retry_limit, 2);
}

#[tokio::test]
async fn override_that_fails_to_evaluate_refuses_the_submit() {
    let yaml = "
namespace: t
task_name: t
version: 1.0.0
schema: {type: object, properties: {n: {type: integer}}}
step_templates: [{name: a, handler_class: h}]
overrides: [{when: context.n > 3, priority: 7}]
";
    let mut bench = Bench::with(yaml).await;
    let missing = bench
        .client
        .tasks
        .submit_task(crate::support::server::submission("t/t", "{}"))
        .await
        .unwrap_err();
    assert_eq!(missing.code(), tonic::Code::InvalidArgument);
    let details = tonic_types::StatusExt::get_error_details(&missing);
    let violation = &details.bad_request().unwrap().field_violations[0];
    assert!(
        violation.description.contains("overrides[0]") && violation.description.contains('n'),
        "{violation:?}"
    );
    for (n, priority) in [(3, 0), (4, 7)] {
        let played = play(&mut bench, &format!("{{\"n\":{n}}}"), |_| {
            permanent("enough", "E")
        })
        .await;
        assert_eq!(played.task.task.unwrap().priority, priority);
    }
}
