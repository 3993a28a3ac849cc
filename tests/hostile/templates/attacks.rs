//! YAML that is invalid, that costs its reader more than its size, or that is larger than
//! permitted.

use tasker::proto::{RegisterTemplateRequest, ValidateTemplateRequest};
use tonic::Code::{AlreadyExists, InvalidArgument, ResourceExhausted};

use super::{REGISTER, step, with};
use crate::target::{GOOD, Target};

/// The case, the file, and a part of the expected message.
type Case = (&'static str, String, &'static str);

async fn refuses_all(target: &mut Target, cases: Vec<Case>) {
    for (case, yaml, says) in cases {
        let request = RegisterTemplateRequest {
            yaml,
            deny_warnings: false,
        };
        target
            .refuses(case, REGISTER, &request, InvalidArgument, says)
            .await;
    }
}

/// Lists of ten aliases each, each of the list before it.
fn bomb(lists: usize) -> String {
    let mut yaml = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..lists {
        let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
        yaml += &format!("a{i}: &a{i} [{aliases}]\n");
    }
    yaml
}

fn steps(n: usize) -> String {
    let steps: String = (0..n)
        .map(|i| format!("  - {{name: s{i}, handler_class: h}}\n"))
        .collect();
    with(&format!("step_templates:\n{steps}"))
}

#[tokio::test]
async fn yaml_that_is_not_a_template_is_refused() {
    let mut target = Target::new().await;
    let cases: Vec<Case> = vec![
        ("nothing", String::new(), "empty"),
        ("a comment", "# nothing\n".into(), "empty"),
        ("white space", " \n\t\n".into(), "yaml:"),
        ("a scalar", "42".into(), "expected a mapping"),
        ("a list", "- task_name: t\n".into(), "expected a mapping"),
        ("a string", "\"task_name: t\"".into(), "expected a mapping"),
        (
            "two documents",
            format!("{GOOD}---\n{GOOD}"),
            "second document",
        ),
        (
            "an old YAML",
            format!("%YAML 1.1\n---\n{GOOD}"),
            "expected 1.2",
        ),
        (
            "a tab for indentation",
            "task_name: t\nstep_templates:\n\t- name: a\n".into(),
            "yaml:",
        ),
        ("a NUL", GOOD.replace("good", "go\0od"), "NUL"),
        (
            "an escaped NUL",
            GOOD.replace(": good", ": \"go\\0od\""),
            "NUL",
        ),
        (
            "half a surrogate pair",
            GOOD.replace(": good", ": \"\\ud800\""),
            "yaml:",
        ),
        ("unclosed list", format!("{GOOD}x: [1, 2"), "yaml:"),
        ("unclosed string", format!("{GOOD}x: \"abc"), "yaml:"),
    ];
    refuses_all(&mut target, cases).await;
    target.end(14).await;
}

#[tokio::test]
async fn yaml_with_expanding_or_cyclic_aliases_is_refused() {
    let mut target = Target::new().await;
    let cases: Vec<Case> = vec![
        ("a bomb of aliases", bomb(9), "with its aliases expanded"),
        (
            "a larger bomb of aliases",
            bomb(40),
            "with its aliases expanded",
        ),
        (
            "a bomb of text",
            format!(
                "a: &a {}\nb: [{}]",
                "x".repeat(100_000),
                vec!["*a"; 50].join(", ")
            ),
            "expanded",
        ),
        (
            "an alias inside itself",
            "a: &a [*a]\n".into(),
            "inside the value",
        ),
        (
            "an alias inside its mapping",
            "a: &a {b: {c: *a}}\n".into(),
            "inside the value",
        ),
        ("an alias of nothing", "a: *b\n".into(), "yaml:"),
    ];
    refuses_all(&mut target, cases).await;
    target.end(6).await;
}

#[tokio::test]
async fn yaml_over_the_depth_is_refused() {
    let mut target = Target::new().await;
    let block: String = (0..200).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    let cases: Vec<Case> = vec![
        ("deep lists", "[".repeat(10_000), "64 levels"),
        ("deep mappings", "{a: ".repeat(10_000), "64 levels"),
        ("deep blocks", block, "64 levels"),
        ("deep dashes", "- ".repeat(10_000), "64 levels"),
        ("deep keys", "? ".repeat(10_000), "yaml:"),
    ];
    refuses_all(&mut target, cases).await;
    target.end(5).await;
}

#[tokio::test]
async fn unknown_tags_and_keys_are_refused() {
    let mut target = Target::new().await;
    let cases: Vec<Case> = vec![
        (
            "a tag",
            GOOD.replace(": good", ": !!python/object/apply:os.system good"),
            "tag",
        ),
        (
            "a binary tag",
            GOOD.replace(": good", ": !!binary aGk="),
            "tag",
        ),
        (
            "a merge key",
            format!("x: &x {{a: 1}}\n{}", step("<<: {b: 1}")),
            "unknown key `b`",
        ),
        (
            "a key that is a list",
            format!("{GOOD}? [a, b]\n: 1\n"),
            "must be a string",
        ),
        (
            "a key that is a number",
            format!("{GOOD}1: 2\n"),
            "must be a string",
        ),
        (
            "a key that is null",
            format!("{GOOD}~: 2\n"),
            "must be a string",
        ),
        ("a key twice", format!("{GOOD}task_name: again\n"), "twice"),
        (
            "an unknown key",
            format!("{GOOD}task_nmae: x\n"),
            "unknown key `task_nmae`",
        ),
        (
            "a very long key",
            format!("{GOOD}{}: x\n", "k".repeat(900)),
            "unknown key",
        ),
        ("both spellings", format!("{GOOD}name: x\n"), "same key"),
    ];
    refuses_all(&mut target, cases).await;
    target.end(10).await;
}

#[tokio::test]
async fn invalid_planners_and_expressions_are_refused() {
    let mut target = Target::new().await;
    let cases: Vec<Case> = vec![
        (
            "a planner that is none",
            format!("{GOOD}planner: [p]\n"),
            "planner",
        ),
        (
            "an expression that is none",
            format!("{GOOD}overrides: [{{when: '('}}]\n"),
            "expected an expression",
        ),
        (
            "an expression of no type",
            format!("{GOOD}overrides: [{{when: '1 + 1'}}]\n"),
            "true or false",
        ),
        (
            "an expression without end",
            format!("{GOOD}overrides: [{{when: '{}'}}]\n", "!".repeat(5_000)),
            "at most 2048",
        ),
        (
            "an expression too deep",
            format!(
                "{GOOD}overrides: [{{when: '{}true{}'}}]\n",
                "(".repeat(900),
                ")".repeat(900)
            ),
            "nested deeper",
        ),
    ];
    refuses_all(&mut target, cases).await;
    target.end(5).await;
}

#[tokio::test]
async fn yaml_over_the_size_is_refused() {
    let mut target = Target::new().await;
    let cases: Vec<Case> = vec![
        (
            "256 KiB and a byte",
            format!("{GOOD}#{}", "x".repeat(256 * 1024 - GOOD.len())),
            "at most 262144",
        ),
        ("5 MiB", "x".repeat(5 << 20), "at most 262144"),
        ("200 KiB of dashes", "-\n".repeat(100_000), "yaml:"),
        ("200 KiB of colons", ": ".repeat(100_000), "yaml:"),
        ("200 KiB of quotes", "'\"".repeat(100_000), "yaml:"),
        ("200 KiB of ampersands", "&a ".repeat(70_000), "yaml:"),
        ("200 KiB of exclamation marks", "!".repeat(200_000), "yaml:"),
        ("200 KiB of percent signs", "%".repeat(200_000), "yaml:"),
        ("a hundred problems", "? 1\n".repeat(500), "and "),
    ];
    refuses_all(&mut target, cases).await;
    let huge = RegisterTemplateRequest {
        yaml: "x".repeat(17 << 20),
        deny_warnings: false,
    };
    target
        .refuses("17 MiB", REGISTER, &huge, ResourceExhausted, "16777216")
        .await;
    let huge = ValidateTemplateRequest {
        yaml: "x".repeat(17 << 20),
    };
    target
        .refuses(
            "17 MiB",
            "TemplateService/ValidateTemplate",
            &huge,
            ResourceExhausted,
            "16777216",
        )
        .await;
    let long = ValidateTemplateRequest {
        yaml: "x".repeat(5 << 20),
    };
    target
        .refuses(
            "5 MiB",
            "TemplateService/ValidateTemplate",
            &long,
            InvalidArgument,
            "at most 262144",
        )
        .await;
    target.end(12).await;
}

#[tokio::test]
async fn invalid_or_too_many_steps_are_refused() {
    let mut target = Target::new().await;
    let cases: Vec<Case> = vec![
        ("no steps", with("step_templates: []"), "at least one step"),
        ("no list of steps", with(""), "`step_templates` is missing"),
        (
            "steps that are text",
            with("step_templates: a"),
            "a list of steps",
        ),
        (
            "a step that is text",
            with("step_templates: [a]"),
            "expected",
        ),
        ("1001 steps", steps(1_001), "at most 1000"),
        (
            "no task name",
            "version: 1.0.0\nstep_templates: [{name: a, handler_class: h}]".into(),
            "`task_name` is missing",
        ),
    ];
    refuses_all(&mut target, cases).await;
    let other = RegisterTemplateRequest {
        yaml: GOOD.replace("name: a", "name: b"),
        deny_warnings: false,
    };
    target
        .refuses(
            "a taken version",
            REGISTER,
            &other,
            AlreadyExists,
            "raise `version`",
        )
        .await;
    target.end(7).await;
}
