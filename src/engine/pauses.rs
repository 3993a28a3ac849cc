//! Pauses and resumes whole templates and namespaces, on all servers.

use std::time::Duration;

use super::Engine;
use crate::store::{
    StoreError,
    pause::{self, PauseRow},
    service::Actor,
};

/// Interval between checks for claims that began before a pause, and their number.
const SETTLE: (Duration, u32) = (Duration::from_millis(10), 200);

impl Engine {
    /// Pauses a template, or a namespace. After a successful return, none of its steps starts.
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
        // A claim that began before the pause was committed may still be made. Its transaction
        // holds a lock on the queue's table, so all holders of that lock have to end first.
        let claims = pause::claims_under_way(&self.db).await?;
        for _ in 0..SETTLE.1 {
            if claims.is_empty() || pause::have_ended(&self.db, &claims).await? {
                return Ok(row);
            }
            tokio::time::sleep(SETTLE.0).await;
        }
        // A repeated call waits again; the pause is in effect meanwhile.
        Err(StoreError::Connection(
            "a transaction that began before the pause has not ended".into(),
        ))
    }

    /// Lifts such a pause. Returns false if there was none.
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
