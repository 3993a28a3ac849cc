//! Decisions rest on existing verdicts; an input that lacks one changes nothing and is queued
//! again.

use tasker_template::Budget;

use super::*;
use crate::{
    engine::{cache::payloads::Payloads, decide::evaluation::MAX_ROUNDS},
    store::pipeline::TaskInput,
};

/// `d` waits for `b` and `c` and reads their results; `e` follows if `d` is skipped.
const CONDITIONS: &str = "
task_name: t
version: 1.0.0
step_templates:
  - {name: a, handler_class: h}
  - {name: b, handler_class: h, depends_on_steps: [a], result_schema: {type: integer}}
  - {name: c, handler_class: h, depends_on_steps: [a]}
  - {name: d, handler_class: h, depends_on_steps: [b, c], when: results.b == results.c}
  - {name: e, handler_class: h, depends_on_steps: [d], when: context.n == 1}
";

const PLANNED: &str = "
task_name: t
version: 1.0.0
planner: p
step_templates:
  - {name: a, handler_class: h, when: task.priority == 5}
  - {name: b, handler_class: h}
";

fn known(results: &[(i16, &str)]) -> Payloads {
    let input = TaskInput {
        task_id: TASK,
        correlation_id: String::new(),
        traceparent: None,
        annotations: "{}".into(),
        context: r#"{"n":1}"#.into(),
        settings: None,
        revision: 0,
    };
    let results = results
        .iter()
        .map(|(step, json)| ((TASK, *step), std::sync::Arc::from(*json)));
    Payloads {
        tasks: HashMap::from_iter([(TASK, std::sync::Arc::new(input))]),
        results: results.collect(),
    }
}

/// The input after its evaluation.
fn judged(mut pending: PendingInput, ask: &EvaluationRequest, known: &Payloads) -> PendingInput {
    pending.verdicts = ask.judge(pending.result(), known, &Budget::new());
    pending.rounds += 1;
    pending
}

fn says(step: i16, json: &str) -> PendingInput {
    result(step, Outcome::Succeeded(json.into()))
}

fn unlocked(verdict: &Verdict) -> Vec<(i16, &str)> {
    let runs = verdict
        .changes
        .new_live
        .iter()
        .map(|live| (live.step, "runs"));
    let set = verdict
        .changes
        .set_steps
        .iter()
        .map(|set| (set.step, set.state.as_str()));
    runs.chain(set).collect()
}

#[test]
fn input_without_its_verdict_is_deferred_and_the_batch_continues() {
    let case = Case::of(CONDITIONS, &[0], &[1, 2]);
    let verdict = case.decide(&[says(1, "7"), done(2)]);
    assert_eq!(
        (verdict.acks.len(), verdict.changes.ended.len()),
        (1, 1),
        "only c ended"
    );
    assert_eq!(verdict.changes.ended[0].step, 2);
    // The first input of the batch: `c` was not done yet when it was taken.
    let ask = &verdict.evaluations[&0];
    assert!(!ask.row.progress.done.contains(2));
    let case = Case::of(CONDITIONS, &[0, 2], &[1]);
    let b = judged(says(1, "7"), ask, &known(&[(2, "1")]));
    assert!(
        case.decide(&[b]).evaluations.contains_key(&0),
        "what it unlocks now was not judged"
    );
}

#[test]
fn parents_that_end_in_one_batch_defer_the_condition_of_their_child() {
    let mut case = Case::of(CONDITIONS, &[0], &[1, 2]);
    let (b, c) = (says(1, "7"), says(2, "7"));
    let evaluations = case.decide(&[says(1, "7")]).evaluations;
    let b = judged(b, &evaluations[&0], &known(&[]));
    let verdict = case.decide(&[b, c]);
    assert_eq!(
        verdict
            .changes
            .ended
            .iter()
            .map(|e| e.step)
            .collect::<Vec<_>>(),
        [1]
    );
    let ask = &verdict.evaluations[&1];
    assert_eq!(
        ask.wanted().results,
        [(TASK, 1)],
        "its own result is at hand"
    );
    let c = judged(says(2, "7"), ask, &known(&[(1, "7")]));
    case.read.tasks[0].progress = ask.row.progress.clone();
    case.read.live.remove(0);
    let verdict = case.decide(&[c]);
    assert!(verdict.evaluations.is_empty());
    assert_eq!(unlocked(&verdict), [(3, "runs")]);
}

#[test]
fn conditions_of_a_skipped_chain_are_evaluated_ahead() {
    let case = Case::of(CONDITIONS, &[0, 1], &[2]);
    let ask = &case.decide(&[says(2, "8")]).evaluations[&0];
    assert_eq!(
        (ask.wanted().tasks, ask.wanted().results),
        (vec![(TASK, 0)], vec![(TASK, 1)])
    );
    let c = judged(says(2, "8"), ask, &known(&[(1, "7")]));
    let verdict = case.decide(&[c]);
    assert_eq!(unlocked(&verdict), [(4, "runs"), (3, "skipped")]);
}

#[test]
fn verdict_on_another_state_of_the_task_is_ignored() {
    let mut case = Case::of(CONDITIONS, &[0, 1], &[2]);
    let ask = case.decide(&[says(2, "7")]).evaluations.remove(&0).unwrap();
    let c = || judged(says(2, "7"), &ask, &known(&[(1, "7")]));
    case.read.tasks[0].priority = 3;
    assert!(
        case.decide(&[c()]).evaluations.contains_key(&0),
        "its conditions may read the priority"
    );
    case.read.tasks[0].priority = 0;
    case.read.tasks[0].settings = Some("[]".into());
    assert!(case.decide(&[c()]).evaluations.contains_key(&0));
    case.read.tasks[0].settings = None;
    assert!(case.decide(&[c()]).evaluations.is_empty());
}

#[test]
fn input_overtaken_too_often_is_not_evaluated_again() {
    let case = Case::of(CONDITIONS, &[0, 1], &[2]);
    let at = |rounds| PendingInput {
        rounds,
        ..says(2, "7")
    };
    assert!(
        case.decide(&[at(MAX_ROUNDS - 1)])
            .evaluations
            .contains_key(&0)
    );
    let verdict = case.decide(&[at(MAX_ROUNDS)]);
    assert_eq!(unlocked(&verdict), [(3, "error")]);
    let failure = verdict.changes.set_steps[0].failure.as_ref().unwrap();
    assert_eq!(failure.code, "CONDITION_FAILED");
}

#[test]
fn result_that_violates_its_schema_fails_the_step() {
    let case = Case::of(CONDITIONS, &[0, 2], &[1]);
    let ask = &case.decide(&[says(1, "\"x\"")]).evaluations[&0];
    let verdict = case.decide(&[judged(says(1, "\"x\""), ask, &known(&[(2, "1")]))]);
    assert_eq!(
        (verdict.events(), unlocked(&verdict)),
        (vec!["step.failed", "task.failed"], vec![])
    );
    assert_eq!(
        verdict.changes.ended[0].failure.as_ref().unwrap().code,
        "OUTPUT_INVALID"
    );
}

#[test]
fn manual_result_is_validated_like_that_of_a_worker() {
    let resolve = |result: &str| {
        order(
            TASK,
            Order::ResolveStep {
                step: "b".into(),
                result: result.into(),
            },
        )
    };
    let mut case = Case::of(CONDITIONS, &[0, 2], &[1]);
    case.read.live[0].state = StepState::WaitingForRetry;
    case.read.live[0].lease = None;
    let evaluations = case.decide(&[resolve("\"x\"")]).evaluations;
    let verdict = case.decide(&[judged(
        resolve("\"x\""),
        &evaluations[&0],
        &known(&[(2, "1")]),
    )]);
    assert!(verdict.is_silent());
    let OrderError::Unfit { violations, .. } = &verdict.refused[&0] else {
        panic!("{:?}", verdict.refused)
    };
    assert_eq!(violations.len(), 1);
    let evaluations = case.decide(&[resolve("1")]).evaluations;
    let verdict = case.decide(&[judged(resolve("1"), &evaluations[&0], &known(&[(2, "1")]))]);
    assert!(verdict.refused.is_empty(), "{:?}", verdict.refused);
    assert_eq!(unlocked(&verdict), [(3, "runs"), (1, "resolved_manually")]);
}

#[test]
fn plan_applies_to_later_conditions_also_if_set_by_hand() {
    let answer = r#"{"priority": 5, "steps": {"b": {"skip": true}}}"#;
    let by_worker = Case::of(PLANNED, &[], &[0]);
    let ask = &by_worker.decide(&[says(0, answer)]).evaluations[&0];
    let verdict = by_worker.decide(&[judged(says(0, answer), ask, &known(&[]))]);
    assert_eq!(unlocked(&verdict), [(1, "runs"), (2, "skipped")]);
    assert_eq!(
        (
            verdict.changes.planned.len(),
            verdict.changes.planned[0].priority
        ),
        (1, 5)
    );
    let resolve = |result: &str| {
        order(
            TASK,
            Order::ResolveStep {
                step: "planner".into(),
                result: result.into(),
            },
        )
    };
    let mut by_hand = Case::of(PLANNED, &[], &[0]);
    (by_hand.read.live[0].state, by_hand.read.live[0].lease) = (StepState::WaitingForRetry, None);
    let ask = by_hand
        .decide(&[resolve(answer)])
        .evaluations
        .remove(&0)
        .unwrap();
    let verdict = by_hand.decide(&[judged(resolve(answer), &ask, &known(&[]))]);
    assert_eq!(
        (verdict.changes.planned.len(), unlocked(&verdict).len()),
        (1, 3)
    );
    let senseless = judged(resolve(r#"{"steps": {"x": {}}}"#), &ask, &known(&[]));
    let OrderError::Unfit { violations, .. } = &by_hand.decide(&[senseless]).refused[&0] else {
        panic!()
    };
    assert_eq!(violations[0].pointer, "/steps/x");
}

#[test]
fn input_over_its_budget_fails_with_a_code() {
    let case = Case::of(CONDITIONS, &[0, 1], &[2]);
    let ask = &case.decide(&[says(2, "7")]).evaluations[&0];
    let mut c = says(2, "7");
    c.verdicts = ask.judge(c.result(), &known(&[(1, "7")]), &Budget::of(0));
    assert!(c.verdicts.is_over_budget());
    let verdict = case.decide(&[c]);
    assert_eq!(
        verdict.changes.set_steps[0].failure.as_ref().unwrap().code,
        "TOO_COSTLY"
    );
}
