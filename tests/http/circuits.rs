//! Circuits and explanations over HTTP.

use serde_json::json;

use crate::site::Site;

#[tokio::test]
async fn policy_is_set_and_circuit_forced_and_reset() {
    let site = Site::new().await;
    let set = json!({"namespace": "t", "service": "s", "policy": {"min_calls": 7, "failure_rate": 0.25}, "by": "me", "reason": "why"});
    let answer = site.post("/tasker/circuits/policy", set.to_string()).await;
    assert_eq!(
        (
            &answer.json["policy"]["min_calls"],
            &answer.json["policy"]["probes"]
        ),
        (&json!(7), &json!(null)),
        "{answer:?}"
    );
    let order = json!({"state": "open", "expires_after": "60s", "by": "me", "reason": "why"});
    let forced = site
        .post("/tasker/circuits/t/s/force", order.to_string())
        .await;
    assert_eq!(
        (
            &forced.json["circuit"]["forced"],
            &forced.json["circuit"]["state"]
        ),
        (&json!("open"), &json!("closed")),
        "{forced:?}"
    );
    let seen = site.get("/tasker/circuits/t/s").await.json;
    assert_eq!(
        (
            &seen["policy"]["failure_rate"],
            &seen["set_for_namespace"]["min_calls"]
        ),
        (&json!(0.25), &json!(null))
    );
    assert_eq!(
        (&seen["changes"][0]["by"], &seen["circuit"]["forced_reason"]),
        (&json!("me"), &json!("why"))
    );
    let reset = site
        .post(
            "/tasker/circuits/t/s/reset",
            r#"{"by":"me","reason":"well"}"#,
        )
        .await;
    assert_eq!(reset.json["circuit"]["forced"], json!(null), "{reset:?}");
    let listed = site
        .get("/tasker/circuits?namespace=t&page_size=1")
        .await
        .json;
    assert_eq!(
        (
            &listed["circuits"][0]["service"],
            &listed["next_page_token"]
        )
            .0,
        &json!("h")
    );
    assert!(listed["next_page_token"].is_string(), "{listed}");
}

#[tokio::test]
async fn invalid_policy_is_refused_with_a_pointer_to_each_field() {
    let site = Site::new().await;
    let both = json!({"namespace": "t", "service": "s", "policy": {"probes": 3}, "unset": ["probes"], "by": "me", "reason": "why"});
    let refused = site.post("/tasker/circuits/policy", both.to_string()).await;
    assert_eq!(
        refused.problem(),
        (400, "INVALID_FIELDS", vec!["/policy/probes".to_owned()])
    );
    // Nested fields have their pointers.
    let set = json!({"namespace": "t", "service": "s", "policy": {"min_calls": 7, "failure_rate": 0.25}, "by": "me", "reason": "why"});
    let wrong = set.to_string().replace('7', "0").replace("0.25", "2");
    let unreadable = r#"{"policy":{"probes":"x","nothing":1}}"#.to_owned();
    for (body, places) in [
        (wrong, ["min_calls", "failure_rate"]),
        (unreadable, ["probes", "nothing"]),
    ] {
        let answer = site.post("/tasker/circuits/policy", body).await;
        assert_eq!(
            answer.problem(),
            (
                400,
                "INVALID_FIELDS",
                places.map(|p| format!("/policy/{p}")).to_vec()
            )
        );
    }
}

#[tokio::test]
async fn explain_returns_the_causes() {
    let site = Site::new().await;
    let id = site.submit("{}").await;
    let explained = site.get(&format!("/tasker/tasks/{id}/explain")).await.json;
    assert_eq!(
        (
            &explained["state"],
            &explained["steps"][0]["waits"][0]["cause"]
        ),
        (&json!("pending"), &json!("no_worker"))
    );
    assert_eq!(
        (
            &explained["steps"][1]["waits_for"],
            &explained["steps"][1]["waits"][0]["cause"]
        ),
        (&json!(["a"]), &json!("parents"))
    );
}
