//! Traces and logs: the spans that a collector receives, and the fields that a program finds in the
//! log.

#[path = "../support/mod.rs"]
mod support;

mod collector;
mod logs;
mod one_trace;
mod without;
