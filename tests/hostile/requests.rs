//! Well-formed requests with invalid values: ids, versions, tokens, bounds.

mod lists;
mod submits;

use tasker::proto::{
    CancelTaskRequest, GetTaskRequest, GetTemplateRequest, ListWorkersRequest, SubmitTaskRequest,
    SubmitTasksRequest, WatchTaskRequest,
};
use tonic::Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};
use uuid::Uuid;

use crate::{
    support::{random::Random, server::submission},
    target::Target,
};

const SUBMIT: &str = "TaskService/SubmitTask";
const CANCEL: &str = "TaskService/CancelTask";
const SUBMIT_ALL: &str = "TaskService/SubmitTasks";

fn good() -> SubmitTaskRequest {
    submission("hostile/good", "{}")
}

#[tokio::test]
async fn ids_of_no_task_are_refused() {
    let mut target = Target::new().await;
    let mut random = Random::seeded("ids");
    let id = "0190b5a0-7b3c-7def-8123-456789abcdef";
    let mut malformed: Vec<String> = [
        "",
        " ",
        "0",
        "null",
        "../../etc/passwd",
        "'; DROP TABLE tasks; --",
        "%00",
        "\0",
        "{}",
        "é",
        &"f".repeat(31),
    ]
    .map(String::from)
    .to_vec();
    malformed.extend([
        format!("{id} "),
        format!("{id}0"),
        id.replace('-', "_"),
        format!("{{{id}"),
        "9".repeat(100_000),
    ]);
    for _ in 0..25 {
        let mut chars: Vec<char> = id.chars().collect();
        chars[random.below(id.len())] = *random.pick(&['g', 'z', ' ', '/', '\n', '\u{0660}', '😀']);
        malformed.push(chars.into_iter().collect());
    }
    let unknown: Vec<String> = (0..25)
        .map(|_| Uuid::from_u128(u128::from(random.number()) << 64 | u128::from(random.number())))
        .chain([Uuid::nil(), Uuid::max()])
        .map(|id| id.to_string())
        .collect();
    let cases = malformed
        .iter()
        .map(|id| (id, InvalidArgument, "not a UUID"));
    for (id, code, says) in cases.chain(unknown.iter().map(|id| (id, NotFound, "there is no task")))
    {
        let case = format!("{id:.60?}");
        let (task_id, get) = (
            id.clone(),
            GetTaskRequest {
                task_id: id.clone(),
            },
        );
        target
            .refuses(&case, "TaskService/GetTask", &get, code, says)
            .await;
        let watch = WatchTaskRequest {
            task_id: task_id.clone(),
            final_only: random.below(2) == 0,
        };
        target
            .refuses(&case, "TaskService/WatchTask", &watch, code, says)
            .await;
        let cancel = CancelTaskRequest {
            task_id,
            by: "me".into(),
            reason: "why".into(),
        };
        target
            .refuses(&case, "TaskService/CancelTask", &cancel, code, says)
            .await;
    }
    target.end(190).await;
}

fn bad_versions() -> Vec<String> {
    let bad = [
        "1", "1.0", "v1.0.0", "1.0.0.0", "01.0.0", "latest", " ", "1.0.0 ", "-1.0.0", "1.0.0-",
        "1.0.0+", "*",
    ];
    let mut bad: Vec<String> = bad.map(String::from).to_vec();
    bad.extend(["18446744073709551616.0.0", "1.0.0\0", "1.0.0\n"].map(String::from));
    bad.extend([
        format!("1.0.0-{}", "a".repeat(1 << 20)),
        "9".repeat(1 << 20),
    ]);
    bad
}

fn keyed(context: &str) -> SubmitTaskRequest {
    SubmitTaskRequest {
        idempotency_key: "key".into(),
        ..submission("hostile/good", context)
    }
}

fn cancel(id: &str, by: &str, reason: &str) -> CancelTaskRequest {
    CancelTaskRequest {
        task_id: id.into(),
        by: by.into(),
        reason: reason.into(),
    }
}

#[tokio::test]
async fn used_keys_are_refused() {
    let mut target = Target::new().await;
    let first = target
        .bench
        .client
        .tasks
        .submit_task(keyed("{}"))
        .await
        .unwrap()
        .into_inner();
    target.look().await;
    target
        .refuses(
            "other content",
            SUBMIT,
            &keyed(r#"{"a":1}"#),
            AlreadyExists,
            "use a new key",
        )
        .await;
    let other = SubmitTaskRequest {
        priority: 1,
        ..keyed("{}")
    };
    target
        .refuses(
            "other priority",
            SUBMIT,
            &other,
            AlreadyExists,
            "use a new key",
        )
        .await;
    let tasks = vec![good(), keyed(r#"{"a":1}"#), good()];
    let list = SubmitTasksRequest { tasks };
    target
        .refuses(
            "in a list",
            SUBMIT_ALL,
            &list,
            AlreadyExists,
            "tasks[1]: idempotency key",
        )
        .await;
    // Otherwise the worker at the end of the test would get this task first.
    target.bench.cancel(&first.task_id).await.unwrap();
    target.look().await;
    target.end(3).await;
}

#[tokio::test]
async fn cancels_out_of_bounds_or_too_late_are_refused() {
    let mut target = Target::new().await;
    let id = target.bench.submit("hostile/good", "{}").await;
    target.look().await;
    for (case, request, says) in [
        (
            "a long name",
            cancel(&id, &"b".repeat(256), "why"),
            "by: expected 1 to 255",
        ),
        (
            "a huge name",
            cancel(&id, &"b".repeat(5 << 20), "why"),
            "by: expected 1 to 255",
        ),
        ("a NUL in the name", cancel(&id, "\0", "why"), "without NUL"),
        ("no name", cancel(&id, " ", "why"), "by: expected 1 to 255"),
        (
            "a long reason",
            cancel(&id, "me", &"r".repeat(1_025)),
            "reason: expected 1 to 1024",
        ),
        (
            "a NUL in the reason",
            cancel(&id, "me", "a\0b"),
            "without NUL",
        ),
        (
            "no reason",
            cancel(&id, "me", ""),
            "reason: expected 1 to 1024",
        ),
    ] {
        target
            .refuses(case, CANCEL, &request, InvalidArgument, says)
            .await;
    }
    // An ended task refuses a cancel. Left pending, this one would be the first assignment at the
    // end of the test.
    let mut worker =
        crate::support::worker::RawWorker::connect(&target.bench.server.url, &["good"]).await;
    let assignment = worker.assignment().await;
    worker
        .settle(&assignment, crate::support::worker::success("1"))
        .await;
    target.bench.finished(&id).await;
    target.look().await;
    target
        .refuses(
            "a complete task",
            CANCEL,
            &cancel(&id, "me", "why"),
            FailedPrecondition,
            "complete",
        )
        .await;
    worker.close();
    while let Ok(Some(_)) = worker.hear().await {}
    target.end(8).await;
}

#[tokio::test]
async fn templates_and_workers_without_names_are_refused() {
    let mut target = Target::new().await;
    let rpc = "TemplateService/GetTemplate";
    let template = |namespace: &str, task_name: &str, version: &str| GetTemplateRequest {
        namespace: namespace.into(),
        task_name: task_name.into(),
        version: version.into(),
    };
    for version in bad_versions() {
        let request = template("hostile", "good", &version);
        target
            .refuses(
                format!("{version:.40}"),
                rpc,
                &request,
                InvalidArgument,
                "version: ",
            )
            .await;
    }
    for request in [
        template("hostile", "none", ""),
        template("", "", ""),
        template("hostile", "good", "2.0.0"),
    ] {
        target
            .refuses(
                format!("{request:?}"),
                rpc,
                &request,
                NotFound,
                "no template",
            )
            .await;
    }
    for text in ["\0", "a\tb", &"x".repeat(256), &"x".repeat(1 << 20)] {
        let says = "at most 255 bytes without control characters";
        target
            .refuses(
                "a namespace",
                rpc,
                &template(text, "good", ""),
                InvalidArgument,
                says,
            )
            .await;
        target
            .refuses(
                "a name",
                rpc,
                &template("hostile", text, ""),
                InvalidArgument,
                says,
            )
            .await;
        let workers = ListWorkersRequest {
            handler: text.into(),
            ..Default::default()
        };
        target
            .refuses(
                "a handler",
                "WorkerService/ListWorkers",
                &workers,
                InvalidArgument,
                says,
            )
            .await;
    }
    target.end(30).await;
}
