//! Takes submits: checks each against its template on the caller's thread, then stores many in one transaction and hands
//! their root steps to workers that are free here.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use semver::Version;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    assignment,
    catalog::{Catalog, Plan},
    claims::{self, Plans},
    health::HealthCell,
    hub::{Hub, Want},
    peers::Peers,
    settle::{SettleQueue, deliver},
    watch::Watchers,
};
use crate::{
    domain::{
        event::EventType,
        json::{self, JsonError},
        progress::Progress,
        schema::Violation,
        task::{MAX_ANNOTATIONS_BYTES, MAX_CONTEXT_BYTES, MAX_KEY_BYTES, MAX_PRIORITY, TaskState},
    },
    store::{
        Db, StoreError,
        changes::{Changes, Event, NewLive, NewTask},
        hot::{Hot, IntakeRead, KeyRow},
    },
};

/// The most submits of one transaction.
const MAX_BATCH: usize = 256;
/// The most submits that wait for one; the next one is refused.
const MAX_QUEUE: usize = 2_048;
/// The most tasks of one transaction, unless one request has more.
const MAX_BATCH_TASKS: usize = 1_000;
/// How long a submit waits for a database that neither answers nor breaks the connection.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of tasks that wait or are in a transaction, in KiB; what comes on top is refused.
const MAX_QUEUE_KIB: usize = 64 << 10;
/// When to try again after a refusal.
pub const RETRY_AFTER: Duration = Duration::from_millis(200);

/// What a client asks for.
#[derive(Clone, Debug, Default)]
pub struct Submission {
    pub namespace: String,
    pub task_name: String,
    /// `None` for the newest.
    pub version: Option<Version>,
    /// JSON object; empty for `{}`.
    pub context: String,
    pub priority: i32,
    /// Empty for none.
    pub idempotency_key: String,
    /// Empty: from the context, or generated.
    pub correlation_id: String,
    /// JSON object; empty for `{}`.
    pub annotations: String,
    pub traceparent: Option<String>,
}

/// What a client gets back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    pub task_id: Uuid,
    /// `false`: the idempotency key was used before, and this is the first task.
    pub created: bool,
    pub correlation_id: String,
    pub version: String,
}

/// One thing that is wrong with a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violated {
    /// The request's field.
    pub field: String,
    pub message: String,
}

/// Why a submit was refused. `index` is the task's place in the request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IntakeError {
    #[error("the submission does not fit: {}", .0.first().map_or("", |(_, v)| v.message.as_str()))]
    Invalid(Vec<(usize, Violated)>),
    #[error("no template {namespace}/{task_name}{} is registered", .version.as_ref().map(|v| format!(" version {v}")).unwrap_or_default())]
    NoTemplate { index: usize, namespace: String, task_name: String, version: Option<Version> },
    #[error("idempotency key `{key}` was used in namespace `{namespace}` for task {task_id} with other content")]
    KeyTaken { index: usize, namespace: String, key: String, task_id: Uuid },
    #[error("the intake queue is full")]
    Full,
    #[error("the server is shutting down")]
    ShuttingDown,
    #[error("the tasks could not be stored: {0}")]
    Failed(Arc<StoreError>),
}

/// A submission that fits its template.
struct Prepared {
    submission: Submission,
    plan: Arc<Plan>,
    task_id: Uuid,
    context: String,
    annotations: String,
    correlation_id: String,
    digest: Vec<u8>,
}

/// What came in one request: stored as a whole or not at all.
struct Group {
    tasks: Vec<Prepared>,
    /// The newest template known when "the newest version" was looked up.
    seen: i32,
    reply: oneshot::Sender<Result<Vec<Submitted>, IntakeError>>,
    _place: OwnedSemaphorePermit,
}

impl Group {
    /// Whether a template was registered that "the newest version" may have to be.
    fn is_outdated(&self, newest: i32) -> bool {
        self.seen < newest && self.tasks.iter().any(|t| t.submission.version.is_none())
    }
}

/// The way into intake.
#[derive(Clone)]
pub struct IntakeQueue {
    sender: mpsc::Sender<Group>,
    weight: Arc<Semaphore>,
    catalog: Arc<Catalog>,
}

impl IntakeQueue {
    /// Checks the submissions and has them stored; returns when they are committed.
    pub async fn submit(&self, submissions: Vec<Submission>) -> Result<Vec<Submitted>, IntakeError> {
        let kib: usize = submissions.iter().map(|s| 1 + (s.context.len() + s.annotations.len()) / 1024).sum();
        let permits = u32::try_from(kib.min(MAX_QUEUE_KIB)).unwrap_or(u32::MAX);
        let place = Arc::clone(&self.weight).try_acquire_many_owned(permits).map_err(|_| IntakeError::Full)?;
        let mut seen = self.catalog.newest();
        let tasks = match prepare(&self.catalog, &submissions) {
            Err(IntakeError::NoTemplate { .. }) => {
                // Perhaps it was registered on another server a moment ago.
                self.catalog.refresh().await.map_err(|e| IntakeError::Failed(Arc::new(e)))?;
                seen = self.catalog.newest();
                prepare(&self.catalog, &submissions)?
            }
            other => other?,
        };
        let (reply, answer) = oneshot::channel();
        self.sender.try_send(Group { tasks, seen, reply, _place: place }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => IntakeError::Full,
            mpsc::error::TrySendError::Closed(_) => IntakeError::ShuttingDown,
        })?;
        match tokio::time::timeout(SUBMIT_TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(|_| IntakeError::ShuttingDown)?,
            Err(_) => {
                let error = StoreError::Connection(format!("not confirmed within {SUBMIT_TIMEOUT:?}"));
                Err(IntakeError::Failed(Arc::new(error)))
            }
        }
    }
}

/// The intake loop.
pub struct Intake {
    pub db: Db,
    pub catalog: Arc<Catalog>,
    pub hub: Arc<Hub>,
    pub watchers: Watchers,
    pub peers: Arc<Peers>,
    pub health: HealthCell,
    pub settle: SettleQueue,
    queue: mpsc::Receiver<Group>,
    hot: Option<Hot>,
}

impl Intake {
    pub fn new(
        db: Db,
        catalog: Arc<Catalog>,
        hub: Arc<Hub>,
        watchers: Watchers,
        peers: Arc<Peers>,
        health: HealthCell,
        settle: SettleQueue,
    ) -> (Self, IntakeQueue) {
        let (sender, queue) = mpsc::channel(MAX_QUEUE);
        let weight = Arc::new(Semaphore::new(MAX_QUEUE_KIB));
        let handle = IntakeQueue { sender, weight, catalog: Arc::clone(&catalog) };
        (Self { db, catalog, hub, watchers, peers, health, settle, queue, hot: None }, handle)
    }

    /// Runs until `shutdown`, then stores what is in the queue and ends.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            tokio::select! {
                biased;
                n = self.queue.recv_many(&mut batch, MAX_BATCH) => if n == 0 { return },
                () = shutdown.cancelled() => {
                    self.queue.close();
                    if self.queue.recv_many(&mut batch, MAX_BATCH).await == 0 {
                        return;
                    }
                }
            }
            self.store_all(std::mem::take(&mut batch)).await;
        }
    }

    /// Stores the groups or tells their callers why not. Collisions are tried again at once; a database that is away is
    /// the callers' to know, who hear UNAVAILABLE instead of waiting.
    async fn store_all(&mut self, groups: Vec<Group>) {
        const COLLISIONS: usize = 5;
        let mut work = portions(groups);
        let mut collisions = 0;
        while let Some(mut groups) = work.pop() {
            match self.run_once(&mut groups).await {
                Ok(again) => {
                    self.health.database(true);
                    if !again.is_empty() {
                        work.push(again);
                    }
                }
                Err(error) if error.is_transient() && self.hot.is_some() && collisions < COLLISIONS => {
                    collisions += 1;
                    work.push(groups);
                }
                Err(error) if groups.len() > 1 && !error.is_transient() => {
                    let half = groups.split_off(groups.len() / 2);
                    work.push(half);
                    work.push(groups);
                }
                Err(error) => {
                    if self.hot.is_none() {
                        self.health.database(false);
                    }
                    tracing::debug!(%error, groups = groups.len(), "submits could not be stored");
                    let error = Arc::new(error);
                    for group in groups {
                        let _ = group.reply.send(Err(IntakeError::Failed(Arc::clone(&error))));
                    }
                }
            }
        }
    }

    /// One transaction. On success `groups` is empty; what comes back has to be looked at again. On failure `groups` is
    /// as it was.
    async fn run_once(&mut self, groups: &mut Vec<Group>) -> Result<Vec<Group>, StoreError> {
        let hot = match self.hot.take() {
            // A connection that broke while nobody used it is no reason to refuse anybody.
            Some(hot) if !hot.is_closed() => hot,
            _ => Hot::connect(&self.db).await?,
        };
        let result = self.store(&hot, groups).await;
        if result.is_err() && (hot.is_closed() || hot.rollback().await.is_err()) {
            return result;
        }
        self.hot = Some(hot);
        result
    }

    async fn store(&self, hot: &Hot, groups: &mut Vec<Group>) -> Result<Vec<Group>, StoreError> {
        let mut reservation = self.hub.reserve(&Want::Lanes(&roots_of(groups)));
        let read = hot.begin_intake(&keys_of(groups), &reservation.demand()).await?;
        if groups.iter().any(|g| g.is_outdated(read.newest_template)) {
            hot.rollback().await?;
            return self.prepare_again(groups).await;
        }
        let Verdicts { refused, known, again, dropped } = judge(groups, &read);
        let mut changes = Changes { dropped_tasks: dropped, ..Changes::default() };
        let mut plans = Plans::new();
        for (_, group) in groups.iter().enumerate().filter(|(i, _)| !refused.contains_key(i) && !again.contains(i)) {
            for task in group.tasks.iter().filter(|t| !known.contains_key(&t.task_id)) {
                add(&mut changes, task);
                plans.insert(task.plan.template_id, Arc::clone(&task.plan));
            }
        }
        plans.extend(self.catalog.readable(read.candidates.iter().map(|c| c.template_id)).await?);
        let (claimed, wanted) = claims::grant(&mut changes, &read.candidates, &plans, &mut reservation, read.now);
        start_claimed(&mut changes);
        let unserved: HashSet<i32> = changes.new_live.iter().filter(|l| l.grant.is_none()).map(|l| l.lane_id).collect();
        changes.notify = self.peers.news(!unserved.is_empty(), false, false);
        if changes.is_empty() {
            hot.rollback().await?;
        } else {
            let committed = hot.commit(&changes, &wanted, read.now).await;
            let mut applied = committed.inspect_err(|_| self.settle.doubt(&reservation))?;
            let claimed = claimed.into_iter().chain(std::mem::take(&mut applied.claimed)).collect();
            for input in deliver(assignment::assemble(claimed, &applied, &plans, read.now), reservation) {
                let _ = self.settle.push(input).await;
            }
        }
        self.hub.steps_wait(unserved);
        self.answer(groups, refused, &known, again).await
    }

    /// A template was registered that this server did not know: "the newest version" may be another one now.
    async fn prepare_again(&self, groups: &mut Vec<Group>) -> Result<Vec<Group>, StoreError> {
        self.catalog.refresh().await?;
        let newest = self.catalog.newest();
        let mut again = Vec::with_capacity(groups.len());
        for mut group in groups.drain(..) {
            if group.is_outdated(newest) {
                group.seen = newest;
                let submissions: Vec<Submission> = group.tasks.into_iter().map(|t| t.submission).collect();
                match prepare(&self.catalog, &submissions) {
                    Ok(tasks) => group.tasks = tasks,
                    Err(error) => {
                        let _ = group.reply.send(Err(error));
                        continue;
                    }
                }
            }
            again.push(group);
        }
        Ok(again)
    }

    /// After the commit, and never before.
    async fn answer(
        &self,
        groups: &mut Vec<Group>,
        mut refused: HashMap<usize, IntakeError>,
        known: &HashMap<Uuid, Uuid>,
        again: HashSet<usize>,
    ) -> Result<Vec<Group>, StoreError> {
        let first: HashMap<Uuid, Submitted> =
            if known.is_empty() { HashMap::new() } else { self.first_tasks(known).await };
        let mut later = Vec::new();
        for (i, group) in groups.drain(..).enumerate() {
            if again.contains(&i) {
                later.push(group);
                continue;
            }
            let answer = match refused.remove(&i) {
                Some(error) => Err(error),
                None => group.tasks.iter().map(|task| submitted(task, known, &first)).collect(),
            };
            let _ = group.reply.send(answer);
        }
        Ok(later)
    }

    /// What the first submits under used keys were answered.
    async fn first_tasks(&self, known: &HashMap<Uuid, Uuid>) -> HashMap<Uuid, Submitted> {
        let mut first = HashMap::new();
        for task_id in known.values().collect::<HashSet<_>>() {
            let Ok(Some(view)) = crate::store::task::get(&self.db, *task_id, false).await else { continue };
            let Ok(plan) = self.catalog.plan(view.task.template_id).await else { continue };
            let submitted = Submitted {
                task_id: *task_id,
                created: false,
                correlation_id: view.task.correlation_id,
                version: plan.template.version.to_string(),
            };
            first.insert(*task_id, submitted);
        }
        first
    }
}

fn submitted(
    task: &Prepared,
    known: &HashMap<Uuid, Uuid>,
    first: &HashMap<Uuid, Submitted>,
) -> Result<Submitted, IntakeError> {
    match known.get(&task.task_id) {
        None => Ok(Submitted {
            task_id: task.task_id,
            created: true,
            correlation_id: task.correlation_id.clone(),
            version: task.plan.template.version.to_string(),
        }),
        Some(owner) => first.get(owner).cloned().ok_or_else(|| {
            let error = StoreError::Connection("the first task of the idempotency key could not be read".into());
            IntakeError::Failed(Arc::new(error))
        }),
    }
}

/// Divides the groups into transactions; the first is the last one in the list.
fn portions(groups: Vec<Group>) -> Vec<Vec<Group>> {
    let mut portions: Vec<Vec<Group>> = Vec::new();
    let mut tasks = 0;
    for group in groups {
        match portions.last_mut() {
            Some(portion) if tasks + group.tasks.len() <= MAX_BATCH_TASKS => {
                tasks += group.tasks.len();
                portion.push(group);
            }
            _ => {
                tasks = group.tasks.len();
                portions.push(vec![group]);
            }
        }
    }
    portions.reverse();
    portions
}

/// What becomes of each group.
#[derive(Default)]
struct Verdicts {
    refused: HashMap<usize, IntakeError>,
    /// Tasks that exist already: the id made for the copy, and the id of the first.
    known: HashMap<Uuid, Uuid>,
    /// Groups that depend on a key whose owner in this very batch was refused.
    again: HashSet<usize>,
    /// Ids whose keys were taken but whose tasks will not be stored.
    dropped: Vec<Uuid>,
}

/// Decides by the owners of the idempotency keys.
fn judge(groups: &[Group], read: &IntakeRead) -> Verdicts {
    let owners: HashMap<(&str, &str), &KeyRow> =
        read.keys.iter().map(|k| ((k.namespace.as_str(), k.key.as_str()), k)).collect();
    let mut verdicts = Verdicts::default();
    for (i, group) in groups.iter().enumerate() {
        let mut copies = Vec::new();
        for (index, task) in group.tasks.iter().enumerate() {
            let s = &task.submission;
            let Some(owner) = owners.get(&(s.namespace.as_str(), s.idempotency_key.as_str())) else { continue };
            if owner.task_id == task.task_id {
                continue;
            }
            if verdicts.dropped.contains(&owner.task_id) {
                verdicts.again.insert(i);
            } else if owner.digest == task.digest {
                copies.push((task.task_id, owner.task_id));
            } else {
                let taken = IntakeError::KeyTaken {
                    index,
                    namespace: s.namespace.clone(),
                    key: s.idempotency_key.clone(),
                    task_id: owner.task_id,
                };
                verdicts.refused.entry(i).or_insert(taken);
            }
        }
        if verdicts.refused.contains_key(&i) || verdicts.again.contains(&i) {
            let keyed = group.tasks.iter().filter(|t| !t.submission.idempotency_key.is_empty());
            verdicts.dropped.extend(keyed.map(|t| t.task_id));
        } else {
            verdicts.known.extend(copies);
        }
    }
    verdicts
}

/// The keys to take, in one order for all servers, so that two of them cannot wait for each other.
fn keys_of(groups: &[Group]) -> Vec<KeyRow> {
    let mut keys: Vec<KeyRow> = groups
        .iter()
        .flat_map(|g| &g.tasks)
        .filter(|t| !t.submission.idempotency_key.is_empty())
        .map(|t| KeyRow {
            namespace: t.submission.namespace.clone(),
            key: t.submission.idempotency_key.clone(),
            task_id: t.task_id,
            digest: t.digest.clone(),
        })
        .collect();
    // Stable: among equal keys the first submit stays first and becomes the owner.
    keys.sort_by(|a, b| (&a.namespace, &a.key).cmp(&(&b.namespace, &b.key)));
    keys
}

fn roots_of(groups: &[Group]) -> BTreeMap<i32, usize> {
    let mut lanes = BTreeMap::new();
    for task in groups.iter().flat_map(|g| &g.tasks) {
        for root in task.plan.graph.roots() {
            *lanes.entry(task.plan.lane(*root)).or_default() += 1;
        }
    }
    lanes
}

fn add(changes: &mut Changes, task: &Prepared) {
    let plan = &task.plan;
    let steps = plan.template.steps.len();
    let progress = Progress::new(&plan.graph, steps);
    let priority = i16::try_from(task.submission.priority).unwrap_or_default();
    changes.events.push(Event::of_task(EventType::TaskSubmitted, plan.template_id, task.task_id));
    changes.new_live.extend(plan.graph.roots().iter().map(|root| NewLive {
        task_id: task.task_id,
        step: i16::try_from(*root).unwrap_or(i16::MAX),
        template_id: plan.template_id,
        lane_id: plan.lane(*root),
        priority,
        grant: None,
    }));
    changes.new_tasks.push(NewTask {
        task_id: task.task_id,
        template_id: plan.template_id,
        state: progress.state,
        priority,
        steps_total: i16::try_from(steps).unwrap_or(i16::MAX),
        steps_live: i16::try_from(progress.live).unwrap_or(i16::MAX),
        steps_done: progress.done.as_bytes().to_vec(),
        correlation_id: task.correlation_id.clone(),
        traceparent: task.submission.traceparent.clone(),
        annotations: task.annotations.clone(),
        context: task.context.clone(),
    });
}

/// A task whose root is claimed in the transaction that stores it is in progress from the beginning.
fn start_claimed(changes: &mut Changes) {
    let started: HashSet<Uuid> = changes.new_live.iter().filter(|l| l.grant.is_some()).map(|l| l.task_id).collect();
    for task in changes.new_tasks.iter_mut().filter(|t| started.contains(&t.task_id)) {
        task.state = TaskState::InProgress;
        changes.events.push(Event::of_task(EventType::TaskStarted, task.template_id, task.task_id));
    }
}

/// Checks every submission and gathers everything that is wrong with any of them.
fn prepare(catalog: &Catalog, submissions: &[Submission]) -> Result<Vec<Prepared>, IntakeError> {
    let mut violated = Vec::new();
    let mut prepared = Vec::with_capacity(submissions.len());
    for (index, submission) in submissions.iter().enumerate() {
        let s = submission;
        let plan =
            catalog.resolve(&s.namespace, &s.task_name, s.version.as_ref()).ok_or_else(|| IntakeError::NoTemplate {
                index,
                namespace: s.namespace.clone(),
                task_name: s.task_name.clone(),
                version: s.version.clone(),
            })?;
        match prepare_one(submission, plan) {
            Ok(task) => prepared.push(task),
            Err(more) => violated.extend(more.into_iter().map(|v| (index, v))),
        }
    }
    if violated.is_empty() { Ok(prepared) } else { Err(IntakeError::Invalid(violated)) }
}

fn prepare_one(s: &Submission, plan: Arc<Plan>) -> Result<Prepared, Vec<Violated>> {
    let mut violated = Vec::new();
    let mut wrong = |field: &str, message: String| violated.push(Violated { field: field.to_owned(), message });
    if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&s.priority) {
        wrong("priority", format!("{} is out of bounds: expected -{MAX_PRIORITY} to {MAX_PRIORITY}", s.priority));
    }
    for (field, text) in [("idempotency_key", &s.idempotency_key), ("correlation_id", &s.correlation_id)] {
        if text.len() > MAX_KEY_BYTES || text.chars().any(char::is_control) {
            wrong(field, format!("expected at most {MAX_KEY_BYTES} bytes without control characters"));
        }
    }
    let sent = if s.context.is_empty() { "{}" } else { s.context.as_str() };
    let notes = if s.annotations.is_empty() { "{}" } else { s.annotations.as_str() };
    let context = object("context_json", sent, MAX_CONTEXT_BYTES).and_then(|map| Ok((map, fit(&plan, sent)?)));
    let annotations = object("annotations_json", notes, MAX_ANNOTATIONS_BYTES);
    violated.extend(context.as_ref().err().cloned().unwrap_or_default());
    violated.extend(annotations.as_ref().err().cloned().unwrap_or_default());
    let (Ok((sent, context)), Ok(annotations), true) = (context, annotations, violated.is_empty()) else {
        return Err(violated);
    };
    let correlation_id = correlation_id(s, &sent);
    let mut notes = plan.template.annotations.clone();
    notes.extend(annotations.clone());
    notes.insert("correlation_id".to_owned(), Value::String(correlation_id.clone()));
    let digest = if s.idempotency_key.is_empty() { Vec::new() } else { digest(s, sent, annotations) };
    Ok(Prepared {
        submission: s.clone(),
        plan,
        task_id: Uuid::now_v7(),
        context,
        annotations: Value::Object(notes).to_string(),
        correlation_id,
        digest,
    })
}

fn object(field: &str, text: &str, max: usize) -> Result<Map<String, Value>, Vec<Violated>> {
    let wrong = |message: String| vec![Violated { field: field.to_owned(), message }];
    json::check_object(text, max).map_err(|error: JsonError| wrong(error.to_string()))?;
    match json::parse(text, max).map_err(|error| wrong(error.to_string()))? {
        Value::Object(object) => Ok(object),
        _ => Err(wrong("expected a JSON object".to_owned())),
    }
}

/// The context with the schema's defaults; the client's own bytes when none was missing.
fn fit(plan: &Plan, context: &str) -> Result<String, Vec<Violated>> {
    let Some(schema) = &plan.schema else { return Ok(context.to_owned()) };
    let named = |v: Violation| Violated { field: format!("context_json{}", v.pointer), message: v.message };
    let with_defaults = schema.apply(context).map_err(|all| all.into_iter().map(named).collect::<Vec<_>>())?;
    match with_defaults {
        None => Ok(context.to_owned()),
        Some(filled) if filled.len() <= MAX_CONTEXT_BYTES => Ok(filled),
        Some(filled) => Err(vec![Violated {
            field: "context_json".to_owned(),
            message: format!("{} bytes with the schema's defaults: expected at most {MAX_CONTEXT_BYTES}", filled.len()),
        }]),
    }
}

/// The caller's, else the context's own if it has a usable one, else a new one.
fn correlation_id(s: &Submission, context: &Map<String, Value>) -> String {
    if !s.correlation_id.is_empty() {
        return s.correlation_id.clone();
    }
    match context.get("correlation_id") {
        Some(Value::String(id)) if !id.is_empty() && id.len() <= MAX_KEY_BYTES && !id.chars().any(char::is_control) => {
            id.clone()
        }
        _ => format!("task_{}", Uuid::new_v4().simple()),
    }
}

/// Equal for submissions that mean the same: neither the order of keys nor white space counts.
fn digest(s: &Submission, context: Map<String, Value>, annotations: Map<String, Value>) -> Vec<u8> {
    let (mut context, mut annotations) = (Value::Object(context), Value::Object(annotations));
    context.sort_all_objects();
    annotations.sort_all_objects();
    let version = s.version.as_ref().map(ToString::to_string).unwrap_or_default();
    let whole =
        serde_json::json!([s.namespace, s.task_name, version, context, s.priority, s.correlation_id, annotations]);
    Sha256::digest(whole.to_string()).to_vec()
}
