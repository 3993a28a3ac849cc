//! Transactions that Postgres aborts, for a while or for good; and limits that keep one transaction
//! from delaying the others.

use std::time::{Duration, Instant};

use tasker::{
    proto::{self, ResultStatus, TaskState},
    server::{self, ServerConfig},
    store::{Db, collision_metrics::Collision},
};
use tasker_worker::client::Client;
use tokio_postgres::Client as Session;

use crate::{
    load::ONE,
    support::{
        SCHEMA, TestDb,
        invariants::invariants,
        process::ServerProcess,
        server::{eventually, finished, register, state, submit},
        worker::{RawWorker, success},
    },
};

/// A server in this process, so that the test can read its counters.
struct Counting {
    url: String,
    db: Db,
    running: tokio::task::JoinHandle<()>,
}

impl Counting {
    async fn start(db: &TestDb) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let db = Db::new(db.url(), SCHEMA).unwrap();
        let its = db.clone();
        let running = tokio::spawn(async move {
            server::run(
                listener,
                its,
                ServerConfig::default(),
                std::future::pending(),
            )
            .await
            .unwrap();
        });
        Self { url, db, running }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Makes the next `times` writes of this kind fail with this code. A rollback does not reset a
/// sequence, so the sequence counts the failures.
async fn fail(db: &Session, on: &str, code: &str, times: i64) {
    let sql = format!(
        "CREATE SEQUENCE failures;
         CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('failures') <= {times} THEN RAISE EXCEPTION 'made to fail' USING ERRCODE = '{code}'; END IF;
             RETURN NULL; END $$;
         CREATE TRIGGER fail AFTER {on} FOR EACH ROW EXECUTE FUNCTION fail();"
    );
    db.batch_execute(&sql).await.unwrap();
}

async fn failures(db: &Session) -> i64 {
    db.query_one("SELECT last_value FROM failures", &[])
        .await
        .unwrap()
        .get(0)
}

async fn serialization_failures_are_tried_again_and_counted(on: &str) {
    let db = TestDb::new().await;
    let server = Counting::start(&db).await;
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, ONE).await;
    let look = db.connect().await;
    fail(&look, on, "40001", 3).await;
    let id = submit(&mut client, "t/one", "{}").await;
    // After the submit, so that the dispatcher hands the step out, not intake.
    let mut worker = RawWorker::connect(&server.url, &["h"]).await;
    let assignment = worker.assignment().await;
    assert_eq!(
        worker.settle(&assignment, success("1")).await,
        ResultStatus::Accepted
    );
    assert_eq!(
        state(&finished(&mut client, &id).await),
        TaskState::Complete
    );
    assert_eq!(
        server.db.collisions().get(Collision::Serialization),
        3,
        "{on}"
    );
    invariants(&look).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn collisions_of_intake_dispatch_and_settle_are_retried() {
    for on in ["INSERT ON tasks", "UPDATE ON queue", "INSERT ON steps"] {
        serialization_failures_are_tried_again_and_counted(on).await;
    }
}

/// Another transaction locks the task and then waits for its step, while the settler holds the step
/// and waits for the task.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlock_is_retried_and_counted() {
    let db = TestDb::new().await;
    let server = Counting::start(&db).await;
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, ONE).await;
    let mut worker = RawWorker::connect(&server.url, &["h"]).await;
    let id = submit(&mut client, "t/one", "{}").await;
    let assignment = worker.assignment().await;
    let other = db.connect().await;
    // Postgres aborts the transaction whose deadlock check runs first; this one waits 20 s before
    // it checks.
    other
        .batch_execute("SET deadlock_timeout = '20s'; BEGIN; SELECT FROM tasks FOR UPDATE")
        .await
        .unwrap();
    let settled = worker.settle(&assignment, success("1"));
    let asks = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        other
            .batch_execute("SELECT FROM queue FOR UPDATE; COMMIT")
            .await
            .unwrap();
    };
    assert_eq!(tokio::join!(settled, asks).0, ResultStatus::Accepted);
    assert_eq!(
        state(&finished(&mut client, &id).await),
        TaskState::Complete
    );
    assert_eq!(server.db.collisions().get(Collision::Deadlock), 1);
    invariants(&db.connect().await).await;
}

/// An operator's transaction locks the rows of a task and stays open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_locked_by_another_session_delays_only_itself() {
    let db = TestDb::new().await;
    let server = Counting::start(&db).await;
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, ONE).await;
    let mut worker = RawWorker::connect(&server.url, &["h"]).await;
    let locked = submit(&mut client, "t/one", "{}").await;
    let stuck = worker.assignment().await;
    let other = db.connect().await;
    other
        .batch_execute("BEGIN; SELECT FROM tasks FOR UPDATE")
        .await
        .unwrap();
    worker.answer(&stuck.lease_token, success("1")).await;
    let (begun, mut slowest) = (Instant::now(), Duration::ZERO);
    for _ in 0..10 {
        let asked = Instant::now();
        let id = submit(&mut client, "t/one", "{}").await;
        let assignment = worker.assignment().await;
        assert_eq!(
            worker.settle(&assignment, success("1")).await,
            ResultStatus::Accepted
        );
        assert_eq!(
            state(&finished(&mut client, &id).await),
            TaskState::Complete
        );
        slowest = slowest.max(asked.elapsed());
    }
    println!(
        "ten tasks in {:?} beside a locked one, the slowest in {slowest:?}",
        begun.elapsed()
    );
    // One lock time-out before it, and no more.
    assert!(
        slowest < Duration::from_secs(10),
        "a task took {slowest:?} beside a locked one"
    );
    assert!(server.db.collisions().get(Collision::Lock) >= 1);
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(worker.ack().await.status(), ResultStatus::Accepted);
    assert_eq!(
        state(&finished(&mut client, &locked).await),
        TaskState::Complete
    );
    invariants(&db.connect().await).await;
}

/// A failure that does not pass is logged once, and retried ever less often.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lasting_failure_is_logged_once_and_retried_with_back_off() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, ONE).await;
    let look = db.connect().await;
    fail(&look, "UPDATE ON queue", "P0001", 1_000_000).await;
    let id = submit(&mut client, "t/one", "{}").await;
    let mut worker = RawWorker::connect(&server.url, &["h"]).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let tries = failures(&look).await;
    println!("{tries} tries in 4 s");
    assert!((3..=8).contains(&tries), "{tries} tries in 4 s");
    let said = server
        .log()
        .iter()
        .filter(|line| line.contains("ERROR") && line.contains("made to fail"))
        .count();
    assert_eq!(said, 1, "{:#?}", server.log());
    look.batch_execute("DROP TRIGGER fail ON queue")
        .await
        .unwrap();
    let assignment = worker.assignment().await;
    worker.settle(&assignment, success("1")).await;
    assert_eq!(
        state(&finished(&mut client, &id).await),
        TaskState::Complete
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_reads_share_few_sessions() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, ONE).await;
    let id = submit(&mut client, "t/one", "{}").await;
    let look = db.connect().await;
    let reads: Vec<_> = (0..200)
        .map(|_| {
            let (mut client, task_id) = (client.clone(), id.clone());
            tokio::spawn(async move {
                for _ in 0..5 {
                    client
                        .tasks
                        .get_task(proto::GetTaskRequest {
                            task_id: task_id.clone(),
                        })
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    let mut most = 0;
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tasker'";
    while !reads.iter().all(tokio::task::JoinHandle::is_finished) {
        most = most.max(
            look.query_one(sessions, &[])
                .await
                .unwrap()
                .get::<_, i64>(0),
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for read in reads {
        read.await.unwrap();
    }
    println!("200 readers, {most} sessions");
    // Eight for reads, one for each of three loops, one for notifications.
    assert!(most <= 12, "{most} sessions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_session_has_its_time_limits() {
    let db = TestDb::new().await;
    let _server = ServerProcess::start(db.url());
    let own = db.db();
    let limits = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')";
    let row = own
        .read()
        .await
        .unwrap()
        .query_one(limits, &[])
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1)), ("30s", "10s"));
    let row = own
        .connect_dedicated()
        .await
        .unwrap()
        .query_one(limits, &[])
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1)), ("30s", "2s"));
    // A read ends before any of these limits.
    let asked = Instant::now();
    let slow = own
        .read()
        .await
        .unwrap()
        .batch_execute("SELECT pg_sleep(20)")
        .await;
    assert!(
        slow.unwrap_err().is_transient() && asked.elapsed() < Duration::from_secs(8),
        "{:?}",
        asked.elapsed()
    );
    eventually("nobody waits behind it", || async {
        own.read().await.ok()?.query_one("SELECT 1", &[]).await.ok()
    })
    .await;
}
