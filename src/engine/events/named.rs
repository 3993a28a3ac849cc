//! Events with the names they refer to. Names never change, so each is read once; so are the facts
//! of a task, once it has started.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tokio_util::bytes::{Bytes, BytesMut};
use uuid::Uuid;

use crate::{
    domain::event::EventType,
    store::{
        Db, StoreError,
        event::{
            LoggedEvent,
            lookup::{self, ServiceName, StepNames, TaskFacts, TemplateNames},
        },
    },
};

/// Appends an encoded event to a buffer.
pub type Encode = fn(&NamedEvent, &mut BytesMut);

/// Initial size of a buffer; most events are smaller.
const USUAL_BYTES: usize = 512;
/// Maximum cached names of each kind.
const MAX_NAMES: usize = 10_000;

/// An event with its names. A name that does not apply or no longer exists is `None`.
#[derive(Clone, Debug)]
pub struct NamedEvent {
    pub event: LoggedEvent,
    template: Option<Arc<TemplateNames>>,
    service: Option<Arc<ServiceName>>,
    worker: Option<Arc<String>>,
    task: Option<Arc<TaskFacts>>,
    encoded: OnceLock<Bytes>,
    place: OnceLock<Bytes>,
}

impl NamedEvent {
    /// The encoded event; every call must use the same `encode`.
    pub(super) fn encoded(&self, encode: Encode) -> Bytes {
        let encoded = || self.encode(encode, &mut BytesMut::with_capacity(USUAL_BYTES));
        self.encoded.get().cloned().unwrap_or_else(encoded)
    }

    /// The same. An event that was not encoded yet is encoded into `buffer`, which it shares with
    /// others.
    pub(super) fn encode(&self, encode: Encode, buffer: &mut BytesMut) -> Bytes {
        let encoded = || {
            encode(self, buffer);
            buffer.split().freeze()
        };
        self.encoded.get_or_init(encoded).clone()
    }

    /// The encoded position after it, shared by all subscribers that reached it the same way.
    pub(super) fn place(&self, encode: impl FnOnce() -> Bytes) -> Bytes {
        self.place.get_or_init(encode).clone()
    }

    pub fn namespace(&self) -> Option<&str> {
        let template = self
            .template
            .as_ref()
            .map(|template| template.namespace.as_str());
        template.or_else(|| Some(self.service.as_ref()?.namespace.as_str()))
    }

    pub fn task_name(&self) -> Option<&str> {
        Some(&self.template.as_ref()?.task_name)
    }

    pub fn version(&self) -> Option<&str> {
        Some(&self.template.as_ref()?.version)
    }

    pub fn correlation_id(&self) -> Option<&str> {
        Some(&self.task.as_ref()?.correlation_id)
    }

    pub fn worker_name(&self) -> Option<&str> {
        Some(self.worker.as_ref()?)
    }

    pub fn step(&self) -> Option<&StepNames> {
        self.template
            .as_ref()?
            .steps
            .get(usize::try_from(self.event.step?).ok()?)
    }

    pub fn service(&self) -> Option<&str> {
        let of_step = self.step().map(|step| step.service.as_str());
        of_step.or_else(|| Some(self.service.as_ref()?.service.as_str()))
    }

    /// The run time of the ended attempt; for an ended task, the time since its first step started.
    pub fn run(&self) -> Option<Duration> {
        let since = match self.event.kind {
            _ if self.event.outcome.is_some() => self.event.started_at,
            Some(
                EventType::TaskCompleted
                | EventType::TaskFailed
                | EventType::TaskCancelled
                | EventType::TaskResolved,
            ) => self.task.as_ref()?.started_at,
            _ => None,
        }?;
        // Clocks of two transactions may differ slightly; a negative time counts as zero.
        Some(self.event.at.duration_since(since).unwrap_or_default())
    }

    /// The time from ready to started of the attempt; for a started task, the time since its
    /// submission.
    pub fn wait(&self) -> Option<Duration> {
        let (since, until) = match self.event.kind {
            _ if self.event.outcome.is_some() => (self.event.ready_at, self.event.started_at?),
            Some(EventType::StepStarted) => (self.event.ready_at, self.event.at),
            Some(EventType::TaskStarted) => (Some(self.task.as_ref()?.submitted_at), self.event.at),
            _ => (None, self.event.at),
        };
        Some(until.duration_since(since?).unwrap_or_default())
    }
}

/// The cached names.
#[derive(Default)]
pub struct Names {
    templates: Known<i32, TemplateNames>,
    services: Known<i32, ServiceName>,
    workers: Known<Uuid, String>,
    tasks: Known<Uuid, TaskFacts>,
}

impl Names {
    /// Adds the names to the events, in the same order.
    pub async fn of(
        &self,
        db: &Db,
        events: Vec<LoggedEvent>,
    ) -> Result<Vec<Arc<NamedEvent>>, StoreError> {
        let each = || events.iter();
        let templates = each().map(|e| e.template_id);
        let templates = self
            .templates
            .of(templates, async |ids| lookup::templates(db, &ids).await)
            .await?;
        let services = each().map(|e| e.service_id);
        let services = self
            .services
            .of(services, async |ids| lookup::services(db, &ids).await)
            .await?;
        let workers = each().map(|e| e.worker_id);
        let workers = self
            .workers
            .of(workers, async |ids| lookup::workers(db, &ids).await)
            .await?;
        let tasks = each().map(|e| e.task_id);
        let tasks = self
            .tasks
            .of(tasks, async |ids| lookup::tasks(db, &ids).await)
            .await?;
        let names = templates.into_iter().zip(services).zip(workers).zip(tasks);
        let named = |(event, (((template, service), worker), task))| {
            Arc::new(NamedEvent {
                event,
                template,
                service,
                worker,
                task,
                encoded: OnceLock::new(),
                place: OnceLock::new(),
            })
        };
        Ok(events.into_iter().zip(names).map(named).collect())
    }
}

/// A value that never changes once it is final.
trait Lasting {
    fn is_final(&self) -> bool {
        true
    }
}

impl Lasting for TemplateNames {}
impl Lasting for ServiceName {}
impl Lasting for String {}

impl Lasting for TaskFacts {
    fn is_final(&self) -> bool {
        self.started_at.is_some()
    }
}

/// A cache of final values by id.
struct Known<Id, T>(Mutex<HashMap<Id, Arc<T>>>);

impl<Id, T> Default for Known<Id, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Id: Copy + Eq + Hash, T: Lasting> Known<Id, T> {
    /// Returns the value of each id, with at most one query for the missing ones.
    async fn of(
        &self,
        ids: impl Iterator<Item = Option<Id>> + Clone,
        ask: impl AsyncFnOnce(Vec<Id>) -> Result<HashMap<Id, T>, StoreError>,
    ) -> Result<Vec<Option<Arc<T>>>, StoreError> {
        // A page of ids takes some time, so the thread is yielded first.
        tokio::task::yield_now().await;
        let (mut found, mut missing) = (Vec::with_capacity(ids.size_hint().0), HashSet::new());
        {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let mut last = (None, None);
            for id in ids.clone() {
                // Consecutive events often have the same id.
                if id != last.0 {
                    last = (id, id.and_then(|id| known.get(&id).cloned()));
                    missing.extend(id.filter(|_| last.1.is_none()));
                }
                found.push(last.1.clone());
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        let new: HashMap<Id, Arc<T>> = ask(missing.into_iter().collect())
            .await?
            .into_iter()
            .map(|(id, names)| (id, Arc::new(names)))
            .collect();
        for (names, id) in found
            .iter_mut()
            .zip(ids)
            .filter(|(names, _)| names.is_none())
        {
            *names = id.and_then(|id| new.get(&id).cloned());
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() + new.len() > MAX_NAMES {
            known.clear();
        }
        known.extend(new.into_iter().filter(|(_, names)| names.is_final()));
        Ok(found)
    }
}
