//! The submits of one request, which are stored as a whole or not at all.

use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use super::{
    request::{IntakeError, Submitted},
    validate::Prepared,
};
use crate::store::template::Newest;

/// The tasks of one request: stored as a whole or not at all.
pub struct Group {
    pub tasks: Vec<Prepared>,
    /// The newest template, and change of one, when the versions were resolved.
    pub seen: Newest,
    pub reply: oneshot::Sender<Result<Vec<Submitted>, IntakeError>>,
    /// When the request arrived.
    pub asked: Instant,
    pub _place: OwnedSemaphorePermit,
}

impl Group {
    /// Whether the group has to be prepared again: a template was registered and a task names no
    /// version, or any version was retired or restored.
    pub fn is_outdated(&self, newest: Newest) -> bool {
        let registered = self.seen.template < newest.template
            && self.tasks.iter().any(|t| t.submission.version.is_none());
        registered || self.seen.change < newest.change
    }
}

/// Splits the groups into transactions; the first one is last in the list.
pub fn portions(groups: Vec<Group>) -> Vec<Vec<Group>> {
    let mut portions: Vec<Vec<Group>> = Vec::new();
    let mut tasks = 0;
    for group in groups {
        match portions.last_mut() {
            Some(portion) if tasks + group.tasks.len() <= MAX_BATCH_TASKS => {
                tasks += group.tasks.len();
                portion.push(group);
            }
            _ => {
                tasks = group.tasks.len();
                portions.push(vec![group]);
            }
        }
    }
    portions.reverse();
    portions
}

/// Maximum tasks per transaction, unless one request has more.
const MAX_BATCH_TASKS: usize = 1_000;
