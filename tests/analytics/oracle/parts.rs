//! A time by its causes.

use tasker::proto;

use super::{Us, micros};

/// Time by cause: dependency, back-off, circuit, pause, limit, no worker, dispatch, run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    pub dependency: Us,
    pub backoff: Us,
    pub circuit: Us,
    pub pause: Us,
    pub limit: Us,
    pub no_worker: Us,
    pub dispatch: Us,
    pub run: Us,
}

impl Parts {
    pub(super) fn add(&mut self, o: &Parts) {
        self.dependency += o.dependency;
        self.backoff += o.backoff;
        self.circuit += o.circuit;
        self.pause += o.pause;
        self.limit += o.limit;
        self.no_worker += o.no_worker;
        self.dispatch += o.dispatch;
        self.run += o.run;
    }

    pub fn sum(&self) -> Us {
        self.dependency
            + self.backoff
            + self.circuit
            + self.pause
            + self.limit
            + self.no_worker
            + self.dispatch
            + self.run
    }

    pub fn of(ledger: &proto::Ledger) -> Self {
        Self {
            dependency: micros(ledger.dependency),
            backoff: micros(ledger.backoff),
            circuit: micros(ledger.circuit),
            pause: micros(ledger.pause),
            limit: micros(ledger.limit),
            no_worker: micros(ledger.no_worker),
            dispatch: micros(ledger.dispatch),
            run: micros(ledger.run),
        }
    }
}

/// Asserts equality, except for `off` microseconds between limit and dispatch, which come from the
/// rate limit.
pub(super) fn same(seen: &Parts, expected: &Parts, off: usize) {
    let off = Us::try_from(off).unwrap();
    let near = (seen.limit - expected.limit).abs() <= off
        && (seen.dispatch - expected.dispatch).abs() <= off;
    assert!(near, "{seen:?} is not {expected:?}");
    assert_eq!(
        seen.limit + seen.dispatch,
        expected.limit + expected.dispatch,
        "{seen:?} is not {expected:?}"
    );
    let rest = |p: &Parts| Parts {
        limit: 0,
        dispatch: 0,
        ..*p
    };
    assert_eq!(rest(seen), rest(expected));
}
