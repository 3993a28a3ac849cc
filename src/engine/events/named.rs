//! Events with the names that belong to them. Names never change, so they are asked for once; what belongs to a task is asked
//! for once per page.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use uuid::Uuid;

use crate::{
    domain::event::EventType,
    store::{
        Db, StoreError,
        event::Event,
        names::{self, ServiceName, StepNames, TaskFacts, TemplateNames},
    },
};

/// The most names of each kind that are remembered. Only connections of workers can ever be so many.
const MAX_NAMES: usize = 10_000;

/// An event as its readers know it. What does not apply, or is no longer known, is `None`.
#[derive(Clone, Debug)]
pub struct NamedEvent {
    pub event: Event,
    template: Option<Arc<TemplateNames>>,
    service: Option<Arc<ServiceName>>,
    worker: Option<Arc<String>>,
    task: Option<Arc<TaskFacts>>,
}

impl NamedEvent {
    pub fn namespace(&self) -> Option<&str> {
        let template = self.template.as_ref().map(|template| template.namespace.as_str());
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
        self.template.as_ref()?.steps.get(usize::try_from(self.event.step?).ok()?)
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
                EventType::TaskCompleted | EventType::TaskFailed | EventType::TaskCancelled | EventType::TaskResolved,
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
}

impl Names {
    /// The events with their names, in the same order.
    pub async fn of(&self, db: &Db, events: Vec<Event>) -> Result<Vec<Arc<NamedEvent>>, StoreError> {
        let each = |id: fn(&Event) -> Option<i32>| events.iter().filter_map(id);
        let templates =
            self.templates.of(each(|e| e.template_id), async |ids| names::templates(db, &ids).await).await?;
        let services = self.services.of(each(|e| e.service_id), async |ids| names::services(db, &ids).await).await?;
        let workers = events.iter().filter_map(|e| e.worker_id);
        let workers = self.workers.of(workers, async |ids| names::workers(db, &ids).await).await?;
        let tasks = events.iter().filter_map(|e| e.task_id);
        let tasks = Known::default().of(tasks, async |ids| names::tasks(db, &ids).await).await?;
        let named = |event: Event| NamedEvent {
            template: event.template_id.and_then(|id| templates.get(&id).cloned()),
            service: event.service_id.and_then(|id| services.get(&id).cloned()),
            worker: event.worker_id.and_then(|id| workers.get(&id).cloned()),
            task: event.task_id.and_then(|id| tasks.get(&id).cloned()),
            event,
        };
        Ok(events.into_iter().map(|event| Arc::new(named(event))).collect())
    }
}

/// What is known under an id, once and for all.
struct Known<Id, T>(Mutex<HashMap<Id, Arc<T>>>);

impl<Id, T> Default for Known<Id, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<Id: Copy + Eq + Hash, T> Known<Id, T> {
    /// What these mean, with as few questions as there can be: none or one.
    async fn of(
        &self,
        ids: impl Iterator<Item = Id>,
        ask: impl AsyncFnOnce(Vec<Id>) -> Result<HashMap<Id, T>, StoreError>,
    ) -> Result<HashMap<Id, Arc<T>>, StoreError> {
        let wanted: HashSet<Id> = ids.collect();
        let mut found = HashMap::with_capacity(wanted.len());
        let mut missing = Vec::new();
        {
            let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            for id in wanted {
                match known.get(&id) {
                    Some(names) => drop(found.insert(id, Arc::clone(names))),
                    None => missing.push(id),
                }
            }
        }
        if !missing.is_empty() {
            let new: HashMap<Id, Arc<T>> =
                ask(missing).await?.into_iter().map(|(id, names)| (id, Arc::new(names))).collect();
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() + new.len() > MAX_NAMES {
                known.clear();
            }
            known.extend(new.iter().map(|(id, names)| (*id, Arc::clone(names))));
            drop(known);
            found.extend(new);
        }
        Ok(found)
    }
}
