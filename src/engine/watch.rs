//! Who waits for news of which task.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;
use uuid::Uuid;

/// The most streams that watch tasks on one server.
pub const MAX_WATCHERS: usize = 20_000;

/// Something happened to the task; how often so far.
type News = watch::Sender<u64>;

/// The watched tasks of this server.
#[derive(Clone, Default)]
pub struct Watchers(Arc<Mutex<HashMap<Uuid, News>>>);

/// One interest in one task; it ends when dropped.
pub struct Watcher {
    watchers: Watchers,
    task_id: Uuid,
    news: watch::Receiver<u64>,
}

impl Watchers {
    /// Starts to watch; `None` when there are [`MAX_WATCHERS`] already.
    pub fn watch(&self, task_id: Uuid) -> Option<Watcher> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_WATCHERS {
            return None;
        }
        let news = all.entry(task_id).or_insert_with(|| watch::Sender::new(0)).subscribe();
        Some(Watcher { watchers: self.clone(), task_id, news })
    }

    /// Says that something happened to these tasks.
    pub fn tell(&self, tasks: impl IntoIterator<Item = Uuid>) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.is_empty() {
            return;
        }
        for task in tasks {
            if let Some(news) = all.get(&task) {
                news.send_modify(|n| *n += 1);
            }
        }
    }

    /// All watched tasks: what to tell when another server may have changed any of them.
    pub fn watched(&self) -> Vec<Uuid> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
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
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut all = self.watchers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(news) = all.entry(self.task_id) {
            // This one is still counted.
            if news.get().receiver_count() <= 1 {
                news.remove();
            }
        }
    }
}
