//! Adds up the sizes of assignments before their steps are claimed: from the payload cache, and
//! otherwise from lengths that are read from the database.

use uuid::Uuid;

use crate::{
    domain::size::of,
    engine::{
        cache::payloads::PayloadCache,
        hash::{HashMap, HashSet},
        plan::{
            compiled::Plans,
            sizes::{OF_TASK, bound},
        },
    },
    store::{
        StoreError,
        pipeline::{Changes, Pipeline, TaskUpdate},
    },
};

/// A task's position in the list, which is sorted by id.
fn place(tasks: &[TaskUpdate], task_id: &Uuid) -> Option<usize> {
    tasks.binary_search_by_key(task_id, |t| t.task_id).ok()
}

/// Adds the bytes that the transaction writes to the tasks, and sets the sizes of new queue rows.
pub async fn weigh(
    documents: &PayloadCache,
    hot: &Pipeline,
    changes: &mut Changes,
    plans: &Plans,
) -> Result<(), StoreError> {
    let ended = changes
        .ended
        .iter()
        .filter_map(|e| Some((e.task_id, e.result.as_ref()?.len())));
    let set = changes
        .set_steps
        .iter()
        .filter_map(|s| Some((s.task_id, s.result.as_ref()?.len())));
    let planned = changes
        .planned
        .iter()
        .map(|p| (p.task_id, p.settings.len() + p.annotations.len()));
    for (task_id, bytes) in ended.chain(set).chain(planned) {
        if let Some(i) = place(&changes.tasks, &task_id) {
            changes.tasks[i].bytes = changes.tasks[i].bytes.saturating_add(of(bytes));
        }
    }
    // Before the queue rows get their revision below: a planner has changed the task's settings.
    for p in &changes.planned {
        if let Some(i) = place(&changes.tasks, &p.task_id) {
            changes.tasks[i].kept.revision += 1;
        }
    }
    let mut heavy = Vec::new();
    for (i, live) in changes.new_live.iter_mut().enumerate() {
        let Some(task) = place(&changes.tasks, &live.task_id).map(|i| &changes.tasks[i]) else {
            continue;
        };
        let Some(plan) = plans.get(&live.template_id) else {
            continue;
        };
        live.revision = task.kept.revision;
        live.bytes = bound(plan, live.step, task.bytes);
        if live.bytes > 0 {
            heavy.push(i);
        }
    }
    if heavy.is_empty() {
        Ok(())
    } else {
        weigh_each(documents, hot, changes, plans, &heavy).await
    }
}

/// Computes the size of each large assignment from its own inputs.
async fn weigh_each(
    documents: &PayloadCache,
    hot: &Pipeline,
    changes: &mut Changes,
    plans: &Plans,
    heavy: &[usize],
) -> Result<(), StoreError> {
    let mut known: HashMap<(Uuid, i16), i32> = HashMap::default();
    let text = |result: Option<&str>| of(result.map_or(4, str::len));
    known.extend(
        changes
            .ended
            .iter()
            .map(|e| ((e.task_id, e.step), text(e.result.as_deref()))),
    );
    known.extend(
        changes
            .set_steps
            .iter()
            .map(|s| ((s.task_id, s.step), text(s.result.as_deref()))),
    );
    let parts = |live: &crate::store::pipeline::NewLive| -> Vec<(Uuid, i16)> {
        let inputs = plans
            .get(&live.template_id)
            .map_or(&[][..], |plan| plan.inputs_of(live.step));
        let results = inputs.iter().map(|input| (live.task_id, i16::from(*input)));
        results.chain([(live.task_id, OF_TASK)]).collect()
    };
    let wanted: HashSet<(Uuid, i16)> = heavy
        .iter()
        .flat_map(|i| parts(&changes.new_live[*i]))
        .filter(|part| !known.contains_key(part))
        .collect();
    let mut wanted: Vec<(Uuid, i16)> = wanted.into_iter().collect();
    let revision =
        |id: &Uuid| place(&changes.tasks, id).map_or(i32::MAX, |i| changes.tasks[i].kept.revision);
    documents.lengths(&mut wanted, &mut known, revision);
    if !wanted.is_empty() {
        wanted.sort_unstable();
        known.extend(
            hot.sizes(&wanted)
                .await?
                .into_iter()
                .map(|(task_id, step, bytes)| ((task_id, step), bytes)),
        );
    }
    for planned in &changes.planned {
        // Added to the previous documents, which the new ones include: the sum is an upper bound.
        let own = known.entry((planned.task_id, OF_TASK)).or_default();
        *own = own.saturating_add(of(planned.settings.len() + planned.annotations.len()));
    }
    for i in heavy {
        let live = &mut changes.new_live[*i];
        let Some(plan) = plans.get(&live.template_id) else {
            continue;
        };
        let sum = parts(live).iter().fold(0_i32, |sum, part| {
            sum.saturating_add(known.get(part).copied().unwrap_or(4))
        });
        live.bytes = bound(plan, live.step, sum);
    }
    Ok(())
}
