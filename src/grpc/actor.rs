//! The operator of an order and the reason for it.

use tonic::Status;

use super::error;
use crate::{
    domain::order::{MAX_BY_BYTES, MAX_REASON_BYTES},
    engine::Violated,
    store::service::Actor,
};

/// An operator and a reason, both required.
pub fn actor(by: String, reason: String) -> Result<Actor, Status> {
    check_words(&by, &reason, 1)?;
    Ok(Actor { by, reason })
}

/// The caller of a dry run: nothing is recorded, so both texts may be empty.
pub fn inquirer(by: String, reason: String) -> Result<Actor, Status> {
    check_words(&by, &reason, 0)?;
    Ok(Actor { by, reason })
}

/// Checks the actor and the reason; blank text counts as empty. One answer names all that is wrong.
fn check_words(by: &str, reason: &str, min: usize) -> Result<(), Status> {
    let from = if min == 0 {
        "at most".to_owned()
    } else {
        format!("{min} to")
    };
    // Postgres cannot store NUL, which no other check of these texts refuses.
    let wrong: Vec<Violated> = [
        ("by", by, MAX_BY_BYTES),
        ("reason", reason, MAX_REASON_BYTES),
    ]
    .into_iter()
    .filter(|(_, text, max)| text.len() > *max || text.contains('\0') || text.trim().len() < min)
    .map(|(field, _, max)| Violated {
        field: field.to_owned(),
        message: format!("expected {from} {max} bytes without NUL"),
    })
    .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(error::violations(&wrong))
    }
}
