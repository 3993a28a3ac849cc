//! The model alone: it does not contradict itself, and agrees with the golden cases.

use super::*;
use crate::op::{Answer, Submission, Word};

/// Plays the server: sends everything that is owed and assigns every step that it can.
fn obey(model: &mut Model) {
    model.owed.clear();
    let next = |model: &Model| {
        model
            .claimable()
            .min_by_key(|(_, task, step)| model.rank(*task, *step))
    };
    while let Some((worker, task, step)) = next(model) {
        let view = model.assignment(task, step);
        let name = model.tasks[task].shape.steps[step].name;
        model.assigned(worker, task, name, &view).unwrap();
    }
    assert_eq!(model.outstanding(), None);
    model.in_order().unwrap();
}

fn after(ops: &[Op]) -> Model {
    let mut model = Model::new(Wrong::Nothing);
    for op in ops {
        model.begin(op);
        obey(&mut model);
    }
    model
}

fn submit(template: usize) -> Op {
    Op::Submit(vec![Submission {
        template,
        version: None,
        priority: 0,
        key: None,
        context: 0,
    }])
}

const WORKER: Op = Op::Connect {
    handlers: 3,
    slots: 3,
};

fn answer(answer: Answer) -> Op {
    Op::Answer { attempt: 0, answer }
}

#[test]
fn random_history_keeps_the_model_consistent() {
    let mut random = Random::seeded("the model alone");
    let (mut complete, mut error, mut cancelled, mut resolved) = (0, 0, 0, 0);
    for _ in 0..1_000 {
        let ops = if random.below(2) == 0 {
            op::history(&mut random)
        } else {
            op::of_operators(&mut random)
        };
        let model = after(&ops);
        for (i, task) in model.tasks.iter().enumerate() {
            let is_live = task.steps.iter().any(Step::is_live);
            assert_eq!(
                is_live,
                matches!(task.state, TaskState::Pending | TaskState::InProgress),
                "{:?}",
                model.view(i)
            );
            let charged_rightly = |s: &Step, limit| s.charged <= limit || s.retried;
            assert!(
                task.steps
                    .iter()
                    .zip(task.shape.steps)
                    .all(|(s, shape)| charged_rightly(s, shape.limit))
            );
            match task.state {
                TaskState::Complete => complete += 1,
                TaskState::Error => error += 1,
                TaskState::Cancelled => cancelled += 1,
                TaskState::ResolvedManually => resolved += 1,
                _ => {}
            }
        }
        assert!(model.workers.iter().all(|w| w.held.len() <= w.slots));
    }
    let all = [complete, error, cancelled, resolved];
    assert!(
        complete > 200 && error > 100 && cancelled > 200 && resolved > 15,
        "{all:?}"
    );
}

#[test]
fn attempts_are_charged_by_their_outcome() {
    let released = [
        WORKER,
        submit(0),
        answer(Answer::Released),
        answer(Answer::Retryable),
        Op::Leave { worker: 0 },
    ];
    let model = after(&released);
    let only = &model.view(0).steps[0];
    assert_eq!(
        (only.state, only.attempt, only.charged),
        (StepState::WaitingForRetry, 3, 1)
    );
    let model = after(&[
        WORKER,
        submit(0),
        answer(Answer::Retryable),
        answer(Answer::Retryable),
    ]);
    assert_eq!(
        (model.view(0).state, model.view(0).failed),
        (TaskState::Error, ("a".into(), "BUSY".into()))
    );
}

#[test]
fn join_waits_for_all_parents_and_the_other_branch_continues() {
    let done = || answer(Answer::Success(1));
    let states = |model: &Model| {
        model
            .view(0)
            .steps
            .iter()
            .map(|s| s.state)
            .collect::<Vec<_>>()
    };
    use StepState::{Complete as C, Error as E, InProgress as I, Pending as P};
    assert_eq!(states(&after(&[WORKER, submit(2), done()])), [C, I, I, P]);
    assert_eq!(
        states(&after(&[WORKER, submit(2), done(), done()])),
        [C, C, I, P]
    );
    assert_eq!(
        states(&after(&[WORKER, submit(2), done(), done(), done()])),
        [C, C, C, I]
    );
    let failed = after(&[WORKER, submit(2), done(), answer(Answer::Permanent)]);
    assert_eq!(
        (states(&failed), failed.view(0).state),
        (vec![C, E, I, P], TaskState::InProgress)
    );
}

#[test]
fn operator_retries_resolves_or_skips_a_failed_step() {
    let tell = |word| Op::Order {
        word,
        task: 0,
        step: 0,
    };
    let failed = [WORKER, submit(1), answer(Answer::Permanent)];
    let mended = |word| {
        let model = after(&[&failed[..], &[tell(word)]].concat());
        (
            model.view(0).steps[0].state,
            model.view(0).steps[1].state,
            model.view(0).state,
        )
    };
    use StepState as S;
    assert_eq!(
        mended(Word::Retry { fresh: false }),
        (S::InProgress, S::Pending, TaskState::InProgress)
    );
    assert_eq!(
        mended(Word::ResolveStep(1)),
        (S::ResolvedManually, S::InProgress, TaskState::InProgress)
    );
    assert_eq!(
        mended(Word::Skip),
        (S::Skipped, S::InProgress, TaskState::InProgress)
    );
    assert_eq!(
        mended(Word::ResolveTask),
        (S::Error, S::Pending, TaskState::ResolvedManually)
    );
    assert_eq!(
        mended(Word::Pause),
        (S::Error, S::Pending, TaskState::Error),
        "refused"
    );
}

#[test]
fn pause_holds_later_steps() {
    let second = |pause: Op| {
        let model = after(&[WORKER, submit(1), pause, answer(Answer::Success(1))]);
        model.view(0).steps[1].state
    };
    assert_eq!(
        second(Op::Order {
            word: Word::Pause,
            task: 0,
            step: 0
        }),
        StepState::Ready
    );
    assert_eq!(
        second(Op::Hold {
            template: Some(1),
            held: true
        }),
        StepState::Ready
    );
    assert_eq!(
        second(Op::Hold {
            template: None,
            held: true
        }),
        StepState::Ready
    );
    assert_eq!(
        second(Op::Hold {
            template: Some(2),
            held: true
        }),
        StepState::InProgress
    );
}
