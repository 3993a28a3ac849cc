//! The `tasker` program.

fn main() {}
