//! The engine: loops that read under lock, decide with `domain`, and write in one transaction.
//!
//! ```text
//! intake    submits            ─▶ tasks, steps, root steps in play ─┐
//! settle    results, time-outs,                                     ├─▶ hub ─▶ worker streams
//!           losses, commands   ─▶ next steps in play                │
//! dispatch  free slots         ─▶ claims of waiting steps          ─┘
//! leases    heartbeats ─▶ workers' leases; lapsed leases, passed deadlines ─▶ settle
//! services  health of calls ─▶ circuits; quota shares ─▶ gates
//! auditor   stuck steps and tasks ─▶ repaired
//! retention tasks and events beyond the retention time ─▶ removed
//! peers     other servers' notifications ─▶ dispatch, catalog, gates, watchers, events
//! events    the log ─▶ subscribers
//! traces    committed changes ─▶ a collector's spans, the log
//! ```

pub mod assignment;
pub mod auditor;
pub mod backlog;
pub mod catalog;
pub mod circuits;
pub mod claims;
pub mod conditions;
mod core;
pub mod dispatch;
pub mod documents;
pub mod edge;
pub mod effective;
pub mod events;
pub mod gates;
pub mod hash;
pub mod health;
mod held;
pub mod hub;
pub mod intake;
pub mod judge;
pub mod leases;
pub mod metrics;
pub mod pauses;
pub mod peers;
pub mod pulse;
mod quotas;
pub mod retention;
pub mod retirements;
pub mod services;
pub mod settle;
mod shared;
mod sizes;
pub mod traces;
pub mod watch;

pub use core::{Engine, EngineConfig};
