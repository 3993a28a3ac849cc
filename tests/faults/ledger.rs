//! The ledger of the handlers: every start and every end of every step.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tasker_worker::{StepContext, Worker, WorkerBuilder, WorkerHandle};

/// One call of a handler.
#[derive(Clone, Debug)]
#[expect(dead_code, reason = "the number is what a failing test prints")]
struct Call {
    attempt: u32,
    ended: bool,
}

/// The calls by idempotency key.
#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<HashMap<String, Vec<Call>>>>);

impl Ledger {
    /// A handler that takes `time` and records its start and its end.
    pub fn handler(&self, builder: WorkerBuilder, name: &str, time: Duration) -> WorkerBuilder {
        let ledger = self.clone();
        builder.handler(name, move |step: StepContext| {
            let ledger = ledger.clone();
            async move {
                let call = ledger.begin(&step);
                tokio::time::sleep(time).await;
                ledger.end(&step, call);
                Ok(step.attempt())
            }
        })
    }

    /// A worker with one such handler, `h`.
    pub fn worker(&self, addresses: &[&str], slots: usize, time: Duration) -> WorkerHandle {
        let builder = Worker::builder(addresses.iter().copied())
            .name("ledger")
            .max_concurrent_steps(slots);
        self.handler(builder, "h", time).build().unwrap().spawn()
    }

    fn begin(&self, step: &StepContext) -> usize {
        let mut calls = self.0.lock().unwrap();
        let calls = calls.entry(step.idempotency_key().to_owned()).or_default();
        calls.push(Call {
            attempt: step.attempt(),
            ended: false,
        });
        calls.len() - 1
    }

    fn end(&self, step: &StepContext, call: usize) {
        self.0
            .lock()
            .unwrap()
            .get_mut(step.idempotency_key())
            .unwrap()[call]
            .ended = true;
    }

    pub fn steps(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Number of calls that began and have not ended.
    pub fn running(&self) -> usize {
        self.0
            .lock()
            .unwrap()
            .values()
            .flatten()
            .filter(|call| !call.ended)
            .count()
    }

    /// Asserts that every step ran once, from its beginning to its end.
    pub fn assert_each_once(&self, steps: usize) {
        let calls = self.0.lock().unwrap();
        let wrong: Vec<_> = calls
            .iter()
            .filter(|(_, calls)| calls.len() != 1 || !calls[0].ended)
            .take(5)
            .collect();
        assert!(wrong.is_empty(), "not run exactly once: {wrong:?}");
        assert_eq!(calls.len(), steps);
    }
}
