//! Limits on the inputs that wait for an evaluation: per namespace and in all, by number and by
//! bytes.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::engine::hash::HashMap;

/// Maximum inputs of one namespace, and their bytes.
const MAX_OF_NAMESPACE: Size = Size {
    inputs: 1_024,
    bytes: 8 << 20,
};
/// Maximum of all namespaces together, except for one input of each.
const MAX_IN_ALL: Size = Size {
    inputs: 8_192,
    bytes: 64 << 20,
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    inputs: usize,
    bytes: usize,
}

impl Size {
    fn with(self, bytes: usize) -> Self {
        Self {
            inputs: self.inputs + 1,
            bytes: self.bytes.saturating_add(bytes),
        }
    }

    fn without(self, bytes: usize) -> Self {
        Self {
            inputs: self.inputs - 1,
            bytes: self.bytes - bytes,
        }
    }

    fn is_within(self, bound: Self) -> bool {
        self.inputs <= bound.inputs && self.bytes <= bound.bytes
    }
}

/// The capacity in use. Cheap to clone.
#[derive(Clone, Default)]
pub struct Shares(Arc<State>);

#[derive(Default)]
struct State {
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Default)]
struct Taken {
    all: Size,
    of: HashMap<String, Size>,
}

/// The capacity of one input. Released on drop.
pub struct Share {
    shares: Shares,
    namespace: String,
    bytes: usize,
}

impl Shares {
    /// Takes capacity, unless the namespace has used its share. One input per namespace always gets
    /// it, whatever the others use.
    pub fn try_take(&self, namespace: &str, bytes: usize) -> Option<Share> {
        let mut taken = self.0.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.of.get(namespace).copied().unwrap_or_default();
        let fits = own.with(bytes).is_within(MAX_OF_NAMESPACE)
            && taken.all.with(bytes).is_within(MAX_IN_ALL);
        if own.inputs > 0 && !fits {
            return None;
        }
        taken.all = taken.all.with(bytes);
        taken.of.insert(namespace.to_owned(), own.with(bytes));
        Some(Share {
            shares: self.clone(),
            namespace: namespace.to_owned(),
            bytes,
        })
    }

    /// Waits for capacity.
    pub async fn take(&self, namespace: &str, bytes: usize) -> Share {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            // Enabled before the check, so that a release after it is not missed.
            freed.as_mut().enable();
            if let Some(share) = self.try_take(namespace, bytes) {
                return share;
            }
            freed.await;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self
            .shares
            .0
            .taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.without(self.bytes);
        if let Some(own) = taken.of.get_mut(&self.namespace) {
            *own = own.without(self.bytes);
            if own.inputs == 0 {
                taken.of.remove(&self.namespace);
            }
        }
        drop(taken);
        self.shares.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_is_limited_to_its_share_and_one_input_always_fits() {
        let shares = Shares::default();
        let half = MAX_OF_NAMESPACE.bytes / 2;
        let held: Vec<Share> = (0..2)
            .map(|_| shares.try_take("a", half).unwrap())
            .collect();
        assert!(shares.try_take("a", 1).is_none(), "its share is used up");
        let others: Vec<Share> = (1..MAX_IN_ALL.bytes / MAX_OF_NAMESPACE.bytes)
            .map(|n| shares.try_take(&format!("n{n}"), 2 * half).unwrap())
            .collect();
        assert!(shares.try_take("n1", 1).is_none());
        let beyond = shares.try_take("healthy", 1 << 20).unwrap();
        assert!(
            shares.try_take("healthy", 1).is_none(),
            "only one beyond what all may hold"
        );
        drop((held, others, beyond));
        let taken = shares.0.taken.lock().unwrap();
        assert_eq!((taken.all, taken.of.len()), (Size::default(), 0));
    }

    #[test]
    fn inputs_over_the_number_wait() {
        let shares = Shares::default();
        let held: Vec<Share> = (0..MAX_OF_NAMESPACE.inputs)
            .map(|_| shares.try_take("a", 0).unwrap())
            .collect();
        assert!(shares.try_take("a", 0).is_none());
        drop(held);
    }

    #[tokio::test]
    async fn waiting_input_gets_a_freed_place() {
        let shares = Shares::default();
        let full = shares.take("a", MAX_OF_NAMESPACE.bytes).await;
        let waits = tokio::spawn({
            let shares = shares.clone();
            async move { shares.take("a", 1).await.bytes }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        drop(full);
        assert_eq!(waits.await.unwrap(), 1);
    }
}
