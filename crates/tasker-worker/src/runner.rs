//! A worker, and the ways to run it.

use std::{
    fmt,
    future::{Future, pending},
    io, thread,
};

use tokio::{runtime, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::Config,
    handle::{Running, WorkerHandle},
    link::{Link, LinkState},
    shutdown::{Shutdown, WorkerError},
    stop::Stop,
};

/// A set of handlers that serves a Tasker cluster; made by [`Worker::builder`].
///
/// However it is run, handlers run on the Tokio runtime of the caller, while a separate thread
/// holds the stream to the server: a handler that blocks cannot stop the heartbeats.
#[must_use = "a worker does nothing until it is run"]
pub struct Worker {
    pub(crate) config: Config,
}

impl Worker {
    /// Runs until SIGTERM or SIGINT, then drains; a second signal ends it at once.
    ///
    /// # Errors
    /// When the server refuses the worker's registration, and when the process lacks resources.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn run(self) -> Result<Shutdown, WorkerError> {
        // Before the start: without a handler, a signal would kill the process.
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
        // A guard signals the end also when the thread panics, and when it cannot be started at
        // all.
        let end_guard = ended.clone().drop_guard();
        // The caller's subscriber may be set for its own thread only.
        let subscriber = tracing::dispatcher::get_default(Clone::clone);
        let thread = thread::Builder::new()
            .name("tasker-worker".into())
            .spawn(move || {
                let _end_guard = end_guard;
                let ended = tracing::dispatcher::with_default(&subscriber, || block_on(link));
                // Otherwise the task would stay in the caller's runtime.
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
