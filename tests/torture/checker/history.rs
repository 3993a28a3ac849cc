//! The history of a run: the answers that clients received, the lines that handlers wrote, and the
//! rows of the database.

use std::collections::BTreeMap;

use tasker::domain::order::Order;
use uuid::Uuid;

use crate::ledger::Line;

/// Microseconds since 1970, by the database's clock.
pub type Micros = i64;

/// The input of the checker.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// By the client's own number.
    pub intents: BTreeMap<u64, Intent>,
    pub told: Vec<Told>,
    /// In the order in which they were written.
    pub lines: Vec<Line>,
    pub plans: BTreeMap<i32, Plan>,
    pub tasks: Vec<Task>,
    pub steps: Vec<Step>,
    pub attempts: Vec<Attempt>,
    /// Of tasks, causes before effects.
    pub events: Vec<Event>,
    pub workers: BTreeMap<Uuid, Worker>,
    /// Intervals in which a service admitted no step.
    pub shut: Vec<Shut>,
    /// Intervals in which a half-open circuit admitted probes only.
    pub probing: Vec<Shut>,
    /// The concurrency limit of each limited service.
    pub limits: BTreeMap<i32, usize>,
}

/// An interval in which a circuit was open, or a service throttled its callers.
#[derive(Clone, Debug)]
pub struct Shut {
    pub service: i32,
    pub why: String,
    pub from: Micros,
    pub until: Micros,
}

/// A task that the client wants to submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// `namespace/task_name`.
    pub template: String,
    pub context: String,
    pub key: Option<String>,
    /// Tasks of one request without keys; either all or none are stored.
    pub batch: Option<u64>,
    /// Number of submits of this task.
    pub tries: u32,
}

/// An answer that the client received, or its absence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Submitted {
        n: u64,
        task: Uuid,
        created: bool,
    },
    /// The order was carried out.
    Ordered {
        task: Uuid,
        order: Order,
    },
    /// No step of it starts from this time until that one, by the clock of the database.
    Paused {
        held: Held,
        from: Micros,
        until: Micros,
    },
    /// The task was seen in this final state.
    Ended {
        task: Uuid,
        state: String,
    },
    /// No answer to a call that was repeated for this long after everything was healed.
    Nothing {
        what: String,
        seconds: u64,
    },
    /// A status code that no fault explains.
    Refused {
        what: String,
        code: String,
        message: String,
    },
}

/// The scope of a pause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    Task(Uuid),
    /// A template (`namespace/task_name`), or without a name a namespace (`namespace/`).
    Templates(String),
}

/// A template: its steps by position.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// `namespace/task_name`.
    pub name: String,
    pub steps: Vec<PlannedStep>,
}

#[derive(Clone, Debug, Default)]
pub struct PlannedStep {
    pub name: String,
    pub service: i32,
    pub parents: Vec<usize>,
    pub ancestors: Vec<usize>,
    pub retry_limit: i32,
    pub timeout: Micros,
}

/// A row of `tasks`.
#[derive(Clone, Debug)]
pub struct Task {
    pub id: Uuid,
    pub template: i32,
    pub state: String,
    pub correlation_id: String,
    pub context: String,
    pub submitted_at: Micros,
    pub started_at: Option<Micros>,
    pub ended_at: Option<Micros>,
}

/// A row of `step_status`.
#[derive(Clone, Debug)]
pub struct Step {
    pub task: Uuid,
    pub step: i16,
    pub state: String,
    pub attempt: i32,
    pub charged: i32,
    pub result: Option<String>,
    pub error_code: Option<String>,
    pub ended_at: Option<Micros>,
}

impl Step {
    /// Whether an operator's order set this state.
    pub fn is_set(&self) -> bool {
        is_set(&self.state)
    }
}

pub fn is_set(state: &str) -> bool {
    matches!(state, "skipped" | "resolved_manually")
}

/// Whether the step's children may start.
pub fn is_done(state: &str) -> bool {
    state == "complete" || is_set(state)
}

/// A row of `attempts`.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub task: Uuid,
    pub step: i16,
    pub attempt: i32,
    pub outcome: String,
    pub charged: bool,
    pub lease: i64,
    pub worker: Uuid,
    pub started_at: Micros,
    pub ended_at: Micros,
    pub next_attempt_at: Option<Micros>,
    pub retry_after: Option<Micros>,
    pub error_code: Option<String>,
}

/// A row of `events`.
#[derive(Clone, Debug)]
pub struct Event {
    pub task: Uuid,
    pub kind: String,
    pub at: Micros,
    pub step: Option<i16>,
    pub attempt: Option<i32>,
    pub outcome: Option<String>,
    /// The reason, if an operator caused the event.
    pub detail: Option<String>,
}

/// A row of `workers`.
#[derive(Clone, Debug)]
pub struct Worker {
    pub draining: bool,
    pub lease_expires_at: Micros,
    pub ended_at: Option<Micros>,
}
