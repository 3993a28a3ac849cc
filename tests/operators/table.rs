//! Every verb on every state of a task and of a step: it has its effect, or it is refused and
//! changes nothing.

use tasker::proto::{StepState, TaskState};

use crate::{
    support::{
        invariants::invariants,
        server::{Bench, eventually, register, state, step},
        worker::{RawWorker, permanent, registration, retryable, success},
    },
    verb::{ALL, BY_HAND, OF_STEPS, Verb, followed, next_of, refused, say},
};

/// Two steps in a row, and one step alone. No worker serves `idle` and `brief`; the deadline of
/// `brief` passes at once.
const TEMPLATES: [&str; 4] = [
    "{task_name: pair, namespace: t, version: 1.0.0, step_templates: [
      {name: a, handler_class: h, backoff: {base_seconds: 60}}, {name: b, handler_class: nobody, depends_on_steps: [a]}]}",
    "{task_name: single, namespace: t, version: 1.0.0, step_templates: [{name: a, handler_class: h}]}",
    "{task_name: idle, namespace: t, version: 1.0.0, step_templates: [{name: a, handler_class: nobody}]}",
    "{task_name: brief, namespace: t, version: 1.0.0, timeout_seconds: 0.2, step_templates: [{name: a, handler_class: nobody}]}",
];

struct Case {
    bench: Bench,
    worker: RawWorker,
}

impl Case {
    async fn new() -> Self {
        let mut bench = Bench::new().await;
        bench.circuits_off().await;
        for yaml in TEMPLATES {
            register(&mut bench.client, yaml).await;
        }
        let worker = RawWorker::open(&bench.server.url, registration(&["h"], 1_000))
            .await
            .unwrap();
        Self { bench, worker }
    }

    /// A task in the state of this name; `expired` is one whose deadline has passed.
    async fn task(&mut self, wanted: &str) -> String {
        let template = match wanted {
            "pending" => "t/idle",
            "expired" => "t/brief",
            "complete" => "t/single",
            _ => "t/pair",
        };
        let id = self.bench.submit(template, "{}").await;
        if matches!(wanted, "pending" | "expired") {
            if wanted == "expired" {
                self.bench.finished(&id).await;
            }
            return id;
        }
        let a = next_of(&mut self.worker, &id).await;
        match wanted {
            "complete" => drop(self.worker.settle(&a, success("1")).await),
            "error" | "resolved_manually" => {
                self.worker.settle(&a, permanent("no", "NO")).await;
            }
            "cancelled" => drop(self.bench.cancel(&id).await.unwrap()),
            _ => {}
        }
        if wanted == "resolved_manually" {
            say(&mut self.bench.client, Verb::Resolve, &id, "")
                .await
                .unwrap();
        }
        id
    }

    /// A task with a step in this state, and the step's name.
    async fn step(&mut self, wanted: &str) -> (String, &'static str) {
        let template = if wanted == "ready" {
            "t/idle"
        } else {
            "t/pair"
        };
        let id = self.bench.submit(template, "{}").await;
        if wanted == "ready" {
            return (id, "a");
        }
        let a = next_of(&mut self.worker, &id).await;
        let answer = match wanted {
            "waiting_for_retry" => retryable("later", None),
            "complete" => success("1"),
            "error" | "skipped" | "resolved_manually" => permanent("no", "NO"),
            _ => {
                if wanted == "cancelled" {
                    self.bench.cancel(&id).await.unwrap();
                }
                return (id, if wanted == "pending" { "b" } else { "a" });
            }
        };
        self.worker.settle(&a, answer).await;
        match wanted {
            "skipped" => drop(
                say(&mut self.bench.client, Verb::Skip, &id, "a")
                    .await
                    .unwrap(),
            ),
            "resolved_manually" => drop(
                say(&mut self.bench.client, Verb::ResolveStep, &id, "a")
                    .await
                    .unwrap(),
            ),
            _ => {}
        }
        (id, "a")
    }
}

#[tokio::test]
async fn every_order_in_every_state_of_a_task_is_as_specified() {
    let mut case = Case::new().await;
    use TaskState as S;
    // By state, the result of: cancel, pause, resume, retry, resolve.
    let table: [(&str, [Option<S>; 5]); 7] = [
        (
            "pending",
            [
                Some(S::Cancelled),
                Some(S::Pending),
                Some(S::Pending),
                None,
                None,
            ],
        ),
        (
            "in_progress",
            [
                Some(S::Cancelled),
                Some(S::InProgress),
                Some(S::InProgress),
                None,
                None,
            ],
        ),
        ("complete", [None; 5]),
        (
            "error",
            [
                None,
                None,
                None,
                Some(S::InProgress),
                Some(S::ResolvedManually),
            ],
        ),
        (
            "expired",
            [None, None, None, None, Some(S::ResolvedManually)],
        ),
        ("cancelled", [Some(S::Cancelled), None, None, None, None]),
        (
            "resolved_manually",
            [None, None, None, None, Some(S::ResolvedManually)],
        ),
    ];
    for (before, row) in table {
        for (verb, after) in ALL.into_iter().zip(row) {
            let id = case.task(before).await;
            let name = if before == "expired" { "error" } else { before };
            match after {
                None => refused(&mut case.bench, verb, &id, "", name).await,
                Some(after) => {
                    let task = followed(&mut case.bench, verb, &id, "").await;
                    assert_eq!(task.state(), after, "{verb:?} of {before}");
                    assert_eq!(
                        task.paused_at.is_some(),
                        verb == Verb::Pause,
                        "{verb:?} of {before}"
                    );
                }
            }
        }
    }
    invariants(&case.bench.db.connect().await).await;
}

#[tokio::test]
async fn every_order_in_every_state_of_a_step_is_as_specified() {
    let mut case = Case::new().await;
    use StepState as S;
    let (resolved, skipped) = (Some(S::ResolvedManually), Some(S::Skipped));
    // By state, the result of: retry, resolve, skip.
    let table: [(&str, [Option<S>; 3]); 9] = [
        ("pending", [None, resolved, skipped]),
        ("ready", [None, resolved, skipped]),
        ("in_progress", [None; 3]),
        ("waiting_for_retry", [None, resolved, skipped]),
        ("complete", [None; 3]),
        ("error", [Some(S::InProgress), resolved, skipped]),
        ("cancelled", [None; 3]),
        ("skipped", [None, None, skipped]),
        ("resolved_manually", [None, resolved, None]),
    ];
    for (before, row) in table {
        for (verb, after) in OF_STEPS.into_iter().zip(row) {
            let (id, name) = case.step(before).await;
            let Some(after) = after else {
                refused(&mut case.bench, verb, &id, name, before).await;
                continue;
            };
            followed(&mut case.bench, verb, &id, name).await;
            if verb == Verb::RetryStep {
                next_of(&mut case.worker, &id).await;
            }
            let task = case.bench.get(&id).await;
            let step = step(&task, name);
            assert_eq!(step.state(), after, "{verb:?} of {before}");
            match after {
                S::Skipped => assert_eq!(
                    (step.set_by.as_str(), step.result_json.as_str()),
                    ("ann", "")
                ),
                S::ResolvedManually => {
                    assert_eq!(
                        (step.set_reason.as_str(), step.result_json.as_str()),
                        ("a test", BY_HAND)
                    );
                }
                _ => assert_eq!((step.attempt, state(&task)), (2, TaskState::InProgress)),
            }
        }
    }
    invariants(&case.bench.db.connect().await).await;
}

#[tokio::test]
async fn paused_task_accepts_all_other_orders() {
    let mut case = Case::new().await;
    let id = case.bench.submit("t/pair", "{}").await;
    let a = next_of(&mut case.worker, &id).await;
    case.worker.settle(&a, retryable("later", None)).await;
    followed(&mut case.bench, Verb::Pause, &id, "").await;
    followed(&mut case.bench, Verb::ResolveStep, &id, "a").await;
    assert_eq!(
        step(&case.bench.get(&id).await, "b").state(),
        StepState::Ready
    );
    followed(&mut case.bench, Verb::Skip, &id, "b").await;
    let task = case.bench.finished(&id).await;
    assert_eq!(state(&task), TaskState::Complete);

    let id = case.bench.submit("t/pair", "{}").await;
    let a = next_of(&mut case.worker, &id).await;
    followed(&mut case.bench, Verb::Pause, &id, "").await;
    case.worker.settle(&a, permanent("no", "NO")).await;
    assert_eq!(
        state(&case.bench.finished(&id).await),
        TaskState::Error,
        "what ran went on to its end"
    );
    // The pause also holds after the retry.
    let task = followed(&mut case.bench, Verb::Retry, &id, "").await;
    assert_eq!(
        (task.state(), task.paused_by.as_str()),
        (TaskState::InProgress, "ann")
    );
    case.worker
        .hears_nothing(std::time::Duration::from_millis(300))
        .await;
    followed(&mut case.bench, Verb::Resume, &id, "").await;
    assert_eq!(next_of(&mut case.worker, &id).await.attempt, 2);
    invariants(&case.bench.db.connect().await).await;
}

#[tokio::test]
async fn concurrent_orders_are_serialised() {
    let case = Case::new().await;
    let mut ids = Vec::new();
    let mut client = case.bench.client.clone();
    for _ in 0..20 {
        ids.push(crate::support::server::submit(&mut client, "t/idle", "{}").await);
    }
    let mut said = tokio::task::JoinSet::new();
    for id in &ids {
        for verb in ALL.into_iter().chain(OF_STEPS) {
            let (mut client, id) = (case.bench.client.clone(), id.clone());
            said.spawn(async move { say(&mut client, verb, &id, "a").await.map(drop) });
        }
    }
    while let Some(answer) = said.join_next().await {
        if let Err(status) = answer.unwrap() {
            assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status:?}");
        }
    }
    let db = case.bench.db.connect().await;
    eventually("all are told", || async {
        let left = db
            .query_one("SELECT count(*) FROM tasks WHERE ended_at IS NULL", &[])
            .await
            .unwrap();
        (left.get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    invariants(&db).await;
}
