//! Prepares submissions: small ones at once, others on the evaluation threads, in turn with other
//! namespaces.

use std::{sync::Arc, time::Duration};

use tasker_template::Budget;

use super::{
    request::{IntakeError, Submission, Violated},
    validate::{Prepared, Refusal, prepare_one, too_costly},
};
use crate::engine::{
    cache::templates::{Resolved, TemplateCache},
    context::EngineContext,
    evaluate::{
        pool::{EvaluationPool, SMALL_BYTES, SMALL_STEPS},
        shares::Shares,
        threads::NoVerdict,
    },
    observe::metrics::Metrics,
    plan::compiled::Plan,
};

/// Time limit for the submissions of one request to wait for turns and be evaluated, all together.
const PREPARE_LIMIT: Duration = Duration::from_secs(10);
/// Submissions prepared at once before the task yields its thread.
const AT_ONCE: usize = 16;

/// The dependencies of preparing submissions. Cheap to clone.
#[derive(Clone)]
pub struct Preparer {
    pub templates: Arc<TemplateCache>,
    evaluator: EvaluationPool,
    shares: Shares,
    metrics: Arc<Metrics>,
}

impl Preparer {
    pub fn new(context: &EngineContext) -> Self {
        Self {
            templates: Arc::clone(&context.templates),
            evaluator: context.evaluator.clone(),
            shares: Shares::default(),
            metrics: Arc::clone(&context.metrics),
        }
    }

    /// Validates every submission and collects all violations.
    pub async fn prepare(
        &self,
        submissions: &[Arc<Submission>],
    ) -> Result<Vec<Prepared>, IntakeError> {
        let plans = submissions
            .iter()
            .enumerate()
            .map(|(index, s)| self.plan(index, s))
            .collect::<Result<Vec<_>, _>>()?;
        // A time-out here means that the evaluation threads are overloaded.
        let prepared = tokio::time::timeout(PREPARE_LIMIT, self.prepare_all(submissions, plans));
        prepared.await.unwrap_or(Err(IntakeError::Full))
    }

    fn plan(&self, index: usize, s: &Submission) -> Result<Resolved, IntakeError> {
        let found = self
            .templates
            .resolve(&s.namespace, &s.task_name, s.version.as_ref());
        match found {
            // With an idempotency key it may be a repeat, which the transaction finds out.
            Some(Resolved {
                plan,
                retired: Some(retirement),
            }) if s.idempotency_key.is_empty() => {
                Err(IntakeError::retired(index, s, &plan, &retirement))
            }
            Some(resolved) => Ok(resolved),
            None => Err(IntakeError::NoTemplate {
                index,
                namespace: s.namespace.clone(),
                task_name: s.task_name.clone(),
                version: s.version.clone(),
            }),
        }
    }

    async fn prepare_all(
        &self,
        submissions: &[Arc<Submission>],
        plans: Vec<Resolved>,
    ) -> Result<Vec<Prepared>, IntakeError> {
        let mut violated: Vec<(usize, Violated)> = Vec::new();
        let mut prepared = Vec::with_capacity(submissions.len());
        for (index, (submission, resolved)) in submissions.iter().zip(plans).enumerate() {
            let Resolved { plan, retired } = resolved;
            if index % AT_ONCE == AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            let found = match prepare_here(submission, &plan) {
                Some(found) => found,
                None => self.prepare_aside(submission, plan).await?,
            };
            match found {
                Ok(task) => prepared.push(Prepared { retired, ..task }),
                Err(refusal) => violated.extend(refusal.violated.into_iter().map(|v| (index, v))),
            }
        }
        if violated.is_empty() {
            Ok(prepared)
        } else {
            Err(IntakeError::Invalid(violated))
        }
    }

    async fn prepare_aside(
        &self,
        submission: &Arc<Submission>,
        plan: Arc<Plan>,
    ) -> Result<Result<Prepared, Refusal>, IntakeError> {
        let namespace = plan.template.namespace.as_str();
        let bytes = submission.context.len() + submission.annotations.len();
        let share = self
            .shares
            .try_take(namespace, bytes)
            .ok_or(IntakeError::Full)?;
        let turn = self.evaluator.turn(namespace).await;
        let submission = Arc::clone(submission);
        let work = move || {
            let _share = share;
            prepare_one(&submission, plan, &Budget::new())
        };
        match self.evaluator.run(turn, work).await {
            Ok(found) => {
                let over = found
                    .as_ref()
                    .map_or_else(|refusal| refusal.over_budget, Prepared::is_over_budget);
                self.metrics.judging.too_costly.add(usize::from(over));
                Ok(found)
            }
            Err(NoVerdict::Closed) => Err(IntakeError::ShuttingDown),
            Err(error) => Ok(Err(Refusal {
                violated: vec![too_costly(&error.to_string())],
                over_budget: true,
            })),
        }
    }
}

/// Prepares a submission at once if that takes microseconds.
fn prepare_here(
    submission: &Arc<Submission>,
    plan: &Arc<Plan>,
) -> Option<Result<Prepared, Refusal>> {
    if submission.context.len() + submission.annotations.len() > SMALL_BYTES {
        return None;
    }
    let found = prepare_one(submission, Arc::clone(plan), &Budget::of(SMALL_STEPS));
    let over = found
        .as_ref()
        .map_or_else(|refusal| refusal.over_budget, Prepared::is_over_budget);
    (!over).then_some(found)
}
