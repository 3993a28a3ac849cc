//! Pauses of whole templates and namespaces.

use tonic::Status;

use super::{convert, error, order, task::Tasks};
use crate::{
    proto,
    store::{
        pause::{self, PauseRow},
        service::Actor,
    },
};

impl Tasks {
    pub(super) async fn pause(
        &self,
        r: proto::PauseTemplateRequest,
    ) -> Result<proto::Pause, Status> {
        let actor = actor(&r.namespace, &r.task_name, r.by, r.reason)?;
        self.known(&r.namespace, &r.task_name).await?;
        let row = self
            .0
            .pause(&r.namespace, &r.task_name, &actor)
            .await
            .map_err(|e| error::store(&e))?;
        Ok(message(row))
    }

    pub(super) async fn lift(&self, r: proto::ResumeTemplateRequest) -> Result<bool, Status> {
        let actor = actor(&r.namespace, &r.task_name, r.by, r.reason)?;
        self.0
            .lift(&r.namespace, &r.task_name, &actor)
            .await
            .map_err(|e| error::store(&e))
    }

    pub(super) async fn pauses(&self) -> Result<Vec<proto::Pause>, Status> {
        let rows = pause::list(&self.0.db)
            .await
            .map_err(|e| error::store(&e))?;
        Ok(rows.into_iter().map(message).collect())
    }

    /// A pause of what nobody knows is a mistake in writing.
    async fn known(&self, namespace: &str, task_name: &str) -> Result<(), Status> {
        self.0
            .catalog
            .refresh()
            .await
            .map_err(|e| error::store(&e))?;
        if self.0.catalog.list(namespace, task_name).is_empty() {
            let what = if task_name.is_empty() {
                format!("in namespace {namespace}")
            } else {
                format!("{namespace}/{task_name}")
            };
            return Err(error::status(
                tonic::Code::NotFound,
                "TEMPLATE_NOT_FOUND",
                format!("there is no template {what}"),
            ));
        }
        Ok(())
    }
}

fn actor(namespace: &str, task_name: &str, by: String, reason: String) -> Result<Actor, Status> {
    if namespace.is_empty() {
        return Err(error::invalid(
            "namespace",
            "empty: expected 1 to 255 bytes",
        ));
    }
    convert::name("namespace", namespace)?;
    convert::name("task_name", task_name)?;
    order::actor(by, reason)
}

fn message(row: PauseRow) -> proto::Pause {
    proto::Pause {
        namespace: row.namespace,
        task_name: row.task_name,
        paused_at: Some(convert::timestamp(row.at)),
        paused_by: row.by,
        reason: row.reason,
    }
}
