//! The bounds and the defaults of a template.

use std::time::Duration;

/// Largest YAML text of a template, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 256 * 1024;
/// Largest number of steps; a template has at least one.
pub const MAX_STEPS_PER_TEMPLATE: usize = 1_000;
/// Largest `handler_config`, in bytes of JSON.
pub const MAX_HANDLER_CONFIG_BYTES: usize = 64 * 1024;
/// Largest `annotations`, in bytes of JSON.
pub const MAX_ANNOTATIONS_BYTES: usize = 16 * 1024;
/// Largest `default_retry_limit`; the smallest is 1.
pub const MAX_RETRY_LIMIT: u32 = 100;
/// `default_retry_limit` of a step that specifies none.
pub const DEFAULT_RETRY_LIMIT: u32 = 3;
/// `timeout_seconds` of a step that specifies none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);
/// Smallest `timeout_seconds`.
pub const MIN_TIMEOUT: Duration = Duration::from_millis(1);
/// Largest `timeout_seconds`: seven days.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Largest total of all distinct expressions, in bytes: parsing expressions takes longer than
/// reading the rest of a template.
pub const MAX_EXPRESSIONS_BYTES: usize = 64 * 1024;
/// Largest number of `overrides`.
pub const MAX_OVERRIDES: usize = 100;
/// Largest number of `environments`.
pub const MAX_ENVIRONMENTS: usize = 20;
/// Name of the step that a template with a `planner` has before all others.
pub const PLANNER: &str = "planner";
/// Namespace of a template that specifies none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Version of a template that specifies none.
pub const DEFAULT_VERSION: semver::Version = semver::Version::new(0, 1, 0);
/// A task's priority is at least minus this and at most this.
pub const MAX_PRIORITY: i32 = 100;

/// The bounds of a time-out in words.
pub(crate) fn timeout_expected() -> String {
    format!(
        "a number of seconds from {} to {}",
        MIN_TIMEOUT.as_secs_f64(),
        MAX_TIMEOUT.as_secs()
    )
}
