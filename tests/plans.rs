//! The engine's statements, and the read of the event log, find their rows by index whatever
//! statistics Postgres has about the tables: empty, as it may have seen a moment before they filled
//! up, or a million rows. A plan that scans a table for a few rows is ten times slower, and stays
//! until the next ANALYZE.

mod support;

use std::collections::BTreeMap;

use serde_json::Value;
use support::TestDb;
use tasker::store::{
    bench::fixtures::{self, Kind},
    event::{self, lookup},
    pipeline::STATEMENTS,
    service::circuit::LAPSED,
    template::{self, NewStep, NewTemplate, Registration},
};
use tokio_postgres::{Client, SimpleQueryMessage};

const HOT_TABLES: [&str; 7] = [
    "tasks",
    "steps",
    "queue",
    "events",
    "idempotency_keys",
    "services",
    "quota_shares",
];
/// Statements that read the first rows of an index in its order, and stop there.
const WALKS_OF_A_FEW_ROWS: [(&str, &str); 2] = [
    ("next_retry", "queue_retry"),
    ("anything_due", "queue_retry"),
];

/// Asserts that every hot table is read by an index, with a condition on it.
fn reads_by_index(plans: &Plans) {
    for (name, plan) in plans {
        let mut nodes = Vec::new();
        scans(plan, &mut nodes);
        for node in nodes {
            let kind = node["Node Type"].as_str().unwrap();
            let table = match node["Relation Name"].as_str().unwrap_or_default() {
                partition if partition.starts_with("events_") => "events",
                table => table,
            };
            let index = node["Index Name"].as_str().unwrap_or_default();
            if !HOT_TABLES.contains(&table) || kind == "Tid Scan" || kind == "ModifyTable" {
                continue;
            }
            assert!(
                kind == "Index Scan" || kind == "Index Only Scan",
                "{name} reads {table} by a {kind}: {plan:#}"
            );
            let walks = WALKS_OF_A_FEW_ROWS.contains(&(name, index));
            assert!(
                walks || node["Index Cond"].is_string(),
                "{name} walks through {index}: {plan:#}"
            );
        }
    }
}

/// A template of five steps, and its id.
async fn five_steps(db: &tasker::store::Db) -> i32 {
    let steps = ["a", "b", "c", "d", "e"].map(|name| NewStep {
        name,
        handler: "h",
        service: "",
    });
    let new = NewTemplate {
        namespace: "n",
        task_name: "t",
        version: "1.0.0",
        yaml: "",
        environment: "",
        steps: &steps,
    };
    let Ok(Registration::Created(row)) = template::register(db, new, "").await else {
        panic!("not registered")
    };
    row.template_id
}

#[tokio::test]
async fn plans_are_equal_for_any_statistics() {
    let test = TestDb::new().await;
    let db = test.db();
    let client = test.connect().await;
    let sql = async |sql: &str| {
        client
            .batch_execute(sql)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
    };
    let believed_empty =
        "VACUUM ANALYZE tasks; VACUUM ANALYZE steps; VACUUM ANALYZE queue; VACUUM ANALYZE events;
                          VACUUM ANALYZE idempotency_keys";
    let each = |command: &str| -> Vec<String> {
        command.split(';').map(|c| c.trim().to_owned()).collect()
    };

    let fresh = plans(&db.connect_dedicated().await.unwrap()).await;
    reads_by_index(&fresh);

    for command in each(believed_empty) {
        sql(&command).await;
    }
    same(
        &fresh,
        &plans(&db.connect_dedicated().await.unwrap()).await,
        "after ANALYZE of empty tables",
    );
    // This connection prepares its plans while the tables are empty; they are compared once the
    // tables are full.
    let early = db.connect_dedicated().await.unwrap();
    let _ = plans(&early).await;

    let template_id = five_steps(&db).await;
    fixtures::fill(&db, Kind::Finished, template_id, 20_000, &|_| {})
        .await
        .unwrap();
    fixtures::fill(&db, Kind::Waiting, template_id, 5_000, &|_| {})
        .await
        .unwrap();
    same(
        &fresh,
        &plans(&db.connect_dedicated().await.unwrap()).await,
        "with tasks that no ANALYZE has seen",
    );
    same(
        &fresh,
        &plans(&early).await,
        "on a connection that has known the tables empty",
    );

    for command in each(believed_empty) {
        sql(&command).await;
    }
    same(
        &fresh,
        &plans(&db.connect_dedicated().await.unwrap()).await,
        "after ANALYZE of full tables",
    );

    sql("DELETE FROM queue").await;
    sql("VACUUM ANALYZE queue").await;
    same(
        &fresh,
        &plans(&db.connect_dedicated().await.unwrap()).await,
        "with a queue that has just run empty",
    );
}

/// Services of a large cell.
const SERVICES: i32 = 60_000;

/// Frequent updates of a service, of its tokens and probes, do not touch the index that finds the
/// services whose state has an end.
#[tokio::test]
async fn due_services_are_found_by_index() {
    let test = TestDb::new().await;
    let client = test.db().connect_dedicated().await.unwrap();
    // As a pooled connection has it.
    client
        .batch_execute("SET enable_bitmapscan = on")
        .await
        .unwrap();
    let explain = format!("EXPLAIN (ANALYZE, FORMAT JSON, COSTS OFF) {LAPSED}");
    let insert = "INSERT INTO services (namespace, service, until, forced_until)
                  SELECT 'n', 's' || n, CASE WHEN n = 7 THEN now() END, CASE WHEN n = 9 THEN now() WHEN n = 11 THEN 'infinity'::timestamptz END
                    FROM generate_series(1, $1) n";
    client.execute(insert, &[&SERVICES]).await.unwrap();
    for believed in ["SELECT", "ANALYZE services"] {
        client.batch_execute(believed).await.unwrap();
        let rows = client.query(LAPSED, &[]).await.unwrap();
        let found: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(found, [7, 9]);
        let answer = client.simple_query(&explain).await.unwrap();
        let text = answer.iter().find_map(|m| match m {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let plan: Value = serde_json::from_str(text.unwrap()).unwrap();
        let text = plan.to_string();
        assert!(
            text.contains("\"Index Name\":\"services_lapse\""),
            "{plan:#}"
        );
        assert!(text.contains("\"Index Cond\""), "{plan:#}");
        let mut nodes = Vec::new();
        scans(&plan, &mut nodes);
        for node in nodes {
            assert!(node["Actual Rows"].as_f64().unwrap() <= 2.0, "{plan:#}");
            let removed = node["Rows Removed by Filter"].as_u64();
            assert_eq!(removed.unwrap_or_default(), 0, "{plan:#}");
        }
    }
    let written = "BEGIN; UPDATE services SET tokens = 1, probes_left = 1, probes_passed = 1 WHERE service_id % 1000 = 7";
    client.batch_execute(written).await.unwrap();
    let stats = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relid = 'services'::regclass";
    let row = client.query_one(stats, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (60, 60));
}

type Plans = BTreeMap<&'static str, Value>;

/// The plans of all statements, without costs and estimates, which may differ.
async fn plans(hot: &Client) -> Plans {
    let mut plans = Plans::new();
    let held = hot
        .query("SELECT name FROM pg_prepared_statements", &[])
        .await
        .unwrap();
    let held: Vec<String> = held.iter().map(|row| row.get(0)).collect();
    let others = [
        ("read_any", event::READ_ANY),
        ("read_first", event::READ_FIRST),
        ("tasks_of_events", lookup::TASKS),
    ];
    let all = STATEMENTS.iter().chain(&others);
    for (name, sql) in all.filter(|(_, sql)| !["BEGIN", "COMMIT"].contains(sql)) {
        if !held.iter().any(|held| held == name) {
            hot.batch_execute(&format!("PREPARE {name} AS {sql}"))
                .await
                .unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let count = (1..).take_while(|n| sql.contains(&format!("${n}"))).count();
        let nulls = if count == 0 {
            String::new()
        } else {
            format!("({})", vec!["NULL"; count].join(", "))
        };
        // As text: a simple query returns it in one row.
        let explain = format!("EXPLAIN (FORMAT JSON, COSTS OFF) EXECUTE {name}{nulls}");
        let answer = hot
            .simple_query(&explain)
            .await
            .unwrap_or_else(|e| panic!("{explain}: {e}"));
        let text = answer.iter().find_map(|m| match m {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        let plan: Value = serde_json::from_str(text.unwrap()).unwrap();
        plans.insert(name, plan);
    }
    plans
}

fn scans<'a>(plan: &'a Value, found: &mut Vec<&'a Value>) {
    match plan {
        Value::Array(parts) => parts.iter().for_each(|part| scans(part, found)),
        Value::Object(node) => {
            if node.contains_key("Relation Name") {
                found.push(plan);
            }
            node.values().for_each(|part| scans(part, found));
        }
        _ => {}
    }
}

fn same(expected: &Plans, found: &Plans, when: &str) {
    for (name, plan) in expected {
        assert!(
            found[name] == *plan,
            "{name} changed its plan {when}:\n{:#}\nbefore:\n{plan:#}",
            found[name]
        );
    }
}
