//! The facts behind the explanation of a task, read by one statement and so from one snapshot.

use std::time::{Duration, SystemTime};

use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    Db, StoreError, count,
    service::{policy::layered, state},
};
use crate::domain::{
    attempt::OutcomeKind,
    circuit::CircuitState,
    explain::{LateFacts, MAX_AHEAD, PauseFacts, ServiceFacts, StepFacts, WorkerFacts},
    step::StepState,
    task::TaskState,
};

/// A task and the facts about each of its steps.
#[derive(Clone, Debug)]
pub struct Explained {
    pub template_id: i32,
    pub task_state: TaskState,
    pub submitted_at: SystemTime,
    pub ended_at: Option<SystemTime>,
    /// The actor that cancelled or resolved it, and the reason.
    pub ended_by: Option<(String, String)>,
    /// The adjustments by overrides and by the planner, as JSON.
    pub settings: Option<String>,
    pub now: SystemTime,
    /// In the order of the template; the caller adds limits and parents from the template.
    pub steps: Vec<StepFacts>,
}

/// The workers of a handler and its queue are read only for steps that could be claimed.
const EXPLAIN: &str = "
    SELECT t.template_id, t.state::text, t.submitted_at, t.ended_at,
           coalesce(t.cancelled_by, t.resolved_by), coalesce(t.cancel_reason, t.resolve_reason), clock_timestamp(),
           d.name, l.handler,
           coalesce(q.state, s.state, CASE WHEN t.state = 'cancelled' OR t.error_code IS NOT NULL THEN 'cancelled' ELSE 'pending' END::step_state)::text,
           coalesce(q.due, false), coalesce(q.attempt, s.attempt, 0), coalesce(q.charged, s.charged, 0::int2)::int,
           coalesce(q.ready_at, s.ready_at), coalesce(q.started_at, s.started_at), s.ended_at, q.next_attempt_at,
           q.deadline_at, w.name, coalesce(s.error_message, a.error_message), coalesce(s.error_code, a.error_code),
           v.service, v.state::text, v.since, v.until,
           (SELECT detail FROM circuit_changes WHERE service_id = v.service_id AND type = 'circuit.opened'
             ORDER BY at DESC LIMIT 1),
           v.forced::text, coalesce(v.forced_by, ''), coalesce(v.forced_reason, ''), v.forced_until, v.throttled_until,
           coalesce(r.n, 0), coalesce(b.n, 0), coalesce(h.connected, 0), coalesce(h.slots, 0), coalesce(h.busy, 0), h.seen,
           (SELECT policy FROM service_policies WHERE namespace = '' AND service = ''),
           (SELECT policy FROM service_policies WHERE namespace = v.namespace AND service = ''),
           (SELECT policy FROM service_policies WHERE namespace = v.namespace AND service = v.service),
           t.paused_at, t.paused_by, t.pause_reason, pn.paused_at, pn.paused_by, pn.reason, pt.paused_at, pt.paused_by,
           pt.reason, l.namespace, l.task_name, t.settings, q.assignment_bytes, coalesce(h.of_any_size, 0), coalesce(h.largest, 0),
           h.sufficed, a.outcome::text, e.at, e.outcome::text, e.attempt, e.ended_at, e.ended_as::text
      FROM tasks t
      JOIN template_steps d ON d.template_id = t.template_id
      JOIN lanes l ON l.lane_id = d.lane_id
      JOIN services v ON v.service_id = l.service_id
      LEFT JOIN steps s ON s.task_id = t.task_id AND s.step = d.step
      LEFT JOIN queue q ON q.task_id = t.task_id AND q.step = d.step
      LEFT JOIN workers w ON w.worker_id = q.worker_id
      LEFT JOIN pauses pn ON pn.namespace = l.namespace AND pn.task_name = ''
      LEFT JOIN pauses pt ON pt.namespace = l.namespace AND pt.task_name = l.task_name AND l.task_name <> ''
      LEFT JOIN LATERAL (
           SELECT error_message, error_code, outcome FROM attempts
            WHERE q.state = 'waiting_for_retry' AND task_id = q.task_id AND step = q.step AND attempt = q.attempt
            LIMIT 1) a ON true
      LEFT JOIN LATERAL (
           SELECT x.at, x.outcome, n.attempt, n.ended_at, n.outcome AS ended_as
             FROM late_results x JOIN attempts n ON n.task_id = x.task_id AND n.step = x.step AND n.lease = x.lease
            WHERE x.task_id = t.task_id AND x.step = d.step ORDER BY x.at DESC LIMIT 1) e ON true
      LEFT JOIN LATERAL (
           SELECT count(*)::int AS n FROM queue o JOIN lanes ol ON ol.lane_id = o.lane_id
            WHERE q.due AND o.worker_id IS NOT NULL AND ol.service_id = v.service_id) r ON q.due
      LEFT JOIN LATERAL (
           SELECT count(*)::int AS n FROM (
               (SELECT FROM lanes ol CROSS JOIN LATERAL (
                       SELECT FROM queue o WHERE o.lane_id = ol.lane_id AND o.due AND o.priority > q.priority LIMIT $2) o
                 WHERE ol.namespace = l.namespace AND ol.handler = l.handler LIMIT $2)
               UNION ALL
               (SELECT FROM lanes ol CROSS JOIN LATERAL (
                       SELECT FROM queue o WHERE o.lane_id = ol.lane_id AND o.due AND o.priority = q.priority
                          AND (o.task_id, o.step) < (q.task_id, q.step) LIMIT $2) o
                 WHERE ol.namespace = l.namespace AND ol.handler = l.handler LIMIT $2)
               LIMIT $2) o) b ON q.due
      LEFT JOIN LATERAL (
           SELECT count(*) FILTER (WHERE c.alive AND c.takes)::int AS connected,
                  coalesce(sum(c.max_concurrent_steps) FILTER (WHERE c.alive AND c.takes), 0)::int AS slots,
                  coalesce(sum(c.n) FILTER (WHERE c.alive AND c.takes), 0)::int AS busy, max(c.seen) AS seen,
                  count(*) FILTER (WHERE c.alive)::int AS of_any_size,
                  max(c.max_assignment_bytes) FILTER (WHERE c.alive) AS largest,
                  max(c.seen) FILTER (WHERE c.takes) AS sufficed
             FROM (SELECT o.ended_at IS NULL AND NOT o.draining AS alive, o.max_concurrent_steps,
                          least(coalesce(o.ended_at, clock_timestamp()), o.lease_expires_at) AS seen, u.n, o.max_assignment_bytes,
                          coalesce(q.assignment_bytes <= o.max_assignment_bytes, true) AS takes
                     FROM workers o
                    CROSS JOIN LATERAL (
                          SELECT count(*) AS n FROM queue WHERE o.ended_at IS NULL AND worker_id = o.worker_id) u
                    WHERE l.handler = ANY(o.handlers)
                      AND (o.namespaces = '{}' OR l.namespace = ANY(o.namespaces))) c) h ON q.worker_id IS NULL AND q.task_id IS NOT NULL
     WHERE t.task_id = $1 ORDER BY d.step";

/// The facts about a task, or `None` if it does not exist.
pub async fn task(db: &Db, task_id: Uuid) -> Result<Option<Explained>, StoreError> {
    let client = db.read().await?;
    let statement = client.prepare_cached(EXPLAIN).await?;
    let rows = client.query(&statement, &[&task_id, &MAX_AHEAD]).await?;
    // Every template has a step, so a task that exists has a row.
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let state = TaskState::from_name(first.get(1));
    Ok(Some(Explained {
        template_id: first.get(0),
        task_state: state.ok_or_else(|| StoreError::Corrupt("a task's state".into()))?,
        submitted_at: first.get(2),
        ended_at: first.get(3),
        ended_by: first.get::<_, Option<String>>(4).zip(first.get(5)),
        settings: first.get(51),
        now: first.get(6),
        steps: rows.iter().map(step).collect::<Result<_, _>>()?,
    }))
}

fn step(r: &Row) -> Result<StepFacts, StoreError> {
    let count = |i: usize| count::count(r.get(i));
    let slots = count(34);
    let connected = count(33);
    // The retry limit, the parents and the lease are not in these rows; the caller adds them.
    Ok(StepFacts {
        name: r.get(7),
        handler: r.get(8),
        state: StepState::from_name(r.get(9))
            .ok_or_else(|| StoreError::Corrupt("a step's state".into()))?,
        due: r.get(10),
        attempt: count(11),
        charged: count(12),
        retry_limit: 0,
        parents: Vec::new(),
        ready_at: r.get(13),
        started_at: r.get(14),
        ended_at: r.get(15),
        next_attempt_at: r.get(16),
        deadline_at: r.get(17),
        worker_name: r.get(18),
        assignment_bytes: r.get(52),
        lease: Duration::ZERO,
        error: r.get(19),
        error_code: r.get(20),
        last_outcome: r
            .get::<_, Option<&str>>(56)
            .and_then(OutcomeKind::from_name),
        late: late(r),
        ahead: count(32),
        pauses: pauses(r),
        service: service(r, count(31))?,
        workers: WorkerFacts {
            connected,
            slots,
            // A worker that came back with fewer slots may still run attempts of before.
            free: slots.saturating_sub(count(35)),
            of_any_size: count(53),
            largest: r.get(54),
            sufficed: r.get(55),
            last_seen: r.get(36),
        },
    })
}

fn late(r: &Row) -> Option<LateFacts> {
    // NULL without a late result. An outcome that only a newer version knows counts as none.
    Some(LateFacts {
        at: r.get::<_, Option<SystemTime>>(57)?,
        outcome: OutcomeKind::from_name(r.get(58))?,
        attempt: count::count(r.get(59)),
        ended_at: r.get(60),
        ended_as: OutcomeKind::from_name(r.get(61))?,
    })
}

/// The pauses of the task, the namespace and the template.
fn pauses(r: &Row) -> Vec<PauseFacts> {
    let (namespace, task_name): (&str, &str) = (r.get(49), r.get(50));
    let of = [
        "the task".to_owned(),
        format!("namespace {namespace}"),
        format!("template {namespace}/{task_name}"),
    ];
    let pause = |(of, at): (String, usize)| {
        Some(PauseFacts {
            of,
            since: r.get::<_, Option<SystemTime>>(at)?,
            by: r.get(at + 1),
            reason: r.get(at + 2),
        })
    };
    of.into_iter().zip([40, 43, 46]).filter_map(pause).collect()
}

fn service(r: &Row, running: u32) -> Result<ServiceFacts, StoreError> {
    let forced: Option<&str> = r.get(26);
    let forced: Option<CircuitState> = forced.map(state).transpose()?;
    Ok(ServiceFacts {
        name: r.get(21),
        state: state(r.get(22))?,
        since: r.get(23),
        until: r.get(24),
        opened: r.get(25),
        forced,
        forced_by: r.get(27),
        forced_reason: r.get(28),
        forced_until: r.get(29),
        throttled_until: r.get(30),
        running,
        policy: layered([r.get(37), r.get(38), r.get(39)]),
    })
}
