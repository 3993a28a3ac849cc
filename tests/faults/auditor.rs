//! Rows broken by hand, in every way that would leave a task stuck: the auditor finds and repairs
//! them, reports each once, and leaves all other rows alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tasker::{
    engine::{Engine, EngineConfig},
    proto::{CancelReason, ResultStatus, TaskState},
};
use tasker_worker::{Worker, client::Client};
use tokio_postgres::Client as Session;

use crate::{
    ledger::Ledger,
    load::{FAN, Load, ONE},
    support::{
        TestDb,
        invariants::invariants_after_repairs,
        process::ServerProcess,
        server::{eventually, finished, register, state, step, submit},
        worker::{RawWorker, success},
    },
};

/// Such a task waits at `c` as long as no worker serves `later`.
const STANDS: &str = "
task_name: stands
namespace: t
version: 1.0.0
step_templates:
  - {name: a, handler_class: h}
  - {name: b, handler_class: h, depends_on_steps: [a]}
  - {name: c, handler_class: later, depends_on_steps: [a]}
  - {name: d, handler_class: h, depends_on_steps: [b, c]}
";

/// SQL that breaks a task waiting at `c`, the codes of the expected repairs, and the task's final
/// state; `None` for a task that is gone.
const WAYS: &[(&str, &[&str], Option<&str>)] = &[
    ("DELETE FROM queue WHERE task_id = $1", &["STEP_MISSING"], Some("complete")),
    ("UPDATE queue SET due = false WHERE task_id = $1", &["STEP_ASLEEP"], Some("complete")),
    ("UPDATE queue SET state = 'in_progress', due = false WHERE task_id = $1", &["STEP_ASLEEP"], Some("complete")),
    (
        "UPDATE queue SET state = 'in_progress', due = false, worker_id = gen_random_uuid(), started_at = now(), deadline_at = now()
          WHERE task_id = $1",
        &["STEP_ASLEEP"],
        Some("complete"),
    ),
    ("UPDATE queue SET state = 'waiting_for_retry', due = false WHERE task_id = $1", &["STEP_ASLEEP"], Some("complete")),
    ("UPDATE queue SET state = 'complete', due = false WHERE task_id = $1", &["STEP_ASLEEP"], Some("complete")),
    ("UPDATE tasks SET steps_live = 0 WHERE task_id = $1", &["TASK_MISCOUNTED"], Some("complete")),
    ("UPDATE tasks SET steps_live = 2 WHERE task_id = $1", &["TASK_MISCOUNTED"], Some("complete")),
    ("UPDATE tasks SET ended_at = now() WHERE task_id = $1", &["TASK_MISTIMED"], Some("complete")),
    (
        "WITH gone AS (DELETE FROM queue WHERE task_id = $1)
         UPDATE tasks SET steps_done = '\\x00', steps_live = 0 WHERE task_id = $1",
        &["STEP_MISSING", "TASK_MISCOUNTED"],
        Some("complete"),
    ),
    // Rows of `queue` for steps that have ended or wait for their parents.
    (
        "INSERT INTO queue (task_id, step, template_id, lane_id, priority, state, due, ready_at, next_attempt_at)
         SELECT task_id, s, template_id, lane_id, 0, 'waiting_for_retry', false, now(), now() + interval '1 h'
           FROM queue, unnest('{0,3}'::int2[]) AS s WHERE task_id = $1",
        &["STEP_STRAY", "STEP_STRAY"],
        Some("complete"),
    ),
    // All that the engine writes, except the task's own end.
    (
        "WITH c AS (DELETE FROM queue WHERE task_id = $1 RETURNING *),
              s AS (INSERT INTO steps (task_id, step, state, attempt, charged, error_message, ready_at, started_at, ended_at)
                    SELECT task_id, step, 'error', 1, 1, 'no', ready_at, now(), now() FROM c)
         INSERT INTO events (at, type, template_id, task_id, step, attempt, outcome, charged, started_at)
         SELECT now(), e.type::event_type, template_id, task_id, step, 1, e.outcome::attempt_outcome, e.charged, now()
           FROM c, (VALUES ('step.started', NULL, NULL), ('step.failed', 'permanent_error', true)) AS e(type, outcome, charged)",
        &["TASK_UNFINISHED"],
        Some("error"),
    ),
    (
        "WITH t AS (UPDATE tasks SET state = 'cancelled', cancelled_by = 'hand', ended_at = now(), steps_live = 0
                     WHERE task_id = $1 RETURNING *)
         INSERT INTO events (at, type, template_id, task_id) SELECT now(), 'task.cancelled', template_id, task_id FROM t",
        &["STEP_STRAY"],
        Some("cancelled"),
    ),
    (
        "WITH s AS (DELETE FROM steps WHERE task_id = $1) DELETE FROM tasks WHERE task_id = $1",
        &["STEP_STRAY"],
        None,
    ),
];

/// The same for complete tasks.
const WAYS_OF_ENDED: &[(&str, &[&str])] = &[
    (
        "INSERT INTO queue (task_id, step, template_id, lane_id, priority, state, due, ready_at, next_attempt_at)
         SELECT task_id, 0, template_id, 1, 0, 'waiting_for_retry', false, now(), now() + interval '1 h'
           FROM tasks WHERE task_id = $1",
        &["STEP_STRAY"],
    ),
    ("UPDATE tasks SET ended_at = NULL WHERE task_id = $1", &["TASK_MISTIMED"]),
    ("UPDATE tasks SET steps_live = 1, ended_at = NULL WHERE task_id = $1", &["TASK_MISTIMED", "TASK_MISCOUNTED"]),
];

/// Number of tasks that are broken in each way.
const TASKS: usize = 2;

/// Breaks a few steps of the load while it runs: waiting, running, or about to be settled.
const SABOTAGE: [&str; 2] = [
    "DELETE FROM queue",
    "UPDATE queue SET lease = NULL, due = false",
];
const A_FEW: &str = "
    WHERE (task_id, step) IN (
          SELECT task_id, step FROM queue WHERE template_id = (SELECT template_id FROM templates WHERE task_name = 'fan')
           ORDER BY random() LIMIT 5)
   RETURNING task_id::text";

type Found = BTreeMap<String, Vec<String>>;

/// The repairs in the event log, by task.
async fn repairs(db: &Session) -> Found {
    let sql = "SELECT task_id::text, array_agg(error_code ORDER BY seq) FROM events WHERE type = 'task.repaired' GROUP BY 1";
    db.query(sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect()
}

async fn violations(db: &Session) -> Vec<String> {
    let rows = db
        .query("SELECT v::text FROM liveness_violations v", &[])
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Breaks a task and returns the codes of the expected repairs.
async fn by_hand(db: &Session, sql: &str, task: &str, found: &[&str]) -> Vec<String> {
    let task = task.parse::<uuid::Uuid>().unwrap();
    assert!(
        db.execute(sql, &[&task]).await.unwrap() > 0,
        "it changed nothing: {sql}"
    );
    found.iter().map(ToString::to_string).collect()
}

/// Number of log lines about each broken task.
fn said(servers: &[ServerProcess]) -> BTreeMap<String, usize> {
    let mut said = BTreeMap::new();
    for line in servers
        .iter()
        .flat_map(ServerProcess::log)
        .filter(|line| line.contains("inconsistent task repaired"))
    {
        *said
            .entry(line.split("task_id=").nth(1).unwrap()[..36].to_owned())
            .or_default() += 1;
    }
    said
}

/// Submits tasks and waits until they wait at `c`.
async fn standing(client: &mut Client, db: &Session, count: usize) -> Vec<String> {
    let mut tasks = Vec::new();
    for _ in 0..count {
        tasks.push(submit(client, "t/stands", "{}").await);
    }
    eventually("they stand", || async {
        let sql =
            "SELECT count(*) FROM tasks WHERE task_id::text = ANY($1) AND steps_done = '\\x03'";
        let n: i64 = db.query_one(sql, &[&tasks]).await.unwrap().get(0);
        (n == i64::try_from(count).unwrap()).then_some(())
    })
    .await;
    tasks
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(
    clippy::too_many_lines,
    reason = "one load, whose expected repairs grow from stage to stage"
)]
async fn damage_by_hand_is_repaired_under_load_alone() {
    let db = TestDb::new().await;
    let servers = [
        ServerProcess::start(db.url()),
        ServerProcess::start(db.url()),
    ];
    let mut client = Client::connect(&servers[0].url).await.unwrap();
    for template in [FAN, ONE, STANDS] {
        register(&mut client, template).await;
    }
    let look = db.connect().await;
    let ledger = Ledger::default();
    let mut workers: Vec<_> = servers
        .iter()
        .map(|server| ledger.worker(&[&server.url], 8, Duration::from_millis(40)))
        .collect();
    let load = Load::start(&servers[1].url, "t/fan", Duration::from_millis(20));

    let stand = standing(&mut client, &look, WAYS.len() * TASKS).await;
    let mut expected = Found::new();
    for (task, (way, found, _)) in stand.iter().zip(WAYS.iter().cycle()) {
        expected.insert(task.clone(), by_hand(&look, way, task, found).await);
    }
    for (way, found) in WAYS_OF_ENDED {
        let id = submit(&mut client, "t/one", "{}").await;
        finished(&mut client, &id).await;
        expected.insert(id.clone(), by_hand(&look, way, &id, found).await);
    }
    let mut sabotaged = BTreeSet::new();
    for sabotage in SABOTAGE.iter().cycle().take(6) {
        let rows = look
            .query(&format!("{sabotage} {A_FEW}"), &[])
            .await
            .unwrap();
        sabotaged.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        !violations(&look).await.is_empty() && sabotaged.len() > 5,
        "{} of the load",
        sabotaged.len()
    );

    eventually("all is mended", || async {
        let found = repairs(&look).await;
        let all = expected
            .keys()
            .chain(&sabotaged)
            .all(|task| found.contains_key(task));
        (all && violations(&look).await.is_empty()).then_some(())
    })
    .await;
    // Only now does a worker serve `later`: until the repairs are seen, `c` must stay in play.
    let builder = Worker::builder([servers[0].url.clone()]);
    workers.push(
        ledger
            .handler(builder, "later", Duration::ZERO)
            .build()
            .unwrap()
            .spawn(),
    );
    let mut ends: BTreeMap<String, &str> = load
        .stop()
        .await
        .into_iter()
        .map(|task| (task, "complete"))
        .collect();
    ends.extend(
        expected
            .keys()
            .filter(|task| !stand.contains(task))
            .map(|task| (task.clone(), "complete")),
    );
    ends.extend(
        stand
            .iter()
            .zip(WAYS.iter().cycle())
            .filter_map(|(task, (.., end))| Some((task.clone(), (*end)?))),
    );
    for (task, end) in &ends {
        let name = state(&finished(&mut client, task).await)
            .as_str_name()
            .to_lowercase();
        assert_eq!(
            name,
            format!("task_state_{end}"),
            "{task}: {:?}",
            expected.get(task)
        );
    }
    let found = repairs(&look).await;
    for (task, codes) in &expected {
        assert_eq!(&found[task], codes, "{task}");
    }
    let touched: Vec<_> = found
        .keys()
        .filter(|task| !expected.contains_key(*task) && !sabotaged.contains(*task))
        .collect();
    assert!(touched.is_empty(), "healthy and yet mended: {touched:?}");
    let times: BTreeMap<_, _> = found
        .iter()
        .map(|(task, codes)| (task.clone(), codes.len()))
        .collect();
    assert_eq!(
        said(&servers),
        times,
        "each is said once, by the server that mended it"
    );
    assert_eq!(violations(&look).await, [""; 0]);
    invariants_after_repairs(&look).await;
    for worker in workers {
        worker.shutdown().await.unwrap();
    }
}

/// The row of a running attempt is gone, or has lost its lease. The server ends the attempt,
/// notifies its worker, and assigns the step again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempt_with_a_damaged_row_is_lost_and_its_worker_notified() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, ONE).await;
    let look = db.connect().await;
    let mut worker = RawWorker::connect(&server.url, &["h"]).await;
    for way in [
        "DELETE FROM queue WHERE task_id = $1",
        "UPDATE queue SET lease = NULL WHERE task_id = $1",
    ] {
        let id = submit(&mut client, "t/one", "{}").await;
        let first = worker.assignment().await;
        by_hand(&look, way, &id, &[]).await;
        let cancel = worker.cancelled().await;
        assert_eq!(
            (&cancel.lease_token, cancel.reason()),
            (&first.lease_token, CancelReason::LeaseLost),
            "{way}"
        );
        let second = worker.assignment().await;
        assert_eq!((second.attempt, second.charged_attempts), (2, 0), "{way}");
        assert_eq!(
            worker.settle(&first, success("1")).await,
            ResultStatus::Stale
        );
        assert_eq!(
            worker.settle(&second, success("2")).await,
            ResultStatus::Accepted
        );
        let task = finished(&mut client, &id).await;
        assert_eq!(
            (state(&task), step(&task, "only").result_json.as_str()),
            (TaskState::Complete, "2"),
            "{way}"
        );
    }
    invariants_after_repairs(&look).await;
}

/// A task whose template this build cannot read stays unchanged; the auditor reports and counts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_cannot_be_repaired_is_counted_until_it_is_gone() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, ONE).await;
    let id = submit(&mut client, "t/one", "{}").await;
    drop(server);
    let look = db.connect().await;
    look.batch_execute(
        "INSERT INTO templates (namespace, task_name, version, yaml) VALUES ('t', 'new', '2.0.0', 'of: another age');
         UPDATE tasks SET template_id = (SELECT max(template_id) FROM templates), steps_live = 3",
    )
    .await
    .unwrap();
    // The engine runs in this process, so that the test can read its counters.
    let config = EngineConfig {
        address: String::new(),
        lease: Duration::from_secs(2),
        tracer: None,
        retain: None,
        environment: String::new(),
        metrics: Arc::default(),
        encode_event: |_, _| unreachable!("nobody has subscribed"),
    };
    let engine = Engine::start(db.db(), config).await.unwrap();
    // Found, repaired, and not repairable.
    let audits = async || engine.gauges().await.audits;
    eventually("it is known", || async {
        (audits().await[2] == 1).then_some(())
    })
    .await;
    assert_eq!(audits().await[..2], [1, 0]);
    by_hand(
        &look,
        "UPDATE tasks SET steps_live = 1, template_id = 1 WHERE task_id = $1",
        &id,
        &[],
    )
    .await;
    eventually("it is well", || async {
        (audits().await[2] == 0).then_some(())
    })
    .await;
    by_hand(
        &look,
        "UPDATE queue SET due = false WHERE task_id = $1",
        &id,
        &[],
    )
    .await;
    eventually("it is mended", || async {
        (audits().await[1] == 1).then_some(())
    })
    .await;
    assert_eq!(audits().await, [2, 1, 0]);
    engine.stop().await;
    invariants_after_repairs(&look).await;
}
