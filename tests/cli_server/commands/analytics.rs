//! Analytics as a table and as JSON.

use serde_json::json;

use super::{YAML, shop};
use crate::support::server::Bench;

#[tokio::test]
async fn analytics_print_a_table_or_json() {
    let mut bench = Bench::with(YAML).await;
    let worker = shop(&bench);
    let id = bench.checkout("1").await;
    bench.finished(&id).await;
    let table = bench
        .tasker(&["analytics", "performance", "--namespace", "shop"])
        .await;
    assert!(
        table.stderr.contains("1 tasks of the last 1 d 0 h"),
        "{table:?}"
    );
    let table = table.ok();
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0][..4], ["NAME", "COUNT", "OK", "RETRIED"]);
    assert_eq!(
        lines[1][..4],
        ["shop/checkout@1.0.0", "1", "100.0%", "100.0%"]
    );
    assert_eq!(
        (lines[2][..4].join(" "), lines[3][..4].join(" ")),
        ("pay 1 100.0% 100.0%".into(), "ship 1 100.0% 0.0%".into())
    );
    let found = bench
        .tasker_json(&[
            "analytics",
            "performance",
            "--task-name",
            "checkout",
            "--since",
            "1h",
        ])
        .await;
    assert_eq!(
        found["templates"][0]["steps"][0]["retry_rate"], 1.0,
        "{found:#}"
    );
    let told = bench
        .tasker(&["analytics", "bottlenecks", "--namespace", "shop"])
        .await
        .ok();
    assert!(told.contains("repeating pay adds "), "{told}");
    let told = bench
        .tasker_json(&["analytics", "bottlenecks", "--limit", "1"])
        .await;
    // It depends on the load of this machine whether the run or the wait before it costs more.
    assert_eq!(
        (
            &told["bottlenecks"][0]["step"],
            told["bottlenecks"].as_array().map(Vec::len)
        ),
        (&json!("pay"), Some(1))
    );
    let refused = bench
        .tasker(&["analytics", "bottlenecks", "--since", "32d"])
        .await;
    assert!(
        refused.code != Some(0) && refused.stderr.contains("window_seconds"),
        "{refused:?}"
    );
    assert!(
        bench
            .tasker(&["analytics", "performance", "--since", "soon"])
            .await
            .failed(2)
            .contains("90s, 15m, 2h, 7d")
    );
    worker.shutdown().await.unwrap();
}
