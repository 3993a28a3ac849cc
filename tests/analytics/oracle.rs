//! The same numbers by other means: every row is read, and each moment of a wait is looked at for what held it. Slow and plain.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use tasker::{
    domain::{
        policy::Settings,
        template::{Graph, Template},
    },
    proto,
};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

/// Microseconds since the epoch.
type Us = i64;

pub fn us(at: SystemTime) -> Us {
    i64::try_from(at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

struct Lane {
    namespace: String,
    handler: String,
    service: i32,
}

struct Try {
    ready: Us,
    started: Us,
    ended: Us,
    charged: bool,
    again: bool,
    retry_after: Us,
}

struct Step {
    state: String,
    attempt: i32,
    charged: i16,
    ready: Us,
    started: Option<Us>,
    ended: Us,
    tries: Vec<Try>,
}

struct Task {
    template: i32,
    state: String,
    submitted: Us,
    ended: Option<Us>,
    steps: BTreeMap<i16, Step>,
}

struct Change {
    at: Us,
    kind: String,
    until: Option<Us>,
    opens: bool,
}

struct Presence {
    handlers: Vec<String>,
    namespaces: Vec<String>,
    from: Us,
    until: Us,
}

/// All rows that matter.
pub struct Oracle {
    graphs: BTreeMap<i32, (Template, Graph)>,
    lanes: BTreeMap<(i32, i16), Lane>,
    tasks: BTreeMap<Uuid, Task>,
    changes: BTreeMap<i32, Vec<Change>>,
    workers: Vec<Presence>,
    /// Steps at once, starts a second, burst.
    limits: BTreeMap<i32, (usize, f64, f64)>,
    /// Of all attempts of a service, in the order of their starts.
    runs: BTreeMap<i32, Vec<(Us, Us)>>,
}

/// Time by cause: dependency, backoff, circuit, pause, limit, no worker, dispatch, run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    pub dependency: Us,
    pub backoff: Us,
    pub circuit: Us,
    pub pause: Us,
    pub limit: Us,
    pub no_worker: Us,
    pub dispatch: Us,
    pub run: Us,
}

impl Parts {
    fn add(&mut self, o: &Parts) {
        self.dependency += o.dependency;
        self.backoff += o.backoff;
        self.circuit += o.circuit;
        self.pause += o.pause;
        self.limit += o.limit;
        self.no_worker += o.no_worker;
        self.dispatch += o.dispatch;
        self.run += o.run;
    }

    pub fn sum(&self) -> Us {
        self.dependency
            + self.backoff
            + self.circuit
            + self.pause
            + self.limit
            + self.no_worker
            + self.dispatch
            + self.run
    }

    pub fn of(ledger: &proto::Ledger) -> Self {
        Self {
            dependency: micros(ledger.dependency),
            backoff: micros(ledger.backoff),
            circuit: micros(ledger.circuit),
            pause: micros(ledger.pause),
            limit: micros(ledger.limit),
            no_worker: micros(ledger.no_worker),
            dispatch: micros(ledger.dispatch),
            run: micros(ledger.run),
        }
    }
}

pub fn micros(d: Option<prost_types::Duration>) -> Us {
    i64::try_from(Duration::try_from(d.unwrap()).unwrap().as_micros()).unwrap()
}

fn time(row: &Row, i: usize) -> Us {
    us(row.get(i))
}

fn maybe(row: &Row, i: usize) -> Option<Us> {
    row.get::<_, Option<SystemTime>>(i).map(us)
}

async fn rows(db: &Client, sql: &str) -> Vec<Row> {
    db.query(sql, &[]).await.unwrap()
}

impl Oracle {
    pub async fn read(db: &Client) -> Self {
        let mut o = Self {
            graphs: BTreeMap::new(),
            lanes: BTreeMap::new(),
            tasks: BTreeMap::new(),
            changes: BTreeMap::new(),
            workers: Vec::new(),
            limits: BTreeMap::new(),
            runs: BTreeMap::new(),
        };
        o.read_templates(db).await;
        o.read_tasks(db).await;
        o.read_attempts(db).await;
        o.read_circumstances(db).await;
        o
    }

    async fn read_templates(&mut self, db: &Client) {
        for r in rows(db, "SELECT template_id, yaml FROM templates").await {
            let template = Template::parse(r.get(1)).unwrap();
            let graph = Graph::of(&template);
            self.graphs.insert(r.get(0), (template, graph));
        }
        let sql =
            "SELECT template_id, step, namespace, handler, service_id FROM template_steps JOIN lanes USING (lane_id)";
        for r in rows(db, sql).await {
            self.lanes.insert((r.get(0), r.get(1)), Lane { namespace: r.get(2), handler: r.get(3), service: r.get(4) });
        }
    }

    async fn read_tasks(&mut self, db: &Client) {
        for r in rows(db, "SELECT task_id, template_id, state::text, submitted_at, ended_at FROM tasks").await {
            let task = Task {
                template: r.get(1),
                state: r.get(2),
                submitted: time(&r, 3),
                ended: maybe(&r, 4),
                steps: BTreeMap::new(),
            };
            self.tasks.insert(r.get(0), task);
        }
        let sql = "SELECT task_id, step, state::text, attempt, charged, ready_at, started_at, ended_at FROM steps";
        for r in rows(db, sql).await {
            let step = Step {
                state: r.get(2),
                attempt: r.get(3),
                charged: r.get(4),
                ready: time(&r, 5),
                started: maybe(&r, 6),
                ended: time(&r, 7),
                tries: Vec::new(),
            };
            self.tasks.get_mut(&r.get::<_, Uuid>(0)).unwrap().steps.insert(r.get(1), step);
        }
    }

    async fn read_attempts(&mut self, db: &Client) {
        let sql = "SELECT task_id, step, ready_at, started_at, ended_at, charged, next_attempt_at IS NOT NULL,
                          coalesce(extract(epoch FROM retry_after) * 1000000, 0)::int8
                     FROM attempts ORDER BY task_id, step, attempt";
        for r in rows(db, sql).await {
            let task = self.tasks.get_mut(&r.get::<_, Uuid>(0)).unwrap();
            let lane = &self.lanes[&(task.template, r.get(1))];
            self.runs.entry(lane.service).or_default().push((time(&r, 3), time(&r, 4)));
            let Some(step) = task.steps.get_mut(&r.get::<_, i16>(1)) else { continue };
            step.tries.push(Try {
                ready: time(&r, 2),
                started: time(&r, 3),
                ended: time(&r, 4),
                charged: r.get(5),
                again: r.get(6),
                retry_after: r.get(7),
            });
        }
        self.runs.values_mut().for_each(|runs| runs.sort_unstable());
    }

    async fn read_circumstances(&mut self, db: &Client) {
        let sql = "SELECT service_id, at, type::text, until, coalesce(detail LIKE 'open:%', false) FROM circuit_changes
                    ORDER BY at, change_id";
        for r in rows(db, sql).await {
            let change = Change { at: time(&r, 1), kind: r.get(2), until: maybe(&r, 3), opens: r.get(4) };
            self.changes.entry(r.get(0)).or_default().push(change);
        }
        let sql = "SELECT handlers, namespaces, connected_at, coalesce(ended_at, lease_expires_at) FROM workers";
        for r in rows(db, sql).await {
            self.workers.push(Presence {
                handlers: r.get(0),
                namespaces: r.get(1),
                from: time(&r, 2),
                until: time(&r, 3),
            });
        }
        let sql = "SELECT service_id, policy FROM service_policies JOIN services USING (namespace, service)";
        for r in rows(db, sql).await {
            let set = Settings::from_json(r.get(1)).unwrap();
            let rate = set.per_second.unwrap_or_default();
            let burst = set.burst.filter(|n| *n > 0).map_or(rate.max(1.0), f64::from);
            self.limits.insert(r.get(0), (set.max_concurrency.unwrap_or_default() as usize, rate, burst));
        }
    }

    /// Whether the circuit lets nobody, or only probes, pass, and whether the service is paused.
    fn stands(&self, service: i32, t: Us) -> (bool, bool) {
        let (mut counted, mut order, mut paused): (bool, Option<(bool, Option<Us>)>, Us) = (false, None, 0);
        for change in self.changes.get(&service).into_iter().flatten().filter(|change| change.at <= t) {
            match change.kind.as_str() {
                "circuit.opened" | "circuit.half_opened" => counted = true,
                "circuit.closed" => counted = false,
                "circuit.forced" => order = Some((change.opens, change.until)),
                "circuit.released" => order = None,
                "circuit.reset" => (counted, order, paused) = (false, None, 0),
                "circuit.paused" => paused = paused.max(change.until.unwrap()),
                _ => {}
            }
        }
        let order = order.filter(|(_, until)| until.is_none_or(|until| t < until));
        (order.map_or(counted, |(opens, _)| opens), t < paused)
    }

    /// From each start on: until when no other one fits.
    fn full(&self, service: i32) -> Vec<(Us, Us)> {
        let Some((_, rate, burst)) = self.limits.get(&service).copied().filter(|(_, rate, _)| *rate > 0.0) else {
            return Vec::new();
        };
        let (mut tokens, mut last) = (burst, 0);
        let mut full = Vec::new();
        for (started, _) in self.runs.get(&service).into_iter().flatten() {
            tokens = burst.min(tokens + rate * (started - last) as f64 / 1e6) - 1.0;
            last = *started;
            if tokens < 1.0 {
                full.push((last, last + ((1.0 - tokens) / rate * 1e6).ceil() as Us));
            }
        }
        full
    }

    fn wait(&self, lane: &Lane, from: Us, to: Us) -> Parts {
        let full = self.full(lane.service);
        let runs = self.runs.get(&lane.service).map_or(&[][..], Vec::as_slice);
        let mut edges = BTreeSet::from([from, to]);
        let changes = self.changes.get(&lane.service).into_iter().flatten();
        edges.extend(changes.flat_map(|change| [Some(change.at), change.until]).flatten());
        edges.extend(runs.iter().chain(&full).flat_map(|(a, z)| [*a, *z]));
        edges.extend(self.workers.iter().flat_map(|w| [w.from, w.until]));
        let edges: Vec<Us> = edges.range(from..=to).copied().collect();
        let at_once = self.limits.get(&lane.service).map_or(0, |limit| limit.0);
        let mut parts = Parts::default();
        for piece in edges.windows(2) {
            let (t, long) = (piece[0], piece[1] - piece[0]);
            let within = |(a, z): &&(Us, Us)| *a <= t && t < *z;
            let (circuit, paused) = self.stands(lane.service, t);
            let worker = self.workers.iter().any(|w| {
                w.from <= t
                    && t < w.until
                    && w.handlers.contains(&lane.handler)
                    && (w.namespaces.is_empty() || w.namespaces.contains(&lane.namespace))
            });
            let limited =
                at_once > 0 && runs.iter().filter(within).count() >= at_once || full.iter().any(|f| within(&f));
            match (circuit, paused, worker, limited) {
                (true, ..) => parts.circuit += long,
                (_, true, ..) => parts.pause += long,
                (_, _, false, _) => parts.no_worker += long,
                (_, _, _, true) => parts.limit += long,
                _ => parts.dispatch += long,
            }
        }
        parts
    }

    fn ledger(&self, task: &Task, number: i16, step: &Step) -> Parts {
        let lane = &self.lanes[&(task.template, number)];
        let mut parts = Parts::default();
        let mut last = task.submitted;
        let mut before: Option<&Try> = None;
        let gap = |parts: &mut Parts, before: Option<&Try>, gap: Us| match before {
            None => parts.dependency += gap,
            Some(before) => {
                parts.pause += gap.min(before.retry_after);
                parts.backoff += (gap - before.retry_after).max(0);
            }
        };
        for t in &step.tries {
            gap(&mut parts, before, t.ready - last);
            parts.add(&self.wait(lane, t.ready, t.started));
            parts.run += t.ended - t.started;
            (last, before) = (t.ended, Some(t));
        }
        if last < step.ended {
            let ready = step.ready.clamp(last, step.ended);
            gap(&mut parts, before, ready - last);
            parts.add(&self.wait(lane, ready, step.ended));
        }
        parts
    }

    fn critical_path(&self, task: &Task) -> BTreeSet<i16> {
        let mut path = BTreeSet::new();
        let mut next = task.ended.and_then(|_| task.steps.iter().max_by_key(|(n, s)| (s.ended, **n)).map(|(n, _)| *n));
        while let Some(step) = next {
            path.insert(step);
            let parents = self.graphs[&task.template].1.parents(usize::try_from(step).unwrap());
            let parents = parents.iter().filter_map(|p| task.steps.get_key_value(&i16::try_from(*p).unwrap()));
            next = parents.max_by_key(|(n, s)| (s.ended, -i32::from(**n))).map(|(n, _)| *n);
        }
        path
    }

    /// Compares every number of an answer about all tasks. Where a rate limit cuts a wait, two ways to compute in floating
    /// point may differ by a microsecond each time. Returns how much time there was of each cause.
    pub fn check(&self, found: &proto::GetPerformanceResponse, timeout_seconds: f64) -> Parts {
        let mut all = Parts::default();
        for template in &found.templates {
            let (id, (parsed, _)) = self
                .graphs
                .iter()
                .find(|(_, (t, _))| {
                    (t.namespace.as_str(), t.task_name.as_str(), t.version.to_string())
                        == (&template.namespace, &template.task_name, template.version.clone())
                })
                .unwrap();
            let tasks: Vec<&Task> = self.tasks.values().filter(|task| task.template == *id).collect();
            let paths: Vec<BTreeSet<i16>> = tasks.iter().map(|task| self.critical_path(task)).collect();
            let ledgers: Vec<BTreeMap<i16, Parts>> = tasks
                .iter()
                .map(|task| task.steps.iter().map(|(n, step)| (*n, self.ledger(task, *n, step))).collect())
                .collect();
            let critical: Us = ledgers
                .iter()
                .zip(&paths)
                .flat_map(|(ledger, path)| path.iter().map(|n| ledger[n].sum() - ledger[n].dependency))
                .sum();
            self.check_template(template, &tasks, &ledgers, &paths);
            for (n, named) in parsed.steps.iter().enumerate() {
                let n = i16::try_from(n).unwrap();
                let seen = template.steps.iter().find(|s| s.step == named.name);
                let of: Vec<(&Task, &Step, Parts)> = tasks
                    .iter()
                    .zip(&ledgers)
                    .filter_map(|(task, ledger)| Some((*task, task.steps.get(&n)?, ledger[&n])))
                    .collect();
                let Some(seen) = seen else {
                    assert!(of.is_empty(), "{} is missing", named.name);
                    continue;
                };
                let on_path: Us = ledgers
                    .iter()
                    .zip(&paths)
                    .filter(|(_, path)| path.contains(&n))
                    .map(|(ledger, _)| ledger[&n].sum() - ledger[&n].dependency)
                    .sum();
                close(seen.critical_share, if critical > 0 { on_path as f64 / critical as f64 } else { 0.0 });
                all.add(&check_step(seen, &of, timeout_seconds));
            }
        }
        all
    }

    fn check_template(
        &self,
        seen: &proto::TemplatePerformance,
        tasks: &[&Task],
        ledgers: &[BTreeMap<i16, Parts>],
        paths: &[BTreeSet<i16>],
    ) {
        let ended: Vec<usize> = (0..tasks.len()).filter(|i| tasks[*i].ended.is_some()).collect();
        let count = |state: &str| ended.iter().filter(|i| tasks[**i].state == state).count();
        assert_eq!(
            (seen.count, seen.complete, seen.failed, seen.cancelled),
            (int(ended.len()), int(count("complete")), int(count("error")), int(count("cancelled")))
        );
        let mut sum = Parts::default();
        let (mut elapsed, mut run) = (Vec::new(), Vec::new());
        for i in &ended {
            let mut path = Parts::default();
            paths[*i].iter().for_each(|n| path.add(&ledgers[*i][n]));
            path.dependency = 0;
            sum.add(&path);
            elapsed.push(tasks[*i].ended.unwrap() - tasks[*i].submitted);
            run.push(path.run);
        }
        let wait = elapsed.iter().zip(&run).map(|(e, r)| e - r).collect();
        same(&Parts::of(seen.ledger.as_ref().unwrap()), &sum, ended.len() * 10);
        assert_eq!(micros(seen.ledger.as_ref().unwrap().wall), sum.sum());
        times(&seen.elapsed, elapsed);
        times(&seen.run, run);
        times(&seen.wait, wait);
        let again = ended.iter().filter(|i| tasks[**i].steps.values().any(tried_again)).count();
        close(seen.retry_rate, per(again, ended.len()));
        close(seen.success_rate, per(count("complete"), count("complete") + count("error")));
    }
}

fn tried_again(step: &Step) -> bool {
    step.tries.iter().any(|t| t.charged && t.again)
}

fn check_step(seen: &proto::StepPerformance, of: &[(&Task, &Step, Parts)], timeout_seconds: f64) -> Parts {
    let count = |state: &str| of.iter().filter(|(_, step, _)| step.state == state).count();
    assert_eq!(
        (seen.count, seen.complete, seen.failed, seen.cancelled),
        (int(of.len()), int(count("complete")), int(count("error")), int(count("cancelled"))),
        "{}",
        seen.step
    );
    let mut sum = Parts::default();
    let (mut elapsed, mut run, mut wait) = (Vec::new(), Vec::new(), Vec::new());
    let (mut charged, mut free) = (0, 0);
    let mut successes = vec![0];
    for (task, step, parts) in of {
        assert_eq!(parts.sum(), step.ended - task.submitted, "the parts of {} sum to its wall time", seen.step);
        sum.add(parts);
        elapsed.push(parts.sum() - parts.dependency);
        run.push(parts.run);
        wait.push(parts.sum() - parts.dependency - parts.run);
        charged += i32::from(step.charged);
        free += step.attempt - i32::from(step.charged) - i32::from(step.state == "complete");
        if step.state == "complete" {
            successes.push(step.ended - step.started.unwrap());
        }
    }
    let ledger = seen.ledger.as_ref().unwrap();
    assert_eq!(Parts::of(ledger).sum(), micros(ledger.wall), "the parts of {} sum to the wall time", seen.step);
    assert_eq!(micros(ledger.wall), sum.sum(), "{}", seen.step);
    same(&Parts::of(ledger), &sum, of.len() * 10);
    times(&seen.elapsed, elapsed);
    times(&seen.run, run);
    times(&seen.wait, wait);
    assert_eq!((seen.charged_attempts, seen.free_attempts), (charged, free), "{}", seen.step);
    close(seen.retry_rate, per(of.iter().filter(|(_, step, _)| tried_again(step)).count(), of.len()));
    close(seen.success_rate, per(count("complete"), count("complete") + count("error")));
    assert_eq!(micros(seen.longest_success), *successes.iter().max().unwrap());
    let over = successes.iter().filter(|s| timeout_seconds > 0.0 && **s as f64 > timeout_seconds * 1e6).count();
    assert_eq!(seen.successes_over_timeout, int(over), "{}", seen.step);
    sum
}

fn int(n: usize) -> i32 {
    i32::try_from(n).unwrap()
}

fn per(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-6, "{a} is not {b}");
}

/// Equal, but for so many microseconds that the rate limit may give to another cause.
fn same(seen: &Parts, expected: &Parts, off: usize) {
    let off = Us::try_from(off).unwrap();
    let near = (seen.limit - expected.limit).abs() <= off && (seen.dispatch - expected.dispatch).abs() <= off;
    assert!(near, "{seen:?} is not {expected:?}");
    assert_eq!(seen.limit + seen.dispatch, expected.limit + expected.dispatch, "{seen:?} is not {expected:?}");
    let rest = |p: &Parts| Parts { limit: 0, dispatch: 0, ..*p };
    assert_eq!(rest(seen), rest(expected));
}

fn times(seen: &Option<proto::Times>, mut values: Vec<Us>) {
    let seen = seen.as_ref();
    if values.is_empty() {
        return;
    }
    let seen = seen.unwrap();
    values.sort_unstable();
    let at = |share: f64| {
        let place = share * (values.len() - 1) as f64;
        let (low, high) = (values[place.floor() as usize] as f64, values[place.ceil() as usize] as f64);
        low + (high - low) * place.fract()
    };
    let mean = values.iter().sum::<Us>() as f64 / values.len() as f64;
    let pairs = [
        (seen.mean, mean),
        (seen.p50, at(0.5)),
        (seen.p95, at(0.95)),
        (seen.p99, at(0.99)),
        (seen.max, *values.last().unwrap() as f64),
    ];
    for (seen, expected) in pairs {
        assert!((micros(seen) as f64 - expected).abs() <= 1.0, "{seen:?} is not {expected} us");
    }
}
