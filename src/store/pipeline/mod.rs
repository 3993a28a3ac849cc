//! The engine's connection: a transaction in two round trips. The first locks and reads every row
//! that the decision needs; the second, sent once the engine has decided, writes every change and
//! ends with the `COMMIT`.
//!
//! `reads` and `writes` have the order in which a transaction sends its statements, so that the lock
//! order can be read in one place; `statement` has the statements.

mod changeset;
mod connection;
pub(super) mod encode;
mod reads;
pub(super) mod statement;
mod statements;
mod writes;

pub use changeset::Changes;
pub use connection::Pipeline;
pub use reads::{DispatchRead, IntakeRead, SettleRead};
pub use statement::{
    EndedAttempt, Grant, PROBE,
    admission::{AdmissionCheck, UsedShare},
    candidates::{Candidate, LaneDemand},
    claim::{Claim, Claimed},
    end_steps::Ended,
    ends::EndedRow,
    give_back::GivenBack,
    inputs::{TaskInput, WantedInputs},
    insert_events::Event,
    insert_live::{NewLive, Past},
    insert_tasks::NewTask,
    keys::{DroppedKey, KeyRow},
    late_results::Late,
    lock_live::LiveRow,
    lock_tasks::TaskRow,
    mark::Mark,
    pause_tasks::TaskPause,
    plan::Planned,
    retry::Retry,
    set_steps::SetStep,
    throttle::Throttle,
    update_tasks::{Kept, TaskUpdate},
};
pub use statements::STATEMENTS;
pub use writes::Applied;
