//! The counters that loops and templates carry. Counting adds to an atomic, without a look-up by
//! name.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use crate::domain::{attempt::OutcomeKind, task::TaskState};

/// Upper bounds of the buckets of the run time, in seconds.
const RUN_SECONDS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// A monotonic counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: usize) {
        self.0
            .fetch_add(u64::try_from(n).unwrap_or(u64::MAX), Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A histogram with fixed buckets. That of `prometheus-client` takes a lock for each value.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: the last bucket is unbounded.
    buckets: Box<[AtomicU64]>,
    /// In millionths.
    sum: AtomicU64,
}

impl Histogram {
    pub fn new(bounds: &'static [f64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::default()).collect();
        Self {
            bounds,
            buckets,
            sum: AtomicU64::default(),
        }
    }

    fn observe(&self, value: f64, millionths: u64) {
        let bucket = self
            .bounds
            .iter()
            .position(|bound| value <= *bound)
            .unwrap_or(self.bounds.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(millionths, Relaxed);
    }

    pub fn observe_time(&self, time: Duration) {
        self.observe(
            time.as_secs_f64(),
            u64::try_from(time.as_micros()).unwrap_or(u64::MAX),
        );
    }

    pub fn observe_number(&self, n: usize) {
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        self.observe(f64::from(n), u64::from(n) * 1_000_000);
    }

    /// The sum, and the upper bound and count of each bucket.
    pub fn read(&self) -> (f64, Vec<(f64, u64)>) {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets = bounds
            .zip(self.buckets.iter().map(|n| n.load(Relaxed)))
            .collect();
        (
            Duration::from_micros(self.sum.load(Relaxed)).as_secs_f64(),
            buckets,
        )
    }
}

/// Counters of a template's tasks, of all its versions.
#[derive(Debug, Default)]
pub struct TaskCounts {
    pub submitted: Counter,
    pub completed: Counter,
    pub failed: Counter,
    pub cancelled: Counter,
    pub resolved: Counter,
}

impl TaskCounts {
    /// The number of ended tasks by state.
    pub fn ended(&self) -> [(TaskState, u64); 4] {
        [
            (TaskState::Complete, self.completed.get()),
            (TaskState::Error, self.failed.get()),
            (TaskState::Cancelled, self.cancelled.get()),
            (TaskState::ResolvedManually, self.resolved.get()),
        ]
    }
}

/// Counters of a lane's steps.
#[derive(Debug)]
pub struct StepCounts {
    pub completed: Counter,
    pub failed: Counter,
    pub skipped: Counter,
    pub resolved: Counter,
    pub retried: Counter,
    /// By [`OutcomeKind`].
    attempts: [Counter; OutcomeKind::ALL.len()],
    pub run: Histogram,
}

impl Default for StepCounts {
    fn default() -> Self {
        Self {
            completed: Counter::default(),
            failed: Counter::default(),
            skipped: Counter::default(),
            resolved: Counter::default(),
            retried: Counter::default(),
            attempts: Default::default(),
            run: Histogram::new(RUN_SECONDS),
        }
    }
}

impl StepCounts {
    /// The number of ended attempts by outcome.
    pub fn attempts(&self) -> impl Iterator<Item = (OutcomeKind, u64)> {
        OutcomeKind::ALL
            .into_iter()
            .zip(self.attempts.iter().map(Counter::get))
    }

    pub fn ended(&self, outcome: OutcomeKind, started_at: SystemTime, now: SystemTime) {
        use OutcomeKind as K;
        if let Some(i) = OutcomeKind::ALL.iter().position(|kind| *kind == outcome) {
            self.attempts[i].add(1);
        }
        // Other outcomes do not show how long the handler takes.
        if matches!(
            outcome,
            K::Succeeded | K::RetryableError | K::PermanentError | K::TimedOut
        ) {
            self.run
                .observe_time(now.duration_since(started_at).unwrap_or_default());
        }
    }
}

/// The counters that a plan carries, so that counting needs no look-up.
#[derive(Debug)]
pub struct PlanCounts {
    pub task: Arc<TaskCounts>,
    /// In the template's order.
    steps: Vec<Arc<StepCounts>>,
}

impl PlanCounts {
    /// `steps` are in the template's order.
    pub fn new(task: Arc<TaskCounts>, steps: Vec<Arc<StepCounts>>) -> Self {
        Self { task, steps }
    }

    pub fn step(&self, step: i16) -> Option<&StepCounts> {
        self.steps
            .get(usize::try_from(step).ok()?)
            .map(AsRef::as_ref)
    }
}
