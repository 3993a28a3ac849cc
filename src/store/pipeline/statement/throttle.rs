//! Throttles services whose answers have a `retry_after`.

use crate::store::pipeline::encode::columns;

/// A service that throttles its callers by `retry_after`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throttle {
    pub service_id: i32,
    pub seconds: f64,
}

/// Extends a throttle that has not ended, and never shortens it. The history has one row for it,
/// however often it was extended.
pub(in crate::store) const THROTTLE: &str = "
    WITH u AS (
        SELECT u.service_id, c.now, c.now + make_interval(secs => u.seconds) AS until, s.tid,
               coalesce(s.throttled_until > c.now, false) AS goes_on
          FROM (SELECT coalesce($3::timestamptz, now()) AS now) AS c
         CROSS JOIN unnest($1::int4[], $2::float8[]) AS u(service_id, seconds)
         CROSS JOIN LATERAL (
               SELECT ctid AS tid, throttled_until FROM services WHERE service_id = u.service_id LIMIT 1 FOR UPDATE) AS s
         WHERE s.throttled_until IS NULL OR s.throttled_until < c.now + make_interval(secs => u.seconds)
         LIMIT cardinality($1)),
    longer AS (UPDATE services s SET throttled_until = u.until, version = version + 1 FROM u WHERE s.ctid = u.tid),
    known AS (
        UPDATE circuit_changes h SET until = u.until
          FROM (SELECT u.until, h.tid
                  FROM u CROSS JOIN LATERAL (
                       SELECT ctid AS tid FROM circuit_changes
                        WHERE service_id = u.service_id AND type = 'circuit.paused' ORDER BY at DESC LIMIT 1) AS h
                 WHERE u.goes_on LIMIT cardinality($1)) AS u
         WHERE h.ctid = u.tid),
    new AS (
        INSERT INTO circuit_changes (service_id, at, type, until, detail)
        SELECT service_id, now, 'circuit.paused', until, 'retry_after of the service' FROM u WHERE NOT goes_on)
    INSERT INTO events (at, type, service_id, next_attempt_at)
    SELECT now, 'circuit.paused', service_id, until FROM u WHERE NOT goes_on";

columns!(Throttles from throttle: Throttle {
    service_id: i32 = throttle.service_id,
    seconds: f64 = throttle.seconds,
});
