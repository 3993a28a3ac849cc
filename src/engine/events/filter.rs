//! The filter of a subscription.

use uuid::Uuid;

use super::named::NamedEvent;

use crate::domain::event::EventType;

/// Every field that is set must match.
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
    pub fn takes(&self, named: &NamedEvent) -> bool {
        let fits = |wanted: &Option<String>, has: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == has
        };
        fits(&self.namespace, named.namespace())
            && fits(&self.task_name, named.task_name())
            && fits(&self.service, named.service())
            && fits(&self.correlation_id, named.correlation_id())
            && (self.task_id.is_none() || self.task_id == named.event.task_id)
            && (self.types.is_empty()
                || named
                    .event
                    .kind
                    .is_some_and(|kind| self.types.contains(&kind)))
    }
}
