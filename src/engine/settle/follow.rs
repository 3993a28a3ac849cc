//! What follows when a step is over: the steps that it unlocks, those that a condition skips, what a planner changed.

use std::borrow::Cow;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::decision::Decision;
use crate::{
    domain::{
        adjustment::{Adjustment, AdjustmentError},
        attempt::{Failure, Outcome},
        budget::{Budget, TOO_COSTLY},
        event::EventType,
        expression::{StepResults, Values},
        json,
        lease::Lease,
        progress::Fate,
        schema::Misfit,
        size,
        step::StepState,
        task::{MAX_ANNOTATIONS_BYTES, TaskEvent},
    },
    engine::{catalog::Plan, documents::Known, effective::Effective},
    store::{
        changes::{Changes, Event, NewLive, Planned, SetStep},
        stranded::Stranded,
    },
};

/// The code of a step whose result does not fit its `result_schema`.
const OUTPUT_INVALID: &str = "OUTPUT_INVALID";
/// The code of a planner whose answer makes no sense.
const PLAN_INVALID: &str = "PLAN_INVALID";
/// The code of a step whose condition could not be judged.
const CONDITION_FAILED: &str = "CONDITION_FAILED";
/// Who sets a step that nobody ordered.
const CONDITION: &str = "condition";

impl Decision<'_> {
    /// The outcome, but for a success that is none: a result that does not fit, or a plan that makes no sense. A plan that does is
    /// from now on the task's.
    pub(super) fn judged<'o>(&mut self, lease: Lease, outcome: &'o Outcome) -> Cow<'o, Outcome> {
        let Outcome::Succeeded(result) = outcome else { return Cow::Borrowed(outcome) };
        let Some(task) = self.tasks.get(&lease.task_id) else { return Cow::Borrowed(outcome) };
        let checked = match task.own.plan.is_planner(lease.step) {
            true => self.plan(lease.task_id, result),
            false => check_result(task.own.plan, lease.step, result).map_err(|misfit| {
                let all = match misfit {
                    Misfit::Violations(all) => all,
                    Misfit::TooCostly(error) => return Failure::of_server(TOO_COSTLY, error.to_string()).cut(),
                };
                let message =
                    all.iter().map(|v| format!("{}: {}", v.pointer, v.message)).collect::<Vec<_>>().join("; ");
                let violations: Vec<Value> =
                    all.iter().map(|v| json!({"pointer": v.pointer, "message": v.message})).collect();
                let context = Some(json!({ "violations": violations }).to_string());
                let message = format!("the result does not fit the step's result_schema: {message}");
                Failure { context, ..Failure::of_server(OUTPUT_INVALID, message) }.cut()
            }),
        };
        match checked {
            Ok(()) => Cow::Borrowed(outcome),
            Err(failure) => Cow::Owned(Outcome::PermanentError(failure)),
        }
    }

    /// Takes a planner's answer.
    fn plan(&mut self, task_id: Uuid, answer: &str) -> Result<(), Failure> {
        let wrong =
            |why: &str| Failure::of_server(PLAN_INVALID, format!("the planner's answer makes no sense: {why}")).cut();
        let Some(task) = self.tasks.get_mut(&task_id) else { return Ok(()) };
        let adjustment =
            Adjustment::from_json(answer, &task.own.plan.template, &Budget::new()).map_err(|error| match error {
                AdjustmentError::Problems(problems) => wrong(&problems.join("; ")),
                AdjustmentError::TooCostly(error) => Failure::of_server(TOO_COSTLY, error.to_string()).cut(),
            })?;
        let notes = self.known.tasks.get(&task_id).map_or("{}", |input| input.annotations.as_str());
        let mut notes = serde_json::from_str::<Map<String, Value>>(notes).unwrap_or_default();
        notes.extend(adjustment.annotations.clone());
        let annotations = Value::Object(notes).to_string();
        if annotations.len() > MAX_ANNOTATIONS_BYTES {
            let why = format!(
                "with it, the task has {} bytes of annotations, and at most {MAX_ANNOTATIONS_BYTES} are allowed",
                annotations.len()
            );
            return Err(wrong(&why));
        }
        task.priority = adjustment.priority.unwrap_or(task.priority);
        task.own.settings.push("planner", adjustment);
        let settings = task.own.settings.to_json();
        self.changes.planned.push(Planned { task_id, settings, annotations, priority: task.priority });
        self.changes.events.push(Event::of_task(EventType::TaskPlanned, task.row.template_id, task_id));
        Ok(())
    }

    /// A step that waits ends, unless a worker has taken it meanwhile, or its task is paused.
    pub(super) fn too_large(&mut self, stranded: &Stranded) {
        let (task_id, step) = (stranded.task_id, stranded.step);
        let Some(row) = self.live.get(&(task_id, step)).copied().filter(|row| row.lease.is_none()) else { return };
        let Some(task) = self.tasks.get(&task_id).filter(|task| !task.progress.paused) else { return };
        let name = task.own.plan.step(step).map_or("", |step| step.name.as_str());
        let set = SetStep {
            in_queue: true,
            attempt: row.attempt,
            charged: row.charged,
            ready_at: row.ready_at.min(self.now),
            by: "size".to_owned(),
            ..SetStep::by_condition(task_id, step.cast_unsigned(), self.now, Some(too_large(stranded, name)))
        };
        self.changes.events.push(told(&set, task.row.template_id));
        self.changes.set_steps.push(set);
        self.live.remove(&(task_id, step));
        self.touched.push((task_id, false));
        self.begin(task_id);
        self.leaves_play(task_id);
        self.follow(task_id, step, false);
    }

    /// A step of the task is not in play any more.
    pub(super) fn leaves_play(&mut self, task_id: Uuid) {
        if let Some(task) = self.tasks.get_mut(&task_id) {
            task.changed = true;
            task.progress.live = task.progress.live.saturating_sub(1);
        }
    }

    /// Brings the children into play whose last parent this was, or skips them, with all that follows.
    pub(super) fn follow(&mut self, task_id: Uuid, step: i16, is_done: bool) {
        let Some(task) = self.tasks.get_mut(&task_id) else { return };
        task.changed = true;
        let step = step.cast_unsigned();
        let (own, known, changes, priority) = (&task.own, self.known, &self.changes, task.priority);
        let mut fate = |child: u16| fate(own, (task_id, priority), child, known, changes);
        let fates = task.progress.step_ended(&own.plan.graph, step, is_done, &mut fate);
        for (child, fate) in fates {
            let set = match fate {
                Fate::Runs => {
                    let live = new_live(&task.own, task_id, child, task.priority);
                    let (expires_at, paused) = (task.row.expires_at, task.progress.paused);
                    self.changes.new_live.push(NewLive { expires_at, paused, ..live });
                    continue;
                }
                Fate::Skipped => SetStep::by_condition(task_id, child, self.now, None),
                Fate::Fails(why) => SetStep::by_condition(task_id, child, self.now, Some(condition_failed(&why))),
            };
            self.changes.events.push(told(&set, task.row.template_id));
            self.changes.set_steps.push(set);
        }
    }

    /// Makes a task that has not begun begin, because a step of it was set before any ran.
    pub(super) fn begin(&mut self, task_id: Uuid) {
        let Some(task) = self.tasks.get_mut(&task_id) else { return };
        if let Ok(after) = task.progress.state.after(TaskEvent::Start) {
            task.progress.state = after;
            self.changes.events.push(Event::of_task(EventType::TaskStarted, task.row.template_id, task_id));
        }
    }
}

impl SetStep {
    /// Of a step that never was in play.
    pub fn by_condition(task_id: Uuid, step: u16, now: std::time::SystemTime, failure: Option<Failure>) -> Self {
        Self {
            task_id,
            step: step.cast_signed(),
            state: if failure.is_some() { StepState::Error } else { StepState::Skipped },
            in_queue: false,
            attempt: 0,
            charged: 0,
            ready_at: now,
            started_at: None,
            result: None,
            failure,
            by: CONDITION.to_owned(),
            reason: String::new(),
        }
    }
}

/// Why a step failed whose assignment no connected worker takes.
fn too_large(step: &Stranded, name: &str) -> Failure {
    let message = format!(
        "the assignment of step {name} has up to {} ({} bytes), and the largest that a connected worker of handler {} takes is {} ({} \
         bytes): let the step have fewer results, by `inputs` in its template, or let its workers say a larger \
         `max_assignment_bytes`",
        size::bytes(step.bytes),
        step.bytes,
        step.handler,
        size::bytes(step.largest),
        step.largest,
    );
    Failure::of_server(size::ASSIGNMENT_TOO_LARGE, message).cut()
}

fn check_result(plan: &Plan, step: i16, result: &str) -> Result<(), Misfit> {
    let document = json::parse(result, result.len()).unwrap_or(Value::Null);
    plan.check_result(step, &document, &Budget::new())
}

/// Why a step failed that never ran.
pub fn condition_failed(why: &str) -> Failure {
    Failure::of_server(CONDITION_FAILED, format!("its condition cannot be judged: {why}")).cut()
}

/// The event of a step that was set.
pub fn told(set: &SetStep, template_id: i32) -> Event {
    let kind = match set.state {
        StepState::Error => EventType::StepFailed,
        StepState::ResolvedManually => EventType::StepResolved,
        _ => EventType::StepSkipped,
    };
    Event {
        step: Some(set.step),
        failure: set.failure.clone(),
        ordered: Some((set.by.clone(), set.reason.clone())),
        ..Event::of_task(kind, template_id, set.task_id)
    }
}

/// A step that comes into play.
pub fn new_live(own: &Effective<'_>, task_id: Uuid, step: u16, priority: i16) -> NewLive {
    NewLive {
        task_id,
        step: step.cast_signed(),
        template_id: own.plan.template_id,
        lane_id: own.plan.lane(step),
        priority,
        past: None,
        timeout: own.timeout(step),
        expires_at: None,
        not_before: None,
        paused: false,
        bytes: 0,
        revision: 0,
        grant: None,
    }
}

/// What becomes of a step whose parents are done, of a task and its priority. `changes` has the results that are not stored yet.
pub fn fate(own: &Effective<'_>, task: (Uuid, i16), step: u16, known: &Known, changes: &Changes) -> Fate {
    let (task_id, priority) = task;
    let template = &own.plan.template;
    let index = usize::from(step);
    if own.settings.skips(index) {
        return Fate::Skipped;
    }
    let Some(condition) = template.steps.get(index).and_then(|step| step.condition.as_ref()) else { return Fate::Runs };
    let result = |ancestor: i16| -> Option<&str> {
        let stored = known.results.get(&(task_id, ancestor)).map(|json| &**json);
        let is_it = |task: Uuid, step: i16| task == task_id && step == ancestor;
        let ended = || changes.ended.iter().find(|e| is_it(e.task_id, e.step))?.result.as_deref();
        let set = || changes.set_steps.iter().find(|s| is_it(s.task_id, s.step))?.result.as_deref();
        stored.or_else(ended).or_else(set)
    };
    let parse = |text: &str| json::parse(text, text.len()).unwrap_or(Value::Null);
    let results: Vec<(&str, Value)> = own
        .plan
        .graph
        .ancestors(index)
        .iter()
        .filter(|a| !own.plan.is_planner(a.cast_signed()))
        .filter_map(|a| {
            Some((
                template.steps.get(usize::from(*a))?.name.as_str(),
                result(a.cast_signed()).map_or(Value::Null, parse),
            ))
        })
        .collect();
    let Some(input) = known.tasks.get(&task_id) else {
        return Fate::Fails("the task's context is not there".to_owned());
    };
    let results: StepResults<'_> = results.iter().map(|(name, value)| (*name, value)).collect();
    let (context, task) = (parse(&input.context), own.plan.task_value(&input.correlation_id, priority.into()));
    let budget = Budget::new();
    match condition.holds(&Values::of_step(&context, &task, &results, &budget)) {
        Ok(true) => Fate::Runs,
        Ok(false) => Fate::Skipped,
        Err(why) => Fate::Fails(why.to_string()),
    }
}
