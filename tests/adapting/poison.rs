//! Conditions over large documents: they may delay their own task, and nothing else waits for it.

use std::time::{Duration, Instant};

use tasker::proto::TaskState;
use tasker_worker::client::Client;

use crate::support::{
    server::{Bench, TestServer, finished, register, state, submit},
    worker::{RawWorker, success},
};

/// Time limit of a step without conditions meanwhile, from its submit to its acknowledgement.
const HEALTHY: Duration = Duration::from_secs(1);
const CHILDREN: usize = 45;

fn poison() -> String {
    let child = |n: usize| {
        format!(
            "  - {{name: c{n}, handler: nobody.c, depends_on_step: first, when: 'results.first.n == {n} && size(context.a) > 0'}}\n"
        )
    };
    let children: String = (0..CHILDREN).map(child).collect();
    format!(
        "task_name: poison\nnamespace: t\nversion: 1.0.0\nstep_templates:\n  - {{name: first, handler: first}}\n{children}"
    )
}

const HEALTH: &str = "
task_name: healthy
namespace: t
version: 1.0.0
step_templates:
  - {name: one, handler: healthy}
";

/// Large enough for the judging threads, and small enough for a build without optimisation on a
/// busy machine.
fn large() -> String {
    format!("{{\"n\":1,\"a\":[{}0]}}", "0,".repeat(40_000))
}

/// The longest time of five steps, one after the other.
async fn healthy(client: &mut Client, worker: &mut RawWorker) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        let began = Instant::now();
        submit(client, "t/healthy", "{}").await;
        let assignment = worker.assignment().await;
        worker.settle(&assignment, success("1")).await;
        longest = longest.max(began.elapsed());
    }
    longest
}

#[tokio::test]
async fn step_does_not_wait_for_conditions_over_large_documents() {
    let mut bench = Bench::with(&poison()).await;
    register(&mut bench.client, HEALTH).await;
    let other = TestServer::start(&bench.db).await;
    let mut other_client = other.client().await;
    let mut here = RawWorker::connect(&bench.server.url, &["healthy"]).await;
    assert!(
        healthy(&mut bench.client, &mut here).await < HEALTHY * 3,
        "before"
    );
    let mut first = RawWorker::connect(&bench.server.url, &["first"]).await;
    let mut poisoned = Vec::new();
    for _ in 0..3 {
        poisoned.push(bench.submit("t/poison", &large()).await);
        let assignment = first.assignment().await;
        first
            .answer(&assignment.lease_token, success(&large()))
            .await;
    }
    let beside = healthy(&mut bench.client, &mut here).await;
    let elsewhere = healthy(&mut other_client, &mut here).await;
    // The bound is meant for a faster machine than a test's; a step that waited for the conditions
    // would exceed any bound.
    assert!(
        beside < HEALTHY * 5 && elsewhere < HEALTHY * 5,
        "{beside:?} {elsewhere:?}"
    );
    for id in poisoned {
        // Its step ends, by its verdicts or by its budget; only its own conditions decide which
        // children stay open.
        let mut client = bench.server.client().await;
        let ended = tokio::time::timeout(Duration::from_secs(180), async {
            loop {
                let task = crate::support::server::get(&mut client, &id).await;
                let done = task
                    .steps
                    .iter()
                    .filter(|step| step.ended_at.is_some())
                    .count();
                if done >= CHILDREN {
                    break task;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let task = ended.await.expect("the poisoned task goes on");
        assert!(
            matches!(state(&task), TaskState::InProgress | TaskState::Error),
            "{:?}",
            state(&task)
        );
    }
}

#[tokio::test]
async fn submit_is_not_delayed_by_a_task_with_many_conditional_roots() {
    let roots: String = (0..80)
        .map(|n| {
            format!(
                "  - {{name: r{n}, handler: nobody.r, when: 'context.a.exists(x, x == {n} + 7)'}}\n"
            )
        })
        .collect();
    let mut bench = Bench::with(&format!(
        "task_name: roots\nnamespace: t\nversion: 1.0.0\nstep_templates:\n{roots}"
    ))
    .await;
    register(&mut bench.client, HEALTH).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["healthy"]).await;
    let mut costly = bench.server.client().await;
    let poison = tokio::spawn(async move {
        let request = crate::support::server::submission("t/roots", &large());
        costly
            .tasks
            .submit_task(request)
            .await
            .map(|r| r.into_inner().task_id)
    });
    let beside = healthy(&mut bench.client, &mut worker).await;
    assert!(beside < HEALTHY * 5, "{beside:?}");
    match poison.await.unwrap() {
        // A condition over its budget fails its step, and a false one skips its step.
        Ok(id) => {
            let ended = state(&finished(&mut bench.client, &id).await);
            assert!(
                [TaskState::Error, TaskState::Complete].contains(&ended),
                "{ended:?}"
            );
        }
        // On a slow machine the time limit ends it before the budget does.
        Err(status) => assert!(status.message().contains("TOO_COSTLY"), "{status:?}"),
    }
}
