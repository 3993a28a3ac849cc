//! Evaluations of schemas, conditions, planners' answers and overrides, which no transaction does
//! itself.

pub mod conditions;
pub mod pool;
pub mod shares;
pub mod threads;
pub mod turns;
pub mod verdicts;
