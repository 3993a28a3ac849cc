//! A cache of the documents of tasks that run here, so that an assignment need not read the rows
//! that this server has just written.
//!
//! Committed contexts and results never change. Settings and annotations do, and their entry has
//! the `revision` of the task's row; a look-up names the revision it needs, and an older entry is
//! read again. So an entry is never wrong. Bounded in bytes: the oldest tasks are evicted first.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use uuid::Uuid;

use crate::{
    domain::{size::of, task::TaskState},
    engine::{hash::HashMap, plan::sizes::OF_TASK},
    store::pipeline::{Applied, Changes, TaskInput, WantedInputs},
};

/// Maximum bytes of cached payloads.
const MAX_BYTES: usize = 32 << 20;
/// Approximate overhead of an entry, in bytes.
const ENTRY_BYTES: usize = 256;

/// The cache. Cheap to clone.
#[derive(Clone, Default)]
pub struct PayloadCache(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    tasks: HashMap<Uuid, Entry>,
    /// The tasks from old to new; ids of ended tasks remain until a sweep.
    order: VecDeque<Uuid>,
    bytes: usize,
}

struct Entry {
    input: Arc<TaskInput>,
    results: HashMap<i16, Arc<str>>,
    bytes: usize,
}

/// The documents that the handlers of one transaction's claims need.
#[derive(Default)]
pub struct Payloads {
    pub tasks: HashMap<Uuid, Arc<TaskInput>>,
    pub results: HashMap<(Uuid, i16), Arc<str>>,
}

impl PayloadCache {
    /// Removes from `wanted` the documents that are cached or written by this transaction, and
    /// returns them.
    pub fn lookup(&self, wanted: &mut WantedInputs, changes: &Changes) -> Payloads {
        let mut known = Payloads::default();
        if wanted.tasks.is_empty() {
            return known;
        }
        let new: HashMap<Uuid, Arc<TaskInput>> = changes
            .new_tasks
            .iter()
            .map(|t| {
                let input = TaskInput {
                    task_id: t.task_id,
                    correlation_id: t.correlation_id.clone(),
                    traceparent: t.traceparent.clone(),
                    annotations: t.annotations.clone(),
                    context: t.context.clone(),
                    settings: t.settings.as_deref().map(Arc::from),
                    revision: 0,
                };
                (t.task_id, Arc::new(input))
            })
            .collect();
        let ended = changes
            .ended
            .iter()
            .filter_map(|e| Some(((e.task_id, e.step), e.result.as_deref()?)));
        let set = changes.set_steps.iter().filter(|s| s.state.is_done());
        let set = set.map(|s| ((s.task_id, s.step), s.result.as_deref().unwrap_or("null")));
        let fresh: HashMap<(Uuid, i16), &str> = ended.chain(set).collect();
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Settings that a planner has just changed have a newer revision than the cache: they are
        // read after they were written.
        wanted.tasks.retain(|(task_id, revision)| {
            let input = kept
                .tasks
                .get(task_id)
                .map(|e| &e.input)
                .or_else(|| new.get(task_id));
            input
                .filter(|input| input.revision >= *revision)
                .is_none_or(|input| {
                    known.tasks.insert(*task_id, Arc::clone(input));
                    false
                })
        });
        wanted.results.retain(|(task_id, step)| {
            let own = || kept.tasks.get(task_id)?.results.get(step).cloned();
            let result =
                own().or_else(|| fresh.get(&(*task_id, *step)).map(|json| Arc::from(*json)));
            result.is_none_or(|json| {
                known.results.insert((*task_id, *step), json);
                false
            })
        });
        known
    }

    /// After the commit: adds the documents that were read to `known`, caches those of unfinished
    /// tasks, and evicts finished tasks.
    pub fn update(&self, known: &mut Payloads, applied: &mut Applied, changes: &Changes) {
        known.tasks.extend(
            applied
                .task_inputs
                .drain(..)
                .map(|input| (input.task_id, Arc::new(input))),
        );
        known.results.extend(
            applied
                .results
                .drain(..)
                .map(|(task, step, json)| ((task, step), Arc::from(json))),
        );
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Tasks before results: a result is cached only for a cached task.
        for (task_id, input) in &known.tasks {
            kept.add_task(*task_id, input);
        }
        for ((task_id, step), json) in &known.results {
            kept.add_result(*task_id, *step, || Arc::clone(json));
        }
        for ended in &changes.ended {
            if let Some(json) = &ended.result {
                kept.add_result(ended.task_id, ended.step, || Arc::from(json.as_str()));
            }
        }
        let is_final = |state: TaskState| state.is_final();
        for task in changes.tasks.iter().filter(|t| is_final(t.state)) {
            kept.remove(task.task_id);
        }
        kept.shrink();
    }
}

impl PayloadCache {
    /// Removes from `wanted` the cached payloads, and adds their lengths to `known`, in bytes.
    /// `OF_TASK` stands for the task's own payloads, which must have this `revision` at least.
    pub fn lengths(
        &self,
        wanted: &mut Vec<(Uuid, i16)>,
        known: &mut HashMap<(Uuid, i16), i32>,
        revision: impl Fn(&Uuid) -> i32,
    ) {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.retain(|(task_id, step)| {
            let Some(entry) = kept.tasks.get(task_id) else {
                return true;
            };
            let length = match *step {
                OF_TASK if entry.input.revision >= revision(task_id) => Some(entry.input.bytes()),
                OF_TASK => None,
                step => entry.results.get(&step).map(|json| json.len()),
            };
            length.is_none_or(|length| {
                known.insert((*task_id, *step), of(length));
                false
            })
        });
    }
}

impl Entries {
    fn add_task(&mut self, task_id: Uuid, input: &Arc<TaskInput>) {
        let bytes = ENTRY_BYTES + input.bytes();
        if let Some(entry) = self.tasks.get_mut(&task_id) {
            if entry.input.revision < input.revision {
                let before = ENTRY_BYTES + entry.input.bytes();
                entry.bytes = entry.bytes - before + bytes;
                self.bytes = self.bytes - before + bytes;
                entry.input = Arc::clone(input);
            }
            return;
        }
        self.bytes += bytes;
        self.tasks.insert(
            task_id,
            Entry {
                input: Arc::clone(input),
                results: HashMap::default(),
                bytes,
            },
        );
        self.order.push_back(task_id);
    }

    /// Ignored if the task is not cached.
    fn add_result(&mut self, task_id: Uuid, step: i16, json: impl FnOnce() -> Arc<str>) {
        let Some(entry) = self.tasks.get_mut(&task_id) else {
            return;
        };
        if let std::collections::hash_map::Entry::Vacant(place) = entry.results.entry(step) {
            let json = place.insert(json());
            entry.bytes += json.len();
            self.bytes += json.len();
        }
    }

    fn remove(&mut self, task_id: Uuid) {
        if let Some(entry) = self.tasks.remove(&task_id) {
            self.bytes -= entry.bytes;
        }
    }

    fn shrink(&mut self) {
        while self.bytes > MAX_BYTES {
            let Some(oldest) = self.order.pop_front() else {
                return;
            };
            self.remove(oldest);
        }
        // Ended tasks leave their ids behind; the sweep runs once they are the larger part.
        if self.order.len() > 2 * self.tasks.len() + 1_024 {
            let tasks = &self.tasks;
            self.order.retain(|id| tasks.contains_key(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::step::StepState, store::pipeline::Ended};

    fn input(id: u128, context: &str) -> TaskInput {
        TaskInput {
            task_id: Uuid::from_u128(id),
            correlation_id: String::new(),
            traceparent: None,
            annotations: "{}".into(),
            settings: None,
            revision: 0,
            context: context.into(),
        }
    }

    fn ended(id: u128, step: i16, result: &str) -> Ended {
        Ended {
            task_id: Uuid::from_u128(id),
            step,
            lease: None,
            state: StepState::Complete,
            attempt: 1,
            charged: 0,
            result: Some(result.into()),
            failure: None,
            ready_at: std::time::UNIX_EPOCH,
            started_at: None,
        }
    }

    fn wanted(id: u128, steps: &[i16]) -> WantedInputs {
        let id = Uuid::from_u128(id);
        WantedInputs {
            tasks: vec![(id, 0)],
            results: steps.iter().map(|s| (id, *s)).collect(),
        }
    }

    #[test]
    fn cached_document_is_not_read_again() {
        let payloads = PayloadCache::default();
        let mut want = wanted(1, &[0, 1]);
        let changes = Changes {
            ended: vec![ended(1, 1, "\"new\"")],
            ..Changes::default()
        };
        let mut known = payloads.lookup(&mut want, &changes);
        // The result that this transaction writes is known; the other document has to be read.
        assert_eq!((want.tasks.len(), want.results.len()), (1, 1));
        let mut applied = Applied {
            task_inputs: vec![input(1, "{}")],
            results: vec![(Uuid::from_u128(1), 0, "0".into())],
            ..Applied::default()
        };
        payloads.update(&mut known, &mut applied, &changes);
        assert_eq!(known.results.len(), 2);
        let mut again = wanted(1, &[0, 1, 2]);
        let known = payloads.lookup(&mut again, &Changes::default());
        assert_eq!(
            (again.tasks.len(), again.results),
            (0, vec![(Uuid::from_u128(1), 2)])
        );
        assert_eq!(&*known.results[&(Uuid::from_u128(1), 1)], "\"new\"");
    }

    #[test]
    fn rolled_back_transaction_caches_nothing() {
        let payloads = PayloadCache::default();
        let changes = Changes {
            ended: vec![ended(1, 0, "1")],
            ..Changes::default()
        };
        payloads.lookup(&mut wanted(1, &[0]), &changes);
        let mut again = wanted(1, &[0]);
        payloads.lookup(&mut again, &Changes::default());
        assert_eq!((again.tasks.len(), again.results.len()), (1, 1));
    }

    #[test]
    fn older_revision_is_read_again_and_replaced() {
        let payloads = PayloadCache::default();
        let keep = |revision, settings: &str| {
            let input = TaskInput {
                revision,
                settings: Some(settings.into()),
                ..input(1, "{}")
            };
            let mut applied = Applied {
                task_inputs: vec![input],
                ..Applied::default()
            };
            payloads.update(&mut Payloads::default(), &mut applied, &Changes::default());
        };
        let known = |revision| {
            let mut want = WantedInputs {
                tasks: vec![(Uuid::from_u128(1), revision)],
                results: Vec::new(),
            };
            let known = payloads.lookup(&mut want, &Changes::default());
            known
                .tasks
                .values()
                .next()
                .and_then(|input| input.settings.clone())
        };
        keep(0, "old");
        assert_eq!(known(0).as_deref(), Some("old"));
        assert_eq!(known(1), None, "its planner has answered elsewhere");
        keep(1, "newer");
        keep(0, "old");
        assert_eq!(known(1).as_deref(), Some("newer"));
        assert_eq!(known(0).as_deref(), Some("newer"));
        let kept = payloads.0.lock().unwrap();
        assert_eq!(
            kept.bytes,
            kept.tasks.values().map(|e| e.bytes).sum::<usize>()
        );
    }

    #[test]
    fn cache_over_its_bound_evicts_the_oldest_tasks() {
        let payloads = PayloadCache::default();
        let large = "x".repeat(1 << 20);
        for id in 0..40 {
            let mut applied = Applied {
                task_inputs: vec![input(id, &large)],
                ..Applied::default()
            };
            payloads.update(&mut Payloads::default(), &mut applied, &Changes::default());
        }
        let kept = payloads.0.lock().unwrap();
        assert!(kept.bytes <= MAX_BYTES);
        assert_eq!(
            kept.bytes,
            kept.tasks.values().map(|e| e.bytes).sum::<usize>()
        );
        assert!(
            !kept.tasks.contains_key(&Uuid::from_u128(0))
                && kept.tasks.contains_key(&Uuid::from_u128(39))
        );
    }
}
