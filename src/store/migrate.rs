//! Brings the schema up to date. Migrations run forward only, each in a transaction, under a lock that all servers share.

use super::{Db, StoreError};

/// Every migration, in order. A released one is never edited.
const MIGRATIONS: &[(i32, &str, &str)] = &[
    (1, "initial", include_str!("../../migrations/0001_initial.sql")),
    (2, "events", include_str!("../../migrations/0002_events.sql")),
    (3, "operators", include_str!("../../migrations/0003_operators.sql")),
    (4, "adapting", include_str!("../../migrations/0004_adapting.sql")),
];

/// Creates the schema if it is missing and applies what is missing in it. Safe to run by several processes at once.
/// Returns the names of the migrations it applied.
pub async fn migrate(db: &Db) -> Result<Vec<&'static str>, StoreError> {
    let client = db.connect_hot().await?;
    let schema = db.schema();
    // One lock per cell; it goes with the connection, also when this process dies.
    client.execute("SELECT pg_advisory_lock(hashtext('tasker migrate ' || $1))", &[&schema]).await?;
    client
        .batch_execute(&format!(
            "CREATE SCHEMA IF NOT EXISTS {schema};
             CREATE TABLE IF NOT EXISTS migrations (
                 version int PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());"
        ))
        .await?;
    let at: i32 = client.query_one("SELECT coalesce(max(version), 0) FROM migrations", &[]).await?.get(0);
    refuse_newer(at)?;
    let mut applied = Vec::new();
    for (version, name, sql) in MIGRATIONS.iter().filter(|(version, ..)| *version > at) {
        client
            .batch_execute(&format!(
                "BEGIN; {sql}; INSERT INTO migrations (version, name) VALUES ({version}, '{name}'); COMMIT;"
            ))
            .await?;
        applied.push(*name);
    }
    Ok(applied)
}

/// Fails unless the schema is exactly at this build's version; the error says what to run.
pub async fn check(db: &Db) -> Result<(), StoreError> {
    let client = db.read().await?;
    let exists: bool = client.query_one("SELECT to_regclass('migrations') IS NOT NULL", &[]).await?.get(0);
    let at: i32 = match exists {
        true => client.query_one("SELECT coalesce(max(version), 0) FROM migrations", &[]).await?.get(0),
        false => 0,
    };
    refuse_newer(at)?;
    match latest() {
        wanted if at < wanted => Err(StoreError::Schema(format!(
            "schema `{}` is at version {at}, this build needs {wanted}: run `tasker migrate`, or start the server with --migrate",
            db.schema()
        ))),
        _ => Ok(()),
    }
}

fn latest() -> i32 {
    MIGRATIONS.last().map_or(0, |(version, ..)| *version)
}

fn refuse_newer(at: i32) -> Result<(), StoreError> {
    match latest() {
        known if at > known => Err(StoreError::Schema(format!(
            "the database is at schema version {at}, newer than this build knows ({known}): use a newer tasker"
        ))),
        _ => Ok(()),
    }
}
