//! A worker that does exactly what a test says, message by message.

use std::time::Duration;

use tasker::proto::{
    CancelStep, Drain, Heartbeat, PermanentError, Register, Registered, Released, ResultAck, ResultStatus,
    RetryableError, StepAssignment, StepResult, Success, WorkRequest, WorkResponse, step_result::Outcome,
    work_request::Message as Says, work_response::Message as Hears, worker_service_client::WorkerServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::server::PATIENCE;

/// One stream. Dropping it breaks the connection, as a crash would.
pub struct RawWorker {
    says: Option<mpsc::Sender<WorkRequest>>,
    hears: Streaming<WorkResponse>,
    pub registered: Registered,
}

/// Registers these handlers, one step at a time, in all namespaces.
pub fn registration(handlers: &[&str], slots: i32) -> Register {
    Register {
        name: "raw".into(),
        handlers: handlers.iter().map(ToString::to_string).collect(),
        max_concurrent_steps: slots,
        ..Default::default()
    }
}

impl RawWorker {
    pub async fn connect(url: &str, handlers: &[&str]) -> Self {
        Self::open(url, registration(handlers, 16)).await.unwrap()
    }

    pub async fn open(url: &str, register: Register) -> Result<Self, Status> {
        let mut client = WorkerServiceClient::connect(url.to_owned()).await.unwrap();
        let (says, queue) = mpsc::channel(1_024);
        says.send(WorkRequest { message: Some(Says::Register(register)) }).await.unwrap();
        let mut hears = client.work(ReceiverStream::new(queue)).await?.into_inner();
        match hears.message().await? {
            Some(WorkResponse { message: Some(Hears::Registered(registered)) }) => {
                Ok(Self { says: Some(says), hears, registered })
            }
            other => panic!("expected `registered`, got {other:?}"),
        }
    }

    pub async fn say(&self, message: Says) {
        self.says.as_ref().unwrap().send(WorkRequest { message: Some(message) }).await.unwrap();
    }

    pub async fn heartbeat(&self) {
        self.say(Says::Heartbeat(Heartbeat {})).await;
    }

    pub async fn drain(&self) {
        self.say(Says::Drain(Drain {})).await;
    }

    /// Closes this side of the stream in good order.
    pub fn close(&mut self) {
        self.says = None;
    }

    /// The next message, whatever it is; `Ok(None)` at the end of the stream.
    pub async fn hear(&mut self) -> Result<Option<Hears>, Status> {
        let next = tokio::time::timeout(PATIENCE, self.hears.message()).await.expect("the server says nothing");
        next.map(|message| message.map(|m| m.message.unwrap()))
    }

    /// Nothing comes for this long.
    pub async fn hears_nothing(&mut self, time: Duration) {
        if let Ok(message) = tokio::time::timeout(time, self.hears.message()).await {
            panic!("expected silence, got {message:?}");
        }
    }

    pub async fn assignment(&mut self) -> StepAssignment {
        match self.hear().await.unwrap() {
            Some(Hears::Assignment(assignment)) => assignment,
            other => panic!("expected an assignment, got {other:?}"),
        }
    }

    pub async fn ack(&mut self) -> ResultAck {
        loop {
            match self.hear().await.unwrap() {
                Some(Hears::Ack(ack)) => return ack,
                Some(Hears::Assignment(_)) => {}
                other => panic!("expected an ack, got {other:?}"),
            }
        }
    }

    pub async fn cancelled(&mut self) -> CancelStep {
        loop {
            match self.hear().await.unwrap() {
                Some(Hears::Cancel(cancel)) => return cancel,
                Some(Hears::Ack(_)) => {}
                other => panic!("expected a cancel, got {other:?}"),
            }
        }
    }

    pub async fn answer(&self, lease_token: &str, outcome: Outcome) {
        self.say(Says::Result(StepResult { lease_token: lease_token.into(), outcome: Some(outcome) })).await;
    }

    /// Answers and waits for the acknowledgement.
    pub async fn settle(&mut self, assignment: &StepAssignment, outcome: Outcome) -> ResultStatus {
        self.answer(&assignment.lease_token, outcome).await;
        let ack = self.ack().await;
        assert_eq!(ack.lease_token, assignment.lease_token);
        ack.status()
    }
}

pub fn success(json: &str) -> Outcome {
    Outcome::Success(Success { result_json: json.into() })
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
