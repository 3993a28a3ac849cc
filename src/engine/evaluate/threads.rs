//! The threads that evaluate, and the replacement of one that does not return.

use std::{
    collections::VecDeque,
    future::pending,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::turns::Turn;
use crate::engine::{loops::Loops, observe::metrics::Metrics};

/// Evaluations that run at once.
pub const THREADS: usize = 2;

/// Maximum time of one evaluation.
pub const MAX_JUDGING_TIME: Duration = Duration::from_secs(2);

/// Maximum abandoned threads that still run. Beyond, no thread is started, and evaluations wait.
pub const MAX_ABANDONED: usize = 8;

/// The reason for a missing verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoVerdict {
    #[error("the evaluation took more than {} s", MAX_JUDGING_TIME.as_secs())]
    TooLong,
    #[error("the evaluation failed; see the server's log")]
    Failed,
    #[error("the server is shutting down")]
    Closed,
}

/// Validation recurses once per level of a document, several calls each.
const STACK_BYTES: usize = 8 << 20;
/// The number of timers that make up one evaluation's time limit. A suspended process or a machine
/// that stood still loses one of them and not all, so a healthy input does not fail for it.
const PARTS: u32 = 8;

pub(super) struct Threads {
    state: Mutex<State>,
    wake: Condvar,
    metrics: Arc<Metrics>,
    /// The watchdogs of the evaluations.
    loops: Loops,
    limit: Duration,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// Threads that take jobs, and those of them that wait for one.
    working: usize,
    idle: usize,
    /// Threads that were replaced and still run.
    abandoned: usize,
    /// Threads that exceeded the limit and were not replaced.
    stuck: usize,
    closed: bool,
}

struct Job {
    run: Box<dyn FnOnce() + Send>,
    began: oneshot::Sender<()>,
    over: oneshot::Sender<()>,
    fate: Arc<Mutex<JobState>>,
}

/// The state of a job.
#[derive(Clone, Copy, PartialEq, Eq)]
enum JobState {
    /// It is within its time.
    Time,
    /// It exceeded its time, and its thread was replaced.
    Replacement,
    /// It exceeded its time, and too many threads were abandoned already.
    Up,
    /// It has ended.
    Back,
}

type Reply<T> = Arc<Mutex<Option<oneshot::Sender<Result<T, NoVerdict>>>>>;

impl Threads {
    pub fn new(metrics: Arc<Metrics>, loops: Loops, limit: Duration) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            metrics,
            loops,
            limit,
        })
    }

    /// Runs `work` on one of the threads, with a watchdog.
    pub fn run<T: Send + 'static>(
        self: &Arc<Self>,
        turn: Turn,
        reply: oneshot::Sender<Result<T, NoVerdict>>,
        work: impl FnOnce() -> T + Send + 'static,
    ) {
        let reply: Reply<T> = Arc::new(Mutex::new(Some(reply)));
        let (began, has_begun) = oneshot::channel();
        let (over, mut is_over) = oneshot::channel();
        let fate = Arc::new(Mutex::new(JobState::Time));
        let (answer, metrics) = (Arc::clone(&reply), Arc::clone(&self.metrics));
        let run = Box::new(move || {
            let started = Instant::now();
            let verdict = catch_unwind(AssertUnwindSafe(work)).map_err(|_| NoVerdict::Failed);
            metrics.judging.judged(started.elapsed());
            send(&answer, verdict);
        });
        let threads = Arc::clone(self);
        let watched = Arc::clone(&fate);
        // Ends with its evaluation, also after the shutdown: an evaluation that the settle loop
        // waits for may take too long then, too.
        self.loops.spawn_until(pending(), async move {
            let _until_over = turn;
            if has_begun.await.is_err() {
                return;
            }
            for _ in 0..PARTS {
                if tokio::time::timeout(threads.limit / PARTS, &mut is_over)
                    .await
                    .is_ok()
                {
                    return;
                }
            }
            threads.give_up(&watched);
            send(&reply, Err(NoVerdict::TooLong));
        });
        self.push(Job {
            run,
            began,
            over,
            fate,
        });
    }

    fn push(self: &Arc<Self>, job: Job) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        state.jobs.push_back(job);
        self.staff(&mut state);
        drop(state);
        self.wake.notify_one();
    }

    /// Starts a thread if there are more jobs than idle threads.
    fn staff(self: &Arc<Self>, state: &mut State) {
        if state.jobs.len() <= state.idle || state.working >= THREADS {
            return;
        }
        let threads = Arc::clone(self);
        let builder = std::thread::Builder::new()
            .name("judge".into())
            .stack_size(STACK_BYTES);
        match builder.spawn(move || threads.work()) {
            Ok(_) => state.working += 1,
            Err(error) => {
                tracing::error!(%error, "an evaluation thread cannot be started; inputs wait for another one");
            }
        }
    }

    fn work(self: Arc<Self>) {
        while let Some(job) = self.next() {
            let _ = job.began.send(());
            (job.run)();
            let _ = job.over.send(());
            // The locks are taken in the same order as in `give_up`.
            let mut state = self.lock();
            let mut fate = job.fate.lock().unwrap_or_else(PoisonError::into_inner);
            match std::mem::replace(&mut *fate, JobState::Back) {
                JobState::Replacement => {
                    state.abandoned -= 1;
                    return;
                }
                JobState::Up => state.stuck -= 1,
                JobState::Time | JobState::Back => {}
            }
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.closed {
                state.working -= 1;
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state.idle += 1;
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Abandons a job that has exceeded its time.
    fn give_up(self: &Arc<Self>, fate: &Mutex<JobState>) {
        let mut state = self.lock();
        let mut fate = fate.lock().unwrap_or_else(PoisonError::into_inner);
        if *fate == JobState::Back {
            return;
        }
        self.metrics.judging.stuck.add(1);
        if state.abandoned < MAX_ABANDONED {
            state.abandoned += 1;
            state.working -= 1;
            *fate = JobState::Replacement;
            self.staff(&mut state);
            tracing::error!(
                limit = ?self.limit,
                abandoned = state.abandoned,
                "an evaluation exceeded its time limit: its input fails, and its thread is replaced"
            );
        } else {
            state.stuck += 1;
            *fate = JobState::Up;
            tracing::error!(
                limit = ?self.limit,
                abandoned = state.abandoned,
                "an evaluation exceeded its time limit: its input fails; its thread is not replaced, since too many are abandoned"
            );
        }
    }

    pub fn is_stuck(&self) -> bool {
        self.lock().stuck >= THREADS
    }

    #[cfg(test)]
    pub fn counts(&self) -> (usize, usize, usize) {
        let state = self.lock();
        (state.working, state.abandoned, state.stuck)
    }

    /// Discards the waiting jobs; each thread ends after its current job.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.jobs.clear();
        drop(state);
        self.wake.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the answer, unless one was sent before.
fn send<T>(reply: &Reply<T>, answer: Result<T, NoVerdict>) {
    if let Some(reply) = reply.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = reply.send(answer);
    }
}
