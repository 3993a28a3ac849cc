//! What a server costs that has nothing to do.

use std::time::{Duration, Instant};

use tasker::client::Client;
use tokio_postgres::Client as Session;

use crate::{
    load::ONE,
    support::{
        TestDb, connect,
        process::ServerProcess,
        server::register,
        worker::{RawWorker, registration},
    },
};

const WORKERS: usize = 50;
const BUDGET_PER_SECOND: f64 = 5.0;

async fn transactions(admin: &Session, database: &str) -> i64 {
    // Sessions report what they did about once a second.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let sql = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1";
    admin.query_one(sql, &[&database]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_server_with_fifty_workers_leaves_the_database_alone() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    register(&mut Client::connect(&server.url).await.unwrap(), ONE).await;
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(RawWorker::open(&server.url, registration(&["h"], 4)).await.unwrap());
    }
    let database = db.url().rsplit_once('/').unwrap().1.to_owned();
    let admin = connect(&crate::support::shared().await.url()).await;
    let (before, from) = (transactions(&admin, &database).await, Instant::now());
    tokio::time::sleep(Duration::from_secs(8)).await;
    let spent = transactions(&admin, &database).await - before;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let per_second = spent as f64 / from.elapsed().as_secs_f64();
    println!("{WORKERS} idle workers: {per_second:.2} transactions per second");
    assert!(per_second <= BUDGET_PER_SECOND, "{per_second:.2} transactions per second");
}
