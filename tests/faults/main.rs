//! Crashes: servers, workers and Postgres are killed, stopped and cut off under load; every
//! accepted task is completed all the same, each step once.

#[path = "../support/mod.rs"]
mod support;

mod auditor;
mod away;
mod cluster;
mod collisions;
mod commits;
mod cut_off;
mod idle;
mod ledger;
mod load;
mod overload;
mod peers;
mod postgres;
mod proxy;
mod quiet;
mod refused;
mod selfish;
mod servers;
mod shares;
mod stalled;
mod standby;
mod workers;
