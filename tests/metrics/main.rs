//! `/metrics`: it is correct, bounded, documented, and usable by a real Prometheus.

#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod counts;
mod documented;
mod prometheus;
mod scrape;
mod work;
