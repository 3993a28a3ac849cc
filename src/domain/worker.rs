//! Workers as they register.

use uuid::Uuid;

use super::lease::Lease;

/// The statements of a worker that registers.
#[derive(Clone, Debug)]
pub struct Registration {
    pub name: String,
    pub build_id: String,
    /// Empty for all.
    pub namespaces: Vec<String>,
    pub handlers: Vec<String>,
    pub max_concurrent_steps: i32,
    pub max_assignment_bytes: i32,
    /// JSON object.
    pub labels: String,
    /// The worker's last connection.
    pub previous: Option<Uuid>,
    /// The leases that the worker still holds.
    pub held: Vec<Lease>,
}
