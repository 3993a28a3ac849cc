//! What moves tasks forward: loops that read under lock, decide with `domain`, and write in one transaction.
//!
//! ```text
//! intake    submits           ─▶ tasks, steps, root steps in play ─┐
//! settle    results, time-outs, losses, cancels ─▶ next steps      ├─▶ hub ─▶ worker streams
//! dispatch  free slots        ─▶ claims of waiting steps          ─┘
//! leases    heartbeats out, lapsed leases and passed deadlines into settle
//! auditor   what nothing would wake ─▶ mended
//! retention what is too old ─▶ nothing
//! peers     other servers' notifications ─▶ dispatch, catalog, watchers, events
//! events    the log ─▶ subscribers
//! traces    what was committed ─▶ a collector's spans, the log
//! ```

pub mod assignment;
pub mod auditor;
pub mod backlog;
pub mod catalog;
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
pub mod retention;
pub mod retirements;
pub mod services;
pub mod settle;
mod shared;
mod sizes;
pub mod traces;
pub mod watch;

pub use core::{Engine, EngineConfig};
