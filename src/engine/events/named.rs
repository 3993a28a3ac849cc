//! Events with the names that belong to them. Names never change, so they are asked for once; so is what belongs to a task, once
//! that has started.

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
        event::Event,
        names::{self, ServiceName, StepNames, TaskFacts, TemplateNames},
    },
};

/// Appends an event to what is sent.
pub type Encode = fn(&NamedEvent, &mut BytesMut);

/// Most events need less.
const USUAL_BYTES: usize = 512;
/// The most that is remembered of each kind.
const MAX_NAMES: usize = 10_000;

/// An event as its readers know it. What does not apply, or is no longer known, is `None`.
#[derive(Clone, Debug)]
pub struct NamedEvent {
    pub event: Event,
    template: Option<Arc<TemplateNames>>,
    service: Option<Arc<ServiceName>>,
    worker: Option<Arc<String>>,
    task: Option<Arc<TaskFacts>>,
    encoded: OnceLock<Bytes>,
    place: OnceLock<Bytes>,
}

impl NamedEvent {
    /// As it is sent, always by the same `encode`.
    pub(super) fn encoded(&self, encode: Encode) -> Bytes {
        let encoded = || self.encode(encode, &mut BytesMut::with_capacity(USUAL_BYTES));
        self.encoded.get().cloned().unwrap_or_else(encoded)
    }

    /// The same; where it was not encoded yet, its bytes are in `buffer`, which it shares with others.
    pub(super) fn encode(&self, encode: Encode, buffer: &mut BytesMut) -> Bytes {
        let encoded = || {
            encode(self, buffer);
            buffer.split().freeze()
        };
        self.encoded.get_or_init(encoded).clone()
    }

    /// The place after it, for all that came the same way to it.
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

    /// How long the attempt that ended has run; of an ended task: since its first step started.
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
        // Clocks of two transactions may disagree by a little: no time is negative.
        Some(self.event.at.duration_since(since).unwrap_or_default())
    }

    /// How long the attempt had been ready before it started; of a started task: since its submission.
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

/// The names that this server has come across.
#[derive(Default)]
pub struct Names {
    templates: Known<i32, TemplateNames>,
    services: Known<i32, ServiceName>,
    workers: Known<Uuid, String>,
    tasks: Known<Uuid, TaskFacts>,
}

impl Names {
    /// The events with their names, in the same order.
    pub async fn of(
        &self,
        db: &Db,
        events: Vec<Event>,
    ) -> Result<Vec<Arc<NamedEvent>>, StoreError> {
        let each = || events.iter();
        let templates = each().map(|e| e.template_id);
        let templates = self
            .templates
            .of(templates, async |ids| names::templates(db, &ids).await)
            .await?;
        let services = each().map(|e| e.service_id);
        let services = self
            .services
            .of(services, async |ids| names::services(db, &ids).await)
            .await?;
        let workers = each().map(|e| e.worker_id);
        let workers = self
            .workers
            .of(workers, async |ids| names::workers(db, &ids).await)
            .await?;
        let tasks = each().map(|e| e.task_id);
        let tasks = self
            .tasks
            .of(tasks, async |ids| names::tasks(db, &ids).await)
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

/// What never changes.
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

/// What is known under an id, once and for all.
struct Known<Id, T>(Mutex<HashMap<Id, Arc<T>>>);

impl<Id, T> Default for Known<Id, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Id: Copy + Eq + Hash, T: Lasting> Known<Id, T> {
    /// What each of these means, with as few questions as there can be: none or one.
    async fn of(
        &self,
        ids: impl Iterator<Item = Option<Id>> + Clone,
        ask: impl AsyncFnOnce(Vec<Id>) -> Result<HashMap<Id, T>, StoreError>,
    ) -> Result<Vec<Option<Arc<T>>>, StoreError> {
        // A page of ids takes its time: others get their turn on the thread.
        tokio::task::yield_now().await;
        let (mut found, mut missing) = (Vec::with_capacity(ids.size_hint().0), HashSet::new());
        {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let mut last = (None, None);
            for id in ids.clone() {
                // What follows each other is often of the same.
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
