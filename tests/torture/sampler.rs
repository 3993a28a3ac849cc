//! Checks the invariants during the run: they hold in every snapshot.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tokio_postgres::Client;

use crate::{
    client::{Clients, UNKNOWN},
    operator,
    support::invariants,
    world::World,
};

/// Interval between counts of the unfinished tasks.
const GAUGE: Duration = Duration::from_millis(100);
/// Shortest rest between two looks at the invariants.
const REST: Duration = Duration::from_millis(1_500);
/// Shortest rest between two looks for rows that nothing wakes.
const SHORT_REST: Duration = Duration::from_millis(700);
/// A look reads all tables, so it rests this many times as long as it took.
const REST_FACTOR: u32 = 3;

/// Samples until it is dropped, and lifts pauses that no operator keeps.
pub async fn run(world: &World, clients: &Clients) {
    tokio::join!(
        gauge(world, clients),
        look(world, REST, once),
        look(world, SHORT_REST, stuck),
        Box::pin(operator::release(world, clients))
    );
}

async fn gauge(world: &World, clients: &Clients) {
    let mut session: Option<Client> = None;
    loop {
        tokio::time::sleep(GAUGE).await;
        let db = match session.take() {
            Some(db) => Ok(db),
            None => world.session().await,
        };
        let counted = match &db {
            Ok(db) => open_tasks(db).await,
            Err(error) => Err(error.clone()),
        };
        clients.open.store(
            counted.as_ref().copied().unwrap_or(UNKNOWN),
            Ordering::Relaxed,
        );
        session = db.ok().filter(|_| counted.is_ok());
    }
}

/// Number of tasks with a step in play.
pub async fn open_tasks(db: &Client) -> Result<i64, String> {
    let count = db.query_one("SELECT count(DISTINCT task_id) FROM queue", &[]);
    let row = tokio::time::timeout(Duration::from_secs(2), count)
        .await
        .map_err(|_| "no answer".to_owned())?;
    row.map(|row| row.get(0)).map_err(|error| error.to_string())
}

async fn look(world: &World, rest: Duration, once: impl AsyncFn(&World) -> Option<Vec<String>>) {
    loop {
        let begun = Instant::now();
        world.chronicle.sample(once(world).await);
        tokio::time::sleep(rest.max(begun.elapsed() * REST_FACTOR)).await;
    }
}

/// The invariants that do not hold, or `None` if the database does not answer.
pub async fn once(world: &World) -> Option<Vec<String>> {
    let db = world.session().await.ok()?;
    invariants::broken(&db).await.ok()
}

/// Rows that nothing would wake: one of the invariants, but cheap to check, and so checked more
/// often.
async fn stuck(world: &World) -> Option<Vec<String>> {
    let db = world.session().await.ok()?;
    let rows = db.query("SELECT v::text FROM liveness_violations v LIMIT 5", &[]);
    let rows = tokio::time::timeout(Duration::from_secs(10), rows)
        .await
        .ok()?
        .ok()?;
    Some(
        rows.iter()
            .map(|row| format!("nothing wakes {}", row.get::<_, String>(0)))
            .collect(),
    )
}
