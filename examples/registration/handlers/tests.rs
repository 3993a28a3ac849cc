//! The handlers on a real worker, against the real services. A `Desk` takes the server's place: it
//! hands out one assignment at a time and accepts its result.

use std::collections::HashMap;

use tasker::proto::worker_service_server::{WorkerService, WorkerServiceServer};
use tasker_worker::{
    Worker,
    proto::{
        ListWorkersRequest, ListWorkersResponse, Registered, ResultAck, ResultStatus,
        StepAssignment, WorkRequest, WorkResponse, step_result::Outcome,
        work_request::Message as Said, work_response::Message as Answer,
    },
};
use tokio::sync::{Mutex, mpsc};
use tokio_stream::{
    StreamExt as _,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response as Reply, Status, Streaming, transport::Server};

use super::*;
use crate::{
    faults::{Fault, FaultPlan, Operation, Prior},
    place::Place,
    population::{Applicant, applicants},
    services::{Ports, World, user::user_id},
};

const SEED: u64 = 42;
const CALL_TIMEOUT: Duration = Duration::from_millis(500);
const ANY: Ports = Ports {
    user_port: 0,
    billing_port: 0,
    preferences_port: 0,
    notification_port: 0,
};

/// The server's side of one worker's stream.
struct Desk {
    assignments: Arc<Mutex<mpsc::Receiver<StepAssignment>>>,
    outcomes: mpsc::Sender<Outcome>,
}

#[tonic::async_trait]
impl WorkerService for Desk {
    type WorkStream = ReceiverStream<Result<WorkResponse, Status>>;

    async fn work(
        &self,
        request: Request<Streaming<WorkRequest>>,
    ) -> Result<Reply<Self::WorkStream>, Status> {
        let (answers, stream) = mpsc::channel(8);
        let (mut said, assignments, outcomes) = (
            request.into_inner(),
            self.assignments.clone(),
            self.outcomes.clone(),
        );
        tokio::spawn(async move {
            let mut assignments = assignments.lock().await;
            let say = async |message| {
                answers
                    .send(Ok(WorkResponse {
                        message: Some(message),
                    }))
                    .await
                    .unwrap();
            };
            while let Some(Ok(WorkRequest {
                message: Some(message),
            })) = said.next().await
            {
                if let Said::Result(result) = message {
                    let (lease_token, status) = (result.lease_token, ResultStatus::Accepted.into());
                    say(Answer::Ack(ResultAck {
                        lease_token,
                        status,
                    }))
                    .await;
                    outcomes.send(result.outcome.unwrap()).await.unwrap();
                } else if let Said::Register(_) = message {
                    say(Answer::Registered(registered())).await;
                } else {
                    continue;
                }
                let Some(assignment) = assignments.recv().await else {
                    break;
                };
                say(Answer::Assignment(assignment)).await;
            }
        });
        Ok(Reply::new(ReceiverStream::new(stream)))
    }

    async fn list_workers(
        &self,
        _: Request<ListWorkersRequest>,
    ) -> Result<Reply<ListWorkersResponse>, Status> {
        Ok(Reply::new(ListWorkersResponse::default()))
    }
}

fn registered() -> Registered {
    let duration = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    Registered {
        worker_id: "w1".to_owned(),
        lease_duration: duration(30),
        heartbeat_interval: duration(10),
        kept_leases: Vec::new(),
    }
}

/// A worker with the five handlers, and the services that they call.
struct Bench {
    world: World,
    people: Vec<Applicant>,
    plan: FaultPlan,
    assignments: mpsc::Sender<StepAssignment>,
    outcomes: mpsc::Receiver<Outcome>,
}

impl Bench {
    async fn start() -> Self {
        let (plan, people) = (FaultPlan::new(SEED), applicants(SEED, 2000));
        let world = World::start(Place::HERE, &ANY, plan, CALL_TIMEOUT * 2, &people)
            .await
            .unwrap();
        let (assignments, to_hand_out) = mpsc::channel(1);
        let (results, outcomes) = mpsc::channel(1);
        let desk = Desk {
            assignments: Arc::new(Mutex::new(to_hand_out)),
            outcomes: results,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = Server::builder().add_service(WorkerServiceServer::new(desk));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let worker = register(Worker::builder([address]), world.urls.clone(), CALL_TIMEOUT)
            .build()
            .unwrap();
        tokio::spawn(worker.run_until(std::future::pending()));
        Self {
            world,
            people,
            plan,
            assignments,
            outcomes,
        }
    }

    /// The first new user whose first call of the operation meets the fault.
    fn somebody(&self, operation: Operation, fault: Option<Fault>) -> Applicant {
        let fits = |person: &&Applicant| {
            self.plan.prior(&person.email) == Prior::New
                && self.plan.fault(operation, &user_id(&person.email), 1) == fault
        };
        self.people
            .iter()
            .find(fits)
            .expect("the plan has such a user")
            .clone()
    }

    /// The first user with this prior knowledge whose own calls meet no fault.
    fn known(&self, prior: Prior) -> Applicant {
        let smooth = |operation, person: &Applicant| {
            (1..3).all(|call| {
                self.plan
                    .fault(operation, &user_id(&person.email), call)
                    .is_none()
            })
        };
        let fits = |person: &&Applicant| {
            self.plan.prior(&person.email) == prior
                && smooth(Operation::CreateUser, person)
                && smooth(Operation::FindUser, person)
        };
        self.people
            .iter()
            .find(fits)
            .expect("the plan has such a user")
            .clone()
    }

    /// One attempt of a step, with the result of `create_user_account`.
    async fn attempt(&mut self, handler: &str, service: &str, person: &Applicant) -> Outcome {
        let mut context = json!(person);
        context["correlation_id"] = json!("c1");
        let account = json!({ "user_id": user_id(&person.email), "email": person.email });
        let assignment = StepAssignment {
            lease_token: uuid::Uuid::new_v4().to_string(),
            handler: format!("UserManagement::StepHandlers::{handler}Handler"),
            service: service.to_owned(),
            context_json: context.to_string(),
            results_json: HashMap::from([("create_user_account".to_owned(), account.to_string())]),
            correlation_id: "c1".to_owned(),
            idempotency_key: format!("t-{}/{handler}", person.email),
            ..StepAssignment::default()
        };
        self.assignments.send(assignment).await.unwrap();
        self.outcomes.recv().await.unwrap()
    }

    async fn success(&mut self, handler: &str, service: &str, person: &Applicant) -> Value {
        match self.attempt(handler, service, person).await {
            Outcome::Success(success) => serde_json::from_str(&success.result_json).unwrap(),
            other => panic!("{handler}: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_runs_five_steps() {
    let mut bench = Bench::start().await;
    let smooth = |person: &&Applicant| {
        let id = user_id(&person.email);
        use Operation::{CreatePreferences, CreateProfile, CreateUser, SendWelcome, UpdateUser};
        let operations = [
            CreateUser,
            CreateProfile,
            CreatePreferences,
            SendWelcome,
            UpdateUser,
        ];
        bench.plan.prior(&person.email) == Prior::New
            && operations
                .iter()
                .all(|operation| bench.plan.fault(*operation, &id, 1).is_none())
    };
    let person = bench.people.iter().find(smooth).unwrap().clone();
    let created = bench
        .success("CreateUserAccount", "user_service", &person)
        .await;
    assert_eq!(created["status"], "created");
    assert_eq!(created["user_id"], user_id(&person.email));
    assert_eq!(created["correlation_id"], "c1");
    let billing = bench
        .success("SetupBillingProfile", "billing_service", &person)
        .await;
    assert_eq!(billing["plan"], person.plan);
    bench
        .success("InitializePreferences", "preferences_service", &person)
        .await;
    bench
        .success("SendWelcomeSequence", "notification_service", &person)
        .await;
    let updated = bench
        .success("UpdateUserStatus", "user_service", &person)
        .await;
    assert_eq!(updated["status"], "active");
    let holdings = bench.world.holdings(&person);
    assert!(holdings.complete() && holdings.active, "{holdings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn known_email_succeeds_with_equal_data_and_conflicts_with_other_data() {
    let mut bench = Bench::start().await;
    let same = bench.known(Prior::SameData);
    let found = bench
        .success("CreateUserAccount", "user_service", &same)
        .await;
    assert_eq!(
        (&found["status"], &found["user_id"]),
        (&json!("already_exists"), &json!(user_id(&same.email)))
    );
    let other = bench.known(Prior::OtherData);
    match bench
        .attempt("CreateUserAccount", "user_service", &other)
        .await
    {
        Outcome::PermanentError(error) => assert_eq!(error.error_code, "USER_CONFLICT"),
        outcome => panic!("{outcome:?}"),
    }
}

/// A handler, its service and operation, a fault, and the error code that it causes.
const FAULTS: &[(&str, &str, Operation, Fault, &str)] = &[
    (
        "CreateUserAccount",
        "user_service",
        Operation::CreateUser,
        Fault::ServerError,
        "SERVER_ERROR",
    ),
    (
        "CreateUserAccount",
        "user_service",
        Operation::CreateUser,
        Fault::Restart,
        "CONNECTION_ERROR",
    ),
    (
        "CreateUserAccount",
        "user_service",
        Operation::CreateUser,
        Fault::Stall,
        "TIMEOUT",
    ),
    (
        "SetupBillingProfile",
        "billing_service",
        Operation::CreateProfile,
        Fault::Unavailable,
        "SERVER_ERROR",
    ),
    (
        "SendWelcomeSequence",
        "notification_service",
        Operation::SendWelcome,
        Fault::RateLimited,
        "RATE_LIMITED",
    ),
    (
        "SendWelcomeSequence",
        "notification_service",
        Operation::SendWelcome,
        Fault::Stall,
        "TIMEOUT",
    ),
    (
        "SendWelcomeSequence",
        "notification_service",
        Operation::SendWelcome,
        Fault::BreakAfterWork,
        "CONNECTION_ERROR",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn fault_of_each_kind_is_retryable_and_passes() {
    let mut bench = Bench::start().await;
    for &(handler, service, operation, fault, code) in FAULTS {
        let person = bench.somebody(operation, Some(fault));
        let mut failures = 0;
        while let Outcome::RetryableError(error) = bench.attempt(handler, service, &person).await {
            assert!(
                failures > 0 || error.error_code == code,
                "{fault:?}: {error:?}"
            );
            let asked_for = error.retry_after.map(|delay| delay.seconds);
            assert_eq!(
                asked_for,
                (error.error_code == "RATE_LIMITED").then_some(1),
                "{error:?}"
            );
            failures += 1;
        }
        assert!(
            (1..=3).contains(&failures),
            "{fault:?}: {failures} failures"
        );
        let holdings = bench.world.holdings(&person);
        assert!(holdings.welcome_mails <= 1, "{fault:?}: {holdings:?}");
        if operation == Operation::CreateUser {
            assert!(holdings.account, "{fault:?}: {holdings:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn update_of_an_absent_user_fails() {
    let mut bench = Bench::start().await;
    let person = bench.somebody(Operation::UpdateUser, None);
    match bench
        .attempt("UpdateUserStatus", "user_service", &person)
        .await
    {
        Outcome::PermanentError(error) => assert_eq!(error.error_code, "CLIENT_ERROR"),
        outcome => panic!("{outcome:?}"),
    }
}
