//! Unused services and lanes are removed, from the database and from all servers; a service with a
//! reason stays.

use std::time::Duration;

use tasker::{
    proto,
    store::retention::{self, Pruned},
};
use tasker_worker::{StepContext, Worker, client::Client as Tasker};
use tokio_postgres::Client;

use crate::support::{
    TestDb,
    invariants::invariants,
    server::{Bench, TestServer, eventually, finished, register, submit},
};

const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// A template of one step that calls this service.
fn calls(name: &str, service: &str) -> String {
    format!(
        "task_name: {name}\nnamespace: t\nversion: 1.0.0\nstep_templates:\n  - name: call\n    handler_class: h\n    \
         handler_config: {{service: {service}}}\n"
    )
}

/// Inserts a service without changes for 40 days; returns its number.
async fn old_service(client: &Client, name: &str) -> i32 {
    let sql = "INSERT INTO services (namespace, service, since) VALUES ('t', $1, now() - interval '40 days')
               RETURNING service_id";
    client.query_one(sql, &[&name]).await.unwrap().get(0)
}

/// Inserts a lane of a service; returns its number.
async fn lane(client: &Client, service: &str) -> i32 {
    let sql = "INSERT INTO lanes (namespace, task_name, handler, service, service_id)
               SELECT 't', 'by hand', 'h', service, service_id FROM services WHERE namespace = 't' AND service = $1
               RETURNING lane_id";
    client.query_one(sql, &[&service]).await.unwrap().get(0)
}

async fn names(client: &Client, sql: &str) -> Vec<String> {
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

const SERVICES: &str = "SELECT service FROM services ORDER BY service";

/// The reasons that keep a service, each with the SQL that causes it; $1 is the service's number.
const REASONS: &[(&str, &str)] = &[
    ("open", "UPDATE services SET state = 'open' WHERE service_id = $1"),
    ("probed", "UPDATE services SET state = 'half_open' WHERE service_id = $1"),
    ("ramping", "UPDATE services SET until = now() + interval '1 minute' WHERE service_id = $1"),
    ("opened_before", "UPDATE services SET openings = 1 WHERE service_id = $1"),
    ("forced", "UPDATE services SET forced = 'closed' WHERE service_id = $1"),
    ("throttled", "UPDATE services SET throttled_until = now() + interval '1 day' WHERE service_id = $1"),
    ("throttled_lately", "UPDATE services SET throttled_until = now() - interval '29 days' WHERE service_id = $1"),
    ("changed_lately", "UPDATE services SET since = now() - interval '29 days' WHERE service_id = $1"),
    ("rated_lately", "UPDATE services SET refilled_at = now() - interval '29 days' WHERE service_id = $1"),
    (
        "limited",
        "INSERT INTO quota_shares (service_id, server_id, count, wanted, seen_at) VALUES ($1, gen_random_uuid(), 1, 1, now())",
    ),
    (
        "set",
        "INSERT INTO service_policies (namespace, service, policy) SELECT namespace, service, '{}' FROM services WHERE service_id = $1",
    ),
    (
        "with_history",
        "INSERT INTO circuit_changes (service_id, at, type) VALUES ($1, now() - interval '29 days', 'circuit.reset')",
    ),
    (
        "with_waiting_steps",
        "WITH l AS (INSERT INTO lanes (namespace, task_name, handler, service, service_id)
                    SELECT 't', 'x', 'h', service, service_id FROM services WHERE service_id = $1 RETURNING lane_id)
         INSERT INTO queue (task_id, step, template_id, lane_id, priority, state, due, ready_at)
         SELECT gen_random_uuid(), 0, 0, lane_id, 0, 'ready', true, now() FROM l",
    ),
];

#[tokio::test]
async fn unused_service_is_removed_and_one_in_use_kept() {
    let mut bench = Bench::with(&calls("used", "used")).await;
    let client = bench.db.connect().await;
    register(&mut bench.client, &calls("other", "in_one_of_two_lanes")).await;
    let aged = "UPDATE services SET since = now() - interval '40 days'";
    client.execute(aged, &[]).await.unwrap();
    lane(&client, "in_one_of_two_lanes").await;
    for (name, because) in REASONS {
        let id = old_service(&client, name).await;
        assert_eq!(client.execute(*because, &[&id]).await.unwrap(), 1, "{name}");
    }
    old_service(&client, "unused").await;
    old_service(&client, "unused_with_a_lane").await;
    lane(&client, "unused_with_a_lane").await;
    let counted = old_service(&client, "unused_with_an_old_history").await;
    let old = "INSERT INTO circuit_changes (service_id, at, type) VALUES ($1, now() - interval '31 days', 'circuit.reset')";
    client.execute(old, &[&counted]).await.unwrap();
    let window =
        "INSERT INTO service_health (service_id, slice, calls, failures) VALUES ($1, 1, 1, 0)";
    client.execute(window, &[&counted]).await.unwrap();

    let said = retention::survey(&bench.db.db(), MONTH).await.unwrap();
    let done = retention::prune(&bench.db.db(), MONTH).await.unwrap();
    assert_eq!(said, done);
    assert_eq!((done.services, done.circuit_changes), (3, 1));
    let mut kept: Vec<&str> = REASONS.iter().map(|(name, _)| *name).collect();
    kept.extend(["used", "in_one_of_two_lanes"]);
    kept.sort_unstable();
    let mut left = names(&client, SERVICES).await;
    left.sort_unstable();
    assert_eq!(left, kept);
    let lanes = "SELECT service FROM lanes ORDER BY service COLLATE \"C\"";
    let expected = ["in_one_of_two_lanes", "used", "with_waiting_steps"];
    assert_eq!(names(&client, lanes).await, expected);
    let windows = client.query("SELECT FROM service_health", &[]).await;
    assert_eq!(windows.unwrap().len(), 0);
    let again = retention::prune(&bench.db.db(), MONTH).await.unwrap();
    assert_eq!(again, Pruned::default());
}

/// More services than a page has, so that several transactions remove them.
#[tokio::test]
async fn many_unused_services_are_removed_in_pages() {
    let db = TestDb::new().await;
    let client = db.connect().await;
    let insert = "INSERT INTO services (namespace, service, since)
                  SELECT 't', 's' || n, now() - interval '40 days' FROM generate_series(1, 1501) n";
    client.execute(insert, &[]).await.unwrap();
    let keep = "INSERT INTO service_policies (namespace, service, policy)
                SELECT namespace, service, '{}' FROM services WHERE service_id % 500 = 0";
    assert_eq!(client.execute(keep, &[]).await.unwrap(), 3);
    let done = retention::prune(&db.db(), MONTH).await.unwrap();
    assert_eq!(done.services, 1_498);
    assert_eq!(names(&client, SERVICES).await.len(), 3);
}

/// Waits until a session of this database waits for a lock of this kind.
async fn waits_for(client: &Client, kind: &str) {
    eventually(&format!("a session waits for a lock: {kind}"), async || {
        let sql = "SELECT FROM pg_stat_activity
                    WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = $1";
        let found = client.query_opt(sql, &[&kind]).await.unwrap();
        found.map(|_| ())
    })
    .await;
}

async fn runs(client: &mut Tasker, name: &str) {
    let id = submit(client, &format!("t/{name}"), "{}").await;
    let task = finished(client, &id).await;
    assert_eq!(task.task.unwrap().state(), proto::TaskState::Complete);
}

/// A registration that has found its service must not lose it before it has made its lanes.
#[tokio::test(flavor = "multi_thread")]
async fn template_registered_during_a_removal_keeps_its_service() {
    let bench = Bench::new().await;
    let worker = Worker::builder([bench.server.url.clone()])
        .handler("h", |_: StepContext| async { Ok(1) })
        .build()
        .unwrap()
        .spawn();
    let mut holder = bench.db.connect().await;
    let client = bench.db.connect().await;
    old_service(&client, "billing").await;
    let held = holder.transaction().await.unwrap();
    held.batch_execute("LOCK TABLE lanes IN SHARE MODE")
        .await
        .unwrap();
    let registering = tokio::spawn({
        let mut client = bench.server.client().await;
        async move { register(&mut client, &calls("pay", "billing")).await }
    });
    // The registration has its turn and its service, and waits for the table of lanes.
    waits_for(&client, "relation").await;
    let pruning = tokio::spawn({
        let db = bench.db.db();
        async move { retention::prune(&db, MONTH).await }
    });
    // The removal waits for the turn of the registration.
    waits_for(&client, "advisory").await;
    held.commit().await.unwrap();
    registering.await.unwrap();
    assert_eq!(pruning.await.unwrap().unwrap().services, 0);
    runs(&mut bench.server.client().await, "pay").await;

    // In any order.
    for n in 0..10 {
        let service = format!("s{n}");
        old_service(&client, &service).await;
        let pruning = tokio::spawn({
            let db = bench.db.db();
            async move { retention::prune(&db, MONTH).await }
        });
        let name = format!("pay{n}");
        let mut tasker = bench.server.client().await;
        register(&mut tasker, &calls(&name, &service)).await;
        runs(&mut tasker, &name).await;
        pruning.await.unwrap().unwrap();
    }
    worker.shutdown().await.unwrap();
    invariants(&client).await;
}

/// Whether a server knows a circuit of the service, and a lane that calls it.
async fn knows(server: &TestServer, service: &str) -> [bool; 2] {
    let page = reqwest::get(format!("{}/metrics", server.url)).await;
    let page = page.unwrap().text().await.unwrap();
    let service = format!("service=\"{service}\"");
    ["tasker_circuit_state{", "tasker_queue_ready_steps{"].map(|series| {
        page.lines()
            .any(|line| line.starts_with(series) && line.contains(&service))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_service_is_forgotten_and_learned_again_by_every_server() {
    let mut bench = Bench::with(&calls("used", "used")).await;
    let two = TestServer::start(&bench.db).await;
    let servers = [&bench.server, &two];
    let client = bench.db.connect().await;
    old_service(&client, "billing").await;
    lane(&client, "billing").await;
    let tell = "SELECT pg_notify('tasker_tasker', '11111111-1111-1111-1111-111111111111:ts')";
    client.execute(tell, &[]).await.unwrap();
    let all_know = async |billing: [bool; 2]| {
        eventually(&format!("all know it: {billing:?}"), async || {
            for server in servers {
                if knows(server, "billing").await != billing {
                    return None;
                }
                assert_eq!(knows(server, "used").await, [true; 2]);
            }
            Some(())
        })
        .await;
    };
    all_know([true; 2]).await;
    assert_eq!(
        retention::prune(&bench.db.db(), MONTH)
            .await
            .unwrap()
            .services,
        1
    );
    all_know([false; 2]).await;

    register(&mut bench.client, &calls("pay", "billing")).await;
    all_know([true; 2]).await;
    for server in servers {
        let worker = Worker::builder([server.url.clone()])
            .handler("h", |_: StepContext| async { Ok(1) })
            .build()
            .unwrap()
            .spawn();
        for name in ["pay", "used"] {
            runs(&mut server.client().await, name).await;
        }
        worker.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn service_of_a_retired_version_is_removed_after_the_version() {
    let mut bench = Bench::with(&calls("used", "used")).await;
    register(&mut bench.client, &calls("pay", "billing")).await;
    let client = bench.db.connect().await;
    let retire = proto::RetireTemplateRequest {
        namespace: "t".into(),
        task_name: "pay".into(),
        version: "1.0.0".into(),
        by: "ann".into(),
        reason: "a test".into(),
    };
    bench
        .client
        .templates
        .retire_template(retire)
        .await
        .unwrap();
    for aged in [
        "UPDATE services SET since = now() - interval '40 days'",
        "UPDATE retirements SET at = now() - interval '40 days'",
    ] {
        client.execute(aged, &[]).await.unwrap();
    }
    for expected in [(1, 0), (0, 1), (0, 0)] {
        let said = retention::survey(&bench.db.db(), MONTH).await.unwrap();
        let done = retention::prune(&bench.db.db(), MONTH).await.unwrap();
        assert_eq!(said, done);
        assert_eq!((done.templates, done.services), expected);
    }
    assert_eq!(names(&client, SERVICES).await, ["used"]);
    eventually("its server forgets it", async || {
        (knows(&bench.server, "billing").await == [false; 2]).then_some(())
    })
    .await;
    register(&mut bench.client, &calls("pay", "billing")).await;
    let worker = Worker::builder([bench.server.url.clone()])
        .handler("h", |_: StepContext| async { Ok(1) })
        .build()
        .unwrap()
        .spawn();
    runs(&mut bench.client, "pay").await;
    worker.shutdown().await.unwrap();
}
