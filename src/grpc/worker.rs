//! `tasker.v1.WorkerService`: the stream over which a worker registers, gets its assignments and
//! reports its results.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Request, Response, Status, Streaming};
use uuid::Uuid;

use super::{convert, error, fallback, page, worker_messages};
use crate::{
    domain::{attempt::Outcome, lease::Lease},
    engine::{
        Engine,
        decide::input::Input,
        dispatch::{
            message::{CancelReason, ToWorker},
            outbox::{self, Outbox},
            workers::Profile,
        },
        observe::traces::Traces,
    },
    proto::{
        self, WorkRequest, WorkResponse, work_request::Message as Says,
        work_response::Message as Hears, worker_service_server::WorkerService,
    },
    store::worker as workers,
};

/// Limit on the wait for a stream's first message.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages that may wait for a worker beyond one assignment and one acknowledgement per slot.
const OUTBOX_SLACK: usize = 256;
/// Interval at which a worker counts as alive while its result waits for space in the settle queue.
const HELD_BACK: Duration = Duration::from_millis(300);
/// Limit on the wait for the acknowledgements of a worker that has closed its side.
const LAST_ACKS: Duration = Duration::from_secs(10);

/// The service over an engine.
pub struct Workers(pub Engine);

#[tonic::async_trait]
impl WorkerService for Workers {
    type WorkStream = Pin<Box<dyn Stream<Item = Result<WorkResponse, Status>> + Send>>;

    async fn work(
        &self,
        request: Request<Streaming<WorkRequest>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        // At once, so that a worker with several addresses loses no time here.
        if self.0.context.health.now().database_away {
            return Err(cut_off());
        }
        let mut inbound = request.into_inner();
        let first = tokio::time::timeout(REGISTER_TIMEOUT, inbound.message())
            .await
            .map_err(|_| order("the first message must be `register`, and none arrived in time"))?
            .map_err(fallback::unreadable)?;
        let Some(WorkRequest {
            message: Some(Says::Register(register)),
        }) = first
        else {
            return Err(order("the first message must be `register`"));
        };
        let lanes = self.0.context.templates.lanes();
        let is_stored = |name: &str| {
            lanes
                .iter()
                .any(|lane| lane.handler == name || lane.namespace == name)
        };
        let new = worker_messages::register(register, self.0.server_id, is_stored)?;
        let (outbox, inbox) = outbox::channel(outbox_size(new.max_concurrent_steps));
        let stop = CancellationToken::new();
        let connection = Connection::open(self.0.clone(), new, outbox, stop.clone()).await?;
        let ending = Ending::default();
        let (registered, worker_id) = (connection.registered(), connection.worker_id);
        let cancelled = connection.cancelled();
        tokio::spawn(connection.run(inbound, ending.clone(), stop.clone()));
        let registry = Arc::clone(&self.0.context.registry);
        let inbox = inbox.into_stream(move || registry.request_scan());
        let stream = outgoing(
            registered,
            cancelled,
            inbox,
            ending,
            stop.drop_guard(),
            self.0.context.traces.clone(),
        );
        tracing::info!(%worker_id, "worker connected");
        Ok(Response::new(stream))
    }

    async fn list_workers(
        &self,
        request: Request<proto::ListWorkersRequest>,
    ) -> Result<Response<proto::ListWorkersResponse>, Status> {
        let r = request.into_inner();
        convert::name("handler", &r.handler)?;
        let size = page::size(r.page_size, 100, 1_000)?;
        let after = page::place(&r.handler, &r.page_token)?
            .map(|id| {
                Uuid::from_slice(&id).map_err(|_| {
                    error::invalid(
                        "page_token",
                        "not a token of this list: start again without one",
                    )
                })
            })
            .transpose()?;
        let handler = Some(r.handler.as_str()).filter(|h| !h.is_empty());
        let limit = i64::try_from(size + 1).unwrap_or(i64::MAX);
        let mut found = workers::list(&self.0.context.db, handler, after, limit)
            .await
            .map_err(|e| error::store(&e))?;
        let count = found.len();
        found.truncate(size);
        let ids: Vec<Uuid> = found.iter().map(|worker| worker.worker_id).collect();
        let mut workers: Vec<proto::Worker> = found.into_iter().map(convert::worker).collect();
        workers.truncate(page::fitting(&workers));
        let next_page_token = match workers.len().checked_sub(1).and_then(|last| ids.get(last)) {
            Some(last) if count > workers.len() => page::token(&r.handler, last.as_bytes()),
            _ => String::new(),
        };
        Ok(Response::new(proto::ListWorkersResponse {
            workers,
            next_page_token,
        }))
    }
}

/// One registered worker stream.
struct Connection {
    engine: Engine,
    worker_id: Uuid,
    kept: Vec<Lease>,
    void: Vec<Lease>,
    draining: bool,
}

impl Connection {
    /// Stores the connection, takes over the leases that the worker still holds, and gives back the
    /// others.
    async fn open(
        engine: Engine,
        new: workers::NewWorker,
        outbox: Outbox,
        stop: CancellationToken,
    ) -> Result<Self, Status> {
        let room = engine.context.registry.reserve_stream().ok_or_else(|| {
            let message = "this server has its maximum of worker streams; try another one";
            error::retry_later(
                Code::ResourceExhausted,
                "TOO_MANY_WORKERS",
                message,
                Duration::from_secs(5),
            )
        })?;
        let found = workers::register(&engine.context.db, &new, engine.lease)
            .await
            .map_err(|e| error::store(&e))?;
        if let Some(previous) = new.previous {
            // If the previous stream is still open on this server, its worker no longer uses it.
            engine.context.registry.send(previous, ToWorker::Superseded);
            engine.context.registry.remove(previous);
        }
        let worker_id = new.worker_id;
        let kept: HashSet<Lease> = found.kept.iter().map(|k| k.lease).collect();
        let void = new
            .held
            .iter()
            .filter(|l| !kept.contains(l))
            .copied()
            .collect();
        let profile = Profile {
            worker_id,
            name: new.name,
            namespaces: new.namespaces.into_iter().collect(),
            handlers: new.handlers.into_iter().collect(),
            capacity: usize::try_from(new.max_concurrent_steps).unwrap_or(1),
            max_assignment_bytes: new.max_assignment_bytes,
        };
        let held = found.kept.iter().map(|k| (k.lease, k.remaining)).collect();
        // These are the last awaits, as the caller may be dropped in any of them: the registry would
        // keep a worker that was added before.
        for orphan in found.orphans {
            let outcome = Outcome::Undelivered;
            let gone = Input::Gone {
                lease: orphan.lease,
                worker_id: orphan.worker_id,
                outcome,
            };
            engine.settle.push(gone).await.map_err(error::closed)?;
        }
        engine.context.registry.add(
            room,
            profile,
            held,
            &engine.context.templates.lanes(),
            outbox,
            stop,
        );
        Ok(Self {
            engine,
            worker_id,
            kept: kept.into_iter().collect(),
            void,
            draining: false,
        })
    }

    fn registered(&self) -> WorkResponse {
        let lease = self.engine.lease;
        hears(Hears::Registered(proto::Registered {
            worker_id: self.worker_id.to_string(),
            lease_duration: Some(convert::duration(lease)),
            heartbeat_interval: Some(convert::duration(lease / 3)),
            kept_leases: self.kept.iter().map(Lease::to_token).collect(),
        }))
    }

    /// Cancellations of the leases that the worker listed and no longer owns.
    fn cancelled(&self) -> Vec<WorkResponse> {
        self.void
            .iter()
            .map(|lease| cancel(*lease, String::new(), CancelReason::LeaseLost))
            .collect()
    }

    /// Reads until either side ends.
    async fn run(
        mut self,
        mut inbound: Streaming<WorkRequest>,
        ending: Ending,
        stop: CancellationToken,
    ) {
        let end = loop {
            // The hub cancels `stop` when it removes the worker; later messages are not read.
            let message = tokio::select! {
                () = stop.cancelled() => break End::Broken,
                message = inbound.message() => message.map_err(fallback::unreadable),
            };
            match message {
                Ok(Some(message)) => {
                    if let Err(status) = self.take(message).await {
                        ending.set(status);
                        break End::Broken;
                    }
                }
                Ok(None) => break End::Closed,
                Err(status) => {
                    tracing::debug!(worker_id = %self.worker_id, %status, "a worker's stream broke");
                    // Unreadable bytes get an answer; a broken connection has no reader for one.
                    if matches!(
                        status.code(),
                        Code::InvalidArgument | Code::ResourceExhausted
                    ) {
                        ending.set(status);
                    }
                    break End::Broken;
                }
            }
        };
        if matches!(end, End::Closed) {
            self.close(&stop).await;
        } else {
            // The worker may come back within its lease and continue; until then its attempts stay
            // its own.
            self.engine.context.registry.remove(self.worker_id);
        }
        tracing::info!(worker_id = %self.worker_id, ?end, "worker disconnected");
    }

    async fn take(&mut self, message: WorkRequest) -> Result<(), Status> {
        self.engine.heartbeats.record(self.worker_id);
        match message.message {
            Some(Says::Result(result)) => self.result(result).await,
            Some(Says::Heartbeat(proto::Heartbeat {})) => Ok(()),
            Some(Says::Drain(proto::Drain {})) => {
                self.draining = true;
                self.engine.context.registry.close(self.worker_id);
                // For operators only; the registry has stopped assignments already.
                if let Err(error) = workers::drain(&self.engine.context.db, self.worker_id).await {
                    tracing::debug!(%error, "a draining worker cannot be marked");
                }
                Ok(())
            }
            Some(Says::Register(_)) => {
                Err(order("`register` is allowed once, as the first message"))
            }
            None => Err(error::invalid(
                "message",
                "empty: expected `result`, `heartbeat` or `drain`",
            )),
        }
    }

    async fn result(&self, result: proto::StepResult) -> Result<(), Status> {
        let (lease, outcome) = worker_messages::result(result)?;
        // A draining worker gives its steps back for others to run at once. From any other worker
        // they are delayed, as it could get and release the same step in a loop.
        let outcome = match outcome {
            Outcome::Released { .. } => Outcome::Released {
                delayed: !self.draining,
            },
            other => other,
        };
        let plan = self.engine.context.registry.answered(self.worker_id, lease);
        let input = Input::Result {
            lease,
            outcome,
            worker_id: self.worker_id,
            plan,
        };
        let taken = self.engine.settle.push(input);
        tokio::pin!(taken);
        loop {
            tokio::select! {
                taken = &mut taken => return taken.map_err(error::closed),
                // This server does not read the stream meanwhile, so the worker's heartbeats wait
                // behind its result.
                () = tokio::time::sleep(HELD_BACK) => self.engine.heartbeats.record(self.worker_id),
            }
        }
    }

    /// The worker has closed its side: it gets its last acknowledgements. If it had announced that
    /// it drains, its unanswered attempts go to other workers at once. If not, a client library may
    /// have closed a stream that it only dropped, and the worker may come back within its lease.
    async fn close(&self, stop: &CancellationToken) {
        self.engine.context.registry.close(self.worker_id);
        let acknowledged = async {
            while self.engine.context.registry.unacknowledged(self.worker_id) > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            _ = tokio::time::timeout(LAST_ACKS, acknowledged) => {}
        }
        let done = self.draining || self.engine.context.registry.holds_nothing(self.worker_id);
        // Before the stream ends, so that a caller that sees its end no longer finds the worker in
        // the list.
        if done && let Err(error) = workers::end(&self.engine.context.db, &[self.worker_id]).await {
            tracing::debug!(%error, "the end of a worker cannot be stored; its lease expires instead");
        }
        let left = self.engine.context.registry.remove(self.worker_id);
        if !done {
            return;
        }
        for lease in left {
            let gone = Input::Gone {
                lease,
                worker_id: self.worker_id,
                outcome: Outcome::Drained,
            };
            // If the loop has stopped, the reaper of another server finds the attempt.
            let _ = self.engine.settle.push(gone).await;
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum End {
    /// The worker closed its side in good order.
    Closed,
    Broken,
}

/// The final status of the stream.
#[derive(Clone, Default)]
struct Ending(Arc<Mutex<Option<Status>>>);

impl Ending {
    fn set(&self, status: Status) {
        // The first status is the cause, and later ones follow from it. A panic elsewhere leaves
        // the value whole, so a poisoned lock is used as it is.
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(status);
    }

    fn take(&self) -> Option<Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// All outgoing messages, in order. The stream ends when the registry drops the outbox; dropping the
/// stream stops the reader.
fn outgoing(
    registered: WorkResponse,
    cancelled: Vec<WorkResponse>,
    inbox: impl Stream<Item = ToWorker> + Send + 'static,
    ending: Ending,
    guard: DropGuard,
    traces: Traces,
) -> Pin<Box<dyn Stream<Item = Result<WorkResponse, Status>> + Send>> {
    let first = stream::iter(std::iter::once(registered).chain(cancelled).map(Ok));
    let rest = inbox.map(move |message| response(message, &traces));
    let last = stream::once(async move {
        // Dropped with the last item, or with a stream that is not read to its end: both stop the
        // reader.
        let _until_here = guard;
        ending.take()
    })
    .filter_map(|status| async move { status.map(Err) });
    Box::pin(first.chain(rest).chain(last))
}

fn response(message: ToWorker, traces: &Traces) -> Result<WorkResponse, Status> {
    Ok(match message {
        ToWorker::Assign(a) => hears(Hears::Assignment(convert::assignment(*a, traces))),
        ToWorker::Ack { lease, accepted } => {
            let status = if accepted {
                proto::ResultStatus::Accepted
            } else {
                proto::ResultStatus::Stale
            };
            hears(Hears::Ack(proto::ResultAck {
                lease_token: lease.to_token(),
                status: status.into(),
            }))
        }
        ToWorker::Cancel {
            lease,
            step_name,
            reason,
        } => cancel(lease, step_name, reason),
        ToWorker::Draining { grace } => hears(Hears::Draining(proto::Draining {
            grace: Some(convert::duration(grace)),
        })),
        ToWorker::Superseded => {
            let message = "this connection's lease ended: the worker registered again elsewhere or sent no heartbeats; register again";
            return Err(error::status(Code::Aborted, "SUPERSEDED", message));
        }
        ToWorker::Closing => return Err(error::unavailable("the server is shutting down")),
        ToWorker::CutOff => return Err(cut_off()),
    })
}

fn cancel(lease: Lease, step_name: String, reason: CancelReason) -> WorkResponse {
    let reason = match reason {
        CancelReason::TaskCancelled => proto::CancelReason::TaskCancelled,
        CancelReason::TimedOut => proto::CancelReason::TimedOut,
        CancelReason::LeaseLost => proto::CancelReason::LeaseLost,
    };
    hears(Hears::Cancel(proto::CancelStep {
        lease_token: lease.to_token(),
        task_id: lease.task_id.to_string(),
        step_name,
        reason: reason.into(),
    }))
}

fn hears(message: Hears) -> WorkResponse {
    WorkResponse {
        message: Some(message),
    }
}

/// The worker goes to another server with its leases; the status has a retry delay for this one.
fn cut_off() -> Status {
    error::unavailable("the server has lost its database; continue at another one with your leases")
}

fn order(message: &str) -> Status {
    error::status(Code::FailedPrecondition, "MESSAGE_ORDER", message)
}

/// One assignment and one acknowledgement per slot, and some slack.
fn outbox_size(max_concurrent_steps: i32) -> usize {
    2 * usize::try_from(max_concurrent_steps).unwrap_or_default() + OUTBOX_SLACK
}
