//! The updates of a watched task, also across the restart of a server.

use std::time::Duration;

use tasker_worker::client::Client;
use tokio::{sync::mpsc, time::Instant};
use tonic::Status;

use crate::{
    cli::{
        error::{CliError, is_passing},
        render::term::clean,
    },
    proto::{WatchTaskRequest, WatchTaskResponse},
};

/// A watch whose connection broke continues if a server answers within this time.
const RECONNECT_FOR: Duration = Duration::from_secs(60);

/// Pause between two attempts to reconnect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// An update of a watch.
pub enum Update {
    /// The task and its steps changed.
    State(Box<WatchTaskResponse>),
    /// The connection broke; the watch reconnects.
    Lost(String),
    Failed(CliError),
}

/// Sends the updates of a task, also across the restart of a server: each stream begins with the
/// current state, so the watch always catches up.
pub async fn follow(mut client: Client, task_id: String, updates: mpsc::Sender<Update>) {
    let (mut received, mut lost_since) = (false, None::<Instant>);
    let mut latest = WatchTaskResponse::default();
    loop {
        let request = WatchTaskRequest {
            task_id: task_id.clone(),
            final_only: false,
        };
        let status = match client.tasks.watch_task(request).await {
            Err(status) => status,
            Ok(response) => {
                let mut stream = response.into_inner();
                loop {
                    match stream.message().await {
                        Ok(Some(state)) => {
                            received = true;
                            // The server repeats the state as a sign of life; a repetition is
                            // dropped, except after a lost connection.
                            if lost_since.take().is_none() && state == latest {
                                continue;
                            }
                            latest.clone_from(&state);
                            if updates.send(Update::State(Box::new(state))).await.is_err() {
                                return;
                            }
                        }
                        Ok(None) => break Status::unavailable("the server ended the stream"),
                        Err(status) => break status,
                    }
                }
            }
        };
        // Only a watch that received an update is retried: an error before that may blame the
        // request.
        let may_retry = lost_since.is_none_or(|since| since.elapsed() < RECONNECT_FOR);
        if !received || !may_retry || !is_passing(&status) {
            let what = format!("cannot watch {task_id}");
            let _ = updates
                .send(Update::Failed(CliError::from_status(&what, &status)))
                .await;
            return;
        }
        if lost_since.is_none() {
            lost_since = Some(Instant::now());
            let _ = updates.send(Update::Lost(clean(status.message()))).await;
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}
