//! Generated histories: tasks, circuits, pauses, orders, connections and limits that overlap in any
//! way.

use std::time::{Duration, SystemTime};

use tasker::proto;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::{
    oracle::{Oracle, us},
    performance, set,
    support::{random::split_mix, server::Bench},
};

const YAML: [&str; 2] = [
    "
task_name: one
namespace: t
version: 1.0.0
step_templates:
  - {name: a, handler_class: a, handler_config: {service: plain}}
  - {name: b, handler_class: b, depends_on_steps: [a], handler_config: {service: narrow}}
  - {name: c, handler_class: c, depends_on_steps: [a], handler_config: {service: slow}}
  - {name: d, handler_class: d, depends_on_steps: [b, c], handler_config: {service: plain}}
",
    "
task_name: two
namespace: t
version: 2.1.0
step_templates:
  - {name: x, handler_class: b, handler_config: {service: narrow}}
  - {name: y, handler_class: d, handler_config: {service: slow}}
  - {name: z, handler_class: a, depends_on_steps: [x, y], handler_config: {service: plain}}
",
];
/// The parents of each step.
const PARENTS: [&[&[usize]]; 2] = [&[&[], &[0], &[0], &[1, 2]], &[&[], &[], &[0, 1]]];
const HOUR: u64 = 3_600_000_000;

/// The same seed gives the same history.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        split_mix(&mut self.0)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A time below this many seconds, often zero, in microseconds.
    fn time(&mut self, seconds: u64) -> u64 {
        if self.chance(25) {
            0
        } else {
            self.below(seconds * 1_000_000)
        }
    }
}

fn at(us: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(us)
}

/// The end of a step; its children are generated only if it is done.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Complete,
    Error,
    Cancelled,
    Skipped,
    Resolved,
}

impl End {
    /// Whether the step's children run.
    fn is_done(self) -> bool {
        matches!(self, Self::Complete | Self::Skipped | Self::Resolved)
    }
}

struct Maker<'a> {
    db: &'a Client,
    random: Random,
    worker: Uuid,
}

impl Maker<'_> {
    async fn task(&mut self, template: i32, parents: &[&[usize]], submitted: u64) {
        let id = uuid::Builder::from_unix_timestamp_millis(submitted / 1_000, &[0; 10])
            .into_uuid()
            .as_u128();
        let id = Uuid::from_u128(id | u128::from(self.random.next() >> 2));
        let mut ends: Vec<Option<(u64, End)>> = Vec::new();
        for (step, parents) in parents.iter().enumerate() {
            let unlocked = parents
                .iter()
                .map(|p| ends[*p].filter(|(_, end)| end.is_done()))
                .collect();
            let unlocked: Option<Vec<(u64, End)>> = unlocked;
            let end = match unlocked {
                None => None,
                Some(parents) => {
                    let ready = parents.iter().map(|(at, _)| *at).max().unwrap_or(submitted);
                    Some(self.step(id, template, step, ready).await)
                }
            };
            ends.push(end);
        }
        let all: Vec<(u64, End)> = ends.iter().copied().flatten().collect();
        let ended = all.iter().map(|(at, _)| *at).max().unwrap();
        let any = |end: End| all.iter().any(|(_, e)| *e == end);
        let state = if any(End::Cancelled) {
            "cancelled"
        } else if any(End::Error) {
            "error"
        } else {
            "complete"
        };
        let by = any(End::Cancelled).then_some("ann");
        let sql = "INSERT INTO tasks (task_id, template_id, state, priority, steps_total, steps_live, steps_done, failed_step,
                        submitted_at, started_at, ended_at, cancelled_by, cancel_reason, correlation_id, annotations, context)
                   VALUES ($1, $2, $3::text::task_state, 0, $4, 0, $8, $9, $5, $5, $6, $7, $7, 'c', '{}', '{}')";
        let total = i16::try_from(parents.len()).unwrap();
        // Consistent rows, as a running server audits its tasks.
        let is = |end: End| move |e: &Option<(u64, End)>| e.is_some_and(|(_, e)| e == end);
        let is_done = |e: &Option<(u64, End)>| e.is_some_and(|(_, e)| e.is_done());
        let done = ends
            .iter()
            .enumerate()
            .filter(|(_, e)| is_done(e))
            .map(|(i, _)| 1_u8 << i)
            .sum::<u8>();
        let failed = ends
            .iter()
            .position(is(End::Error))
            .map(|i| i16::try_from(i).unwrap());
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 9] = [
            &id,
            &template,
            &state,
            &total,
            &at(submitted),
            &at(ended),
            &by,
            &vec![done],
            &failed,
        ];
        self.db.execute(sql, &params).await.unwrap();
    }

    fn end(&mut self) -> End {
        match self.random.below(100) {
            0..70 => End::Complete,
            70..75 => End::Skipped,
            75..80 => End::Resolved,
            80..90 => End::Error,
            _ => End::Cancelled,
        }
    }

    /// Attempts that do not end the step; returns the time at which it is ready again, and the
    /// number of charged ones.
    async fn fail(
        &mut self,
        (id, template, step): (Uuid, i32, i16),
        mut ready: u64,
        failures: u64,
    ) -> (u64, i16) {
        let (mut charged, mut attempt) = (0_i16, 0);
        for _ in 0..failures {
            attempt += 1;
            let started = ready + self.random.time(90);
            let ended = started + self.random.time(20);
            if self.random.chance(30) {
                self.attempt(
                    id,
                    template,
                    step,
                    attempt,
                    ("worker_lost", false),
                    [ready, started, ended],
                    None,
                )
                .await;
                ready = ended;
            } else {
                let backoff = self.random.time(30);
                let asked = self
                    .random
                    .chance(50)
                    .then(|| self.random.below(backoff + 1) / 1_000 * 1_000);
                let how = if self.random.chance(80) {
                    ("retryable_error", true)
                } else {
                    ("released", false)
                };
                charged += i16::from(how.1);
                self.attempt(
                    id,
                    template,
                    step,
                    attempt,
                    how,
                    [ready, started, ended],
                    Some((ended + backoff, asked)),
                )
                .await;
                ready = ended + backoff;
            }
        }
        (ready, charged)
    }

    /// All attempts of a step, and its row; returns the time and the kind of its end.
    async fn step(&mut self, id: Uuid, template: i32, step: usize, unlocked: u64) -> (u64, End) {
        let step = i16::try_from(step).unwrap();
        let end = self.end();
        let failures = self.random.below(4);
        let (mut ready, mut charged) = self.fail((id, template, step), unlocked, failures).await;
        let mut attempt = i32::try_from(failures).unwrap();
        let mut started = ready + self.random.time(90);
        let mut ended = started + self.random.time(20);
        let last = match end {
            End::Complete => Some("succeeded"),
            End::Error => Some("permanent_error"),
            End::Cancelled if self.random.chance(40) => Some("cancelled"),
            End::Cancelled | End::Skipped | End::Resolved => None,
        };
        match last {
            Some(how) => {
                attempt += 1;
                charged += i16::from(how == "permanent_error");
                let times = [ready, started, ended];
                self.attempt(
                    id,
                    template,
                    step,
                    attempt,
                    (how, how == "permanent_error"),
                    times,
                    None,
                )
                .await;
            }
            // The step waited, perhaps for its next attempt: it may even have been cancelled before
            // that.
            None => {
                started = ready;
                ended = ready + self.random.time(90);
                if attempt > 0 && self.random.chance(30) {
                    ready = ended + self.random.time(10);
                }
            }
        }
        let state = match end {
            End::Complete => "complete",
            End::Error => "error",
            End::Cancelled => "cancelled",
            End::Skipped => "skipped",
            End::Resolved => "resolved_manually",
        };
        let by = matches!(end, End::Skipped | End::Resolved).then_some("ann");
        let (result, error) = (
            matches!(end, End::Complete | End::Resolved).then_some("1"),
            (end == End::Error).then_some("no"),
        );
        let started = last.map(|_| at(started));
        let sql = "INSERT INTO steps (task_id, step, state, attempt, charged, result, error_message, ready_at, started_at, ended_at,
                        set_by, set_reason)
                   VALUES ($1, $2, $3::text::step_state, $4, $5, $6, $7, $8, $9, $10, $11, $11)";
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 11] = [
            &id,
            &step,
            &state,
            &attempt,
            &charged,
            &result,
            &error,
            &at(ready),
            &started,
            &at(ended),
            &by,
        ];
        self.db.execute(sql, &params).await.unwrap();
        (ended, end)
    }

    #[expect(clippy::too_many_arguments, reason = "a row has so many columns")]
    async fn attempt(
        &mut self,
        id: Uuid,
        template: i32,
        step: i16,
        attempt: i32,
        (outcome, charged): (&str, bool),
        [ready, started, ended]: [u64; 3],
        again: Option<(u64, Option<u64>)>,
    ) {
        let kind = match (outcome, again) {
            (_, Some(_)) => "step.retrying",
            ("succeeded", _) => "step.completed",
            ("cancelled", _) => "step.cancelled",
            _ => "step.failed",
        };
        let sql = "INSERT INTO events (at, type, template_id, task_id, step, attempt, worker_id, outcome, charged, lease, ready_at,
                        started_at, next_attempt_at, retry_after)
                   VALUES ($1, $2::text::event_type, $3, $4, $5, $6::int4, $7, $8::text::attempt_outcome, $9, $6::int4, $10, $11, $12,
                           make_interval(secs => $13::float8))";
        let next = again.map(|(next, _)| at(next));
        let asked = again.and_then(|(_, asked)| asked).map(|us| us as f64 / 1e6);
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 13] = [
            &at(ended),
            &kind,
            &template,
            &id,
            &step,
            &attempt,
            &self.worker,
            &outcome,
            &charged,
            &at(ready),
            &at(started),
            &next,
            &asked,
        ];
        self.db.execute(sql, &params).await.unwrap();
    }

    /// Some of every kind of change of a service.
    async fn circuit(&mut self, service: i32, from: u64) {
        let mut now = from;
        while now < from + HOUR {
            now += self.random.below(120_000_000);
            let soon = now + self.random.below(60_000_000);
            let (kind, until, detail) = match self.random.below(10) {
                0 | 1 => ("circuit.opened", Some(soon), None),
                2 => ("circuit.half_opened", Some(soon), None),
                3 => ("circuit.closed", None, None),
                4 => (
                    "circuit.forced",
                    self.random.chance(50).then_some(soon),
                    Some("open: a deploy"),
                ),
                5 => (
                    "circuit.forced",
                    self.random.chance(50).then_some(soon),
                    Some("closed: we know better"),
                ),
                6 => ("circuit.released", None, Some("it is over")),
                7 => ("circuit.reset", None, Some("anew")),
                _ => ("circuit.paused", Some(soon), None),
            };
            let sql = "INSERT INTO circuit_changes (service_id, at, type, until, detail)
                       VALUES ($1, $2, $3::text::event_type, $4, $5)";
            self.db
                .execute(sql, &[&service, &at(now), &kind, &until.map(at), &detail])
                .await
                .unwrap();
        }
    }

    async fn connections(&mut self, handler: &str, from: u64) {
        let mut now = from;
        while now < from + HOUR {
            now += self.random.below(200_000_000);
            let until = now + self.random.below(300_000_000);
            let namespaces: Vec<&str> = [&[][..], &["t", "u"][..], &["u"][..]]
                [usize::try_from(self.random.below(3)).unwrap()]
            .to_vec();
            let sql =
                "INSERT INTO workers (worker_id, server_id, name, build_id, namespaces, handlers, max_concurrent_steps,
                            labels, connected_at, lease_expires_at, ended_at)
                       VALUES (gen_random_uuid(), gen_random_uuid(), 'w', '', $1, $2, 1, '{}', $3, $4, $4)";
            self.db
                .execute(
                    sql,
                    &[&namespaces, &vec![handler, "other"], &at(now), &at(until)],
                )
                .await
                .unwrap();
        }
    }
}

/// One service runs two steps at a time, and another one starts one in ten seconds.
async fn policies(bench: &mut Bench) {
    set(
        bench,
        "t",
        "narrow",
        proto::Policy {
            max_concurrency: Some(2),
            ..Default::default()
        },
    )
    .await;
    let rate = proto::Policy {
        per_second: Some(0.1),
        burst: Some(2),
        ..Default::default()
    };
    set(bench, "t", "slow", rate).await;
}

/// All causes in one history: the answer equals a plain count, and each cause occurs.
#[tokio::test]
async fn causes_of_any_history_sum_to_the_microsecond() {
    for seed in 1..=3 {
        let mut bench = Bench::with(YAML[0]).await;
        crate::support::server::register(&mut bench.client, YAML[1]).await;
        policies(&mut bench).await;
        let db = bench.db.connect().await;
        let now: SystemTime = db.query_one("SELECT now()", &[]).await.unwrap().get(0);
        let from = us(now).cast_unsigned() - 3 * HOUR;
        let mut maker = Maker {
            db: &db,
            random: Random(seed),
            worker: Uuid::new_v4(),
        };
        for row in db
            .query("SELECT service_id FROM services ORDER BY 1", &[])
            .await
            .unwrap()
        {
            maker.circuit(row.get(0), from).await;
        }
        for handler in ["a", "b", "c", "d"] {
            maker.connections(handler, from).await;
        }
        let templates: Vec<i32> = db
            .query("SELECT template_id FROM templates ORDER BY task_name", &[])
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        for _ in 0..60 {
            for (template, parents) in templates.iter().zip(PARENTS) {
                let submitted = from + maker.random.below(HOUR);
                maker.task(*template, parents, submitted).await;
            }
        }
        let found = performance(&mut bench.client, "t", 7.5).await;
        assert_eq!(found.examined.as_ref().unwrap().tasks, 120);
        println!("seed {seed}");
        let all = Oracle::read(&db).await.check(&found, 7.5);
        println!("{all:?}");
        for time in [
            all.dependency,
            all.backoff,
            all.circuit,
            all.pause,
            all.limit,
            all.no_worker,
            all.dispatch,
            all.run,
        ] {
            assert!(time > 0, "a cause does not occur: {all:?}");
        }
        let shut = found
            .services
            .iter()
            .map(|s| (s.times_opened, s.pauses))
            .collect::<Vec<_>>();
        assert!(
            shut.iter()
                .all(|(opened, pauses)| *opened > 0 && *pauses > 0),
            "{shut:?}"
        );
    }
}
