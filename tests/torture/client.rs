//! Clients that submit throughout all faults, wait for some of the tasks, and record the answers.

mod submitter;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tasker::proto::{SubmitTaskRequest, SubmitTaskResponse, SubmitTasksRequest};
use tasker_worker::client::Client;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, transport::Endpoint};
use uuid::Uuid;

pub use self::submitter::watch;
use crate::{
    checker::history::{Intent, Told},
    document, operator,
    seed::Rng,
    shapes::Shape,
};

/// Time limit of a call.
const CALL: Duration = Duration::from_secs(6);
const PAUSE: Duration = Duration::from_millis(60);
/// Number of concurrent submitters.
const SUBMITTERS: usize = 4;
/// The gauge of open tasks is unknown: the database is away.
pub const UNKNOWN: i64 = -1;

/// The state that all clients share.
pub struct Clients {
    seed: u64,
    shapes: Vec<Shape>,
    /// One client per server.
    servers: Vec<Client>,
    /// Number of unfinished tasks that the submitters maintain.
    target: i64,
    /// Number of unfinished tasks now, or [`UNKNOWN`].
    pub open: AtomicI64,
    next: AtomicU64,
    intents: Mutex<BTreeMap<u64, Intent>>,
    told: Mutex<Vec<Told>>,
    calls: Mutex<BTreeMap<&'static str, usize>>,
    /// Calls without an answer so far.
    waiting: Mutex<BTreeSet<String>>,
    /// Tasks, templates and namespaces that operators keep paused.
    held: Mutex<BTreeSet<String>>,
    /// Ends the submits.
    stop: CancellationToken,
    /// Ends every call.
    give_up: CancellationToken,
}

/// A task that a client wants.
pub struct Wish<'a> {
    pub shape: &'a Shape,
    /// As JSON.
    pub context: String,
    pub priority: i32,
    /// With an idempotency key.
    pub keyed: bool,
    /// The number of the first task of the same request.
    pub batch: Option<u64>,
}

impl Clients {
    pub fn new(seed: u64, shapes: Vec<Shape>, servers: &[String], target: i64) -> Arc<Self> {
        let client = |url: &String| {
            let endpoint = Endpoint::from_shared(url.clone()).unwrap();
            let endpoint = endpoint
                .connect_timeout(Duration::from_secs(2))
                .timeout(CALL)
                .tcp_nodelay(true);
            let alive = endpoint
                .http2_keep_alive_interval(Duration::from_secs(2))
                .keep_alive_while_idle(true);
            Client::over(
                alive
                    .keep_alive_timeout(Duration::from_secs(2))
                    .connect_lazy(),
            )
        };
        Arc::new(Self {
            seed,
            shapes,
            servers: servers.iter().map(client).collect(),
            target,
            open: AtomicI64::new(0),
            next: AtomicU64::new(0),
            intents: Mutex::default(),
            told: Mutex::default(),
            calls: Mutex::default(),
            waiting: Mutex::default(),
            held: Mutex::default(),
            stop: CancellationToken::new(),
            give_up: CancellationToken::new(),
        })
    }

    /// Starts the submitters.
    pub fn start(self: &Arc<Self>) -> JoinSet<()> {
        let mut all = JoinSet::new();
        for _ in 0..SUBMITTERS {
            all.spawn(submitter::run(Arc::clone(self)));
        }
        all.spawn(operator::hold_templates(Arc::clone(self)));
        all
    }

    /// Ends the submitters; calls in flight have this long to be answered.
    pub async fn stop(&self, mut all: JoinSet<()>, patience: Duration) {
        self.stop.cancel();
        // Counts polls instead of time, as the machine may stand still.
        for _ in 0..patience.as_millis() / PAUSE.as_millis() {
            while let Some(ended) = all.try_join_next() {
                ended.unwrap();
            }
            if all.is_empty() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        if !all.is_empty() {
            self.give_up.cancel();
            while all.join_next().await.is_some() {}
            for what in std::mem::take(&mut *self.waiting.lock().unwrap()) {
                self.told(Told::Nothing {
                    what,
                    seconds: patience.as_secs(),
                });
            }
        }
    }

    /// The submits and the answers.
    pub fn history(&self) -> (BTreeMap<u64, Intent>, Vec<Told>) {
        (
            self.intents.lock().unwrap().clone(),
            self.told.lock().unwrap().clone(),
        )
    }

    /// Number of successful calls by name.
    pub fn calls(&self) -> BTreeMap<&'static str, usize> {
        self.calls.lock().unwrap().clone()
    }

    pub fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    /// A random stream that is independent of all others.
    pub fn luck(&self, purpose: &str) -> Rng {
        Rng::of(self.seed, purpose)
    }

    /// Marks the scope as paused, from before the pause call until the pause may end.
    pub fn hold(&self, whom: &str, held: bool) {
        let mut all = self.held.lock().unwrap();
        if held {
            all.insert(whom.to_owned())
        } else {
            all.remove(whom)
        };
    }

    pub fn is_held(&self, whom: &str) -> bool {
        self.held.lock().unwrap().contains(whom)
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    fn count(&self, what: &'static str) {
        *self.calls.lock().unwrap().entry(what).or_default() += 1;
    }

    pub fn told(&self, told: Told) {
        self.told.lock().unwrap().push(told);
    }

    pub fn server(&self, luck: u64) -> Client {
        self.servers[usize::try_from(luck % self.servers.len() as u64).unwrap()].clone()
    }

    /// Draws a new task; returns its number and its request.
    fn want_any(&self, keyed: bool, batch: Option<u64>) -> (u64, SubmitTaskRequest) {
        let n = self.number();
        let mut rng = Rng::of(self.seed, &format!("task {n}"));
        let shape = rng.pick(&self.shapes);
        let context = match shape.namespace.as_str() {
            // Complete, so that the schema adds no default to it.
            "user_management" => {
                let plan = rng.pick(&["free", "pro", "enterprise"]);
                format!(
                    "{{\"plan\":\"{plan}\" , \"name\":\"Zoë {n}\",\"email\":\"u{n}@example.org\", \
                     \"marketing_consent\":{}, \"n\":12345678901234567890}}",
                    rng.chance(5_000)
                )
            }
            _ => document::object(&mut rng, n),
        };
        let priority = if rng.chance(1_000) {
            i32::try_from(rng.within(0..11)).unwrap() - 5
        } else {
            0
        };
        let wish = Wish {
            shape,
            context,
            priority,
            keyed,
            batch,
        };
        self.note(n, wish)
    }

    /// Registers this task; returns its number and its request.
    pub fn want(&self, wish: Wish<'_>) -> (u64, SubmitTaskRequest) {
        self.note(self.number(), wish)
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn note(&self, n: u64, wish: Wish<'_>) -> (u64, SubmitTaskRequest) {
        let Wish { shape, context, .. } = wish;
        let key = wish.keyed.then(|| format!("key-{n}"));
        let request = SubmitTaskRequest {
            namespace: shape.namespace.clone(),
            task_name: shape.task_name.clone(),
            context_json: context.clone(),
            priority: wish.priority,
            idempotency_key: key.clone().unwrap_or_default(),
            correlation_id: format!("n-{n}"),
            ..Default::default()
        };
        let template = format!("{}/{}", shape.namespace, shape.task_name);
        let batch = wish.batch.filter(|_| !wish.keyed);
        self.intents.lock().unwrap().insert(
            n,
            Intent {
                template,
                context,
                key,
                batch,
                tries: 0,
            },
        );
        (n, request)
    }

    /// Calls one server once. A submit that failed may have been committed all the same.
    async fn submit(
        &self,
        luck: u64,
        asked: &[(u64, SubmitTaskRequest)],
    ) -> Option<Vec<SubmitTaskResponse>> {
        for (n, _) in asked {
            self.intents.lock().unwrap().get_mut(n).unwrap().tries += 1;
        }
        let mut client = self.server(luck);
        let call = async {
            match asked {
                [(_, one)] => client
                    .tasks
                    .submit_task(one.clone())
                    .await
                    .map(|response| vec![response.into_inner()]),
                many => {
                    let tasks = many.iter().map(|(_, request)| request.clone()).collect();
                    let response = client
                        .tasks
                        .submit_tasks(SubmitTasksRequest { tasks })
                        .await;
                    response.map(|response| response.into_inner().tasks)
                }
            }
        };
        let answers = self
            .called("submit", &format!("n-{}", asked[0].0), call)
            .await?;
        for ((n, _), answer) in asked.iter().zip(&answers) {
            let task = Uuid::parse_str(&answer.task_id).unwrap();
            self.told(Told::Submitted {
                n: *n,
                task,
                created: answer.created,
            });
        }
        Some(answers)
    }

    /// The answer of a successful call. Records refusals that no fault explains.
    async fn called<T>(
        &self,
        what: &'static str,
        whom: &str,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Option<T> {
        match timeout(CALL, call).await {
            Ok(Ok(answer)) => {
                self.count(what);
                return Some(answer);
            }
            Ok(Err(status)) => {
                self.count("refusals");
                if is_strange(status.code()) {
                    let (code, message) = (status.code().to_string(), status.message().to_owned());
                    self.told(Told::Refused {
                        what: format!("{what} {whom}"),
                        code,
                        message,
                    });
                }
            }
            Err(_) => self.count("silences"),
        }
        None
    }

    /// Repeats the submit, each time at a random server, until it is answered.
    pub async fn insist(
        &self,
        rng: &mut Rng,
        asked: &[(u64, SubmitTaskRequest)],
    ) -> Option<Vec<SubmitTaskResponse>> {
        let what = format!("submit of n-{}", asked[0].0);
        self.waiting.lock().unwrap().insert(what.clone());
        while !self.give_up.is_cancelled() {
            if let Some(answers) = self.submit(rng.next(), asked).await {
                self.waiting.lock().unwrap().remove(&what);
                return Some(answers);
            }
            tokio::time::sleep(PAUSE).await;
        }
        None
    }

    /// Repeats the call, each time at a random server, until its result is known. `None` if the
    /// order does not fit the state.
    pub async fn settled<T, F: Future<Output = Result<T, Status>>>(
        &self,
        rng: &mut Rng,
        what: &'static str,
        whom: &str,
        call: impl Fn(Client) -> F,
    ) -> Option<T> {
        let asked = format!("{what} of {whom}");
        self.waiting.lock().unwrap().insert(asked.clone());
        while !self.give_up.is_cancelled() {
            let client = self.server(rng.next());
            let call = async {
                match call(client).await {
                    Err(status) if status.code() == Code::FailedPrecondition => Ok(None),
                    answer => answer.map(Some),
                }
            };
            if let Some(known) = self.called(what, whom, call).await {
                self.waiting.lock().unwrap().remove(&asked);
                return known;
            }
            tokio::time::sleep(PAUSE).await;
        }
        None
    }
}

/// Codes that no broken connection, full queue or absent database causes.
fn is_strange(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss
            | Code::Unauthenticated
    )
}
