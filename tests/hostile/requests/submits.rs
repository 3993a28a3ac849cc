//! Submits with invalid values, alone and in lists.

use prost::Message as _;
use tasker::proto::{SubmitTaskRequest, SubmitTasksRequest};
use tonic::Code::{InvalidArgument, NotFound, ResourceExhausted};

use super::{SUBMIT, SUBMIT_ALL, bad_versions, good};
use crate::{
    support::{random::Random, server::submission},
    target::{Target, fields},
};

/// The defect, the submit, and a part of the expected message.
type Case = (&'static str, SubmitTaskRequest, &'static str);

fn names_out_of_bounds() -> Vec<Case> {
    vec![
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
    ]
}

fn keys_out_of_bounds() -> Vec<Case> {
    vec![
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
    ]
}

#[tokio::test]
async fn submits_out_of_bounds_are_refused() {
    let mut target = Target::new().await;
    for (case, request, says) in names_out_of_bounds()
        .into_iter()
        .chain(keys_out_of_bounds())
    {
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
    target.end(39).await;
}

#[tokio::test]
async fn submits_without_a_template_are_refused() {
    let mut target = Target::new().await;
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
    target.end(9).await;
}

fn all(tasks: Vec<SubmitTaskRequest>) -> SubmitTasksRequest {
    SubmitTasksRequest { tasks }
}

#[tokio::test]
async fn submit_lists_of_an_invalid_size_are_refused() {
    let mut target = Target::new().await;
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
    // Every task of a thousand is wrong in three ways: the answer counts the mistakes, and stays
    // within its limit.
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
    target.end(6).await;
}

/// A submit for each kind of mistake, and its field; empty where the template is the mistake.
fn mistakes() -> [(SubmitTaskRequest, &'static str); 8] {
    [
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
            submission(
                "user_management/user_registration",
                r#"{"email":"x","name":"A"}"#,
            ),
            "context_json/email",
        ),
        (
            SubmitTaskRequest {
                task_name: "none".into(),
                ..good()
            },
            "",
        ),
    ]
}

#[tokio::test]
async fn invalid_submit_in_a_list_is_named_by_its_index() {
    let mut target = Target::new().await;
    let mut random = Random::seeded("submits");
    let mistakes = mistakes();
    for n in 0..60 {
        let (bad, field) = &mistakes[n % mistakes.len()];
        // A list may have one element.
        let size = if n < mistakes.len() {
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
    target.end(60).await;
}
