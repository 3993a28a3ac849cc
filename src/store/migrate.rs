//! Brings the schema up to date. Migrations run forward only, each in a transaction, under a lock
//! common to all servers.

use std::time::Duration;

use tokio_postgres::Client;

use super::{Db, StoreError, collision_metrics::Collision};

/// Every migration, in order. A released one is never edited.
const MIGRATIONS: &[(i32, &str, &str)] = &[(
    1,
    "schema",
    include_str!("../../migrations/0001_schema.sql"),
)];

/// Limit on the wait for another process that migrates the same schema.
const TURN_LIMIT: Duration = Duration::from_secs(60);
const TURN_PAUSE: Duration = Duration::from_millis(50);
/// How long a migration is repeated that does not get a lock, and the interval between tries, in
/// which the statements run that waited behind the request for the lock.
const LOCK_LIMIT: Duration = Duration::from_secs(300);
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// Creates the schema if it is missing and applies the missing migrations. Several processes may
/// run this at once. Returns the names of the migrations it applied.
pub async fn migrate(db: &Db) -> Result<Vec<&'static str>, StoreError> {
    // The lock taken below belongs to a session: behind a transaction pooler it would end up in a
    // session that other clients share.
    db.require_own_backends().await?;
    let client = db.connect_to_migrate().await?;
    take_turn(&client, db.schema()).await?;
    prepare_schema(&client, db.schema()).await?;
    let mut applied = Vec::new();
    let mut since = tokio::time::Instant::now();
    loop {
        match apply_next(&client, db.schema()).await {
            Ok(Some(name)) => {
                applied.push(name);
                since = tokio::time::Instant::now();
            }
            Ok(None) => return Ok(applied),
            Err(error)
                if error.collision() == Some(Collision::Lock) && since.elapsed() < LOCK_LIMIT =>
            {
                tracing::info!(%error, "a migration waits for a lock; retrying");
                client.batch_execute("ROLLBACK").await?;
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Applies the first missing migration and returns its name; `None` if no migration is missing.
async fn apply_next(client: &Client, schema: &str) -> Result<Option<&'static str>, StoreError> {
    // Read under the lock of `take_turn`: another process may have migrated while this one waited.
    let at = version(client, schema).await?;
    let missing = MIGRATIONS.iter().find(|(version, ..)| *version > at);
    let Some((version, name, sql)) = missing else {
        return Ok(None);
    };
    // The row of `migrations` commits with its migration, so a crash leaves both or neither.
    client
        .batch_execute(&format!(
            "BEGIN; {sql}; INSERT INTO migrations (version, name) VALUES ({version}, '{name}'); COMMIT;"
        ))
        .await?;
    Ok(Some(name))
}

/// Takes the lock of the cell. The connection owns it, so it is released also when this process
/// dies. The loop polls instead of waiting in Postgres, whose log would record a wait that is given
/// up as an error.
async fn take_turn(client: &Client, schema: &str) -> Result<(), StoreError> {
    let started = tokio::time::Instant::now();
    // The schema is part of the key, so that cells in one database do not wait for each other.
    let sql = "SELECT pg_try_advisory_lock(hashtext('tasker migrate ' || $1))";
    while !client.query_one(sql, &[&schema]).await?.get::<_, bool>(0) {
        if started.elapsed() > TURN_LIMIT {
            return Err(StoreError::Connection(format!(
                "another process has been migrating schema `{schema}` for too long"
            )));
        }
        tokio::time::sleep(TURN_PAUSE).await;
    }
    Ok(())
}

/// The privileges of a role on a schema.
struct Rights {
    role: String,
    database: String,
    exists: bool,
    usage: bool,
    create: bool,
    create_schemas: bool,
    migrations: bool,
}

impl Rights {
    async fn of(client: &Client, schema: &str) -> Result<Self, StoreError> {
        // By the oid, which is NULL for a missing schema; by name these functions would raise an
        // error.
        let sql = "SELECT current_user::text, current_database()::text, n.oid IS NOT NULL,
                          coalesce(has_schema_privilege(n.oid, 'USAGE'), false),
                          coalesce(has_schema_privilege(n.oid, 'CREATE'), false),
                          has_database_privilege(current_database(), 'CREATE'),
                          EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = 'migrations')
                     FROM (SELECT) AS one LEFT JOIN pg_namespace n ON n.nspname = $1::text";
        let row = client.query_one(sql, &[&schema]).await?;
        Ok(Self {
            role: row.get(0),
            database: row.get(1),
            exists: row.get(2),
            usage: row.get(3),
            create: row.get(4),
            create_schemas: row.get(5),
            migrations: row.get(6),
        })
    }
}

/// Creates the schema and the table of migrations where they are missing: a role that owns the
/// schema needs no privilege to create another one.
async fn prepare_schema(client: &Client, schema: &str) -> Result<(), StoreError> {
    let rights = Rights::of(client, schema).await?;
    let Rights { role, database, .. } = &rights;
    if !rights.exists {
        if !rights.create_schemas {
            return Err(StoreError::Schema(format!(
                "there is no schema `{schema}`, and role `{role}` may not create it: as the owner of database `{database}` run \
                 `CREATE SCHEMA {schema} AUTHORIZATION \"{role}\"`, then migrate again"
            )));
        }
        client
            .batch_execute(&format!("CREATE SCHEMA {schema}"))
            .await?;
    } else if !rights.usage || !(rights.create || rights.migrations) {
        // Where the table of migrations exists, CREATE is not required: a schema that is up to date
        // needs no privilege to change it.
        return Err(StoreError::Schema(format!(
            "role `{role}` may not create tables in schema `{schema}`: as the owner of the schema run \
             `GRANT USAGE, CREATE ON SCHEMA {schema} TO \"{role}\"`, then migrate again"
        )));
    }
    // The migrations do not qualify their tables with a schema, so they write to the current one.
    let current: Option<String> = client
        .query_one("SELECT current_schema()::text", &[])
        .await?
        .get(0);
    if current.as_deref() != Some(schema) {
        let current = current.unwrap_or_default();
        return Err(StoreError::Unfit(format!(
            "tables would go to schema `{current}` instead of `{schema}`"
        )));
    }
    if !rights.migrations {
        client
            .batch_execute(
                "CREATE TABLE migrations (
                     version int PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())",
            )
            .await?;
    }
    Ok(())
}

/// Fails unless the schema is exactly at this build's version and the role has its privileges
/// there; the error states the command to run.
pub async fn check(db: &Db) -> Result<(), StoreError> {
    db.require_own_backends().await?;
    let client = db.connect_dedicated().await?;
    let schema = db.schema();
    let rights = Rights::of(&client, schema).await?;
    if rights.exists && !rights.usage {
        return Err(missing(&rights.role, schema, "USAGE on the schema"));
    }
    let at: i32 = match rights.migrations {
        true => {
            let sql = "SELECT has_table_privilege('migrations', 'SELECT')";
            if !client.query_one(sql, &[]).await?.get::<_, bool>(0) {
                return Err(missing(&rights.role, schema, "SELECT on migrations"));
            }
            version(&client, schema).await?
        }
        // Without the table no migration has been applied, whether the schema exists or not.
        false => 0,
    };
    match latest() {
        wanted if at < wanted => Err(StoreError::Schema(format!(
            "schema `{schema}` is at version {at}, this version needs {wanted}: run `tasker migrate`, or start the server with --migrate",
        ))),
        _ => check_tables(&client, &rights.role, schema).await,
    }
}

/// Fails if the role may not read and write all tables.
async fn check_tables(client: &Client, role: &str, schema: &str) -> Result<(), StoreError> {
    // Partitions are left out: statements name the table above them, whose privileges count. Three
    // privileges are named in the error, and a fourth only shows that there are more.
    let sql = "SELECT p || ' on ' || c.relname
                 FROM pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'USAGE']) AS p
                WHERE c.relnamespace = $1::text::regnamespace AND NOT c.relispartition
                  AND CASE WHEN c.relname = 'migrations' THEN false
                           -- Registrations are never updated; retention deletes retired and unused ones.
                           WHEN c.relname IN ('templates', 'template_steps', 'lanes')
                                THEN p IN ('SELECT', 'INSERT', 'DELETE') AND NOT has_table_privilege(c.oid, p)
                           WHEN c.relkind IN ('r', 'p')
                                THEN p <> 'USAGE' AND NOT has_table_privilege(c.oid, p)
                           WHEN c.relkind = 'v' THEN p = 'SELECT' AND NOT has_table_privilege(c.oid, p)
                           WHEN c.relkind = 'S' THEN p = 'USAGE' AND NOT has_sequence_privilege(c.oid, p)
                           ELSE false END
                ORDER BY c.relname, p LIMIT 4";
    let lacking: Vec<String> = client
        .query(sql, &[&schema])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    match lacking.as_slice() {
        [] => Ok(()),
        [three @ .., _] if three.len() == 3 => Err(missing(
            role,
            schema,
            &format!("{} and more", three.join(", ")),
        )),
        all => Err(missing(role, schema, &all.join(", "))),
    }
}

fn missing(role: &str, schema: &str, what: &str) -> StoreError {
    StoreError::Schema(format!(
        "role `{role}` lacks {what}: as the owner of schema `{schema}` run `GRANT USAGE ON SCHEMA {schema} TO \"{role}\"; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO \"{role}\"; \
         GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO \"{role}\"`"
    ))
}

fn latest() -> i32 {
    MIGRATIONS.last().map_or(0, |(version, ..)| *version)
}

/// The version of the schema, 0 for an empty one.
///
/// # Errors
/// This build does not know the version, or another first migration made it.
async fn version(client: &Client, schema: &str) -> Result<i32, StoreError> {
    // The name of the first migration identifies the line of releases: unreleased builds had
    // others.
    let (first, name, _) = MIGRATIONS[0];
    let sql =
        "SELECT coalesce(max(version), 0), coalesce(bool_or(version = $1 AND name <> $2), false)
                 FROM migrations";
    let row = client.query_one(sql, &[&first, &name]).await?;
    let (at, is_foreign): (i32, bool) = (row.get(0), row.get(1));
    if is_foreign {
        return Err(StoreError::Schema(format!(
            "schema `{schema}` was created by an unreleased version of tasker, whose data cannot be migrated: \
             run `DROP SCHEMA {schema} CASCADE` to discard it, then `tasker migrate`; or use another `--schema`"
        )));
    }
    match latest() {
        known if at > known => Err(StoreError::Schema(format!(
            "the database is at schema version {at}, newer than this version knows ({known}): use a newer tasker"
        ))),
        _ => Ok(at),
    }
}
