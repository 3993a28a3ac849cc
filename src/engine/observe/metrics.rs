//! The counters of this server. Counting adds to an atomic, after the commit, once per transaction
//! and per ended attempt, without a look-up by name. Names, units and meanings are in
//! docs/metrics.md.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tasker_template::Template;

use super::listener::ListenerCounts;
use crate::{
    domain::{attempt::OutcomeKind, event::EventType},
    engine::{
        counters::{Counter, Histogram, PlanCounts, StepCounts, TaskCounts},
        plan::compiled::Plans,
    },
    store::pipeline::{Changes, EndedAttempt},
};

/// Maximum combinations of labels per metric; further ones are counted together as [`OTHER`].
pub const MAX_LABEL_SETS: usize = 200;
/// The label of combinations beyond the limit.
pub const OTHER: &str = "other";

const COMMIT_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];
const JUDGING_SECONDS: &[f64] = &[0.0001, 0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0];
/// Upper bounds of the buckets, in inputs per transaction.
const BATCH: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// Counters by combination of labels.
#[derive(Debug)]
pub struct Family<const N: usize, T>(Mutex<BTreeMap<[String; N], Arc<T>>>);

impl<const N: usize, T> Default for Family<N, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<const N: usize, T: Default> Family<N, T> {
    /// The counters of these labels, or those of [`OTHER`] beyond the limit.
    pub fn of(&self, labels: [&str; N]) -> Arc<T> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = labels.map(str::to_owned);
        if !known.contains_key(&key) && known.len() >= MAX_LABEL_SETS {
            key = [OTHER; N].map(str::to_owned);
        }
        Arc::clone(known.entry(key).or_default())
    }

    /// All counters, ordered by labels.
    pub fn all(&self) -> Vec<([String; N], Arc<T>)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .map(|(labels, counts)| (labels.clone(), Arc::clone(counts)))
            .collect()
    }
}

/// The loops with batched transactions.
#[derive(Clone, Copy, Debug)]
pub enum Loop {
    Intake,
    Settle,
    Dispatch,
}

impl Loop {
    pub const ALL: [Self; 3] = [Self::Intake, Self::Settle, Self::Dispatch];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intake => "intake",
            Self::Settle => "settle",
            Self::Dispatch => "dispatch",
        }
    }
}

/// Counters of a loop's transactions.
#[derive(Debug)]
pub struct LoopCounts {
    pub batch: Histogram,
    pub commit: Histogram,
}

impl Default for LoopCounts {
    fn default() -> Self {
        Self {
            batch: Histogram::new(BATCH),
            commit: Histogram::new(COMMIT_SECONDS),
        }
    }
}

/// Counters of the evaluation threads.
#[derive(Debug)]
pub struct EvaluationCounts {
    /// Time of evaluations that ended.
    pub time: Histogram,
    /// Inputs whose evaluation exceeded its budget.
    pub too_costly: Counter,
    /// Evaluations that were abandoned after the time limit.
    pub stuck: Counter,
}

impl Default for EvaluationCounts {
    fn default() -> Self {
        Self {
            time: Histogram::new(JUDGING_SECONDS),
            too_costly: Counter::default(),
            stuck: Counter::default(),
        }
    }
}

impl EvaluationCounts {
    /// Counts an evaluation that ended.
    pub fn judged(&self, took: Duration) {
        self.time.observe_time(took);
    }
}

/// All counters of this server.
#[derive(Debug, Default)]
pub struct Metrics {
    pub tasks: Family<2, TaskCounts>,
    pub steps: Family<3, StepCounts>,
    /// Transactions left out of spans and log lines, as the queue was full (`traces`).
    pub untold: Counter,
    /// Counters of the listening side, shared with the connections.
    pub edge: Arc<ListenerCounts>,
    /// Results that came after their attempts had ended.
    pub results_stale: Counter,
    pub judging: EvaluationCounts,
    loops: [LoopCounts; Loop::ALL.len()],
}

impl Metrics {
    /// The counters of a template.
    pub fn of(&self, template: &Template) -> PlanCounts {
        let namespace = template.namespace.as_str();
        PlanCounts::new(
            self.tasks.of([namespace, &template.task_name]),
            template
                .steps
                .iter()
                .map(|s| self.steps.of([namespace, &s.handler, &s.service]))
                .collect(),
        )
    }

    pub fn of_loop(&self, of: Loop) -> &LoopCounts {
        &self.loops[of as usize]
    }

    /// Counts a committed transaction of `batch` inputs.
    pub fn committed(
        &self,
        of: Loop,
        batch: usize,
        took: Duration,
        changes: &Changes,
        plans: &Plans,
        now: SystemTime,
    ) {
        let counts = self.of_loop(of);
        counts.batch.observe_number(batch);
        counts.commit.observe_time(took);
        for task in &changes.new_tasks {
            if let Some(plan) = plans.get(&task.template_id) {
                plan.counts.task.submitted.add(1);
            }
        }
        for event in &changes.events {
            let Some(plan) = event.template_id.and_then(|id| plans.get(&id)) else {
                continue;
            };
            match event.kind {
                EventType::TaskCompleted => plan.counts.task.completed.add(1),
                EventType::TaskFailed => plan.counts.task.failed.add(1),
                EventType::TaskCancelled => plan.counts.task.cancelled.add(1),
                EventType::TaskResolved => plan.counts.task.resolved.add(1),
                _ => {}
            }
            let Some(step) = event.step.and_then(|step| plan.counts.step(step)) else {
                continue;
            };
            match event.kind {
                EventType::StepCompleted => step.completed.add(1),
                EventType::StepFailed => step.failed.add(1),
                EventType::StepSkipped => step.skipped.add(1),
                EventType::StepResolved => step.resolved.add(1),
                _ => {}
            }
            if let (Some(outcome), Some(started_at)) = (event.outcome, event.started_at) {
                step.ended(outcome, started_at, now);
            }
        }
        for EndedAttempt {
            template_id,
            step,
            outcome,
            started_at,
            ..
        } in changes.retries.iter().map(|r| &r.attempt)
        {
            let Some(step) = plans
                .get(template_id)
                .and_then(|plan| plan.counts.step(*step))
            else {
                continue;
            };
            step.ended(*outcome, *started_at, now);
            if !matches!(outcome, OutcomeKind::Released | OutcomeKind::Drained) {
                step.retried.add(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histogram_counts_a_value_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::new(BATCH);
        for n in [1, 2, 3, 512, 513] {
            histogram.observe_number(n);
        }
        let (sum, buckets) = histogram.read();
        assert!((sum - 1031.0).abs() < 1e-9, "{sum}");
        let full: Vec<(f64, u64)> = buckets.into_iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(
            full,
            [(1.0, 1), (2.0, 1), (4.0, 1), (512.0, 1), (f64::INFINITY, 1)]
        );
    }

    #[test]
    fn labels_over_the_bound_are_counted_together() {
        let family = Family::<1, Counter>::default();
        for n in 0..MAX_LABEL_SETS + 5 {
            family.of([&format!("n{n:03}")]).add(1);
        }
        family.of(["n000"]).add(1);
        let all = family.all();
        assert_eq!(all.len(), MAX_LABEL_SETS + 1);
        let of = |label: &str| {
            all.iter()
                .find(|(labels, _)| labels[0] == label)
                .map(|(_, count)| count.get())
        };
        assert_eq!(
            (of("n000"), of("n199"), of("n200"), of(OTHER)),
            (Some(2), Some(1), None, Some(5))
        );
    }
}
