//! Operators' orders: each verb on each state, pauses, deadlines, and bulk orders, over real gRPC
//! and a real Postgres.

#[path = "../support/mod.rs"]
mod support;

mod bulk;
mod deadlines;
mod history;
mod late;
mod not_before;
mod pauses;
mod results;
mod retirements;
mod table;
mod together;
mod verb;
mod words;
