//! The watchers of tasks: subscribers that wait for changes of one task.

use std::{
    collections::hash_map::Entry,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use uuid::Uuid;

use crate::engine::hash::HashMap;

/// Maximum streams that watch tasks on one server.
pub const MAX_WATCHERS: usize = 20_000;

/// The last state reported of a task.
#[derive(Clone, Copy, Debug, Default)]
struct LastState {
    /// The number of changes.
    times: u64,
    /// The task is final.
    ended: bool,
}

type Reports = watch::Sender<LastState>;

/// The watched tasks of this server. Cheap to clone.
#[derive(Clone, Default)]
pub struct Watchers(Arc<Mutex<Watched>>);

#[derive(Default)]
struct Watched {
    tasks: HashMap<Uuid, Reports>,
    /// The number of watchers; a task may have many.
    watchers: usize,
}

/// A watcher of one task; it ends on drop.
pub struct Watcher {
    watchers: Watchers,
    task_id: Uuid,
    news: watch::Receiver<LastState>,
}

impl Watchers {
    /// Starts to watch a task; `None` at [`MAX_WATCHERS`].
    pub fn watch(&self, task_id: Uuid) -> Option<Watcher> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.watchers >= MAX_WATCHERS {
            return None;
        }
        all.watchers += 1;
        let news = all
            .tasks
            .entry(task_id)
            .or_insert_with(|| watch::Sender::new(LastState::default()))
            .subscribe();
        Some(Watcher {
            watchers: self.clone(),
            task_id,
            news,
        })
    }

    /// Notifies the watchers of these tasks; the flag means that the task is final.
    pub fn notify(&self, tasks: impl IntoIterator<Item = (Uuid, bool)>) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.tasks.is_empty() {
            return;
        }
        for (task, ended) in tasks {
            if let Some(news) = all.tasks.get(&task) {
                news.send_modify(|heartbeats| {
                    heartbeats.times += 1;
                    heartbeats.ended |= ended;
                });
            }
        }
    }

    /// All watched tasks, to be read when another server may have changed any of them.
    pub fn watched(&self) -> Vec<Uuid> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .tasks
            .keys()
            .copied()
            .collect()
    }
}

impl Watcher {
    pub fn task_id(&self) -> Uuid {
        self.task_id
    }

    /// Waits until the task changes again.
    pub async fn changed(&mut self) {
        // The sender lives in the map for as long as this watcher does.
        let _ = self.news.changed().await;
    }

    /// Whether the task was reported as final.
    pub fn has_ended(&self) -> bool {
        self.news.borrow().ended
    }

    /// Waits until the task is reported as final.
    pub async fn ended(&mut self) {
        let _ = self.news.wait_for(|heartbeats| heartbeats.ended).await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut all = self
            .watchers
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.watchers -= 1;
        if let Entry::Occupied(news) = all.tasks.entry(self.task_id) {
            // This watcher is still counted.
            if news.get().receiver_count() <= 1 {
                news.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_are_counted_individually() {
        let (watchers, task) = (Watchers::default(), Uuid::nil());
        let mut all: Vec<Watcher> = (0..MAX_WATCHERS)
            .filter_map(|_| watchers.watch(task))
            .collect();
        assert_eq!(all.len(), MAX_WATCHERS);
        assert!(watchers.watch(task).is_none());
        assert!(watchers.watch(Uuid::max()).is_none());
        all.pop();
        assert!(watchers.watch(Uuid::max()).is_some());
        drop(all);
        assert!(watchers.watched().is_empty());
    }
}
