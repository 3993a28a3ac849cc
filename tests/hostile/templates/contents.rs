//! Valid YAML with content that no template may have.

use tasker::proto::RegisterTemplateRequest;
use tonic::Code::InvalidArgument;

use super::{REGISTER, step, with};
use crate::target::{GOOD, Target};

/// The file, and a part of the expected message.
type Case = (String, &'static str);

fn named(text: &str) -> String {
    GOOD.replace("task_name: good", &format!("task_name: {text}"))
}

async fn refuses_all(target: &mut Target, cases: Vec<Case>) {
    for (yaml, says) in cases {
        let case = format!("{yaml:.200}");
        let request = RegisterTemplateRequest {
            yaml,
            deny_warnings: false,
        };
        target
            .refuses(case, REGISTER, &request, InvalidArgument, says)
            .await;
    }
}

#[tokio::test]
async fn invalid_names_and_keys_of_steps_are_refused() {
    let mut target = Target::new().await;
    let cases: Vec<Case> = vec![
        (named("\"\""), "empty string"),
        (named("[a]"), "expected a string"),
        (named("{a: b}"), "expected a string"),
        (named("7"), "in quotes"),
        (named("true"), "in quotes"),
        (named("null"), "expected a string"),
        (named(&"n".repeat(256)), "at most 255"),
        (named("\"a\\nb\""), "control characters"),
        (named("\" a\""), "white space"),
        (step("depends_on_steps: [b]"), "b"),
        (step("depends_on_steps: [a]"), "a"),
        (step("depends_on_steps: [[a]]"), "expected"),
        (step("depends_on_steps: {a: b}"), "expected"),
        (step("depends_on_steps: [1]"), "expected"),
        (step("name: b"), "twice"),
        (step("default_retryable: maybe"), "true or false"),
        (step("handler_config: []"), "a mapping"),
        (step("handler_config: {service: 7}"), "service"),
        (step("handler_config: {service: ''}"), "service"),
        (
            step(&format!("handler_config: {{x: {}}}", "y".repeat(70_000))),
            "at most 65536",
        ),
        (
            step(&format!("annotations: {{x: {}}}", "y".repeat(17_000))),
            "at most 16384",
        ),
        (step("overrides: []"), "yaml:"),
        (
            with("step_templates: [{name: a/b, handler_class: h}]"),
            "`/`",
        ),
        (
            with("step_templates: [{name: a, handler_class: h}, {name: a, handler_class: h}]"),
            "a",
        ),
        (
            with("step_templates: [{handler_class: h}]"),
            "`name` is missing",
        ),
        (
            with("step_templates: [{name: a}]"),
            "`handler_class` is missing",
        ),
        (
            with(
                "step_templates: [{name: a, handler_class: h, depends_on_steps: [c]}, {name: b, handler_class: h, \
                 depends_on_steps: [a]}, {name: c, handler_class: h, depends_on_steps: [b]}]",
            ),
            "cycle",
        ),
    ];
    refuses_all(&mut target, cases).await;
    target.end(27).await;
}

#[tokio::test]
async fn invalid_versions_limits_and_times_are_refused() {
    let mut target = Target::new().await;
    let mut table: Vec<Case> = Vec::new();
    for version in [
        "1",
        "1.2",
        "v1.0.0",
        "1.0.0.0",
        "01.0.0",
        "'-1.0.0'",
        "''",
        "latest",
        "99999999999999999999.0.0",
    ] {
        table.push((GOOD.replace("1.0.0", version), "yaml:"));
    }
    for limit in [
        "0",
        "-1",
        "101",
        "2147483648",
        "18446744073709551616",
        "1.5",
        "1e2",
        "'3'",
        "[]",
    ] {
        table.push((
            step(&format!("default_retry_limit: {limit}")),
            "a whole number from 1 to 100",
        ));
    }
    for number in [".nan", ".inf", "-.Inf"] {
        table.push((
            step(&format!("default_retry_limit: {number}")),
            "expected a finite number",
        ));
    }
    for time in [
        "0", "-1", "0.0001", "604801", "1e300", ".nan", ".inf", "-.inf", "'30'", "[]", "{}",
    ] {
        table.push((
            step(&format!("handler_config: {{timeout_seconds: {time}}}")),
            "timeout_seconds",
        ));
    }
    for backoff in [
        "{base_seconds: -1}",
        "{multiplier: .inf}",
        "{max_seconds: .nan}",
        "{jitter: 2}",
        "{x: 1}",
        "7",
    ] {
        table.push((step(&format!("backoff: {backoff}")), "backoff"));
    }
    refuses_all(&mut target, table).await;
    target.end(38).await;
}
