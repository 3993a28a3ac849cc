//! Environments: merged by the name of the step, and all of them checked.

use serde_json::{Value, json};

use super::problems::{Expected, check};
use super::*;

const TEMPLATE: &str = "name: t
timeout_seconds: 60
annotations: {team: x, tier: {a: 1, b: 2}}
step_templates:
- {name: a, handler_class: h, handler_config: {timeout_seconds: 5, service: s, deep: {one: 1}, list: [1, 2]}}
- {name: b, handler: h, depends_on_step: a, default_retry_limit: 2}
- {name: c, handler: h, depends_on_steps: [b], when: 'true'}
environments:
  production:
    timeout_seconds: 3600
    annotations: {tier: {b: 3}, on_call: true}
    step_templates:
    - {name: b, default_retry_limit: 9, backoff: {base_seconds: 9}}
    - {name: a, handler: other, handler_config: {timeout_seconds: 50, deep: {two: 2}, list: [3]}}
    - {name: c, depends_on_steps: [a, b], when: task.priority > 3, result_schema: {type: object}}
  empty: {}
";

fn in_environment(yaml: &str, environment: &str) -> Template {
    Template::parse(yaml, environment).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

#[test]
fn environment_overrides_the_template() {
    let found = in_environment(TEMPLATE, "production");
    assert_eq!(found.timeout, Some(Duration::from_secs(3600)));
    assert_eq!(
        Value::Object(found.annotations),
        json!({"team": "x", "tier": {"a": 1, "b": 3}, "on_call": true})
    );
    let [a, b, c] = found.steps.as_slice() else {
        panic!("three steps")
    };
    assert_eq!(
        (a.name.as_str(), a.handler.as_str(), a.service.as_str()),
        ("a", "other", "s")
    );
    assert_eq!(a.timeout, Duration::from_secs(50));
    let config =
        json!({"timeout_seconds": 50, "service": "s", "deep": {"one": 1, "two": 2}, "list": [3]});
    assert_eq!(Value::Object(a.handler_config.clone()), config);
    assert_eq!(
        (b.retry_limit, b.backoff.base_seconds, b.depends_on.clone()),
        (9, 9.0, vec![at(0)])
    );
    assert_eq!(
        (
            c.depends_on.clone(),
            c.condition.as_ref().map(ToString::to_string).as_deref()
        ),
        (vec![at(0), at(1)], Some("task.priority > 3"))
    );
    assert!(c.result_schema.is_some());
}

#[test]
fn unknown_environment_leaves_the_template_unchanged() {
    let base = in_environment(TEMPLATE, "");
    assert_eq!(
        (base.timeout, base.steps[0].handler.as_str()),
        (Some(Duration::from_secs(60)), "h")
    );
    assert_eq!(in_environment(TEMPLATE, "empty"), base);
    assert_eq!(in_environment(TEMPLATE, "staging"), base);
    let without = TEMPLATE.split("environments:").next().unwrap_or_default();
    assert_eq!(in_environment(without, "production"), base);
}

const WRONG: &[(&str, Expected)] = &[
    (
        "  5\n",
        (
            6,
            3,
            "environments",
            "expected a mapping from the names of environments",
        ),
    ),
    (
        "  p: 5\n",
        (
            6,
            6,
            "environments.p",
            "expected a mapping, found the number 5",
        ),
    ),
    (
        "  '': {}\n",
        (
            6,
            3,
            "environments[\"\"]",
            "expected a name of 1 to 255 bytes",
        ),
    ),
    (
        "  p: {schema: {}}\n",
        (
            6,
            7,
            "environments.p.schema",
            "unknown key `schema`; expected one of step_templates",
        ),
    ),
    (
        "  p: {step_templates: {}}\n",
        (
            6,
            23,
            "environments.p.step_templates",
            "expected a list of steps, found a mapping",
        ),
    ),
    (
        "  p: {step_templates: [5]}\n",
        (
            6,
            24,
            "environments.p.step_templates[0]",
            "expected a step (a mapping with `name`)",
        ),
    ),
    (
        "  p: {step_templates: [{handler: h}]}\n",
        (
            6,
            24,
            "environments.p.step_templates[0]",
            "the key `name` is missing",
        ),
    ),
    (
        "  p: {step_templates: [{name: c}]}\n",
        (
            6,
            31,
            "environments.p.step_templates[0].name",
            "there is no step `c`",
        ),
    ),
    (
        "  p: {step_templates: [{name: a}, {name: a}]}\n",
        (
            6,
            42,
            "environments.p.step_templates[1].name",
            "the step `a` appears twice in this environment",
        ),
    ),
    (
        "  p: {step_templates: [{name: b, default_retry_limit: 0}]}\n",
        (
            6,
            55,
            "step_templates[1].default_retry_limit",
            "from 1 to 100, found the number 0 (in the environment `p`)",
        ),
    ),
    (
        "  p: {step_templates: [{name: b, when: nope}]}\n",
        (
            6,
            40,
            "step_templates[1].when",
            "unknown variable `nope`; expected one of context, task, results (in the environment `p`)",
        ),
    ),
    (
        "  p: {step_templates: [{name: a, depends_on_steps: [b]}]}\n",
        (
            6,
            53,
            "step_templates[0].depends_on_steps[0]",
            "in a cycle: a → b → a (in the environment `p`)",
        ),
    ),
    (
        "  p: {timeout_seconds: x}\n",
        (
            6,
            24,
            "timeout_seconds",
            "expected a number of seconds from 0.001 to 604800, found the string \"x\" (in the environment `p`)",
        ),
    ),
];

/// A problem in any environment is reported, whatever the environment of the reading server.
#[test]
fn problem_in_any_environment_is_reported() {
    let with = |text: &str| {
        format!(
            "name: t\nstep_templates:\n- {{name: a, handler: h}}\n- {{name: b, handler: h, depends_on_steps: [a]}}\nenvironments:\n{text}"
        )
    };
    for &(text, expected) in WRONG {
        check(&with(text), &[expected]);
    }
    // A problem of the template itself is reported once.
    check(
        "name: t\nstep_templates:\n- {name: a}\nenvironments: {p: {}, q: {timeout_seconds: 0}}\n",
        &[
            (3, 3, "step_templates[0]", "`handler_class` is missing"),
            (4, 44, "timeout_seconds", "(in the environment `q`)"),
        ],
    );
}

#[test]
fn environments_over_the_bound_are_refused() {
    let with = |count: usize| {
        let environments: String = (0..count).map(|n| format!("  e{n}: {{}}\n")).collect();
        format!(
            "name: t\nstep_templates:\n- {{name: a, handler: h}}\nenvironments:\n{environments}"
        )
    };
    parse(&with(MAX_ENVIRONMENTS));
    let problems = Template::parse(&with(MAX_ENVIRONMENTS + 1), "").expect_err("many");
    assert!(
        problems[0]
            .message
            .contains("the template has 21 environments, but at most 20 are allowed"),
        "{problems:?}"
    );
}

#[test]
fn correlation_id_in_annotations_causes_a_warning_at_each_place() {
    let yaml = "name: t
annotations: {team: x, correlation_id: a}
step_templates:
- {name: a, handler: h, annotations: {correlation_id: b}}
- {name: b, handler: h, annotations: {own: {correlation_id: is not the key}}}
overrides:
- {when: \"true\", annotations: {correlation_id: c}, steps: {a: {annotations: {correlation_id: d}}}}
planner: {handler: p, annotations: {correlation_id: e}}
";
    let checked = Template::check(yaml, "");
    assert!(checked.problems.is_empty(), "{:#?}", checked.problems);
    let mut places: Vec<&str> = checked
        .warnings
        .iter()
        .map(|warning| {
            assert!(warning.message.contains("each task gets its own"));
            warning.path.as_str()
        })
        .collect();
    places.sort_unstable();
    assert_eq!(
        places,
        [
            "annotations.correlation_id",
            "overrides[0].annotations.correlation_id",
            "overrides[0].steps.a.annotations.correlation_id",
            "planner.annotations.correlation_id",
            "step_templates[0].annotations.correlation_id",
        ]
    );
}

#[test]
fn correlation_id_of_one_environment_causes_a_warning_there() {
    let yaml = "name: t
step_templates:
- {name: a, handler: h}
environments:
  production:
    annotations: {correlation_id: f}
";
    let checked = Template::check(yaml, "");
    assert!(checked.problems.is_empty(), "{:#?}", checked.problems);
    let [warning] = &checked.warnings[..] else {
        panic!("{:#?}", checked.warnings);
    };
    assert_eq!(
        (warning.line, warning.path.as_str()),
        (6, "annotations.correlation_id")
    );
}
