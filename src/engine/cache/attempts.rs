//! A cache of the attempts that this server started, so that a result can be settled without
//! reading first.
//!
//! Usually a result finds the rows as this server wrote them last, and the transaction is one round
//! trip of writes instead of locks, reads and writes. Sometimes it does not: the task was
//! cancelled, or another server gave the attempt up. So the cached rows are only a guess that the
//! writes check. The lease must be in the queue and the task's row must have the expected progress;
//! otherwise nothing is written, and the settle loop reads under lock. The cache is used only for
//! tasks whose queue rows are all leased to workers of this server: of others, another server may
//! be settling a step at the same time.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use uuid::Uuid;

use crate::{
    domain::{
        lease::Lease,
        progress::{Progress, StepSet},
        step::StepState,
        task::TaskState,
    },
    engine::hash::HashMap,
    store::pipeline::{
        Changes, Grant, LiveRow, NewLive, NewTask, PROBE, SettleRead, TaskRow, TaskUpdate,
    },
};

/// Maximum cached tasks. There are as many as this server has leases, plus some whose leases ended
/// elsewhere; the latter are never looked up.
const MAX_TASKS: usize = 50_000;

/// The cached tasks. Cheap to clone.
#[derive(Clone, Default)]
pub struct AttemptCache(Arc<Mutex<HashMap<Uuid, CachedTask>>>);

struct CachedTask {
    row: TaskRow,
    live: BTreeMap<i16, LiveRow>,
}

impl AttemptCache {
    /// The rows that the settle loop would read for these attempts, each with the worker that
    /// answers; `None` if any is not cached. `now` is the last start of the attempts, as the
    /// database's clock is unknown.
    pub fn read(&self, attempts: &[(Lease, Uuid)]) -> Option<SettleRead> {
        let cache = self.lock();
        let mut now = SystemTime::UNIX_EPOCH;
        let mut tasks = BTreeMap::new();
        let mut live = Vec::with_capacity(attempts.len());
        for (lease, worker_id) in attempts {
            let task = cache.get(&lease.task_id)?;
            let progress = &task.row.progress;
            if task.live.len() != usize::from(progress.live) || progress.paused {
                return None;
            }
            let row = task.live.get(&lease.step)?;
            if row.lease != Some(lease.nonce) || row.worker_id != Some(*worker_id) {
                return None;
            }
            now = now.max(row.started_at?);
            live.push(row.clone());
            tasks
                .entry(lease.task_id)
                .or_insert_with(|| task.row.clone());
        }
        let tasks = tasks.into_values().collect();
        Some(SettleRead {
            live,
            ended: Vec::new(),
            tasks,
            candidates: Vec::new(),
            now,
        })
    }

    /// The cached row of a task.
    pub fn row(&self, task_id: Uuid) -> Option<TaskRow> {
        self.lock().get(&task_id).map(|task| task.row.clone())
    }

    /// Updates the cache from a committed transaction.
    pub fn update(&self, changes: &Changes, now: SystemTime) {
        if !concerns_attempts(changes) {
            return;
        }
        let mut cache = self.lock();
        if cache.len() > MAX_TASKS {
            cache.clear();
        }
        // Attempts that ended are removed first, then new ones are added; a task that has none left
        // is evicted.
        for (task_id, step) in changes
            .ended
            .iter()
            .map(|e| (e.task_id, e.step))
            .chain(given_up(changes))
        {
            if let Some(task) = cache.get_mut(&task_id) {
                task.live.remove(&step);
            }
        }
        let mut rows: HashMap<Uuid, TaskRow> = changes
            .new_tasks
            .iter()
            .map(|t| (t.task_id, row_of_new(t)))
            .collect();
        rows.extend(changes.tasks.iter().map(|t| (t.task_id, row_of_update(t))));
        for new in &changes.new_live {
            let Some(grant) = new.grant else { continue };
            match cache.get_mut(&new.task_id) {
                Some(task) => drop(task.live.insert(new.step, live_row(new, grant, now))),
                None => {
                    let Some(row) = rows.get(&new.task_id).cloned() else {
                        continue;
                    };
                    let live = BTreeMap::from([(new.step, live_row(new, grant, now))]);
                    cache.insert(new.task_id, CachedTask { row, live });
                }
            }
        }
        for (task_id, row) in rows {
            if let Some(task) = cache.get_mut(&task_id) {
                if task.live.is_empty() {
                    cache.remove(&task_id);
                } else {
                    task.row = row;
                }
            }
        }
        for (task_id, _) in given_up(changes) {
            if cache.get(&task_id).is_some_and(|task| task.live.is_empty()) {
                cache.remove(&task_id);
            }
        }
    }

    /// Evicts tasks.
    pub fn evict(&self, tasks: impl Iterator<Item = Uuid>) {
        let mut cache = self.lock();
        tasks.for_each(|task_id| drop(cache.remove(&task_id)));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, CachedTask>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the cache depends on these changes. It has no claims of waiting steps, whose rows were
/// not written here.
fn concerns_attempts(changes: &Changes) -> bool {
    !(changes.tasks.is_empty()
        && changes.new_tasks.is_empty()
        && changes.new_live.is_empty()
        && changes.ended.is_empty()
        && given_up(changes).next().is_none())
}

/// The attempts that ended without ending their step.
fn given_up(changes: &Changes) -> impl Iterator<Item = (Uuid, i16)> {
    let retries = changes.retries.iter().map(|r| &r.attempt);
    retries
        .chain(changes.given_back.iter().map(|g| &g.attempt))
        .map(|a| (a.task_id, a.step))
}

fn row_of_new(t: &NewTask) -> TaskRow {
    TaskRow {
        task_id: t.task_id,
        template_id: t.template_id,
        priority: t.priority,
        progress: progress_of(t.state, &t.steps_done, t.steps_live, None),
        settings: t.settings.as_deref().map(Arc::from),
        expires_at: t.expires_at,
        error_code: None,
        bytes: t.bytes,
        revision: 0,
    }
}

fn row_of_update(t: &TaskUpdate) -> TaskRow {
    TaskRow {
        task_id: t.task_id,
        template_id: t.kept.template_id,
        priority: t.kept.priority,
        progress: progress_of(t.state, &t.steps_done, t.steps_live, t.failed_step),
        settings: t.kept.settings.clone(),
        expires_at: t.kept.expires_at,
        error_code: None,
        bytes: t.bytes,
        revision: t.kept.revision,
    }
}

/// Never paused: an operator command evicts its task from this cache.
fn progress_of(state: TaskState, done: &[u8], live: i16, failed: Option<i16>) -> Progress {
    Progress {
        state,
        done: StepSet::from_bytes(done.to_vec()),
        live: u16::try_from(live).unwrap_or_default(),
        failed_step: failed.and_then(|step| u16::try_from(step).ok()),
        paused: false,
    }
}

/// The queue row as INSERT_LIVE wrote it.
fn live_row(new: &NewLive, grant: Grant, now: SystemTime) -> LiveRow {
    LiveRow {
        task_id: new.task_id,
        step: new.step,
        attempt: new.next_attempt(),
        charged: new.past.map_or(0, |past| past.charged),
        lost: 0,
        lease: Some(grant.nonce),
        worker_id: Some(grant.worker_id),
        ready_at: now,
        started_at: Some(now),
        deadline_at: Some(new.expires_at.map_or(now + grant.timeout, |expires_at| {
            expires_at.min(now + grant.timeout)
        })),
        probe: grant.share_id == Some(PROBE),
        state: StepState::InProgress,
        reopened: new.past.is_some(),
        forgiven: new
            .past
            .map_or(0, |past| past.attempt - i32::from(past.charged)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::pipeline::{Ended, Kept};

    const TASK: Uuid = Uuid::from_u128(1);
    const WORKER: Uuid = Uuid::from_u128(2);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000)
    }

    fn new_live(step: i16, granted: bool) -> NewLive {
        let grant = Grant {
            worker_id: WORKER,
            nonce: i64::from(step),
            timeout: Duration::from_secs(1),
            share_id: None,
        };
        let grant = granted.then_some(grant);
        NewLive {
            task_id: TASK,
            step,
            template_id: 1,
            lane_id: 1,
            priority: 0,
            past: None,
            timeout: None,
            expires_at: None,
            not_before: None,
            paused: false,
            bytes: 0,
            revision: 0,
            grant,
        }
    }

    fn submitted(granted: &[bool]) -> Changes {
        let task = NewTask {
            task_id: TASK,
            template_id: 1,
            state: TaskState::InProgress,
            priority: 0,
            steps_total: 3,
            steps_live: i16::try_from(granted.len()).unwrap(),
            steps_done: vec![0],
            correlation_id: String::new(),
            traceparent: None,
            annotations: String::new(),
            context: String::new(),
            failed_step: None,
            settings: None,
            not_before: None,
            expires_at: None,
            bytes: 0,
        };
        let new_live = granted
            .iter()
            .zip(0..)
            .map(|(granted, step)| new_live(step, *granted))
            .collect();
        Changes {
            new_tasks: vec![task],
            new_live,
            ..Changes::default()
        }
    }

    fn ended(step: i16, then: Vec<NewLive>, live: i16) -> Changes {
        let ended = Ended {
            task_id: TASK,
            step,
            lease: Some(step.into()),
            state: StepState::Complete,
            attempt: 1,
            charged: 0,
            result: None,
            failure: None,
            ready_at: now(),
            started_at: Some(now()),
        };
        let task = TaskUpdate {
            task_id: TASK,
            state: if live == 0 {
                TaskState::Complete
            } else {
                TaskState::InProgress
            },
            steps_live: live,
            steps_done: vec![1],
            failed_step: None,
            cancelled: None,
            expected: None,
            bytes: 0,
            kept: Kept::default(),
        };
        Changes {
            ended: vec![ended],
            tasks: vec![task],
            new_live: then,
            ..Changes::default()
        }
    }

    fn lease(step: i16) -> (Lease, Uuid) {
        (
            Lease {
                task_id: TASK,
                step,
                nonce: step.into(),
            },
            WORKER,
        )
    }

    fn cached(changes: &[Changes]) -> AttemptCache {
        let cache = AttemptCache::default();
        changes
            .iter()
            .for_each(|changes| cache.update(changes, now()));
        cache
    }

    #[test]
    fn attempt_of_this_server_is_cached_until_its_end() {
        let cache = cached(&[submitted(&[true])]);
        let read = cache.read(&[lease(0)]).unwrap();
        assert_eq!((read.live.len(), read.tasks[0].progress.live), (1, 1));
        cache.update(&ended(0, vec![new_live(1, true)], 1), now());
        assert!(cache.read(&[lease(0)]).is_none(), "over");
        assert_eq!(
            cache.read(&[lease(1)]).unwrap().tasks[0]
                .progress
                .done
                .as_bytes(),
            [1]
        );
        cache.update(&ended(1, vec![], 0), now());
        assert!(
            cache.lock().is_empty(),
            "nothing is kept of a task that ended"
        );
    }

    #[test]
    fn task_with_a_step_of_another_server_is_not_cached() {
        assert!(
            cached(&[submitted(&[true, false])])
                .read(&[lease(0)])
                .is_none()
        );
        assert!(
            cached(&[submitted(&[true, true])])
                .read(&[lease(0), lease(1)])
                .is_some()
        );
    }

    #[test]
    fn other_lease_worker_or_task_misses_the_cache() {
        let cache = cached(&[submitted(&[true])]);
        assert!(
            cache
                .read(&[(
                    Lease {
                        nonce: 9,
                        ..lease(0).0
                    },
                    WORKER
                )])
                .is_none()
        );
        assert!(cache.read(&[(lease(0).0, Uuid::from_u128(3))]).is_none());
        assert!(
            cache
                .read(&[(
                    Lease {
                        task_id: WORKER,
                        ..lease(0).0
                    },
                    WORKER
                )])
                .is_none()
        );
        assert!(cache.read(&[lease(0)]).is_some());
        cache.evict([TASK].into_iter());
        assert!(cache.read(&[lease(0)]).is_none());
    }
}
