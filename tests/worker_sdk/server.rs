//! The scripted server: a test accepts streams, and sends and receives each message itself.

use std::{future::Future, net::SocketAddr, time::Duration};

use tasker::proto::{
    CancelReason, CancelStep, ListWorkersRequest, ListWorkersResponse, Register, Registered,
    ResultAck, ResultStatus, StepAssignment, StepResult, WorkRequest, WorkResponse,
    step_result::Outcome,
    work_request, work_response,
    worker_service_server::{WorkerService, WorkerServiceServer},
};
use tasker_worker::{StepContext, StepError, Worker, WorkerBuilder};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// Time limit of each wait.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for something within the time limit.
pub async fn soon<T>(wanted: impl Future<Output = T>) -> T {
    timeout(PATIENCE, wanted)
        .await
        .expect("it should have happened by now")
}

/// A worker of the handler `answer`, whose steps result in the JSON `42`; a test may add others.
pub fn worker(servers: &[&ScriptedServer]) -> WorkerBuilder {
    Worker::builder(servers.iter().map(|server| server.url()))
        .name("test")
        .handler("answer", |_: StepContext| async { Ok::<_, StepError>(42) })
}

pub struct ScriptedServer {
    address: SocketAddr,
    streams: mpsc::Receiver<Stream>,
    serving: JoinHandle<()>,
}

impl ScriptedServer {
    pub async fn start() -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, streams) = mpsc::channel(16);
        let server = Server::builder()
            .add_service(WorkerServiceServer::new(Acceptor { accepted }))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let serving = tokio::spawn(async move { server.await.unwrap() });
        Self {
            address,
            streams,
            serving,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening. Accepted streams live on.
    pub async fn stop(self) {
        self.serving.abort();
        let _ = self.serving.await;
    }

    /// The next stream, before any message.
    pub async fn accept(&mut self) -> Stream {
        soon(self.streams.recv()).await.unwrap()
    }

    /// The next stream, registered under this id, with all its leases kept.
    pub async fn register(&mut self, worker_id: &str) -> (Stream, Register) {
        let mut stream = self.accept().await;
        let register = stream.expect_register().await;
        stream
            .registered(worker_id, register.held_leases.clone())
            .await;
        (stream, register)
    }

    /// Whether no stream arrives for this time.
    pub async fn is_left_alone(&mut self, time: Duration) -> bool {
        timeout(time, self.streams.recv()).await.is_err()
    }
}

/// The server's end of a stream. Dropping it cuts the stream.
pub struct Stream {
    inbound: Streaming<WorkRequest>,
    outbound: mpsc::Sender<Result<WorkResponse, Status>>,
}

impl Stream {
    pub async fn say(&self, message: work_response::Message) {
        let response = WorkResponse {
            message: Some(message),
        };
        self.outbound.send(Ok(response)).await.unwrap();
    }

    pub async fn fail(self, status: Status) {
        self.outbound.send(Err(status)).await.unwrap();
    }

    pub async fn registered(&self, worker_id: &str, kept_leases: Vec<String>) {
        self.registered_with(worker_id, kept_leases, Duration::from_secs(60))
            .await;
    }

    pub async fn registered_with(
        &self,
        worker_id: &str,
        kept_leases: Vec<String>,
        heartbeat: Duration,
    ) {
        let heartbeat_interval = Some(heartbeat.try_into().unwrap());
        let lease_duration = Some((heartbeat * 3).try_into().unwrap());
        self.say(work_response::Message::Registered(Registered {
            worker_id: worker_id.into(),
            lease_duration,
            heartbeat_interval,
            kept_leases,
        }))
        .await;
    }

    pub async fn assign(&self, lease: &str, handler: &str) {
        self.say(work_response::Message::Assignment(assignment(
            lease, handler,
        )))
        .await;
    }

    pub async fn ack(&self, lease: &str, status: ResultStatus) {
        let lease_token = lease.into();
        let status = status.into();
        self.say(work_response::Message::Ack(ResultAck {
            lease_token,
            status,
        }))
        .await;
    }

    pub async fn cancel(&self, lease: &str, reason: CancelReason) {
        self.say(work_response::Message::Cancel(CancelStep {
            lease_token: lease.into(),
            reason: reason.into(),
            ..CancelStep::default()
        }))
        .await;
    }

    /// The next message; `None` when the worker has closed its side.
    pub async fn hear(&mut self) -> Option<work_request::Message> {
        soon(self.inbound.message())
            .await
            .unwrap()
            .map(|request| request.message.unwrap())
    }

    pub async fn expect_register(&mut self) -> Register {
        match self.hear().await {
            Some(work_request::Message::Register(register)) => register,
            other => panic!("expected a registration: {other:?}"),
        }
    }

    pub async fn expect_result(&mut self) -> StepResult {
        match self.hear().await {
            Some(work_request::Message::Result(result)) => result,
            other => panic!("expected a result: {other:?}"),
        }
    }

    /// The outcome of this lease; the next message must be its result.
    pub async fn expect_outcome(&mut self, lease: &str) -> Outcome {
        let result = self.expect_result().await;
        assert_eq!(result.lease_token, lease);
        result.outcome.unwrap()
    }

    /// The JSON of this lease's success; the next message must be its result.
    pub async fn expect_success(&mut self, lease: &str) -> String {
        match self.expect_outcome(lease).await {
            Outcome::Success(success) => success.result_json,
            other => panic!("expected a success: {other:?}"),
        }
    }

    /// Waits until the stream ends, in good order or not.
    pub async fn gone(&mut self) {
        while let Ok(Some(_)) = soon(self.inbound.message()).await {}
    }
}

pub fn assignment(lease: &str, handler: &str) -> StepAssignment {
    StepAssignment {
        planned_steps_json: String::new(),
        lease_token: lease.into(),
        task_id: "task-1".into(),
        namespace: "user_management".into(),
        task_name: "user_registration".into(),
        version: "2.6.0".into(),
        step_name: "setup_billing_profile".into(),
        handler: handler.into(),
        service: "billing_service".into(),
        attempt: 3,
        retry_limit: 5,
        charged_attempts: 1,
        context_json: r#"{"plan":"pro","big":12345678901234567890123}"#.into(),
        handler_config_json: r#"{"timeout_seconds":30}"#.into(),
        results_json: [("create_user_account".into(), r#"{"user_id":7}"#.into())].into(),
        annotations_json: r#"{"plan_type":"pro"}"#.into(),
        correlation_id: "reg_1".into(),
        traceparent: String::new(),
        deadline_at: None,
        timeout: Some(Duration::from_secs(30).try_into().unwrap()),
        idempotency_key: "task-1/setup_billing_profile".into(),
    }
}

struct Acceptor {
    accepted: mpsc::Sender<Stream>,
}

type Responses = ReceiverStream<Result<WorkResponse, Status>>;

#[tonic::async_trait]
impl WorkerService for Acceptor {
    type WorkStream = Responses;

    async fn work(
        &self,
        request: Request<Streaming<WorkRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let (outbound, responses) = mpsc::channel(16);
        let inbound = request.into_inner();
        self.accepted
            .send(Stream { inbound, outbound })
            .await
            .map_err(|_| Status::unavailable("stopped"))?;
        Ok(Response::new(ReceiverStream::new(responses)))
    }

    async fn list_workers(
        &self,
        _: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        Err(Status::unimplemented("not in this script"))
    }
}
