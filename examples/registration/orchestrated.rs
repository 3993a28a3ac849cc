//! The flow through Tasker as a client sees it: ask the gateway once, then wait for the end.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use tasker_worker::proto::{GetTaskRequest, GetTaskResponse, Task, TaskState, WatchTaskRequest};
use tokio::time::{sleep, timeout};

use crate::{
    control_plane::{ControlPlane, is_transient},
    population::Applicant,
};

/// How long a client retries a gateway that does not answer.
const SUBMIT_LIMIT: Duration = Duration::from_secs(60);
/// How long a registration may take before its state counts as unknown.
const END_LIMIT: Duration = Duration::from_secs(180);
const PAUSE: Duration = Duration::from_millis(200);

/// The result of one registration.
pub struct Record {
    /// How long the gateway took to accept it.
    pub answered_after: Duration,
    /// The whole task at its end, or the reason why there is none.
    pub task: anyhow::Result<GetTaskResponse>,
}

impl Record {
    pub fn state(&self) -> TaskState {
        let task = self
            .task
            .as_ref()
            .ok()
            .and_then(|found| found.task.as_ref());
        task.map_or(TaskState::Unspecified, Task::state)
    }
}

/// Registers users through the gateway.
#[derive(Clone)]
pub struct Orchestrated {
    http: reqwest::Client,
    gateway_url: String,
    control_plane: ControlPlane,
}

#[derive(Deserialize)]
struct Accepted {
    task_id: String,
}

impl Orchestrated {
    pub fn new(gateway_url: String, control_plane: ControlPlane) -> Self {
        Self {
            http: reqwest::Client::new(),
            gateway_url,
            control_plane,
        }
    }

    /// Registers one user and waits for the end.
    pub async fn register_user(&self, user: &Applicant) -> Record {
        self.register_user_and_tell(user, |_| ()).await
    }

    /// As [`Self::register_user`]; `tell` receives the task's id as soon as it exists.
    pub async fn register_user_and_tell(
        &self,
        user: &Applicant,
        tell: impl FnOnce(&str),
    ) -> Record {
        let asked = Instant::now();
        let submitted = self.submit(user).await.inspect(|task_id| tell(task_id));
        let answered_after = asked.elapsed();
        let task = match submitted {
            Ok(task_id) => timeout(END_LIMIT, self.ended(&task_id))
                .await
                .unwrap_or_else(|_| bail!("task {task_id} did not end within {END_LIMIT:?}")),
            Err(error) => Err(error),
        };
        Record {
            answered_after,
            task,
        }
    }

    /// Retries until there is an answer. The idempotency key makes that safe: whatever the first
    /// request did, there is one task.
    async fn submit(&self, user: &Applicant) -> anyhow::Result<String> {
        let key = uuid::Uuid::new_v4().to_string();
        let asked = Instant::now();
        loop {
            let request = self
                .http
                .post(format!("{}/users/register", self.gateway_url));
            let answer = request
                .header("idempotency-key", &key)
                .timeout(SUBMIT_LIMIT / 4)
                .json(user)
                .send()
                .await;
            let problem = match answer {
                Ok(response) if response.status().is_success() => {
                    let accepted: Accepted =
                        response.json().await.context("the gateway's answer")?;
                    return Ok(accepted.task_id);
                }
                Ok(response) if response.status().is_server_error() => {
                    response.status().to_string()
                }
                Ok(response) => bail!(
                    "the gateway refused: {} {}",
                    response.status(),
                    response.text().await?
                ),
                Err(error) => error.to_string(),
            };
            if asked.elapsed() > SUBMIT_LIMIT {
                bail!(
                    "the gateway did not take the registration within {SUBMIT_LIMIT:?}: {problem}"
                );
            }
            sleep(PAUSE).await;
        }
    }

    /// Watches a task to its end, across restarts of the control plane.
    async fn ended(&self, task_id: &str) -> anyhow::Result<GetTaskResponse> {
        loop {
            match self.watch(task_id).await {
                Ok(true) => break,
                Ok(false) => {}
                Err(status) if is_transient(status.code()) => {}
                // A connection that breaks in the middle of a stream reports these codes.
                Err(status)
                    if matches!(status.code(), tonic::Code::Unknown | tonic::Code::Cancelled) => {}
                Err(status) => bail!("watching task {task_id}: {status}"),
            }
            sleep(PAUSE).await;
        }
        loop {
            let request = GetTaskRequest {
                task_id: task_id.to_owned(),
            };
            match self.control_plane.tasks.clone().get_task(request).await {
                Ok(found) => return Ok(found.into_inner()),
                Err(status) if is_transient(status.code()) => sleep(PAUSE).await,
                Err(status) => bail!("reading task {task_id}: {status}"),
            }
        }
    }

    /// Whether the stream delivered the final state.
    async fn watch(&self, task_id: &str) -> Result<bool, tonic::Status> {
        let request = WatchTaskRequest {
            task_id: task_id.to_owned(),
            final_only: true,
        };
        let mut states = self
            .control_plane
            .tasks
            .clone()
            .watch_task(request)
            .await?
            .into_inner();
        let mut ended = false;
        while let Some(seen) = states.message().await? {
            let state = seen.task.map(|task| task.state());
            ended = matches!(
                state,
                Some(TaskState::Complete | TaskState::Error | TaskState::Cancelled)
            );
        }
        Ok(ended)
    }
}
