//! A look of the auditor reads its portions, whatever the database contains, and the portions cover
//! every row.

mod support;

use std::time::Duration;

use support::TestDb;
use tasker::store::{
    Db,
    audit::{self, NEWEST, Position, QUEUE_PORTION, TASKS_PORTION},
    bench::fixtures::{self, Kind},
    template::{self, NewStep, NewTemplate, Registration},
};
use tokio_postgres::Client;
use uuid::Uuid;

const FINISHED: i64 = 25_000;
const WAITING: i64 = 12_000;

/// A database with history and a backlog.
async fn filled() -> (TestDb, Db) {
    let test = TestDb::new().await;
    let db = test.db();
    let steps = ["a", "b", "c", "d", "e"].map(|name| NewStep {
        name,
        handler: "h",
        service: "",
    });
    let new = NewTemplate {
        namespace: "n",
        task_name: "t",
        version: "1.0.0",
        yaml: "",
        environment: "",
        steps: &steps,
    };
    let Ok(Registration::Created(row)) = template::register(&db, new, "").await else {
        panic!("not registered")
    };
    fixtures::fill(&db, Kind::Finished, row.template_id, FINISHED, &|_| {})
        .await
        .unwrap();
    fixtures::fill(&db, Kind::Waiting, row.template_id, WAITING, &|_| {})
        .await
        .unwrap();
    fixtures::vacuum(&db).await.unwrap();
    (test, db)
}

/// Number of looks until `portion` holds for the cursor, and the suspects that they found.
async fn round(db: &Db, portion: impl Fn(Position) -> bool) -> (i64, Vec<Uuid>) {
    let (mut cursor, mut looks, mut found) = (Position::default(), 0, Vec::new());
    loop {
        let scan = audit::scan(db, cursor, &[]).await.unwrap().unwrap();
        looks += 1;
        found.extend(scan.suspects);
        cursor = scan.next;
        if portion(cursor) {
            found.sort_unstable();
            found.dedup();
            return (looks, found);
        }
    }
}

/// Rows of `tasks` and of `queue` that looks have read: by sequential scan, and by index.
async fn reads(db: &Db, counts: &Client) -> [(i64, i64); 2] {
    // A session reports its counts at the end of a statement, if a second has passed since its last
    // report.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    db.patient()
        .await
        .unwrap()
        .batch_execute("SELECT 1")
        .await
        .unwrap();
    counts
        .batch_execute("SELECT pg_stat_clear_snapshot()")
        .await
        .unwrap();
    let sql = "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_user_tables WHERE relname IN ('tasks', 'queue')
                ORDER BY relname DESC";
    let rows = counts.query(sql, &[]).await.unwrap();
    [0, 1].map(|i| (rows[i].get(0), rows[i].get(1)))
}

#[tokio::test]
async fn audit_visits_every_row_in_bounded_portions() {
    let (test, db) = filled().await;
    let look = test.connect().await;
    let all_tasks = |cursor: Position| cursor.tasks == Position::default().tasks;
    let all_steps = |cursor: Position| cursor.queue == Position::default().queue;
    assert_eq!(
        round(&db, all_tasks).await,
        ((FINISHED + WAITING) / TASKS_PORTION + 1, vec![]),
        "all is well"
    );
    assert_eq!(
        round(&db, all_steps).await,
        (WAITING / QUEUE_PORTION + 1, vec![])
    );

    // The oldest and the newest task of each kind, and one in the middle: each at the edge of a
    // portion, or within one.
    let broken = async |sql: &str, column: &str| -> Vec<Uuid> {
        let sql = format!("WITH r AS (SELECT task_id, row_number() OVER (ORDER BY task_id) AS n, count(*) OVER () AS all FROM {column})
                           {sql} WHERE task_id IN (SELECT task_id FROM r WHERE n IN (1, 5000, 5001, 10000, \"all\" / 2, \"all\"))
                           RETURNING task_id");
        let mut ids: Vec<Uuid> = look
            .query(&sql, &[])
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        ids.sort_unstable();
        ids
    };
    let asleep = broken(
        "UPDATE queue SET due = false, next_attempt_at = NULL",
        "queue",
    )
    .await;
    assert_eq!(
        (asleep.len(), round(&db, all_steps).await.1),
        (6, asleep.clone())
    );
    look.execute("DELETE FROM queue WHERE task_id = ANY($1)", &[&asleep])
        .await
        .unwrap();
    assert_eq!(
        round(&db, all_tasks).await.1,
        asleep,
        "now they have nothing in play"
    );
    let ended = broken(
        "UPDATE tasks SET ended_at = NULL",
        "tasks WHERE state = 'complete'",
    )
    .await;
    let mut all = [asleep, ended].concat();
    all.sort_unstable();
    assert_eq!((all.len(), round(&db, all_tasks).await.1), (12, all));

    let before = reads(&db, &look).await;
    let (looks, _) = round(&db, all_tasks).await;
    let after = reads(&db, &look).await;
    let spent: Vec<(i64, i64)> = before
        .iter()
        .zip(&after)
        .map(|(b, a)| (a.0 - b.0, a.1 - b.1))
        .collect();
    let each = NEWEST + TASKS_PORTION + QUEUE_PORTION;
    println!("{looks} looks read {spent:?} rows of tasks and of the queue");
    for (walked, by_index) in spent {
        assert_eq!(walked, 0, "somebody walked through a table");
        assert!(by_index <= looks * each, "{by_index} rows in {looks} looks");
    }
}

/// Of two servers only one looks at a time.
#[tokio::test]
async fn audit_runs_on_one_server_at_a_time() {
    let test = TestDb::new().await;
    let other = test.connect().await;
    let turn = "BEGIN; SELECT pg_advisory_xact_lock(hashtext('tasker audit ' || current_schema()))";
    other.batch_execute(turn).await.unwrap();
    assert_eq!(
        audit::scan(&test.db(), Position::default(), &[])
            .await
            .unwrap(),
        None
    );
    other.batch_execute("COMMIT").await.unwrap();
    assert!(
        audit::scan(&test.db(), Position::default(), &[])
            .await
            .unwrap()
            .is_some()
    );
}
