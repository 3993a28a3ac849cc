//! Claims that rely on an outdated admission: the database refuses them, and the error is
//! recognised.

use std::time::Duration;

use tasker::store::{
    StoreError,
    pipeline::{AdmissionCheck, Changes, Grant, NewLive, Pipeline, UsedShare, WantedInputs},
};
use uuid::Uuid;

use crate::support::TestDb;

/// A claim of a new step at service 1, by this version and this quota share.
fn claim(version: i64, share: Option<UsedShare>) -> Changes {
    Changes {
        new_live: vec![NewLive {
            task_id: Uuid::now_v7(),
            step: 0,
            template_id: 1,
            lane_id: 1,
            priority: 0,
            past: None,
            timeout: None,
            expires_at: None,
            not_before: None,
            paused: false,
            bytes: 0,
            revision: 0,
            grant: Some(Grant {
                worker_id: Uuid::now_v7(),
                nonce: 1,
                timeout: Duration::from_secs(1),
                share_id: share.map(|share| share.share_id),
            }),
        }],
        admissions: vec![AdmissionCheck {
            service_id: 1,
            version,
            share,
        }],
        ..Changes::default()
    }
}

fn share(term: i64, spent: i32) -> Option<UsedShare> {
    Some(UsedShare {
        share_id: 1,
        term,
        spent,
    })
}

#[tokio::test]
async fn a_claim_by_an_outdated_admission_is_refused_and_recognised() {
    let db = TestDb::new().await;
    let client = db.connect().await;
    client
        .batch_execute(
            "INSERT INTO services (namespace, service, version) VALUES ('t', 'billing', 7);
             INSERT INTO quota_shares (service_id, server_id, count, wanted, term, seen_at)
             VALUES (1, gen_random_uuid(), 2, 2, 3, now())",
        )
        .await
        .unwrap();
    let hot = Pipeline::connect(&db.db()).await.unwrap();
    let inputs = WantedInputs::default();
    for (case, claim) in [
        ("version", claim(6, None)),
        ("term", claim(7, share(2, 0))),
        ("term of probes", claim(7, share(2, 1))),
        ("number of probes", claim(7, share(3, 3))),
    ] {
        let error = hot.commit_at_once(&claim, &inputs).await.unwrap_err();
        assert!(error.is_stale_admission(), "{case}: {error}");
        assert!(error.is_expectation(), "{case}: {error}");
    }
    for (case, claim) in [
        ("version", claim(7, None)),
        ("share", claim(7, share(3, 0))),
        ("probes", claim(7, share(3, 2))),
    ] {
        let applied = hot.commit_at_once(&claim, &inputs).await;
        assert!(applied.is_ok(), "{case}: {applied:?}");
    }
    let spent = claim(7, share(3, 1));
    let error = hot.commit_at_once(&spent, &inputs).await.unwrap_err();
    assert!(error.is_stale_admission(), "no probe is left: {error}");
    let count = client.query_one("SELECT count(*) FROM queue", &[]);
    assert_eq!(count.await.unwrap().get::<_, i64>(0), 3);
}

#[tokio::test]
async fn another_unexpected_number_of_rows_is_not_a_stale_admission() {
    let db = TestDb::new().await;
    let client = db.connect().await;
    let error = client
        .execute("SELECT expect_rows('tasks', 0, 1)", &[])
        .await
        .unwrap_err();
    let error = StoreError::from(error);
    assert!(error.is_expectation() && !error.is_stale_admission());
}
