//! The metrics page stays small and cheap, whatever the database contains.

use std::{fmt::Write as _, time::Instant};

use crate::{
    scrape::Scrape,
    support::server::{Bench, register},
    work::ONE,
};

const MAX_LABEL_SETS: usize = 200;

#[tokio::test]
async fn label_combinations_are_bounded() {
    let mut bench = Bench::new().await;
    // Two hundred lanes in five templates, each with labels of its own.
    for template in 0..5 {
        register(&mut bench.client, &wide(template)).await;
    }
    let full = Scrape::of(&bench.server.url).await;
    let lanes =
        |scrape: &Scrape, name: &str| scrape.samples.iter().filter(|s| s.name == name).count();
    assert_eq!(lanes(&full, "tasker_steps_completed_total"), MAX_LABEL_SETS);
    assert_eq!(
        full.sum("tasker_steps_completed_total", &[("handler", "other")]),
        None
    );
    // Forty more are counted together.
    register(&mut bench.client, &wide(5)).await;
    bench.submit("t/wide5", "{}").await;
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let more = Scrape::of(&bench.server.url).await;
    for name in [
        "tasker_steps_completed_total",
        "tasker_queue_ready_steps",
        "tasker_step_run_seconds_sum",
    ] {
        assert_eq!(lanes(&more, name), MAX_LABEL_SETS + 1, "{name}");
    }
    assert_eq!(
        more.sum(
            "tasker_queue_ready_steps",
            &[("namespace", "other"), ("service", "other")]
        ),
        Some(40.0)
    );
}

fn wide(template: usize) -> String {
    let mut yaml =
        format!("task_name: wide{template}\nnamespace: t\nversion: 1.0.0\nstep_templates:\n");
    for step in 0..MAX_LABEL_SETS / 5 {
        let _ = writeln!(
            yaml,
            "  - {{name: s{step}, handler_class: h{template}_{step}}}"
        );
    }
    yaml
}

#[tokio::test]
async fn scrape_with_100_000_waiting_steps_costs_one_bounded_query() {
    let mut bench = Bench::with(ONE).await;
    bench.submit("t/one", "{}").await;
    let before = Scrape::of(&bench.server.url).await;
    let db = bench.db.connect().await;
    db.batch_execute(
        "INSERT INTO queue (task_id, step, template_id, lane_id, priority, state, due, ready_at)
         SELECT gen_random_uuid(), step, template_id, lane_id, 0, state, due, now() - interval '1 hour'
           FROM queue, generate_series(1, 100000)",
    )
    .await
    .unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let asked = Instant::now();
    let after = Scrape::of(&bench.server.url).await;
    let first = asked.elapsed();
    assert_eq!(after.sum("tasker_queue_ready_steps", &[]), Some(10_000.0));
    assert!(after.sum("tasker_queue_oldest_ready_seconds", &[]).unwrap() > 3_599.0);
    // The number of lines does not depend on the queue.
    assert_eq!(after.samples.len(), before.samples.len());
    let asked = Instant::now();
    for _ in 0..20 {
        Scrape::of(&bench.server.url).await;
    }
    println!(
        "the first look took {first:?}, twenty more within the second {:?}",
        asked.elapsed()
    );
    assert!(first.as_millis() < 1_000, "{first:?}");
}
