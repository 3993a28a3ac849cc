//! Workflows and their transitions: pure types and decisions, without a database, a network or a
//! clock.

pub mod adjustment;
pub mod analytics;
pub mod attempt;
pub mod budget;
pub mod circuit;
pub mod cycles;
pub mod event;
pub mod explain;
pub mod expression;
pub mod interpolation;
pub mod json;
pub mod lease;
pub mod name;
pub mod order;
pub mod policy;
pub mod progress;
pub mod repair;
pub mod retry;
pub mod schema;
pub mod settings;
pub mod size;
pub mod step;
pub mod task;
pub mod template;
pub mod time;
mod words;
