//! The golden shapes and cases, over real gRPC and a real Postgres. The numbers are those of the
//! cases' table.

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod cases_cancel;
mod cases_dispatch;
mod cases_drains;
mod cases_leases;
mod cases_retry;
mod cases_streams;
mod cases_submit;
mod latency;
mod reads;
mod shapes;
mod sizes;
