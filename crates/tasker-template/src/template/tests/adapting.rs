//! The effects of overrides, planners, conditions, result schemas and time-outs. Their problems are
//! tested in `refusals`.

use serde_json::{Value, json};

use super::*;
use crate::AdjustmentError;
use crate::budget::Budget;
use crate::expression::{EvaluationError, StepResults, Values};
use crate::settings::Settings;

const ENTERPRISE: &str = "overrides:
  - when: context.plan == \"enterprise\"
    steps:
      setup_billing_profile:
        retry_limit: 5
        handler_config: {timeout_seconds: 45}
  - when: \"true\"
    annotations: {plan_type: '${context.plan}'}     # on the task and on each of its steps
";

fn task() -> Value {
    json!({"namespace": "n", "task_name": "t", "version": "1.0.0", "correlation_id": "c", "priority": 0})
}

fn settings(template: &Template, context: &Value) -> Settings {
    let settings = Settings::of(template, context, &task(), &Budget::new()).expect("settings");
    let again = Settings::from_json(&settings.to_json(), template);
    assert_eq!(
        again.as_ref(),
        Ok(&settings),
        "what is stored is what was meant"
    );
    settings
}

/// A template with the steps a and b, where b waits for a, and `more` at the top level.
pub(super) fn two_steps(more: &str) -> String {
    format!(
        "task_name: t\nschema: {{properties: {{plan: {{type: string}}, n: {{type: integer}}}}}}\nstep_templates:\n\
         - {{name: a, handler: h, handler_config: {{url: x, deep: {{one: 1, two: 2}}}}}}\n\
         - {{name: b, handler: h, default_retryable: false, depends_on_steps: [a]}}\n{more}"
    )
}

#[test]
fn enterprise_case_by_overrides_changes_the_steps() {
    let template = parse(&format!("{REGISTRATION}\n{ENTERPRISE}"));
    let billing = at(1);
    assert_eq!(template.steps[1].name, "setup_billing_profile");

    let enterprise = settings(&template, &json!({"plan": "enterprise"}));
    let step = enterprise.step(&template, billing).expect("changed");
    assert_eq!(
        (step.retry_limit, step.timeout),
        (5, Duration::from_secs(45))
    );
    assert_eq!(
        Value::Object(step.handler_config.clone()),
        json!({"timeout_seconds": 45, "service": "billing_service"})
    );
    assert_eq!(
        StepTemplate {
            retry_limit: 3,
            timeout: Duration::from_secs(30),
            handler_config: template.steps[1].handler_config.clone(),
            ..step
        },
        template.steps[1]
    );
    assert!(enterprise.step(&template, at(0)).is_none());
    let origins = [
        ("retry_limit", "overrides[0]"),
        ("handler_config.timeout_seconds", "overrides[0]"),
    ];
    let origins: Vec<(String, String)> = origins.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
    assert_eq!(enterprise.origins(&template, billing), origins);
    assert_eq!(
        Value::Object(enterprise.annotations()),
        json!({"plan_type": "enterprise"})
    );

    let free = settings(&template, &json!({"plan": "free"}));
    assert!(free.step(&template, billing).is_none() && free.origins(&template, billing).is_empty());
    assert_eq!(
        Value::Object(free.annotations()),
        json!({"plan_type": "free"})
    );
    let why = Settings::of(&template, &json!({}), &task(), &Budget::new()).expect_err("no plan");
    assert_eq!(
        why.to_string(),
        "overrides[0]: when: `context` has no field `plan`"
    );
}

#[test]
fn enterprise_case_by_a_planner_equals_that_by_overrides() {
    let by_overrides = parse(&format!("{REGISTRATION}\n{ENTERPRISE}"));
    let by_planner = parse(&format!("{REGISTRATION}\nplanner: Planner\n"));
    let answer = r#"{"steps": {"setup_billing_profile": {"retry_limit": 5, "handler_config": {"timeout_seconds": 45}}},
                     "annotations": {"plan_type": "enterprise"}}"#;
    let mut planned = Settings::default();
    assert!(planned.is_empty());
    planned.push(
        "planner",
        by_planner
            .adjustment(answer, &Budget::new())
            .expect("an adjustment"),
    );
    let overridden = settings(&by_overrides, &json!({"plan": "enterprise"}));
    for (index, step) in by_overrides.steps.iter().enumerate() {
        let wanted = overridden
            .step(&by_overrides, at(index))
            .unwrap_or_else(|| step.clone());
        let found = planned
            .step(&by_planner, at(index + 1))
            .unwrap_or_else(|| by_planner.steps[index + 1].clone());
        assert_eq!(
            StepTemplate {
                depends_on: wanted.depends_on.clone(),
                ..found
            },
            wanted
        );
    }
    assert_eq!(planned.annotations(), overridden.annotations());
    assert_eq!(
        planned.origins(&by_planner, at(2))[0],
        ("retry_limit".to_owned(), "planner".to_owned())
    );
}

#[test]
fn overrides_apply_in_their_order() {
    let template = parse(&two_steps(
        "overrides:\n\
         - {when: true, priority: 5, annotations: {x: 1, y: '${context.plan} ${context.n + 1}', z: ['${{\"n\": context.n}}']}}\n\
         - when: context.n > 1\n  priority: 7\n  annotations: {x: 2}\n  steps:\n    a: {handler_config: {deep: {two: null}}, backoff: {base_seconds: 400, max_seconds: 500}, annotations: {plan: '${context.plan}', literal: '$${x}'}}\n    b: {default_retryable: true, skip: true}\n\
         - when: context.n > 2\n  steps: {a: {backoff: {max_seconds: 301, jitter: 0}, retry_limit: 9}, b: {skip: false, retry_limit: 4, default_retryable: true}}\n",
    ));
    let two = settings(&template, &json!({"n": 2, "plan": "p"}));
    assert_eq!(two.priority(), Some(7));
    assert_eq!(
        Value::Object(two.annotations()),
        json!({"x": 2, "y": "p 3", "z": [{"n": 2}]})
    );
    let a = two.step(&template, at(0)).expect("changed");
    assert_eq!(
        Value::Object(a.handler_config),
        json!({"url": "x", "deep": {"one": 1, "two": null}})
    );
    assert_eq!(
        Value::Object(a.annotations),
        json!({"plan": "p", "literal": "${x}"})
    );
    assert_eq!(
        (
            a.backoff.base_seconds,
            a.backoff.max_seconds,
            a.backoff.multiplier
        ),
        (400.0, 500.0, 2.0)
    );
    let b = two.step(&template, at(1)).expect("changed");
    assert_eq!((b.retryable, b.retry_limit), (true, DEFAULT_RETRY_LIMIT));
    assert!(two.skips(at(1)) && !two.skips(at(0)));

    let three = settings(&template, &json!({"n": 3, "plan": "p"}));
    let a = three.step(&template, at(0)).expect("changed");
    assert_eq!(
        (a.retry_limit, a.backoff.max_seconds, a.backoff.jitter),
        (9, 400.0, 0.0),
        "never less than the base"
    );
    assert_eq!(
        (
            three.step(&template, at(1)).map(|b| b.retry_limit),
            three.skips(at(1))
        ),
        (Some(4), false)
    );
    assert!(
        three
            .origins(&template, at(0))
            .contains(&("backoff.max_seconds".into(), "overrides[2]".into()))
    );
    assert!(
        three
            .origins(&template, at(0))
            .contains(&("backoff.base_seconds".into(), "overrides[1]".into()))
    );

    let one = settings(&template, &json!({"n": 1, "plan": "p"}));
    assert_eq!(
        (one.priority(), one.step(&template, at(0)), one.skips(at(1))),
        (Some(5), None, false)
    );
    assert!(!one.is_empty() && one.origins(&template, at(7)).is_empty());
}

#[test]
fn annotations_of_an_override_are_bounded_after_interpolation() {
    let template = parse(&two_steps(
        "overrides:\n- {when: true, annotations: {x: '${context.plan}'}}\n",
    ));
    let of = |bytes: usize| {
        Settings::of(
            &template,
            &json!({"plan": "p".repeat(bytes)}),
            &task(),
            &Budget::new(),
        )
    };
    let around = r#"{"x":""}"#.len();
    assert!(of(MAX_ANNOTATIONS_BYTES - around).is_ok());
    let why = of(MAX_ANNOTATIONS_BYTES - around + 1).expect_err("too large");
    assert_eq!(
        why.to_string(),
        "overrides[0]: annotations: the document has 16385 bytes, but at most 16384 are allowed"
    );
}

#[test]
fn overrides_in_all_are_bounded() {
    use crate::settings::MAX_SETTINGS_BYTES;
    let config = format!("{{x: {}}}", "x".repeat(62_000));
    let again = "- {when: true, steps: {b: {handler_config: *config}}}\n".repeat(3);
    let template = parse(&two_steps(&format!(
        "overrides:\n- {{when: true, steps: {{b: {{handler_config: &config {config}}}}}}}\n{again}\
         - {{when: true, annotations: {{x: '${{context.plan}}'}}}}\n"
    )));
    let of = |pad: usize| {
        Settings::of(
            &template,
            &json!({"plan": "p".repeat(pad)}),
            &task(),
            &Budget::new(),
        )
    };
    let pad = MAX_SETTINGS_BYTES - of(0).expect("fits").to_json().len();
    assert_eq!(of(pad).expect("fits").to_json().len(), MAX_SETTINGS_BYTES);
    let why = of(pad + 1).expect_err("too large");
    assert_eq!(
        why.to_string(),
        "the overrides have 262145 bytes, but at most 262144 are allowed"
    );
}

#[test]
fn planner_is_the_first_step() {
    let template = parse(&two_steps("planner: plan\n"));
    assert!(template.planner);
    let names: Vec<&str> = template
        .steps
        .iter()
        .map(|step| step.name.as_str())
        .collect();
    assert_eq!(names, [PLANNER, "a", "b"]);
    assert_eq!(
        (
            template.steps[0].handler.as_str(),
            template.steps[0].service.as_str()
        ),
        ("plan", "plan")
    );
    assert_eq!(
        template
            .steps
            .iter()
            .map(|step| step.depends_on.clone())
            .collect::<Vec<_>>(),
        [vec![], vec![0], vec![1]]
    );
    assert_eq!(Graph::of(&template).roots(), [0]);

    let template = parse(&two_steps(
        "planner: {handler: plan, default_retryable: true, default_retry_limit: 7, handler_config: {timeout_seconds: 5, service: s}, backoff: {base_seconds: 2}, annotations: {x: 1}, description: d}\n",
    ));
    let planner = &template.steps[0];
    assert_eq!(
        (
            planner.retry_limit,
            planner.timeout,
            planner.service.as_str()
        ),
        (7, Duration::from_secs(5), "s")
    );
    assert_eq!(
        (
            planner.backoff.base_seconds,
            planner.annotations["x"].clone()
        ),
        (2.0, json!(1))
    );
    assert_eq!(planner.description, "d");
    // Without a planner, a step may have its name.
    parse("name: t\nstep_templates:\n- {name: planner, handler: h}\n");
}

const WRONG_ANSWERS: &[(&str, &str)] = &[
    ("nonsense", "line 1, column 1 (byte 0): expected a value"),
    ("null", "expected a mapping, found null"),
    ("[]", "expected a mapping, found a list"),
    (
        r#"{"step": {}}"#,
        "/step: unknown key `step`, did you mean `steps`?",
    ),
    (r#"{"steps": {"c": {}}}"#, "/steps/c: there is no step `c`"),
    (
        r#"{"steps": {"x/y": {}}}"#,
        "/steps/x~1y: there is no step `x/y`",
    ),
    (
        r#"{"steps": {"a": 5}}"#,
        "/steps/a: expected a mapping, found 5",
    ),
    (
        r#"{"steps": {"a": {"retries": 5}}}"#,
        "/steps/a/retries: unknown key `retries`; expected one of retry_limit, default_retryable",
    ),
    (
        r#"{"steps": {"a": {"retry_limit": -1}}}"#,
        "/steps/a/retry_limit: expected a whole number from 1 to 100, found -1",
    ),
    (
        r#"{"steps": {"a": {"retry_limit": 101}}}"#,
        "from 1 to 100, found 101",
    ),
    (
        r#"{"steps": {"a": {"retry_limit": 1.5}}}"#,
        "from 1 to 100, found 1.5",
    ),
    (
        r#"{"steps": {"b": {"retry_limit": 2}}}"#,
        "/steps/b/retry_limit: the step is not retryable",
    ),
    (
        r#"{"steps": {"a": {"default_retryable": "no"}}}"#,
        "/steps/a/default_retryable: expected true or false, found \"no\"",
    ),
    (
        r#"{"steps": {"a": {"skip": 1}}}"#,
        "/steps/a/skip: expected true or false, found 1",
    ),
    (
        r#"{"steps": {"a": {"handler_config": {"service": "s"}}}}"#,
        "/steps/a/handler_config/service: a step keeps the service of its template",
    ),
    (
        r#"{"steps": {"a": {"handler_config": {"timeout_seconds": 0}}}}"#,
        "/steps/a/handler_config/timeout_seconds: expected a number of seconds from 0.001 to 604800, found 0",
    ),
    (
        r#"{"steps": {"a": {"backoff": {"base": 1}}}}"#,
        "/steps/a/backoff/base: unknown key `base`",
    ),
    (
        r#"{"steps": {"a": {"backoff": {"jitter": 2}}}}"#,
        "/steps/a/backoff/jitter: expected a number from 0 to 1, found 2",
    ),
    (
        r#"{"steps": {"a": {"backoff": {"max_seconds": 0.5}}}}"#,
        "/steps/a/backoff: expected `max_seconds` (0.5) to be at least `base_seconds` (1)",
    ),
    (
        r#"{"steps": {"a": {"annotations": []}}}"#,
        "/steps/a/annotations: expected a mapping, found a list",
    ),
    (
        r#"{"steps": {"planner": {"skip": true}}}"#,
        "/steps/planner: the step `planner` has run before its answer applies",
    ),
    (
        r#"{"priority": 101}"#,
        "/priority: expected a whole number from -100 to 100, found 101",
    ),
    (
        r#"{"priority": "high"}"#,
        "/priority: expected a whole number",
    ),
    (
        r#"{"annotations": 5}"#,
        "/annotations: expected a mapping, found 5",
    ),
    (r#"{"when": "true"}"#, "/when: unknown key `when`"),
];

#[test]
fn answer_of_a_planner_is_checked() {
    let template = parse(&two_steps("planner: plan\n"));
    let problems = |answer: &str| refused(answer, &template, answer);
    for &(answer, expected) in WRONG_ANSWERS {
        let found = problems(answer);
        assert_eq!(found.len(), 1, "{answer}: {found:?}");
        assert!(found[0].contains(expected), "{answer}: {found:?}");
    }
    let both = problems(r#"{"steps": {"c": {}, "a": {"retry_limit": 0}}, "priority": -101}"#);
    assert_eq!(both.len(), 3, "{both:?}");
    for answer in [
        "{}",
        r#"{"priority": -100}"#,
        r#"{"steps": {"a": {"retry_limit": 100}, "b": {"retry_limit": 1}}}"#,
        r#"{"annotations": {"x": "${not.an.expression}"}}"#,
    ] {
        template.adjustment(answer, &Budget::new()).expect(answer);
    }
}

#[test]
fn adjustment_over_a_bound_is_refused() {
    use crate::MAX_ADJUSTMENT_BYTES;
    let template = parse(&two_steps(""));
    let filled = |bytes: usize| format!("{{}}{}", " ".repeat(bytes - 2));
    template
        .adjustment(&filled(MAX_ADJUSTMENT_BYTES), &Budget::new())
        .expect("fits");
    let found = refused(&filled(MAX_ADJUSTMENT_BYTES + 1), &template, "too large");
    assert!(
        found[0].contains("the document has 262145 bytes, but at most 262144 are allowed"),
        "{found:?}"
    );

    let notes = |bytes: usize| format!(r#"{{"annotations": {{"x":"{}"}}}}"#, "x".repeat(bytes - 8));
    template
        .adjustment(&notes(MAX_ANNOTATIONS_BYTES), &Budget::new())
        .expect("fits");
    let found = refused(&notes(MAX_ANNOTATIONS_BYTES + 1), &template, "too large");
    assert!(
        found[0].contains("has 16385 bytes as JSON, but at most 16384 are allowed"),
        "{found:?}"
    );

    // The limit applies to the merged configuration: `a` has one of its own.
    let own = Value::Object(template.steps[0].handler_config.clone())
        .to_string()
        .len()
        + r#","x":"""#.len();
    let config = |bytes: usize| {
        format!(
            r#"{{"steps": {{"a": {{"handler_config": {{"x":"{}"}}}}}}}}"#,
            "x".repeat(bytes - own)
        )
    };
    template
        .adjustment(&config(MAX_HANDLER_CONFIG_BYTES), &Budget::new())
        .expect("fits");
    let found = refused(
        &config(MAX_HANDLER_CONFIG_BYTES + 1),
        &template,
        "too large",
    );
    assert!(
        found[0].contains(
            "with it, the step's handler_config has 65537 bytes as JSON, but at most 65536"
        ),
        "{found:?}"
    );
}

/// The problems of a planner's answer.
fn refused(answer: &str, template: &Template, case: &str) -> Vec<String> {
    match template.adjustment(answer, &Budget::new()) {
        Err(AdjustmentError::Problems(problems)) => problems,
        other => panic!("{case}: {other:?}"),
    }
}

#[test]
fn condition_reads_only_ancestors() {
    let template = parse(
        "name: t\nschema: {properties: {plan: {type: string}}}\nstep_templates:\n\
         - {name: a, handler: h, result_schema: {type: object, properties: {approved: {type: boolean}}}}\n\
         - {name: b-1, handler: h, depends_on_steps: [a], result_schema: {type: array, items: {type: integer}}}\n\
         - {name: c, handler: h, depends_on_steps: [b-1], when: 'results.a.approved && results[\"b-1\"].exists(n, n > 1) && context.plan != \"\"'}\n\
         - {name: d, handler: h, when: false}\n",
    );
    let condition = template.steps[2].condition.as_ref().expect("a condition");
    let holds = |a: Value, b: Value| {
        let results = StepResults::from([("a", &a), ("b-1", &b)]);
        condition.holds(&Values::of_step(
            &json!({"plan": "p"}),
            &task(),
            &results,
            &Budget::new(),
        ))
    };
    assert_eq!(holds(json!({"approved": true}), json!([2])), Ok(true));
    assert_eq!(holds(json!({"approved": false}), Value::Null), Ok(false));
    let why = EvaluationError::Failed("`results.a` is null, so it has no field `approved`".into());
    assert_eq!(holds(Value::Null, json!([2])), Err(why));
    assert_eq!(
        template.steps[3]
            .condition
            .as_ref()
            .map(ToString::to_string)
            .as_deref(),
        Some("false")
    );
    assert!(template.steps[1].result_schema.is_some() && template.steps[0].condition.is_none());
}
