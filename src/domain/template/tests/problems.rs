//! One bad template per line of the table, with the place and the words of its problem.

use super::*;

/// Line, column, path, and a part of the message.
type Expected = (u32, u32, &'static str, &'static str);

#[track_caller]
pub(super) fn check(yaml: &str, expected: &[Expected]) {
    let problems = Template::parse(yaml, "").expect_err(yaml);
    let matches = problems.len() == expected.len()
        && problems
            .iter()
            .zip(expected)
            .all(|(problem, (line, column, path, message))| {
                (problem.line, problem.column, problem.path.as_str()) == (*line, *column, *path)
                    && problem.message.contains(message)
            });
    let list: Vec<String> = problems
        .iter()
        .map(|problem| format!("{problem} [{}]", problem.path))
        .collect();
    assert!(
        matches,
        "{yaml}\nfound:\n  {}\nexpected:\n  {expected:?}",
        list.join("\n  ")
    );
}

const STEP: &str = "step_templates:\n- name: a\n  handler_class: h\n";

#[test]
fn the_top_level() {
    let with = |text: &str| format!("{text}{STEP}");
    for (yaml, expected) in [
        (with(""), (1, 1, "", "the key `task_name` is missing")),
        (
            with("task_name: ''\n"),
            (1, 12, "task_name", "expected a name, found an empty string"),
        ),
        (
            with("task_name: 5\n"),
            (
                1,
                12,
                "task_name",
                "expected a string (in quotes), found the number 5",
            ),
        ),
        (
            with("task_name:\n"),
            (
                1,
                10,
                "task_name",
                "expected a string, found nothing (null)",
            ),
        ),
        (
            with("task_name: [t]\n"),
            (1, 12, "task_name", "expected a string, found a list"),
        ),
        (
            with("task_name: \"a\\nb\"\n"),
            (1, 12, "task_name", "must not contain control characters"),
        ),
        (
            with("task_name: ' a'\n"),
            (
                1,
                12,
                "task_name",
                "must not contain white space, found U+0020",
            ),
        ),
        (
            with("task_name: t\nname: u\n"),
            (2, 1, "name", "`task_name` and `name` are the same key"),
        ),
        (
            with("name: u\ntask_name: t\n"),
            (2, 1, "task_name", "`task_name` and `name` are the same key"),
        ),
        (
            with("name: t\nnamespace: n\nnamespace_name: n\n"),
            (3, 1, "namespace_name", "are the same key"),
        ),
        (
            with("name: t\nnamespace: ''\n"),
            (2, 12, "namespace", "found an empty string"),
        ),
        (
            with("name: t\ntask_nmae: t\n"),
            (
                2,
                1,
                "task_nmae",
                "unknown key `task_nmae`, did you mean `task_name`?",
            ),
        ),
        (
            with("name: t\nowner: me\n"),
            (
                2,
                1,
                "owner",
                "unknown key `owner`; expected one of task_name, name, namespace",
            ),
        ),
        (
            with("name: t\nversion: 1.0\n"),
            (
                2,
                10,
                "version",
                "expected a string (in quotes), found the number 1.0",
            ),
        ),
        (
            with("name: t\nversion: v1.0.0\n"),
            (
                2,
                10,
                "version",
                "expected a semantic version such as 1.4.0, found \"v1.0.0\"",
            ),
        ),
        (
            with("name: t\nversion: '1.0'\n"),
            (2, 10, "version", "expected a semantic version"),
        ),
        (
            with("name: t\ndescription: {a: b}\n"),
            (2, 14, "description", "expected a string, found a mapping"),
        ),
        (
            with("name: t\nannotations: [1]\n"),
            (2, 14, "annotations", "expected a mapping, found a list"),
        ),
        (
            "name: t\n".into(),
            (1, 1, "", "the key `step_templates` is missing"),
        ),
        (
            "name: t\nstep_templates: {}\n".into(),
            (
                2,
                17,
                "step_templates",
                "expected a list of steps, found a mapping",
            ),
        ),
        (
            "name: t\nstep_templates:\n".into(),
            (
                2,
                15,
                "step_templates",
                "expected a list of steps, found nothing",
            ),
        ),
        (
            "- a\n".into(),
            (
                1,
                1,
                "",
                "expected a mapping with `task_name` and `step_templates`, found a list",
            ),
        ),
        (
            "just words\n".into(),
            (1, 1, "", "found the string \"just words\""),
        ),
        ("".into(), (1, 1, "", "the file is empty")),
        ("# nothing\n".into(), (1, 1, "", "the file is empty")),
        ("---\n".into(), (1, 4, "", "found nothing (null)")),
    ] {
        check(&yaml, &[expected]);
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn steps() {
    let with = |text: &str| format!("name: t\nstep_templates:\n- name: a\n  handler: h\n{text}");
    for (yaml, expected) in [
        (
            with("- b\n"),
            (
                5,
                3,
                "step_templates[1]",
                "expected a step (a mapping with `name` and `handler_class`), found the string \"b\"",
            ),
        ),
        (
            with("-\n"),
            (
                5,
                2,
                "step_templates[1]",
                "expected a step (a mapping with `name` and `handler_class`), found nothing",
            ),
        ),
        (
            with("- handler: h\n"),
            (5, 3, "step_templates[1]", "the key `name` is missing"),
        ),
        (
            with("-\n  name: b\n"),
            (
                6,
                3,
                "step_templates[1]",
                "the key `handler_class` is missing",
            ),
        ),
        (
            with("- {name: a, handler: h}\n"),
            (
                5,
                10,
                "step_templates[1].name",
                "the step name `a` is already used on line 3",
            ),
        ),
        (
            with("- {name: a/b, handler: h}\n"),
            (
                5,
                10,
                "step_templates[1].name",
                "the name must not contain `/`",
            ),
        ),
        (
            with("- {name: \"a\\u007f\", handler: h}\n"),
            (
                5,
                10,
                "step_templates[1].name",
                "must not contain control characters",
            ),
        ),
        (
            with("- {name: b, handler: ''}\n"),
            (5, 22, "step_templates[1].handler", "found an empty string"),
        ),
        (
            with("- {name: b, handler: h, handler_class: h}\n"),
            (5, 25, "step_templates[1].handler_class", "are the same key"),
        ),
        (
            with("- {name: b, handler: h, description: 1}\n"),
            (
                5,
                38,
                "step_templates[1].description",
                "expected a string (in quotes)",
            ),
        ),
        (
            with("  retry_limit: 5\n"),
            (
                5,
                3,
                "step_templates[0].retry_limit",
                "did you mean `default_retry_limit`?",
            ),
        ),
        (
            with("  depends_on: []\n"),
            (
                5,
                3,
                "step_templates[0].depends_on",
                "did you mean `depends_on_step",
            ),
        ),
        (
            with("  planner: p\n"),
            (
                5,
                3,
                "step_templates[0].planner",
                "unknown key `planner`; expected one of name, description",
            ),
        ),
        (
            with("  default_retryable: yes\n"),
            (
                5,
                22,
                "step_templates[0].default_retryable",
                "expected true or false, found the string \"yes\"",
            ),
        ),
        (
            with("  default_retry_limit: 0\n"),
            (
                5,
                24,
                "step_templates[0].default_retry_limit",
                "expected a whole number from 1 to 100, found the number 0",
            ),
        ),
        (
            with("  handler_config: s\n"),
            (
                5,
                19,
                "step_templates[0].handler_config",
                "expected a mapping, found the string \"s\"",
            ),
        ),
        (
            with("  handler_config:\n    service: ''\n"),
            (
                6,
                14,
                "step_templates[0].handler_config.service",
                "found an empty string",
            ),
        ),
        (
            with("  handler_config:\n    timeout_seconds: 0\n"),
            (
                6,
                22,
                "step_templates[0].handler_config.timeout_seconds",
                "from 0.001 to 604800, found the number 0",
            ),
        ),
        (
            with("  backoff: 5\n"),
            (
                5,
                12,
                "step_templates[0].backoff",
                "expected a mapping, found the number 5",
            ),
        ),
        (
            with("  backoff:\n    base: 5\n"),
            (
                6,
                5,
                "step_templates[0].backoff.base",
                "unknown key `base`; expected one of base_seconds",
            ),
        ),
        (
            with("  annotations: x\n"),
            (5, 16, "step_templates[0].annotations", "expected a mapping"),
        ),
        (
            with("  depends_on_steps: b\n"),
            (
                5,
                21,
                "step_templates[0].depends_on_steps",
                "expected a list of step names, found the string \"b\"",
            ),
        ),
        (
            with("  depends_on_steps: [1]\n"),
            (
                5,
                22,
                "step_templates[0].depends_on_steps[0]",
                "expected a string (in quotes)",
            ),
        ),
        (
            with("  depends_on_steps:\n  - b\n"),
            (
                6,
                5,
                "step_templates[0].depends_on_steps[0]",
                "there is no step `b`",
            ),
        ),
        (
            with("  depends_on_step: [a]\n"),
            (
                5,
                20,
                "step_templates[0].depends_on_step",
                "expected a string, found a list",
            ),
        ),
        (
            with("  depends_on_steps: []\n  depends_on_step: a\n"),
            (
                6,
                3,
                "step_templates[0].depends_on_step",
                "are the same key",
            ),
        ),
        (
            with("  depends_on_steps: [a]\n"),
            (
                5,
                22,
                "step_templates[0].depends_on_steps[0]",
                "the step waits for itself: a → a",
            ),
        ),
        (
            with("- {name: b, handler: h, depends_on_steps: [a, a]}\n"),
            (
                5,
                47,
                "step_templates[1].depends_on_steps[1]",
                "the step `a` is listed twice",
            ),
        ),
    ] {
        check(&yaml, &[expected]);
    }
}

#[test]
fn dependencies_are_named() {
    let yaml = "name: t\nstep_templates:\n- {name: alpha, handler: h, depends_on_steps: [gamma]}\n\
                - {name: beta, handler: h, depends_on_steps: [alpha]}\n- {name: gamma, handler: h, depends_on_steps: [beta, alhpa]}\n\
                - {name: delta, handler: h, depends_on_step: delta}\n";
    check(
        yaml,
        &[
            (
                3,
                48,
                "step_templates[0].depends_on_steps[0]",
                "in a cycle: alpha → gamma → beta → alpha",
            ),
            (
                5,
                54,
                "step_templates[2].depends_on_steps[1]",
                "there is no step `alhpa`, did you mean `alpha`?",
            ),
            (
                6,
                46,
                "step_templates[3].depends_on_step",
                "the step waits for itself: delta → delta",
            ),
        ],
    );
}

#[test]
fn yaml_itself() {
    let with = |text: &str| format!("name: t\n{text}{STEP}");
    for (yaml, expected) in [
        (
            with("name: u\n"),
            (2, 1, "name", "the key appears twice in the same mapping"),
        ),
        (
            with("description: !!str x\n"),
            (2, 14, "description", "the tag `!!str` is not allowed"),
        ),
        (
            with("annotations: !x {}\n"),
            (2, 14, "annotations", "the tag `!x` is not allowed"),
        ),
        (
            with("annotations: {a: !<tag:x> 1}\n"),
            (2, 18, "annotations.a", "the tag `!<tag:x>` is not allowed"),
        ),
        (
            with("annotations: {1: x}\n"),
            (
                2,
                15,
                "annotations",
                "a key must be a string, but this is the number 1",
            ),
        ),
        (
            with("annotations: {true: x}\n"),
            (
                2,
                15,
                "annotations",
                "a key must be a string, but this is the boolean true",
            ),
        ),
        (
            with("annotations: {~: x}\n"),
            (
                2,
                15,
                "annotations",
                "a key must be a string, but this is nothing (null)",
            ),
        ),
        (
            with("annotations: {[a]: x}\n"),
            (
                2,
                15,
                "annotations",
                "a key must be a string, but this is a list",
            ),
        ),
        (
            with("annotations: {? {a: b} : x}\n"),
            (
                2,
                17,
                "annotations",
                "a key must be a string, but this is a mapping",
            ),
        ),
        (
            with("annotations: &a {<<: x}\n"),
            (
                2,
                22,
                "annotations[\"<<\"]",
                "expected a mapping to merge, or a list of mappings, found the string \"x\"",
            ),
        ),
        (
            with("annotations: {a: .inf}\n"),
            (2, 18, "annotations.a", "JSON has no number .inf"),
        ),
        (
            with("annotations: {a: [1, .NaN]}\n"),
            (2, 22, "annotations.a[1]", "JSON has no number .NaN"),
        ),
        (
            with("annotations: {a: 1e9999}\n"),
            (
                2,
                18,
                "annotations.a",
                "the number has more than 4096 digits",
            ),
        ),
        (
            with("annotations: {a: \"x\\0\"}\n"),
            (
                2,
                18,
                "annotations.a",
                "a string must not contain the NUL character",
            ),
        ),
        (
            with("annotations: {\"x\\0\": 1}\n"),
            (
                2,
                15,
                "annotations",
                "a string must not contain the NUL character",
            ),
        ),
        (
            with("annotations: {a: &a [*a]}\n"),
            (
                2,
                22,
                "annotations.a[0]",
                "this alias stands inside the value it refers to",
            ),
        ),
        (
            with("annotations: {a: *b}\n"),
            (2, 18, "annotations.a", "the YAML is broken: "),
        ),
        (
            with("annotations: {a: [}\n"),
            (2, 18, "annotations.a[0]", "the YAML is broken: "),
        ),
        (
            with("description: \"x\n"),
            (2, 14, "description", "the YAML is broken: "),
        ),
        (with("  x: y\n"), (2, 4, "", "the YAML is broken: ")),
        (
            with("description: x\0y\n"),
            (2, 15, "", "the file contains a NUL character"),
        ),
        (
            format!("%YAML 1.1\n---\n{}", with("")),
            (2, 1, "", "the file calls itself YAML 1.1; expected 1.2"),
        ),
        (
            with("") + "---\nname: u\n",
            (5, 1, "", "a second document begins here"),
        ),
        (
            with("") + "...\n---\n",
            (6, 1, "", "a second document begins here"),
        ),
    ] {
        check(&yaml, &[expected]);
    }
}

#[test]
fn schemas_are_placed_in_the_file() {
    let with = |text: &str| format!("name: t\nschema:\n{text}{STEP}");
    for (yaml, expected) in [
        (
            "name: t\nschema: true\n".to_owned() + STEP,
            (
                2,
                9,
                "schema",
                "expected a mapping (a JSON Schema), found the boolean true",
            ),
        ),
        (
            with("  type: array\n"),
            (
                3,
                9,
                "schema.type",
                "a context is a JSON object, so this schema accepts none",
            ),
        ),
        (
            with("  $schema: http://example.com/x\n"),
            (
                3,
                12,
                "schema.$schema",
                "expected the URI of a JSON Schema draft",
            ),
        ),
        (
            with("  properties:\n    a:\n      type: strin\n"),
            (5, 13, "schema.properties.a.type", "expected array, boolean"),
        ),
        (
            with("  properties:\n    a b: {minLength: -1}\n"),
            (
                4,
                22,
                "schema.properties[\"a b\"].minLength",
                "less than the minimum",
            ),
        ),
        (
            with("  properties:\n    a: {pattern: '('}\n"),
            (
                4,
                18,
                "schema.properties.a.pattern",
                "expected a regular expression",
            ),
        ),
        (
            with("  allOf:\n  - {}\n  - $ref: 'http://x/y'\n"),
            (5, 11, "schema.allOf[1].$ref", "nothing is fetched"),
        ),
        (
            with("  requird: [a]\n"),
            (
                3,
                12,
                "schema.requird",
                "unknown keyword `requird`, did you mean `required`?",
            ),
        ),
        (
            with("  properties:\n    a: {type: integer, default: x}\n"),
            (
                4,
                33,
                "schema.properties.a.default",
                "the default does not fit: \"x\" is not of type",
            ),
        ),
    ] {
        check(&yaml, &[expected]);
    }
}

#[test]
fn all_problems_come_at_once_in_order() {
    let yaml = "name: ''\nversion: one\nschema: {type: 5}\nstep_templates:\n- {name: b, handler_config: {timeout_seconds: x}}\n- {name: b, handler: h, zork: 1}\nlater: 1\n";
    check(
        yaml,
        &[
            (1, 7, "name", "empty string"),
            (2, 10, "version", "semantic version"),
            (3, 16, "schema.type", "expected array"),
            (5, 3, "step_templates[0]", "`handler_class` is missing"),
            (
                5,
                47,
                "step_templates[0].handler_config.timeout_seconds",
                "expected a number of seconds",
            ),
            (6, 10, "step_templates[1].name", "already used on line 5"),
            (6, 25, "step_templates[1].zork", "unknown key `zork`"),
            (7, 1, "later", "unknown key `later`"),
        ],
    );
}

#[test]
fn what_stands_before_broken_yaml_is_still_told() {
    check(
        "name: !x t\nname: u\nb: [\n",
        &[
            (1, 7, "name", "the tag `!x`"),
            (2, 1, "name", "appears twice"),
            (3, 4, "b[0]", "the YAML is broken"),
        ],
    );
}

#[test]
fn aliases_are_placed_where_they_are_used() {
    let yaml = "name: t\nannotations: {list: &l [1], map: &m {name: x}}\nstep_templates:\n- {name: a, handler: h, depends_on_steps: *l, backoff: *m}\n- *m\n";
    check(
        yaml,
        &[
            (
                2,
                25,
                "step_templates[0].depends_on_steps[0]",
                "expected a string",
            ),
            (2, 38, "step_templates[0].backoff.name", "unknown key"),
            (
                5,
                3,
                "step_templates[1]",
                "the key `handler_class` is missing",
            ),
        ],
    );
}

#[test]
fn columns_count_characters() {
    check(
        &format!("name: t\nannotations: {{'éé😀': .inf}}\n{STEP}"),
        &[(2, 22, "annotations[\"éé😀\"]", "JSON has no number")],
    );
    check(
        &format!("\u{feff}name: ''\n{STEP}"),
        &[(1, 7, "name", "empty string")],
    );
    check(
        &format!("name: t\r\nversion: x\r\n{STEP}"),
        &[(2, 10, "version", "semantic version")],
    );
}
