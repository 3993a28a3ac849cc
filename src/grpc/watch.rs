//! The stream of `WatchTask`.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, stream};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{convert, error, find, fit};
use crate::{
    engine::{Engine, Watcher},
    proto::WatchTaskResponse,
    store::task::{self as tasks, Part, TaskView},
};

/// Interval between reads without a notification, in case one was missed.
const LOOK_ANYWAY: Duration = Duration::from_secs(5);
/// Interval at which an unchanged task is sent again, so that the client, and every proxy between,
/// receives data within ten seconds.
const SIGN_OF_LIFE: Duration = Duration::from_secs(9);
/// Changes within this time are sent as one message.
const COALESCE: Duration = Duration::from_millis(10);

pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchTaskResponse, Status>> + Send>>;

struct Watch {
    engine: Engine,
    watcher: Watcher,
    /// Read, and not yet sent.
    next: Option<TaskView>,
    last: Option<WatchTaskResponse>,
    /// Time of the last message.
    sent: Instant,
    final_only: bool,
    done: bool,
}

/// Sends `first`, then every change, and ends after the final state.
pub fn stream(engine: Engine, watcher: Watcher, first: TaskView, final_only: bool) -> WatchStream {
    let watch = Watch {
        engine,
        watcher,
        next: Some(first),
        last: None,
        sent: Instant::now(),
        final_only,
        done: false,
    };
    Box::pin(stream::unfold(watch, |mut watch| async move {
        let item = watch.next_item().await?;
        Some((item, watch))
    }))
}

impl Watch {
    async fn next_item(&mut self) -> Option<Result<WatchTaskResponse, Status>> {
        while !self.done {
            let view = match self.next.take() {
                Some(view) => view,
                None => match self.wait().await {
                    Ok(view) => view,
                    Err(status) => {
                        self.done = true;
                        return Some(Err(status));
                    }
                },
            };
            let ended = view.task.state.is_final();
            self.done = ended;
            if self.final_only && !ended {
                continue;
            }
            match self.response(view).await {
                // A notification may be about a change that the answer does not show; nothing is
                // sent then, unless a sign of life is due.
                Ok(response)
                    if self.last.as_ref() == Some(&response) && !ended && !self.is_due() => {}
                Ok(response) => {
                    self.sent = Instant::now();
                    self.last = Some(response.clone());
                    return Some(Ok(response));
                }
                Err(status) => {
                    self.done = true;
                    return Some(Err(status));
                }
            }
        }
        None
    }

    /// Whether the last message is so old that an unchanged task is sent again.
    fn is_due(&self) -> bool {
        self.sent.elapsed() >= SIGN_OF_LIFE
    }

    /// The task after the next notification.
    async fn wait(&mut self) -> Result<TaskView, Status> {
        let task_id = self.watcher.task_id();
        loop {
            let notification = async {
                match self.final_only {
                    true => self.watcher.ended().await,
                    false => self.watcher.changed().await,
                }
            };
            let until_due = SIGN_OF_LIFE.saturating_sub(self.sent.elapsed());
            let patience = if self.final_only || until_due.is_zero() {
                LOOK_ANYWAY
            } else {
                LOOK_ANYWAY.min(until_due)
            };
            // A time-out has the same effect as a notification: the task is read.
            tokio::select! {
                _ = tokio::time::timeout(patience, notification) => {}
                () = self.engine.stopping() => {
                    return Err(error::unavailable("the server is shutting down; watch the task at another one"));
                }
                () = self.engine.health().is_cut_off() => {
                    return Err(error::unavailable("the server has lost its database; watch the task at another one"));
                }
            }
            if !self.final_only {
                tokio::time::sleep(COALESCE).await;
                break;
            }
            if self.watcher.has_ended() {
                break;
            }
            let ended = tasks::final_states(self.engine.reads(), &[task_id])
                .await
                .map_err(|e| error::store(&e))?;
            if !ended.is_empty() {
                break;
            }
        }
        tasks::get(self.engine.reads(), task_id, false, Part::default())
            .await
            .map_err(|e| error::store(&e))?
            .ok_or_else(|| {
                error::status(
                    Code::NotFound,
                    "TASK_NOT_FOUND",
                    "the task has been removed",
                )
            })
    }

    async fn response(&self, view: TaskView) -> Result<WatchTaskResponse, Status> {
        let plan = find::plan(&self.engine, view.task.template_id).await?;
        let (task, mut steps) = convert::view(view, &plan, false);
        fit::fit(&task, &mut steps, 0);
        Ok(WatchTaskResponse {
            task: Some(task),
            steps,
        })
    }
}
