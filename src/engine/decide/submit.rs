//! The input of one transaction of intake, and the decision on each request in it.

use std::{collections::BTreeMap, time::SystemTime};

use uuid::Uuid;

use super::unlock::{new_live, set_step_event};
use crate::{
    domain::{event::EventType, progress::Fate, size, task::TaskState},
    engine::{
        hash::{HashMap, HashSet},
        plan::{sizes, task_plan::TaskPlan},
        submission::{group::Group, request::IntakeError, validate::Prepared},
    },
    store::pipeline::{Changes, DroppedKey, Event, IntakeRead, KeyRow, NewLive, NewTask, SetStep},
};

/// The decision on each group.
#[derive(Default)]
pub struct KeyVerdicts {
    pub refused: HashMap<usize, IntakeError>,
    /// Repeated submits: from the id made for the repeat to the id of the first task.
    pub known: HashMap<Uuid, Uuid>,
    /// Groups that depend on a key whose owner in this batch was refused.
    pub again: HashSet<usize>,
    /// Ids whose keys were taken but whose tasks will not be stored.
    pub dropped: Vec<Uuid>,
}

/// Decides by the owners of the idempotency keys.
pub fn judge(groups: &[Group], read: &IntakeRead) -> KeyVerdicts {
    let owners: HashMap<(&str, &str), &KeyRow> = read
        .keys
        .iter()
        .map(|k| ((k.namespace.as_str(), k.key.as_str()), k))
        .collect();
    let mut verdicts = KeyVerdicts::default();
    for (i, group) in groups.iter().enumerate() {
        let mut copies = Vec::new();
        for (index, task) in group.tasks.iter().enumerate() {
            let s = &task.submission;
            let Some(owner) = owners.get(&(s.namespace.as_str(), s.idempotency_key.as_str()))
            else {
                continue;
            };
            if owner.task_id == task.task_id {
                // Only the first task of a key is new. A repeat gets the first task even if its
                // version is retired.
                if let Some(retirement) = &task.retired {
                    let retired = IntakeError::retired(index, s, &task.plan, retirement);
                    verdicts.refused.entry(i).or_insert(retired);
                }
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
            let keyed = group
                .tasks
                .iter()
                .filter(|t| !t.submission.idempotency_key.is_empty());
            verdicts.dropped.extend(keyed.map(|t| t.task_id));
        } else {
            verdicts.known.extend(copies);
        }
    }
    verdicts
}

/// The keys to take, sorted, so that two servers cannot deadlock on them.
pub fn keys_of(groups: &[Group]) -> Vec<KeyRow> {
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
    // The sort is stable: among equal keys, the first submit stays first and becomes the owner.
    keys.sort_by(|a, b| (&a.namespace, &a.key).cmp(&(&b.namespace, &b.key)));
    keys
}

/// The keys of tasks that will not be stored.
pub fn keys_to_drop(groups: &[Group], dropped: &[Uuid]) -> Vec<DroppedKey> {
    let tasks = groups
        .iter()
        .flat_map(|g| &g.tasks)
        .filter(|t| dropped.contains(&t.task_id));
    tasks
        .map(|t| DroppedKey {
            namespace: t.submission.namespace.clone(),
            key: t.submission.idempotency_key.clone(),
            task_id: t.task_id,
        })
        .collect()
}

pub fn roots_of(groups: &[Group]) -> BTreeMap<i32, usize> {
    let mut lanes = BTreeMap::new();
    for task in groups.iter().flat_map(|g| &g.tasks) {
        for root in task.plan.graph.roots() {
            *lanes.entry(task.plan.lane(*root)).or_default() += 1;
        }
    }
    lanes
}

#[expect(
    clippy::too_many_lines,
    reason = "a task and its roots are written from one submission"
)]
pub fn add(changes: &mut Changes, task: &Prepared, now: SystemTime) {
    let plan = &task.plan;
    let task_id = task.task_id;
    let own = TaskPlan {
        plan,
        settings: task.settings.clone(),
    };
    let steps = plan.template.steps.len();
    let settings = (!task.settings.is_empty()).then(|| task.settings.to_json());
    let bytes = size::of(
        task.context.len() + task.annotations.len() + settings.as_ref().map_or(0, String::len),
    );
    let mut progress = task.progress.clone();
    let not_before = task.submission.not_before.filter(|at| *at > now);
    let expires_at = plan
        .template
        .timeout
        .map(|timeout| not_before.unwrap_or(now) + timeout);
    changes.events.push(Event::of_task(
        EventType::TaskSubmitted,
        plan.template_id,
        task_id,
    ));
    for (step, fate) in &task.fates {
        let step = *step;
        let failure = match fate {
            Fate::Runs => {
                let live = new_live(&own, task_id, step, task.priority);
                let bytes = sizes::bound(plan, live.step, bytes);
                changes.new_live.push(NewLive {
                    not_before,
                    expires_at,
                    bytes,
                    ..live
                });
                continue;
            }
            Fate::Skipped => None,
            Fate::Fails(failure) => Some(failure.clone()),
        };
        if progress.state == TaskState::Pending {
            progress.state = TaskState::InProgress;
            changes.events.push(Event::of_task(
                EventType::TaskStarted,
                plan.template_id,
                task_id,
            ));
        }
        let set = SetStep::by_condition(task_id, step, now, failure);
        changes.events.push(set_step_event(&set, plan.template_id));
        changes.set_steps.push(set);
    }
    if let Some(event) = progress.conclusion(steps)
        && let Ok(after) = progress.state.after(event)
    {
        progress.state = after;
        let kind = if after == TaskState::Complete {
            EventType::TaskCompleted
        } else {
            EventType::TaskFailed
        };
        changes
            .events
            .push(Event::of_task(kind, plan.template_id, task_id));
    }
    changes.new_tasks.push(NewTask {
        task_id,
        template_id: plan.template_id,
        state: progress.state,
        priority: task.priority,
        steps_total: i16::try_from(steps).unwrap_or(i16::MAX),
        steps_live: i16::try_from(progress.live).unwrap_or(i16::MAX),
        steps_done: progress.done.as_bytes().to_vec(),
        failed_step: progress.failed_step.map(u16::cast_signed),
        correlation_id: task.correlation_id.clone(),
        traceparent: task.submission.traceparent.clone(),
        annotations: task.annotations.clone(),
        context: task.context.clone(),
        settings,
        not_before,
        expires_at,
        bytes,
    });
}

/// Marks tasks as started whose root is claimed in the transaction that stores them. The task's
/// start precedes its step's start in the log.
pub fn start_claimed(changes: &mut Changes) {
    if changes.new_tasks.is_empty() {
        return;
    }
    let claimed: HashSet<Uuid> = changes
        .new_live
        .iter()
        .filter(|l| l.grant.is_some())
        .map(|l| l.task_id)
        .collect();
    let pending = |t: &&mut NewTask| t.state == TaskState::Pending && claimed.contains(&t.task_id);
    let mut started: HashMap<Uuid, i32> = HashMap::default();
    for task in changes.new_tasks.iter_mut().filter(pending) {
        task.state = TaskState::InProgress;
        started.insert(task.task_id, task.template_id);
    }
    if started.is_empty() {
        return;
    }
    let events = Vec::with_capacity(changes.events.len() + started.len());
    for event in std::mem::replace(&mut changes.events, events) {
        if event.kind == EventType::StepStarted
            && let Some(task_id) = event.task_id
            && let Some(template_id) = started.remove(&task_id)
        {
            changes
                .events
                .push(Event::of_task(EventType::TaskStarted, template_id, task_id));
        }
        changes.events.push(event);
    }
}
