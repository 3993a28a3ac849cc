//! The streams of workers.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use tasker::proto::{Drain, Register, Worker, work_request::Message as Says};
use tokio::{sync::mpsc, time::timeout};

use super::{Heard, PATIENCE, Run, Say, Wire};
use crate::{
    shapes::HANDLERS,
    support::worker::{RawWorker, registration},
};

impl Run {
    pub(super) async fn connect(
        &mut self,
        handlers: usize,
        slots: usize,
        previous: Option<usize>,
        kept: Vec<usize>,
    ) -> Result<(), String> {
        let names: Vec<&str> = (0..HANDLERS.len())
            .filter(|h| handlers & (1 << h) != 0)
            .map(|h| HANDLERS[h])
            .collect();
        let previous = previous.and_then(|previous| self.wires[previous].take());
        let held: HashSet<String> = kept
            .iter()
            .map(|attempt| self.leases[*attempt].clone())
            .collect();
        let worker = self.wires.len();
        let register = Register {
            name: format!("worker {worker}"),
            namespaces: vec![self.namespace.clone()],
            previous_worker_id: previous
                .as_ref()
                .map(|wire| wire.worker_id.clone())
                .unwrap_or_default(),
            held_leases: held.iter().cloned().collect(),
            ..registration(&names, i32::try_from(slots).unwrap())
        };
        // The previous stream breaks before the new one registers.
        drop(previous);
        let raw = RawWorker::open(&self.url, register)
            .await
            .map_err(|status| format!("no stream: {status:?}"))?;
        let worker_id = raw.registered.worker_id.clone();
        let still: HashSet<String> = raw.registered.kept_leases.iter().cloned().collect();
        let (says, queue) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read(raw, worker, queue, self.hear.clone()));
        self.wires.push(Some(Wire {
            says,
            reader,
            worker_id,
        }));
        if still == held {
            Ok(())
        } else {
            Err(format!("kept leases: expected {held:?}, got {still:?}"))
        }
    }

    /// A drain has no answer, but the list of workers shows it once the server has read it.
    pub(super) async fn drain(&mut self, worker: usize) -> Result<(), String> {
        self.say(worker, Say::Message(Says::Drain(Drain {})));
        let worker_id = self.wires[worker].as_ref().unwrap().worker_id.clone();
        self.until("the worker does not drain", |w| {
            w.iter().any(|w| w.worker_id == worker_id && w.draining)
        })
        .await
    }

    /// Polls the list of workers until it satisfies `is`.
    pub(super) async fn until(
        &mut self,
        what: &str,
        is: impl Fn(&[Worker]) -> bool,
    ) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let list = tasker::proto::ListWorkersRequest::default();
            if is(&self
                .client
                .workers
                .list_workers(list)
                .await
                .unwrap()
                .into_inner()
                .workers)
            {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                return Err(format!("{what} in {PATIENCE:?}"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) fn say(&self, worker: usize, what: Say) {
        let _ = self.wires[worker].as_ref().unwrap().says.send(what);
    }
}

/// Reads a stream and sends the queued messages, until the stream ends.
async fn read(
    mut raw: RawWorker,
    worker: usize,
    mut queue: mpsc::UnboundedReceiver<Say>,
    hear: mpsc::UnboundedSender<Heard>,
) {
    loop {
        tokio::select! {
            say = queue.recv() => match say {
                Some(Say::Message(message)) => raw.say(message).await,
                Some(Say::Close) => raw.close(),
                None => return,
            },
            // Shorter than the time limit of `hear`, which would treat silence as a failure.
            heard = timeout(Duration::from_secs(5), raw.hear()) => {
                let Ok(heard) = heard else { continue };
                let message = heard.ok().flatten();
                let end = message.is_none();
                if hear.send((worker, message)).is_err() || end {
                    return;
                }
            }
        }
    }
}
