//! Workflow templates: from untrusted YAML to a validated [`Template`] and its [`Graph`], and from a
//! template and a task's documents to the task's [`Settings`].
//!
//! The crate decides and does nothing else: it opens no file and no socket, and reads no clock.
//! Neither a template nor a document is trusted. All problems of a template are reported at once,
//! each with its position, and the cost of judging a document is counted against a [`Budget`] before
//! the work is done.
//!
//! ```
//! use tasker_template::{Graph, StepIndex, Template};
//!
//! let yaml = "
//! task_name: hello
//! schema: {type: object, required: [name], properties: {name: {type: string}}}
//! step_templates:
//!   - {name: greet, handler: demo.greet}
//!   - {name: shout, handler: demo.shout, depends_on_step: greet}
//! ";
//! let template = Template::parse(yaml, "")?;
//! assert_eq!(Graph::of(&template).children(StepIndex::FIRST), [1]);
//! # Ok::<(), Vec<tasker_template::Problem>>(())
//! ```

mod adjustment;
mod backoff;
mod budget;
mod cycles;
mod expression;
mod interpolation;
pub mod json_text;
mod limits;
pub mod name;
mod schema;
mod settings;
mod step_index;
mod step_template;
mod template;
mod text;
mod yaml;

pub use adjustment::{Adjustment, StepAdjustment};
pub use backoff::Backoff;
pub use budget::{Budget, MAX_JUDGING_STEPS, TOO_COSTLY, TooCostly};
pub use expression::{EvaluationError, Expression, StepResults, Values};
pub use json_text::JsonError;
pub use limits::*;
pub use name::MAX_NAME_BYTES;
pub use schema::{ContextSchema, MAX_VIOLATIONS, Misfit, SchemaProblem, Violation};
pub use settings::{MAX_SETTINGS_BYTES, Settings};
pub use step_index::{NoSuchStep, StepIndex};
pub use step_template::StepTemplate;
pub use template::{AdjustmentError, Checked, Graph, MAX_ADJUSTMENT_BYTES, Override, Template};
pub use yaml::problem::{MAX_PROBLEMS, Problem};
