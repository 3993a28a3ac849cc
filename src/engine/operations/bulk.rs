//! One command for many tasks: page by page, each page in the settle loop's batches.

use std::{collections::HashSet, time::Duration};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::command::{self, CommandError};
use crate::{
    domain::{
        order::{Order, OrderError},
        task::TaskState,
    },
    engine::batch::queue::{Closed, SettleQueue},
    store::{
        Db, StoreError,
        bulk::{self, BulkFilter, MAX_COUNTED},
        service::Actor,
    },
};

/// Tasks per portion.
const PORTION: i64 = 500;
/// Limit on the commit of a portion.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Reports that may wait for the caller. Few: the walk stops while the caller does not read.
const REPORTS: usize = 5;

/// A command for all tasks that a filter selects.
#[derive(Clone, Debug)]
pub struct BulkCommand {
    /// Its states and its pause are set by the command.
    pub filter: BulkFilter,
    pub order: Order,
    pub actor: Actor,
    /// Counts the tasks only.
    pub dry_run: bool,
}

/// How far a bulk command is.
#[derive(Clone, Debug, Default)]
pub struct BulkProgress {
    /// The most tasks that the command can change, up to a million.
    pub total: i64,
    pub followed: i64,
    pub refused: i64,
    pub last_refusal: String,
    pub done: bool,
}

const _: () = assert!(MAX_COUNTED == 1_000_000, "the protocol says this number");

/// Why a bulk command ended early. What it has changed stays changed.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Closed(#[from] Closed),
    /// The portion stays queued and may still be stored. A repetition skips the tasks that it
    /// changed, since these no longer match the filter.
    #[error("the database did not confirm the orders in time; repeat the request for the rest")]
    Late,
    /// The database is at fault and not the task.
    #[error(transparent)]
    Failed(OrderError),
}

type Report = Result<BulkProgress, BulkError>;

/// The reports of a bulk command; dropping them ends it.
pub type BulkReports = mpsc::Receiver<Report>;

/// A bulk command in progress.
pub struct Bulk {
    pub db: Db,
    pub settle: SettleQueue,
    pub stopping: CancellationToken,
    pub command: BulkCommand,
}

impl Bulk {
    /// Counts the tasks. Returns the reports, and the walk to run unless the command only counts.
    pub async fn begin(
        mut self,
    ) -> Result<(BulkReports, Option<impl Future<Output = ()> + Send>), StoreError> {
        let (states, paused) = selected(&self.command.order);
        self.command.filter.states = states.to_vec();
        self.command.filter.paused = paused;
        let progress = BulkProgress {
            total: bulk::count(&self.db, &self.command.filter).await?,
            done: self.command.dry_run,
            ..BulkProgress::default()
        };
        let (sender, reports) = mpsc::channel(REPORTS);
        // The channel is new and has room for both.
        let _ = sender.try_send(Ok(progress.clone()));
        let last = sender.clone().try_reserve_owned().ok();
        let walk = (!self.command.dry_run).then(|| self.run(progress, sender, last));
        Ok((reports, walk))
    }

    /// Ends when no selected task is left, when the caller is gone, or with the server. `last` is a
    /// place for the last report, so that it never waits.
    async fn run(
        self,
        mut progress: BulkProgress,
        sender: mpsc::Sender<Report>,
        last: Option<mpsc::OwnedPermit<Report>>,
    ) {
        let walked = self.walk(&mut progress, &sender).await;
        progress.done = true;
        if let Some(last) = last {
            last.send(walked.map(|()| progress));
        }
    }

    async fn walk(
        &self,
        progress: &mut BulkProgress,
        sender: &mpsc::Sender<Report>,
    ) -> Result<(), BulkError> {
        let mut after = Uuid::nil();
        // The walk only goes forward, so a task that refused the order is not tried again.
        loop {
            let tasks = bulk::page(&self.db, &self.command.filter, after, PORTION).await?;
            let Some(last) = tasks.last() else {
                return Ok(());
            };
            after = *last;
            self.portion(tasks, progress).await?;
            tokio::select! {
                biased;
                sent = sender.send(Ok(progress.clone())) => {
                    if sent.is_err() {
                        // The caller is gone, and with it the reader of the last report.
                        return Ok(());
                    }
                }
                // A caller that does not read must not hold up the shutdown.
                () = self.stopping.cancelled() => return Err(Closed.into()),
            }
        }
    }

    async fn portion(
        &self,
        tasks: Vec<Uuid>,
        progress: &mut BulkProgress,
    ) -> Result<(), BulkError> {
        let mut answers = Vec::with_capacity(tasks.len());
        // All inputs are queued before the first answer is awaited, so the settle loop commits them
        // in few batches.
        for task_id in tasks.into_iter().collect::<HashSet<_>>() {
            let (order, actor) = (self.command.order.clone(), self.command.actor.clone());
            answers.push(command::push(&self.settle, task_id, order, actor).await?);
        }
        let settled = async {
            for answer in answers {
                match command::answered(answer).await {
                    Ok(()) => progress.followed += 1,
                    // The database is at fault and not this task, so the walk ends; other errors
                    // concern one task only.
                    Err(CommandError::Refused(error @ OrderError::Failed(_))) => {
                        return Err(BulkError::Failed(error));
                    }
                    Err(CommandError::Refused(error)) => {
                        progress.refused += 1;
                        progress.last_refusal = error.to_string();
                    }
                    Err(CommandError::Closed(closed)) => return Err(closed.into()),
                    Err(CommandError::Late) => return Err(BulkError::Late),
                }
            }
            Ok(())
        };
        tokio::time::timeout(TIMEOUT, settled)
            .await
            .unwrap_or(Err(BulkError::Late))
    }
}

/// The states, and the pause, of the tasks that an order can change. Only these are selected, so
/// the total is the most that the order can reach.
fn selected(order: &Order) -> (&'static [TaskState], Option<bool>) {
    const UNFINISHED: &[TaskState] = &[TaskState::Pending, TaskState::InProgress];
    match order {
        Order::Retry { .. } | Order::ResolveTask => (&[TaskState::Error], None),
        Order::Pause => (UNFINISHED, Some(false)),
        Order::Resume => (UNFINISHED, Some(true)),
        _ => (UNFINISHED, None),
    }
}
