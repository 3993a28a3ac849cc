//! No starvation: a step that can run does run, whatever else waits.

use std::time::{Duration, Instant};

use tasker_worker::{Worker, client::Client};

use crate::{
    cluster::{counting, session, statements},
    ledger::Ledger,
    load::ONE,
    support::{
        invariants::invariants,
        process::ServerProcess,
        server::{Bench, eventually, finished, register, submission, submit},
        worker::RawWorker,
    },
};

const OTHER: &str = "{task_name: other, namespace: t, version: 1.0.0, step_templates: [{name: only, handler_class: other}]}";

const NOBODY: &str = "{task_name: nobody, namespace: t, version: 1.0.0, step_templates: [{name: only, handler_class: nobody}]}";

/// A freed slot is filled at once, also when a look at the queue ran while the slot was taken, and
/// therefore found no step for the slots that were free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backlog_of_a_busy_worker_is_processed_without_gaps() {
    const TASKS: usize = 16;
    let mut bench = Bench::with(ONE).await;
    register(&mut bench.client, OTHER).await;
    register(&mut bench.client, NOBODY).await;
    let ledger = Ledger::default();
    let _idle = RawWorker::connect(&bench.server.url, &["other"]).await;
    let busy = ledger.worker(&[&bench.server.url], 1, Duration::from_millis(100));
    let started = Instant::now();
    let tasks = (0..TASKS).map(|_| submission("t/one", "{}")).collect();
    bench
        .client
        .tasks
        .submit_tasks(tasker::proto::SubmitTasksRequest { tasks })
        .await
        .unwrap();
    for n in 1..=TASKS {
        eventually("the next step runs", || async {
            (ledger.steps() == n).then_some(())
        })
        .await;
        // Makes the server look at the queue while the one slot of `h` is taken.
        bench.submit("t/nobody", "{}").await;
    }
    // A slot that is filled by the next look at the queue only is empty for about a second.
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "it took {:?}",
        started.elapsed()
    );
    busy.shutdown().await.unwrap();
    invariants(&bench.db.connect().await).await;
}

/// A template as another build may have registered it. Its steps wait for a server that can read
/// it; steps of other templates do not wait, and the server does not look for it again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreadable_template_delays_no_other() {
    let cluster = counting().await;
    let server = ServerProcess::start(&cluster.url());
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, ONE).await;
    register(&mut client, OTHER).await;
    let unreadable = submit(&mut client, "t/other", "{}").await;
    let db = session(&cluster.url()).await;
    let newest = "(SELECT max(template_id) FROM templates)";
    db.batch_execute(&format!(
        "INSERT INTO templates (namespace, task_name, version, yaml) VALUES ('t', 'new', '2.0.0', 'of: another age');
         INSERT INTO template_steps SELECT {newest}, 0, 'only', lane_id FROM lanes WHERE handler = 'other';
         UPDATE tasks SET template_id = {newest} WHERE task_id = '{unreadable}';
         UPDATE queue SET template_id = {newest}"
    ))
    .await
    .unwrap();
    let ledger = Ledger::default();
    let builder = ledger.handler(Worker::builder([server.url.clone()]), "h", Duration::ZERO);
    let worker = ledger
        .handler(builder, "other", Duration::ZERO)
        .build()
        .unwrap()
        .spawn();
    for _ in 0..5 {
        let id = submit(&mut client, "t/one", "{}").await;
        finished(&mut client, &id).await;
    }
    let before = statements(&cluster);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let spent = statements(&cluster) - before;
    assert!(
        spent < 50,
        "{spent} statements in two seconds for a step that nobody can run"
    );
    worker.shutdown().await.unwrap();
}
