//! `tasker bench` from end to end, briefly; and the tasks that it stores in bulk equal those of the
//! engine.

mod support;

use std::process::{Command, Stdio};

use serde_json::Value;
use support::TestDb;
use tasker::store::{
    bench::fixtures::{self, Kind},
    template::{self, NewStep, NewTemplate, Registration},
};

#[test]
fn short_bench_loses_nothing_and_reports() {
    let output = Command::new(env!("CARGO_BIN_EXE_tasker"))
        .args([
            "bench",
            "--json",
            "--seconds",
            "0.5",
            "--slots",
            "100",
            "--preload",
            "300",
            "--waiting",
            "100",
        ])
        .args(["--subscribers", "3", "--postgres-setting", "fsync=off"])
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{stdout}");
    let report: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    let number = |name: &str| {
        report[name]
            .as_f64()
            .unwrap_or_else(|| panic!("{name}: {report}"))
    };
    for none in ["lost_steps", "duplicated_steps"] {
        assert_eq!(report[none], 0, "{none}");
    }
    let always = [
        "steps_per_second",
        "tasks_per_second",
        "sql_ceiling_steps_per_second",
        "ceiling_ratio",
    ];
    for name in always
        .into_iter()
        .chain(["fdatasync_us", "filled_time_ratio"])
    {
        assert!(number(name) > 0.0, "{name}: {report}");
    }
    assert!(number("subscribed_ratio") > 0.0);
    assert_eq!(
        report["subscribed_turns"].as_array().map(Vec::len),
        Some(20),
        "{report}"
    );
    let round = &report["subscribed_round"];
    let written = &round["events_written"];
    assert!(written.as_u64().unwrap() > 0, "{round}");
    assert_eq!(round["events_heard"], Value::from(vec![written.clone(); 3]));
    if cfg!(target_os = "linux") {
        for who in ["postgres", "server", "worker", "client"] {
            assert!(number(&format!("{who}_cpu_us_per_step")) >= 0.0);
        }
        assert!(number("server_rss_mib") > 1.0);
    }
    for clients in ["1", "16", "64", "256"] {
        assert!(
            report["chain_p50_ms"].get(clients).is_some(),
            "{clients}: {report}"
        );
    }
}

#[tokio::test]
async fn preloaded_tasks_are_consistent() {
    let test = TestDb::new().await;
    let db = test.db();
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
    let Ok(Registration::Created(row)) = template::register(&db, new, "").await else {
        panic!("not registered")
    };
    fixtures::fill(&db, Kind::Finished, row.template_id, 50, &|_| {})
        .await
        .unwrap();
    fixtures::fill(&db, Kind::Waiting, row.template_id, 30, &|_| {})
        .await
        .unwrap();
    fixtures::vacuum(&db).await.unwrap();
    let client = test.connect().await;
    for (what, sql, expected) in [
        ("finished", "SELECT count(*) FROM tasks WHERE state = 'complete'", 50),
        ("waiting", "SELECT count(*) FROM tasks WHERE state = 'pending' AND steps_live = 1", 27),
        ("in back-off", "SELECT count(*) FROM queue WHERE state = 'waiting_for_retry' AND NOT due", 3),
        ("complete steps", "SELECT count(*) FROM steps WHERE state = 'complete'", 250),
        ("pending steps", "SELECT count(*) FROM step_status WHERE state = 'pending'", 120),
        ("attempts", "SELECT count(*) FROM attempts WHERE outcome = 'succeeded' AND NOT charged", 250),
        ("events", "SELECT count(*) FROM events", 50 * 13 + 30 + 3 * 3),
        (
            "tasks whose steps in play are not those of the queue",
            "SELECT count(*) FROM tasks t
              WHERE steps_live <> (SELECT count(*) FROM queue q WHERE q.task_id = t.task_id AND q.lane_id IS NOT NULL)",
            0,
        ),
        (
            "ids out of the order of their times",
            "SELECT count(*) FROM (SELECT submitted_at < lag(submitted_at) OVER
            (PARTITION BY state ORDER BY task_id) AS wrong FROM tasks) AS t WHERE wrong",
            0,
        ),
    ] {
        let found: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        assert_eq!(found, expected, "{what}");
    }
}
