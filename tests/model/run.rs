//! One history against a server, compared with the model.

mod operators;
mod wires;

use std::{
    collections::HashMap,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use tasker::proto::{
    AttemptOutcome, CancelReason, Drain, GetTaskRequest, GetTaskResponse, RegisterTemplateRequest,
    ResultStatus, StepResult, SubmitTaskRequest, SubmitTasksRequest, step_result::Outcome,
    work_request::Message as Says, work_response::Message as Hears,
};
use tasker_worker::client::Client;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tonic::{Code, Status};

use crate::{
    model::{self, Action, Model, Owed, Wrong},
    op::{Answer, Op, Submission},
    shapes::{MOVING, SHAPES, VERSIONS},
    support::worker::{permanent, released, retryable, success},
    view::{AssignmentView, TaskView},
};

/// Time limit for everything owed. A released step waits a second, the dispatcher looks every
/// second, and the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(15);
/// The time in which nothing else may arrive: after each op, and at the end.
const SILENCE: (Duration, Duration) = (Duration::from_millis(3), Duration::from_millis(60));

/// Time limit of a history. Most take a second; a worker that is gone for good takes the length of
/// its lease.
const STALLED: Duration = Duration::from_secs(60);

/// The first difference between server and model, and the history up to there.
#[derive(Debug)]
pub struct Difference {
    pub what: String,
    pub log: Vec<String>,
    /// A busy machine may cause it too: a step was assigned before one of higher rank, or the
    /// database did not answer in time.
    pub unsure: bool,
}

/// A message to a worker; `None` at the end of its stream.
type Heard = (usize, Option<Hears>);

enum Say {
    Message(Says),
    Close,
}

/// A worker's stream, read by a tokio task of its own.
struct Wire {
    says: mpsc::UnboundedSender<Say>,
    reader: JoinHandle<()>,
    worker_id: String,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

struct Run {
    client: Client,
    url: String,
    namespace: String,
    model: Model,
    tasks: Vec<String>,
    /// Lease tokens by attempt, and back.
    leases: Vec<String>,
    attempts: HashMap<String, usize>,
    wires: Vec<Option<Wire>>,
    hear: mpsc::UnboundedSender<Heard>,
    heard: mpsc::UnboundedReceiver<Heard>,
    unsure: bool,
    /// The task that the last order was about.
    to_compare: Option<usize>,
}

/// Plays the history in a namespace of its own. `None` if server and model agree to the end.
pub async fn play(url: String, ops: Vec<Op>, wrong: Wrong) -> Option<Difference> {
    static HISTORIES: AtomicUsize = AtomicUsize::new(0);
    let (hear, heard) = mpsc::unbounded_channel();
    let mut run = Run {
        client: Client::connect(&url).await.unwrap(),
        url,
        namespace: format!("model_{}", HISTORIES.fetch_add(1, Relaxed)),
        model: Model::new(wrong),
        tasks: Vec::new(),
        leases: Vec::new(),
        attempts: HashMap::new(),
        wires: Vec::new(),
        hear,
        heard,
        unsure: false,
        to_compare: None,
    };
    let what = match timeout(STALLED, run.all(&ops)).await {
        Ok(played) => played.err()?,
        Err(_) => format!(
            "it stands still; {}",
            run.model.outstanding().unwrap_or("nothing is owed".into())
        ),
    };
    Some(Difference {
        what,
        log: std::mem::take(&mut run.model.log),
        unsure: run.unsure,
    })
}

impl Run {
    async fn all(&mut self, ops: &[Op]) -> Result<(), String> {
        // Registering is costly where there are many templates and workers.
        let named = (0..MOVING).filter(|template| ops.iter().any(|op| op.names(*template)));
        for shape in named.map(|template| &SHAPES[template]) {
            let yaml = shape.yaml(&self.namespace, VERSIONS[0]);
            self.register(yaml)
                .await
                .map_err(|code| format!("a template was refused: {code:?}"))?;
        }
        for op in ops {
            let action = self.model.begin(op);
            if !matches!(action, Action::Nothing) {
                self.act(action).await?;
                self.settle(SILENCE.0).await?;
                if let Some(task) = self.to_compare.take() {
                    self.compare(task).await?;
                }
            }
        }
        self.settle(SILENCE.1).await?;
        for task in 0..self.model.tasks() {
            self.compare(task).await?;
        }
        Ok(())
    }

    async fn compare(&mut self, task: usize) -> Result<(), String> {
        let (expected, got) = (self.model.view(task), TaskView::of(&self.get(task).await));
        if expected == got {
            return Ok(());
        }
        Err(format!(
            "how task {task} looks:\n  expected {expected:?}\n  got      {got:?}"
        ))
    }

    async fn act(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Nothing => {}
            Action::Register {
                version,
                content,
                expected,
            } => {
                let yaml = SHAPES[content].yaml(&self.namespace, VERSIONS[version]);
                answered(&expected, &self.register(yaml).await)?;
            }
            Action::Submit {
                submissions,
                expected,
            } => self.submit(&submissions, &expected).await?,
            Action::Order {
                task,
                order,
                expected,
            } => self.order(task, order, expected).await?,
            Action::Hold {
                name,
                held,
                expected,
            } => self.hold(name, held, expected).await?,
            Action::Connect {
                handlers,
                slots,
                previous,
                kept,
            } => {
                self.connect(handlers, slots, previous, kept).await?;
                self.ended().await?;
            }
            Action::Results { worker, results } => {
                for (attempt, answer) in results {
                    let lease_token = self.leases[attempt].clone();
                    let result = StepResult {
                        lease_token,
                        outcome: Some(outcome(answer)),
                    };
                    self.say(worker, Say::Message(Says::Result(result)));
                }
            }
            Action::Force { handler, open } => self.force(handler, open).await?,
            Action::Drain { worker } => self.drain(worker).await?,
            Action::Leave { worker } => {
                self.say(worker, Say::Message(Says::Drain(Drain {})));
                self.say(worker, Say::Close);
                self.ended().await?;
            }
            Action::Crash { worker } => {
                let worker_id = self.wires[worker].take().unwrap().worker_id.clone();
                // Until the server notices, it may assign a step to the dead worker.
                self.until("the worker is not given up", |w| {
                    w.iter().all(|w| w.worker_id != worker_id)
                })
                .await?;
                self.ended().await?;
            }
        }
        Ok(())
    }

    /// The code of a refusal. The server answers UNAVAILABLE if its database is slow.
    fn code(&mut self, status: &Status) -> Code {
        self.unsure |= status.code() == Code::Unavailable;
        status.code()
    }

    /// Registers a template, also if the server or its database is busy: that can be repeated.
    async fn register(&mut self, yaml: String) -> Result<bool, Code> {
        loop {
            let request = RegisterTemplateRequest {
                yaml: yaml.clone(),
                deny_warnings: false,
            };
            match self.client.templates.register_template(request).await {
                Ok(response) => return Ok(response.into_inner().created),
                Err(status) if status.code() == Code::Unavailable => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                Err(status) => return Err(status.code()),
            }
        }
    }

    async fn submit(
        &mut self,
        submissions: &[Submission],
        expected: &Result<Vec<(usize, bool)>, Code>,
    ) -> Result<(), String> {
        let mut tasks: Vec<SubmitTaskRequest> = submissions
            .iter()
            .map(|s| request(&self.namespace, s))
            .collect();
        let answer: Result<_, Status> = if tasks.len() == 1 {
            self.client
                .tasks
                .submit_task(tasks.remove(0))
                .await
                .map(|r| vec![r.into_inner()])
        } else {
            self.client
                .tasks
                .submit_tasks(SubmitTasksRequest { tasks })
                .await
                .map(|r| r.into_inner().tasks)
        };
        let answer = answer.map_err(|status| self.code(&status)).map(|all| {
            let position = |(id, created): (String, bool)| {
                let known = self.tasks.iter().position(|task| *task == id);
                let position = known.unwrap_or_else(|| {
                    self.tasks.push(id);
                    self.tasks.len() - 1
                });
                (position, created)
            };
            all.into_iter()
                .map(|task| (task.task_id, task.created))
                .map(position)
                .collect()
        });
        answered(expected, &answer)
    }

    async fn get(&mut self, task: usize) -> GetTaskResponse {
        let request = GetTaskRequest {
            task_id: self.tasks[task].clone(),
        };
        self.client
            .tasks
            .get_task(request)
            .await
            .unwrap()
            .into_inner()
    }

    /// Waits for the ends of attempts that no message reports.
    async fn ended(&mut self) -> Result<(), String> {
        let started = Instant::now();
        for attempt in self.model.ending() {
            let (task, step, number) = self.model.place(attempt);
            loop {
                let response = self.get(task).await;
                let step = response.steps.iter().find(|s| s.name == step).unwrap();
                if step.attempts[number].outcome() != AttemptOutcome::Running {
                    break;
                }
                if started.elapsed() > PATIENCE {
                    return Err(format!("{} does not end", self.model.attempt_name(attempt)));
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        Ok(())
    }

    /// Takes messages until nothing is owed and no other message arrived for `silence`.
    async fn settle(&mut self, silence: Duration) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let outstanding = self.model.outstanding();
            let wait = if outstanding.is_some() {
                PATIENCE.saturating_sub(started.elapsed())
            } else {
                silence
            };
            match (timeout(wait, self.heard.recv()).await, outstanding) {
                (Ok(heard), _) => self.take(heard.unwrap())?,
                (Err(_), None) => {
                    let order = self.model.in_order();
                    self.unsure = order.is_err();
                    return order;
                }
                (Err(_), Some(what)) => return Err(format!("{what} in {PATIENCE:?}")),
            }
        }
    }

    fn take(&mut self, (worker, message): Heard) -> Result<(), String> {
        if self.wires[worker].is_none() {
            return Ok(());
        }
        let known = |token: &str| {
            self.attempts
                .get(token)
                .copied()
                .ok_or_else(|| format!("worker {worker} heard of an unknown lease"))
        };
        match message {
            Some(Hears::Assignment(a)) => {
                let unknown =
                    || format!("worker {worker} was handed a task that nobody submitted: {a:?}");
                let task = self
                    .tasks
                    .iter()
                    .position(|id| *id == a.task_id)
                    .ok_or_else(unknown)?;
                let attempt =
                    self.model
                        .assigned(worker, task, &a.step_name, &AssignmentView::of(&a))?;
                assert_eq!(attempt, self.leases.len());
                self.leases.push(a.lease_token.clone());
                match self.attempts.insert(a.lease_token, attempt) {
                    Some(twice) => Err(format!(
                        "{} has the lease of another",
                        self.model.attempt_name(twice)
                    )),
                    None => Ok(()),
                }
            }
            Some(Hears::Ack(ack)) => {
                let (attempt, accepted) = (
                    known(&ack.lease_token)?,
                    ack.status() == ResultStatus::Accepted,
                );
                self.model.came(Owed::Ack {
                    worker,
                    attempt,
                    accepted,
                })
            }
            Some(Hears::Cancel(cancel)) => {
                let attempt = known(&cancel.lease_token)?;
                match cancel.reason() {
                    CancelReason::TaskCancelled => {
                        self.model.came(Owed::Cancel { worker, attempt })
                    }
                    CancelReason::LeaseLost => self.model.came(Owed::Lost { worker, attempt }),
                    _ => Err(format!("worker {worker} is told to stop: {cancel:?}")),
                }
            }
            None => self.model.came(Owed::End { worker }),
            Some(other) => Err(format!("worker {worker} heard {other:?}")),
        }
    }
}

fn answered<T: std::fmt::Debug + PartialEq>(expected: &T, got: &T) -> Result<(), String> {
    if expected == got {
        Ok(())
    } else {
        Err(format!("expected the answer {expected:?}, got {got:?}"))
    }
}

fn request(namespace: &str, s: &Submission) -> SubmitTaskRequest {
    SubmitTaskRequest {
        namespace: namespace.into(),
        task_name: SHAPES[s.template].name.into(),
        version: s.version.map_or(String::new(), |v| VERSIONS[v].into()),
        context_json: model::context(s.context),
        priority: s.priority,
        idempotency_key: s.key.map_or(String::new(), |key| format!("key {key}")),
        ..Default::default()
    }
}

fn outcome(answer: Answer) -> Outcome {
    match answer {
        Answer::Success(n) => success(&model::result(n)),
        Answer::Retryable => match retryable("busy", None) {
            Outcome::RetryableError(error) => {
                Outcome::RetryableError(tasker::proto::RetryableError {
                    error_code: "BUSY".into(),
                    ..error
                })
            }
            other => other,
        },
        Answer::Permanent => permanent("no", "NO"),
        Answer::Released => released(),
    }
}
