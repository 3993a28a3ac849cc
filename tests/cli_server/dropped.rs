//! Postgres cancels the query of a caller that has gone away, and the query's turn ends only then.

use std::time::{Duration, Instant};

use tasker::{proto, store::deadline::DeadlineClient};
use tokio_postgres::Client;

use super::support::{
    TestDb,
    server::{Bench, PATIENCE, eventually, register},
};

const YAML: &str = "
task_name: t
namespace: n
version: 1.0.0
step_templates:
  - {name: a, handler: h}
";
/// Sooner than any time-out of a statement or a lock.
const SOON: Duration = Duration::from_secs(8);
/// The most queries of this kind at once.
const TURNS: i64 = 2;

/// Sends the query and drops it in the middle.
pub async fn leave(session: DeadlineClient, sql: &str) {
    let asked = tokio::time::timeout(Duration::from_millis(300), session.query(sql, &[]));
    assert!(asked.await.is_err(), "the question takes longer");
}

/// Number of running statements like this.
async fn running(look: &Client, like: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE $1 AND pid <> pg_backend_pid()";
    look.query_one(sql, &[&like]).await.unwrap().get(0)
}

/// Waits until no such statement runs.
pub async fn runs_no_more(look: &Client, like: &str) {
    let left = Instant::now();
    while running(look, like).await > 0 {
        assert!(
            left.elapsed() < SOON,
            "it runs on after {:?}",
            left.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn cancelled_query_releases_its_connection() {
    let test = TestDb::new().await;
    let (db, look) = (test.db(), test.connect().await);
    for _ in 0..3 {
        let (one, two) = (db.long_read().await.unwrap(), db.long_read().await.unwrap());
        tokio::join!(
            leave(one, "SELECT pg_sleep(21)"),
            leave(two, "SELECT pg_sleep(21)")
        );
        // The next query gets its turn as soon as one of these is over, and never runs beside both.
        let next = db.long_read().await.unwrap();
        assert!(running(&look, "%pg_sleep(21)%").await < TURNS);
        next.query_one("SELECT 1", &[]).await.unwrap();
    }
    runs_no_more(&look, "%pg_sleep(21)%").await;
    // A dropped query that ends by itself in a moment keeps its connection.
    let session = db.read().await.unwrap();
    let pid: i32 = session
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    drop(
        tokio::time::timeout(
            Duration::from_millis(1),
            session.query("SELECT pg_sleep(0.03)", &[]),
        )
        .await,
    );
    drop(session);
    let again = eventually("it is in the pool", || async {
        let session = db.read().await.ok()?;
        Some(
            session
                .query_one("SELECT pg_backend_pid()", &[])
                .await
                .ok()?
                .get::<_, i32>(0)
                == pid,
        )
        .filter(|same| *same)
    });
    assert!(again.await);
}

#[tokio::test]
async fn dropped_call_leaves_no_query_running() {
    let mut bench = Bench::new().await;
    register(&mut bench.client, YAML).await;
    bench.submit("n/t", "{}").await;
    let look = bench.db.connect().await;
    let mut blocker = bench.db.connect().await;
    let lock = blocker.transaction().await.unwrap();
    // While the table is locked, a query of it ends only if Postgres cancels it.
    lock.batch_execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();

    let analytics = "%first_task_id(w.begins)%";
    // Four calls share two turns: the next round gets one only after the dropped queries have
    // ended.
    for round in 0..3 {
        let calls: Vec<_> = (0..4)
            .map(|_| {
                let mut client = bench.client.clone();
                let request = proto::GetPerformanceRequest {
                    namespace: "n".into(),
                    ..Default::default()
                };
                tokio::spawn(async move { client.analytics.get_performance(request).await })
            })
            .collect();
        let asked = Instant::now();
        while running(&look, analytics).await == 0 {
            assert!(
                asked.elapsed() < PATIENCE,
                "no question runs in round {round}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        calls.iter().for_each(tokio::task::JoinHandle::abort);
        assert!(running(&look, analytics).await <= TURNS);
    }
    runs_no_more(&look, analytics).await;

    let count = "%SELECT count(*) FROM (SELECT 1 FROM tasks%";
    let mut client = bench.client.clone();
    let request = proto::OrderTasksRequest {
        filter: Some(proto::TaskFilter {
            namespace: "n".into(),
            ..Default::default()
        }),
        order: proto::BulkOrder::Retry.into(),
        dry_run: true,
        by: "ann".into(),
        reason: "a test".into(),
        ..Default::default()
    };
    let call = tokio::spawn(async move {
        client
            .tasks
            .order_tasks(request)
            .await
            .unwrap()
            .into_inner()
            .message()
            .await
    });
    let asked = Instant::now();
    while running(&look, count).await == 0 {
        assert!(
            asked.elapsed() < PATIENCE && !call.is_finished(),
            "nothing is counted"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    call.abort();
    runs_no_more(&look, count).await;
    lock.rollback().await.unwrap();
}
