//! Nobody starves: steps that could run do, whatever else waits.

use std::time::{Duration, Instant};

use crate::{
    ledger::Ledger,
    load::ONE,
    support::{
        invariants::invariants,
        server::{Bench, eventually, register, submission},
        worker::RawWorker,
    },
};

const OTHER: &str =
    "{task_name: other, namespace: t, version: 1.0.0, step_templates: [{name: only, handler_class: other}]}";

/// A slot that comes free is filled at once also when idle workers of other handlers make the waiting steps look done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_behind_a_busy_worker_is_worked_off_without_pauses() {
    const TASKS: usize = 60;
    let mut bench = Bench::with(ONE).await;
    register(&mut bench.client, OTHER).await;
    let ledger = Ledger::default();
    let _idle = RawWorker::connect(&bench.server.url, &["other"]).await;
    let busy = ledger.worker(&[&bench.server.url], 1, Duration::from_millis(5));
    let started = Instant::now();
    let tasks = (0..TASKS).map(|_| submission("t/one", "{}")).collect();
    bench.client.tasks.submit_tasks(tasker::proto::SubmitTasksRequest { tasks }).await.unwrap();
    eventually("all have run", || async { (ledger.steps() == TASKS && ledger.running() == 0).then_some(()) }).await;
    assert!(started.elapsed() < Duration::from_secs(5), "it took {:?}", started.elapsed());
    busy.shutdown().await.unwrap();
    invariants(&bench.db.connect().await).await;
}

/// As another build may have registered it. Its steps wait for a server that can read it; those of others do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_this_build_cannot_read_holds_up_no_other() {
    let mut bench = Bench::with(ONE).await;
    register(&mut bench.client, OTHER).await;
    let unreadable = bench.submit("t/other", "{}").await;
    let db = bench.db.connect().await;
    db.batch_execute(
        "INSERT INTO templates (namespace, task_name, version, yaml) VALUES ('t', 'new', '2.0.0', 'written: in another age');
         INSERT INTO template_steps
         SELECT (SELECT max(template_id) FROM templates), 0, 'only', lane_id FROM lanes WHERE handler = 'other'",
    )
    .await
    .unwrap();
    let newest = "(SELECT max(template_id) FROM templates)";
    db.batch_execute(&format!("UPDATE tasks SET template_id = {newest} WHERE task_id = '{unreadable}'; UPDATE queue SET template_id = {newest}"))
        .await
        .unwrap();
    let ledger = Ledger::default();
    let builder = tasker::worker::Worker::builder([bench.server.url.clone()]);
    let builder = ledger.handler(builder, "h", Duration::ZERO);
    let worker = ledger.handler(builder, "other", Duration::ZERO).build().unwrap().spawn();
    for _ in 0..5 {
        let id = bench.submit("t/one", "{}").await;
        bench.finished(&id).await;
    }
    let before = commits(&db).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let spent = commits(&db).await - before;
    assert!(spent < 40, "{spent} transactions in two seconds for a step that nobody can run");
    worker.shutdown().await.unwrap();
}

async fn commits(db: &tokio_postgres::Client) -> i64 {
    let sql = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()";
    db.query_one(sql, &[]).await.unwrap().get(0)
}
