//! Decisions on inputs. Pure: from rows that were read under lock to the rows to write and the
//! messages to send after the commit.

mod attempt;
mod cancel;
mod command;
mod deadline;
pub mod decision;
mod evaluation;
pub mod finish;
pub mod input;
mod pause;
pub mod refused;
mod resolve;
mod result;
mod retry;
mod set_step;
pub mod submit;
#[cfg(test)]
mod tests;
mod too_large;
pub mod unlock;
