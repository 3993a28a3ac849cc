//! Reads the first claimable steps of lanes, without a lock or with one.

use tokio_postgres::Row;
use uuid::Uuid;

use crate::store::pipeline::encode::columns;

/// A step that can be claimed.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub task_id: Uuid,
    pub step: i16,
    pub template_id: i32,
    pub lane_id: i32,
    pub priority: i16,
    /// Upper bound on the size of its assignment; 0 where every worker accepts that size.
    pub bytes: i32,
    /// The task's revision.
    pub revision: i32,
}

/// How many claimable steps of a lane to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneDemand {
    pub lane_id: i32,
    pub limit: i32,
    /// Upper bound on the size of an assignment; larger ones are passed over.
    pub bytes: i32,
}

columns!(Lanes from lane: LaneDemand {
    lane_id: i32 = lane.lane_id,
    limit: i32 = lane.limit,
    bytes: i32 = lane.bytes,
});

pub(in crate::store) const PEEK: &str = "
    SELECT q.*
      FROM unnest($1::int4[], $2::int4[], $3::int4[]) AS l(lane_id, n, bytes)
     CROSS JOIN LATERAL (
           SELECT task_id, step, template_id, lane_id, priority, coalesce(assignment_bytes, 0), coalesce(revision, 0)
             FROM queue
            WHERE queue.lane_id = l.lane_id AND due AND coalesce(expires_at > clock_timestamp(), true)
              AND coalesce(assignment_bytes <= l.bytes, true)
            ORDER BY priority DESC, task_id, step LIMIT l.n) q";

pub(in crate::store) const LOCK_READY: &str = "
    SELECT q.*
      FROM unnest($1::int4[], $2::int4[], $3::int4[]) AS l(lane_id, n, bytes)
     CROSS JOIN LATERAL (
           SELECT task_id, step, template_id, lane_id, priority, coalesce(assignment_bytes, 0), coalesce(revision, 0)
             FROM queue
            WHERE queue.lane_id = l.lane_id AND due AND coalesce(expires_at > clock_timestamp(), true)
              AND coalesce(assignment_bytes <= l.bytes, true)
            ORDER BY priority DESC, task_id, step LIMIT l.n FOR UPDATE SKIP LOCKED) q";

/// A row of either statement.
pub(in crate::store) fn candidate(row: &Row) -> Candidate {
    Candidate {
        task_id: row.get(0),
        step: row.get(1),
        template_id: row.get(2),
        lane_id: row.get(3),
        priority: row.get(4),
        bytes: row.get(5),
        revision: row.get(6),
    }
}
