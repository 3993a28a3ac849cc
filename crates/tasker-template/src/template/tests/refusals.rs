//! The problems of overrides, planners and conditions, their places, and the bounds of these parts.

use super::adapting::two_steps;
use super::problems::{Expected, check};
use super::*;

const OVERRIDES: &[(&str, Expected)] = &[
    (
        "overrides: {}\n",
        (
            3,
            12,
            "overrides",
            "expected a list of overrides, found a mapping",
        ),
    ),
    (
        "overrides: [5]\n",
        (
            3,
            13,
            "overrides[0]",
            "expected an override (a mapping with `when`), found the number 5",
        ),
    ),
    (
        "overrides: [{priority: 1}]\n",
        (3, 13, "overrides[0]", "the key `when` is missing"),
    ),
    (
        "overrides: [{when: true}]\n",
        (
            3,
            13,
            "overrides[0]",
            "the override changes nothing; expected `steps`",
        ),
    ),
    (
        "overrides: [{when: 5, priority: 1}]\n",
        (
            3,
            20,
            "overrides[0].when",
            "expected a condition (an expression in a string), found the number 5",
        ),
    ),
    (
        "overrides: [{when: context.pln == 1, priority: 1}]\n",
        (
            3,
            27,
            "overrides[0].when",
            "`context` has no field `pln`, did you mean `plan`?",
        ),
    ),
    (
        "overrides: [{when: 'context.pln == 1', priority: 1}]\n",
        (3, 28, "overrides[0].when", "`context` has no field `pln`"),
    ),
    (
        "overrides: [{when: '''x'' == context.pln', priority: 1}]\n",
        (3, 37, "overrides[0].when", "`context` has no field `pln`"),
    ),
    (
        "overrides: [{when: \"\\\"x\\\" == context.pln\", priority: 1}]\n",
        (3, 37, "overrides[0].when", "`context` has no field `pln`"),
    ),
    (
        "overrides:\n- when: |\n    true &&\n      context.pln == 1\n  priority: 1\n",
        (6, 14, "overrides[0].when", "`context` has no field `pln`"),
    ),
    (
        "overrides:\n- when: >\n    context.pln == 1\n  priority: 1\n",
        (5, 12, "overrides[0].when", "`context` has no field `pln`"),
    ),
    (
        "overrides: [{when: true, prio: 1}]\n",
        (
            3,
            32,
            "overrides[0].prio",
            "unknown key `prio`; expected one of steps, annotations, priority",
        ),
    ),
    (
        "overrides: [{when: true, priority: 500}]\n",
        (
            3,
            36,
            "overrides[0].priority",
            "expected a whole number from -100 to 100",
        ),
    ),
    (
        "overrides: [{when: true, steps: {x: {}}}]\n",
        (3, 37, "overrides[0].steps.x", "there is no step `x`"),
    ),
    (
        "overrides: [{when: true, steps: {a: {retry_limit: 0}}}]\n",
        (
            3,
            51,
            "overrides[0].steps.a.retry_limit",
            "from 1 to 100, found 0",
        ),
    ),
    (
        "overrides: [{when: true, annotations: {x: 'é ${context.pln}'}}]\n",
        (
            3,
            55,
            "overrides[0].annotations.x",
            "`context` has no field `pln`",
        ),
    ),
    (
        "overrides: [{when: true, steps: {a: {annotations: {x: ['${oops}']}}}}]\n",
        (
            3,
            59,
            "overrides[0].steps.a.annotations.x[0]",
            "unknown variable `oops`",
        ),
    ),
    (
        "overrides: [{when: true, annotations: {x: 'a${b'}}]\n",
        (
            3,
            45,
            "overrides[0].annotations.x",
            "expected `}` after `${`",
        ),
    ),
    (
        "overrides: [{when: results.a == 1, priority: 1}]\n",
        (
            3,
            20,
            "overrides[0].when",
            "results do not exist before the task starts",
        ),
    ),
];

const PLANNERS_AND_DEADLINES: &[(&str, Expected)] = &[
    (
        "planner: 5\n",
        (
            3,
            10,
            "planner",
            "expected a handler's name, or a mapping with `handler`, found the number 5",
        ),
    ),
    (
        "planner: ''\n",
        (3, 10, "planner", "expected a name, found an empty string"),
    ),
    (
        "planner: {}\n",
        (3, 10, "planner", "the key `handler` is missing"),
    ),
    (
        "planner: {handler: h, when: true}\n",
        (3, 23, "planner.when", "unknown key `when`"),
    ),
    (
        "planner: {handler: h, default_retry_limit: 0}\n",
        (3, 44, "planner.default_retry_limit", "from 1 to 100"),
    ),
    (
        "timeout_seconds: 0\n",
        (
            3,
            18,
            "timeout_seconds",
            "expected a number of seconds from 0.001 to 604800, found the number 0",
        ),
    ),
    (
        "timeout_seconds: 604801\n",
        (3, 18, "timeout_seconds", "from 0.001 to 604800"),
    ),
];

const CONDITIONS_AND_RESULTS: &[(&str, Expected)] = &[
    (
        "  when: results.a.x == 1 && results.c == 1\n",
        (
            8,
            36,
            "step_templates[1].when",
            "the step `c` does not come before this one; expected it in `depends_on_steps`",
        ),
    ),
    (
        "  when: results.b == 1\n",
        (
            8,
            16,
            "step_templates[1].when",
            "the step `b` does not come before this one",
        ),
    ),
    (
        "  when: results.nope == 1\n",
        (8, 16, "step_templates[1].when", "there is no step `nope`"),
    ),
    (
        "  when: 'results.a.x + 1'\n",
        (
            8,
            10,
            "step_templates[1].when",
            "expected a condition, which is true or false, found a",
        ),
    ),
    (
        "  when: [true]\n",
        (
            8,
            9,
            "step_templates[1].when",
            "expected a condition (an expression in a string), found a list",
        ),
    ),
    (
        "  when: 'a ='\n",
        (
            8,
            12,
            "step_templates[1].when",
            "expected an expression in CEL",
        ),
    ),
    (
        "  result_schema: {type: strng}\n",
        (
            8,
            25,
            "step_templates[1].result_schema.type",
            "expected array, boolean",
        ),
    ),
    (
        "  result_schema: true\n",
        (
            8,
            18,
            "step_templates[1].result_schema",
            "expected a mapping (a JSON Schema)",
        ),
    ),
];

/// A template of two steps with these lines before them, from line 3 on.
fn with_lines(text: &str) -> String {
    format!(
        "name: t\nschema: {{properties: {{plan: {{}}}}}}\n{text}step_templates:\n- name: a\n  handler: h\n- name: b\n  handler: h\n"
    )
}

/// A template of three steps whose second one has these lines, from line 8 on.
fn with_lines_in_a_step(text: &str) -> String {
    format!(
        "name: t\nstep_templates:\n- name: a\n  handler: h\n- name: b\n  handler: h\n  depends_on_steps: [a]\n{text}- name: c\n  handler: h\n"
    )
}

#[test]
fn invalid_overrides_have_places_in_the_file() {
    for &(text, expected) in OVERRIDES {
        check(&with_lines(text), &[expected]);
    }
}

#[test]
fn invalid_planner_or_deadline_has_its_place_in_the_file() {
    for &(text, expected) in PLANNERS_AND_DEADLINES {
        check(&with_lines(text), &[expected]);
    }
}

#[test]
fn invalid_conditions_and_schemas_have_places_in_the_file() {
    for &(text, expected) in CONDITIONS_AND_RESULTS {
        check(&with_lines_in_a_step(text), &[expected]);
    }
}

#[test]
fn step_named_like_the_planner_has_its_place_in_the_file() {
    let taken = two_steps("planner: h\n")
        .replace("name: a,", "name: planner,")
        .replace("[a]", "[planner]");
    check(
        &taken,
        &[(
            4,
            10,
            "step_templates[0].name",
            "the step name `planner` is taken by the template's planner",
        )],
    );
}

#[test]
fn problems_of_expressions_are_reported_with_all_others() {
    let yaml = "name: t\noverrides:\n- when: contxt.x == 1\n  priority: 500\n- when: 'true && '\n  steps: {x: {}}\nstep_templates:\n- {name: a, handler: h, when: nope, depends_on_steps: [b]}\n";
    check(
        yaml,
        &[
            (3, 9, "overrides[0].when", "unknown variable `contxt`"),
            (4, 13, "overrides[0].priority", "from -100 to 100"),
            (5, 18, "overrides[1].when", "expected an expression in CEL"),
            (6, 14, "overrides[1].steps.x", "there is no step `x`"),
            (8, 31, "step_templates[0].when", "unknown variable `nope`"),
            (
                8,
                56,
                "step_templates[0].depends_on_steps[0]",
                "there is no step `b`",
            ),
        ],
    );
}

#[test]
fn values_out_of_bounds_are_refused() {
    let overrides = |count: usize| {
        two_steps(&format!(
            "overrides:\n{}",
            "- {when: true, priority: 1}\n".repeat(count)
        ))
    };
    assert_eq!(parse(&overrides(MAX_OVERRIDES)).overrides.len(), 100);
    let problems = Template::parse(&overrides(MAX_OVERRIDES + 1), "").expect_err("many");
    assert!(
        problems[0]
            .message
            .contains("the template has 101 overrides, but at most 100 are allowed"),
        "{problems:?}"
    );

    for (seconds, expected) in [("0.001", MIN_TIMEOUT), ("604800", MAX_TIMEOUT)] {
        assert_eq!(
            parse(&two_steps(&format!("timeout_seconds: {seconds}\n"))).timeout,
            Some(expected)
        );
    }
    assert_eq!(parse(&two_steps("")).timeout, None);

    let steps: String = (0..MAX_STEPS_PER_TEMPLATE - 1)
        .map(|step| format!("- {{name: s{step}, handler: h}}\n"))
        .collect();
    let with_planner = format!("name: t\nplanner: p\nstep_templates:\n{steps}");
    assert_eq!(parse(&with_planner).steps.len(), MAX_STEPS_PER_TEMPLATE);
    let problems = Template::parse(&format!("{with_planner}- {{name: x, handler: h}}\n"), "")
        .expect_err("many");
    assert!(
        problems[0].message.contains("the template has 1001 steps"),
        "{problems:?}"
    );

    let patterned = |first: usize, second: usize| {
        let schema = |tag: &str, count: usize| {
            let patterns: Vec<String> = (0..count)
                .map(|n| format!("{{pattern: '{tag}{n}'}}"))
                .collect();
            format!("{{anyOf: [{}]}}", patterns.join(", "))
        };
        format!(
            "name: t\nstep_templates:\n- {{name: a, handler: h, result_schema: {}}}\n- {{name: b, handler: h, result_schema: {}}}\n",
            schema("a", first),
            schema("b", second)
        )
    };
    parse(&patterned(100, 100));
    let problems = Template::parse(&patterned(100, 101), "").expect_err("many");
    assert!(
        problems[0]
            .message
            .contains("the schemas of a template have at most 200 patterns together"),
        "{problems:?}"
    );
}

#[test]
fn expressions_over_their_total_size_are_refused() {
    let with = |bytes: usize| {
        // Only distinct expressions count; the last one appears twice.
        let sources: Vec<String> = (0..)
            .map(|n| format!("{n:04} > 0 //{}", "x".repeat(1_024 - 11)))
            .take(bytes / 1_024)
            .collect();
        let more = format!("0 < 1 //{}", "x".repeat(bytes % 1_024));
        let whens = sources
            .iter()
            .chain((!bytes.is_multiple_of(1_024)).then_some(&more))
            .chain(sources.last());
        let steps: String = whens
            .enumerate()
            .map(|(n, when)| format!("- {{name: s{n}, handler: h, when: '{when}'}}\n"))
            .collect();
        format!("name: t\nstep_templates:\n{steps}")
    };
    assert_eq!(parse(&with(MAX_EXPRESSIONS_BYTES)).steps.len(), 65);
    let problems = Template::parse(&with(MAX_EXPRESSIONS_BYTES + 1), "").expect_err("too much");
    assert!(
        problems[0]
            .message
            .contains("the expressions of a template have at most 65536 bytes in all"),
        "{problems:?}"
    );
}

/// Reads the templates that are the most expensive to check: each cost is bounded.
#[test]
fn worst_templates_are_read_in_time() {
    let fields: String = (0..4_500)
        .map(|n| format!("{{properties: {{field{n}: {{const: {n}}}}}}}, "))
        .collect();
    let steps: String = (0..500)
        .map(|n| {
            format!("- {{name: step{n}, handler: h, when: results.stp{n} == context.feld{n}}}\n")
        })
        .collect();
    let environments: String = (0..MAX_ENVIRONMENTS)
        .map(|n| format!("  e{n}: {{timeout_seconds: {}}}\n", n + 1))
        .collect();
    for schema in [
        String::new(),
        format!("schema: {{anyOf: [{fields}]}}\n"),
        format!("schema: {{allOf: [{fields}]}}\n"),
    ] {
        let began = std::time::Instant::now();
        let yaml =
            format!("name: t\n{schema}step_templates:\n{steps}environments:\n{environments}");
        assert!(yaml.len() <= MAX_TEMPLATE_BYTES);
        assert!(Template::parse(&yaml, "e3").is_err());
        assert!(
            began.elapsed() < Duration::from_secs(10),
            "{:?}",
            began.elapsed()
        );
    }
}
