//! Commands of operators that are not about one task.

pub mod pause;
pub mod retire;
