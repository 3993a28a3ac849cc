//! Requests that are messages of ours with values that cannot be: ids, versions, tokens, bounds.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message as _;
use prost_types::Timestamp;
use tasker::proto::{
    CancelTaskRequest, GetTaskRequest, GetTemplateRequest, ListCircuitsRequest, ListTasksRequest,
    ListTasksResponse, ListTemplatesRequest, ListTemplatesResponse, ListWorkersRequest,
    SubmitTaskRequest, SubmitTasksRequest, WatchTaskRequest,
};
use tonic::Code::{
    AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted,
};
use uuid::Uuid;

use crate::{
    random::Random,
    support::server::submission,
    target::{Target, fields},
};

const SUBMIT: &str = "TaskService/SubmitTask";
const SUBMIT_ALL: &str = "TaskService/SubmitTasks";
const LIST: &str = "TaskService/ListTasks";
const LIST_CIRCUITS: &str = "CircuitService/ListCircuits";
const LIST_TEMPLATES: &str = "TemplateService/ListTemplates";

fn good() -> SubmitTaskRequest {
    submission("hostile/good", "{}")
}

#[tokio::test]
async fn ids_of_no_task() {
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

#[tokio::test]
async fn submits_out_of_bounds() {
    let mut target = Target::new().await;
    let cases: Vec<(&str, SubmitTaskRequest, &str)> = vec![
        (
            "no task name",
            SubmitTaskRequest {
                task_name: String::new(),
                ..good()
            },
            "task_name: empty",
        ),
        (
            "a long task name",
            SubmitTaskRequest {
                task_name: "n".repeat(256),
                ..good()
            },
            "at most 255 bytes",
        ),
        (
            "a huge task name",
            SubmitTaskRequest {
                task_name: "n".repeat(1 << 20),
                ..good()
            },
            "at most 255 bytes",
        ),
        (
            "a NUL in the task name",
            SubmitTaskRequest {
                task_name: "a\0".into(),
                ..good()
            },
            "control characters",
        ),
        (
            "a huge namespace",
            SubmitTaskRequest {
                namespace: "n".repeat(1 << 20),
                ..good()
            },
            "at most 255 bytes",
        ),
        (
            "a NUL in the namespace",
            SubmitTaskRequest {
                namespace: "\0".into(),
                ..good()
            },
            "control characters",
        ),
        (
            "a long key",
            SubmitTaskRequest {
                idempotency_key: "k".repeat(256),
                ..good()
            },
            "at most 255 bytes",
        ),
        (
            "a huge key",
            SubmitTaskRequest {
                idempotency_key: "k".repeat(9 << 20),
                ..good()
            },
            "at most 255 bytes",
        ),
        (
            "a long key in UTF-8",
            SubmitTaskRequest {
                idempotency_key: "é".repeat(128),
                ..good()
            },
            "at most 255 bytes",
        ),
        (
            "a NUL in the key",
            SubmitTaskRequest {
                idempotency_key: "a\0b".into(),
                ..good()
            },
            "control characters",
        ),
        (
            "a line break in the key",
            SubmitTaskRequest {
                idempotency_key: "\n".into(),
                ..good()
            },
            "control characters",
        ),
        (
            "a long correlation id",
            SubmitTaskRequest {
                correlation_id: "c".repeat(256),
                ..good()
            },
            "at most 255 bytes",
        ),
        (
            "a NUL in it",
            SubmitTaskRequest {
                correlation_id: "\0".into(),
                ..good()
            },
            "control characters",
        ),
        (
            "an escape in it",
            SubmitTaskRequest {
                correlation_id: "\u{1b}[2J".into(),
                ..good()
            },
            "control characters",
        ),
    ];
    for (case, request, says) in cases {
        target
            .refuses(case, SUBMIT, &request, InvalidArgument, says)
            .await;
    }
    for priority in [
        101,
        -101,
        1_000,
        i32::from(i16::MAX) + 1,
        65_536,
        i32::MAX,
        i32::MIN,
        i32::MIN + 1,
    ] {
        let request = SubmitTaskRequest { priority, ..good() };
        target
            .refuses(
                priority,
                SUBMIT,
                &request,
                InvalidArgument,
                "expected -100 to 100",
            )
            .await;
    }
    for version in bad_versions() {
        let request = SubmitTaskRequest {
            version: version.clone(),
            ..good()
        };
        target
            .refuses(
                format!("{version:.40}"),
                SUBMIT,
                &request,
                InvalidArgument,
                "version: ",
            )
            .await;
    }
    for (namespace, task_name, version) in [
        ("hostile", "goof", ""),
        ("hostile", "Good", ""),
        ("hostil", "good", ""),
        ("", "good", ""),
        ("hostile", "good'; --", ""),
        ("hostile", "good", "1.0.1"),
        ("hostile", "good", "1.0.0-rc.1"),
        ("hostile", "good", "18446744073709551615.0.0"),
        (&"é".repeat(127), &"ü".repeat(127), "1.0.0"),
    ] {
        let request = SubmitTaskRequest {
            namespace: namespace.into(),
            task_name: task_name.into(),
            version: version.into(),
            ..good()
        };
        let case = format!("{namespace:.20}/{task_name:.20} {version}");
        target
            .refuses(case, SUBMIT, &request, NotFound, "no template")
            .await;
    }
    target.end(40).await;
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

#[tokio::test]
async fn lists_of_submits() {
    let mut target = Target::new().await;
    let mut random = Random::seeded("submits");
    let all = |tasks| SubmitTasksRequest { tasks };
    target
        .refuses(
            "none",
            SUBMIT_ALL,
            &all(vec![]),
            InvalidArgument,
            "0 tasks: expected 1 to 1000",
        )
        .await;
    target
        .refuses(
            "1001",
            SUBMIT_ALL,
            &all(vec![good(); 1_001]),
            InvalidArgument,
            "expected 1 to 1000",
        )
        .await;
    target
        .refuses(
            "100,000",
            SUBMIT_ALL,
            &all(vec![good(); 100_000]),
            InvalidArgument,
            "expected 1 to 1000",
        )
        .await;
    let large = submission(
        "hostile/good",
        &format!(r#"{{"a":"{}"}}"#, "x".repeat(1_000_000)),
    );
    target
        .refuses(
            "9 MB",
            SUBMIT_ALL,
            &all(vec![large.clone(); 9]),
            InvalidArgument,
            "at most 8388608",
        )
        .await;
    target
        .refuses(
            "18 MB",
            SUBMIT_ALL,
            &all(vec![large; 18]),
            ResourceExhausted,
            "16777216",
        )
        .await;
    let registration = |context| submission("user_management/user_registration", context);
    let bad = [
        (
            SubmitTaskRequest {
                priority: 101,
                ..good()
            },
            "priority",
        ),
        (
            SubmitTaskRequest {
                version: "1".into(),
                ..good()
            },
            "version",
        ),
        (
            SubmitTaskRequest {
                task_name: String::new(),
                ..good()
            },
            "task_name",
        ),
        (
            SubmitTaskRequest {
                idempotency_key: "\0".into(),
                ..good()
            },
            "idempotency_key",
        ),
        (
            SubmitTaskRequest {
                annotations_json: "[]".into(),
                ..good()
            },
            "annotations_json",
        ),
        (submission("hostile/good", "{"), "context_json"),
        (
            registration(r#"{"email":"x","name":"A"}"#),
            "context_json/email",
        ),
        (
            SubmitTaskRequest {
                task_name: "none".into(),
                ..good()
            },
            "",
        ),
    ];
    for n in 0..60 {
        let (bad, field) = &bad[n % bad.len()];
        // One alone is a list, too.
        let size = if n < bad_count() {
            1
        } else {
            1 + random.below(60)
        };
        let place = random.below(size);
        let mut tasks: Vec<SubmitTaskRequest> = (0..size)
            .map(|i| SubmitTaskRequest {
                idempotency_key: format!("key {n} {i}"),
                ..good()
            })
            .collect();
        let key = if *field == "idempotency_key" {
            bad.idempotency_key.clone()
        } else {
            format!("key {n} bad")
        };
        tasks[place] = SubmitTaskRequest {
            idempotency_key: key,
            ..bad.clone()
        };
        let case = format!("{field} at {place} of {size}");
        let answer = target
            .raw
            .call(
                &format!("/tasker.v1.{SUBMIT_ALL}"),
                all(tasks).encode_to_vec(),
            )
            .await;
        let named = answer.as_ref().err().map(fields).unwrap_or_default();
        if field.is_empty() {
            target
                .check(
                    case,
                    answer,
                    NotFound,
                    &format!("tasks[{place}]: no template"),
                )
                .await;
        } else {
            let expected = format!("tasks[{place}].{field}");
            assert_eq!(named, [expected.as_str()], "{case}");
            target.check(case, answer, InvalidArgument, &expected).await;
        }
    }
    // Every task of a thousand is wrong in three ways: the answer counts them, and stays an answer.
    let wrong = SubmitTaskRequest {
        priority: 1_000,
        idempotency_key: "\n".into(),
        ..submission("hostile/good", "[")
    };
    target
        .refuses(
            "3000 mistakes",
            SUBMIT_ALL,
            &all(vec![wrong; 1_000]),
            InvalidArgument,
            "and 2997 more",
        )
        .await;
    target.end(66).await;
}

/// How many lists of one there are: one for each kind of mistake.
fn bad_count() -> usize {
    8
}

#[tokio::test]
async fn keys_and_ends_that_are_taken() {
    let mut target = Target::new().await;
    let keyed = |context: &str| SubmitTaskRequest {
        idempotency_key: "key".into(),
        ..submission("hostile/good", context)
    };
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
    let cancel = |by: &str, reason: &str| CancelTaskRequest {
        task_id: first.task_id.clone(),
        by: by.into(),
        reason: reason.into(),
    };
    let rpc = "TaskService/CancelTask";
    for (case, request, says) in [
        (
            "a long name",
            cancel(&"b".repeat(256), "why"),
            "by: expected 1 to 255",
        ),
        (
            "a huge name",
            cancel(&"b".repeat(5 << 20), "why"),
            "by: expected 1 to 255",
        ),
        ("a NUL in the name", cancel("\0", "why"), "without NUL"),
        ("no name", cancel(" ", "why"), "by: expected 1 to 255"),
        (
            "a long reason",
            cancel("me", &"r".repeat(1_025)),
            "reason: expected 1 to 1024",
        ),
        ("a NUL in the reason", cancel("me", "a\0b"), "without NUL"),
        ("no reason", cancel("me", ""), "reason: expected 1 to 1024"),
    ] {
        target
            .refuses(case, rpc, &request, InvalidArgument, says)
            .await;
    }
    // It is there to be completed by the end of this test, so another one is.
    let mut worker =
        crate::support::worker::RawWorker::connect(&target.bench.server.url, &["good"]).await;
    let assignment = worker.assignment().await;
    worker
        .settle(&assignment, crate::support::worker::success("1"))
        .await;
    target.bench.finished(&first.task_id).await;
    target.look().await;
    target
        .refuses(
            "a complete task",
            rpc,
            &cancel("me", "why"),
            FailedPrecondition,
            "complete",
        )
        .await;
    worker.close();
    while let Ok(Some(_)) = worker.hear().await {}
    target.end(9).await;
}

#[tokio::test]
async fn filters_out_of_bounds() {
    let mut target = Target::new().await;
    let mut requests: Vec<(ListTasksRequest, &str)> = Vec::new();
    let mut add = |request, says| requests.push((request, says));
    for page_size in [-1, 501, 1_000_000, i32::MIN, i32::MAX] {
        add(
            ListTasksRequest {
                page_size,
                ..Default::default()
            },
            "page_size",
        );
    }
    for state in [0, -1, 7, 8, 100, i32::MIN, i32::MAX] {
        add(
            ListTasksRequest {
                states: vec![4, state],
                ..Default::default()
            },
            "is not a state",
        );
    }
    for n in [101, 1_000_000] {
        add(
            ListTasksRequest {
                states: vec![1; n],
                ..Default::default()
            },
            "at most 100",
        );
    }
    for (seconds, nanos) in [
        (-1, 0),
        (0, -1),
        (0, 1_000_000_000),
        (0, i32::MIN),
        (0, i32::MAX),
        (253_402_300_800, 0),
        (i64::MAX, 0),
        (i64::MIN, 0),
        (i64::MAX, i32::MAX),
        (i64::MIN, i32::MIN),
    ] {
        let at = Some(Timestamp { seconds, nanos });
        add(
            ListTasksRequest {
                submitted_after: at,
                ..Default::default()
            },
            "submitted_after: out of range",
        );
        add(
            ListTasksRequest {
                submitted_before: at,
                ..Default::default()
            },
            "submitted_before: out of range",
        );
    }
    for version in bad_versions() {
        add(
            ListTasksRequest {
                version,
                ..Default::default()
            },
            "version: ",
        );
    }
    for text in [
        "\0".to_owned(),
        "x".repeat(256),
        "x".repeat(5 << 20),
        "a\nb".to_owned(),
    ] {
        let says = "at most 255 bytes without control characters";
        add(
            ListTasksRequest {
                namespace: text.clone(),
                ..Default::default()
            },
            says,
        );
        add(
            ListTasksRequest {
                task_name: text.clone(),
                ..Default::default()
            },
            says,
        );
        add(
            ListTasksRequest {
                correlation_id: text,
                ..Default::default()
            },
            says,
        );
    }
    for (request, says) in requests {
        target
            .refuses(
                format!("{request:.200?}"),
                LIST,
                &request,
                InvalidArgument,
                says,
            )
            .await;
    }
    for (page_size, namespace, says) in [
        (-1, "", "page_size"),
        (501, "", "page_size"),
        (0, "\0", "namespace"),
    ] {
        let request = ListTemplatesRequest {
            page_size,
            namespace: namespace.into(),
            ..Default::default()
        };
        target
            .refuses(
                format!("{request:?}"),
                LIST_TEMPLATES,
                &request,
                InvalidArgument,
                says,
            )
            .await;
    }
    target.end(65).await;
}

/// A token of the second page of tasks, and one of the second page of templates.
async fn tokens(target: &Target) -> (String, String) {
    let tasks = ListTasksRequest {
        page_size: 2,
        ..Default::default()
    }
    .encode_to_vec();
    let tasks = target
        .raw
        .call("/tasker.v1.TaskService/ListTasks", tasks)
        .await
        .unwrap();
    let templates = ListTemplatesRequest {
        page_size: 1,
        ..Default::default()
    }
    .encode_to_vec();
    let templates = target
        .raw
        .call("/tasker.v1.TemplateService/ListTemplates", templates)
        .await
        .unwrap();
    let tasks = ListTasksResponse::decode(&*tasks).unwrap().next_page_token;
    let templates = ListTemplatesResponse::decode(&*templates)
        .unwrap()
        .next_page_token;
    assert!(!tasks.is_empty() && !templates.is_empty());
    (tasks, templates)
}

#[tokio::test]
async fn page_tokens_that_are_not_of_this_list() {
    let mut target = Target::new().await;
    let mut random = Random::seeded("pages");
    for _ in 0..5 {
        let id = target.bench.submit("hostile/good", "{}").await;
        target.bench.cancel(&id).await.unwrap();
    }
    target.look().await;
    let (token, of_templates) = tokens(&target).await;
    let with = |page_token: &str| ListTasksRequest {
        page_token: page_token.into(),
        ..Default::default()
    };
    for filter in [
        with(&of_templates),
        ListTasksRequest {
            namespace: "hostile".into(),
            ..with(&token)
        },
        ListTasksRequest {
            states: vec![5],
            ..with(&token)
        },
        ListTasksRequest {
            correlation_id: "x".into(),
            ..with(&token)
        },
        ListTasksRequest {
            submitted_after: Some(Timestamp::default()),
            ..with(&token)
        },
    ] {
        target
            .refuses(
                format!("{filter:?}"),
                LIST,
                &filter,
                InvalidArgument,
                "made for another filter",
            )
            .await;
    }
    let mut bad: Vec<String> = [
        "x",
        "====",
        "AAAAAAAA",
        "%",
        "\0",
        "not a token",
        "-1",
        &"A".repeat(1 << 20),
        "é",
    ]
    .map(String::from)
    .to_vec();
    bad.extend([8, 10, 12, token.len() - 1].map(|cut| token[..cut].to_owned()));
    bad.push(format!("{token}AAAA"));
    for _ in 0..30 {
        // The first half says which filter it is for; the other half is a place, and every place is one.
        let mut bytes = token.clone().into_bytes();
        let at = random.below(10);
        bytes[at] =
            *random.pick(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=%. ");
        bad.push(String::from_utf8(bytes).unwrap());
    }
    for bad in bad.iter().filter(|bad| **bad != token) {
        target
            .refuses(
                format!("{bad:.60?}"),
                LIST,
                &with(bad),
                InvalidArgument,
                "page_token",
            )
            .await;
    }
    for (page_token, namespace, says) in [
        ("x", "", "page_token"),
        (token.as_str(), "", "page_token"),
        (of_templates.as_str(), "hostile", "made for another filter"),
    ] {
        let request = ListTemplatesRequest {
            page_token: page_token.into(),
            namespace: namespace.into(),
            ..Default::default()
        };
        target
            .refuses(
                format!("{request:?}"),
                LIST_TEMPLATES,
                &request,
                InvalidArgument,
                says,
            )
            .await;
    }
    // Tokens are no secret: anyone can make one whose place no service can have.
    for place in [
        "a\0b\0c",
        "a\0\0",
        "\0\0b",
        "a",
        "a\0\n",
        &format!("a\0{}", "b".repeat(300)),
    ] {
        let request = ListCircuitsRequest {
            page_token: forged("", place),
            ..Default::default()
        };
        target
            .refuses(
                format!("{place:.20?}"),
                LIST_CIRCUITS,
                &request,
                InvalidArgument,
                "page_token",
            )
            .await;
    }
    target.end(56).await;
}

/// A token as the server makes them, for the list of a namespace.
fn forged(namespace: &str, place: &str) -> String {
    let mut hasher = DefaultHasher::new();
    namespace.to_owned().hash(&mut hasher);
    URL_SAFE_NO_PAD.encode([&hasher.finish().to_be_bytes()[..], place.as_bytes()].concat())
}

#[tokio::test]
async fn templates_and_workers_of_no_name() {
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
