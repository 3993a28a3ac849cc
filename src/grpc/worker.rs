//! `tasker.v1.WorkerService`: the stream over which a worker registers, gets its assignments and
//! reports its results.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use tonic::{Code, Request, Response, Status, Streaming};
use uuid::Uuid;

use super::{convert, error, fallback, page, worker_messages};
use crate::{
    domain::lease::Lease,
    engine::{CancelReason, Engine, FromWorker, ToWorker, Traces, WorkerSession},
    proto::{
        self, WorkRequest, WorkResponse, work_request::Message as Says,
        work_response::Message as Hears, worker_service_server::WorkerService,
    },
    store::worker as workers,
};

/// Limit on the wait for a stream's first message.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(10);

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
        if self.0.health().now().database_away {
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
        let registration = worker_messages::register(register, |name| self.0.is_stored_name(name))?;
        let session = self
            .0
            .register_worker(registration)
            .await
            .map_err(error::registration)?;
        let first = stream::iter([Ok(registered(&session))]);
        let worker_id = session.worker_id();
        let traces = self.0.traces().clone();
        let rest = session
            .start(inbound.map(move |message| from_worker(worker_id, message)))
            .map(move |message| response(message?, &traces));
        Ok(Response::new(Box::pin(first.chain(rest))))
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
        let mut found = workers::list(self.0.reads(), handler, after, limit)
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

fn registered(session: &WorkerSession) -> WorkResponse {
    let lease = session.lease();
    hears(Hears::Registered(proto::Registered {
        worker_id: session.worker_id().to_string(),
        lease_duration: Some(convert::duration(lease)),
        heartbeat_interval: Some(convert::duration(lease / 3)),
        kept_leases: session.kept().map(|lease| lease.to_token()).collect(),
    }))
}

/// The next message of a registered worker. An error ends its stream, with an answer if the worker
/// may still read it.
fn from_worker(
    worker_id: Uuid,
    message: Result<WorkRequest, Status>,
) -> Result<FromWorker, Option<Status>> {
    let message = message.map_err(|status| {
        let status = fallback::unreadable(status);
        tracing::debug!(%worker_id, %status, "a worker's stream broke");
        // Unreadable bytes get an answer; a broken connection has no reader for one.
        let is_unreadable = matches!(
            status.code(),
            Code::InvalidArgument | Code::ResourceExhausted
        );
        is_unreadable.then_some(status)
    })?;
    match message.message {
        Some(Says::Result(result)) => {
            let (lease, outcome) = worker_messages::result(result)?;
            Ok(FromWorker::Result { lease, outcome })
        }
        Some(Says::Heartbeat(proto::Heartbeat {})) => Ok(FromWorker::Heartbeat),
        Some(Says::Drain(proto::Drain {})) => Ok(FromWorker::Drain),
        Some(Says::Register(_)) => {
            Err(order("`register` is allowed once, as the first message").into())
        }
        None => Err(error::invalid(
            "message",
            "empty: expected `result`, `heartbeat` or `drain`",
        )
        .into()),
    }
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
