//! A number of turns that rotate between the waiting namespaces.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// The turns of a pool. Cheap to clone.
#[derive(Clone)]
pub(super) struct Turns(Arc<Mutex<State>>);

struct State {
    free: usize,
    /// The waiting namespaces in the order of their turns, each with its inputs in order.
    waiting: VecDeque<(String, VecDeque<oneshot::Sender<Turn>>)>,
}

/// The right to run one evaluation. AdmissionCheck to the next input on drop.
pub struct Turn {
    turns: Turns,
}

impl Turns {
    pub fn new(count: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            free: count,
            waiting: VecDeque::new(),
        })))
    }

    /// Waits for the namespace's next turn.
    pub async fn take(&self, namespace: &str) -> Turn {
        loop {
            let turn = {
                let mut state = self.lock();
                if let Some(left) = state.free.checked_sub(1) {
                    state.free = left;
                    return Turn {
                        turns: self.clone(),
                    };
                }
                let (turn, wait) = oneshot::channel();
                match state.waiting.iter_mut().find(|(name, _)| name == namespace) {
                    Some((_, inputs)) => inputs.push_back(turn),
                    None => state
                        .waiting
                        .push_back((namespace.to_owned(), VecDeque::from([turn]))),
                }
                wait
            };
            // If the sender is dropped unused, its turn is free again, and the next round takes it.
            if let Ok(turn) = turn.await {
                return turn;
            }
        }
    }

    pub fn waiting(&self) -> usize {
        self.lock()
            .waiting
            .iter()
            .map(|(_, inputs)| inputs.len())
            .sum()
    }

    /// The next input that still waits; if there is none, the turn becomes free.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut state = self.lock();
        while let Some((namespace, mut inputs)) = state.waiting.pop_front() {
            let next = std::iter::from_fn(|| inputs.pop_front()).find(|input| !input.is_closed());
            if !inputs.is_empty() {
                state.waiting.push_back((namespace, inputs));
            }
            if next.is_some() {
                return next;
            }
        }
        state.free += 1;
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(next) = self.turns.next() {
            // If the receiver goes away at this moment, the turn is dropped and passed on again.
            let _ = next.send(Turn {
                turns: self.turns.clone(),
            });
        }
    }
}
