//! The evaluations that an input needs before its transaction can decide on it, and their verdicts.
//! Pure.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tasker_template::{
    AdjustmentError, Budget, EvaluationError, Misfit, Settings, StepIndex, TOO_COSTLY, TooCostly,
    Violation,
};
use uuid::Uuid;

use super::conditions::{Facts, parsed};
use crate::{
    domain::{
        attempt::Failure,
        progress::{Fate, StepSet},
        task::MAX_ANNOTATIONS_BYTES,
    },
    engine::{
        cache::payloads::Payloads,
        hash::HashMap,
        plan::{compiled::Plan, task_plan::TaskPlan},
    },
    store::pipeline::{TaskRow, WantedInputs},
};

/// Failure code of a step whose result does not fit its `result_schema`.
const OUTPUT_INVALID: &str = "OUTPUT_INVALID";
/// Failure code of a planner whose answer is invalid.
const PLAN_INVALID: &str = "PLAN_INVALID";

/// The verdicts on an input, and the state of the task they are valid for.
#[derive(Clone, Default)]
pub struct Verdicts {
    /// None before the first evaluation.
    basis: Option<Basis>,
    /// The verdict on the result itself, if its step has a schema or is a planner.
    pub answer: Option<ResultVerdict>,
    /// The verdicts on the conditional steps that the end of the input's step unlocks.
    fates: HashMap<u16, Judged>,
}

/// The mutable columns of a task that conditions and planners depend on.
#[derive(Clone, PartialEq)]
struct Basis {
    settings: Option<Arc<str>>,
    priority: i16,
    revision: i32,
}

impl Basis {
    fn of(row: &TaskRow) -> Self {
        Self {
            settings: row.settings.clone(),
            priority: row.priority,
            revision: row.revision,
        }
    }
}

/// A step's fate, and its ancestors that were done at that time. Their results never change.
#[derive(Clone)]
struct Judged {
    done: Vec<StepIndex>,
    fate: Fate,
}

/// The verdict on a result.
#[derive(Clone)]
pub enum ResultVerdict {
    Fits,
    Plan(Arc<Planning>),
    Wrong(Arc<Wrong>),
}

/// The task's settings after a planner's answer.
pub struct Planning {
    pub settings: Settings,
    /// `settings` in the stored form.
    pub settings_json: String,
    pub annotations: String,
    pub priority: Option<i16>,
}

/// Why a result is invalid.
pub struct Wrong {
    pub failure: Failure,
    /// For the reply to an operator who supplied the result; never empty.
    pub violations: Vec<Violation>,
}

impl Wrong {
    fn of(code: &str, message: String) -> Self {
        let failure = Failure::of_server(code, message).cut();
        let violations = vec![Violation {
            pointer: String::new(),
            message: failure.message.clone(),
        }];
        Self {
            failure,
            violations,
        }
    }
}

impl Verdicts {
    /// The evaluation itself failed.
    pub fn failed(code: &str, message: String) -> Self {
        Self {
            answer: Some(ResultVerdict::Wrong(Arc::new(Wrong::of(code, message)))),
            ..Self::default()
        }
    }

    /// Whether the verdicts are valid for the task's current row.
    pub fn are_about(&self, row: &TaskRow) -> bool {
        self.basis
            .as_ref()
            .is_some_and(|basis| *basis == Basis::of(row))
    }

    /// The fate of a step, if it was evaluated with the same set of done ancestors.
    pub fn fate(&self, plan: &Plan, done: &StepSet, step: u16) -> Option<&Fate> {
        let judged = self.fates.get(&step)?;
        (judged.done == done_before(plan, done, step)).then_some(&judged.fate)
    }

    /// Whether an evaluation exceeded its budget.
    pub fn is_over_budget(&self) -> bool {
        let answer = matches!(&self.answer, Some(ResultVerdict::Wrong(wrong)) if wrong.failure.code == TOO_COSTLY);
        answer
            || self
                .fates
                .values()
                .any(|j| matches!(&j.fate, Fate::Fails(failure) if failure.code == TOO_COSTLY))
    }
}

fn done_before(plan: &Plan, done: &StepSet, step: u16) -> Vec<StepIndex> {
    let ancestors = match StepIndex::try_from(step) {
        Ok(step) => plan.graph.ancestors(step),
        Err(_) => &[],
    };
    ancestors
        .iter()
        .copied()
        .filter(|ancestor| done.contains(u16::from(*ancestor)))
        .collect()
}

/// A request to evaluate: the consequences for the task if this step is done now.
pub struct EvaluationRequest {
    pub plan: Arc<Plan>,
    pub row: TaskRow,
    pub step: i16,
}

impl EvaluationRequest {
    pub fn namespace(&self) -> &str {
        &self.plan.template.namespace
    }

    /// The documents that the evaluation reads.
    pub fn wanted(&self) -> WantedInputs {
        let mut wanted = WantedInputs::default();
        let task_id = self.row.task_id;
        let conditional = self.may_be_judged();
        if !conditional.is_empty() || self.plan.is_planner(self.step) {
            wanted.tasks.push((task_id, self.row.revision));
        }
        for index in conditional {
            let condition = self
                .plan
                .template
                .steps
                .get(usize::from(index))
                .and_then(|step| step.condition.as_ref());
            let is_read = |ancestor: &&StepIndex| {
                let step = self.plan.template.steps.get(usize::from(**ancestor));
                step.zip(condition)
                    .is_some_and(|(step, condition)| condition.reads_result(&step.name))
            };
            let ancestors = self
                .plan
                .graph
                .ancestors(index)
                .iter()
                .filter(is_read)
                .map(|ancestor| i16::from(*ancestor));
            let others = ancestors
                .filter(|a| *a != self.step && self.row.progress.done.contains(a.cast_unsigned()));
            wanted
                .results
                .extend(others.map(|ancestor| (task_id, ancestor)));
        }
        wanted.results.sort_unstable();
        wanted.results.dedup();
        wanted
    }

    /// The conditional steps that may be unlocked: children, and descendants of a child that may be
    /// skipped.
    fn may_be_judged(&self) -> Vec<StepIndex> {
        let plan = &self.plan;
        let own = TaskPlan::of(plan, self.row.settings.as_deref());
        let mut seen = vec![false; plan.graph.len()];
        let mut open = Vec::from_iter(StepIndex::try_from(self.step));
        let mut found = Vec::new();
        while let Some(step) = open.pop() {
            for child in plan.graph.children(step).iter().copied() {
                let index = usize::from(child);
                if std::mem::replace(&mut seen[index], true) {
                    continue;
                }
                let is_conditional = plan.template.steps[index].condition.is_some();
                if is_conditional {
                    found.push(child);
                }
                if is_conditional || plan.is_planner(self.step) || own.settings.skips(child) {
                    open.push(child);
                }
            }
        }
        found.sort_unstable();
        found
    }

    /// The total size of the documents to evaluate, in bytes.
    pub fn bytes(&self, result: Option<&str>, known: &Payloads) -> usize {
        let context = known
            .tasks
            .get(&self.row.task_id)
            .map_or(0, |input| input.context.len());
        let of = |((task, _), json): (&(Uuid, i16), &Arc<str>)| {
            if *task == self.row.task_id {
                json.len()
            } else {
                0
            }
        };
        let settings = self.row.settings.as_deref().map_or(0, str::len);
        context
            + settings
            + result.map_or(0, str::len)
            + known.results.iter().map(of).sum::<usize>()
    }

    /// Evaluates the result and then the conditions, within the budget. A planner's answer comes
    /// first, as conditions may depend on the settings that it changes.
    #[expect(
        clippy::too_many_lines,
        reason = "an answer is judged first, and the conditions with what it says"
    )]
    pub fn judge(&self, result: Option<&str>, known: &Payloads, budget: &Budget) -> Verdicts {
        let plan = &*self.plan;
        let mut verdicts = Verdicts {
            basis: Some(Basis::of(&self.row)),
            ..Verdicts::default()
        };
        let mut own = TaskPlan::of(plan, self.row.settings.as_deref());
        let mut priority = self.row.priority;
        let mut value = None;
        if let Some(text) = result.filter(|_| plan.judges_result(self.step)) {
            let answer = match plan.is_planner(self.step) {
                true => self
                    .planning(text, known, budget)
                    .map(|planning| ResultVerdict::Plan(Arc::new(planning))),
                false => self
                    .checked(text, budget, &mut value)
                    .map(|()| ResultVerdict::Fits),
            };
            let answer = answer.unwrap_or_else(|wrong| ResultVerdict::Wrong(Arc::new(wrong)));
            let planning = if let ResultVerdict::Plan(planning) = &answer {
                Some(Arc::clone(planning))
            } else {
                None
            };
            let is_wrong = matches!(answer, ResultVerdict::Wrong(_));
            verdicts.answer = Some(answer);
            if is_wrong {
                return verdicts;
            }
            if let Some(planning) = planning {
                own.settings = planning.settings.clone();
                priority = planning.priority.unwrap_or(priority);
            }
        }
        if plan.is_conditional() {
            let task_id = self.row.task_id;
            let find = |step: i16| match step == self.step {
                true => result.map(Arc::from),
                false => known.results.get(&(task_id, step)).cloned(),
            };
            let input = known.tasks.get(&task_id).map(|input| &**input);
            let task = plan.task_value(
                input.map_or("", |input| &input.correlation_id),
                priority.into(),
            );
            let mut facts = Facts::new(
                plan,
                task,
                input.map(|input| input.context.as_str()),
                &find,
                budget,
            );
            value
                .into_iter()
                .for_each(|value| facts.know_result(self.step, value));
            let fates = &mut verdicts.fates;
            let mut fate = |done: &StepSet, step: u16| {
                let fate = facts.fate(&own, step);
                if own.unconditional(step).is_none() {
                    fates.insert(
                        step,
                        Judged {
                            done: done_before(plan, done, step),
                            fate: fate.clone(),
                        },
                    );
                }
                fate
            };
            self.row.progress.clone().step_ended(
                &plan.graph,
                self.step.cast_unsigned(),
                true,
                &mut fate,
            );
        }
        verdicts
    }

    fn checked(
        &self,
        text: &str,
        budget: &Budget,
        value: &mut Option<Arc<Value>>,
    ) -> Result<(), Wrong> {
        let document = parsed(text, budget).map_err(|error| match error {
            EvaluationError::TooCostly(error) => too_costly("the result", &error),
            EvaluationError::Failed(why) => Wrong::of(OUTPUT_INVALID, why),
        })?;
        match self.plan.check_result(self.step, &document, budget) {
            Ok(()) => {
                *value = Some(document);
                Ok(())
            }
            Err(Misfit::TooCostly(error)) => Err(too_costly("the result", &error)),
            Err(Misfit::Violations(all)) => {
                let message = all
                    .iter()
                    .map(|v| format!("{}: {}", v.pointer, v.message))
                    .collect::<Vec<_>>()
                    .join("; ");
                let listed: Vec<Value> = all
                    .iter()
                    .map(|v| json!({"pointer": v.pointer, "message": v.message}))
                    .collect();
                let context = Some(json!({ "violations": listed }).to_string());
                let message =
                    format!("the result does not match the step's result_schema: {message}");
                let failure = Failure {
                    context,
                    ..Failure::of_server(OUTPUT_INVALID, message)
                }
                .cut();
                Err(Wrong {
                    failure,
                    violations: all,
                })
            }
        }
    }

    /// Merges the planner's answer with the task's settings and annotations.
    fn planning(&self, answer: &str, known: &Payloads, budget: &Budget) -> Result<Planning, Wrong> {
        let senseless = "the planner's answer is invalid";
        let adjustment =
            self.plan
                .template
                .adjustment(answer, budget)
                .map_err(|error| match error {
                    AdjustmentError::TooCostly(error) => too_costly("the planner's answer", &error),
                    AdjustmentError::Problems(all) => Wrong {
                        failure: Failure::of_server(
                            PLAN_INVALID,
                            format!("{senseless}: {}", all.join("; ")),
                        )
                        .cut(),
                        violations: all.into_iter().map(pointed).collect(),
                    },
                })?;
        let notes = known
            .tasks
            .get(&self.row.task_id)
            .map_or("{}", |input| input.annotations.as_str());
        let mut notes = serde_json::from_str::<Map<String, Value>>(notes).unwrap_or_default();
        let own_id = notes.get(CORRELATION_ID).cloned();
        notes.extend(adjustment.annotations.clone());
        // A planner cannot change the correlation id: clients find the task by the id of its
        // submit.
        notes.extend(own_id.map(|id| (CORRELATION_ID.to_owned(), id)));
        let annotations = Value::Object(notes).to_string();
        if annotations.len() > MAX_ANNOTATIONS_BYTES {
            let why = format!(
                "with it, the task has {} bytes of annotations, and at most {MAX_ANNOTATIONS_BYTES} are allowed",
                annotations.len()
            );
            return Err(Wrong::of(PLAN_INVALID, format!("{senseless}: {why}")));
        }
        let mut settings = TaskPlan::of(&self.plan, self.row.settings.as_deref()).settings;
        let priority = adjustment.priority;
        settings.push("planner", adjustment);
        Ok(Planning {
            settings_json: settings.to_json(),
            settings,
            annotations,
            priority,
        })
    }
}

/// The annotation that holds the task's correlation id.
const CORRELATION_ID: &str = "correlation_id";

fn too_costly(what: &str, error: &TooCostly) -> Wrong {
    Wrong::of(TOO_COSTLY, format!("{what}: {error}"))
}

/// Splits the leading JSON pointer, if any, from a problem of an adjustment.
fn pointed(problem: String) -> Violation {
    match problem.split_once(": ") {
        Some((pointer, message)) if pointer.starts_with('/') => Violation {
            pointer: pointer.to_owned(),
            message: message.to_owned(),
        },
        _ => Violation {
            pointer: String::new(),
            message: problem,
        },
    }
}
