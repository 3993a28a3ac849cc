//! The transactions of the engine: intake stores submits, settle applies results, losses, time-outs
//! and commands, and dispatch claims waiting steps. Inputs gather while a transaction is in flight,
//! so a batch is one input when idle and hundreds under load.

pub mod dispatch;
pub mod intake;
pub mod kind;
pub mod outlets;
pub mod policy;
pub mod publish;
pub mod queue;
pub mod runner;
pub mod settle;
pub mod weigh;
