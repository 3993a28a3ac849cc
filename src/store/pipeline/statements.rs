//! The list of the hot statements. Each connection prepares them once.

use tokio_postgres::{Client, Statement};

use super::statement::{
    admission, candidates, claim, deadlines, end_steps, ends, give_back, inputs, insert_events,
    insert_live, insert_tasks, keys, late_results, lock_live, lock_tasks, mark, newest_template,
    pause_tasks, plan, reopen, retries_due, retry, set_steps, throttle, update_tasks,
};
use crate::store::StoreError;

macro_rules! statements {
    ($($name:ident: $sql:expr,)*) => {
        /// The statements of one connection.
        pub(super) struct Statements {
            $(pub(super) $name: Statement,)*
        }

        impl Statements {
            pub(super) async fn prepare(client: &Client) -> Result<Self, StoreError> {
                Ok(Self { $($name: client.prepare($sql).await?,)* })
            }
        }

        /// Every hot statement with its name, for tests that inspect its plan.
        pub const STATEMENTS: &[(&str, &str)] = &[$((stringify!($name), $sql),)*];
    };
}

statements! {
    begin: "BEGIN",
    commit: "COMMIT",
    clock: "SELECT clock_timestamp()",
    lock_leases: lock_live::LOCK_LEASES,
    lock_tasks_live: lock_live::LOCK_TASKS_LIVE,
    lock_tasks: lock_tasks::LOCK_TASKS,
    peek: candidates::PEEK,
    lock_ready: candidates::LOCK_READY,
    promote: retries_due::PROMOTE,
    next_retry: retries_due::NEXT_RETRY,
    anything_due: retries_due::ANYTHING_DUE,
    newest_template: newest_template::NEWEST_TEMPLATE,
    take_keys: keys::TAKE_KEYS,
    read_keys: keys::READ_KEYS,
    past_outcomes: ends::PAST_OUTCOMES,
    insert_tasks: insert_tasks::INSERT_TASKS,
    drop_keys: keys::DROP_KEYS,
    end_steps: end_steps::END_STEPS,
    retry: retry::RETRY,
    give_back: give_back::GIVE_BACK,
    insert_live: insert_live::INSERT_LIVE,
    claim: claim::CLAIM,
    update_tasks: update_tasks::UPDATE_TASKS,
    insert_events: insert_events::INSERT_EVENTS,
    throttle: throttle::THROTTLE,
    lock_shares: admission::LOCK_SHARES,
    spend_probes: admission::SPEND_PROBES,
    notify: "SELECT pg_notify($1, $2)",
    task_inputs: inputs::TASK_INPUTS,
    result_inputs: inputs::RESULT_INPUTS,
    past_ends: ends::PAST_ENDS,
    sizes: inputs::SIZES,
    set_steps: set_steps::SET_STEPS,
    reopen: reopen::REOPEN,
    pause_tasks: pause_tasks::PAUSE_TASKS,
    mark: mark::MARK,
    plan: plan::PLAN,
    set_deadlines: deadlines::SET_DEADLINES,
    drop_deadlines: deadlines::DROP_DEADLINES,
    late_results: late_results::LATE_RESULTS,
}
