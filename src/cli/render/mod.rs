//! Output for people: the terminal, tables, durations and times, and the graph of a task.

pub mod graph;
pub mod human;
pub mod table;
pub mod task;
pub mod term;
pub mod watch;
