//! Templates as the engine runs them.

pub mod compile;
pub mod compiled;
pub mod sizes;
pub mod task_plan;
