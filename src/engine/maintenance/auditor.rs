//! Finds steps and tasks that can no longer make progress, and repairs them. A finding is always a
//! bug or a manual edit, so it is logged as an error and recorded in the task's history.
//!
//! Every server scans, one portion at a time, and one server at a time. Suspects are judged again
//! under the locks that all writers take, in their order, so a row in motion is never repaired.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::repair::{Diagnosis, Repairs};
use crate::{
    engine::{
        context::EngineContext,
        time::{jitter, sleep_or_stop},
    },
    store::{
        StoreError,
        audit::{self, Position},
        repair::RepairTransaction,
    },
};

/// Interval between scans.
const SCAN: Duration = Duration::from_secs(10);
/// Maximum tasks repaired per transaction.
const BATCH: usize = 100;
/// Maximum remembered tasks that could not be repaired. A later scan finds the others again.
const MAX_LEFT: usize = 1_000;

/// Counters of the auditor since the process started.
#[derive(Debug, Default)]
pub struct Audits {
    found: AtomicU64,
    repaired: AtomicU64,
    standing: AtomicU64,
}

impl Audits {
    /// Findings confirmed under lock.
    pub fn found(&self) -> u64 {
        self.found.load(Ordering::Relaxed)
    }

    /// Findings that were repaired.
    pub fn repaired(&self) -> u64 {
        self.repaired.load(Ordering::Relaxed)
    }

    /// Broken tasks known now that could not be repaired.
    pub fn standing(&self) -> u64 {
        self.standing.load(Ordering::Relaxed)
    }
}

/// The result of one scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audited {
    /// Suspected tasks.
    pub suspects: usize,
    /// Findings repaired.
    pub repaired: usize,
}

/// The audit loop.
pub struct Auditor {
    context: EngineContext,
    audits: Arc<Audits>,
    cursor: Position,
    /// Tasks that could not be repaired, with the error if it is permanent; permanent errors are
    /// logged.
    left: BTreeMap<Uuid, Option<String>>,
    /// The last scan failed.
    failing: bool,
}

impl Auditor {
    pub fn new(context: EngineContext) -> (Self, Arc<Audits>) {
        let audits = Arc::<Audits>::default();
        let left = BTreeMap::new();
        (
            Self {
                context,
                audits: Arc::clone(&audits),
                cursor: Position::default(),
                left,
                failing: false,
            },
            audits,
        )
    }

    /// Scans until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        while sleep_or_stop(jitter(SCAN), &shutdown).await {
            match self.run_once().await {
                Ok(_) => self.failing = false,
                Err(error) if error.is_transient() || self.failing => {
                    tracing::debug!(%error, "the audit failed");
                }
                Err(error) => {
                    tracing::error!(%error, "the audit of stuck tasks keeps failing; it is retried");
                    self.failing = true;
                }
            }
        }
    }

    /// Scans the next portion and repairs the broken tasks in it.
    pub async fn run_once(&mut self) -> Result<Audited, StoreError> {
        let left: Vec<Uuid> = self.left.keys().copied().collect();
        let Some(scan) = audit::scan(&self.context.db, self.cursor, &left).await? else {
            return Ok(Audited::default());
        };
        self.cursor = scan.next;
        self.left
            .retain(|task_id, _| scan.suspects.binary_search(task_id).is_ok());
        let mut repaired = 0;
        for tasks in scan.suspects.chunks(BATCH) {
            repaired += match self.repair(tasks).await {
                Ok(repaired) => repaired,
                // One task may prevent the repair of the others.
                Err(error) => {
                    self.context.db.collisions().note(&error);
                    self.repair_each(tasks).await
                }
            };
        }
        self.audits.standing.store(
            self.left.len().try_into().unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
        Ok(Audited {
            suspects: scan.suspects.len(),
            repaired,
        })
    }

    async fn repair_each(&mut self, tasks: &[Uuid]) -> usize {
        let mut repaired = 0;
        for task_id in tasks {
            match self.repair(&[*task_id]).await {
                Ok(n) => repaired += n,
                Err(error) if error.is_transient() => self.leave(*task_id, None),
                Err(error) => self.leave(*task_id, Some(error.to_string())),
            }
        }
        repaired
    }

    /// Repairs tasks in one transaction and logs the findings after its commit. Returns the number
    /// of findings.
    async fn repair(&mut self, tasks: &[Uuid]) -> Result<usize, StoreError> {
        let mut session = self.context.db.patient().await?;
        let Some(repairing) = RepairTransaction::begin(&mut session, tasks).await? else {
            tasks.iter().for_each(|task_id| self.leave(*task_id, None));
            return Ok(0);
        };
        let mut plan = Diagnosis::default();
        for task in &repairing.tasks {
            let template = match &task.row {
                Some(row) => Some(self.context.templates.plan(row.template_id).await),
                None => None,
            };
            match template.transpose() {
                Ok(template) => plan.judge(task, template),
                // Another server may be able to read it.
                Err(StoreError::Corrupt(why)) => self.leave(task.task_id, Some(why)),
                Err(error) => return Err(error),
            }
        }
        let starts = match plan.unsure() {
            none if none.is_empty() => Vec::new(),
            unsure => repairing.recent_starts(&unsure).await?,
        };
        let Repairs {
            mut mending,
            findings,
            dead,
            tasks,
            lanes,
        } = plan.repair(&starts);
        if findings.is_empty() {
            // The task has moved on, or another server has repaired it.
            return Ok(0);
        }
        mending.notify = self.context.membership.payload(
            !lanes.is_empty(),
            !dead.is_empty(),
            !tasks.is_empty(),
            false,
        );
        repairing
            .commit(mending, &self.context.db.channel())
            .await?;
        for found in &findings {
            tracing::error!(task_id = %found.task_id, correlation_id = found.correlation_id, step = found.step_name,
                code = found.finding.code(), "inconsistent task repaired: {}", found.finding.words());
        }
        let count = findings.len();
        self.audits
            .found
            .fetch_add(count.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
        self.audits
            .repaired
            .fetch_add(count.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
        for (task_id, _) in &tasks {
            self.left.remove(task_id);
        }
        // Notifications leave only now, after the commit.
        for (lease, reason) in dead {
            self.context.registry.cancel(lease, reason);
        }
        self.context.watchers.notify(tasks);
        self.context.registry.mark_active(lanes);
        Ok(count)
    }

    /// Remembers a broken task that could not be repaired. Logs a permanent error once.
    fn leave(&mut self, task_id: Uuid, why: Option<String>) {
        if self
            .left
            .get(&task_id)
            .is_some_and(|known| known.is_some() || why.is_none())
        {
            return;
        }
        if let Some(why) = &why {
            tracing::error!(%task_id, why, "inconsistent task cannot be repaired");
            self.audits.found.fetch_add(1, Ordering::Relaxed);
        }
        if self.left.len() < MAX_LEFT || self.left.contains_key(&task_id) {
            self.left.insert(task_id, why);
        }
    }
}
