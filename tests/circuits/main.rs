//! Circuits, throttles and limits, from outside: real servers, real workers, and a service that
//! counts its calls.

mod admission;
mod explain;
mod limits;
mod operators;
mod outages;
mod pauses;
mod readings;
mod service;
#[path = "../support/mod.rs"]
mod support;
