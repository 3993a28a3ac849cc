//! Which events a subscriber wants.

use uuid::Uuid;

use crate::{domain::event::EventType, store::event::Event};

/// Each part that is set must fit.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub namespace: Option<String>,
    pub task_name: Option<String>,
    /// Empty for all.
    pub types: Vec<EventType>,
    pub service: Option<String>,
    pub task_id: Option<Uuid>,
    pub correlation_id: Option<String>,
}

impl Filter {
    pub fn takes(&self, event: &Event) -> bool {
        let fits = |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
        fits(&self.namespace, &event.namespace)
            && fits(&self.task_name, &event.task_name)
            && fits(&self.service, &event.service)
            && fits(&self.correlation_id, &event.correlation_id)
            && (self.task_id.is_none() || self.task_id == event.task_id)
            && (self.types.is_empty() || event.kind.is_some_and(|kind| self.types.contains(&kind)))
    }
}
