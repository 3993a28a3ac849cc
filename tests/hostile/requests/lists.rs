//! Lists with invalid filters, and page tokens that belong to no list or to another one.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message as _;
use prost_types::Timestamp;
use tasker::proto::{
    ListCircuitsRequest, ListTasksRequest, ListTasksResponse, ListTemplatesRequest,
    ListTemplatesResponse,
};
use tonic::Code::InvalidArgument;

use super::bad_versions;
use crate::{support::random::Random, target::Target};

const LIST: &str = "TaskService/ListTasks";
const LIST_CIRCUITS: &str = "CircuitService/ListCircuits";
const LIST_TEMPLATES: &str = "TemplateService/ListTemplates";

/// A list of tasks, and a part of the expected message.
type Filter = (ListTasksRequest, &'static str);

fn sizes_and_states_out_of_bounds() -> Vec<Filter> {
    let mut requests: Vec<Filter> = Vec::new();
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
    requests
}

fn times_out_of_range() -> Vec<Filter> {
    let mut requests: Vec<Filter> = Vec::new();
    let mut add = |request, says| requests.push((request, says));
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
    requests
}

fn texts_out_of_bounds() -> Vec<Filter> {
    let mut requests: Vec<Filter> = Vec::new();
    let mut add = |request, says| requests.push((request, says));
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
    requests
}

#[tokio::test]
async fn filters_out_of_bounds_are_refused() {
    let mut target = Target::new().await;
    let requests = [
        sizes_and_states_out_of_bounds(),
        times_out_of_range(),
        texts_out_of_bounds(),
    ];
    for (request, says) in requests.into_iter().flatten() {
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

fn page(page_token: &str) -> ListTasksRequest {
    ListTasksRequest {
        page_token: page_token.into(),
        ..Default::default()
    }
}

/// Texts that do not have the form of a page token, and damaged copies of this token.
fn no_tokens(token: &str, random: &mut Random) -> Vec<String> {
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
        // The first half is a hash of the filter; the second half is a place, and every place is
        // valid.
        let mut bytes = token.to_owned().into_bytes();
        let at = random.below(10);
        bytes[at] =
            *random.pick(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=%. ");
        bad.push(String::from_utf8(bytes).unwrap());
    }
    bad.retain(|bad| bad != token);
    bad
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
async fn page_tokens_of_another_list_are_refused() {
    let mut target = Target::new().await;
    let mut random = Random::seeded("pages");
    for _ in 0..5 {
        let id = target.bench.submit("hostile/good", "{}").await;
        target.bench.cancel(&id).await.unwrap();
    }
    target.look().await;
    let (token, of_templates) = tokens(&target).await;
    for filter in [
        page(&of_templates),
        ListTasksRequest {
            namespace: "hostile".into(),
            ..page(&token)
        },
        ListTasksRequest {
            states: vec![5],
            ..page(&token)
        },
        ListTasksRequest {
            correlation_id: "x".into(),
            ..page(&token)
        },
        ListTasksRequest {
            submitted_after: Some(Timestamp::default()),
            ..page(&token)
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
    for bad in no_tokens(&token, &mut random) {
        target
            .refuses(
                format!("{bad:.60?}"),
                LIST,
                &page(&bad),
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
    target.end(50).await;
}

#[tokio::test]
async fn invalid_page_tokens_are_refused() {
    let mut target = Target::new().await;
    // Tokens are not secret: a client can forge one whose place no service can have.
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
    target.end(6).await;
}

/// A token as the server makes them, for the list of a namespace.
fn forged(namespace: &str, place: &str) -> String {
    let mut hasher = DefaultHasher::new();
    namespace.to_owned().hash(&mut hasher);
    URL_SAFE_NO_PAD.encode([&hasher.finish().to_be_bytes()[..], place.as_bytes()].concat())
}
