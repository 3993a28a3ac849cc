//! Detects a batch that keeps failing the same way although the database is available: one of its
//! inputs is the cause.

use super::{Input, Pending};
use crate::{
    domain::attempt::{Failure, Outcome},
    store::StoreError,
};

/// Failure code of a step whose result the database refused.
const RESULT_REFUSED: &str = "RESULT_REFUSED";
/// Consecutive equal failures of a single input before it is given up. A batch is halved at the
/// second.
const TIMES_ALONE: usize = 4;

/// Replaces a worker's outcome by an error that reports the refusal. Returns false if the outcome
/// is such a replacement already or carries no data of the worker's.
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
        format!("the database refused the result ({why}); see the server's log"),
    )
}

/// The last failure and the number of times it was repeated.
#[derive(Default)]
pub(super) struct Failing {
    way: Option<String>,
    times: usize,
}

impl Failing {
    /// Resets the counter after a commit.
    pub fn passed(&mut self) {
        *self = Self::default();
    }

    /// Records a transient failure of a batch of `inputs` inputs. Returns true if another try of
    /// the whole batch would fail again. Failures of the database itself (away, restarting) never
    /// count.
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
