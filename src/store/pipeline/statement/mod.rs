//! The hot statements, one a module: its rows in Rust, its SQL, and the arrays of its parameters side
//! by side, so that a column is added in one place.
//!
//! Each list of a transaction is one statement, whatever its length. Rows are found by `LATERAL (...
//! LIMIT 1)` and changed by their `ctid`, never joined by their key. A join would let Postgres walk
//! the table and look up the list instead, a plan that it takes when it last saw the table empty,
//! and keeps when the table is a million rows long. A condition inside the subquery can only be
//! looked up in the key's index, and the rows of the list are estimated as few (a tenth, as the
//! limit is not known), so that a row by its `ctid` is always cheaper than a walk. `tests/plans.rs`
//! checks the plan of every statement.

pub(in crate::store) mod admission;
pub(in crate::store) mod candidates;
pub(in crate::store) mod claim;
pub(in crate::store) mod deadlines;
pub(in crate::store) mod end_steps;
pub(in crate::store) mod ends;
pub(in crate::store) mod give_back;
pub(in crate::store) mod inputs;
pub(in crate::store) mod insert_events;
pub(in crate::store) mod insert_live;
pub(in crate::store) mod insert_tasks;
pub(in crate::store) mod keys;
pub(in crate::store) mod late_results;
pub(in crate::store) mod lock_live;
pub(in crate::store) mod lock_tasks;
pub(in crate::store) mod mark;
pub(in crate::store) mod newest_template;
pub(in crate::store) mod pause_tasks;
pub(in crate::store) mod plan;
pub(in crate::store) mod reopen;
pub(in crate::store) mod retries_due;
pub(in crate::store) mod retry;
pub(in crate::store) mod set_steps;
pub(in crate::store) mod throttle;
pub(in crate::store) mod update_tasks;

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::{
    domain::{
        attempt::{Failure, OutcomeKind},
        step::StepState,
    },
    store::StoreError,
};

/// A lease to write: the right to one attempt.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    pub worker_id: Uuid,
    pub nonce: i64,
    /// Time-out of the attempt.
    pub timeout: Duration,
    /// The quota share of a limited service that the attempt uses, or [`PROBE`].
    pub share_id: Option<i32>,
}

/// In place of a quota share: the attempt is a probe of a half-open circuit. No share has this id.
pub const PROBE: i32 = 0;

/// What the history records about an ended attempt.
#[derive(Clone, Debug)]
pub struct EndedAttempt {
    pub task_id: Uuid,
    pub step: i16,
    pub template_id: i32,
    pub attempt: i32,
    pub lease: i64,
    pub worker_id: Uuid,
    pub outcome: OutcomeKind,
    pub charged: bool,
    pub failure: Option<Failure>,
    pub retry_after: Option<Duration>,
    pub ready_at: SystemTime,
    pub started_at: SystemTime,
}

pub(in crate::store) fn step_state(name: &str) -> Result<StepState, StoreError> {
    StepState::from_name(name).ok_or_else(|| StoreError::Corrupt(format!("step state `{name}`")))
}
