//! Results that the database refuses for good.

use super::input::{Input, PendingInput};
use crate::{
    domain::attempt::{Failure, Outcome},
    store::StoreError,
};

/// Failure code of a step whose result the database refused.
const RESULT_REFUSED: &str = "RESULT_REFUSED";

/// Replaces a worker's outcome by an error that reports the refusal. Returns false if the outcome
/// is such a replacement already or carries no data of the worker's.
pub fn replace(pending: &mut PendingInput, error: &StoreError) -> bool {
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
