//! An answer that the database refuses ends its own step, and the other answers of the batch are
//! stored.

use tasker::proto::{ResultStatus, StepState, TaskState, step_result::Outcome};
use tokio_postgres::Client as Session;

use crate::{
    load::ONE,
    support::{
        invariants::invariants,
        server::{Bench, state, step},
        worker::{RawWorker, permanent, registration, success},
    },
};

/// Number of answers at once.
const ANSWERS: usize = 12;
/// The text in an answer that the database is made to refuse.
const MARK: &str = "refuse-me";

/// Makes the database refuse marked rows of `steps` with this code.
async fn refuse(db: &Session, code: &str) {
    let sql = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW::text LIKE '%{MARK}%' THEN RAISE EXCEPTION 'made to fail' USING ERRCODE = '{code}'; END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON steps FOR EACH ROW EXECUTE FUNCTION refuse();"
    );
    db.batch_execute(&sql).await.unwrap();
}

async fn only_the_marked_one_ends(code: &str, marked: Outcome) {
    let mut bench = Bench::with(ONE).await;
    let db = bench.db.connect().await;
    refuse(&db, code).await;
    let slots = i32::try_from(ANSWERS).unwrap();
    let mut worker = RawWorker::open(&bench.server.url, registration(&["h"], slots))
        .await
        .unwrap();
    let mut ids = Vec::new();
    let mut leases = Vec::new();
    for _ in 0..ANSWERS {
        ids.push(bench.submit("t/one", "{}").await);
        leases.push(worker.assignment().await);
    }
    for (n, assignment) in leases.iter().enumerate() {
        let outcome = if n == ANSWERS / 2 {
            marked.clone()
        } else {
            success("1")
        };
        worker.answer(&assignment.lease_token, outcome).await;
    }
    for _ in 0..ANSWERS {
        assert_eq!(
            worker.ack().await.status(),
            ResultStatus::Accepted,
            "{code}"
        );
    }
    for (n, id) in ids.iter().enumerate() {
        let task = bench.finished(id).await;
        if n != ANSWERS / 2 {
            assert_eq!(state(&task), TaskState::Complete, "{code}: {n}");
            continue;
        }
        let refused = step(&task, "only");
        assert_eq!(refused.state(), StepState::Error, "{code}");
        let error = refused.error.as_ref().unwrap();
        assert_eq!(error.error_code, "RESULT_REFUSED");
        assert!(error.message.contains(code), "{}", error.message);
        assert_eq!(refused.attempts.len(), 1);
    }
    // The stream of the worker still works.
    let id = bench.submit("t/one", "{}").await;
    let last = worker.assignment().await;
    assert_eq!(
        worker.settle(&last, success("2")).await,
        ResultStatus::Accepted
    );
    assert_eq!(state(&bench.finished(&id).await), TaskState::Complete);
    invariants(&db).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_that_fails_twice_is_halved_down_to_the_failing_input() {
    // The code of a statement time-out: transient, so the settler first tries the whole batch once
    // more.
    only_the_marked_one_ends("57014", success(&format!("\"{MARK}\""))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batch_with_invalid_rows_is_halved_immediately() {
    only_the_marked_one_ends("23514", success(&format!("\"{MARK}\""))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_error_that_the_database_refuses_ends_its_step() {
    only_the_marked_one_ends("22021", permanent(MARK, "C")).await;
}
