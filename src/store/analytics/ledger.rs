//! The statement that attributes the time of steps to causes.
//!
//! It splits a wait between two attempts, or before the first, by what delayed the step at each
//! moment. Everything that begins or ends in a lane (a circuit that opens, a throttle, a connection
//! of a worker, a step of a limited service) is a point on a line; the state between two points is
//! constant, so each piece has one cause. The total of each cause from the beginning of the line up
//! to a point is a running sum, and a wait is the difference of two of them. So the whole costs a
//! few sorts, whatever overlaps, and the parts of a wait sum to it because they are pieces of one
//! line.
//!
//! Times are whole microseconds since the epoch, as Postgres keeps them.

/// Microseconds of a time or an interval.
macro_rules! us {
    ($x:literal) => {
        concat!("(extract(epoch FROM ", $x, ") * 1000000)::int8")
    };
}

/// The intervals in which the circuits of services were not closed: $1 services, $2 from. An order
/// overrides the counted state, so an order to close removes an interval; the initial state is that
/// of the last change before the beginning.
pub const SHUT: &str = "
    counted AS (
        SELECT service_id, at, lead(at) OVER (PARTITION BY service_id ORDER BY at, change_id) AS until, type
          FROM circuit_changes h
         WHERE service_id = ANY($1::int4[])
           AND type IN ('circuit.opened', 'circuit.half_opened', 'circuit.closed', 'circuit.reset')
           AND at >= coalesce((SELECT max(b.at) FROM circuit_changes b
                                WHERE b.service_id = h.service_id AND b.at <= $2::timestamptz
                                  AND b.type IN ('circuit.opened', 'circuit.half_opened', 'circuit.closed', 'circuit.reset')),
                              $2::timestamptz)),
    ordered AS (
        SELECT service_id, at, least(until, lead(at) OVER (PARTITION BY service_id ORDER BY at, change_id)) AS until, type,
               detail LIKE 'open:%' AS opens
          FROM circuit_changes h
         WHERE service_id = ANY($1::int4[]) AND type IN ('circuit.forced', 'circuit.released', 'circuit.reset')
           AND at >= coalesce((SELECT max(b.at) FROM circuit_changes b
                                WHERE b.service_id = h.service_id AND b.at <= $2::timestamptz
                                  AND b.type IN ('circuit.forced', 'circuit.released', 'circuit.reset')),
                              $2::timestamptz)),
    throttled AS (
        SELECT service_id, at, least(until, over_by) AS until
          FROM (SELECT service_id, at, until, type,
                       min(at) FILTER (WHERE type = 'circuit.reset')
                           OVER (PARTITION BY service_id ORDER BY at, change_id
                                 ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) AS over_by
                  FROM circuit_changes
                 WHERE service_id = ANY($1::int4[]) AND type IN ('circuit.paused', 'circuit.reset')
                   AND at >= $2::timestamptz - interval '1 day') p
         WHERE type = 'circuit.paused' AND least(until, over_by) > $2::timestamptz),
    held AS (
        SELECT service_id, at, until, 1 AS counted, 0 AS opened, 0 AS closed, 0 AS throttled
          FROM counted WHERE type IN ('circuit.opened', 'circuit.half_opened')
        UNION ALL
        SELECT service_id, at, until, 0, opens::int, (NOT opens)::int, 0 FROM ordered WHERE type = 'circuit.forced'
        UNION ALL
        SELECT service_id, at, until, 0, 0, 0, 1 FROM throttled)";

/// $1 services of the templates, $2 from, $3 templates, $4 a lower bound (exclusive) on the ids of
/// the tasks, $5 to $7 edges (template, step, parent), $8 to $11 limited services (service,
/// concurrent steps, starts per second, burst), $12 time-out in microseconds, $13 the time since
/// when ended connections of workers are known.
pub fn ledger() -> String {
    format!("WITH RECURSIVE {TRIES}, {SHUT}, {LINES}, {STEPS}, {PATHS} {MEASURES}")
}

/// The attempts of ended steps with the gaps before them. A step cancelled without a running
/// attempt ends with a wait, as if an attempt had begun then and ended at once; if an attempt ran
/// until then, that wait is empty.
const TRIES: &str = concat!(
    "
    picked AS MATERIALIZED (
        SELECT task_id, template_id, state, submitted_at, ended_at FROM tasks
         WHERE template_id = ANY($3::int4[]) AND task_id > $4::uuid AND steps_total > 0),
    -- Per-task look-ups come before the joins: a join between them would run again for each task.
    picked_steps AS MATERIALIZED (
        SELECT p.template_id, p.submitted_at, s.*
          FROM picked p
         CROSS JOIN LATERAL (SELECT task_id, step, state, attempt, charged, ready_at, started_at, ended_at
                               FROM steps WHERE task_id = p.task_id OFFSET 0) s),
    picked_attempts AS MATERIALIZED (
        SELECT a.* FROM picked p
         CROSS JOIN LATERAL (SELECT task_id, step, attempt, ready_at, started_at, ended_at, retry_after, charged,
                                    charged AND next_attempt_at IS NOT NULL AS again
                               FROM attempts WHERE task_id = p.task_id OFFSET 0) a),
    ended AS MATERIALIZED (
        SELECT s.*, l.lane_id
          FROM picked_steps s
          JOIN template_steps d ON d.template_id = s.template_id AND d.step = s.step
          JOIN lanes l ON l.lane_id = d.lane_id),
    tries AS (
        SELECT e.task_id, e.step, e.lane_id, e.submitted_at, a.attempt, a.ready_at, a.started_at, a.ended_at, a.retry_after,
               a.charged, a.again
          FROM picked_attempts a
          JOIN ended e ON e.task_id = a.task_id AND e.step = a.step
        UNION ALL
        -- Steps ended by an order or a condition: the time after the last attempt counts as one
        -- between attempts, unless the task was cancelled.
        SELECT task_id, step, lane_id, submitted_at, attempt + 1,
               CASE WHEN state = 'cancelled' OR attempt = 0 THEN least(ready_at, ended_at) ELSE ended_at END,
               ended_at, ended_at, NULL, false, false
          FROM ended WHERE state IN ('cancelled', 'skipped', 'resolved_manually')),
    gaps AS (
        SELECT task_id, step, lane_id, charged, again, lag(attempt) OVER w IS NULL AS is_first,
               ",
    us!("coalesce(lag(ended_at) OVER w, submitted_at)"),
    " AS since,
               ",
    us!("greatest(ready_at, lag(ended_at) OVER w, submitted_at)"),
    " AS ready,
               ",
    us!("started_at"),
    " AS started,
               ",
    us!("ended_at"),
    " AS ended,
               coalesce(",
    us!("lag(retry_after) OVER w"),
    ", 0) AS asked
          FROM tries
        WINDOW w AS (PARTITION BY task_id, step ORDER BY attempt))"
);

/// The points of the lanes in which a step waited, and the running sums.
const LINES: &str = concat!(
    "
    bound AS (SELECT ",
    us!("$2::timestamptz"),
    " AS begins, ",
    us!("$13::timestamptz"),
    " AS known),
    in_use AS MATERIALIZED (
        SELECT l.* FROM lanes l WHERE l.lane_id IN (SELECT lane_id FROM gaps WHERE started > ready)),
    limits AS (
        SELECT * FROM unnest($8::int4[], $9::int8[], $10::float8[], $11::float8[]) AS u(service_id, at_once, per_second, burst)),
    runs AS MATERIALIZED (
        SELECT l.service_id, ",
    us!("e.started_at"),
    " AS started, ",
    us!("e.at"),
    " AS ended
          FROM events e
          JOIN template_steps d ON d.template_id = e.template_id AND d.step = e.step
          JOIN lanes l ON l.lane_id = d.lane_id
         WHERE cardinality($8::int4[]) > 0 AND l.service_id = ANY($8::int4[]) AND e.outcome IS NOT NULL AND e.attempt > 0
           AND e.task_id > first_task_id($2::timestamptz)
        UNION ALL
        SELECT l.service_id, ",
    us!("q.started_at"),
    ", NULL
          FROM queue q JOIN lanes l ON l.lane_id = q.lane_id
         WHERE l.service_id = ANY($8::int4[]) AND q.started_at IS NOT NULL),
    -- A leaky bucket: each start adds one to its level, which falls at the rate of the limit, down
    -- to zero.
    fill AS (
        SELECT service_id, started, per_second, burst, n - min(n - 1) OVER before AS level
          FROM (SELECT r.service_id, r.started, m.per_second, m.burst,
                       row_number() OVER (PARTITION BY r.service_id ORDER BY r.started)
                       - m.per_second * (r.started - b.begins) / 1e6 AS n
                  FROM runs r JOIN limits m ON m.service_id = r.service_id AND m.per_second > 0 CROSS JOIN bound b) r
        WINDOW before AS (PARTITION BY service_id ORDER BY started ROWS UNBOUNDED PRECEDING)),
    points AS (
        SELECT lane_id, ready AS at, 0 AS counted, 0 AS opened, 0 AS closed, 0 AS throttled, 0 AS workers, 0 AS running,
               0 AS rated
          FROM gaps WHERE started > ready
        UNION ALL
        SELECT lane_id, started, 0, 0, 0, 0, 0, 0, 0 FROM gaps WHERE started > ready
        UNION ALL
        SELECT l.lane_id, p.at, sign * h.counted, sign * h.opened, sign * h.closed, sign * h.throttled, 0, 0, 0
          FROM held h JOIN in_use l ON l.service_id = h.service_id
         CROSS JOIN LATERAL (VALUES (1, ",
    us!("h.at"),
    "), (-1, ",
    us!("h.until"),
    ")) AS p(sign, at)
        UNION ALL
        SELECT l.lane_id, p.at, 0, 0, 0, 0, sign, 0, 0
          FROM in_use l
          JOIN workers w ON l.handler = ANY(w.handlers) AND (w.namespaces = '{}' OR l.namespace = ANY(w.namespaces))
         CROSS JOIN LATERAL (VALUES (1, ",
    us!("w.connected_at"),
    "), (-1, ",
    us!("coalesce(w.ended_at, w.lease_expires_at)"),
    ")) AS p(sign, at)
        UNION ALL
        -- Retention may have removed connections from before that: one worker counts as present.
        SELECT l.lane_id, p.at, 0, 0, 0, 0, sign, 0, 0
          FROM in_use l CROSS JOIN bound b CROSS JOIN LATERAL (VALUES (1, least(b.begins, b.known)), (-1, b.known)) AS p(sign, at)
        UNION ALL
        SELECT l.lane_id, p.at, 0, 0, 0, 0, 0, sign, 0
          FROM in_use l JOIN runs r ON r.service_id = l.service_id
         CROSS JOIN LATERAL (VALUES (1, r.started), (-1, r.ended)) AS p(sign, at)
        UNION ALL
        -- The bucket is full until another start fits.
        SELECT l.lane_id, p.at, 0, 0, 0, 0, 0, 0, sign
          FROM in_use l JOIN fill f ON f.service_id = l.service_id AND f.level > f.burst - 1
         CROSS JOIN LATERAL (
               VALUES (1, f.started), (-1, f.started + ceil((f.level - f.burst + 1) / f.per_second * 1e6)::int8)) AS p(sign, at)),
    moments AS (
        SELECT lane_id, at, sum(counted) AS counted, sum(opened) AS opened, sum(closed) AS closed, sum(throttled) AS throttled,
               sum(workers) AS workers, sum(running) AS running, sum(rated) AS rated
          FROM points WHERE at IS NOT NULL GROUP BY 1, 2),
    pieces AS (
        SELECT m.lane_id, m.at, lead(m.at) OVER w - m.at AS long,
               CASE WHEN sum(opened) OVER w > 0 OR sum(counted) OVER w > 0 AND sum(closed) OVER w = 0 THEN 'circuit'
                    WHEN sum(throttled) OVER w > 0 THEN 'throttle'
                    WHEN sum(workers) OVER w <= 0 THEN 'no worker'
                    WHEN sum(rated) OVER w > 0 OR u.at_once > 0 AND sum(running) OVER w >= u.at_once THEN 'limit'
                    END AS cause
          FROM moments m JOIN in_use l ON l.lane_id = m.lane_id LEFT JOIN limits u ON u.service_id = l.service_id
        WINDOW w AS (PARTITION BY m.lane_id ORDER BY m.at)),
    up_to AS (
        SELECT lane_id, at,
               coalesce(sum(long) FILTER (WHERE cause = 'circuit') OVER w, 0)::int8 AS circuit,
               coalesce(sum(long) FILTER (WHERE cause = 'throttle') OVER w, 0)::int8 AS throttle,
               coalesce(sum(long) FILTER (WHERE cause = 'no worker') OVER w, 0)::int8 AS no_worker,
               coalesce(sum(long) FILTER (WHERE cause = 'limit') OVER w, 0)::int8 AS held
          FROM pieces
        WINDOW w AS (PARTITION BY lane_id ORDER BY at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING))"
);

/// A row per ended step, with all of its time.
const STEPS: &str = concat!(
    "
    split AS (
        SELECT g.task_id, g.step, g.charged, g.again, g.is_first, g.ready - g.since AS gap, least(g.ready - g.since, g.asked) AS asked,
               g.started - g.ready AS waited, g.ended - g.started AS run,
               coalesce(z.circuit - a.circuit, 0) AS circuit, coalesce(z.throttle - a.throttle, 0) AS throttle,
               coalesce(z.no_worker - a.no_worker, 0) AS no_worker, coalesce(z.held - a.held, 0) AS held
          FROM gaps g
          LEFT JOIN up_to a ON a.lane_id = g.lane_id AND a.at = g.ready AND g.started > g.ready
          LEFT JOIN up_to z ON z.lane_id = g.lane_id AND z.at = g.started AND g.started > g.ready),
    spent AS (
        SELECT task_id, step, bool_or(again) AS again, sum(charged::int)::int AS charged,
               sum(CASE WHEN is_first THEN gap ELSE 0 END)::int8 AS dependency,
               sum(CASE WHEN is_first THEN 0 ELSE gap - asked END)::int8 AS backoff,
               sum(circuit)::int8 AS circuit, sum(throttle + CASE WHEN is_first THEN 0 ELSE asked END)::int8 AS throttle,
               sum(held)::int8 AS held, sum(no_worker)::int8 AS no_worker,
               sum(waited - circuit - throttle - no_worker - held)::int8 AS dispatch, sum(run)::int8 AS run
          FROM split GROUP BY 1, 2),
    done AS MATERIALIZED (
        SELECT e.task_id, e.template_id, e.step, e.state::text AS state, s.again, s.charged,
               e.attempt - s.charged - (e.state = 'complete')::int AS free, s.dependency, s.backoff, s.circuit, s.throttle,
               s.held, s.no_worker, s.dispatch, s.run, ",
    us!("e.ended_at - e.submitted_at"),
    " AS wall, e.ended_at,
               CASE WHEN e.state = 'complete' THEN ",
    us!("e.ended_at - e.started_at"),
    " END AS success
          FROM ended e JOIN spent s ON s.task_id = e.task_id AND s.step = e.step)"
);

/// The critical path of each ended task: from the step that ended last, back through each step's
/// parent that ended last.
const PATHS: &str = "
    edges AS (SELECT * FROM unnest($5::int4[], $6::int2[], $7::int2[]) AS u(template_id, step, parent)),
    last_parents AS MATERIALIZED (
        SELECT DISTINCT ON (c.task_id, c.step) c.task_id, c.step, p.step AS parent
          FROM done c
          JOIN edges e ON e.template_id = c.template_id AND e.step = c.step
          JOIN done p ON p.task_id = c.task_id AND p.step = e.parent
         ORDER BY c.task_id, c.step, p.ended_at DESC, p.step),
    path (task_id, step) AS (
        SELECT * FROM (
            SELECT DISTINCT ON (d.task_id) d.task_id, d.step
              FROM done d JOIN picked p ON p.task_id = d.task_id AND p.ended_at IS NOT NULL
             ORDER BY d.task_id, d.ended_at DESC, d.step DESC) l
        UNION ALL
        SELECT l.task_id, l.parent FROM path p JOIN last_parents l ON l.task_id = p.task_id AND l.step = p.step),
    steps_of_tasks AS (
        SELECT d.*, p.step IS NOT NULL AS critical FROM done d LEFT JOIN path p ON p.task_id = d.task_id AND p.step = d.step)";

/// A row per step of a template, and one without a step for the template itself, which sums the
/// critical paths of the ended tasks.
const MEASURES: &str = concat!(
    "
    , items AS (
        SELECT template_id, step, state, again, charged, free, dependency, backoff, circuit, throttle, held, no_worker, dispatch,
               run, wall, wall - dependency AS elapsed, critical, success
          FROM steps_of_tasks
        UNION ALL
        SELECT p.template_id, NULL, p.state::text, coalesce(t.again, false), coalesce(t.charged, 0), coalesce(t.free, 0), 0,
               coalesce(t.backoff, 0), coalesce(t.circuit, 0), coalesce(t.throttle, 0), coalesce(t.held, 0),
               coalesce(t.no_worker, 0), coalesce(t.dispatch, 0), coalesce(t.run, 0), coalesce(t.wall, 0), ",
    us!("p.ended_at - p.submitted_at"),
    ", true, NULL
          FROM picked p
          LEFT JOIN (SELECT task_id, bool_or(again) AS again, sum(charged)::int AS charged, sum(free)::int AS free,
                            sum(backoff) FILTER (WHERE critical)::int8 AS backoff,
                            sum(circuit) FILTER (WHERE critical)::int8 AS circuit,
                            sum(throttle) FILTER (WHERE critical)::int8 AS throttle,
                            sum(held) FILTER (WHERE critical)::int8 AS held,
                            sum(no_worker) FILTER (WHERE critical)::int8 AS no_worker,
                            sum(dispatch) FILTER (WHERE critical)::int8 AS dispatch,
                            sum(run) FILTER (WHERE critical)::int8 AS run,
                            sum(wall - dependency) FILTER (WHERE critical)::int8 AS wall
                       FROM steps_of_tasks GROUP BY 1) t ON t.task_id = p.task_id
         WHERE p.ended_at IS NOT NULL)
    SELECT template_id, step, count(*)::int, count(*) FILTER (WHERE state = 'complete')::int,
           count(*) FILTER (WHERE state = 'error')::int, count(*) FILTER (WHERE again)::int, sum(charged)::int8,
           sum(free)::int8,
           ARRAY[sum(dependency), sum(backoff), sum(circuit), sum(throttle), sum(held), sum(no_worker), sum(dispatch),
                 sum(run)]::int8[],
           ARRAY[0, coalesce(sum(backoff) FILTER (WHERE critical), 0), coalesce(sum(circuit) FILTER (WHERE critical), 0),
                 coalesce(sum(throttle) FILTER (WHERE critical), 0), coalesce(sum(held) FILTER (WHERE critical), 0),
                 coalesce(sum(no_worker) FILTER (WHERE critical), 0), coalesce(sum(dispatch) FILTER (WHERE critical), 0),
                 coalesce(sum(run) FILTER (WHERE critical), 0)]::int8[],
           sum(wall)::int8,
           avg(elapsed)::float8, percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY elapsed), max(elapsed)::float8,
           avg(run)::float8, percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY run), max(run)::float8,
           avg(elapsed - run)::float8, percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY elapsed - run),
           max(elapsed - run)::float8,
           coalesce(max(success), 0)::int8, count(*) FILTER (WHERE success > $12::int8)::int,
           count(*) FILTER (WHERE state = 'cancelled')::int, count(*) FILTER (WHERE state = 'skipped')::int,
           count(*) FILTER (WHERE state = 'resolved_manually')::int
      FROM items GROUP BY template_id, step ORDER BY template_id, step NULLS FIRST"
);

/// The states of the services' circuits in the window, and their throttles: $1 services, $2 from.
pub fn services() -> String {
    format!("WITH {SHUT} {SERVICES}")
}

const SERVICES: &str = concat!(
    "
    SELECT s.namespace, s.service, o.times, ",
    us!("c.shut"),
    ", c.throttles, ",
    us!("c.throttled"),
    "
      FROM services s
     CROSS JOIN LATERAL (
           SELECT count(*)::int AS times FROM circuit_changes
            WHERE service_id = s.service_id AND type = 'circuit.opened' AND at >= $2::timestamptz) o
     CROSS JOIN LATERAL (
           SELECT (SELECT coalesce(sum(upper(r) - lower(r)), interval '0') FROM unnest(
                       coalesce(range_agg(h.r) FILTER (WHERE counted = 1), '{}')
                       - coalesce(range_agg(h.r) FILTER (WHERE closed = 1), '{}')
                       + coalesce(range_agg(h.r) FILTER (WHERE opened = 1), '{}')) AS u(r)) AS shut,
                  (SELECT coalesce(sum(upper(r) - lower(r)), interval '0')
                     FROM unnest(coalesce(range_agg(h.r) FILTER (WHERE throttled = 1), '{}')) AS u(r)) AS throttled,
                  count(*) FILTER (WHERE throttled = 1)::int AS throttles
             FROM (SELECT *, tstzrange($2::timestamptz, now())
                             * tstzrange(at, greatest(at, coalesce(until, now()))) AS r
                     FROM held WHERE service_id = s.service_id) h) c
     WHERE s.service_id = ANY($1::int4[])
     ORDER BY s.namespace, s.service"
);
