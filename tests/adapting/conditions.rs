//! Steps with conditions: diamonds, chains, and the inputs of their children.

use tasker::proto::{StepState as S, TaskState};

use crate::{
    play::{Played, play},
    support::{
        server::{Bench, state, step},
        worker::{permanent, success},
    },
};

const HEAD: &str = "
namespace: t
task_name: t
version: 1.0.0
schema: {type: object, properties: {n: {type: integer}}, required: [n]}
step_templates:
";

async fn bench(steps: &str) -> Bench {
    Bench::with(&format!("{HEAD}{steps}")).await
}

/// `a` decides, and either `b` or `c` runs before `d`.
const DIAMOND: &str = "
- {name: a, handler_class: h}
- {name: b, handler_class: h, depends_on_steps: [a], when: results.a.way == \"left\"}
- {name: c, handler_class: h, depends_on_steps: [a], when: results.a.way != \"left\"}
- {name: d, handler_class: h, depends_on_steps: [b, c]}
";

async fn diamond(way: &str) -> Played {
    let way = format!("{{\"way\":\"{way}\"}}");
    play(&mut bench(DIAMOND).await, "{\"n\":1}", |a| {
        success(if a.step_name == "a" { &way } else { "7" })
    })
    .await
}

#[tokio::test]
async fn condition_on_the_result_of_a_step_chooses_the_branch() {
    for (way, ran, states) in [
        (
            "left",
            ["a", "b", "d"],
            [S::Complete, S::Complete, S::Skipped, S::Complete],
        ),
        (
            "right",
            ["a", "c", "d"],
            [S::Complete, S::Skipped, S::Complete, S::Complete],
        ),
    ] {
        let played = diamond(way).await;
        assert_eq!(state(&played.task), TaskState::Complete);
        assert_eq!(
            (played.ran(), played.states()),
            (ran.to_vec(), states.to_vec())
        );
        let d = &played.given["d"].results_json;
        let seen = [d["b"].as_str(), d["c"].as_str()];
        assert_eq!(
            seen,
            if way == "left" {
                ["7", "null"]
            } else {
                ["null", "7"]
            },
            "a skipped parent's result is null"
        );
        let skipped = step(&played.task, if way == "left" { "c" } else { "b" });
        assert_eq!(
            (
                skipped.set_by.as_str(),
                skipped.attempt,
                skipped.result_json.as_str()
            ),
            ("condition", 0, "")
        );
    }
}

#[tokio::test]
async fn chain_of_skipped_steps_is_passed_in_one_transaction() {
    let chain = "
- {name: a, handler_class: h}
- {name: b, handler_class: h, depends_on_steps: [a], when: context.n > 1}
- {name: c, handler_class: h, depends_on_steps: [b], when: results.b != null}
- {name: d, handler_class: h, depends_on_steps: [c], when: context.n > 1}
";
    let played = play(&mut bench(chain).await, "{\"n\":1}", |_| success("1")).await;
    assert_eq!(
        (state(&played.task), played.ran()),
        (TaskState::Complete, vec!["a"])
    );
    assert_eq!(
        played.states(),
        [S::Complete, S::Skipped, S::Skipped, S::Skipped]
    );
    let played = play(&mut bench(chain).await, "{\"n\":2}", |_| success("1")).await;
    assert_eq!(played.states(), [S::Complete; 4]);
}

#[tokio::test]
async fn task_with_all_steps_skipped_is_complete_at_its_submit() {
    let roots = "
- {name: a, handler_class: h, when: context.n > 1}
- {name: b, handler_class: h, depends_on_steps: [a], when: context.n > 2}
";
    for (n, ran, states) in [
        (1, vec![], [S::Skipped, S::Skipped]),
        (2, vec!["a"], [S::Complete, S::Skipped]),
        (3, vec!["a", "b"], [S::Complete; 2]),
    ] {
        let played = play(&mut bench(roots).await, &format!("{{\"n\":{n}}}"), |_| {
            success("1")
        })
        .await;
        assert_eq!(
            (state(&played.task), played.ran(), played.states()),
            (TaskState::Complete, ran, states.to_vec())
        );
        assert!(played.task.task.unwrap().ended_at.is_some());
    }
}

#[tokio::test]
async fn skipped_root_unlocks_its_children() {
    let steps = "
- {name: a, handler_class: h, when: context.n > 1}
- {name: b, handler_class: h, depends_on_steps: [a]}
";
    let played = play(&mut bench(steps).await, "{\"n\":1}", |_| success("1")).await;
    assert_eq!(
        (state(&played.task), played.ran()),
        (TaskState::Complete, vec!["b"])
    );
}

#[tokio::test]
async fn failure_in_a_branch_fails_the_task_after_the_other_branch() {
    let nested = "
- {name: a, handler_class: h}
- {name: b, handler_class: h, depends_on_steps: [a], when: context.n == 1}
- {name: c, handler_class: h, depends_on_steps: [b], when: results.b == 1}
- {name: d, handler_class: h, depends_on_steps: [a], when: context.n != 1}
- {name: e, handler_class: h, depends_on_steps: [c, d]}
";
    let played = play(&mut bench(nested).await, "{\"n\":1}", |a| {
        match a.step_name.as_str() {
            "c" => permanent("no", "NO"),
            _ => success("1"),
        }
    })
    .await;
    assert_eq!(state(&played.task), TaskState::Error);
    assert_eq!(
        played.states(),
        [S::Complete, S::Complete, S::Error, S::Skipped, S::Pending]
    );
    assert_eq!(played.task.task.unwrap().failed_step, "c");
}

#[tokio::test]
async fn condition_that_fails_to_evaluate_fails_its_step() {
    let played = play(&mut bench(DIAMOND).await, "{\"n\":1}", |_| success("{}")).await;
    assert_eq!(state(&played.task), TaskState::Error);
    let b = step(&played.task, "b");
    let error = b.error.as_ref().unwrap();
    assert_eq!(
        (b.state(), error.error_code.as_str()),
        (S::Error, "CONDITION_FAILED")
    );
    assert!(error.message.contains("way"), "{error:?}");
    assert_eq!(played.ran(), ["a"]);
}

#[tokio::test]
async fn step_skipped_by_an_override_is_skipped_at_any_place() {
    let steps = "
- {name: a, handler_class: h}
- {name: b, handler_class: h, depends_on_steps: [a]}
- {name: c, handler_class: h, depends_on_steps: [b]}
overrides:
- when: context.n > 1
  steps: {b: {skip: true}}
- when: context.n > 2
  steps: {a: {skip: true}}
";
    for (n, ran) in [
        (1, vec!["a", "b", "c"]),
        (2, vec!["a", "c"]),
        (3, vec!["c"]),
    ] {
        let played = play(&mut bench(steps).await, &format!("{{\"n\":{n}}}"), |_| {
            success("1")
        })
        .await;
        assert_eq!(
            (state(&played.task), played.ran()),
            (TaskState::Complete, ran)
        );
    }
}
