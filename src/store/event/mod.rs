//! The event log for readers: the events that are visible in one snapshot and not in another,
//! ordered by `seq`. This module reads events and writes none.

pub mod lookup;

use std::{error::Error, time::SystemTime};

use tokio_postgres::{
    Row,
    types::{FromSql, Kind, ToSql, Type},
};
use uuid::Uuid;

use super::{Db, StoreError};
use crate::domain::{
    attempt::OutcomeKind,
    event::{
        EventType,
        cursor::{Cursor, MAX_RUNNING},
        pg_snapshot::PgSnapshot,
    },
};

/// Number of events after which another mark is worth its row.
const MARK_EVERY: i64 = 2_000;

/// Number of rows decoded before the reader yields to other tasks of the thread.
const AT_ONCE: usize = 500;

/// A row of the log. `lookup` resolves its numbers.
#[derive(Clone, Debug)]
pub struct LoggedEvent {
    pub xid: u64,
    pub seq: i64,
    pub at: SystemTime,
    /// `None` for a type that this build does not know.
    pub kind: Option<EventType>,
    pub template_id: Option<i32>,
    pub task_id: Option<Uuid>,
    pub step: Option<i16>,
    /// Set for an event about a circuit.
    pub service_id: Option<i32>,
    pub attempt: Option<i32>,
    pub outcome: Option<OutcomeKind>,
    pub charged: Option<bool>,
    pub ready_at: Option<SystemTime>,
    pub started_at: Option<SystemTime>,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    pub next_attempt_at: Option<SystemTime>,
    pub worker_id: Option<Uuid>,
    /// For an event about a circuit: a reason as text, or a policy as JSON.
    pub detail: Option<String>,
    pub actor: Option<String>,
}

impl LoggedEvent {
    /// Approximate size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        let texts = [
            &self.error_code,
            &self.error_message,
            &self.detail,
            &self.actor,
        ];
        size_of::<Self>() + texts.into_iter().flatten().map(String::len).sum::<usize>()
    }
}

/// The limit of removed events: every removed event has an xid and a seq below these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// Number of removals.
    pub generation: u64,
    pub xid: u64,
    pub seq: i64,
}

/// The end of a read.
#[derive(Clone, Debug)]
pub struct Page {
    /// The snapshot up to which the read goes.
    pub to: PgSnapshot,
    /// Whether that snapshot was taken by this read, so that no later events are known yet.
    pub is_now: bool,
    /// Whether the read has reached that snapshot.
    pub is_complete: bool,
    pub horizon: Horizon,
    /// The database's time.
    pub now: SystemTime,
}

impl Horizon {
    /// Whether no event after the cursor has been removed since the cursor was issued.
    pub fn allows(&self, cursor: &Cursor) -> bool {
        cursor.generation == self.generation
            // A cursor without a delivered event starts at the oldest event that is left.
            || cursor.is_beginning()
            || cursor.seen.all_over_below() >= self.xid
            // The removed events of the part being read had all been delivered, and the next part
            // lacks none.
            || cursor.within.as_ref().is_some_and(|w| w.seq >= self.seq && w.to.all_over_below() >= self.xid)
    }
}

/// Identifies the database and the schema, since transaction numbers have no meaning elsewhere.
pub async fn cell(db: &Db) -> Result<String, StoreError> {
    let client = db.read().await?;
    let row = client
        .query_one(
            "SELECT s.system_identifier || '/' || d.oid || '/' || 'events'::regclass::oid
               FROM pg_control_system() AS s, pg_database AS d WHERE d.datname = current_database()",
            &[],
        )
        .await?;
    Ok(row.get(0))
}

/// The snapshot of all commits so far, and the limit of removed events.
pub async fn now(db: &Db) -> Result<(PgSnapshot, Horizon), StoreError> {
    let client = db.read().await?;
    let sql =
        "SELECT pg_current_snapshot()::text, h.generation, h.xid::text, h.seq FROM event_horizon h";
    let row = client
        .query_one(&client.prepare_cached(sql).await?, &[])
        .await?;
    Ok((snapshot(&row, 0)?, horizon(&row, 1)?))
}

/// The upper snapshot of a read is the one it began with; else the next mark; else the current one.
/// The events that the cursor has not seen are those of the transactions that were running at its
/// snapshot and of those that began since; both are found by the index, so an old transaction that
/// still runs costs nothing. A mark is no older than the cursor if its end is larger.
///
/// The read has a low cost per event, since it runs beside the engine at full speed: it joins
/// nothing, a row goes from the index into the answer, and the values that hold for the whole page
/// are in a row of their own (docs/performance.md).
macro_rules! read {
    ($between:literal, $end:literal) => {
        concat!(
            "
    WITH r AS MATERIALIZED (
         SELECT coalesce($3::text::pg_snapshot, m.snapshot, pg_current_snapshot()) AS till,
                $3::text IS NULL AND m.snapshot IS NULL AS is_now
           FROM (SELECT) AS one
           LEFT JOIN LATERAL (
                SELECT snapshot FROM event_marks WHERE end_xid > $1::text::xid8 ORDER BY end_xid LIMIT 1) AS m ON true)
    SELECT r.till::text, r.is_now, h.generation, h.xid::text, h.seq, clock_timestamp(),
           NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
      FROM r CROSS JOIN event_horizon h
     UNION ALL
    (SELECT NULL, NULL, NULL, NULL, NULL, NULL, e.*
       FROM (SELECT xid, seq, at, type, template_id, task_id, step, service_id, attempt, outcome, charged, ready_at, started_at,
                    error_code, left(error_message, 1000), next_attempt_at, worker_id, left(detail, 1000), actor
               FROM events
              WHERE xid = ANY($2::text[]::xid8[]) AND seq > $4::int8
                AND pg_visible_in_snapshot(xid, (SELECT till FROM r))
             ",
            $between,
            "
             SELECT xid, seq, at, type, template_id, task_id, step, service_id, attempt, outcome, charged, ready_at, started_at,
                    error_code, left(error_message, 1000), next_attempt_at, worker_id, left(detail, 1000), actor
               FROM events
              WHERE xid >= $1::text::xid8 AND xid < (SELECT pg_snapshot_xmax(till) FROM r) AND seq > $4::int8
                AND pg_visible_in_snapshot(xid, (SELECT till FROM r))) AS e
      ",
            $end,
            " LIMIT $5::int8)"
        )
    };
}

/// Events after a cursor in no order, up to the limit from each of the two groups of transactions
/// (those running at its snapshot, those begun since): all of them, if their sum does not exceed
/// the limit.
pub const READ_ANY: &str = read!(
    ") AS e LIMIT $5::int8) UNION ALL (SELECT NULL, NULL, NULL, NULL, NULL, NULL, e.* FROM (",
    ""
);
/// The first events after a cursor by `seq`: Postgres sorts all of them.
pub const READ_FIRST: &str = read!("UNION ALL", "ORDER BY seq");

/// At most `limit` events after the cursor, by `seq`. Page and horizon come from one statement, so
/// a removal that took events from the page is also in its horizon. In most cases there are fewer
/// events than that, and they are sorted here, where sorting costs less.
pub async fn read(
    db: &Db,
    cursor: &Cursor,
    limit: usize,
) -> Result<(Page, Vec<LoggedEvent>), StoreError> {
    let client = db.read().await?;
    // Numbers of transactions and snapshots travel as text, since the driver has no types for them.
    let (end, running) = (cursor.seen.end().to_string(), cursor.seen.running());
    let running: Vec<String> = running.iter().map(u64::to_string).collect();
    let (to, seq) = match &cursor.within {
        Some(within) => (Some(within.to.to_string()), within.seq),
        None => (None, 0),
    };
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let parameters: [&(dyn ToSql + Sync); 5] = [&end, &running, &to, &seq, &most];
    let ask = async |sql| {
        client
            .query(&client.prepare_cached(sql).await?, &parameters)
            .await
    };
    // A cursor inside an unfinished read most likely has more than a page of events left, so the
    // unordered read would be thrown away.
    let mut rows = if cursor.within.is_some() {
        Vec::new()
    } else {
        ask(READ_ANY).await?
    };
    // The head is a row too, so this means at least `limit` events: one group of the unordered read
    // may have been cut, and then need not contain the first ones.
    if rows.is_empty() || rows.len() > limit {
        rows = ask(READ_FIRST).await?;
    }
    let (mut head, mut events) = (None, Vec::with_capacity(rows.len()));
    for rows in rows.chunks(AT_ONCE) {
        for row in rows {
            match row.get(6) {
                Some(Xid(xid)) => events.push(event(row, xid)),
                None => head = Some(row),
            }
        }
        tokio::task::yield_now().await;
    }
    // Only the unordered read needs this; sorted input costs one pass.
    events.sort_by_key(|event| event.seq);
    let head = head.ok_or_else(|| StoreError::Corrupt("event_horizon is empty".into()))?;
    // A page of exactly `limit` events counts as unfinished: the next read finds that none is left.
    let page = Page {
        to: snapshot(head, 0)?,
        is_now: head.get(1),
        is_complete: events.len() < limit,
        horizon: horizon(head, 2)?,
        now: head.get(5),
    };
    Ok((page, events))
}

/// Stores the current snapshot as a mark, if the log has grown enough since the last one.
pub async fn mark(db: &Db) -> Result<(), StoreError> {
    let client = db.read().await?;
    // The key is the end of the snapshot, so of several servers that store the same mark one wins,
    // and the others do nothing. A snapshot with more than `MAX_RUNNING` transactions is no mark,
    // since a cursor could not contain it.
    let statement = client
        .prepare_cached(
            "INSERT INTO event_marks (end_xid, snapshot, seq)
             SELECT pg_snapshot_xmax(s.now), s.now, s.seq
               FROM (SELECT pg_current_snapshot() AS now, last_value AS seq FROM events_seq_seq) AS s
              WHERE s.seq >= $1 + coalesce((SELECT seq FROM event_marks ORDER BY end_xid DESC LIMIT 1), 0)
                AND (SELECT count(*) FROM pg_snapshot_xip(s.now)) <= $2
                 ON CONFLICT DO NOTHING",
        )
        .await?;
    client
        .execute(
            &statement,
            &[&MARK_EVERY, &i64::try_from(MAX_RUNNING).unwrap_or(i64::MAX)],
        )
        .await?;
    Ok(())
}

fn snapshot(row: &Row, i: usize) -> Result<PgSnapshot, StoreError> {
    let text: &str = row.get(i);
    PgSnapshot::parse(text).ok_or_else(|| StoreError::Corrupt(format!("`{text}` is no snapshot")))
}

fn horizon(row: &Row, i: usize) -> Result<Horizon, StoreError> {
    let generation = row.get::<_, i64>(i).cast_unsigned();
    Ok(Horizon {
        generation,
        xid: xid(row, i + 1)?,
        seq: row.get(i + 2),
    })
}

fn xid(row: &Row, i: usize) -> Result<u64, StoreError> {
    let text: &str = row.get(i);
    text.parse()
        .map_err(|_| StoreError::Corrupt(format!("`{text}` is no transaction number")))
}

fn event(row: &Row, xid: u64) -> LoggedEvent {
    LoggedEvent {
        xid,
        seq: row.get(7),
        at: row.get(8),
        kind: EventType::from_name(row.get::<_, Label<'_>>(9).0),
        template_id: row.get(10),
        task_id: row.get(11),
        step: row.get(12),
        service_id: row.get(13),
        attempt: row.get(14),
        outcome: row
            .get::<_, Option<Label<'_>>>(15)
            .and_then(|outcome| OutcomeKind::from_name(outcome.0)),
        charged: row.get(16),
        ready_at: row.get(17),
        started_at: row.get(18),
        error_code: row.get(19),
        error_message: row.get(20),
        next_attempt_at: row.get(21),
        worker_id: row.get(22),
        detail: row.get(23),
        actor: row.get(24),
    }
}

/// The number of a transaction.
struct Xid(u64);

impl<'a> FromSql<'a> for Xid {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(u64::from_be_bytes(raw.try_into()?)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::XID8
    }
}

/// A value of an enum, by its name. A cast to text would be executed by Postgres for each value.
struct Label<'a>(&'a str);

impl<'a> FromSql<'a> for Label<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(std::str::from_utf8(raw)?))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(ty.kind(), Kind::Enum(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::cursor::Within;

    #[test]
    fn cursor_is_too_old_only_if_later_events_were_removed() {
        let horizon = Horizon {
            generation: 2,
            xid: 100,
            seq: 1_000,
        };
        let snapshot = |text: &str| PgSnapshot::parse(text).expect(text);
        let place = |generation, seen, within: Option<(&str, i64)>| Cursor {
            generation,
            seen: snapshot(seen),
            within: within.map(|(to, seq)| Within {
                to: snapshot(to),
                seq,
            }),
        };
        let table = [
            (place(2, "1:1:", None), true, "nothing was removed since"),
            (
                place(1, "100:100:", None),
                true,
                "what is gone was all delivered",
            ),
            (
                place(1, "99:120:99", None),
                false,
                "99 may have written what is gone",
            ),
            (place(1, "1:1:", None), false, "it has seen less"),
            (place(1, "0:0:", None), true, "it has seen nothing at all"),
            (
                place(1, "1:1:", Some(("100:100:", 1_000))),
                true,
                "delivered in the part that is being read",
            ),
            (
                place(1, "1:1:", Some(("100:100:", 999))),
                false,
                "1000 of the part may be gone",
            ),
            (
                place(1, "1:1:", Some(("99:120:99", 1_000))),
                false,
                "the next part may miss one",
            ),
        ];
        for (cursor, allowed, why) in table {
            assert_eq!(horizon.allows(&cursor), allowed, "{why}");
        }
    }
}
