//! Keeps a bounded number of chains in flight, submitted in groups by several callers.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use futures_util::future::try_join_all;
use tasker_worker::client::Client;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use uuid::Uuid;

use super::{child::WorkersProcess, error::Error, shapes::chain_request};
use crate::{
    proto::SubmitTasksRequest,
    store::{Db, bench::probes},
};

/// Concurrent callers.
const CALLERS: usize = 4;
/// Chains per call.
const GROUP: u64 = 50;
/// Pause after the server refused a submit as overloaded.
const AFTER_REFUSAL: Duration = Duration::from_millis(50);
/// How long the last chains may take.
const DRAIN_LIMIT: Duration = Duration::from_secs(60);

/// A run of chains.
pub struct Load<'a> {
    client: &'a Client,
    workers: &'a WorkersProcess,
    /// The most chains in flight.
    limit: u64,
    /// Chains that the workers had finished before this run.
    before: u64,
    submitted: Cell<u64>,
    accepted: RefCell<Vec<Uuid>>,
    refusals: Cell<u64>,
}

impl<'a> Load<'a> {
    /// No chain may be in flight.
    pub fn new(client: &'a Client, workers: &'a WorkersProcess, limit: u64) -> Self {
        let before = workers.finished();
        let (submitted, accepted, refusals) = (Cell::new(0), RefCell::default(), Cell::new(0));
        Self {
            client,
            workers,
            limit: limit.max(GROUP),
            before,
            submitted,
            accepted,
            refusals,
        }
    }

    /// Submits until `stop` is cancelled.
    pub async fn run(&self, stop: &CancellationToken) -> Result<(), Error> {
        let callers = (0..CALLERS).map(|_| self.call(stop));
        try_join_all(callers).await?;
        Ok(())
    }

    async fn call(&self, stop: &CancellationToken) -> Result<(), Error> {
        let mut client = self.client.clone();
        let tasks: Vec<_> =
            std::iter::repeat_n(chain_request(), usize::try_from(GROUP).unwrap_or(1)).collect();
        while !stop.is_cancelled() {
            let finished = self.workers.finished();
            // Counted by the workers and not by answers of the server, so that waiting for a free
            // place costs the server nothing.
            if self.submitted.get() + GROUP > self.limit + (finished - self.before) {
                tokio::select! {
                    news = self.workers.finished_more(finished) => news.map(drop)?,
                    () = stop.cancelled() => {}
                }
                continue;
            }
            // Before the call: the other callers must not fill the same place meanwhile.
            self.submitted.set(self.submitted.get() + GROUP);
            match client
                .tasks
                .submit_tasks(SubmitTasksRequest {
                    tasks: tasks.clone(),
                })
                .await
            {
                Ok(answer) => {
                    let ids = answer
                        .into_inner()
                        .tasks
                        .into_iter()
                        .filter_map(|t| t.task_id.parse().ok());
                    self.accepted
                        .borrow_mut()
                        .extend::<Vec<Uuid>>(ids.collect());
                }
                Err(status) => self.refused(status).await?,
            }
        }
        Ok(())
    }

    async fn refused(&self, status: Status) -> Result<(), Error> {
        if status.code() != Code::ResourceExhausted {
            return Err(Error::Refused {
                what: "submit tasks",
                status,
            });
        }
        // A refused group never runs, so its place is free again.
        self.submitted.set(self.submitted.get() - GROUP);
        self.refusals.set(self.refusals.get() + 1);
        sleep(AFTER_REFUSAL).await;
        Ok(())
    }

    /// Waits until all chains have ended, up to a limit, and returns their ids and the number of
    /// refusals; the audit finds chains that have not ended by then.
    pub async fn drained(self, db: &Db, template_id: i32) -> Result<(Vec<Uuid>, u64), Error> {
        let all = async {
            let mut finished = self.workers.finished();
            while finished < self.before + self.submitted.get() {
                finished = self.workers.finished_more(finished).await?;
            }
            // The workers are done; the last results are in flight.
            while probes::in_play(db, template_id).await? > 0 {
                sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        timeout(DRAIN_LIMIT, all)
            .await
            .unwrap_or(Ok(()))
            .map(|()| (self.accepted.into_inner(), self.refusals.get()))
    }
}
