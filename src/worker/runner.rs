//! A worker, and the ways to run it.

use std::{
    convert::Infallible,
    fmt,
    future::{Future, pending},
    io,
    panic::resume_unwind,
    thread,
};

use thiserror::Error;
use tokio::{runtime, sync::watch};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{info, warn};

use super::{
    WorkerBuilder, WorkerHandle,
    builder::Config,
    link::{Link, LinkState},
    stop::Stop,
};

/// A set of handlers that serves a Tasker cluster; made by [`Worker::builder`].
///
/// However it is run, handlers run on the Tokio runtime of the caller, while a separate thread
/// holds the stream to the server: a handler that blocks cannot stop the heartbeats.
#[must_use = "a worker does nothing until it is run"]
pub struct Worker {
    pub(super) config: Config,
}

/// How a worker ended: all zero if nothing was left unfinished. Unfinished work runs again on
/// another worker, at no cost to the attempts of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shutdown {
    /// Steps that did not end within the drain timeout; their handlers were dropped.
    pub unfinished_steps: usize,
    /// Results that no server acknowledged in that time.
    pub unacked_results: usize,
}

/// Why a worker cannot continue. An unreachable server is no reason: the worker waits for it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The server refuses this worker, and a retry is useless.
    #[error(
        "the server at {address} refuses this worker ({code:?}): {message}; correct the worker's \
         settings, or bring worker and server to the same version, and start the worker again"
    )]
    Refused {
        /// The address of the server.
        address: String,
        /// `INVALID_ARGUMENT` or `FAILED_PRECONDITION`.
        code: Code,
        /// The server's message.
        message: String,
    },
    /// The worker's thread or its reactor could not be created.
    #[error("cannot start the worker's thread; check the limits of threads and open files")]
    Thread(#[source] io::Error),
    /// The signal handlers could not be installed.
    #[error("cannot listen for signals; use `run_until` with your own stop signal")]
    Signals(#[source] io::Error),
}

impl Worker {
    /// A builder of a worker for a cluster: one or several addresses of its servers, like
    /// `http://127.0.0.1:7233`. It is connected to one of them at a time.
    pub fn builder(addresses: impl IntoIterator<Item = impl Into<String>>) -> WorkerBuilder {
        WorkerBuilder::new(addresses)
    }

    /// Runs until SIGTERM or SIGINT, then drains; a second signal ends it at once.
    ///
    /// # Errors
    /// When the server refuses the worker's registration, and when the process lacks resources.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn run(self) -> Result<Shutdown, WorkerError> {
        let mut signals = Signals::listen().map_err(WorkerError::Signals)?;
        let running = self.start();
        let (soft, hard) = (running.soft.clone(), running.hard.clone());
        running
            .ended_beside(async {
                signals.next().await;
                info!("draining; a second signal ends the worker immediately");
                soft.cancel();
                signals.next().await;
                warn!("second signal; the worker exits without draining");
                hard.cancel();
            })
            .await
    }

    /// Runs until the future resolves, then drains. Dropping the returned future ends the worker at
    /// once.
    ///
    /// # Errors
    /// When the server refuses the worker's registration, and when the process lacks resources.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<Shutdown, WorkerError> {
        let running = self.start();
        let soft = running.soft.clone();
        running
            .ended_beside(async {
                stop.await;
                soft.cancel();
            })
            .await
    }

    /// Runs in the background, until the handle is shut down or dropped.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn spawn(self) -> WorkerHandle {
        WorkerHandle::new(self.start())
    }

    fn start(self) -> Running {
        let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
        let (state_sender, state) = watch::channel(LinkState::default());
        let stop = Stop::new(soft.clone(), hard.clone(), self.config.drain_timeout);
        let handlers_run_on = runtime::Handle::current();
        // The caller's runtime drops this task when it shuts down. No handler can run any more
        // then, so the worker ends at once.
        let end_with_runtime = hard.clone().drop_guard();
        let end_with_runtime = handlers_run_on.spawn(async move {
            let _end_at_once = end_with_runtime;
            pending::<()>().await;
        });
        let link = Link::new(self.config, stop, state_sender, handlers_run_on);
        let ended = CancellationToken::new();
        let end_guard = ended.clone().drop_guard();
        let subscriber = tracing::dispatcher::get_default(Clone::clone);
        let thread = thread::Builder::new()
            .name("tasker-worker".into())
            .spawn(move || {
                let _end_guard = end_guard;
                let ended = tracing::dispatcher::with_default(&subscriber, || block_on(link));
                end_with_runtime.abort();
                ended
            });
        Running {
            soft,
            hard,
            state,
            ended,
            thread,
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("name", &self.config.name)
            .field("addresses", &self.config.addresses)
            .finish_non_exhaustive()
    }
}

/// A worker on its thread.
#[derive(Debug)]
pub(super) struct Running {
    pub soft: CancellationToken,
    pub hard: CancellationToken,
    pub state: watch::Receiver<LinkState>,
    ended: CancellationToken,
    thread: io::Result<thread::JoinHandle<Result<Shutdown, WorkerError>>>,
}

impl Running {
    /// Waits for the end. A panic of the worker's thread resumes here.
    pub async fn ended(self) -> Result<Shutdown, WorkerError> {
        self.ended.cancelled().await;
        let thread = self.thread.map_err(WorkerError::Thread)?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Waits for the end while it polls `stop`, which may bring the end about. Dropped early, it
    /// ends the worker at once.
    async fn ended_beside(self, stop: impl Future<Output = ()>) -> Result<Shutdown, WorkerError> {
        let _end_at_once = self.hard.clone().drop_guard();
        let stop = async {
            stop.await;
            pending::<Infallible>().await
        };
        tokio::select! {
            ended = self.ended() => ended,
            never = stop => match never {},
        }
    }
}

fn block_on(link: Link) -> Result<Shutdown, WorkerError> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(WorkerError::Thread)?;
    let ended = runtime.block_on(link.run());
    // A hanging name look-up must not delay the end.
    runtime.shutdown_background();
    ended
}

/// SIGTERM and SIGINT; on systems other than Unix, Ctrl-C.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {})
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            pending::<()>().await;
        }
    }
}
