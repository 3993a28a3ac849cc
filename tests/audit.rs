//! What a look of the auditor costs: it reads portions, whatever the database holds.

mod support;

use std::time::Instant;

use support::TestDb;
use tasker::store::{
    audit::{self, Cursor, NEWEST, QUEUE_PORTION, TASKS_PORTION},
    fill::{self, Kind},
    template::{self, NewStep, NewTemplate, Registration},
};
use tokio_postgres::Client;

const FINISHED: i64 = 60_000;
const WAITING: i64 = 30_000;

/// Rows that statements have read of a table, by walking through it and by index.
async fn reads(db: &Client, table: &str) -> (i64, i64) {
    db.batch_execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    let sql = "SELECT seq_tup_read, idx_tup_fetch FROM pg_stat_user_tables WHERE relname = $1";
    let row = db.query_one(sql, &[&table]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test]
async fn a_look_reads_its_portions_and_the_portions_cover_everything() {
    let test = TestDb::new().await;
    let db = test.db();
    let steps = ["a", "b", "c", "d", "e"].map(|name| NewStep { name, handler: "h", service: "" });
    let new = NewTemplate { namespace: "n", task_name: "t", version: "1.0.0", yaml: "", steps: &steps };
    let Ok(Registration::Created(row)) = template::register(&db, new, "").await else { panic!("not registered") };
    fill::fill(&db, Kind::Finished, row.template_id, FINISHED, &|_| {}).await.unwrap();
    fill::fill(&db, Kind::Waiting, row.template_id, WAITING, &|_| {}).await.unwrap();
    fill::settle(&db).await.unwrap();
    let mut cursor = Cursor::default();
    let mut slow = vec![];
    for _ in 0..14 {
        let at = Instant::now();
        let look = audit::look(&db, cursor, &[]).await.unwrap().unwrap();
        slow.push(at.elapsed().as_micros());
        assert!(look.suspects.is_empty());
        cursor = look.next;
    }
    println!("{slow:?}");
    let e = db.connect_hot().await.unwrap();
    e.batch_execute(&format!("SET enable_bitmapscan=on; PREPARE l AS {}", audit::LOOK)).await.unwrap();
    for m in e.simple_query("EXPLAIN (ANALYZE, BUFFERS) EXECUTE l('00000000-0000-0000-0000-000000000000', 0, 10000, 2000, 'ffffffff-ffff-ffff-ffff-ffffffffffff', 10000, '{}')").await.unwrap() {
        if let tokio_postgres::SimpleQueryMessage::Row(r) = m { println!("{}", r.get(0).unwrap()); }
    }
    let c = test.connect().await;
    println!("{:?}", reads(&c, "tasks").await);
}
