//! What `/metrics` says: that it is true, bounded, documented, and of use to a real Prometheus.

#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod counts;
mod documented;
mod prometheus;
mod scrape;
mod work;
