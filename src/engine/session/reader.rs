//! The task that reads a worker's stream until either side ends.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{FromWorker, Sessions};
use crate::{
    domain::{attempt::Outcome, lease::Lease},
    engine::{
        batch::queue::{Closed, SettleQueue},
        decide::input::Input,
        dispatch::registry::Registry,
        maintenance::leases::Heartbeats,
    },
    store::{Db, worker as workers},
};

/// Interval at which a worker counts as alive while its result waits for space in the settle queue.
const HELD_BACK: Duration = Duration::from_millis(300);
/// Limit on the wait for the acknowledgements of a worker that has closed its side.
const LAST_ACKS: Duration = Duration::from_secs(10);
/// Interval between checks for these acknowledgements.
const ACK_CHECK: Duration = Duration::from_millis(10);

pub(super) struct Reader {
    worker_id: Uuid,
    db: Db,
    registry: Arc<Registry>,
    settle: SettleQueue,
    heartbeats: Heartbeats,
    /// Cancelled by the registry when it removes the worker, and by the drop of the stream.
    stop: CancellationToken,
    is_draining: bool,
}

/// How the messages of a worker end.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The worker closed its side in good order.
    Closed,
    Broken,
}

impl Reader {
    pub(super) fn new(sessions: &Sessions, worker_id: Uuid, stop: CancellationToken) -> Self {
        Self {
            worker_id,
            db: sessions.db.clone(),
            registry: Arc::clone(&sessions.registry),
            settle: sessions.settle.clone(),
            heartbeats: sessions.heartbeats.clone(),
            stop,
            is_draining: false,
        }
    }

    /// Reads until either side ends; `ending` takes the error for the worker.
    pub(super) async fn run<E: From<Closed>>(
        mut self,
        inbound: impl Stream<Item = Result<FromWorker, Option<E>>>,
        ending: oneshot::Sender<E>,
    ) {
        let (end, error) = self.read(inbound).await;
        if let Some(error) = error {
            // Before the removal, which ends the messages for the worker.
            let _ = ending.send(error);
        }
        match end {
            End::Closed => self.close().await,
            // The worker may come back within its lease and continue; until then its attempts stay
            // its own.
            End::Broken => drop(self.registry.remove(self.worker_id)),
        }
        tracing::info!(worker_id = %self.worker_id, ?end, "worker disconnected");
    }

    async fn read<E: From<Closed>>(
        &mut self,
        inbound: impl Stream<Item = Result<FromWorker, Option<E>>>,
    ) -> (End, Option<E>) {
        let mut inbound = pin!(inbound);
        loop {
            // After the removal of the worker, later messages are not read.
            let message = tokio::select! {
                () = self.stop.cancelled() => return (End::Broken, None),
                message = inbound.next() => message,
            };
            match message {
                None => return (End::Closed, None),
                Some(Err(error)) => return (End::Broken, error),
                Some(Ok(message)) => {
                    if let Err(closed) = self.take(message).await {
                        return (End::Broken, Some(closed.into()));
                    }
                }
            }
        }
    }

    async fn take(&mut self, message: FromWorker) -> Result<(), Closed> {
        self.heartbeats.record(self.worker_id);
        match message {
            FromWorker::Result { lease, outcome } => self.result(lease, outcome).await,
            FromWorker::Heartbeat => Ok(()),
            FromWorker::Drain => {
                self.drain().await;
                Ok(())
            }
        }
    }

    async fn drain(&mut self) {
        self.is_draining = true;
        self.registry.close(self.worker_id);
        // For operators only; the registry has stopped assignments already.
        if let Err(error) = workers::drain(&self.db, self.worker_id).await {
            tracing::debug!(%error, "a draining worker cannot be marked");
        }
    }

    async fn result(&self, lease: Lease, outcome: Outcome) -> Result<(), Closed> {
        // A draining worker gives its steps back for others to run at once. From any other worker
        // they are delayed, as it could get and release the same step in a loop.
        let outcome = match outcome {
            Outcome::Released { .. } => Outcome::Released {
                delayed: !self.is_draining,
            },
            other => other,
        };
        let plan = self.registry.answered(self.worker_id, lease);
        let mut pushed = pin!(self.settle.push(Input::Result {
            lease,
            outcome,
            worker_id: self.worker_id,
            plan,
        }));
        loop {
            tokio::select! {
                pushed = &mut pushed => return pushed,
                // This server does not read the stream meanwhile, so the worker's heartbeats wait
                // behind its result.
                () = tokio::time::sleep(HELD_BACK) => self.heartbeats.record(self.worker_id),
            }
        }
    }

    /// The worker has closed its side: it gets its last acknowledgements. If it had announced that
    /// it drains, its unanswered attempts go to other workers at once. If not, a client library may
    /// have closed a stream that it only dropped, and the worker may come back within its lease.
    async fn close(&self) {
        self.registry.close(self.worker_id);
        let acknowledged = async {
            while self.registry.unacknowledged(self.worker_id) > 0 {
                tokio::time::sleep(ACK_CHECK).await;
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            _ = tokio::time::timeout(LAST_ACKS, acknowledged) => {}
        }
        let is_done = self.is_draining || self.registry.holds_nothing(self.worker_id);
        // Before the stream ends, so that a caller that sees its end no longer finds the worker in
        // the list.
        if is_done && let Err(error) = workers::end(&self.db, &[self.worker_id]).await {
            tracing::debug!(%error, "the end of a worker cannot be stored; its lease expires instead");
        }
        let left = self.registry.remove(self.worker_id);
        if is_done {
            self.give_back(left).await;
        }
    }

    async fn give_back(&self, leases: Vec<Lease>) {
        for lease in leases {
            let gone = Input::Gone {
                lease,
                worker_id: self.worker_id,
                outcome: Outcome::Drained,
            };
            // If the loop has stopped, the reaper of another server finds the attempt.
            let _ = self.settle.push(gone).await;
        }
    }
}
