//! Operator commands: their effects on a task, and their refusals.

use super::*;

#[test]
fn cancel_precedes_a_result_of_the_same_batch() {
    let mut case = Case::new(&[0], &[1, 2]);
    (case.read.live[1].lease, case.read.live[1].worker_id) = (None, None);
    (case.read.live[1].started_at, case.read.live[1].deadline_at) = (None, None);
    let verdict = case.decide(&[done(1), cancel(), cancel()]);
    assert_eq!(verdict.acks(), [false]);
    assert!(
        verdict.refused.is_empty(),
        "a second cancel is as good as the first"
    );
    assert_eq!(verdict.cancelled, [(lease(1), CancelReason::TaskCancelled)]);
    let states: Vec<_> = verdict
        .changes
        .ended
        .iter()
        .map(|e| (e.step, e.state, e.charged))
        .collect();
    assert_eq!(
        states,
        [(1, StepState::Cancelled, 0), (2, StepState::Cancelled, 0)]
    );
    assert_eq!(
        verdict.events(),
        ["step.cancelled", "step.cancelled", "task.cancelled"]
    );
    let ended: Vec<_> = verdict.changes.events.iter().map(|e| e.outcome).collect();
    assert_eq!(
        ended,
        [Some(OutcomeKind::Cancelled), None, None],
        "only what ran is an attempt"
    );
    let cancelled: Vec<_> = verdict
        .changes
        .tasks
        .iter()
        .map(|t| (t.task_id, t.state))
        .collect();
    assert_eq!(cancelled, [(TASK, TaskState::Cancelled)]);
}

#[test]
fn cancel_of_an_ended_task_is_refused() {
    let mut case = Case::new(&[], &[]);
    case.read.tasks[0].progress.state = TaskState::Complete;
    let unknown = Uuid::from_u128(9);
    let verdict = case.decide(&[cancel(), order(unknown, Order::Cancel)]);
    assert!(verdict.is_silent());
    assert_eq!(
        verdict.refused[&0],
        OrderError::TaskIs {
            state: TaskState::Complete,
            verb: "cancelled"
        }
    );
    assert_eq!(verdict.refused[&1], OrderError::NotFound(unknown));
}

/// `a` is complete, `b` failed and `c` is complete: the task failed.
fn failed_case() -> Case {
    let mut case = Case::new(&[0, 2], &[]);
    let progress = &mut case.read.tasks[0].progress;
    (progress.state, progress.live, progress.failed_step) = (TaskState::Error, 0, Some(1));
    let ended = |step, state| EndedRow {
        task_id: TASK,
        step,
        state,
        attempt: 2,
        charged: 2,
        ready_at: at(NOW / 4),
        started_at: Some(at(NOW / 2)),
        result: None,
        failure: None,
    };
    case.read.ended = vec![
        ended(0, StepState::Complete),
        ended(1, StepState::Error),
        ended(2, StepState::Complete),
    ];
    case
}

#[test]
fn retry_reopens_the_failed_step_and_its_descendants() {
    for (fresh, charged) in [(false, 2), (true, 0)] {
        let verdict = failed_case().decide(&[order(TASK, Order::Retry { step: None, fresh })]);
        assert!(verdict.refused.is_empty(), "{:?}", verdict.refused);
        let [live] = &verdict.changes.new_live[..] else {
            panic!("{:?}", verdict.changes.new_live)
        };
        assert_eq!(
            (live.step, live.past),
            (
                1,
                Some(Past {
                    attempt: 2,
                    charged
                })
            )
        );
        assert_eq!(verdict.changes.reopened, [(TASK, 1)]);
        let task = &verdict.changes.tasks[0];
        assert_eq!(
            (task.state, task.steps_live, task.failed_step),
            (TaskState::InProgress, 1, None)
        );
        assert_eq!(verdict.events(), ["task.reopened", "step.reopened"]);
    }
}

#[test]
fn resolved_or_skipped_step_lets_the_task_end() {
    let resolve = Order::ResolveStep {
        step: "b".into(),
        result: "1".into(),
    };
    for (told, state, event) in [
        (resolve, StepState::ResolvedManually, "step.resolved"),
        (
            Order::Skip { step: "b".into() },
            StepState::Skipped,
            "step.skipped",
        ),
    ] {
        let verdict = failed_case().decide(&[order(TASK, told)]);
        let [set] = &verdict.changes.set_steps[..] else {
            panic!()
        };
        assert_eq!(
            (set.step, set.state, set.in_queue, set.attempt),
            (1, state, false, 2)
        );
        assert_eq!(verdict.changes.tasks[0].state, TaskState::Complete);
        assert_eq!(verdict.events(), ["task.reopened", event, "task.completed"]);
    }
}

#[test]
fn order_that_the_state_forbids_is_refused_without_effect() {
    let skip = |step: &str| Order::Skip { step: step.into() };
    let retry = |step: Option<&str>| Order::Retry {
        step: step.map(str::to_owned),
        fresh: false,
    };
    let running = || Case::new(&[0], &[1]);
    for (case, told, words) in [
        (
            failed_case(),
            skip("a"),
            "step `a` is complete: it cannot be skipped",
        ),
        (
            failed_case(),
            retry(Some("c")),
            "step `c` is complete: it cannot be retried",
        ),
        (failed_case(), retry(Some("x")), "the task has no step `x`"),
        (
            failed_case(),
            Order::Pause,
            "the task is error: it cannot be paused",
        ),
        (
            running(),
            skip("b"),
            "step `b` is in_progress: it cannot be skipped",
        ),
        (
            running(),
            retry(None),
            "the task is in_progress, and none of its steps has failed: there is nothing to retry",
        ),
        (
            running(),
            Order::ResolveTask,
            "the task is in_progress: it cannot be resolved",
        ),
    ] {
        let verdict = case.decide(&[order(TASK, told)]);
        assert!(verdict.is_silent(), "{words}: {:?}", verdict.changes);
        assert_eq!(verdict.refused[&0].to_string(), words);
    }
}
