//! Calls of operators.

use tasker::{
    domain::order::Order,
    proto::{CircuitState, ForceCircuitRequest, PauseTemplateRequest, ResumeTemplateRequest},
};
use tonic::Code;

use super::{Run, answered};
use crate::{shapes::HANDLERS, support::orders::give};

const BY: &str = "model";
const REASON: &str = "why";

impl Run {
    pub(super) async fn order(
        &mut self,
        task: Option<usize>,
        order: Order,
        expected: Result<(), Code>,
    ) -> Result<(), String> {
        let unknown = "00000000-0000-7000-8000-000000000000";
        let task_id = task.map_or(unknown, |task| &self.tasks[task]);
        let answer = give(&mut self.client, task_id, order, BY, REASON).await;
        answered(
            &expected,
            &answer.map(drop).map_err(|status| self.code(&status)),
        )?;
        self.to_compare = task;
        Ok(())
    }

    /// Pauses a template, or the namespace if the name is empty, or lifts the pause.
    pub(super) async fn hold(
        &mut self,
        name: &str,
        held: bool,
        expected: Result<bool, Code>,
    ) -> Result<(), String> {
        let (namespace, task_name) = (self.namespace.clone(), name.to_owned());
        let (by, reason) = (BY.to_owned(), REASON.to_owned());
        let answer = if held {
            let request = PauseTemplateRequest {
                namespace,
                task_name,
                by,
                reason,
            };
            self.client
                .tasks
                .pause_template(request)
                .await
                .map(|_| true)
        } else {
            let request = ResumeTemplateRequest {
                namespace,
                task_name,
                by,
                reason,
            };
            self.client
                .tasks
                .resume_template(request)
                .await
                .map(|response| response.into_inner().was_paused)
        };
        answered(&expected, &answer.map_err(|status| self.code(&status)))
    }

    pub(super) async fn force(&mut self, handler: usize, open: bool) -> Result<(), String> {
        let state = if open {
            CircuitState::Open
        } else {
            CircuitState::Closed
        };
        let request = ForceCircuitRequest {
            namespace: self.namespace.clone(),
            // The default service of a step is its handler's name.
            service: HANDLERS[handler].into(),
            state: state.into(),
            by: BY.into(),
            reason: REASON.into(),
            ..Default::default()
        };
        self.client
            .circuits
            .force_circuit(request)
            .await
            .map(drop)
            .map_err(|s| format!("not forced: {s:?}"))
    }
}
