//! Alternative spellings in YAML: anchors and their places, merge keys, keys without a value.

use super::problems::check;
use super::*;

const STEP: &str = "step_templates:\n- name: a\n  handler: h\n";

fn annotations(yaml: &str) -> Value {
    Value::Object(parse(&format!("name: t\n{yaml}{STEP}")).annotations)
}

#[test]
fn extension_keys_may_hold_anchors() {
    let yaml = "x-retry: &retry {base_seconds: 2, x-why: slow}\nx-: &config {url: u}\nname: t\nstep_templates:\n- name: a\n  handler: h\n  x-owner: [me]\n  backoff: *retry\n  handler_config: *config\noverrides: [{when: true, priority: 1, x-note: n}]\nenvironments: {test: {x-b: 1, step_templates: [{name: a, x-c: 2}]}}\n";
    let template = parse(yaml);
    assert!((template.steps[0].backoff.base_seconds - 2.0).abs() < f64::EPSILON);
    assert_eq!(template.steps[0].handler_config["url"], "u");
    check(
        "name: t\nX-a: 1\nxa: 2\n",
        &[
            (1, 1, "", "`step_templates` is missing"),
            (2, 1, "X-a", "unknown key"),
            (3, 1, "xa", "unknown key"),
        ],
    );
}

#[test]
fn merge_key_adds_absent_keys() {
    for (yaml, expected) in [
        (
            "annotations: {<<: {a: 1, b: 2}, a: 3}\n",
            json!({"a": 3, "b": 2}),
        ),
        (
            "annotations: {a: 3, <<: {a: 1, b: 2}}\n",
            json!({"a": 3, "b": 2}),
        ),
        (
            "annotations: {<<: [{a: 1}, {a: 2, b: 2}]}\n",
            json!({"a": 1, "b": 2}),
        ),
        (
            "annotations: {<<: {a: {x: 1}}, a: {y: 2}}\n",
            json!({"a": {"y": 2}}),
        ),
        ("annotations: {<<: {a: 1}, a: ~}\n", json!({"a": null})),
        ("annotations: {<<: [], a: 1}\n", json!({"a": 1})),
        (
            "annotations: {\"<<\": {a: 1}, '<<x': 2}\n",
            json!({"<<": {"a": 1}, "<<x": 2}),
        ),
        ("annotations: {a: <<}\n", json!({"a": "<<"})),
        (
            "x-a: &a {a: 1, b: 1}\nx-b: &b {<<: *a, b: 2, c: 2}\nannotations: {<<: *b, c: 3}\n",
            json!({"a": 1, "b": 2, "c": 3}),
        ),
    ] {
        assert_eq!(annotations(yaml), expected, "{yaml}");
    }
    let yaml = "x-step: &step {handler: h, default_retry_limit: 7}\nname: t\nstep_templates:\n- {<<: *step, name: a}\n- <<: *step\n  name: b\n  default_retry_limit: 2\n";
    let limits: Vec<u32> = parse(yaml)
        .steps
        .iter()
        .map(|step| step.retry_limit)
        .collect();
    assert_eq!(limits, [7, 2]);
}

#[test]
fn invalid_merge_key_states_the_expectation() {
    let with = |text: &str| format!("name: t\nannotations: {text}\n{STEP}");
    for (yaml, expected) in [
        (
            with("{<<: }"),
            (
                2,
                17,
                "expected a mapping to merge, or a list of mappings, found nothing (null)",
            ),
        ),
        (with("{<<: [{a: 1}, 5]}"), (2, 28, "found the number 5")),
        (
            with("{<<: {a: 1}, <<: {b: 1}}"),
            (2, 27, "twice in the same mapping; expected one with a list"),
        ),
        (
            with("{<<: {a: 1}, b: 1, b: 2}"),
            (2, 33, "the key appears twice"),
        ),
    ] {
        let problems = Template::parse(&yaml, "").expect_err(&yaml);
        let first = &problems[0];
        assert_eq!(
            (problems.len(), first.line, first.column),
            (1, expected.0, expected.1),
            "{yaml}: {first}"
        );
        assert!(first.message.contains(expected.2), "{yaml}: {first}");
    }
}

#[test]
fn merge_keys_over_the_expansion_are_refused() {
    let level = |n: u32| {
        format!(
            "x-{n}: &l{n} {{<<: [{}], own{n}: {{<<: *l{}}}}}\n",
            format!("*l{}, ", n - 1).repeat(40),
            n - 1
        )
    };
    let bomb = format!(
        "x-0: &l0 {{a: {}}}\n{}",
        "[1, 1, 1, 1]",
        (1..=20).map(level).collect::<String>()
    );
    let begun = std::time::Instant::now();
    let problems = Template::parse(&format!("name: t\n{bomb}{STEP}"), "").expect_err("too large");
    assert!(
        problems[0]
            .message
            .contains("with its aliases expanded, the file is larger than"),
        "{problems:?}"
    );
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn key_without_a_value_counts_as_absent() {
    let yaml = "name: t\ntask_name:\nnamespace:\nversion:\ndescription:\nschema:\nannotations:\noverrides:\ntimeout_seconds:\nenvironments:\ndefault_dependent_system:\nstep_templates:\n- name: a\n  handler: h\n  handler_class: ~\n  description:\n  depends_on_steps:\n  depends_on_step:\n  default_retryable:\n  default_retry_limit:\n  handler_config:\n    service:\n    timeout_seconds:\n    url:\n  backoff:\n    base_seconds:\n  annotations:\n    a:\n  result_schema:\n  dependent_system:\n";
    let template = parse(yaml);
    let bare = parse(&format!("name: t\n{STEP}"));
    let step = &template.steps[0];
    assert_eq!(
        Value::Object(step.handler_config.clone()),
        json!({"service": null, "timeout_seconds": null, "url": null})
    );
    assert_eq!(step.annotations["a"], Value::Null);
    let cleared = StepTemplate {
        handler_config: Map::new(),
        annotations: Map::new(),
        ..step.clone()
    };
    assert_eq!(
        Template {
            steps: vec![cleared],
            ..template
        },
        bare
    );
}

#[test]
fn required_key_without_a_value_is_refused() {
    for (yaml, expected) in [
        (
            format!("name:\n{STEP}"),
            (1, 5, "name", "expected a string, found nothing (null)"),
        ),
        (
            "name: t\nstep_templates:\n".to_owned(),
            (
                2,
                15,
                "step_templates",
                "expected a list of steps, found nothing",
            ),
        ),
        (
            format!("name: t\nplanner:\n{STEP}"),
            (2, 8, "planner", "expected a handler's name, or a mapping"),
        ),
        (
            format!("name: t\n{STEP}  when:\n"),
            (5, 7, "step_templates[0].when", "expected a condition"),
        ),
    ] {
        check(&yaml, &[expected]);
    }
}

#[test]
fn environment_without_a_value_changes_nothing() {
    let yaml = "name: t\nstep_templates: [{name: a, handler: h, handler_config: {url: u, key: k}}]\nenvironments:\n  dev:\n  test:\n    annotations:\n    step_templates:\n    - name: a\n      description:\n      handler_config: {key: }\n";
    assert_eq!(
        Template::parse(yaml, "dev").unwrap(),
        Template::parse(yaml, "").unwrap()
    );
    let test = Template::parse(yaml, "test").unwrap();
    assert_eq!(
        Value::Object(test.steps[0].handler_config.clone()),
        json!({"url": "u", "key": null})
    );
}
