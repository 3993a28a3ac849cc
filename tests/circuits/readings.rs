//! A server's reads of services: only those that changed, however many there are, and none is
//! missed.

use std::time::Duration;

use tasker::proto::{self, CircuitState};

use crate::{
    service::{Service, caller, submit_many},
    support::server::{Bench, TestServer, eventually, register},
};

/// Services beside those of the test.
const MANY: i32 = 5_000;
/// The most rows that a server reads for a change of one service; its loops look a few times
/// meanwhile.
const FEW: u64 = 20;

/// Number of service rows that a server has read so far.
async fn rows_read(server: &TestServer) -> u64 {
    let page = reqwest::get(format!("{}/metrics", server.url))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let line = page
        .lines()
        .find_map(|line| line.strip_prefix("tasker_service_rows_read_total "));
    line.unwrap().parse().unwrap()
}

/// Waits until a server has read at least one row more than `before`.
async fn reads_beyond(server: &TestServer, before: u64) {
    eventually("the server reads what changed", || async {
        (rows_read(server).await > before).then_some(())
    })
    .await;
}

async fn force(bench: &mut Bench, service: &str, state: CircuitState) {
    let order = proto::ForceCircuitRequest {
        namespace: "t".into(),
        service: service.into(),
        state: state.into(),
        expires_after: None,
        by: "ann".into(),
        reason: "deploy".into(),
    };
    bench.client.circuits.force_circuit(order).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn change_of_a_service_reaches_all_servers_without_reading_others() {
    let mut bench = Bench::with(&caller("call", "h", "billing")).await;
    let two = TestServer::start(&bench.db).await;
    let db = bench.db.connect().await;
    let insert = "INSERT INTO services (namespace, service) SELECT 'many', 's' || n FROM generate_series(1, $1) n";
    db.execute(insert, &[&MANY]).await.unwrap();
    // While transactions of other databases run that are older than the insert, servers may read
    // its rows again.
    for state in [CircuitState::Open, CircuitState::Closed]
        .into_iter()
        .cycle()
        .take(60)
    {
        let before = [rows_read(&bench.server).await, rows_read(&two).await];
        force(&mut bench, "billing", state).await;
        reads_beyond(&bench.server, before[0]).await;
        reads_beyond(&two, before[1]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let cost = [
            rows_read(&bench.server).await - before[0],
            rows_read(&two).await - before[1],
        ];
        if cost.iter().all(|rows| *rows <= FEW) {
            return;
        }
    }
    panic!("each change of one service was a reading of many");
}

/// The transaction that releases the circuit has its number before later ones are committed and
/// read, and commits after them.
#[tokio::test(flavor = "multi_thread")]
async fn change_committed_late_is_not_missed() {
    let mut bench = Bench::with(&caller("call", "h", "billing")).await;
    register(&mut bench.client, &caller("mail", "m", "mail")).await;
    let two = TestServer::start(&bench.db).await;
    let billing = Service::default();
    let workers = [
        billing.worker(&[&bench.server.url], "h", 4),
        billing.worker(&[&two.url], "h", 4),
    ];
    force(&mut bench, "billing", CircuitState::Open).await;
    submit_many(&mut bench.client, "t/call", 4).await;
    submit_many(&mut two.client().await, "t/call", 4).await;

    let mut db = bench.db.connect().await;
    let late = db.transaction().await.unwrap();
    let release =
        "UPDATE services SET forced = NULL, forced_by = NULL, forced_reason = NULL, version = version + 1
                    WHERE service = 'billing'";
    assert_eq!(late.execute(release, &[]).await.unwrap(), 1);
    for state in [CircuitState::Open, CircuitState::Closed] {
        let before = [rows_read(&bench.server).await, rows_read(&two).await];
        force(&mut bench, "mail", state).await;
        reads_beyond(&bench.server, before[0]).await;
        reads_beyond(&two, before[1]).await;
    }
    assert_eq!(billing.calls(), 0);
    late.commit().await.unwrap();
    force(&mut bench, "mail", CircuitState::Open).await;
    eventually("the steps run", || async {
        (billing.calls() == 8).then_some(())
    })
    .await;
    workers.iter().for_each(tokio::task::JoinHandle::abort);
}
