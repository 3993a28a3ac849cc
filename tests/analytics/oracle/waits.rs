//! The cause of a step's wait, moment by moment.

use std::collections::BTreeSet;

use super::{
    Oracle, Us,
    parts::Parts,
    rows::{Lane, Step, Task, Try},
};

impl Oracle {
    /// Whether the circuit is open or half-open, and whether the service is paused.
    fn stands(&self, service: i32, t: Us) -> (bool, bool) {
        let (mut counted, mut order, mut paused): (bool, Option<(bool, Option<Us>)>, Us) =
            (false, None, 0);
        for change in self
            .changes
            .get(&service)
            .into_iter()
            .flatten()
            .filter(|change| change.at <= t)
        {
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

    /// For each start that empties the bucket: its time, and the time at which the next token
    /// arrives.
    fn full(&self, service: i32) -> Vec<(Us, Us)> {
        let Some((_, rate, burst)) = self
            .limits
            .get(&service)
            .copied()
            .filter(|(_, rate, _)| *rate > 0.0)
        else {
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

    /// The wait of a lane, cut wherever anything begins or ends. Each piece has the first cause
    /// that holds: circuit, pause, no worker, limit, or else dispatch.
    fn wait(&self, lane: &Lane, from: Us, to: Us) -> Parts {
        let full = self.full(lane.service);
        let runs = self.runs.get(&lane.service).map_or(&[][..], Vec::as_slice);
        let mut edges = BTreeSet::from([from, to]);
        let changes = self.changes.get(&lane.service).into_iter().flatten();
        edges.extend(
            changes
                .flat_map(|change| [Some(change.at), change.until])
                .flatten(),
        );
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
            let limited = at_once > 0 && runs.iter().filter(within).count() >= at_once
                || full.iter().any(|f| within(&f));
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

    pub(super) fn ledger(&self, task: &Task, number: i16, step: &Step) -> Parts {
        let lane = &self.lanes[&(task.template, number)];
        let mut parts = Parts::default();
        let mut last = task.submitted;
        let mut before: Option<&Try> = None;
        // A gap after an attempt is a pause up to its `retry_after`, and back-off beyond it.
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
            // An operator set the step after its attempts: counted as if it had waited for another
            // one.
            let is_set =
                matches!(step.state.as_str(), "skipped" | "resolved_manually") && step.attempt > 0;
            let ready = if is_set {
                step.ended
            } else {
                step.ready.clamp(last, step.ended)
            };
            gap(&mut parts, before, ready - last);
            parts.add(&self.wait(lane, ready, step.ended));
        }
        parts
    }

    /// The path back from the step that ended last, each time through the parent that ended last.
    pub(super) fn critical_path(&self, task: &Task) -> BTreeSet<i16> {
        let mut path = BTreeSet::new();
        let mut next = task.ended.and_then(|_| {
            task.steps
                .iter()
                .max_by_key(|(n, s)| (s.ended, **n))
                .map(|(n, _)| *n)
        });
        while let Some(step) = next {
            path.insert(step);
            let parents = self.graphs[&task.template]
                .1
                .parents(step.try_into().unwrap());
            let parents = parents
                .iter()
                .filter_map(|p| task.steps.get_key_value(&i16::from(*p)));
            next = parents
                .max_by_key(|(n, s)| (s.ended, -i32::from(**n)))
                .map(|(n, _)| *n);
        }
        path
    }
}
