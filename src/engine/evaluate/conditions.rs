//! Evaluates the conditions of a task's steps. Each document is parsed once, when the first
//! condition reads it, and shared by all conditions of one evaluation.

use std::sync::Arc;

use serde_json::Value;
use tasker_template::{
    Budget, EvaluationError, StepIndex, StepResults, TOO_COSTLY, Values, json_text,
};

use crate::{
    domain::{attempt::Failure, progress::Fate},
    engine::{
        hash::HashMap,
        plan::{compiled::Plan, task_plan::TaskPlan},
    },
};

/// Failure code of a step whose condition could not be evaluated.
pub const CONDITION_FAILED: &str = "CONDITION_FAILED";
/// Bytes of a document whose parsing takes as long as one step of the budget.
const BYTES_PER_STEP: usize = 4;

/// The failure of a step that never ran, as its condition cannot be evaluated.
pub fn condition_failed(why: &str) -> Failure {
    Failure::of_server(
        CONDITION_FAILED,
        format!("its condition cannot be evaluated: {why}"),
    )
    .cut()
}

/// The values that conditions of one task's steps refer to.
pub struct Facts<'a> {
    plan: &'a Plan,
    /// The JSON of the task's context.
    source: Option<&'a str>,
    /// The JSON of a step's result; None for a step without one, which conditions see as null.
    result: &'a dyn Fn(i16) -> Option<Arc<str>>,
    budget: &'a Budget,
    task: Value,
    context: Option<Arc<Value>>,
    results: HashMap<i16, Arc<Value>>,
}

impl<'a> Facts<'a> {
    /// `task` is the value of the variable `task`. `source` may be None if no condition reads the
    /// context.
    pub fn new(
        plan: &'a Plan,
        task: Value,
        source: Option<&'a str>,
        result: &'a dyn Fn(i16) -> Option<Arc<str>>,
        budget: &'a Budget,
    ) -> Self {
        Self {
            plan,
            source,
            result,
            budget,
            task,
            context: None,
            results: HashMap::default(),
        }
    }

    /// Sets the context in parsed form.
    pub fn know_context(&mut self, context: Arc<Value>) {
        self.context = Some(context);
    }

    /// Sets a result in parsed form.
    pub fn know_result(&mut self, step: i16, result: Arc<Value>) {
        self.results.insert(step, result);
    }

    /// The fate of a step whose parents are done. A `skip` setting takes precedence over its
    /// condition.
    pub fn fate(&mut self, own: &TaskPlan<'_>, step: u16) -> Fate {
        match own.unconditional(step) {
            Some(fate) => fate,
            None => match self.holds(step) {
                Ok(true) => Fate::Runs,
                Ok(false) => Fate::Skipped,
                Err(EvaluationError::Failed(why)) => Fate::Fails(condition_failed(&why)),
                Err(EvaluationError::TooCostly(error)) => Fate::Fails(
                    Failure::of_server(TOO_COSTLY, format!("its condition: {error}")).cut(),
                ),
            },
        }
    }

    fn holds(&mut self, step: u16) -> Result<bool, EvaluationError> {
        let plan = self.plan;
        let Ok(index) = StepIndex::try_from(step) else {
            return Ok(true);
        };
        let Some(condition) = plan
            .template
            .steps
            .get(usize::from(index))
            .and_then(|step| step.condition.as_ref())
        else {
            return Ok(true);
        };
        let nothing = Arc::new(Value::Null);
        let context = if condition.reads("context") {
            self.context()?
        } else {
            Arc::clone(&nothing)
        };
        let mut results: Vec<(&str, Arc<Value>)> = Vec::new();
        for ancestor in plan
            .graph
            .ancestors(index)
            .iter()
            .filter(|ancestor| !plan.is_planner(**ancestor))
        {
            let Some(step) = plan.template.steps.get(usize::from(*ancestor)) else {
                continue;
            };
            let is_read = condition.reads_result(&step.name);
            let value = if is_read {
                self.result(i16::from(*ancestor))?
            } else {
                Arc::clone(&nothing)
            };
            results.push((step.name.as_str(), value));
        }
        let results: StepResults<'_> = results
            .iter()
            .map(|(name, value)| (*name, &**value))
            .collect();
        condition.holds(&Values::of_step(
            &context,
            &self.task,
            &results,
            self.budget,
        ))
    }

    fn context(&mut self) -> Result<Arc<Value>, EvaluationError> {
        if let Some(known) = &self.context {
            return Ok(Arc::clone(known));
        }
        let Some(source) = self.source else {
            return Err("the task's context is absent".to_owned().into());
        };
        let value = parsed(source, self.budget)?;
        Ok(Arc::clone(self.context.insert(value)))
    }

    fn result(&mut self, step: i16) -> Result<Arc<Value>, EvaluationError> {
        if let Some(known) = self.results.get(&step) {
            return Ok(Arc::clone(known));
        }
        let value = match (self.result)(step) {
            Some(json) => parsed(&json, self.budget)?,
            None => Arc::default(),
        };
        self.results.insert(step, Arc::clone(&value));
        Ok(value)
    }
}

/// Parses a stored document, which was validated before it was stored.
pub fn parsed(text: &str, budget: &Budget) -> Result<Arc<Value>, EvaluationError> {
    budget.spend((text.len() / BYTES_PER_STEP) as u64)?;
    Ok(Arc::new(
        json_text::parse(text, text.len()).unwrap_or(Value::Null),
    ))
}
