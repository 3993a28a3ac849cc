//! Tasks that adapt: overrides, planners, conditions, environments and result schemas, over real
//! gRPC and a real Postgres.

#[path = "../support/mod.rs"]
mod support;

mod conditions;
mod enterprise;
mod environments;
mod planners;
mod play;
mod poison;
mod results;
