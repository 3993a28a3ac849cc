//! Old tasks are removed with all their rows; an unfinished task keeps all its rows; and no other
//! transaction waits for the removal.

use std::time::{Duration, Instant};

use serde_json::Value;
use tasker::{
    engine::Retention,
    proto::EventType,
    store::{
        bench::fixtures::{self, Kind},
        retention::{self, Pruned},
        template::{self, NewStep, NewTemplate, Registration},
    },
};
use tasker_worker::{StepContext, Worker};
use tokio::process::Command;
use tokio_postgres::Client;
use tonic::Code;

use crate::{
    Tail, after,
    support::{
        SCHEMA, TestDb,
        invariants::invariants,
        server::{Bench, TestServer, eventually, register, submit},
    },
};

const DAY: Duration = Duration::from_secs(86_400);
/// `fill` makes tasks that were submitted 39 days ago.
pub const MONTH: Duration = Duration::from_secs(30 * 86_400);

const ONE: &str = "
task_name: one
namespace: t
version: 1.0.0
step_templates:
  - {name: only, handler_class: h}
";

/// A database whose history begins 41 days ago, with some tasks.
pub async fn aged(finished: i64, waiting: i64) -> (TestDb, Client) {
    let test = TestDb::new().await;
    let (db, client) = (test.db(), test.connect().await);
    client
        .batch_execute(
            "DO $$ BEGIN
                 FOR ago IN REVERSE 41..38 LOOP
                     EXECUTE format('CREATE TABLE events_%s_%s PARTITION OF events FOR VALUES FROM (%L) TO (%L)',
                         to_char(current_date - ago, 'YYYYMMDD'), to_char(current_date - ago + 1, 'YYYYMMDD'),
                         first_task_id(current_date - ago), first_task_id(current_date - ago + 1));
                 END LOOP;
             END $$",
        )
        .await
        .unwrap();
    let yaml = "
task_name: chain
namespace: n
version: 1.0.0
step_templates:
  - {name: a, handler_class: h}
  - {name: b, handler_class: h, depends_on_steps: [a]}
";
    let steps = ["a", "b"].map(|name| NewStep {
        name,
        handler: "h",
        service: "h",
    });
    let new = NewTemplate {
        namespace: "n",
        task_name: "chain",
        version: "1.0.0",
        yaml,
        environment: "",
        steps: &steps,
    };
    let Ok(Registration::Created(row)) = template::register(&db, new, "").await else {
        panic!("not registered")
    };
    fixtures::fill(&db, Kind::Finished, row.template_id, finished, &|_| {})
        .await
        .unwrap();
    fixtures::fill(&db, Kind::Waiting, row.template_id, waiting, &|_| {})
        .await
        .unwrap();
    (test, client)
}

pub async fn count(client: &Client, what: &str) -> i64 {
    client
        .query_one(&format!("SELECT count(*) FROM {what}"), &[])
        .await
        .unwrap()
        .get(0)
}

#[tokio::test]
async fn finished_tasks_are_removed_with_their_partitions() {
    let (db, client) = aged(2_000, 0).await;
    let (partitions, events) = (
        count(&client, "event_partitions").await,
        count(&client, "events").await,
    );
    assert!(events > 2_000 * 6, "{events}");
    let kept = retention::prune(&db.db(), DAY * 40).await.unwrap();
    assert_eq!(
        (kept.tasks, kept.events, kept.partitions.len()),
        (0, 0, 1),
        "the day before has nothing of them"
    );
    let said = retention::survey(&db.db(), MONTH).await.unwrap();
    let done = retention::prune(&db.db(), MONTH).await.unwrap();
    assert_eq!(said, done);
    assert_eq!(
        (done.tasks, done.steps, done.events, done.partitions.len()),
        (2_000, 4_000, events.cast_unsigned(), 3)
    );
    for what in ["tasks", "steps", "events", "attempts", "step_status"] {
        assert_eq!(count(&client, what).await, 0, "{what}");
    }
    assert_eq!(count(&client, "event_partitions").await, partitions - 4);
    assert_eq!(
        retention::prune(&db.db(), MONTH).await.unwrap(),
        Pruned::default()
    );
}

#[tokio::test]
async fn unfinished_and_recent_tasks_are_kept() {
    let (db, client) = aged(1_200, 100).await;
    client
        .batch_execute(
            "UPDATE tasks SET ended_at = now() - interval '1 day' WHERE state = 'complete' AND task_id IN
                          (SELECT task_id FROM tasks WHERE state = 'complete' ORDER BY task_id LIMIT 7)",
        )
        .await
        .unwrap();
    let keys = "INSERT INTO idempotency_keys (namespace, key, task_id, digest)
                SELECT 'n', 'key ' || row_number() OVER (ORDER BY task_id), task_id, '' FROM tasks";
    client.batch_execute(keys).await.unwrap();
    client
        .batch_execute(
            "INSERT INTO idempotency_keys VALUES ('n', 'of nothing', '00000000-0000-7000-8000-000000000000', '')",
        )
        .await
        .unwrap();
    client.batch_execute("INSERT INTO events (at, type) SELECT now() - i * interval '1 day', 'worker.lost' FROM generate_series(0, 39) i").await.unwrap();
    let kept = "SELECT task_id, seq FROM events JOIN tasks USING (task_id) WHERE ended_at IS NULL OR ended_at > now() - interval '2 days' ORDER BY seq";
    let before = client.query(kept, &[]).await.unwrap().len();
    let attempts = "attempts a JOIN tasks t USING (task_id) WHERE t.ended_at IS NULL";
    let waited = count(&client, attempts).await;
    assert!(before > 150 && waited > 0);

    let said = retention::survey(&db.db(), MONTH).await.unwrap();
    let done = retention::prune(&db.db(), MONTH).await.unwrap();
    assert_eq!(
        Pruned {
            keys: said.keys + 1,
            ..said
        },
        done,
        "a key of nothing is only found by walking"
    );
    assert_eq!((done.tasks, done.steps, done.keys), (1_193, 2_386, 1_194));
    assert_eq!(
        done.partitions.len(),
        3,
        "the day of those that are left stays: {done:?}"
    );
    assert_eq!(client.query(kept, &[]).await.unwrap().len(), before);
    assert_eq!(count(&client, attempts).await, waited);
    assert_eq!(
        (
            count(&client, "tasks").await,
            count(&client, "idempotency_keys").await
        ),
        (107, 107)
    );
    assert_eq!(count(&client, "step_status").await, 214);
    assert_eq!(count(&client, "events WHERE task_id IS NULL").await, 30);
    let orphans = "events e WHERE e.task_id IS NOT NULL AND NOT EXISTS (SELECT FROM tasks t WHERE t.task_id = e.task_id)";
    assert_eq!(count(&client, orphans).await, 0);
    assert_eq!(
        count(&client, "liveness_violations").await + count(&client, "row_violations").await,
        0
    );
    assert_eq!(
        retention::prune(&db.db(), MONTH).await.unwrap(),
        Pruned::default()
    );

    // Once they are over, they are removed too.
    client
        .batch_execute("UPDATE tasks SET ended_at = now() - interval '31 days', state = 'cancelled'; DELETE FROM queue")
        .await
        .unwrap();
    let rest = retention::prune(&db.db(), MONTH).await.unwrap();
    assert_eq!((rest.tasks, rest.partitions.len()), (107, 1));
    assert_eq!(count(&client, "events WHERE task_id IS NOT NULL").await, 0);
}

#[tokio::test]
async fn events_without_a_task_are_kept_for_a_day() {
    let db = TestDb::new().await;
    let client = db.connect().await;
    let workers = "INSERT INTO workers SELECT gen_random_uuid(), gen_random_uuid(), 'w', '', '{}', '{}', 1, '{}', now(), now(), false,
                          now() - i * interval '1 hour' - interval '30 minutes' FROM generate_series(0, 4999) i";
    client.batch_execute(workers).await.unwrap();
    assert_eq!(retention::forget_workers(&db.db()).await.unwrap(), 4_976);
    client
        .batch_execute("UPDATE workers SET ended_at = now() - interval '25 hours'")
        .await
        .unwrap();
    let changes =
        "INSERT INTO circuit_changes (service_id, at, type) SELECT 1, now() - i * interval '1 hour', 'circuit.paused'
                     FROM generate_series(0, 47) i";
    client.batch_execute(changes).await.unwrap();
    let hour = Duration::from_secs(3_600);
    let (said, done) = (
        retention::survey(&db.db(), hour).await.unwrap(),
        retention::prune(&db.db(), hour).await.unwrap(),
    );
    assert_eq!(said, done);
    assert_eq!((done.workers, done.circuit_changes), (24, 24));
}

#[tokio::test]
async fn cursor_before_pruned_events_is_refused_and_a_later_one_continues() {
    let (db, _) = aged(1_000, 0).await;
    let server = TestServer::start(&db).await;
    let mut client = server.client().await;
    let mut tail = Tail::beginning(&mut client).await;
    tail.events(10).await;
    let early = tail.cursor.clone();
    while tail.event().await.r#type() != EventType::TaskCompleted {}
    // The old events were written a moment ago here: a cursor is behind them once every transaction
    // that ran then, in any database, has ended.
    let session = db.connect().await;
    eventually("what ran before has ended", async || {
        let sql = "SELECT pg_snapshot_xmin(pg_current_snapshot()) > (SELECT xid FROM events ORDER BY xid DESC LIMIT 1)";
        session.query_one(sql, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    let mut last = Tail::begin(&mut client, Default::default()).await.unwrap();
    assert_eq!(
        retention::prune(&db.db(), MONTH).await.unwrap().tasks,
        1_000
    );
    let status = client
        .events
        .subscribe(after(&early))
        .await
        .expect_err("too old");
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    register(&mut client, ONE).await;
    let id = submit(&mut client, "t/one", "{}").await;
    let mut resumed = Tail::after(&mut client, &last.cursor.clone()).await;
    assert_eq!(resumed.event().await.task_id, id);
    assert_eq!(last.event().await.task_id, id);
    assert_eq!(Tail::beginning(&mut client).await.event().await.task_id, id);
}

#[tokio::test]
async fn slow_reader_delays_a_partition_drop_and_no_insert() {
    let (db, client) = aged(100, 0).await;
    let reader = db.connect().await;
    reader
        .batch_execute("BEGIN; SELECT count(*) FROM events")
        .await
        .unwrap();
    let pruning = tokio::spawn({
        let db = db.db();
        async move { retention::prune(&db, MONTH).await }
    });
    let mut slowest = Duration::ZERO;
    while !pruning.is_finished() {
        let began = Instant::now();
        client
            .batch_execute(
                "INSERT INTO events (at, type, task_id) VALUES (now(), 'task.submitted', first_task_id(now()))",
            )
            .await
            .unwrap();
        slowest = slowest.max(began.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("the slowest insert took {slowest:?}");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    let pruned = pruning.await.unwrap().unwrap();
    assert_eq!((pruned.tasks, pruned.partitions.len()), (100, 0));
    reader.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(
        retention::prune(&db.db(), MONTH)
            .await
            .unwrap()
            .partitions
            .len(),
        4
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_run_while_many_rows_are_pruned() {
    let (db, session) = aged(20_000, 0).await;
    let server = TestServer::start(&db).await;
    let mut client = server.client().await;
    register(&mut client, ONE).await;
    let worker = Worker::builder([server.url.clone()])
        .handler("h", |_: StepContext| async { Ok(1) })
        .build()
        .unwrap()
        .spawn();
    let pruning = tokio::spawn({
        let db = db.db();
        async move { retention::prune(&db, MONTH).await }
    });
    let (mut slowest, mut done) = (Duration::ZERO, 0);
    while !pruning.is_finished() || done < 20 {
        let began = Instant::now();
        let id = submit(&mut client, "t/one", "{}").await;
        crate::support::server::finished(&mut client, &id).await;
        slowest = slowest.max(began.elapsed());
        done += 1;
    }
    println!("{done} tasks meanwhile, the slowest took {slowest:?}");
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    let pruned = pruning.await.unwrap().unwrap();
    assert_eq!((pruned.tasks, pruned.steps), (20_000, 40_000));
    worker.shutdown().await.unwrap();
    assert_eq!(count(&session, "tasks").await, done);
    invariants(&session).await;
}

#[tokio::test]
async fn one_server_prunes_and_every_server_creates_partitions() {
    let (db, client) = aged(10, 0).await;
    let retention = |retain| Retention {
        db: db.db(),
        retain,
    };
    assert_eq!(
        retention(None).run_once().await.unwrap(),
        Some(Pruned::default())
    );
    assert_eq!(
        retention(Some(MONTH)).run_once().await.unwrap(),
        None,
        "somebody has just done it"
    );
    client
        .batch_execute("UPDATE event_horizon SET pruned_at = now() - interval '1 hour'")
        .await
        .unwrap();
    assert_eq!(
        retention(Some(MONTH))
            .run_once()
            .await
            .unwrap()
            .unwrap()
            .tasks,
        10
    );

    // Partitions of three days exist from the start.
    assert_eq!(retention(Some(MONTH)).prepare().await.unwrap(), 0);
    assert_eq!(retention::prepare(&db.db(), 7, 9).await.unwrap(), 1);
    assert_eq!(retention::prepare(&db.db(), 7, 9).await.unwrap(), 0);
    // A day with events in the default partition gets no partition of its own, and its later events
    // are stored all the same.
    let insert = "INSERT INTO events (at, type, task_id) VALUES (now(), 'task.submitted', first_task_id(now() + interval '12 days'))";
    client.batch_execute(insert).await.unwrap();
    assert_eq!(retention::prepare(&db.db(), 1, 14).await.unwrap(), 3);
    client.batch_execute(insert).await.unwrap();
    assert_eq!(
        count(&client, "events_default WHERE task_id IS NOT NULL").await,
        2
    );
}

#[tokio::test]
async fn prune_command_removes_as_its_dry_run_reports() {
    let (db, client) = aged(50, 5).await;
    let prune = async |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tasker"));
        command
            .args(["prune", "--older-than", "30d", "--schema", SCHEMA])
            .args(more)
            .env("TASKER_DATABASE_URL", db.url());
        let output = command.output().await.unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, dry, _) = prune(&["--dry-run", "--json"]).await;
    assert_eq!(code, Some(0));
    let dry: Value = serde_json::from_str(&dry).unwrap();
    assert_eq!(
        (
            dry["dry_run"].as_bool(),
            dry["tasks"].as_u64(),
            dry["steps"].as_u64()
        ),
        (Some(true), Some(50), Some(100))
    );
    assert_eq!(count(&client, "tasks").await, 55);
    let (_, table, said) = prune(&["--dry-run"]).await;
    assert!(
        table.contains("tasks") && table.contains("50") && said.contains("nothing was removed"),
        "{table}{said}"
    );
    let (code, wet, _) = prune(&["--json"]).await;
    assert_eq!(code, Some(0));
    let mut wet: Value = serde_json::from_str(&wet).unwrap();
    assert_eq!(wet["dry_run"], false);
    wet["dry_run"] = true.into();
    assert_eq!(wet, dry);
    assert_eq!(count(&client, "tasks").await, 5);
    let (code, _, said) = prune(&["--older-than", "1m"]).await;
    assert_ne!(code, Some(0), "{said}");
}

/// Events that are older than the first partition are stored, delivered and pruned like any others.
#[tokio::test]
async fn events_of_the_default_partition_are_delivered_and_pruned() {
    let db = TestDb::new().await;
    let client = db.connect().await;
    client
        .batch_execute(
            "INSERT INTO events (at, type, task_id) SELECT now() - interval '40 days', 'task.submitted', gen_random_uuid() FROM generate_series(1, 10);
             INSERT INTO events (at, type, task_id) VALUES (now(), 'task.submitted', gen_random_uuid()), (now(), 'task.started', gen_random_uuid())",
        )
        .await
        .unwrap();
    let server = TestServer::start(&db).await;
    assert_eq!(
        Tail::beginning(&mut server.client().await)
            .await
            .events(12)
            .await
            .len(),
        12
    );
    assert_eq!(retention::prune(&db.db(), MONTH).await.unwrap().events, 10);
    let mut bench = Bench {
        client: server.client().await,
        server,
        db,
    };
    register(&mut bench.client, ONE).await;
    bench.submit("t/one", "{}").await;
    eventually("an event", async || {
        (count(&client, "events WHERE type = 'task.submitted'").await == 2).then_some(())
    })
    .await;
}
