//! Plays a task to its end, with a worker whose answers come from the test.

use std::collections::BTreeMap;

use tasker::proto::{GetTaskResponse, StepAssignment, StepState, step_result::Outcome};

use crate::support::{
    invariants::invariants,
    server::{Bench, finished},
    worker::RawWorker,
};

/// An ended task, and the assignments of its steps; of several attempts the last one's.
pub struct Played {
    pub task: GetTaskResponse,
    pub given: BTreeMap<String, StepAssignment>,
}

impl Played {
    /// The states of the steps, in the order of the template.
    pub fn states(&self) -> Vec<StepState> {
        self.task
            .steps
            .iter()
            .map(tasker::proto::Step::state)
            .collect()
    }

    /// The assigned steps, in the order of their names.
    pub fn ran(&self) -> Vec<&str> {
        self.given.keys().map(String::as_str).collect()
    }
}

/// Submits a task of `t/t` and answers its steps, whose handler is `h` or `p`, until it is final.
pub async fn play(
    bench: &mut Bench,
    context: &str,
    answer: impl Fn(&StepAssignment) -> Outcome,
) -> Played {
    let id = bench.submit("t/t", context).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h", "p"]).await;
    let mut client = bench.server.client().await;
    let end = finished(&mut client, &id);
    let mut given = BTreeMap::new();
    tokio::pin!(end);
    let task = loop {
        tokio::select! {
            task = &mut end => break task,
            assignment = worker.assignment() => {
                worker.answer(&assignment.lease_token, answer(&assignment)).await;
                given.insert(assignment.step_name.clone(), assignment);
            }
        }
    };
    worker.drain().await;
    worker.close();
    while let Ok(Some(_)) = worker.hear().await {}
    invariants(&bench.db.connect().await).await;
    Played { task, given }
}
