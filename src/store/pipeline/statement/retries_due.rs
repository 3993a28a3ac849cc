//! Promotes due retries, and finds the time of the next one.

/// Marks due retries as claimable. Bounded; the next statement promotes the rest.
pub(in crate::store) const PROMOTE: &str = "
    UPDATE queue q SET due = true
      FROM (SELECT ctid AS tid FROM queue
             WHERE next_attempt_at IS NOT NULL AND NOT due AND NOT paused AND next_attempt_at <= clock_timestamp()
             ORDER BY next_attempt_at LIMIT $1 FOR UPDATE SKIP LOCKED) AS due
     WHERE q.ctid = due.tid
    RETURNING q.lane_id";

/// Bound on the retries that one statement promotes.
pub(in crate::store) const MAX_PROMOTED: i64 = 1_000;

pub(in crate::store) const NEXT_RETRY: &str = "
    SELECT extract(epoch FROM next_attempt_at - clock_timestamp())::float8
      FROM queue WHERE next_attempt_at IS NOT NULL AND NOT due AND NOT paused ORDER BY next_attempt_at LIMIT 1";

pub(in crate::store) const ANYTHING_DUE: &str = "
    SELECT EXISTS (SELECT FROM unnest($1::int4[], $2::int4[]) AS l(lane_id, bytes)
                    CROSS JOIN LATERAL (SELECT FROM queue WHERE queue.lane_id = l.lane_id AND due
                                              AND coalesce(expires_at > clock_timestamp(), true)
                                              AND coalesce(assignment_bytes <= l.bytes, true) LIMIT 1) q),
           (SELECT extract(epoch FROM next_attempt_at - clock_timestamp())::float8
              FROM queue WHERE next_attempt_at IS NOT NULL AND NOT due AND NOT paused ORDER BY next_attempt_at LIMIT 1)";
