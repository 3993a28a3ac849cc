//! A worker that a test drives message by message.

use std::{collections::VecDeque, time::Duration};

use tasker::proto::{
    CancelStep, Drain, Heartbeat, PermanentError, Register, Registered, Released, ResultAck,
    ResultStatus, RetryableError, StepAssignment, StepResult, Success, WorkRequest, WorkResponse,
    step_result::Outcome, work_request::Message as Says, work_response::Message as Hears,
    worker_service_client::WorkerServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::server::PATIENCE;

/// One stream. Dropping it breaks the connection, as a crash would.
pub struct RawWorker {
    says: Option<mpsc::Sender<WorkRequest>>,
    hears: Streaming<WorkResponse>,
    /// Messages that arrived before the one that the test waited for.
    early: VecDeque<Hears>,
    heart: tokio::task::JoinHandle<()>,
    pub registered: Registered,
}

/// A `Register` message for these handlers with this number of slots, in all namespaces.
pub fn registration(handlers: &[&str], slots: i32) -> Register {
    Register {
        name: "raw".into(),
        handlers: handlers.iter().map(ToString::to_string).collect(),
        max_concurrent_steps: slots,
        ..Default::default()
    }
}

impl Drop for RawWorker {
    fn drop(&mut self) {
        self.heart.abort();
        // Dropping the sender would close this side of the stream in good order; a crash does not.
        std::mem::forget(self.says.take());
    }
}

impl RawWorker {
    pub async fn connect(url: &str, handlers: &[&str]) -> Self {
        Self::open(url, registration(handlers, 16)).await.unwrap()
    }

    pub async fn open(url: &str, register: Register) -> Result<Self, Status> {
        let mut client = WorkerServiceClient::connect(url.to_owned()).await.unwrap();
        let (says, queue) = mpsc::channel(1_024);
        says.send(WorkRequest {
            message: Some(Says::Register(register)),
        })
        .await
        .unwrap();
        let mut hears = client.work(ReceiverStream::new(queue)).await?.into_inner();
        match hears.message().await? {
            Some(WorkResponse {
                message: Some(Hears::Registered(registered)),
            }) => {
                let heart =
                    tokio::spawn(beat(says.clone(), registered.heartbeat_interval.unwrap()));
                Ok(Self {
                    says: Some(says),
                    hears,
                    early: VecDeque::new(),
                    heart,
                    registered,
                })
            }
            other => panic!("expected `registered`, got {other:?}"),
        }
    }

    pub async fn say(&self, message: Says) {
        self.says
            .as_ref()
            .unwrap()
            .send(WorkRequest {
                message: Some(message),
            })
            .await
            .unwrap();
    }

    /// Stops the heartbeats.
    pub fn fall_silent(&self) {
        self.heart.abort();
    }

    pub async fn drain(&self) {
        self.say(Says::Drain(Drain {})).await;
    }

    /// Closes this side of the stream in good order.
    pub fn close(&mut self) {
        self.heart.abort();
        self.says = None;
    }

    /// The next message of any kind; `Ok(None)` at the end of the stream.
    pub async fn hear(&mut self) -> Result<Option<Hears>, Status> {
        match self.early.pop_front() {
            Some(message) => Ok(Some(message)),
            None => self.receive().await,
        }
    }

    async fn receive(&mut self) -> Result<Option<Hears>, Status> {
        let next = tokio::time::timeout(PATIENCE, self.hears.message())
            .await
            .expect("the server says nothing");
        next.map(|message| message.map(|m| m.message.unwrap()))
    }

    /// The first message that `pick` accepts; earlier messages stay queued for later calls.
    async fn hear_first<T>(&mut self, what: &str, pick: impl Fn(&Hears) -> Option<T>) -> T {
        if let Some((i, found)) = self
            .early
            .iter()
            .enumerate()
            .find_map(|(i, m)| Some((i, pick(m)?)))
        {
            self.early.remove(i);
            return found;
        }
        loop {
            let message = self
                .receive()
                .await
                .unwrap()
                .unwrap_or_else(|| panic!("the stream ended before {what}"));
            if let Some(found) = pick(&message) {
                return found;
            }
            self.early.push_back(message);
        }
    }

    /// Asserts that no message arrives for this long.
    pub async fn hears_nothing(&mut self, time: Duration) {
        assert!(
            self.early.is_empty(),
            "expected silence, got {:?}",
            self.early
        );
        if let Ok(message) = tokio::time::timeout(time, self.hears.message()).await {
            panic!("expected silence, got {message:?}");
        }
    }

    pub async fn assignment(&mut self) -> StepAssignment {
        let pick = |m: &Hears| {
            if let Hears::Assignment(a) = m {
                Some(a.clone())
            } else {
                None
            }
        };
        self.hear_first("an assignment", pick).await
    }

    pub async fn ack(&mut self) -> ResultAck {
        let pick = |m: &Hears| {
            if let Hears::Ack(a) = m {
                Some(a.clone())
            } else {
                None
            }
        };
        self.hear_first("an ack", pick).await
    }

    pub async fn cancelled(&mut self) -> CancelStep {
        let pick = |m: &Hears| {
            if let Hears::Cancel(c) = m {
                Some(c.clone())
            } else {
                None
            }
        };
        self.hear_first("a cancel", pick).await
    }

    pub async fn answer(&self, lease_token: &str, outcome: Outcome) {
        self.say(Says::Result(StepResult {
            lease_token: lease_token.into(),
            outcome: Some(outcome),
        }))
        .await;
    }

    /// Sends the answer and waits for the acknowledgement.
    pub async fn settle(&mut self, assignment: &StepAssignment, outcome: Outcome) -> ResultStatus {
        self.answer(&assignment.lease_token, outcome).await;
        self.acknowledged(assignment).await
    }

    /// Waits for the acknowledgement of an answer.
    pub async fn acknowledged(&mut self, assignment: &StepAssignment) -> ResultStatus {
        let pick = |m: &Hears| match m {
            Hears::Ack(ack) if ack.lease_token == assignment.lease_token => Some(ack.status()),
            _ => None,
        };
        self.hear_first("the ack", pick).await
    }
}

async fn beat(says: mpsc::Sender<WorkRequest>, interval: prost_types::Duration) {
    let interval = Duration::try_from(interval).unwrap();
    loop {
        tokio::time::sleep(interval).await;
        let heartbeat = WorkRequest {
            message: Some(Says::Heartbeat(Heartbeat {})),
        };
        if says.send(heartbeat).await.is_err() {
            return;
        }
    }
}

pub fn success(json: &str) -> Outcome {
    Outcome::Success(Success {
        result_json: json.into(),
    })
}

pub fn retryable(message: &str, retry_after: Option<Duration>) -> Outcome {
    Outcome::RetryableError(RetryableError {
        message: message.into(),
        retry_after: retry_after.map(|d| d.try_into().unwrap()),
        ..Default::default()
    })
}

pub fn permanent(message: &str, code: &str) -> Outcome {
    Outcome::PermanentError(PermanentError {
        message: message.into(),
        error_code: code.into(),
        ..Default::default()
    })
}

pub fn released() -> Outcome {
    Outcome::Released(Released {})
}
