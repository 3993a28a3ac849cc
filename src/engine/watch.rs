//! Who waits for news of which task.

use crate::engine::hash::HashMap;
use std::{
    collections::hash_map::Entry,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use uuid::Uuid;

/// The most streams that watch tasks on one server.
pub const MAX_WATCHERS: usize = 20_000;

/// What was heard of a task.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    /// How often something happened to it.
    times: u64,
    /// It is final.
    ended: bool,
}

type News = watch::Sender<Heard>;

/// The watched tasks of this server.
#[derive(Clone, Default)]
pub struct Watchers(Arc<Mutex<Watched>>);

#[derive(Default)]
struct Watched {
    tasks: HashMap<Uuid, News>,
    /// How many watch them: there may be many of one task.
    watchers: usize,
}

/// One interest in one task; it ends when dropped.
pub struct Watcher {
    watchers: Watchers,
    task_id: Uuid,
    news: watch::Receiver<Heard>,
}

impl Watchers {
    /// Starts to watch; `None` when there are [`MAX_WATCHERS`] already.
    pub fn watch(&self, task_id: Uuid) -> Option<Watcher> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.watchers >= MAX_WATCHERS {
            return None;
        }
        all.watchers += 1;
        let news = all
            .tasks
            .entry(task_id)
            .or_insert_with(|| watch::Sender::new(Heard::default()))
            .subscribe();
        Some(Watcher {
            watchers: self.clone(),
            task_id,
            news,
        })
    }

    /// Says that something happened to these tasks, and whether each is final.
    pub fn tell(&self, tasks: impl IntoIterator<Item = (Uuid, bool)>) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.tasks.is_empty() {
            return;
        }
        for (task, ended) in tasks {
            if let Some(news) = all.tasks.get(&task) {
                news.send_modify(|heard| {
                    heard.times += 1;
                    heard.ended |= ended;
                });
            }
        }
    }

    /// All watched tasks: what to tell when another server may have changed any of them.
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

    /// Waits until something happens that was not yet seen.
    pub async fn changed(&mut self) {
        // The sender lives in the map for as long as this watcher does.
        let _ = self.news.changed().await;
    }

    /// Whether it was heard that the task is final.
    pub fn has_ended(&self) -> bool {
        self.news.borrow().ended
    }

    /// Waits until it is heard that the task is final.
    pub async fn ended(&mut self) {
        let _ = self.news.wait_for(|heard| heard.ended).await;
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
            // This one is still counted.
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
    fn watchers_are_counted_one_by_one_whatever_they_watch() {
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
