//! Batches that fail the same way again and again although the database is there: one of their inputs is to blame.

use super::{Input, Pending};
use crate::{
    domain::attempt::{Failure, Outcome},
    store::StoreError,
};

/// The code of a step whose result the database did not take.
const RESULT_REFUSED: &str = "RESULT_REFUSED";
/// How often in a row an input fails the same way alone before it is to blame. A batch is halved the second time.
const TIMES_ALONE: usize = 4;

/// Replaces what a worker answered by a failure that says that the database refuses it. False if there is nothing to replace: the
/// refused answer is such a failure itself, or it holds nothing of the worker's.
pub(super) fn replace(pending: &mut Pending, error: &StoreError) -> bool {
    let Input::Result { outcome, .. } = &mut pending.input else {
        return false;
    };
    let answered = matches!(
        outcome,
        Outcome::Succeeded(_) | Outcome::RetryableError { .. } | Outcome::PermanentError(_)
    );
    if !answered || pending.replaced {
        return false;
    }
    *outcome = Outcome::PermanentError(failure(error));
    pending.replaced = true;
    true
}

fn failure(error: &StoreError) -> Failure {
    let why = error.way().unwrap_or("for good");
    Failure::of_server(
        RESULT_REFUSED,
        format!("the database did not take the result ({why}); the server's log says more"),
    )
}

/// How the last tries failed.
#[derive(Default)]
pub(super) struct Failing {
    way: Option<String>,
    times: usize,
}

impl Failing {
    /// Something was stored.
    pub fn passed(&mut self) {
        *self = Self::default();
    }

    /// A batch of this many inputs failed with a transient error: whether another try as a whole would only fail again. A
    /// database that is away, or restarts, is to blame itself.
    pub fn again(&mut self, error: &StoreError, inputs: usize) -> bool {
        let way = error.way().map(str::to_owned);
        self.times = if way.is_some() && way == self.way {
            self.times + 1
        } else {
            usize::from(way.is_some())
        };
        self.way = way;
        self.times >= if inputs > 1 { 2 } else { TIMES_ALONE }
    }
}
