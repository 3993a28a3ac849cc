//! Traces and logs: what a collector gets, and what a program that reads the log can do with it.

#[path = "../support/mod.rs"]
mod support;

mod collector;
mod logs;
mod one_trace;
mod without;
