//! Idempotency keys: taken by a submit, read back, and released by a submit that is not stored.

use tokio_postgres::Row;
use uuid::Uuid;

use crate::store::pipeline::encode::columns;

/// An idempotency key that intake requests.
#[derive(Clone, Debug)]
pub struct KeyRow {
    pub namespace: String,
    pub key: String,
    pub task_id: Uuid,
    pub digest: Vec<u8>,
}

pub(in crate::store) const TAKE_KEYS: &str = "
    INSERT INTO idempotency_keys (namespace, key, task_id, digest)
    SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bytea[])
        ON CONFLICT (namespace, key) DO NOTHING";

columns!(TakenKeys from k: KeyRow {
    namespace: &'a str = &k.namespace,
    key: &'a str = &k.key,
    task_id: Uuid = k.task_id,
    digest: &'a [u8] = &k.digest,
});

pub(in crate::store) const READ_KEYS: &str = "
    SELECT k.*
      FROM unnest($1::text[], $2::text[]) AS u(namespace, key)
     CROSS JOIN LATERAL (
           SELECT namespace, key, task_id, digest FROM idempotency_keys
            WHERE namespace = u.namespace AND key = u.key LIMIT 1) AS k";

columns!(ReadKeys from k: KeyRow {
    namespace: &'a str = &k.namespace,
    key: &'a str = &k.key,
});

/// A row of `READ_KEYS`.
pub(in crate::store) fn key_row(row: &Row) -> KeyRow {
    KeyRow {
        namespace: row.get(0),
        key: row.get(1),
        task_id: row.get(2),
        digest: row.get(3),
    }
}

/// An idempotency key to release, if this task owns it.
#[derive(Clone, Debug)]
pub struct DroppedKey {
    pub namespace: String,
    pub key: String,
    pub task_id: Uuid,
}

pub(in crate::store) const DROP_KEYS: &str = "
    DELETE FROM idempotency_keys k
     USING (SELECT k.tid
              FROM unnest($1::text[], $2::text[], $3::uuid[]) AS u(namespace, key, task_id)
             CROSS JOIN LATERAL (
                   SELECT ctid AS tid FROM idempotency_keys
                    WHERE namespace = u.namespace AND key = u.key AND task_id = u.task_id LIMIT 1) AS k
             LIMIT cardinality($1)) AS u
     WHERE k.ctid = u.tid";

columns!(DroppedKeys from k: DroppedKey {
    namespace: &'a str = &k.namespace,
    key: &'a str = &k.key,
    task_id: Uuid = k.task_id,
});
