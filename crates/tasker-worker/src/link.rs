//! Keeps a worker connected: one task that holds the stream to a server, and to the next server
//! when that one fails.
//!
//! Handlers never run on the thread of this task, so they cannot delay heartbeats.

use std::{
    future::Future,
    pin::pin,
    time::{Duration, Instant},
};

use http::Uri;
use tokio::{
    runtime,
    sync::watch,
    time::{self, MissedTickBehavior, sleep},
};
use tonic::Status;
use tracing::{debug, info, warn};

use crate::{
    config::Config,
    connection::{Connection, MAX_ASSIGNMENT_BYTES, OpenError, describe, request},
    outage::{MIN_DELAY, Outage},
    proto::{Drain, Heartbeat, Register, WorkRequest, work_request, work_response},
    shutdown::{Shutdown, WorkerError},
    steps::Steps,
    stop::{Stop, StopEvent},
};

/// The state of the link, as other tasks observe it.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkState {
    /// The id from the last connection.
    pub worker_id: Option<String>,
    pub connected: bool,
}

pub(crate) struct Link {
    addresses: Vec<Uri>,
    next_address: usize,
    /// The first registration, without a previous worker.
    register: Register,
    worker_id: String,
    /// The interval that the server specifies, a third of the lease.
    heartbeat_interval: Duration,
    steps: Steps,
    stop: Stop,
    state: watch::Sender<LinkState>,
}

/// Why a connection, or an attempt to open one, ended.
enum Over {
    /// The worker shuts down.
    Stopped,
    /// Retry, at the next address if there are several.
    Lost(String),
    /// A retry is useless.
    Refused(Status),
}

/// Messages that a connection has to send besides results.
#[derive(Default)]
struct ToSay {
    heartbeat: bool,
    drain: bool,
}

impl Link {
    pub fn new(
        config: Config,
        stop: Stop,
        state: watch::Sender<LinkState>,
        handlers_run_on: runtime::Handle,
    ) -> Self {
        let max_concurrent = config.max_concurrent_steps;
        let mut handlers: Vec<_> = config.handlers.keys().cloned().collect();
        // A hash map has another order in each process; equal workers are to register alike.
        handlers.sort_unstable();
        let register = Register {
            name: config.name,
            build_id: config.build_id,
            namespaces: config.namespaces,
            handlers,
            max_concurrent_steps: max_concurrent.try_into().unwrap_or(i32::MAX),
            max_assignment_bytes: MAX_ASSIGNMENT_BYTES,
            labels: config.labels,
            previous_worker_id: String::new(),
            held_leases: Vec::new(),
        };
        Self {
            addresses: config.addresses,
            next_address: 0,
            register,
            worker_id: String::new(),
            heartbeat_interval: Duration::MAX,
            steps: Steps::new(config.handlers, max_concurrent, handlers_run_on),
            stop,
            state,
        }
    }

    /// Runs until the worker is stopped or refused.
    pub async fn run(mut self) -> Result<Shutdown, WorkerError> {
        let mut outage = Outage::new();
        loop {
            let address = self.rotate();
            let over = self.connect_and_serve(&address, &mut outage).await;
            // Before the wait for the next try, since `is_connected` is asked meanwhile.
            self.state.send_modify(|state| state.connected = false);
            match over {
                Over::Stopped => return Ok(self.shut_down()),
                Over::Refused(status) => return Err(refused(&address, &status)),
                Over::Lost(reason) => {
                    let delay =
                        outage.failed(&address, &reason, Instant::now(), self.longest_delay());
                    if self.meanwhile(sleep(delay)).await.is_err() {
                        return Ok(self.shut_down());
                    }
                }
            }
        }
    }

    fn rotate(&mut self) -> Uri {
        let address = self.addresses[self.next_address].clone();
        self.next_address = (self.next_address + 1) % self.addresses.len();
        address
    }

    /// A worker that holds leases tries every address within a third of a lease, or it would return
    /// too late to keep them. A worker without leases has no such bound.
    fn longest_delay(&self) -> Duration {
        if self.steps.held_leases().is_empty() {
            return Duration::MAX;
        }
        let addresses = u32::try_from(self.addresses.len()).unwrap_or(u32::MAX);
        (self.heartbeat_interval / addresses).max(MIN_DELAY)
    }

    async fn connect_and_serve(&mut self, address: &Uri, outage: &mut Outage) -> Over {
        let register = Register {
            previous_worker_id: self.worker_id.clone(),
            // Taken anew for each try: handlers end, and leases are lost, while there is no
            // connection.
            held_leases: self.steps.held_leases(),
            ..self.register.clone()
        };
        match self
            .meanwhile(Connection::open(address.clone(), register))
            .await
        {
            Err(over) => over,
            Ok(Err(OpenError::Refused(status))) => Over::Refused(status),
            Ok(Err(error @ OpenError::Unreachable(_))) => Over::Lost(error.to_string()),
            Ok(Ok(connection)) => {
                outage.connected(address, &connection.worker_id, Instant::now());
                // Kept for the next connection, by which the worker claims its leases again.
                self.worker_id.clone_from(&connection.worker_id);
                self.heartbeat_interval = connection.heartbeat_interval;
                self.state.send_replace(LinkState {
                    worker_id: Some(connection.worker_id.clone()),
                    connected: true,
                });
                self.serve(connection).await
            }
        }
    }

    /// Awaits `wanted` while there is no connection; handlers make progress and a stop takes effect
    /// meanwhile.
    async fn meanwhile<T>(&mut self, wanted: impl Future<Output = T>) -> Result<T, Over> {
        let mut wanted = pin!(wanted);
        loop {
            // A worker that drains and has nothing left to deliver does not wait for a server.
            if self.is_done() {
                return Err(Over::Stopped);
            }
            tokio::select! {
                wanted = &mut wanted => return Ok(wanted),
                () = self.steps.progress() => {}
                event = self.stop.next() => match event {
                    StopEvent::Drain => self.steps.drain(),
                    StopEvent::End => return Err(Over::Stopped),
                },
            }
        }
    }

    /// Exchanges messages with a server until one side ends the stream.
    async fn serve(&mut self, mut connection: Connection) -> Over {
        self.steps.reconnected(&connection.kept_leases);
        let mut to_say = ToSay {
            heartbeat: false,
            // This server does not know of a drain that began between two connections.
            drain: self.stop.is_draining(),
        };
        let period = connection.heartbeat_interval;
        // The registration has just renewed the leases, so the first heartbeat is due a period
        // later.
        let mut heartbeats = time::interval_at(time::Instant::now() + period, period);
        // A burst of late heartbeats would renew the leases no further than one of them.
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // The drain goes out first, or the server would take the end of the stream for a loss.
            if !to_say.drain && self.is_done() {
                connection.close().await;
                return Over::Stopped;
            }
            // The branch below reserves a place before it takes a message, so that a cancelled wait
            // loses no result.
            let can_say = to_say.heartbeat || to_say.drain || self.steps.has_results();
            tokio::select! {
                message = connection.inbound.message() => match message {
                    Ok(Some(response)) => if let Err(over) = self.hear(response.message) {
                        return over;
                    },
                    Ok(None) => return Over::Lost("the server closed the stream".into()),
                    Err(status) => return Over::Lost(describe(&status)),
                },
                permit = connection.outbound.reserve(), if can_say => match permit {
                    Ok(permit) => if let Some(message) = self.say(&mut to_say) {
                        permit.send(message);
                    },
                    Err(_) => return Over::Lost("the server closed the stream".into()),
                },
                () = self.steps.progress() => {}
                _ = heartbeats.tick() => to_say.heartbeat = true,
                event = self.stop.next() => match event {
                    StopEvent::Drain => {
                        self.steps.drain();
                        to_say.drain = true;
                    }
                    StopEvent::End => break,
                },
            }
        }
        // A server that has received the drain gives unfinished steps to others as soon as the
        // stream closes.
        if self.stop.is_draining() && !to_say.drain {
            connection.close().await;
        }
        Over::Stopped
    }

    /// The next message, the most urgent first: the server must receive a drain before slots become
    /// free.
    fn say(&mut self, to_say: &mut ToSay) -> Option<WorkRequest> {
        if std::mem::take(&mut to_say.drain) {
            return Some(request(work_request::Message::Drain(Drain {})));
        }
        if std::mem::take(&mut to_say.heartbeat) {
            return Some(request(work_request::Message::Heartbeat(Heartbeat {})));
        }
        self.steps
            .next_result()
            .map(|result| request(work_request::Message::Result(result)))
    }

    fn hear(&mut self, message: Option<work_response::Message>) -> Result<(), Over> {
        use work_response::Message;
        match message {
            Some(Message::Assignment(assignment)) => {
                // A server that no longer acknowledges is given up; the next connection sends the
                // results again.
                self.steps
                    .assign(assignment)
                    .map_err(|error| Over::Lost(error.to_string()))?;
            }
            Some(Message::Ack(ack)) => {
                debug!(
                    lease = ack.lease_token,
                    status = ack.status().as_str_name(),
                    "acknowledged"
                );
                self.steps.acknowledge(&ack.lease_token);
            }
            Some(Message::Cancel(cancel)) => {
                self.steps
                    .cancel(&cancel.lease_token, cancel.reason().into());
            }
            Some(Message::Draining(_)) => {
                info!("the server drains; the worker reconnects when the stream ends");
            }
            Some(Message::Registered(_)) => warn!("the server registered the worker twice"),
            None => debug!("unknown message of a newer server; ignored"),
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.stop.is_draining() && self.steps.is_idle()
    }

    fn shut_down(&self) -> Shutdown {
        let shutdown = Shutdown {
            unfinished_steps: self.steps.unfinished(),
            unacked_results: self.steps.unacknowledged(),
        };
        if shutdown == Shutdown::default() {
            info!("the worker has ended");
        } else {
            warn!(?shutdown, "the worker has ended before its steps");
        }
        shutdown
    }
}

fn refused(address: &Uri, status: &Status) -> WorkerError {
    WorkerError::Refused {
        address: address.to_string(),
        code: status.code(),
        message: status.message().to_owned(),
    }
}
