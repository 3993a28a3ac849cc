//! The operator's verbs as commands: one task, many, and a whole template.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::{
    run,
    support::{
        server::{Bench, eventually, submission},
        worker::{RawWorker, permanent, success},
    },
    tasker,
};

const PAIR: &str = "
    {task_name: pair, namespace: t, version: 1.0.0, step_templates: [
      {name: a, handler_class: h}, {name: b, handler_class: h, depends_on_steps: [a]}]}";
const WHO: [&str; 4] = ["--by", "ann", "--reason", "a test"];

async fn json_of(bench: &Bench, args: &[&str]) -> Value {
    let mut command = tasker([args, &["--json"]].concat());
    command.env("TASKER_SERVER", &bench.server.url);
    serde_json::from_str(&run(command).await.ok()).unwrap()
}

/// stdout, stderr and the exit code of an order by ann.
async fn order(bench: &Bench, args: &[&str]) -> (String, String, Option<i32>) {
    let mut command = tasker([args, &WHO].concat());
    command.env("TASKER_SERVER", &bench.server.url);
    let ended = run(command).await;
    (ended.stdout, ended.stderr, ended.code)
}

#[tokio::test]
async fn orders_to_one_task_report_its_state() {
    let mut bench = Bench::with(PAIR).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/pair", "{}").await;
    let a = worker.assignment().await;
    let (stdout, stderr, code) = order(&bench, &["task", "pause", &id]).await;
    assert_eq!((stdout.as_str(), code), ("", Some(0)));
    assert_eq!(
        stderr,
        format!("{id} is in_progress and paused, with 0/2 steps complete\n")
    );
    let (_, listed, _) = order(&bench, &["task", "resume", &id]).await;
    assert_eq!(
        listed,
        format!("{id} is in_progress, with 0/2 steps complete\n")
    );
    let (_, stderr, code) = order(&bench, &["task", "skip", &id, "--step", "a"]).await;
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("step `a` is in_progress: it cannot be skipped"),
        "{stderr}"
    );
    worker.settle(&a, permanent("no", "NO")).await;
    assert_eq!(
        order(&bench, &["task", "retry", &id, "--fresh"]).await.2,
        Some(0)
    );
    let a = worker.assignment().await;
    worker.settle(&a, permanent("no", "NO")).await;
    let result = r#"{"n": 9007199254740993}"#;
    assert_eq!(
        order(
            &bench,
            &["task", "resolve", &id, "--step", "a", "--result", result]
        )
        .await
        .2,
        Some(0)
    );
    let b = worker.assignment().await;
    assert_eq!(b.results_json["a"], result);
    worker.settle(&b, permanent("no", "NO")).await;
    assert_eq!(
        order(&bench, &["task", "skip", &id, "--step", "b"]).await.2,
        Some(0)
    );
    let whole = json_of(&bench, &["task", "get", &id]).await;
    assert_eq!(whole["task"]["state"], "complete");
    let steps: Vec<&Value> = whole["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| &step["state"])
        .collect();
    assert_eq!(steps, [&json!("resolved_manually"), &json!("skipped")]);
    assert_eq!(whole["steps"][0]["set_by"], "ann");
}

#[tokio::test]
async fn order_to_many_tasks_reports_their_number() {
    let mut bench = Bench::with(PAIR).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    for _ in 0..3 {
        bench.submit("t/pair", "{}").await;
        let a = worker.assignment().await;
        worker.settle(&a, permanent("no", "DOWN")).await;
    }
    let retry = [
        "task",
        "retry",
        "--namespace",
        "t",
        "--error-code",
        "DOWN",
        "--failed-since",
        "1h",
    ];
    let (stdout, stderr, code) = order(&bench, &[&retry[..], &["--dry-run"]].concat()).await;
    assert_eq!(
        (stdout.as_str(), stderr.as_str(), code),
        ("3 tasks would be retried\n", "", Some(0))
    );
    let (stdout, stderr, code) = order(&bench, &retry).await;
    assert_eq!((stdout.as_str(), code), ("3 of 3 tasks retried\n", Some(0)));
    assert!(stderr.starts_with("0 of 3\n"), "{stderr}");
    for _ in 0..3 {
        let a = worker.assignment().await;
        worker.settle(&a, success("1")).await;
    }
    let told = json_of(
        &bench,
        &[&["task", "pause", "--task", "pair", "--dry-run"][..], &WHO].concat(),
    )
    .await;
    let expected = json!({"total": 3, "followed": 0, "refused": 0, "last_refusal": null, "done": true, "dry_run": true});
    assert_eq!(told, expected);
    let (stdout, _, code) = order(&bench, &["task", "cancel", "--submitted-since", "1h"]).await;
    assert_eq!(
        (stdout.as_str(), code),
        ("3 of 3 tasks cancelled\n", Some(0))
    );
    // Neither a task nor a filter; a step in an order to many; a dry run without a filter.
    for wrong in [
        &["task", "retry"][..],
        &["task", "retry", "--namespace", "t", "--step", "a"],
        &["task", "pause", "--dry-run"],
    ] {
        assert_eq!(order(&bench, wrong).await.2, Some(2), "{wrong:?}");
    }
}

#[tokio::test]
async fn order_to_many_tasks_with_a_refusal_exits_with_failure() {
    let brief = "{task_name: brief, namespace: t, version: 1.0.0, timeout_seconds: 0.1,
                  step_templates: [{name: a, handler_class: nobody}]}";
    let mut bench = Bench::with(brief).await;
    let id = bench.submit("t/brief", "{}").await;
    bench.finished(&id).await;
    let (stdout, _, code) = order(&bench, &["task", "retry", "--namespace", "t"]).await;
    assert!(
        stdout.starts_with(
            "0 of 1 tasks retried, 1 refused: the task is error, as its deadline has passed"
        ),
        "{stdout}"
    );
    assert_eq!(code, Some(1));
}

#[tokio::test]
async fn ctrl_c_stops_an_order_to_many_tasks_and_it_can_be_repeated() {
    let mut bench = Bench::with(PAIR).await;
    for _ in 0..20 {
        let tasks = vec![submission("t/pair", "{}"); 1_000];
        bench
            .client
            .tasks
            .submit_tasks(tasker::proto::SubmitTasksRequest { tasks })
            .await
            .unwrap();
    }
    let mut command = tasker([&["task", "pause", "--namespace", "t"][..], &WHO].concat());
    command
        .env("TASKER_SERVER", &bench.server.url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    // The count precedes the first tasks, so the signal arrives in the middle of the order.
    assert_eq!(said.next_line().await.unwrap().unwrap(), "0 of 20000");
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = child.wait_with_output().await.unwrap();
    assert_eq!(ended.status.code(), Some(130));
    assert!(
        String::from_utf8(ended.stdout)
            .unwrap()
            .contains(" of 20000 tasks paused")
    );
    let mut rest = String::new();
    while let Some(line) = said.next_line().await.unwrap() {
        rest = line;
    }
    assert_eq!(
        rest,
        "stopped: the tasks processed so far keep the order; the same command continues with the rest"
    );
    assert_eq!(
        order(&bench, &["task", "pause", "--namespace", "t"])
            .await
            .2,
        Some(0)
    );
    let db = bench.db.connect().await;
    eventually("all are paused", || async {
        let paused = db
            .query_one("SELECT count(*) FROM tasks WHERE paused_by = 'ann'", &[])
            .await
            .unwrap();
        (paused.get::<_, i64>(0) == 20_000).then_some(())
    })
    .await;
}

#[tokio::test]
async fn template_is_paused_listed_explained_and_resumed() {
    let mut bench = Bench::with(PAIR).await;
    let (_, stderr, code) = order(&bench, &["template", "pause", "t/pair"]).await;
    assert_eq!(code, Some(0));
    assert!(
        stderr.starts_with("t/pair is paused since ") && stderr.ends_with(" by ann\n"),
        "{stderr}"
    );
    let listed = json_of(&bench, &["template", "pauses"]).await;
    assert_eq!(
        (
            &listed["pauses"][0]["task_name"],
            &listed["pauses"][0]["reason"]
        ),
        (&json!("pair"), &json!("a test"))
    );
    let id = bench.submit("t/pair", "{}").await;
    let why = json_of(&bench, &["task", "explain", &id]).await;
    assert_eq!(why["steps"][0]["waits"][0]["cause"], "paused");
    assert_eq!(
        why["next"][0],
        "resume it: tasker template resume t/pair --reason …"
    );
    let (_, stderr, _) = order(&bench, &["template", "resume", "t/pair"]).await;
    assert_eq!(stderr, "t/pair goes on\n");
    let (_, stderr, code) = order(&bench, &["template", "resume", "t/pair"]).await;
    assert_eq!(
        (stderr.as_str(), code),
        ("t/pair was not paused\n", Some(0))
    );
    assert_eq!(
        order(&bench, &["template", "pause", "t/none"]).await.2,
        Some(1)
    );
}

#[tokio::test]
async fn version_is_retired_listed_shown_and_registered_again() {
    let mut bench = Bench::with(PAIR).await;
    let retire = ["template", "retire", "t/pair@1.0.0"];
    let id = bench.submit("t/pair", "{}").await;
    let (_, stderr, code) = order(&bench, &retire).await;
    assert_eq!(code, Some(1));
    assert!(
        stderr.starts_with("error: cannot retire t/pair@1.0.0: ") && stderr.contains(&id),
        "{stderr}"
    );
    bench.cancel(&id).await.unwrap();
    assert_eq!(order(&bench, &retire[..2]).await.2, Some(2));
    assert_eq!(
        order(&bench, &["template", "retire", "t/pair"]).await.2,
        Some(2)
    );
    let (_, stderr, code) = order(&bench, &retire).await;
    assert_eq!(code, Some(0));
    assert!(
        stderr.starts_with("t/pair@1.0.0 is retired since ") && stderr.ends_with(" by ann\n"),
        "{stderr}"
    );
    let says = async |args: &[&str]| {
        let mut command = tasker(args.iter().copied());
        command.env("TASKER_SERVER", &bench.server.url);
        let ended = run(command).await;
        (ended.stdout, ended.stderr, ended.code)
    };
    let (_, stderr, code) = says(&["task", "submit", "t/pair"]).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("tasker template register FILE"), "{stderr}");
    assert_eq!(says(&["template", "list"]).await.0, "");
    let (listed, ..) = says(&["template", "list", "--retired"]).await;
    let (shown, ..) = says(&["template", "show", "t/pair"]).await;
    assert!(
        listed.contains("RETIRED") && listed.contains(" ann  a test\n"),
        "{listed}"
    );
    assert!(
        shown.contains("\nretired ") && shown.contains(" by ann: a test\n"),
        "{shown}"
    );
    let file = std::env::temp_dir().join(format!("tasker-retired-{}.yaml", std::process::id()));
    std::fs::write(&file, PAIR).unwrap();
    let (stdout, stderr, _) = says(&["template", "register", file.to_str().unwrap()]).await;
    std::fs::remove_file(&file).unwrap();
    assert_eq!(
        (stdout.as_str(), stderr.as_str()),
        (
            "t/pair@1.0.0\n",
            "t/pair@1.0.0 was retired and accepts tasks again\n"
        )
    );
}

#[tokio::test]
async fn task_is_submitted_with_a_later_start() {
    let bench = Bench::with(PAIR).await;
    let submitted = json_of(&bench, &["task", "submit", "t/pair", "--not-before", "2h"]).await;
    let task = json_of(
        &bench,
        &["task", "get", submitted["task_id"].as_str().unwrap()],
    )
    .await;
    assert!(task["task"]["not_before"].is_string(), "{task}");
    let why = json_of(
        &bench,
        &["task", "explain", submitted["task_id"].as_str().unwrap()],
    )
    .await;
    assert_eq!(why["steps"][0]["waits"][0]["cause"], "not_before");
}

#[tokio::test]
async fn submit_with_a_relative_time_can_be_repeated_by_key() {
    let bench = Bench::with(PAIR).await;
    let submit = [
        "task",
        "submit",
        "t/pair",
        "--not-before",
        "2h",
        "--idempotency-key",
        "k",
    ];
    let first = json_of(&bench, &submit).await;
    let second = json_of(&bench, &submit).await;
    assert_eq!(
        (&second["task_id"], &second["created"]),
        (&first["task_id"], &json!(false))
    );
}

#[tokio::test]
async fn pauses_of_several_pages_are_all_listed() {
    let bench = Bench::with(PAIR).await;
    let insert = "INSERT INTO pauses (namespace, task_name, paused_at, paused_by, reason)
                  SELECT 't', 'p' || n, now(), 'ann', 'a test' FROM generate_series(1, 1001) n";
    let db = bench.db.connect().await;
    db.execute(insert, &[]).await.unwrap();
    let listed = json_of(&bench, &["template", "pauses"]).await;
    assert_eq!(listed["pauses"].as_array().unwrap().len(), 1_001);
}
