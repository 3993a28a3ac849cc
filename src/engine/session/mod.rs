//! The session of a worker: its registration, the leases that it takes over, the messages that it
//! sends, and the end of its stream.
//!
//! ```text
//! register ─▶ registered ─▶ open ──── stream breaks ───▶ removed; the leases last until they lapse
//!                            │ drain
//!                            ▼
//!                        draining ─── stream closes ──▶ removed; the leases are given back at once
//! ```

mod reader;

use std::{collections::HashSet, future::ready, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::oneshot;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use self::reader::Reader;
use super::{
    batch::queue::{Closed, SettleQueue},
    cache::templates::TemplateCache,
    decide::input::Input,
    dispatch::{
        message::{CancelReason, ToWorker},
        outbox,
        registry::{Registry, StreamReservation},
        workers::Profile,
    },
    maintenance::leases::Heartbeats,
};
use crate::{
    domain::{attempt::Outcome, lease::Lease, worker::Registration},
    store::{
        Db, StoreError,
        worker::{self as workers, NewWorker},
    },
};

/// Messages that may wait for a worker beyond one assignment and one acknowledgement per slot.
const OUTBOX_SLACK: usize = 256;

/// Why a registration failed. The worker keeps its leases.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error("this server has its maximum of worker streams; try another one")]
    TooManyWorkers,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// A message of a registered worker.
#[derive(Clone, Debug)]
pub enum FromWorker {
    /// The outcome of an attempt.
    Result {
        lease: Lease,
        outcome: Outcome,
    },
    Heartbeat,
    /// The worker takes no further steps, and will close its stream.
    Drain,
}

/// What sessions need of the engine.
#[derive(Clone)]
pub(super) struct Sessions {
    pub(super) server_id: Uuid,
    pub(super) db: Db,
    pub(super) registry: Arc<Registry>,
    pub(super) templates: Arc<TemplateCache>,
    pub(super) settle: SettleQueue,
    pub(super) heartbeats: Heartbeats,
    pub(super) lease: Duration,
    /// The tasks that read the streams.
    pub(super) tasks: TaskTracker,
}

/// A registered worker whose stream has not started yet.
pub struct WorkerSession {
    sessions: Sessions,
    reservation: StreamReservation,
    profile: Profile,
    /// The leases that the worker keeps, and the time until the deadline of each attempt.
    kept: Vec<(Lease, Duration)>,
    /// The leases that the worker named and no longer owns.
    void: Vec<Lease>,
}

impl Sessions {
    /// Stores the connection, takes over the leases that the worker still holds, and gives back the
    /// others.
    pub(super) async fn register(
        &self,
        registration: Registration,
    ) -> Result<WorkerSession, RegistrationError> {
        let reservation = self
            .registry
            .reserve_stream()
            .ok_or(RegistrationError::TooManyWorkers)?;
        let new = NewWorker {
            // An id for each connection and not for each worker, so that messages of an earlier
            // connection cannot be mistaken for those of this one.
            worker_id: Uuid::new_v4(),
            server_id: self.server_id,
            registration,
        };
        let found = workers::register(&self.db, &new, self.lease).await?;
        if let Some(previous) = new.registration.previous {
            // If the previous stream is still open on this server, its worker no longer uses it.
            self.registry.send(previous, ToWorker::Superseded);
            self.registry.remove(previous);
        }
        let kept: HashSet<Lease> = found.kept.iter().map(|k| k.lease).collect();
        let void = new
            .registration
            .held
            .iter()
            .filter(|l| !kept.contains(l))
            .copied()
            .collect();
        for orphan in found.orphans {
            self.settle
                .push(Input::undelivered(orphan.lease, orphan.worker_id))
                .await?;
        }
        Ok(WorkerSession {
            sessions: self.clone(),
            reservation,
            profile: profile(new),
            kept: found.kept.iter().map(|k| (k.lease, k.remaining)).collect(),
            void,
        })
    }
}

fn profile(new: NewWorker) -> Profile {
    let Registration {
        name,
        namespaces,
        handlers,
        max_concurrent_steps,
        max_assignment_bytes,
        ..
    } = new.registration;
    Profile {
        worker_id: new.worker_id,
        name,
        namespaces: namespaces.into_iter().collect(),
        handlers: handlers.into_iter().collect(),
        capacity: usize::try_from(max_concurrent_steps).unwrap_or(1),
        max_assignment_bytes,
    }
}

impl WorkerSession {
    pub fn worker_id(&self) -> Uuid {
        self.profile.worker_id
    }

    /// How long the worker may be silent.
    pub fn lease(&self) -> Duration {
        self.sessions.lease
    }

    /// The leases that the worker keeps.
    pub fn kept(&self) -> impl Iterator<Item = Lease> {
        self.kept.iter().map(|(lease, _)| *lease)
    }

    /// Starts the stream: its worker gets assignments from now on, and a task reads `inbound`. The
    /// messages for the worker end with the session, and their drop ends it.
    ///
    /// An error of `inbound` ends the session; `Some` becomes the last item of the messages. An end
    /// of `inbound` means that the worker has closed its side in good order.
    pub fn start<E>(
        self,
        inbound: impl Stream<Item = Result<FromWorker, Option<E>>> + Send + 'static,
    ) -> impl Stream<Item = Result<ToWorker, E>> + Send + 'static
    where
        E: From<Closed> + Send + 'static,
    {
        let (worker_id, registry) = (self.profile.worker_id, &self.sessions.registry);
        let (outbox, inbox) = outbox::channel(outbox_size(self.profile.capacity));
        let stop = CancellationToken::new();
        // No await lies between this and the start of the reader, which removes the worker.
        registry.add(
            self.reservation,
            self.profile,
            self.kept,
            &self.sessions.templates.lanes(),
            outbox,
            stop.clone(),
        );
        let (ending, mut ended) = oneshot::channel();
        let reader = Reader::new(&self.sessions, worker_id, stop.clone());
        self.sessions.tasks.spawn(reader.run(inbound, ending));
        tracing::info!(%worker_id, "worker connected");

        let cancelled = stream::iter(self.void.into_iter().map(cancelled));
        let scans = Arc::clone(registry);
        let inbox = inbox.into_stream(move || scans.request_scan());
        let stop = stop.drop_guard();
        let last = stream::once(async move {
            // Dropped with the last item, or with a stream that is not read to its end: both stop
            // the reader.
            let _until_here = stop;
            // Never waits: the reader sets its error before it removes the worker.
            ended.try_recv().ok()
        });
        let last = last.filter_map(|error| ready(error.map(Err)));
        cancelled.chain(inbox).map(Ok).chain(last)
    }
}

/// The worker named this lease and no longer owns it.
fn cancelled(lease: Lease) -> ToWorker {
    ToWorker::Cancel {
        lease,
        step_name: String::new(),
        reason: CancelReason::LeaseLost,
    }
}

/// One assignment and one acknowledgement per slot, and some slack.
fn outbox_size(capacity: usize) -> usize {
    2 * capacity + OUTBOX_SLACK
}
