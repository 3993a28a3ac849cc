//! Bodies and queries of requests.

use prost_reflect::DynamicMessage;

use super::{body::MAX_ITEMS, *};
use crate::{engine::Violated, json::protocol::rpc, proto};

fn submit(json: &str) -> Result<proto::SubmitTaskRequest, Vec<(String, String)>> {
    let mut message = DynamicMessage::new(rpc("TaskService/SubmitTask").input());
    body(&mut message, json, &[]).map_err(said)?;
    Ok(message.transcode_to().unwrap())
}

fn list(query: &[(&str, &str)]) -> Result<proto::ListTasksRequest, Vec<(String, String)>> {
    let mut message = DynamicMessage::new(rpc("TaskService/ListTasks").input());
    let pairs: Vec<_> = query
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    texts(&mut message, &pairs, &["page_token"]).map_err(said)?;
    Ok(message.transcode_to().unwrap())
}

fn said(violated: Vec<Violated>) -> Vec<(String, String)> {
    violated.into_iter().map(|v| (v.field, v.message)).collect()
}

#[test]
fn document_is_copied_and_null_counts_as_unset() {
    let json = r#"{"task_name":"t","context": {"z": 9007199254740993,"a":1.10} ,"priority":-3,"version":null}"#;
    let request = submit(json).unwrap();
    assert_eq!(request.context_json, r#"{"z": 9007199254740993,"a":1.10}"#);
    assert_eq!(
        (
            request.task_name.as_str(),
            request.priority,
            request.version.as_str()
        ),
        ("t", -3, "")
    );
}

#[test]
fn body_with_several_violations_reports_all() {
    let wrong = submit(
        r#"{"task_name":1,"priority":1.5,"a/b":0,"context_json":"{}","version":"1","version":"2"}"#,
    );
    let places: Vec<String> = wrong
        .unwrap_err()
        .into_iter()
        .map(|(place, _)| place)
        .collect();
    assert_eq!(
        places,
        [
            "/task_name",
            "/priority",
            "/a~1b",
            "/context_json",
            "/version"
        ]
    );
    for json in ["", "[]", "1", "{", "{}x"] {
        assert_eq!(submit(json).unwrap_err()[0].0, "", "{json}");
    }
}

#[test]
fn violations_of_a_body_are_bounded() {
    let many = |n: usize| format!("{{{}}}", vec![r#""":0"#; n].join(","));
    for (members, noted) in [
        (MAX_VIOLATIONS - 1, 99),
        (MAX_VIOLATIONS, 100),
        (MAX_VIOLATIONS + 1, 100),
        (400_000, 100),
    ] {
        assert_eq!(
            submit(&many(members)).unwrap_err().len(),
            noted,
            "{members}"
        );
    }
    // The reader stops there, so the rest of the text does not matter.
    assert_eq!(
        submit(&many(400_000).replace('}', "")).unwrap_err().len(),
        100
    );
    assert_eq!(submit(&many(50).replace('}', "")).unwrap_err()[0].0, "");
    let twice = format!(r#"{{"version":"1"{}}}"#, r#","version":"2""#.repeat(1_000));
    assert_eq!(submit(&twice).unwrap_err().len(), 100);
    let query = vec![("states", "gone"); 1_000];
    assert_eq!(list(&query).unwrap_err().len(), 100);
}

#[test]
fn list_over_ten_thousand_elements_is_refused() {
    let unset = |n: usize| {
        let mut message = DynamicMessage::new(rpc("CircuitService/SetPolicy").input());
        let json = format!(r#"{{"unset":[{}]}}"#, vec![r#""x""#; n].join(","));
        body(&mut message, &json, &[]).map_err(said)
    };
    assert!(unset(MAX_ITEMS).is_ok());
    let wrong = unset(MAX_ITEMS + 1).unwrap_err();
    assert_eq!(
        wrong,
        [(
            "/unset".to_owned(),
            "too long: expected at most 10000 elements".to_owned()
        )]
    );
}

#[test]
fn query_is_parsed_by_the_kinds_of_its_fields() {
    let request = list(&[
        ("states", "error"),
        ("states", "in_progress"),
        ("page_size", "7"),
        ("submitted_after", "2026-01-01T00:00:00Z"),
    ]);
    let request = request.unwrap();
    assert_eq!(
        request.states,
        [
            proto::TaskState::Error as i32,
            proto::TaskState::InProgress as i32
        ]
    );
    assert_eq!(
        (request.page_size, request.submitted_after.unwrap().seconds),
        (7, 1_767_225_600)
    );
    let wrong = list(&[
        ("states", "gone"),
        ("page_size", "x"),
        ("submitted_after", "noon"),
        ("page_token", ""),
    ]);
    let wrong = wrong.unwrap_err();
    assert_eq!(
        wrong
            .iter()
            .map(|(place, _)| place.as_str())
            .collect::<Vec<_>>(),
        ["states", "page_size", "submitted_after", "page_token"]
    );
    assert!(
        wrong[0].1.contains("expected one of pending, in_progress"),
        "{wrong:?}"
    );
    assert!(list(&[("namespace", "a"), ("namespace", "b")]).is_err());
    assert!(list(&[("submitted_after", "2026-01-01T00:00:00+02:00")]).is_ok());
    for local in ["2026-01-01T00:00:00", "2026-01-01 00:00:00", "2026-01-01"] {
        let wrong = list(&[("submitted_after", local)]).unwrap_err();
        assert!(wrong[0].1.contains("RFC 3339 with its zone"), "{wrong:?}");
    }
}
