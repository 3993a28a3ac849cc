//! What a run left behind: what clients were told, what handlers wrote down, and what the database holds.

use std::collections::BTreeMap;

use tasker::domain::order::Order;
use uuid::Uuid;

use crate::ledger::Line;

/// Microseconds since 1970, by the database's clock.
pub type Micros = i64;

/// Everything that the checker looks at.
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
    /// When nobody was let through to a service.
    pub shut: Vec<Shut>,
    /// When a few were let through to a service to see how it is.
    pub probing: Vec<Shut>,
    /// The steps at once that a service takes.
    pub limits: BTreeMap<i32, usize>,
}

/// A time in which a circuit was open, or a service had asked for a pause.
#[derive(Clone, Debug)]
pub struct Shut {
    pub service: i32,
    pub why: String,
    pub from: Micros,
    pub until: Micros,
}

/// A task that the client wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    /// `namespace/task_name`.
    pub template: String,
    pub context: String,
    pub key: Option<String>,
    /// Tasks of one request without keys, which are all stored or none.
    pub batch: Option<u64>,
    /// How often it was asked for.
    pub tries: u32,
}

/// What the client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Submitted {
        n: u64,
        task: Uuid,
        created: bool,
    },
    /// The order was followed.
    Ordered {
        task: Uuid,
        order: Order,
    },
    /// Nothing of it starts from this time until that one, by the clock of the database.
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
    /// No answer to what was asked again and again, for so long after everything was healed.
    Nothing {
        what: String,
        seconds: u64,
    },
    /// A code that no fault explains.
    Refused {
        what: String,
        code: String,
        message: String,
    },
}

/// What is paused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    Task(Uuid),
    /// A template, or without its name a namespace: `namespace/task_name`, `namespace/`.
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
    /// An operator's word made it so.
    pub fn is_set(&self) -> bool {
        is_set(&self.state)
    }
}

pub fn is_set(state: &str) -> bool {
    matches!(state, "skipped" | "resolved_manually")
}

/// Its children need not wait for it any more.
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
    /// Why, if an operator did it.
    pub detail: Option<String>,
}

/// A row of `workers`.
#[derive(Clone, Debug)]
pub struct Worker {
    pub draining: bool,
    pub lease_expires_at: Micros,
    pub ended_at: Option<Micros>,
}
