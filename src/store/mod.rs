//! The only module with SQL. One file per noun; callers own transactions, and rows leave as domain
//! types.

pub mod analytics;
pub mod audit;
pub mod backlog;
pub mod bench;
pub mod bulk;
pub mod collision_metrics;
mod connect;
mod count;
pub mod db;
pub mod deadline;
pub mod documents;
pub mod error;
pub mod event;
pub mod explain;
pub mod migrate;
pub mod pause;
pub mod pipeline;
mod pool;
pub mod repair;
pub mod retention;
pub mod retirement;
pub mod server;
pub mod service;
pub mod stranded;
pub mod task;
pub mod template;

mod tls;
pub mod trace;
mod unused;
pub mod url;
pub mod vacuum;
pub mod worker;

pub use db::Db;
pub use error::StoreError;
