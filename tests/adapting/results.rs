//! Results that must fit a schema.

use serde_json::{Value, json};
use tasker::proto::{StepState as S, TaskState};

use crate::{
    play::play,
    support::{
        server::{Bench, state, step},
        worker::success,
    },
};

#[tokio::test]
async fn result_that_violates_its_schema_is_a_permanent_error_with_pointers() {
    let mut bench = Bench::with(
        "
namespace: t
task_name: t
version: 1.0.0
step_templates:
- name: a
  handler_class: h
  default_retry_limit: 5
  result_schema: {type: object, required: [id], properties: {id: {type: integer}, tags: {type: array, items: {type: string}}}}
- {name: b, handler_class: h, depends_on_steps: [a], result_schema: {type: [integer, 'null']}}
",
    )
    .await;
    let played = play(&mut bench, "{}", |a| {
        success(if a.step_name == "a" {
            r#"{"id":1,"tags":[]}"#
        } else {
            "null"
        })
    })
    .await;
    assert_eq!(state(&played.task), TaskState::Complete);

    let played = play(&mut bench, "{}", |_| {
        success(r#"{"id":"x","tags":["a",2]}"#)
    })
    .await;
    assert_eq!(
        (state(&played.task), played.states()),
        (TaskState::Error, vec![S::Error, S::Pending])
    );
    let a = step(&played.task, "a");
    assert_eq!(a.attempt, 1, "another try would bring the same");
    let error = a.error.as_ref().unwrap();
    assert_eq!(error.error_code, "OUTPUT_INVALID");
    let context: Value = serde_json::from_str(&error.context_json).unwrap();
    let pointers: Vec<&Value> = context["violations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| &v["pointer"])
        .collect();
    assert_eq!(pointers, [&json!("/id"), &json!("/tags/1")]);

    let played = play(&mut bench, "{}", |a| {
        success(if a.step_name == "a" {
            r#"{"id":1}"#
        } else {
            "1.5"
        })
    })
    .await;
    assert_eq!(
        step(&played.task, "b").error.as_ref().unwrap().error_code,
        "OUTPUT_INVALID"
    );
}
