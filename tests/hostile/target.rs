//! The server under attack: the expected answer to each attack, and the check that no attack stores
//! anything.

use std::{
    fmt::{Debug, Display},
    sync::{Mutex, Once},
};

use prost::Message;
use tasker::proto::{ResultStatus, TaskState};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    raw::Raw,
    support::{
        server::{Bench, register, state},
        worker::{RawWorker, success},
    },
};

pub const SEED: &str = include_str!("../fixtures/user_registration.yaml");
pub const GOOD: &str = "
task_name: good
namespace: hostile
version: 1.0.0
step_templates:
  - {name: a, handler_class: good, default_retry_limit: 5}
";

/// The size of headers that every gRPC client accepts, minus the part that HTTP itself needs.
const MAX_STATUS_BYTES: usize = 8_000;

/// Panics of the server's tasks, which would otherwise only end those tasks.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static HOOK: Once = Once::new();

fn watch_panics() {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let of_a_test = info
                .location()
                .is_some_and(|at| at.file().starts_with("tests/"));
            if !of_a_test {
                PANICS.lock().unwrap().push(info.to_string());
            }
            before(info);
        }));
    });
}

pub struct Target {
    pub bench: Bench,
    pub raw: Raw,
    db: tokio_postgres::Client,
    stored: Vec<i64>,
    cases: usize,
    wrong: Vec<String>,
}

impl Target {
    /// A server with two templates: the seed's and [`GOOD`].
    pub async fn new() -> Self {
        watch_panics();
        let mut bench = Bench::with(SEED).await;
        register(&mut bench.client, GOOD).await;
        bench.circuits_off().await;
        let (db, raw) = (
            bench.db.connect().await,
            Raw::connect(&bench.server.url).await,
        );
        let mut target = Self {
            bench,
            raw,
            db,
            stored: Vec::new(),
            cases: 0,
            wrong: Vec::new(),
        };
        target.look().await;
        target
    }

    /// Takes the present number of rows as the one that must stay.
    pub async fn look(&mut self) {
        self.stored = self.count().await;
    }

    /// The number of rows in each table that a refused request must not change. Connections of
    /// workers do write events, which are not counted.
    async fn count(&self) -> Vec<i64> {
        let sql =
            "SELECT ARRAY[(SELECT count(*) FROM tasks), (SELECT count(*) FROM steps), (SELECT count(*) FROM queue),
            (SELECT count(*) FROM events WHERE type::text NOT LIKE 'worker.%'), (SELECT count(*) FROM templates),
            (SELECT count(*) FROM template_steps), (SELECT count(*) FROM lanes),
            (SELECT count(*) FROM idempotency_keys)]";
        self.db.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Sends a request to an rpc, such as `TaskService/GetTask`, which must refuse it.
    pub async fn refuses(
        &mut self,
        case: impl Display,
        rpc: &str,
        request: &impl Message,
        code: Code,
        says: &str,
    ) {
        self.refuses_bytes(case, rpc, request.encode_to_vec(), code, says)
            .await;
    }

    pub async fn refuses_bytes(
        &mut self,
        case: impl Display,
        rpc: &str,
        request: Vec<u8>,
        code: Code,
        says: &str,
    ) {
        let answer = self.raw.call(&format!("/tasker.v1.{rpc}"), request).await;
        self.check(format!("{rpc}: {case}"), answer, code, says)
            .await;
    }

    /// The answer must have this code, with `says` in its message, and no row may have been stored.
    pub async fn check<T: Debug>(
        &mut self,
        case: impl Display,
        answer: Result<T, Status>,
        code: Code,
        says: &str,
    ) {
        match answer {
            Ok(answer) => {
                let answer = format!("{answer:?}");
                self.note(false, format!("{case}: not refused, {answer:.200}"));
            }
            Err(status) => {
                let message = status.message();
                let bytes = 3 * message.len() + status.details().len() * 4 / 3;
                self.note(
                    status.code() == code
                        && !message.is_empty()
                        && message.contains(says)
                        && bytes < MAX_STATUS_BYTES,
                    format!(
                        "{case}: expected {code:?} with `{says}`, got {:?} {message:?}",
                        status.code()
                    ),
                );
            }
        }
        let now = self.count().await;
        if now != self.stored {
            self.wrong
                .push(format!("{case}: stored {:?} -> {now:?}", self.stored));
            self.stored = now;
        }
    }

    /// Counts a case, and records it if it is wrong.
    pub fn note(&mut self, right: bool, what: String) {
        self.cases += 1;
        if !right {
            self.wrong.push(what);
        }
    }

    /// Asserts that after all attacks the server still runs a task, and that no task has panicked.
    pub async fn end(mut self, at_least: usize) {
        let wrong = std::mem::take(&mut self.wrong);
        assert!(
            wrong.is_empty(),
            "{} of {} cases:\n{}",
            wrong.len(),
            self.cases,
            wrong.join("\n")
        );
        assert!(self.cases >= at_least, "only {} cases", self.cases);
        eprintln!("{} cases", self.cases);
        let mut worker = RawWorker::connect(&self.bench.server.url, &["good"]).await;
        let id = self.bench.submit("hostile/good", "{}").await;
        let assignment = worker.assignment().await;
        assert_eq!(assignment.task_id, id);
        assert_eq!(
            worker.settle(&assignment, success("1")).await,
            ResultStatus::Accepted
        );
        assert_eq!(state(&self.bench.finished(&id).await), TaskState::Complete);
        let panics = PANICS.lock().unwrap();
        assert!(panics.is_empty(), "{panics:#?}");
    }
}

/// The fields that a refusal names.
pub fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    details
        .bad_request()
        .map(|b| b.field_violations.iter().map(|v| v.field.clone()).collect())
        .unwrap_or_default()
}
