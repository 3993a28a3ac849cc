//! The kinds of violations of a history.

use thiserror::Error;
use uuid::Uuid;

/// One violation.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Violation {
    // Answers to clients.
    #[error("task {task} (n-{n}) was acknowledged and is not in the database")]
    TaskLost { n: u64, task: Uuid },
    #[error("n-{n} has {found} tasks in the database, and was asked for {asked} times")]
    TooManyTasks { n: u64, found: usize, asked: u32 },
    #[error("n-{n}, submitted under one key, was told the tasks {first} and {second}")]
    KeyWithTwoTasks { n: u64, first: Uuid, second: Uuid },
    #[error("n-{n}, submitted under one key, was told {times} times that it was created")]
    KeyCreatedTwice { n: u64, times: usize },
    #[error("of batch {batch}, {found} of {asked} tasks are in the database")]
    TornBatch {
        batch: u64,
        found: usize,
        asked: usize,
    },
    #[error("task {task} ({correlation_id}) is nobody's, or not what was asked for")]
    StrangeTask { task: Uuid, correlation_id: String },
    #[error("task {task} was {verb}, and {instead}")]
    OrderForgotten {
        task: Uuid,
        verb: &'static str,
        instead: String,
    },
    #[error("task {task} was seen as {seen}, and is {state}")]
    EndChanged {
        task: Uuid,
        seen: String,
        state: String,
    },
    #[error("{what} was refused with {code}: {message}")]
    RefusedForNoReason {
        what: String,
        code: String,
        message: String,
    },

    #[error("{what} was not answered within {seconds} s after everything was healed")]
    Unanswered { what: String, seconds: u64 },

    // Final states.
    #[error("task {task} is {state} after everything was healed")]
    NotFinal { task: Uuid, state: String },
    #[error("task {task}: {what}")]
    TaskStateWrong { task: Uuid, what: String },
    #[error("step {task}/{step}: {what}")]
    StepStateWrong { task: Uuid, step: i16, what: String },

    // Attempts.
    #[error("step {task}/{step} succeeded {times} times")]
    TwoSuccesses { task: Uuid, step: i16, times: usize },
    #[error("step {task}/{step} has the attempts {numbers:?}, and the step counts {counted}")]
    AttemptsNotConsecutive {
        task: Uuid,
        step: i16,
        numbers: Vec<i32>,
        counted: i32,
    },
    #[error("step {task}/{step}: attempt {attempt} ({outcome}) is charged: {charged}")]
    WronglyCharged {
        task: Uuid,
        step: i16,
        attempt: i32,
        outcome: String,
        charged: bool,
    },
    #[error("step {task}/{step} counts {counted} charged attempts, and has {charged}")]
    ChargesMiscounted {
        task: Uuid,
        step: i16,
        counted: i32,
        charged: i32,
    },
    #[error("step {task}/{step} went on after attempt {attempt} ({outcome}), which was its last")]
    OneTryTooMany {
        task: Uuid,
        step: i16,
        attempt: i32,
        outcome: String,
    },
    #[error(
        "step {task}/{step} ended as {state} with attempt {attempt} ({outcome}), although it had more"
    )]
    EndedTooEarly {
        task: Uuid,
        step: i16,
        attempt: i32,
        outcome: String,
        state: String,
    },
    #[error("step {task}/{step}: attempt {attempt} started before the one before it ended")]
    AttemptsOverlap { task: Uuid, step: i16, attempt: i32 },
    #[error("step {task}/{step}: attempt {attempt} started {early} µs too early")]
    RetriedTooEarly {
        task: Uuid,
        step: i16,
        attempt: i32,
        early: i64,
    },
    #[error("step {task}/{step}: attempt {attempt} timed out {early} µs before its deadline")]
    TimedOutTooEarly {
        task: Uuid,
        step: i16,
        attempt: i32,
        early: i64,
    },
    #[error("step {task}/{step}: attempt {attempt} was lost although its worker's lease ran")]
    LostTooEarly { task: Uuid, step: i16, attempt: i32 },
    #[error("two attempts share the lease {lease} of step {task}/{step}")]
    LeaseShared { task: Uuid, step: i16, lease: i64 },

    #[error("step {task}/{step} is {state}, although its attempt {attempt} ended it: {outcome}")]
    SetAndSettled {
        task: Uuid,
        step: i16,
        attempt: i32,
        outcome: String,
        state: String,
    },
    #[error(
        "step {task}/{step}: attempt {attempt} started after an operator had said that the step is done"
    )]
    StartedAfterSet { task: Uuid, step: i16, attempt: i32 },
    #[error(
        "step {task}/{step}: attempt {attempt} started while {what} was paused, say the {source_of_it}"
    )]
    StartedWhilePaused {
        task: Uuid,
        step: i16,
        attempt: i32,
        what: String,
        source_of_it: &'static str,
    },
    #[error("task {task} was {kind} twice in a row")]
    PausedTwice { task: Uuid, kind: String },

    // Runs of handlers.
    #[error(
        "a handler ran under the lease {lease} ({task}/{step}, attempt {attempt}), which the database does not know"
    )]
    RanUnasked {
        lease: String,
        task: String,
        step: String,
        attempt: i32,
    },
    #[error("lease {lease} ran {times} times ({task}/{step})")]
    RanTwice {
        lease: String,
        task: String,
        step: String,
        times: usize,
    },
    #[error("step {task}/{step} was given the key {key}")]
    WrongKey {
        task: String,
        step: String,
        key: String,
    },
    #[error(
        "step {task}/{step}: attempt {attempt} started while the one before it ran under a good lease"
    )]
    RanAtOnce { task: Uuid, step: i16, attempt: i32 },
    #[error(
        "step {task}/{step}, attempt {attempt}: the database says {outcome}, the handler {said}"
    )]
    OutcomeMadeUp {
        task: Uuid,
        step: i16,
        attempt: i32,
        outcome: String,
        said: String,
    },
    #[error(
        "step {task}/{step}, attempt {attempt}: accepted as {said}, and the database says {outcome}"
    )]
    AcceptedAndLost {
        task: Uuid,
        step: i16,
        attempt: i32,
        said: String,
        outcome: String,
    },
    #[error(
        "step {task}/{step}, attempt {attempt}: answered as stale, and the database says {outcome}"
    )]
    StaleAndApplied {
        task: Uuid,
        step: i16,
        attempt: i32,
        outcome: String,
    },
    #[error("the server answered for lease {lease}, which nobody ran")]
    AckFromNowhere { lease: String },
    #[error("{lines} lines of the ledger cannot be read")]
    LedgerTorn { lines: usize },

    // Documents.
    #[error("task {task}: its context is not what was submitted")]
    ContextChanged { task: Uuid },
    #[error("step {task}/{step}: its result is not what the handler of attempt {attempt} returned")]
    ResultChanged { task: Uuid, step: i16, attempt: i32 },
    #[error("step {task}/{step}, attempt {attempt} was given another {what} than the database has")]
    InputChanged {
        task: Uuid,
        step: i16,
        attempt: i32,
        what: &'static str,
    },

    // Order.
    #[error(
        "step {task}/{step} started before its parent {parent} had ended, says the {source_of_it}"
    )]
    StartedBeforeParent {
        task: Uuid,
        step: i16,
        parent: i16,
        source_of_it: &'static str,
    },

    // Events.
    #[error("task {task}: {found} events {kind} where {expected} were due{place}")]
    EventsMiscounted {
        task: Uuid,
        kind: String,
        place: String,
        expected: usize,
        found: usize,
    },
    #[error("task {task}: event {later} comes before {earlier}")]
    EventsOutOfOrder {
        task: Uuid,
        earlier: String,
        later: String,
    },
    #[error("task {task}: the time of event {kind} goes back by {by} µs")]
    EventTimesOutOfOrder { task: Uuid, kind: String, by: i64 },

    // Services.
    #[error("step {task}/{step}: attempt {attempt} started although {why}")]
    StartedWhileShut {
        task: Uuid,
        step: i16,
        attempt: i32,
        why: String,
    },
    #[error("service {service}: {most} steps at once, and {limit} are its limit")]
    LimitExceeded {
        service: i32,
        limit: usize,
        most: usize,
    },

    // During the run.
    #[error("{seconds:.1} s into the run, {sentence}")]
    InvariantBroken { seconds: Seconds, sentence: String },
    #[error("{who} ended by itself: {how}")]
    ProcessEnded { who: String, how: String },
    #[error("{who} did not end within {seconds} s of being told to")]
    ProcessStayed { who: String, seconds: u64 },
}

/// Seconds that compare by their bits, so that the enum can derive `Eq`.
#[derive(Clone, Copy, Debug)]
pub struct Seconds(pub f64);

impl PartialEq for Seconds {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Eq for Seconds {}

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Violation {
    /// The name of the variant.
    pub fn kind(&self) -> String {
        let text = format!("{self:?}");
        text.split([' ', '{', '('])
            .next()
            .unwrap_or_default()
            .to_owned()
    }
}
