//! Pauses and lifts whole templates and namespaces, for this server and the others.

use std::time::Duration;

use super::Engine;
use crate::store::{
    StoreError,
    pause::{self, PauseRow},
    service::Actor,
};

/// How often it is asked whether a claim that began before a pause may still be made, and how many times.
const SETTLE: (Duration, u32) = (Duration::from_millis(10), 200);

impl Engine {
    /// Pauses a template, or a namespace. When this returns well, nothing of it starts any more.
    pub async fn pause(
        &self,
        namespace: &str,
        task_name: &str,
        actor: &Actor,
    ) -> Result<PauseRow, StoreError> {
        let row = pause::set(
            &self.db,
            namespace,
            task_name,
            actor,
            &self.peers.service_news(),
        )
        .await?;
        self.gates.refresh(&self.db, &self.catalog).await?;
        let claims = pause::claims_under_way(&self.db).await?;
        for _ in 0..SETTLE.1 {
            if claims.is_empty() || pause::have_ended(&self.db, &claims).await? {
                return Ok(row);
            }
            tokio::time::sleep(SETTLE.0).await;
        }
        // Asked again, it waits again; the pause holds meanwhile.
        Err(StoreError::Connection(
            "a transaction that began before the pause has not ended".into(),
        ))
    }

    /// Lifts such a pause; `false` when there was none.
    pub async fn lift(
        &self,
        namespace: &str,
        task_name: &str,
        actor: &Actor,
    ) -> Result<bool, StoreError> {
        let lifted = pause::lift(
            &self.db,
            namespace,
            task_name,
            actor,
            &self.peers.service_news(),
        )
        .await?;
        let opened = self.gates.refresh(&self.db, &self.catalog).await?;
        self.hub.steps_wait(opened);
        Ok(lifted)
    }
}
