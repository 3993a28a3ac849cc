//! Limits hold for the whole cluster: never more steps at once, also across a server's crash; and
//! no more starts per second.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tasker::proto;
use tasker_worker::client::Client;

use crate::{
    service::{Service, caller, set, submit_many},
    support::{
        TestDb,
        invariants::invariants,
        process::ServerProcess,
        server::{TestServer, eventually, register},
    },
};

fn at_once(n: i32) -> proto::Policy {
    proto::Policy {
        max_concurrency: Some(n),
        ..Default::default()
    }
}

/// The most attempts of the service at one moment, by the database's times.
async fn most_at_once(db: &tokio_postgres::Client) -> i64 {
    let sql = "SELECT coalesce(max(n), 0)::bigint FROM (
                   SELECT sum(d) OVER (ORDER BY at, d) AS n FROM (
                       SELECT started_at AS at, 1 AS d FROM attempts
                       UNION ALL SELECT ended_at, -1 FROM attempts
                       UNION ALL SELECT started_at, 1 FROM queue WHERE worker_id IS NOT NULL) e) r";
    db.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrency_limit_holds_with_two_servers_and_a_crash() {
    const LIMIT: usize = 5;
    let test = TestDb::new().await;
    let db = test.connect().await;
    let mut one = ServerProcess::start(test.url());
    let two = ServerProcess::start(test.url());
    let mut client = Client::connect(&two.url).await.unwrap();
    register(&mut client, &caller("call", "h", "billing")).await;
    set(&mut client, "billing", at_once(5)).await;
    let billing = Service::default();
    billing.millis.store(30, Ordering::SeqCst);
    // Each worker has more slots than the limit, and may move to the other server.
    let workers: Vec<_> = [[&one.url, &two.url], [&two.url, &one.url]]
        .iter()
        .map(|urls| billing.worker(&[urls[0], urls[1]], "h", 20))
        .collect();
    submit_many(&mut client, "t/call", 600).await;
    eventually("a third is done", || async {
        (billing.calls() > 200).then_some(())
    })
    .await;
    let address = one.address().to_owned();
    one.kill();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _one = ServerProcess::start_at(test.url(), &address);
    eventually("everything completes", || async {
        let left: i64 = db
            .query_one("SELECT count(*) FROM tasks WHERE ended_at IS NULL", &[])
            .await
            .unwrap()
            .get(0);
        (left == 0).then_some(())
    })
    .await;
    assert!(billing.most() <= LIMIT, "{} calls at once", billing.most());
    assert_eq!(billing.most(), LIMIT, "the limit was never reached");
    assert!(
        most_at_once(&db).await <= 5,
        "{} attempts at once by the database's times",
        most_at_once(&db).await
    );
    invariants(&db).await;
    workers.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Attempts that ran when the circuit opened still run when it is probed, and when it closes.
#[tokio::test(flavor = "multi_thread")]
async fn probes_and_recovery_stay_within_the_limit() {
    const LIMIT: i64 = 4;
    let test = TestDb::new().await;
    let db = test.connect().await;
    let server = TestServer::start(&test).await;
    let mut client = server.client().await;
    register(&mut client, &caller("slow", "slow", "billing")).await;
    register(&mut client, &caller("quick", "quick", "billing")).await;
    let policy = proto::Policy {
        max_concurrency: Some(4),
        min_calls: Some(3),
        cool_down_seconds: Some(0.2),
        max_cool_down_seconds: Some(0.2),
        ramp_seconds: Some(0.5),
        ..Default::default()
    };
    set(&mut client, "billing", policy).await;
    let (slow, quick) = (Service::default(), Service::failing(100));
    slow.millis.store(2_000, Ordering::SeqCst);
    quick.millis.store(10, Ordering::SeqCst);
    let workers = [
        slow.worker(&[&server.url], "slow", 8),
        quick.worker(&[&server.url], "quick", 8),
    ];
    submit_many(&mut client, "t/slow", 3).await;
    eventually("the slow ones run", || async {
        (slow.running() == 3).then_some(())
    })
    .await;
    submit_many(&mut client, "t/quick", 8).await;
    let client = client.clone();
    let times = |kind: &'static str| {
        let mut client = client.clone();
        async move {
            crate::service::times(&crate::service::circuit(&mut client, "billing").await, kind)
        }
    };
    eventually("it opens", || async {
        (times("circuit.opened").await > 0).then_some(())
    })
    .await;
    quick.fail(0);
    submit_many(&mut client.clone(), "t/slow", 6).await;
    eventually("it closes", || async {
        (times("circuit.closed").await > 0).then_some(())
    })
    .await;
    eventually("everything completes", || async {
        let left: i64 = db
            .query_one("SELECT count(*) FROM tasks WHERE ended_at IS NULL", &[])
            .await
            .unwrap()
            .get(0);
        (left == 0).then_some(())
    })
    .await;
    assert!(
        most_at_once(&db).await <= LIMIT,
        "{} attempts at once",
        most_at_once(&db).await
    );
    workers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_changed_while_steps_run_takes_effect() {
    let test = TestDb::new().await;
    let server = TestServer::start(&test).await;
    let mut client = server.client().await;
    register(&mut client, &caller("call", "h", "billing")).await;
    let billing = Service::default();
    billing.millis.store(20, Ordering::SeqCst);
    let worker = billing.worker(&[&server.url], "h", 16);
    submit_many(&mut client, "t/call", 20_000).await;
    let running = |n: usize| {
        let billing = billing.clone();
        eventually("the limit takes effect", move || {
            let billing = billing.clone();
            async move {
                // Not just for a moment: the number stays low for longer than a call takes.
                for _ in 0..10 {
                    if billing.running() > n {
                        return None;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Some(())
            }
        })
    };
    eventually("all slots are used", || async {
        (billing.running() == 16).then_some(())
    })
    .await;
    for limit in [2, 7, 1] {
        set(&mut client, "billing", at_once(limit)).await;
        let limit = usize::try_from(limit).unwrap();
        running(limit).await;
        let before = billing.calls();
        eventually("steps go on", || async {
            (billing.calls() > before + 3 * limit).then_some(())
        })
        .await;
    }
    set(&mut client, "billing", at_once(0)).await;
    eventually("all slots are used again", || async {
        (billing.running() == 16).then_some(())
    })
    .await;
    worker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limit_holds_with_its_burst() {
    let test = TestDb::new().await;
    let (one, two) = (
        TestServer::start(&test).await,
        TestServer::start(&test).await,
    );
    let mut client = one.client().await;
    register(&mut client, &caller("call", "h", "mail")).await;
    let policy = proto::Policy {
        per_second: Some(50.0),
        burst: Some(10),
        ..Default::default()
    };
    set(&mut client, "mail", policy).await;
    let mail = Service::default();
    let workers = [
        mail.worker(&[&one.url], "h", 20),
        mail.worker(&[&two.url], "h", 20),
    ];
    let started = Instant::now();
    submit_many(&mut client, "t/call", 200).await;
    eventually("all are sent", || async {
        (mail.calls() == 200).then_some(())
    })
    .await;
    let took = started.elapsed().as_secs_f64();
    // 190 after the burst, at 50 a second.
    assert!(took >= 3.5, "200 starts in {took} s");
    assert!(took <= 8.0, "200 starts took {took} s");
    workers.iter().for_each(tokio::task::JoinHandle::abort);
}
