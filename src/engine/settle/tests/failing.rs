//! When a batch that fails is divided, and when an input is to blame.

use super::*;
use crate::engine::settle::failing::Failing;

fn away() -> StoreError {
    StoreError::Connection("no answer in time".into())
}

#[test]
fn a_database_that_is_away_is_never_the_fault_of_what_is_to_be_stored() {
    let mut failing = Failing::default();
    assert!((0..100).all(|_| !failing.again(&away(), 1) && !failing.again(&away(), 9)));
}
